/** The job board as a person sees it: found by what stands on it, not by how it is made. */
import { type JSHandle, type Locator, type Page } from "@playwright/test";

import { expect } from "./fixtures";
import { type Site } from "./site";

export class Board {
  constructor(readonly page: Page) {}

  /** Opens the example and signs somebody in. */
  static async signIn(page: Page, site: Site, person: string, team: string): Promise<Board> {
    await page.goto(site.origin);
    await page.getByRole("button", { name: `Sign in as ${person}, team ${team}` }).click();
    await expect(page.getByRole("heading", { level: 1, name: `Team ${team}` })).toBeVisible();
    const board = new Board(page);
    await board.isLive();
    return board;
  }

  get connection(): Locator {
    return this.page.getByRole("region", { name: "Connection" });
  }

  get inbox(): Locator {
    return this.page.getByRole("button", { name: /^Your notifications, \d+ new$/ });
  }

  column(name: "Queued" | "Running" | "Finished"): Locator {
    return this.page.getByRole("region", { name: new RegExp(`^${name}`) });
  }

  /** A job's card, wherever it is. */
  job(number: number): Locator {
    return this.page.getByRole("article", { name: new RegExp(`#${number}$`) });
  }

  /** Its card, once it has ended. */
  finished(number: number): Locator {
    return this.column("Finished").getByRole("article", { name: new RegExp(`#${number}$`) });
  }

  async isLive(): Promise<void> {
    await expect(this.connection.getByText("Live", { exact: true })).toBeVisible();
  }

  /** A figure of the connection panel. */
  async figure(name: string): Promise<string> {
    const term = this.connection.getByRole("term").filter({ hasText: name });
    return (await term.locator("xpath=following-sibling::dd[1]").textContent()) ?? "";
  }

  /** How far a running job is said to be, at each change from now on; to be read when it has ended. */
  progressOf(number: number): Promise<JSHandle<number[]>> {
    return this.job(number)
      .getByRole("progressbar")
      .evaluateHandle((bar) => {
        const now = () => Number(bar.getAttribute("aria-valuenow"));
        const seen = [now()];
        new MutationObserver(() => seen.push(now())).observe(bar, { attributeFilter: ["aria-valuenow"] });
        return seen;
      });
  }

  /** Starts a job, and gives its number. */
  async startJob(kind: string): Promise<number> {
    const before = await this.highestJob();
    await this.page.getByLabel("Kind of job").selectOption({ label: kind });
    await this.page.getByRole("button", { name: "Start job" }).click();
    await expect.poll(() => this.highestJob()).toBe(before + 1);
    return before + 1;
  }

  private async highestJob(): Promise<number> {
    const numbers = await this.page.locator(".job-number").allTextContents();
    return Math.max(0, ...numbers.map((text) => Number(text.replace("#", ""))));
  }
}
