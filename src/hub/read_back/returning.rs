//! A client that came back, from the desk through one reading or several to what is live.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::reading::Found;
use super::{From, Place, Seat, queue};
use crate::event::filter::Filter;
use crate::event::id::EventId;
use crate::event::scope::Scope;
use crate::frame::Frame;
use crate::hub::listeners::Signal;
use crate::hub::reader::{Missed, Reader, Start};
use crate::hub::subscription::{Gap, GapReason, Update};
use crate::hub::{Shared, lock};

/// A subscription whose client came back for what is no longer in memory.
#[derive(Debug)]
pub(in crate::hub) struct Returning {
    seat: Arc<Seat>,
    place: Option<Place>,
    /// Whether its cursor was found in the reading that serves it.
    found: bool,
    /// Up to where it was shown everything.
    from: From,
    /// What it is told it missed when it is found.
    reason: Option<GapReason>,
    /// Whether it was told where it joined.
    joined: bool,
    /// The era of the live log in which it came.
    era: u64,
}

/// What comes of a look at a reading.
pub(in crate::hub) enum Turn {
    /// Nothing now.
    Wait,
    /// The client is told.
    Tell(Update),
    /// It has caught up with memory, and goes on there.
    Live(Reader),
    /// The stream has no such record as it came back with.
    Nowhere,
    /// The log broke off: it is located anew, from here.
    BrokeOff(From),
}

impl Returning {
    /// Comes to the desk. `reason` is what the client missed already.
    pub(in crate::hub) fn new(
        shared: &Shared,
        scope: &Arc<Scope>,
        signal: &Arc<Signal>,
        from: From,
        reason: Option<GapReason>,
    ) -> Self {
        Self {
            seat: queue(shared, scope, signal, from),
            place: None,
            found: false,
            from,
            reason,
            joined: false,
            era: shared.log.era(),
        }
    }

    /// Shows what the reading has for this client.
    pub(in crate::hub) fn look(
        &mut self,
        shared: &Shared,
        filter: &Filter,
        visit: &mut impl FnMut(&Arc<Frame>) -> ControlFlow<()>,
    ) -> Turn {
        if self.era != shared.log.era() {
            return Turn::BrokeOff(self.from);
        }
        if self.place.is_none() {
            self.place = lock(&self.seat.place).take();
        }
        let Some(place) = &mut self.place else {
            return Turn::Wait;
        };
        if self.seat.let_go.load(Ordering::Acquire) {
            return self.queue_again(shared);
        }
        if !self.found {
            let (start, reason) = match place.stretch.find(self.from, place.since) {
                Found::Here(start, reason) => (start, reason),
                Found::NotYet if place.stretch.is_closed() => return self.queue_again(shared),
                Found::NotYet => return Turn::Wait,
                Found::Nowhere => return Turn::Nowhere,
            };
            self.found = true;
            let checkpoint = place.begin(&self.seat, start);
            if let Start::After(id) = start {
                self.seat
                    .needs
                    .store(id.position.get() + 1, Ordering::Release);
            }
            if let Some(update) = self.tell(shared, checkpoint, reason) {
                return Turn::Tell(update);
            }
        }
        self.show(shared, filter, visit)
    }

    /// What the client is told where it was found: where it joins, or only a gap if it was told that before.
    fn tell(
        &mut self,
        shared: &Shared,
        checkpoint: Option<EventId>,
        reason: Option<GapReason>,
    ) -> Option<Update> {
        let reason = self.reason.take().or(reason);
        let gap = reason.map(|reason| {
            shared.metrics.gaps.of(reason.as_str()).inc();
            Gap {
                reason,
                missed: None,
            }
        });
        if std::mem::replace(&mut self.joined, true) {
            return gap.map(Update::Gap);
        }
        let outcome = reason.map_or("stream", GapReason::as_str);
        shared.metrics.resumes.of(outcome).inc();
        Some(Update::Joined { checkpoint, gap })
    }

    fn show(
        &mut self,
        shared: &Shared,
        filter: &Filter,
        visit: &mut impl FnMut(&Arc<Frame>) -> ControlFlow<()>,
    ) -> Turn {
        let Some(place) = &mut self.place else {
            return Turn::Wait;
        };
        let (mut missed, mut any) = (Missed::default(), false);
        let seen = self.from;
        let from = &mut self.from;
        place.reader.show(&mut missed, &mut |frame| {
            *from = From::After(frame.id());
            if !filter.matches(frame.topic(), frame.name(), frame.attributes()) {
                return ControlFlow::Continue(());
            }
            any = true;
            visit(frame)
        });
        let end = place.reader.checkpoint().filter(|_| missed.is_none());
        if let Some(id) = end {
            self.from = From::After(id);
        }
        if let From::After(id) = self.from
            && self.from != seen
        {
            self.seat
                .needs
                .store(id.position.get() + 1, Ordering::Release);
            place.stretch.moved.notify_one();
        }
        if any {
            return Turn::Tell(Update::Events { all: false });
        }
        if !missed.is_none() {
            // What was kept for it was let go, as it held up others.
            return self.queue_again(shared);
        }
        if let Some(reader) =
            end.and_then(|id| shared.join_live(id, &self.seat.scope, &self.seat.signal))
        {
            return Turn::Live(reader);
        }
        if place.stretch.is_closed() {
            return self.queue_again(shared);
        }
        Turn::Wait
    }

    /// Up to where the client may be told that it has everything.
    pub(in crate::hub) fn checkpoint(&self) -> Option<EventId> {
        let place = self.place.as_ref().filter(|_| self.found && self.joined)?;
        place.reader.checkpoint()
    }

    /// Comes to the desk again, to go on where it was.
    fn queue_again(&mut self, shared: &Shared) -> Turn {
        self.place = None;
        self.found = false;
        self.seat = queue(shared, &self.seat.scope, &self.seat.signal, self.from);
        Turn::Wait
    }
}

impl Place {
    /// Stands where the client begins. The id up to which it has, or was told that it missed, everything.
    fn begin(&mut self, seat: &Seat, start: Start) -> Option<EventId> {
        let log = &self.stretch.log;
        let mut state = log.lock();
        let (reader, _) = Reader::join(log, &mut state, &seat.scope, &seat.signal, start);
        let checkpoint = match start {
            Start::After(id) => Some(id),
            Start::Oldest | Start::Tail => state.history.floor(),
        };
        drop(state);
        self.reader = reader;
        checkpoint
    }
}
