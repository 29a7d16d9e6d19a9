// Who would you like to be? Each account is a form of its own, so that it works before any script has come.

import type { Metadata } from "next";

import { signIn } from "@/app/actions";
import { Avatar } from "@/components/avatar";
import { ArrowIcon, Wordmark } from "@/components/icons";
import { ThemeToggle } from "@/components/theme-toggle";
import { TEAMS } from "@/server/accounts";
import { currentTheme } from "@/server/theme";

export const metadata: Metadata = { title: "Sign in" };

export default async function SignIn() {
  return (
    <div className="sign-in">
      <header className="sign-in-bar">
        <Wordmark />
        <ThemeToggle initial={await currentTheme()} />
      </header>
      <main className="sign-in-main">
        <h1>Watch the work move</h1>
        <p className="lede">
          A team’s job board that lives on events of <strong>sse-bridge</strong>. Pick somebody to sign in as: this is a demo, so
          there are no passwords.
        </p>
        <div className="teams">
          {TEAMS.map((team) => (
            <section key={team.id} className="team" aria-labelledby={`team-${team.id}`}>
              <header>
                <h2 id={`team-${team.id}`}>Team {team.name}</h2>
                <p>{team.about}</p>
              </header>
              <ul>
                {team.members.map((person) => (
                  <li key={person.id}>
                    <form action={signIn}>
                      <input type="hidden" name="team" value={team.id} />
                      <input type="hidden" name="user" value={person.id} />
                      <button className="account" type="submit" aria-label={`Sign in as ${person.name}, team ${team.name}`}>
                        <Avatar name={person.name} size="large" />
                        <span className="account-name">
                          <strong>{person.name}</strong>
                          <small>{person.role}</small>
                        </span>
                        <ArrowIcon />
                      </button>
                    </form>
                  </li>
                ))}
              </ul>
            </section>
          ))}
        </div>
        <h2 className="unseen">What to try</h2>
        <ol className="tries">
          <li>
            <strong>Start a few jobs.</strong> Each step of each job is an event, and the board is nothing but events.
          </li>
          <li>
            <strong>Cut the connection.</strong> Jobs go on; the page comes back by itself and has missed nothing.
          </li>
          <li>
            <strong>Open a private window</strong> as somebody else. A team sees its own jobs only, and your notifications are yours.
          </li>
        </ol>
      </main>
    </div>
  );
}
