//! What can be seen from outside without a broker: the settings, the wire, and `sse-bridge dev` through real sockets.
//!
//! A test's name is the sentence that it proves. Each starts a bridge of its own, on a port of its own, that ends with
//! the test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod settings;
mod sse_parser;
mod wire;
mod harness;
mod stream;
mod audiences;
mod resume;
mod backpressure;
mod limits;
mod requests;
mod cross_origin;
mod doors;
mod tls;
mod http2;
mod publishing;
mod auth;
mod operations;
mod traces;
mod logs;
mod ending;
mod console;
mod commands;
