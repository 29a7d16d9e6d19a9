/** What a machine can find of what keeps people out: axe-core's rules. */
import { AxeBuilder } from "@axe-core/playwright";
import { type Page } from "@playwright/test";

import { expect } from "./fixtures";

/** Finds nothing serious and nothing critical on the page as it stands. */
export async function expectAccessible(page: Page): Promise<void> {
  const { violations } = await new AxeBuilder({ page }).analyze();
  const grave = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  const told = grave.map(({ id, help, nodes }) => `${id}: ${help}\n${nodes.map(({ html }) => `  ${html}`).join("\n")}`);
  expect(told, page.url()).toEqual([]);
}

/**
 * The page can be read without scrolling sideways, and nothing sticks out at the sides of the part that it stands in, unless that
 * part scrolls or cuts it off: as it is, and with text a quarter larger, as wider fonts and other people have it. A negative
 * margin says that it is on purpose: a button's target may be larger than what is seen of it.
 */
export async function expectToFitTheWidth(page: Page): Promise<void> {
  for (const size of ["", "125%"]) {
    expect(await page.evaluate(tooWide, size), `what is too wide with text at ${size || "its usual size"}`).toEqual([]);
  }
}

/** Runs on the page. */
function tooWide(fontSize: string): string[] {
  const root = document.documentElement;
  root.style.fontSize = fontSize;
  const out = new Set<string>();
  if (root.scrollWidth > root.clientWidth) out.add(`the page, by ${root.scrollWidth - root.clientWidth} px`);
  for (const part of document.querySelectorAll("body, body *:not(svg, svg *)")) {
    const { display, overflowX } = getComputedStyle(part);
    if (!["block", "grid", "flex", "list-item"].includes(display) || overflowX !== "visible" || !part.checkVisibility()) continue;
    const edges = part.getBoundingClientRect();
    for (const child of part.children) {
      const { left, right, width } = child.getBoundingClientRect();
      const { position, marginLeft, marginRight } = getComputedStyle(child);
      const isInFlow = width > 1 && ["static", "relative", "sticky"].includes(position);
      const [start, end] = [left - Math.min(0, parseFloat(marginLeft)), right + Math.min(0, parseFloat(marginRight))];
      if (isInFlow && (start < edges.left - 1 || end > edges.right + 1)) out.add(`${child.className || child.tagName} out of ${part.className || part.tagName}`);
    }
  }
  root.style.fontSize = "";
  return [...out];
}

/** Goes on with Tab, and gives the name of what has the focus then, which must be seen to have it. */
export async function tab(page: Page): Promise<string> {
  await page.keyboard.press("Tab");
  const focused = await page.evaluate(() => {
    const element = document.activeElement;
    if (!(element instanceof HTMLElement) || element === document.body) return { name: "", isSeen: true };
    const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(element);
    const isSeen = (outlineStyle !== "none" && outlineWidth !== "0px") || boxShadow !== "none";
    const labels = (element as HTMLInputElement).labels ?? [];
    const name = element.getAttribute("aria-label") ?? labels[0]?.textContent ?? element.textContent ?? "";
    return { name: name.trim(), isSeen };
  });
  expect(focused.isSeen, `the focus on "${focused.name}" can be seen`).toBe(true);
  return focused.name;
}

/** Goes on with Tab until something with this name has the focus. */
export async function tabTo(page: Page, name: RegExp): Promise<void> {
  const passed: string[] = [];
  while (passed.length < 60) {
    const focused = await tab(page);
    if (name.test(focused)) return;
    passed.push(focused);
  }
  throw new Error(`no ${name} among ${passed.join(", ")}`);
}
