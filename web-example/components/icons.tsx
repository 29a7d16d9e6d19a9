// The icons, drawn here: 20 by 20, one stroke. They are decoration; words beside them say what they mean.

import type { ReactNode } from "react";

import type { JobState, KindId } from "@/model/events";
import type { Theme } from "@/model/theme";

function Icon({ children }: { children: ReactNode }) {
  return (
    <svg className="icon" viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      {children}
    </svg>
  );
}

export function Wordmark() {
  return (
    <span className="wordmark">
      <svg viewBox="0 0 32 32" aria-hidden="true" focusable="false">
        <rect className="wordmark-ground" width="32" height="32" rx="9" />
        <path className="wordmark-way" d="M7 22h7.5L25 11.5" />
        <circle className="wordmark-ship" cx="10.5" cy="12.5" r="3" />
      </svg>
      Slipway
    </span>
  );
}

export const ArrowIcon = () => (
  <Icon>
    <path d="M4.5 10h11M11 5.5l4.5 4.5-4.5 4.5" />
  </Icon>
);

export const BellIcon = () => (
  <Icon>
    <path d="M5.5 8.5a4.5 4.5 0 0 1 9 0c0 4 1.5 5 1.5 5H4s1.5-1 1.5-5ZM8.3 16.5a2 2 0 0 0 3.4 0" />
  </Icon>
);

export const PlayIcon = () => (
  <Icon>
    <path className="filled" d="M6.5 4.8v10.4a.6.6 0 0 0 .9.5l8.4-5.2a.6.6 0 0 0 0-1L7.4 4.3a.6.6 0 0 0-.9.5Z" />
  </Icon>
);

export const RetryIcon = () => (
  <Icon>
    <path d="M15.5 10a5.5 5.5 0 1 1-1.7-4M15.5 3v3.5H12" />
  </Icon>
);

export const CutIcon = () => (
  <Icon>
    <path d="M3 6.5h4.5a2 2 0 0 1 2 2M17 13.5h-4.5a2 2 0 0 1-2-2M12 4.5l1-2M14.5 7.5l2.3-.6M8 15.5l-1 2M5.5 12.5l-2.3.6" />
  </Icon>
);

export const CrossIcon = () => (
  <Icon>
    <path d="M5.5 5.5l9 9M14.5 5.5l-9 9" />
  </Icon>
);

export const SendIcon = () => (
  <Icon>
    <path d="M10 16V4.5M5.5 9 10 4.5 14.5 9" />
  </Icon>
);

export function ThemeIcon({ theme }: { theme: Theme }) {
  return (
    <Icon>
      {theme === "system" && (
        <>
          <circle cx="10" cy="10" r="6.5" />
          <path className="filled" d="M10 3.5a6.5 6.5 0 0 1 0 13Z" />
        </>
      )}
      {theme === "light" && (
        <>
          <circle cx="10" cy="10" r="3.5" />
          <path d="M10 2.5v1M10 16.5v1M2.5 10h1M16.5 10h1M4.7 4.7l.7.7M14.6 14.6l.7.7M4.7 15.3l.7-.7M14.6 5.4l.7-.7" />
        </>
      )}
      {theme === "dark" && <path d="M16.5 11.7A6.8 6.8 0 0 1 8.3 3.5a6.8 6.8 0 1 0 8.2 8.2Z" />}
    </Icon>
  );
}

export function StateIcon({ state }: { state: JobState }) {
  return (
    <Icon>
      {state === "queued" && <circle cx="10" cy="10" r="6.5" strokeDasharray="2.5 2.6" />}
      {state === "running" && <path d="M10 3.5a6.5 6.5 0 1 0 6.5 6.5" />}
      {state === "done" && (
        <>
          <circle className="filled" cx="10" cy="10" r="7.25" />
          <path className="cut-out" d="M6.8 10.2l2.3 2.3 4.2-4.7" />
        </>
      )}
      {state === "failed" && (
        <>
          <circle className="filled" cx="10" cy="10" r="7.25" />
          <path className="cut-out" d="M10 6.3v4.2M10 13.4v.1" />
        </>
      )}
    </Icon>
  );
}

const KIND_PATHS: Record<KindId, string> = {
  build: "M10 2.8l6.3 3.6v7.2L10 17.2l-6.3-3.6V6.4ZM3.9 6.5 10 10l6.1-3.5M10 10v7",
  report: "M5 2.8h6.5L15.5 7v10.2H5ZM11.2 3v4.2h4.2M7.8 13.8v-2M10.2 13.8v-4M12.6 13.8v-1",
  video: "M2.8 5.5h10v9h-10ZM12.8 9l4.4-2.5v7L12.8 11",
  backup: "M3.8 5.5c0-1.4 2.8-2.5 6.2-2.5s6.2 1.1 6.2 2.5S13.4 8 10 8 3.8 6.9 3.8 5.5ZM3.8 5.5v9c0 1.4 2.8 2.5 6.2 2.5s6.2-1.1 6.2-2.5v-9M3.8 10c0 1.4 2.8 2.5 6.2 2.5s6.2-1.1 6.2-2.5",
  feed: "M10 2.8v9M6.3 8.3 10 12l3.7-3.7M3.5 13.5v3.3h13v-3.3",
};

export const KindIcon = ({ kind }: { kind: KindId }) => (
  <Icon>
    <path d={KIND_PATHS[kind]} />
  </Icon>
);
