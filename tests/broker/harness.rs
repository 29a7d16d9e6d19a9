//! What the tests against a real RabbitMQ are built from: a private broker, the bridge as a child process, producers,
//! and clients that behave as browsers do. Everything is on loopback and in one folder, and nothing of it outlives the
//! test process, however that ends (see [`run`]).

mod run;
mod deadline;
pub mod secrets;
mod http;
mod rabbitmq;
mod proxy;
mod bridge;
mod event_stream;
mod client;
mod swarm;
mod producer;
mod foreign;
mod key_server;
mod authority;
pub mod collector;

pub use authority::Authority;
pub use bridge::{Bridge, Setup};
pub use client::{Client, Silence};
pub use collector::Collector;
pub use deadline::{eventually, within};
pub use event_stream::{Event, EventStream, Item};
pub use foreign::{Foreign, Issuer, hex, raw_header, raw_long_header};
pub use http::{BodyDecoder, encode_head, read_head, request};
pub use key_server::{KeyServer, jwks};
pub use producer::{Message, Persistent, Producer};
pub use proxy::{Direction, Proxy};
#[allow(unused_imports, reason = "the benchmarks log in with it")]
pub use rabbitmq::USER;
pub use rabbitmq::{PASSWORD, RabbitMq, Taken, Vhost};
pub use run::{command, free_port, new_folder};
pub use swarm::Swarm;

/// How long anything may take that should be done at once: long enough for two cores that have ten times too much to do,
/// short enough to find a hang.
pub const SOON: std::time::Duration = std::time::Duration::from_secs(60);

/// How long thousands of clients or tens of thousands of events may take.
pub const LONG: std::time::Duration = std::time::Duration::from_secs(180);
