//! The doors: which paths there are, and the listener that serves them. What is behind a path is not here.

pub mod proxies;
pub mod rate;
pub mod tls;
mod connection;
mod http1;
mod chatter;
mod http2;
pub mod server;
pub mod routes;
pub mod operations;
pub mod console;

use std::net::SocketAddr;

use http::HeaderValue;

use self::proxies::TrustedProxies;
use self::tls::TlsFiles;

/// Settings of the listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where clients connect.
    pub bind: SocketAddr,
    /// Certificate and key, where clients connect over TLS.
    pub tls: Option<TlsFiles>,
    /// Where metrics are read, and the console.
    pub admin_bind: SocketAddr,
    /// Whose pages may read answers.
    pub cors_origins: CorsOrigins,
    /// Who is believed about whom a request is from.
    pub trusted_proxies: TrustedProxies,
    /// Connections in all; 0 is no limit.
    pub max_connections: usize,
    /// Streams of one user; 0 is no limit.
    pub max_connections_per_user: usize,
    /// Streams from one address; 0 is no limit.
    pub max_connections_per_address: usize,
    /// New connections a second from one address; 0 is no limit.
    pub max_connection_rate_per_address: u32,
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
