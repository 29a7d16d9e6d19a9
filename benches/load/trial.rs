//! One measurement: so many events to those who are connected, and what that took; and several measured in turns, so that
//! what disturbs the machine disturbs all of them.

use std::time::Duration;

use super::load_client::{LoadClient, Priority};
use super::orders::{Connect, Report};
use super::publisher::{Load, Pace};
use super::server::Server;
use super::stamp;
use super::usage::{Cpu, resident_bytes};

/// How long after the last event was published the last delivery may come.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long connecting may take.
const CONNECTING: Duration = Duration::from_secs(60);

/// A server and its clients.
pub struct Contestant {
    // They end before their server does, which may wait for them.
    pub clients: LoadClient,
    pub server: Server,
    /// What the server's memory grew by when they connected, in bytes for each.
    pub memory_per_client: f64,
    /// As fast as it goes, it gets one of so many events: some would take minutes over what others do in seconds.
    pub one_of: u64,
    /// How many of them take part: those that read.
    readers: u64,
    /// The number of the next event.
    next: u64,
}

/// What a measurement found.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    pub events: u64,
    /// How many deliveries there should have been.
    pub expected: u64,
    pub report: Report,
    /// What the server's processes took.
    pub cpu: Cpu,
    /// From the first event's publishing to the last delivery.
    pub took: Duration,
}

impl Trial {
    pub fn lost(&self) -> u64 {
        self.expected - self.report.deliveries
    }

    /// Microseconds of processor time for each delivery.
    pub fn cpu_per_delivery(&self) -> f64 {
        self.cpu.total.as_secs_f64() * 1e6 / self.report.deliveries as f64
    }

    pub fn per_second(&self) -> f64 {
        self.report.deliveries as f64 / self.took.as_secs_f64()
    }

    pub fn p50_ms(&self) -> f64 {
        self.report.p50_ns as f64 / 1e6
    }

    pub fn p99_ms(&self) -> f64 {
        self.report.p99_ns as f64 / 1e6
    }

    pub fn max_ms(&self) -> f64 {
        self.report.max_ns as f64 / 1e6
    }

    /// The share of the processor time that was the kernel's.
    pub fn system_share(&self) -> f64 {
        self.cpu.system.as_secs_f64() / self.cpu.total.as_secs_f64()
    }
}

impl Contestant {
    /// Connects so many clients to a server, of a hundred of whom so many read nothing once they are served.
    ///
    /// # Errors
    /// When the server does not serve all of them in time.
    pub async fn new(server: Server, clients: usize, slow_percent: usize) -> Result<Self, String> {
        let mut crowd = LoadClient::start(Priority::Idle);
        let before = resident_bytes(&server.pids);
        let connected = crowd
            .try_connect(connect_order(&server, clients, slow_percent))
            .await;
        if connected.served < clients {
            return Err(format!(
                "{}: only {} of {clients} clients were served within {CONNECTING:?}; {}",
                server.name,
                connected.served,
                connected.first_end.as_deref().unwrap_or("none ended")
            ));
        }
        let memory = resident_bytes(&server.pids).saturating_sub(before);
        let slow = (0..clients)
            .filter(|number| number % 100 < slow_percent)
            .count();
        Ok(Self {
            server,
            clients: crowd,
            memory_per_client: memory as f64 / clients as f64,
            one_of: 1,
            readers: (clients - slow) as u64,
            next: 0,
        })
    }

    /// One measurement, of events each of which is for so many of the clients that read.
    pub async fn trial(&mut self, load: &Load, recipients: Recipients) -> Trial {
        let recipients = match recipients {
            Recipients::All => self.readers,
            Recipients::One => 1,
        };
        let first = self.next;
        self.next += load.events;
        self.clients
            .count(first, u32::try_from(recipients).expect("a few"))
            .await;
        let (before, began) = (Cpu::of(&self.server.pids), stamp::now());
        self.server
            .publisher
            .publish(first, load, self.clients.complete())
            .await;
        let expected = load.events * recipients;
        let report = self.clients.report(expected, PATIENCE).await;
        let cpu = Cpu::of(&self.server.pids).since(before);
        if report.deliveries != expected || report.out_of_order + report.gaps + report.ended > 0 {
            eprintln!(
                "{}: {expected} deliveries were expected: {report:?}",
                self.server.name
            );
        }
        Trial {
            events: load.events,
            expected,
            cpu,
            took: Duration::from_nanos(report.last_ns.saturating_sub(began)),
            report,
        }
    }
}

/// Whom an event is for.
#[derive(Clone, Copy, Debug)]
pub enum Recipients {
    All,
    One,
}

/// The order to connect to a server.
pub fn connect_order(server: &Server, clients: usize, slow_percent: usize) -> Connect {
    Connect {
        address: server.address,
        clients,
        at_once: 64,
        protocol: server.protocol.clone(),
        resume: false,
        slow_percent,
        within_ms: u64::try_from(CONNECTING.as_millis()).expect("a short time"),
    }
}

/// Measures each in its turn, so many times, after a first time that does not count.
pub async fn in_turns(
    contestants: &mut [Contestant],
    load: &Load,
    recipients: Recipients,
    rounds: usize,
) -> Vec<Vec<Trial>> {
    let mut trials = vec![Vec::new(); contestants.len()];
    for round in 0..=rounds {
        for (contestant, trials) in contestants.iter_mut().zip(&mut trials) {
            let one_of = match load.pace {
                Pace::Window(_) => contestant.one_of,
                Pace::PerSecond(_) => 1,
            };
            let events = match round {
                0 => load.events / one_of / 5,
                _ => load.events / one_of,
            };
            let trial = contestant
                .trial(&Load { events, ..*load }, recipients)
                .await;
            println!(
                "{}{}: {:.2} us a delivery, {:.0}/s, p99 {:.2} ms",
                contestant.server.name,
                if round == 0 { ", to warm up" } else { "" },
                trial.cpu_per_delivery(),
                trial.per_second(),
                trial.p99_ms()
            );
            if round > 0 {
                trials.push(trial);
            }
        }
    }
    trials
}

/// The middle of what a figure was in several measurements.
pub fn median(trials: &[Trial], figure: impl Fn(&Trial) -> f64) -> f64 {
    let mut values: Vec<f64> = trials.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
