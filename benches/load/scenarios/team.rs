//! One team: every event is for every client, of the bridge and of what it is compared with.

use crate::peers;
use crate::publisher::{Load, Pace};
use crate::server::{Audience, Server};
use crate::table::{self, Row, Target};
use crate::trial::{Contestant, Recipients, Trial, in_turns, median};

/// A team and what is published to it.
#[derive(Clone, Copy, Debug)]
pub struct Team {
    pub scenario: &'static str,
    pub clients: usize,
    pub load: Load,
}

pub const PACED: Team = Team {
    scenario: "team-1000-paced",
    clients: 1_000,
    load: Load {
        events: 500,
        pace: Pace::PerSecond(100),
        bytes: 200,
    },
};

/// No more events are on their way than the bridge keeps for an audience, so that none need be dropped.
pub const BURST: Team = Team {
    scenario: "team-1000-burst",
    clients: 1_000,
    load: Load {
        events: 3_000,
        pace: Pace::Window(1_000),
        bytes: 200,
    },
};

pub const LARGE: Team = Team {
    scenario: "team-10000",
    clients: 10_000,
    load: Load {
        events: 50,
        pace: Pace::PerSecond(10),
        bytes: 200,
    },
};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Bridge,
    /// With `SSE_FLUSH_WINDOW_MS=20`, which at 100 events a second is two at a time.
    BridgeGathering,
    Floor,
    /// With Nagle's algorithm, which nginx leaves on for the streams of nchan.
    FloorGathering,
    /// With so many workers.
    Nchan(usize),
    WebStomp,
    FastApi,
}

impl Who {
    async fn start(self, team: &Team) -> Result<Contestant, String> {
        let server = match self {
            Self::Bridge => Server::bridge(&Audience::team(), &[]).await,
            Self::BridgeGathering => {
                let gathering = ("SSE_FLUSH_WINDOW_MS", "20".to_owned());
                let server = Server::bridge(&Audience::team(), &[gathering]).await;
                Server {
                    name: "sse-bridge, gathering for 20 ms".to_owned(),
                    ..server
                }
            }
            Self::Floor => Server::floor(team.clients, false),
            Self::FloorGathering => Server::floor(team.clients, true),
            Self::Nchan(workers) => peers::nchan(workers).await,
            Self::WebStomp => peers::web_stomp().await,
            Self::FastApi => peers::fastapi().await,
        };
        Contestant::new(server, team.clients, 0).await
    }
}

/// One that was measured.
struct Found {
    who: Who,
    name: String,
    memory_per_client: f64,
    trials: Vec<Trial>,
}

impl Found {
    fn median(&self, figure: impl Fn(&Trial) -> f64) -> f64 {
        median(&self.trials, figure)
    }
}

/// Measures those, in turns. One that cannot even connect so many clients is left out, and that is said.
async fn measure(team: &Team, all: &[Who], rounds: usize) -> Vec<Found> {
    let (mut present, mut contestants) = (Vec::new(), Vec::new());
    for who in all {
        match who.start(team).await {
            Ok(mut contestant) => {
                contestant.one_of = match who {
                    Who::FastApi | Who::WebStomp => 10,
                    _ => 1,
                };
                present.push(*who);
                contestants.push(contestant);
            }
            Err(why) => println!("{why}"),
        }
    }
    let trials = in_turns(&mut contestants, &team.load, Recipients::All, rounds).await;
    let found = present.iter().zip(&contestants).zip(trials);
    found
        .map(|((who, contestant), trials)| Found {
            who: *who,
            name: contestant.server.name.clone(),
            memory_per_client: contestant.memory_per_client,
            trials,
        })
        .collect()
}

/// Prints everything that was found, a line for each.
fn print(team: &Team, found: &[Found]) {
    let head = [
        "server",
        "CPU/delivery",
        "of the bridge's",
        "in the kernel",
        "deliveries/s",
        "p50",
        "p99",
        "max",
        "lost",
        "memory/client",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    let bridge = found[0].median(Trial::cpu_per_delivery);
    for each in found {
        let cpu = each.median(Trial::cpu_per_delivery);
        let lost: u64 = each.trials.iter().map(Trial::lost).sum();
        lines.push([
            each.name.clone(),
            format!("{cpu:.2} us"),
            format!("{:.2}", cpu / bridge),
            format!("{:.0} %", each.median(Trial::system_share) * 100.0),
            format!("{:.0}", each.median(Trial::per_second)),
            format!("{:.2} ms", each.median(Trial::p50_ms)),
            format!("{:.2} ms", each.median(Trial::p99_ms)),
            format!("{:.2} ms", each.median(Trial::max_ms)),
            lost.to_string(),
            format!("{:.1} KiB", each.memory_per_client / 1024.0),
        ]);
    }
    println!("\n{}:\n{}", team.scenario, table::aligned(&lines));
}

/// How often each is measured.
const ROUNDS: usize = 3;

/// The bridge, its floor, and nchan if it is there.
fn of_the_targets() -> Vec<Who> {
    let mut all = vec![Who::Bridge, Who::Floor];
    if peers::nchan_is_installed() {
        all.extend([Who::Nchan(2), Who::Nchan(1)]);
    }
    all
}

pub async fn paced() -> Vec<Row> {
    let mut all = of_the_targets();
    all.extend([Who::BridgeGathering, Who::FloorGathering]);
    let found = measure(&PACED, &all, ROUNDS).await;
    print(&PACED, &found);
    let cpu_against_nchan = |who, name| {
        let figure = Figure {
            name,
            unit: "us",
            of: Trial::cpu_per_delivery,
        };
        against_nchan(&PACED, &found, who, &figure, Target::AtMost(0.6))
    };
    // What could be had at best, and no target.
    let floor = Row {
        target: None,
        ..cpu_against_nchan(
            Who::FloorGathering,
            "the floor's, gathering as nchan's sockets do",
        )
    };
    vec![
        cpu_against_floor(&PACED, &found),
        cpu_against_nchan(Who::Bridge, "CPU per delivery"),
        cpu_against_nchan(Who::BridgeGathering, "the same, SSE_FLUSH_WINDOW_MS=20"),
        floor,
    ]
}

pub async fn burst() -> Vec<Row> {
    let found = measure(&BURST, &of_the_targets(), ROUNDS).await;
    print(&BURST, &found);
    let lost: u64 = found[0].trials.iter().map(Trial::lost).sum();
    vec![
        against_nchan(
            &BURST,
            &found,
            Who::Bridge,
            &Figure {
                name: "deliveries a second",
                unit: "/s",
                of: Trial::per_second,
            },
            Target::AtLeast(5.0),
        ),
        against_nchan(&BURST, &found, Who::Bridge, &P99, Target::AtMost(1.0)),
        Row {
            scenario: BURST.scenario.to_owned(),
            figure: "deliveries lost".to_owned(),
            measured: lost.to_string(),
            against: format!(
                "of {}",
                found[0]
                    .trials
                    .iter()
                    .map(|trial| trial.expected)
                    .sum::<u64>()
            ),
            ratio: Some(lost as f64),
            target: Some(Target::AtMost(0.0)),
        },
    ]
}

pub async fn large() -> Vec<Row> {
    let found = measure(&LARGE, &of_the_targets(), ROUNDS).await;
    print(&LARGE, &found);
    vec![
        cpu_against_floor(&LARGE, &found),
        against_nchan(&LARGE, &found, Who::Bridge, &P99, Target::AtMost(1.0)),
    ]
}

/// The same against all others. Each ends before the next begins: one that cannot keep up works on long after its turn.
pub async fn against_peers(team: &Team) {
    let all = [
        Who::Bridge,
        Who::Floor,
        Who::Nchan(2),
        Who::Nchan(1),
        Who::FastApi,
        Who::WebStomp,
    ];
    let mut found = Vec::new();
    for who in all {
        found.extend(measure(team, &[who], 1).await);
    }
    print(team, &found);
}

fn cpu_against_floor(team: &Team, found: &[Found]) -> Row {
    let [bridge, floor] =
        [Who::Bridge, Who::Floor].map(|who| of(found, who).median(Trial::cpu_per_delivery));
    Row {
        scenario: team.scenario.to_owned(),
        figure: "CPU per delivery".to_owned(),
        measured: format!("{bridge:.2} us"),
        against: format!("floor {floor:.2} us"),
        ratio: Some(bridge / floor),
        target: Some(Target::AtMost(1.5)),
    }
}

fn of(found: &[Found], who: Who) -> &Found {
    let of = found.iter().find(|each| each.who == who);
    of.unwrap_or_else(|| panic!("{who:?} could not connect its clients"))
}

/// What is compared.
struct Figure {
    name: &'static str,
    unit: &'static str,
    of: fn(&Trial) -> f64,
}

const P99: Figure = Figure {
    name: "p99",
    unit: "ms",
    of: Trial::p99_ms,
};

/// A figure against the nchan that is better at it, of those with one worker and with two.
fn against_nchan(team: &Team, found: &[Found], who: Who, figure: &Figure, target: Target) -> Row {
    let Figure { name, unit, .. } = *figure;
    let measured = of(found, who).median(figure.of);
    let nchans = found
        .iter()
        .filter(|each| matches!(each.who, Who::Nchan(_)));
    let nchans = nchans.map(|each| (each.median(figure.of), each.name.as_str()));
    let better = |a: &(f64, &str), b: &(f64, &str)| a.0.total_cmp(&b.0);
    let best = match target {
        Target::AtMost(_) => nchans.min_by(better),
        Target::AtLeast(_) => nchans.max_by(better),
    };
    Row {
        scenario: team.scenario.to_owned(),
        figure: name.to_owned(),
        measured: format!("{measured:.2} {unit}"),
        against: match best {
            Some((value, name)) => format!("{name} {value:.2} {unit}"),
            None => "nchan, which is not installed: `make bench-peers`".to_owned(),
        },
        ratio: best.map(|(value, _)| measured / value),
        target: Some(target),
    }
}
