// The board of whoever is signed in, with its state already in the page.

import { headers } from "next/headers";
import { redirect } from "next/navigation";
import type { Metadata } from "next";

import { BoardPage } from "@/components/board-page";
import { snapshot } from "@/server/board";
import { first } from "@/server/forwarded";
import { currentSession } from "@/server/session";
import { settings } from "@/server/settings";
import { currentTheme } from "@/server/theme";

export async function generateMetadata(): Promise<Metadata> {
  const session = await currentSession();
  return session ? { title: session.team.name } : {};
}

export default async function Page() {
  const session = await currentSession();
  if (!session) redirect("/sign-in");
  const { person, team } = session;
  return (
    <BoardPage
      key={`${team.id} ${person.id}`}
      person={person}
      team={{ id: team.id, name: team.name }}
      initial={snapshot(team.id, person.id)}
      serverTime={Date.now()}
      directUrl={await directUrl()}
      theme={await currentTheme()}
    />
  );
}

/** Where the browser reaches the bridge itself. */
async function directUrl(): Promise<string> {
  const { bridgeUrl, bridgePublicUrl } = settings();
  if (bridgePublicUrl) return new URL("/events", bridgePublicUrl).href;
  const asked = await headers();
  // After a sign-in Next.js asks itself for this page: `Host` is its own then, and the browser's is the forwarded one.
  const host = first(asked.get("x-forwarded-host")) ?? asked.get("host") ?? "localhost";
  const url = new URL("/events", bridgeUrl);
  url.hostname = new URL(`http://${host}`).hostname;
  return url.href;
}
