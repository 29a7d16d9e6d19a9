// What the team was told, and a line to tell it something.

import { useId, useState, type FormEvent } from "react";

import type { Notice } from "@/model/events";
import { Avatar } from "./avatar";
import { SendIcon } from "./icons";
import { ago } from "./times";

interface Props {
  notices: Notice[];
  teamName: string;
  now: number;
  onSend(text: string): void;
}

const SHOWN = 8;

export function Notices({ notices, teamName, now, onSend }: Props) {
  const [text, setText] = useState("");
  const id = useId();

  function submit(event: FormEvent) {
    event.preventDefault();
    if (text.trim() === "") return;
    onSend(text.trim());
    setText("");
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
