// Goes from the system's theme to light to dark and back, and remembers it in a cookie for the next first paint.

"use client";

import { useState } from "react";

import { THEMES, type Theme } from "@/model/theme";
import { ThemeIcon } from "./icons";

const YEAR = 365 * 24 * 60 * 60;

export function ThemeToggle({ initial }: { initial: Theme }) {
  const [theme, setTheme] = useState(initial);
  const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] ?? "system";

  function choose() {
    document.documentElement.dataset.theme = next;
    document.cookie = `theme=${next}; path=/; max-age=${YEAR}; samesite=lax`;
    setTheme(next);
  }

  return (
    <button className="icon-button" type="button" onClick={choose} aria-label={`Theme: ${theme}. Change to ${next}`} title={`Theme: ${theme}`}>
      <ThemeIcon theme={theme} />
    </button>
  );
}
