//! What an event costs at each step of its way: time and allocations, one file a step, in the order of the way.
//!
//! `make bench-micro` prints the table, `make bench-check BASE=<revision>` says what became slower since then. Nothing
//! here does I/O. Each benchmark says how many operations make a sample: left to itself, divan decides by the first run,
//! which is a cold one, and would time operations of 50 ns one by one with a clock of 20 ns. What a benchmark returns is
//! dropped outside of the measurement.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a benchmark fails by panicking"
)]

mod message;
mod id;
mod payload;
mod address;
mod encode;
mod bridge;
mod fan_out;
mod resume;
mod grant;

use divan::AllocProfiler;

/// That of the binary, with its allocations counted.
#[global_allocator]
static ALLOCATOR: AllocProfiler<tikv_jemallocator::Jemalloc> =
    AllocProfiler::new(tikv_jemallocator::Jemalloc);

fn main() {
    divan::main();
}
