//! The bridge against a real RabbitMQ: what its users see, from the exchange to the browser's socket.
//!
//! Each file proves a promise of the README; a test's name is the sentence it proves. `make setup` installs what is
//! needed. The tests share one broker, each in a virtual host of its own, but for those that break it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the tasks of a test end with its runtime"
)]
#![allow(dead_code, reason = "the harness offers what the next test may need")]

mod harness;
mod delivery;
mod addressing;
mod poison;
mod queues;
mod topology;
mod resume;
mod read_back;
mod backpressure;
mod faults;
mod drain;
mod operations;
mod monitoring;
mod console;
mod traces;
mod auth;
mod revoke;
mod scale;
mod tls;
mod nginx;
mod definitions;
