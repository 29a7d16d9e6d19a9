// Who is signed in, and the way out.

import { signOut } from "@/app/actions";
import { Avatar } from "./avatar";

export function Account({ name, role, teamName }: { name: string; role: string; teamName: string }) {
  return (
    <>
      <button className="account-button" type="button" popoverTarget="account" aria-label={`Account of ${name}`}>
        <Avatar name={name} size="medium" />
      </button>
      <section id="account" className="popover account-menu" popover="auto" aria-label="Account">
        <Avatar name={name} size="large" />
        <p>
          <strong>{name}</strong>
          <small>
            {role}, team {teamName}
          </small>
        </p>
        <form action={signOut}>
          <button className="button" type="submit">
            Sign out
          </button>
        </form>
      </section>
    </>
  );
}
