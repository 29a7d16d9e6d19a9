//! What the process of the clients is told, and what it answers: a line of JSON each, on its standard input and output.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What the clients are to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Connect anew. Answered when all are served, or the time is over.
    Connect(Connect),
    /// Forget what was counted. From now on events with this number and later ones count, and each is for so many clients.
    Count { first: u64, recipients: u32 },
    /// Answered when so many deliveries came, or the time is over.
    Report { deliveries: u64, within_ms: u64 },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Connect {
    pub address: SocketAddr,
    pub clients: usize,
    /// How many begin to connect before the others are looked after again.
    pub at_once: usize,
    pub protocol: Protocol,
    /// Bring the last event id of the client that had this number before.
    pub resume: bool,
    /// How many of a hundred stop reading once they are served.
    pub slow_percent: usize,
    pub within_ms: u64,
}

/// How a client talks. In what it asks for, `{n}` stands for its number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Protocol {
    Sse {
        target: String,
        served: Served,
    },
    WebStomp {
        vhost: String,
        user: String,
        password: String,
        destination: String,
    },
}

/// What a client has that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Served {
    /// The response's head.
    Head,
    /// An id: the bridge's first checkpoint, from which on everything published is news for it.
    Id,
    /// An event that it had missed.
    Event,
}

/// What the clients answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Connected(Connected),
    /// All events below this number have reached all that they are for.
    Complete(u64),
    Report(Report),
}

/// How connecting went.
#[derive(Debug, Serialize, Deserialize)]
pub struct Connected {
    pub served: usize,
    /// Why the first connection ended that did.
    pub first_end: Option<String>,
    /// From the first SYN to the last.
    pub connecting_ns: u64,
    /// From the last SYN to the last client that was served.
    pub serving_ns: u64,
}

/// What came since counting began.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Events that reached a client, each once.
    pub deliveries: u64,
    /// Those that came twice, or after a later one.
    pub out_of_order: u64,
    /// How often a client was told that it missed something.
    pub gaps: u64,
    /// Connections that ended, and why the first did.
    pub ended: u64,
    pub first_end: Option<String>,
    /// Event ids that came, with an event or as checkpoints.
    pub ids: u64,
    /// From publishing to the client's socket, by the kernel's clock.
    pub p50_ns: u64,
    pub p99_ns: u64,
    pub max_ns: u64,
    /// When the last delivery came, in nanoseconds since 1970.
    pub last_ns: u64,
    /// The processor time of this process.
    pub cpu_ns: u64,
}
