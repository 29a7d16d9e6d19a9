//! What happened in a run: one line of JSON for each thing that publishers, clients, faults and samples saw, in the order
//! of one clock. Written while it happens, judged afterwards by the checker, which sees nothing else.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::harness::new_folder;

/// Microseconds since the run began.
pub type Moment = u64;

pub const SECOND: Moment = 1_000_000;

/// The id before the first record of a stream.
pub const ORIGIN: &str = "0-00000000";

/// The number of a publisher's event, the first having the sequence 1: a publisher's numbers rise, and no two publishers
/// share one.
pub fn number_of(publisher: u32, sequence: u64) -> u64 {
    u64::from(publisher) * 100_000_000 + sequence
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// Comes first: what the run is to be judged by.
    Rules(Rules),
    /// A client that will be heard of.
    Client(Person),
    /// A publisher is about to publish this event, for the first time.
    Intent(Intent),
    /// The broker confirmed it.
    Confirmed { number: u64 },
    /// An attempt to publish it failed; it will be tried again.
    Refused { number: u64, cause: String },
    /// A client connects.
    Connect {
        client: u32,
        replica: u32,
        last_id: Option<String>,
        /// The id is one that it made up.
        forged: bool,
    },
    /// A client was answered with something else than a stream.
    Answered { client: u32, status: u16 },
    /// A client was sent an id without data.
    Checkpoint { client: u32, id: String },
    /// A client was sent an event. `number` is what its data bears; none if the data is not what was published.
    Event {
        client: u32,
        id: String,
        number: Option<u64>,
    },
    /// A client was told that it missed something.
    Gap {
        client: u32,
        reason: String,
        missed: Option<u64>,
    },
    /// A client was told that its replica ends.
    Bye { client: u32, reason: String },
    /// A client's connection ended, whoever ended it.
    Closed { client: u32, how: String },
    /// A client is heard of no more. `owed`: up to here it was owed everything, to the end of the log.
    Finished { client: u32, owed: bool },
    /// A bridge is about to be started; the one before it has ended.
    Started { replica: u32, incarnation: u32 },
    /// A fault begins.
    FaultBegin(Fault),
    /// It is over: from here on everything must heal.
    FaultEnd { fault: u32 },
    /// What a bridge says of itself, and the system of it.
    Sample(Sample),
    /// A record of the stream, read by an independent consumer after all was published. `number` is none for what is
    /// no event of this run.
    Log {
        /// How many streams of that name there were before.
        generation: u32,
        offset: u64,
        id: String,
        number: Option<u64>,
    },
    /// A message in the dead-letter queue.
    DeadLetter { number: u64, reason: String },
}

/// What a run is judged by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    pub seed: u64,
    /// `stream`, or a queue.
    pub queue_type: String,
    pub prefetch: u64,
    /// How long after a fault's end the link must be back, in seconds.
    pub recovery_seconds: u64,
    /// How many dead letters there may be of one message where no fault comes between; none is no limit. One there must be.
    pub dead_letters_at_most: Option<u64>,
    /// Rings are so short that a client that reads slowly falls behind: `slow` is then no lie.
    pub short_rings: bool,
    /// The history is so short that a client may return too late: `expired` is then no lie.
    pub short_history: bool,
}

/// A client, and what it asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scope {
    /// `user:42`, `team:7`, and `broadcast` where broadcasts come along.
    pub audiences: Vec<String>,
    /// It asked for everything.
    pub everything: bool,
    /// AMQP patterns that the routing key must match one of; none is all.
    pub topics: Vec<String>,
}

/// A client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Person {
    pub client: u32,
    pub scope: Scope,
    /// It does not always read, so it may be told that it was slow.
    pub slow: bool,
}

/// An event that is to be published.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Intent {
    pub number: u64,
    pub publisher: u32,
    /// `user:42`, `team:7`, `broadcast`.
    pub audience: String,
    pub topic: String,
    /// Why it is poison, if it is: the reason of its dead letter.
    pub poison: Option<String>,
}

/// A fault, and whom it may touch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub fault: u32,
    pub kind: String,
    /// The replicas whose link to the broker it may break.
    pub replicas: Vec<u32>,
    /// The clients that it may make slow.
    pub clients: Vec<u32>,
}

/// What a bridge says of itself at a moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub replica: u32,
    pub phase: Phase,
    pub unacknowledged: u64,
    pub broker_up: bool,
    pub threads: u64,
    pub descriptors: u64,
    /// Resident memory, in bytes.
    pub memory: u64,
    /// What its history takes of that by its own account, in bytes.
    pub history: u64,
}

/// When a sample was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Ready, and no client yet.
    Start,
    Run,
    /// All faults are over, all clients gone.
    Rest,
}

/// Writes records down as they happen. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    began: Instant,
    path: Arc<Path>,
    /// Guards the order: a record's time is taken under it, so that lines stand in the order of their times.
    file: Arc<Mutex<BufWriter<File>>>,
}

impl Recorder {
    pub fn new() -> Self {
        let path: PathBuf = new_folder("history").join("history.jsonl");
        let file = File::create(&path).expect("a file in the run's own folder");
        Self {
            began: Instant::now(),
            path: path.into(),
            file: Arc::new(Mutex::new(BufWriter::with_capacity(1 << 20, file))),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a record, and gives the time it bears.
    pub fn record(&self, record: &Record) -> Moment {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.now();
        serde_json::to_writer(&mut *file, &(at, record)).expect("the history can be written");
        file.write_all(b"\n").expect("the history can be written");
        at
    }

    pub fn now(&self) -> Moment {
        u64::try_from(self.began.elapsed().as_micros()).expect("a run is shorter than that")
    }

    /// Hands all that was recorded to the file.
    pub fn flush(&self) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.flush().expect("the history can be written");
    }
}

/// Reads a history, from its beginning.
pub fn read(path: &Path) -> impl Iterator<Item = (Moment, Record)> + use<> {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = BufReader::with_capacity(1 << 20, file).lines();
    lines.map(|line| {
        let line = line.expect("a history can be read");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    })
}

#[test]
fn what_is_written_down_is_read_again() {
    let recorder = Recorder::new();
    let records = [
        Record::Confirmed { number: 7 },
        Record::Event {
            client: 1,
            id: "3-0badcafe".into(),
            number: None,
        },
        Record::Gap {
            client: 1,
            reason: "slow".into(),
            missed: Some(12),
        },
    ];
    for record in &records {
        recorder.record(record);
    }
    recorder.flush();
    let (moments, again): (Vec<_>, Vec<_>) = read(recorder.path()).unzip();
    assert_eq!(again, records);
    assert!(moments.is_sorted());
}
