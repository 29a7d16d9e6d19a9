// The theme that a person chose, in a cookie, so that the first paint has it already.

import "server-only";

import { cookies } from "next/headers";

import { isTheme, type Theme } from "@/model/theme";

export async function currentTheme(): Promise<Theme> {
  const value = (await cookies()).get("theme")?.value;
  return isTheme(value) ? value : "system";
}
