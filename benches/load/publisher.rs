//! Who publishes the events of a measurement: each the same number of bytes, at a pace, with its number and the time in it.

mod amqp;
mod nchan;
mod turns;

pub use amqp::Amqp;
pub use nchan::Nchan;
pub use turns::Turns;

use tokio::sync::watch;

use super::floor::Floor;

/// What is to be published.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub events: u64,
    pub pace: Pace,
    /// The length of a body.
    pub bytes: usize,
}

/// How fast.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    PerSecond(u32),
    /// As fast as it goes: so many events are on their way at once, and the next is published when one has reached all
    /// that it is for. So nothing need be dropped, and what is measured is the way and not the length of a queue.
    Window(u64),
}

#[expect(clippy::large_enum_variant, reason = "there are a few")]
pub enum Publisher {
    Amqp(Amqp),
    Nchan(Nchan),
    /// It makes its events itself.
    Floor(Floor),
}

impl Publisher {
    /// Publishes, beginning with this number, and returns when all is confirmed.
    pub async fn publish(&mut self, first: u64, load: &Load, complete: watch::Receiver<u64>) {
        let turns = Turns::new(first, load, complete);
        match self {
            Self::Amqp(amqp) => amqp.publish(turns, load.bytes).await,
            Self::Nchan(nchan) => nchan.publish(turns, load.bytes).await,
            Self::Floor(floor) => floor.publish(first, load).await,
        }
    }
}
