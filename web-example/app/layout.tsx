// The document around every page: language, theme, styles. No font and no other asset comes from elsewhere.

import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/parts.css";

import type { Metadata, Viewport } from "next";
import type { ReactNode } from "react";

import { currentTheme } from "@/server/theme";

export const metadata: Metadata = {
  title: { default: "Slipway", template: "%s · Slipway" },
  description: "A team's job board that lives on events of sse-bridge.",
};

export const viewport: Viewport = {
  colorScheme: "light dark",
  themeColor: [
    { media: "(prefers-color-scheme: light)", color: "#f6f5f1" },
    { media: "(prefers-color-scheme: dark)", color: "#11100e" },
  ],
};

export default async function RootLayout({ children }: { children: ReactNode }) {
  return (
    <html lang="en" data-theme={await currentTheme()} data-scroll-behavior="smooth">
      <body>{children}</body>
    </html>
  );
}
