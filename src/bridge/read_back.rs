//! Records that are read again become the events they were: by the same rules, without what only happens once. Nothing
//! is settled, dead-lettered or counted as consumed here; what is nobody's event is passed.

use std::sync::Arc;

use tokio::time::Instant;

use super::duplicates::Duplicates;
use super::{Rules, event, is_expired};
use crate::event::id::Position;
use crate::event::{self, Message};
use crate::frame::Frame;
use crate::hub::{Reading, Readings};

/// Who waits for old records, joined with the rules that make events of them.
#[derive(Debug)]
pub struct ReadBacks {
    rules: Arc<Rules>,
    readings: Readings,
}

impl ReadBacks {
    /// Serves those who wait in this hub.
    #[must_use]
    pub fn new(rules: Arc<Rules>, readings: Readings) -> Self {
        Self { rules, readings }
    }
}

impl event::ReadBacks for ReadBacks {
    type ReadBack = ReadBack;

    async fn next(&mut self) -> ReadBack {
        ReadBack {
            rules: Arc::clone(&self.rules),
            reading: self.readings.next().await,
            duplicates: Duplicates::by_timestamp(),
        }
    }
}

/// One reading.
#[derive(Debug)]
pub struct ReadBack {
    rules: Arc<Rules>,
    reading: Reading,
    /// Of this reading alone. It begins some way before the first cursor, so that a repeat after that is known.
    duplicates: Duplicates,
}

impl event::ReadBack for ReadBack {
    fn begin(&self) -> Position {
        self.reading.begin()
    }

    fn accept(&mut self, message: Message) {
        let id = self.rules.id_of_record(&message);
        let now = Instant::now();
        let Ok(address) = self.rules.judge(&message) else {
            self.reading.pass(id);
            return;
        };
        let audience = &address.audience;
        if is_expired(&message) || self.duplicates.has_seen(audience, &message, now) {
            self.reading.pass(id);
            return;
        }
        if self.reading.pass_if_for_nobody(id, audience) {
            return;
        }
        self.reading
            .publish(Frame::encode(event(id, address, message), now));
    }

    async fn pause(&mut self) {
        self.reading.pause().await;
    }

    fn asked(&mut self) {
        self.reading.asked();
    }

    async fn ended(&mut self) {
        self.reading.ended().await;
    }

    async fn room(&mut self) -> bool {
        self.reading.room().await
    }
}
