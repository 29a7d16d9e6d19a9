//! How fast the bridge is, measured through the whole way, RabbitMQ to sockets, against its floor and against others.
//!
//! `cargo bench --bench load` runs every scenario and prints a table; names of scenarios choose some. `benches/README.md` says
//! what each figure is. The clients and the floor are processes of their own, of this same program. Everything is on
//! loopback, bounded in time, and ends with this process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "a benchmark fails by panicking, and its tasks end with it"
)]
#![allow(
    dead_code,
    unused_imports,
    reason = "the harness of the tests offers more"
)]

use std::process::ExitCode;

mod harness;

mod scenarios;
mod trial;
mod table;
mod plot;
mod server;
mod peers;
#[path = "../floor.rs"]
mod floor;
mod publisher;
mod load_client;
mod usage;
mod orders;
mod crowd;
mod client;
mod event_stream;
mod web_stomp;
mod tally;
mod latencies;
mod stamp;

fn main() -> ExitCode {
    // `cargo bench` adds a flag of its own.
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|each| each != "--bench")
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [load_client::ROLE] => crowd::run(),
        [floor::ROLE, clients, gathers] => floor::run(clients, gathers),
        _ => return scenarios::run(&arguments),
    }
    ExitCode::SUCCESS
}
