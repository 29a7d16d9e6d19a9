//! What the benchmarks compute with (`benches/load`): what they read off a socket, and how they count it. Their tests are in
//! their own files; here they run with all others, so that a figure is not wrong because its reader is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    dead_code,
    reason = "the benchmarks use all of it, and fail by panicking"
)]

#[path = "../benches/load/event_stream.rs"]
mod event_stream;
#[path = "../benches/load/latencies.rs"]
mod latencies;
#[path = "../benches/load/orders.rs"]
mod orders;
#[path = "../benches/load/stamp.rs"]
mod stamp;
#[path = "../benches/load/tally.rs"]
mod tally;
#[path = "../benches/load/web_stomp.rs"]
mod web_stomp;
