// The demo's accounts. A real application has its own, with passwords or a single sign-on.

export interface Person {
  id: string;
  name: string;
  role: string;
}

export interface Team {
  id: string;
  name: string;
  about: string;
  members: readonly Person[];
}

const sam: Person = { id: "sam", name: "Sam Carter", role: "Platform" };

export const TEAMS: readonly Team[] = [
  {
    id: "atlas",
    name: "Atlas",
    about: "Web and releases",
    members: [{ id: "ada", name: "Ada Okafor", role: "Engineering" }, { id: "jun", name: "Jun Park", role: "Design" }, sam],
  },
  {
    id: "borealis",
    name: "Borealis",
    about: "Data and reports",
    members: [{ id: "mira", name: "Mira Lindqvist", role: "Analytics" }, { id: "tomas", name: "Tomás Reyes", role: "Finance" }, sam],
  },
];

/** Who that is, in a team that they belong to. */
export function member(teamId: string, userId: string): { team: Team; person: Person } | null {
  const team = TEAMS.find((team) => team.id === teamId);
  const person = team?.members.find((person) => person.id === userId);
  return team && person ? { team, person } : null;
}
