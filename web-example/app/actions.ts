// Signing in and out. Forms post here, with or without JavaScript; Next.js checks that they are of this origin.

"use server";

import { redirect } from "next/navigation";

import { member } from "@/server/accounts";
import { postNotice } from "@/server/board";
import { beginSession, endSession } from "@/server/session";

export async function signIn(form: FormData): Promise<void> {
  const found = member(String(form.get("team")), String(form.get("user")));
  if (!found) redirect("/sign-in");
  await beginSession(found);
  postNotice(found.team, "Slipway", `${found.person.name} signed in`);
  redirect("/");
}

export async function signOut(): Promise<void> {
  await endSession();
  redirect("/sign-in");
}
