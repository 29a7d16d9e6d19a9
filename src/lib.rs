//! sse-bridge carries events from RabbitMQ to browsers.
//!
//! Back ends publish to a durable topic exchange; the bridge consumes it and streams each event over Server-Sent Events to
//! exactly the clients that may see it.
//!
//! # The way of an event
//!
//! ```text
//! RabbitMQ ─ amqp ──> bridge ──> event ──> frame ──> hub ──> transport ──> browser
//!            consume   the heart   address    encode    bounded   SSE
//!            settle    one table   and check  once      channels
//!                      to verdict                       + history
//! ```
//!
//! # Invariants
//!
//! - The ends know the middle, the middle knows neither end, only [`app`] knows all: `amqp` and `embedded` see an
//!   [`event::Intake`], not the bridge; the hub has never heard of HTTP.
//! - [`event`] does no I/O, reads no clock and does not panic, whatever it is given.
//! - A delivery is settled once, and only after the hub has it or the dead-letter exchange confirmed it.
//! - An event is encoded once a wire format, however many clients receive it.
//! - Nothing is unbounded: not a queue, a ring, a retry or a wait. No reader holds the writer back.
//! - No loss is silent: a client that missed something is told before any later event, and a counter moves.
//! - Rights are decided in [`auth`] and nowhere else.

pub mod lifecycle;
pub mod metrics;
pub mod faults;
pub mod event;
pub mod authorities;
pub mod outbound;
pub mod traces;
pub mod amqp;
pub mod embedded;
pub mod tail;
pub mod bridge;
pub mod frame;
pub mod hub;
pub mod auth;
pub mod transport;
pub mod publish;
pub mod revoke;
pub mod watch;
pub mod problem;
pub mod body;
pub mod http;
pub mod config;
pub mod telemetry;
pub mod app;
pub mod cli;
