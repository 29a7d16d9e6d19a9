// What the team was told, and a line to tell it something.

import { useId, useRef, useState, type FormEvent } from "react";

import type { Notice } from "@/model/events";
import { Avatar } from "./avatar";
import { SendIcon } from "./icons";
import { ago } from "./times";

interface Props {
  notices: Notice[];
  teamName: string;
  now: number;
  /** Whether it was taken. */
  onSend(text: string): Promise<boolean>;
}

const SHOWN = 8;

export function Notices({ notices, teamName, now, onSend }: Props) {
  const [text, setText] = useState("");
  const isSending = useRef(false);
  const id = useId();

  async function submit(event: FormEvent) {
    event.preventDefault();
    if (text.trim() === "" || isSending.current) return;
    isSending.current = true;
    const taken = await onSend(text.trim());
    isSending.current = false;
    // What was not taken stays, to be sent again, and so does what was typed meanwhile.
    if (taken) setText((now) => (now === text ? "" : now));
  }

  return (
    <section className="panel" aria-labelledby={`${id}-title`}>
      <h2 id={`${id}-title`}>Notices</h2>
      <form className="say" onSubmit={submit}>
        <label className="unseen" htmlFor={id}>
          Tell team {teamName}
        </label>
        <input id={id} value={text} onChange={(event) => setText(event.target.value)} maxLength={200} placeholder={`Tell team ${teamName}…`} autoComplete="off" />
        <button className="icon-button" type="submit" aria-label="Send notice">
          <SendIcon />
        </button>
      </form>
      <ul className="notices" aria-live="polite" aria-relevant="additions">
        {notices.slice(0, SHOWN).map((notice) => (
          <li key={notice.revision}>
            <Avatar name={notice.from} />
            <p>
              <span className="notice-from">{notice.from}</span>
              <span className="notice-at">{ago(notice.at, now)}</span>
              <span className="notice-text">{notice.text}</span>
            </p>
          </li>
        ))}
      </ul>
    </section>
  );
}
