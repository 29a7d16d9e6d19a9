// A person's own notifications behind the bell. Nobody else gets them: they are addressed to the user, not the team.

import { useEffect, useState, type ToggleEvent } from "react";

import type { Notification } from "@/model/events";
import { BellIcon, StateIcon } from "./icons";
import { ago } from "./times";

export function Inbox({ notifications, now }: { notifications: Notification[]; now: number }) {
  const [seen, setSeen] = useState<ReadonlySet<string>>(() => new Set(notifications.map(({ id }) => id)));
  const [open, setOpen] = useState(false);
  const unread = open ? 0 : notifications.filter(({ id }) => !seen.has(id)).length;

  useEffect(() => {
    if (open) setSeen(new Set(notifications.map(({ id }) => id)));
  }, [open, notifications]);

  return (
    <>
      <button className="icon-button" type="button" popoverTarget="inbox" aria-label={`Your notifications, ${unread} new`}>
        <BellIcon />
        {unread > 0 && (
          <span className="badge" aria-hidden="true">
            {unread}
          </span>
        )}
      </button>
      <section
        id="inbox"
        className="popover"
        popover="auto"
        tabIndex={0}
        aria-label="Your notifications"
        onToggle={(event: ToggleEvent) => setOpen(event.newState === "open")}
      >
        <h2>Only for you</h2>
        {notifications.length === 0 ? (
          <p className="empty">When a job that you started ends, you are told here. Nobody else is.</p>
        ) : (
          <ul className="inbox">
            {notifications.map((notification) => (
              <li key={notification.id} className={`outcome-${notification.outcome}`}>
                <StateIcon state={notification.outcome} />
                <p>
                  {notification.text}
                  <small>
                    #{notification.jobId} · {ago(notification.at, now)}
                  </small>
                </p>
              </li>
            ))}
          </ul>
        )}
      </section>
    </>
  );
}
