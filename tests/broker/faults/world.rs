//! A run: a broker of its own, bridges behind proxies, publishers, clients, all written down, and judged at the end.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::browser::{Browser, Deaf, Doors, Habits};
use super::checker::{Report, check};
use super::events;
use super::history::{self, Fault, Phase, Record, Recorder, Rules, Scope};
use super::publishers::Publishers;
use super::replica::Replica;
use crate::harness::{LONG, RabbitMq, SOON, Vhost, eventually};

pub const STREAM: &str = "events.sse";
const LETTERS: &str = "events.sse.dlq";

/// How long all may take to come to rest at the end of a run.
const REST: Duration = LONG;

/// How long a publisher may take for its confirm: a broker may have to start, and a memory alarm to end.
pub const CONFIRM: Duration = LONG;

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub queue_type: &'static str,
    pub replicas: u32,
    pub publishers: u32,
    /// Events a second, all publishers together.
    pub rate: u32,
    pub clients: u32,
    /// It has a broker to itself, which may be killed.
    pub own_broker: bool,
    /// Of the bridges, beside what every run sets.
    pub settings: Vec<(&'static str, String)>,
    pub short_rings: bool,
    pub short_history: bool,
    pub dead_letters_at_most: Option<u64>,
}

impl Plan {
    /// Two replicas on a stream.
    pub fn stream(seed: u64) -> Self {
        Self {
            seed,
            queue_type: "stream",
            replicas: 2,
            publishers: 6,
            rate: 200,
            clients: 60,
            own_broker: false,
            settings: Vec::new(),
            short_rings: false,
            short_history: false,
            dead_letters_at_most: Some(1),
        }
    }

    /// One replica on a quorum queue.
    pub fn quorum(seed: u64) -> Self {
        Self {
            queue_type: "quorum",
            replicas: 1,
            ..Self::stream(seed)
        }
    }

    /// With so little memory that whoever returns after some seconds is served from the stream, and that a burst may pass
    /// those who are there.
    #[must_use]
    pub fn with_little_memory(mut self) -> Self {
        for name in ["HISTORY_MAX_EVENTS", "SSE_CHANNEL_CAPACITY"] {
            self.settings.push((name, "2000".to_owned()));
        }
        self.short_rings = true;
        self
    }

    /// With a broker of its own.
    #[must_use]
    pub fn on_its_own_broker(self) -> Self {
        Self {
            own_broker: true,
            ..self
        }
    }

    fn rules(&self) -> Rules {
        Rules {
            seed: self.seed,
            queue_type: self.queue_type.to_owned(),
            prefetch: 512,
            recovery_seconds: 10,
            dead_letters_at_most: self.dead_letters_at_most,
            short_rings: self.short_rings,
            short_history: self.short_history,
        }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = vec![
            ("RABBITMQ_EVENTS_QUEUE_TYPE", self.queue_type.to_owned()),
            // A silent link is noticed in time to be back within ten seconds.
            ("RABBITMQ_HEARTBEAT_SECONDS", "2".to_owned()),
            ("SSE_HEARTBEAT_SECONDS", "1".to_owned()),
            ("SSE_RETRY_MS", "500".to_owned()),
            // So long that nobody falls behind who reads.
            ("SSE_CHANNEL_CAPACITY", "50000".to_owned()),
        ];
        settings.extend(self.settings.iter().cloned());
        settings
    }
}

/// The broker of a run: the one that all tests share, unless it is to be killed.
pub enum Broker {
    Shared(&'static RabbitMq),
    Own(RabbitMq),
}

impl Broker {
    /// The broker, to be killed or stopped.
    pub fn own(&mut self) -> &mut RabbitMq {
        match self {
            Self::Own(broker) => broker,
            Self::Shared(_) => panic!("others need this broker: plan a run with its own"),
        }
    }
}

impl Deref for Broker {
    type Target = RabbitMq;

    fn deref(&self) -> &RabbitMq {
        match self {
            Self::Own(broker) => broker,
            Self::Shared(broker) => broker,
        }
    }
}

/// A run that is under way.
pub struct World {
    pub plan: Plan,
    pub broker: Broker,
    pub vhost: Vhost,
    pub replicas: Vec<Replica>,
    pub publishers: Publishers,
    pub clients: Vec<Browser>,
    pub random: fastrand::Rng,
    recorder: Recorder,
    faults: u32,
    clients_ever: u32,
    generation: u32,
    /// Ids that clients had earlier.
    pub old_ids: Vec<String>,
    /// Clients that never read.
    deaf: Vec<Deaf>,
}

impl World {
    /// Starts everything, and returns when all clients are there and events flow.
    pub async fn start(plan: Plan) -> Self {
        let recorder = Recorder::new();
        recorder.record(&Record::Rules(plan.rules()));
        let mut broker = match plan.own_broker {
            true => Broker::Own(RabbitMq::private().await),
            false => Broker::Shared(RabbitMq::shared().await),
        };
        let vhost = broker.vhost();
        let settings = plan.settings();
        let first = Replica::start(0, &broker, &vhost, &settings, &recorder).await;
        if plan.own_broker {
            // RabbitMQ 3.10 forgets its first stream for good if it is killed soon after it was declared: see the ten
            // crashes.
            broker.own().stop().await;
            broker.own().start().await;
            first
                .bridge()
                .wait_metric("sse_bridge_broker_up", |up| up == 1.0)
                .await;
        }
        first.sample(Phase::Start).await;
        let publishers =
            Publishers::start(&vhost, &recorder, plan.publishers, plan.rate, plan.seed);
        // The others find a stream that is not empty, which is sooner known than that it is.
        first
            .bridge()
            .wait_metric("sse_bridge_events_consumed_total", |count| count > 0.0)
            .await;
        let mut replicas = vec![first];
        for number in 1..plan.replicas {
            let replica = Replica::start(number, &broker, &vhost, &settings, &recorder).await;
            replica.sample(Phase::Start).await;
            replicas.push(replica);
        }
        let mut world = Self {
            random: fastrand::Rng::with_seed(plan.seed),
            broker,
            vhost,
            publishers,
            clients: Vec::new(),
            recorder,
            faults: 0,
            clients_ever: 0,
            generation: 0,
            old_ids: Vec::new(),
            deaf: Vec::new(),
            replicas,
            plan,
        };
        world.admit_all().await;
        world
    }

    async fn admit_all(&mut self) {
        // One for each replica that wants everything and goes nowhere else: what it is sent shows that the replica delivers.
        for replica in 0..self.plan.replicas {
            self.admit(Habits {
                replica: Some(replica),
                patience: Some(Duration::from_secs(5)),
                ..plain(events::everything())
            });
        }
        for number in 0..self.plan.clients {
            let scope = events::scope(number);
            self.admit(Habits {
                spoilt: number % 4 == 1,
                slow: number % 8 == 7,
                patience: (number % 3 == 0 || number % 4 == 1).then_some(Duration::from_secs(5)),
                ..plain(scope)
            });
        }
        self.deaf = self
            .replicas
            .iter()
            .map(|replica| Deaf::start(replica.doors().straight))
            .collect();
        eventually("every client has joined", SOON, async || {
            self.clients
                .iter()
                .all(|client| !client.last_id().is_empty())
                .then_some(())
        })
        .await;
    }

    /// A new client.
    pub fn admit(&mut self, habits: Habits) {
        let client = self.make_client(habits);
        self.clients.push(client);
    }

    /// A new client that is not one of those who stay to the end.
    pub fn make_client(&mut self, habits: Habits) -> Browser {
        self.clients_ever += 1;
        let doors: Arc<[Doors]> = self.replicas.iter().map(Replica::doors).collect();
        Browser::start(
            self.clients_ever,
            habits,
            doors,
            &self.recorder,
            self.plan.seed,
        )
    }

    /// Remembers where some clients are now, for those who will come back from there.
    pub fn remember_ids(&mut self) {
        let ids = self.clients.iter().take(10).map(Browser::last_id);
        self.old_ids.extend(ids.filter(|id| !id.is_empty()));
    }

    /// A fault begins. It may break the links of these replicas, and make these clients slow.
    pub fn begin(&mut self, kind: &str, replicas: &[u32], clients: &[u32]) -> u32 {
        self.faults += 1;
        self.recorder.record(&Record::FaultBegin(Fault {
            fault: self.faults,
            kind: kind.to_owned(),
            replicas: replicas.to_vec(),
            clients: clients.to_vec(),
        }));
        self.faults
    }

    /// A fault is over.
    pub fn end(&mut self, fault: u32) {
        self.recorder.record(&Record::FaultEnd { fault });
    }

    /// Waits until every bridge has its link again, and delivers. How long that took, the checker judges.
    pub async fn recover(&self) {
        for replica in &self.replicas {
            eventually("a bridge has its link again", REST, async || {
                replica.peek().await.filter(|sample| sample.broker_up)
            })
            .await;
            let mut watchers = self.clients.iter();
            let watcher = watchers
                .find(|client| client.habits.replica == Some(replica.number))
                .expect("each replica has somebody who wants everything and goes nowhere else");
            let before = watcher.last_id();
            eventually("a bridge delivers again", REST, async || {
                (watcher.last_id() != before).then_some(())
            })
            .await;
        }
    }

    pub fn every_replica(&self) -> Vec<u32> {
        self.replicas.iter().map(|replica| replica.number).collect()
    }

    /// Writes down what the stream holds, for which nothing more may be published to it. It is the last that is heard
    /// of this stream.
    pub async fn read_log(&mut self) -> Option<String> {
        let mark = self.publishers.mark(CONFIRM).await;
        let mark = events::message_id(mark);
        let records = self.vhost.stream_records(STREAM, &mark).await;
        let mut last = None;
        for record in records {
            self.recorder.record(&Record::Log {
                generation: self.generation,
                offset: record.offset,
                id: record.id.clone(),
                number: record.message_id.as_deref().and_then(events::number_in),
            });
            last = Some(record.id);
        }
        self.generation += 1;
        last
    }

    /// Lets everything come to rest, and judges the run.
    pub async fn finish(mut self) -> Report {
        for replica in &self.replicas {
            replica.link.heal();
            replica.door.restore();
        }
        let newest = match self.plan.queue_type {
            "stream" => self.read_log().await.expect("the mark is in the log"),
            _ => {
                self.publishers.mark(CONFIRM).await;
                self.newest_of_all().await
            }
        };
        self.all_arrive(&newest).await;
        let deaf = std::mem::take(&mut self.deaf);
        drop(deaf);
        for client in self.clients.drain(..) {
            client.leave(true).await;
        }
        self.rest().await;
        self.write_letters().await;
        self.recorder.flush();
        let path = self.recorder.path().to_owned();
        let report = tokio::task::spawn_blocking(move || check(|| history::read(&path)))
            .await
            .expect("the checker does not panic");
        if !report.is_clean() {
            self.keep();
        }
        report
    }

    /// In a queue nobody but the bridge knows the newest id: that which those who want everything agree upon.
    async fn newest_of_all(&self) -> String {
        let watchers = || {
            self.clients
                .iter()
                .filter(|client| client.habits.scope.everything)
        };
        let mut before = String::new();
        let mut since = Instant::now();
        eventually("no more events come", REST, async || {
            let newest = watchers().next().expect("somebody watches").last_id();
            if newest != before {
                (before, since) = (newest, Instant::now());
            }
            (since.elapsed() > Duration::from_secs(2)).then(|| before.clone())
        })
        .await
    }

    /// Waits until every client stands at this id. Whoever does not get there is found by the checker.
    async fn all_arrive(&self, newest: &str) {
        let deadline = Instant::now() + REST;
        while self.clients.iter().any(|client| client.last_id() != newest) {
            if Instant::now() > deadline {
                for client in &self.clients {
                    if client.last_id() != newest {
                        let (number, last_id) = (client.number, client.last_id());
                        eprintln!(
                            "client {number} is at {last_id:?}, not at {newest}; gone: {}; {:?}",
                            client.is_gone(),
                            client.habits
                        );
                    }
                }
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until nobody is connected and what was taken is settled, and until the allocator has given back what it will:
    /// that takes it some seconds.
    async fn rest(&self) {
        for replica in &self.replicas {
            let bridge = replica.bridge();
            bridge
                .wait_metric("sse_bridge_connections{transport=\"sse\"}", |count| {
                    count == 0.0
                })
                .await;
            let mut before = u64::MAX;
            let deadline = Instant::now() + Duration::from_secs(15);
            while Instant::now() < deadline {
                if let Some(sample) = replica.peek().await {
                    if sample.unacknowledged == 0 && sample.memory >= before {
                        break;
                    }
                    before = sample.memory;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            replica.sample(Phase::Rest).await;
        }
    }

    async fn write_letters(&self) {
        if self.vhost.queue(LETTERS).await.is_none() {
            return;
        }
        for letter in self.vhost.take_all(LETTERS).await {
            let number = letter.message_id.as_deref().and_then(events::number_in);
            self.recorder.record(&Record::DeadLetter {
                number: number.unwrap_or_default(),
                reason: letter.header("x-bridge-reason").unwrap_or_default(),
            });
        }
    }

    /// Keeps what is needed to find out why a run failed, and says where.
    fn keep(&self) {
        self.recorder.flush();
        let folder = std::env::temp_dir().join(format!(
            "sse-bridge-faults-{}-{}",
            self.plan.seed,
            std::process::id()
        ));
        let kept = || -> std::io::Result<PathBuf> {
            std::fs::create_dir_all(&folder)?;
            let history = folder.join("history.jsonl");
            std::fs::copy(self.recorder.path(), &history)?;
            for replica in &self.replicas {
                let mut output = replica.outputs.join("\n--- started again\n");
                output.push_str("\n--- started again\n");
                output.push_str(&replica.output());
                std::fs::write(
                    folder.join(format!("replica-{}.log", replica.number)),
                    output,
                )?;
            }
            Ok(history)
        };
        match kept() {
            Ok(history) => eprintln!("the history is kept: {}", history.display()),
            Err(error) => eprintln!("the history could not be kept: {error}"),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep();
        }
    }
}

/// A client that comes straight, to any replica, and reads.
pub fn plain(scope: Scope) -> Habits {
    Habits {
        scope,
        replica: None,
        spoilt: false,
        patience: None,
        slow: false,
        last_id: None,
    }
}
