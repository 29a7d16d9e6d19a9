//! The doors: which paths there are, and the listener that serves them. What is behind a path is not here.

mod connection;
pub mod console;
pub mod operations;
pub mod routes;
pub mod server;

use std::net::SocketAddr;

use http::HeaderValue;

/// Settings of the listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where clients connect.
    pub bind: SocketAddr,
    /// Where metrics are read.
    pub admin_bind: SocketAddr,
    /// Whose pages may read answers.
    pub cors_origins: CorsOrigins,
    /// Connections in all; 0 is no limit.
    pub max_connections: usize,
    /// Streams of one user; 0 is no limit.
    pub max_connections_per_user: usize,
    /// Streams from one address; 0 is no limit.
    pub max_connections_per_address: usize,
}

/// Origins (RFC 6454) whose pages may read answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorsOrigins {
    /// None but the one that serves the answer.
    None,
    /// All.
    Any,
    /// These, as browsers write them in `Origin`.
    Exactly(Vec<HeaderValue>),
}
