//! From the hub to clients. A *session* is what one client is sent, whatever the wire; a transport writes it down.

pub mod request;
mod limits;
mod session;
pub mod sse;

use std::sync::Arc;
use std::time::Duration;

pub use self::limits::{Bounds, ClientAddress, Full, Limits, Seat};

use crate::auth::{Authenticator, Revocations};
use crate::hub::Hub;
use crate::metrics::Metrics;

/// Settings of every stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SseConfig {
    /// After so long without traffic a checkpoint is sent; zero is never.
    pub heartbeat: Duration,
    /// How long a browser is asked to wait before it comes back, on average.
    pub retry: Duration,
    /// How long a socket may take no bytes before its client is let go; zero is for ever.
    pub stall: Duration,
}

/// What every request for a stream needs. One a process, shared.
#[derive(Debug)]
pub struct Transport {
    /// Where events come from.
    pub hub: Hub,
    /// Who may see them.
    pub authenticator: Authenticator,
    /// Who may no longer.
    pub revocations: Revocations,
    /// The attributes that clients may filter by: those that a routing-key template names.
    pub attributes: Vec<String>,
    /// How streams behave.
    pub config: SseConfig,
    /// How many there may be.
    pub limits: Limits,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}
