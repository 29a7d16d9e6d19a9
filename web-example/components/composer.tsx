// Starts jobs.

import { useId, useState, type FormEvent } from "react";

import { KINDS, type KindId } from "@/model/events";
import { PlayIcon } from "./icons";

export function Composer({ onStart }: { onStart(kind: KindId, count: number): void }) {
  const [kind, setKind] = useState<KindId>("build");
  const id = useId();

  function submit(event: FormEvent) {
    event.preventDefault();
    onStart(kind, 1);
  }

  return (
    <form className="composer" onSubmit={submit}>
      <label className="unseen" htmlFor={id}>
        Kind of job
      </label>
      <select id={id} value={kind} onChange={(event) => setKind(event.target.value as KindId)}>
        {Object.entries(KINDS).map(([id, { title }]) => (
          <option key={id} value={id}>
            {title}
          </option>
        ))}
      </select>
      <button className="button primary" type="submit">
        <PlayIcon />
        Start job
      </button>
      <button className="button" type="button" onClick={() => onStart(kind, 5)}>
        Start 5
      </button>
    </form>
  );
}
