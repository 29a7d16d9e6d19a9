// Somebody's initials, in a colour that is always theirs.

const HUES = [16, 158, 262, 205, 330, 90];

export function Avatar({ name, size = "small" }: { name: string; size?: "small" | "medium" | "large" }) {
  const initials = name.split(" ").map((word) => word[0]).slice(0, 2).join("");
  const sum = [...name].reduce((sum, letter) => sum + (letter.codePointAt(0) ?? 0), 0);
  return (
    <span className={`avatar avatar-${size}`} style={{ "--hue": HUES[sum % HUES.length] } as React.CSSProperties} aria-hidden="true">
      {initials}
    </span>
  );
}
