//! The log of all that was consumed: what bounds the memory of every channel, what readers of everything are served
//! from, and what says whether a client's id is believed.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::channel::Channel;
use super::{HubConfig, Numbering};
use crate::event::Break;
use crate::event::id::{EventId, Position};
use crate::frame::Frame;

/// Records in log order, each with its ordinal: how many came before it since the start.
#[derive(Debug)]
pub(super) struct History {
    slots: VecDeque<Slot>,
    /// The ordinal of the oldest slot.
    first: u64,
    /// How many events there were since the start.
    events_ever: u64,
    /// Everything after this record is in `slots`. `None`: there are older records that were never read.
    floor: Option<EventId>,
    newest: Option<EventId>,
    numbering: Numbering,
    /// Slots that hold an event, and the memory that those events take.
    events: usize,
    event_bytes: usize,
}

/// Where a reader is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The ordinal of the record it takes next.
    pub(super) ordinal: u64,
    /// How many events there were before that, which tells how many it missed.
    pub(super) events_before: u64,
}

/// A record: its id is kept after its event is gone, so that a client that names it is believed.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: EventId,
    /// How many events there were before it since the start.
    pub(super) events_before: u64,
    accepted_at: Instant,
    pub(super) content: Content,
}

impl Slot {
    /// Whether it is, or was, an event for somebody.
    pub(super) fn is_event(&self) -> bool {
        !matches!(self.content, Content::Passed)
    }
}

/// What a record left in memory.
#[derive(Debug)]
pub(super) enum Content {
    /// Its event, which is in this channel's ring too.
    Held(Arc<Frame>, Arc<Channel>),
    /// Nothing: the ring was full.
    Evicted(Arc<Channel>),
    /// Nothing: there never was an event for anybody.
    Passed,
}

/// What an id that a client brought back means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Located {
    /// A record of this log; all that came after it is or was in memory.
    Known,
    /// Older than anything in memory.
    Older,
    /// Newer than anything in memory: from a replica that is ahead of this one, or of nobody.
    Ahead,
    /// Of another log or process, or of nobody.
    Unknown,
}

/// Records whose ids are remembered, as a multiple of the events held: the quiet audiences' events stay this much longer
/// than a noisy one's.
const RECORDS_PER_EVENT: usize = 4;

impl History {
    pub(super) fn new(numbering: Numbering) -> Self {
        let floor = match numbering {
            Numbering::Offsets => None,
            Numbering::Sequence(_) => Some(numbering.origin()),
        };
        Self {
            slots: VecDeque::new(),
            first: 0,
            events_ever: 0,
            floor,
            newest: floor,
            numbering,
            events: 0,
            event_bytes: 0,
        }
    }

    pub(super) fn newest(&self) -> Option<EventId> {
        self.newest
    }

    /// The id below the oldest record in memory, if it is known.
    pub(super) fn floor(&self) -> Option<EventId> {
        self.floor
    }

    pub(super) fn numbering(&self) -> Numbering {
        self.numbering
    }

    /// Whether it begins with the first record that the log ever had.
    pub(super) fn begins_at_origin(&self) -> bool {
        self.floor == Some(self.numbering.origin())
    }

    /// How many records it knows.
    pub(super) fn records(&self) -> usize {
        self.slots.len()
    }

    /// The position in the middle of what it knows.
    pub(super) fn middle(&self) -> Option<Position> {
        let slot = self.slots.get(self.slots.len() / 2)?;
        Some(slot.id.position)
    }

    pub(super) fn events(&self) -> usize {
        self.events
    }

    pub(super) fn bytes(&self) -> usize {
        self.event_bytes + self.slots.len() * size_of::<Slot>()
    }

    /// The place after the newest record.
    pub(super) fn end(&self) -> Place {
        Place {
            ordinal: self.first + self.slots.len() as u64,
            events_before: self.events_ever,
        }
    }

    /// The place of the oldest record in memory.
    pub(super) fn start(&self) -> Place {
        self.place(0)
    }

    pub(super) fn get(&self, ordinal: u64) -> Option<&Slot> {
        self.slots.get(self.index(ordinal)?)
    }

    fn index(&self, ordinal: u64) -> Option<usize> {
        usize::try_from(ordinal.checked_sub(self.first)?).ok()
    }

    /// The place of the first record after `position`.
    pub(super) fn after(&self, position: Position) -> Place {
        self.place(
            self.slots
                .partition_point(|slot| slot.id.position <= position),
        )
    }

    fn place(&self, index: usize) -> Place {
        self.slots.get(index).map_or(self.end(), |slot| Place {
            ordinal: self.first + index as u64,
            events_before: slot.events_before,
        })
    }

    /// Adds an event, here and to its channel.
    pub(super) fn push(&mut self, frame: Arc<Frame>, channel: &Arc<Channel>) {
        self.events += 1;
        self.event_bytes += cost(&frame);
        channel.push(Arc::clone(&frame), self.end().ordinal);
        let (id, accepted_at) = (frame.id(), frame.accepted_at());
        self.append(id, accepted_at, Content::Held(frame, Arc::clone(channel)));
        self.events_ever += 1;
    }

    /// Adds a record that is nobody's event.
    pub(super) fn pass(&mut self, id: EventId, accepted_at: Instant) {
        self.append(id, accepted_at, Content::Passed);
    }

    fn append(&mut self, id: EventId, accepted_at: Instant, content: Content) {
        if self.floor.is_none() && id.position == Position::new(0) {
            self.floor = Some(self.numbering.origin());
        }
        self.newest = Some(id);
        self.slots.push_back(Slot {
            id,
            events_before: self.events_ever,
            accepted_at,
            content,
        });
    }

    /// Called when the log has been read to its end: if there was nothing, what comes first will be its beginning.
    pub(super) fn settle_origin(&mut self) {
        if self.newest.is_none() {
            self.newest = Some(self.numbering.origin());
            self.floor = self.newest;
        }
    }

    /// The log broke off: forgets what it held.
    pub(super) fn begin_anew(&mut self, what: Break) {
        let origin = match (what, self.numbering) {
            (Break::Lost, Numbering::Offsets) => None,
            (Break::Lost, Numbering::Sequence(_)) => self.newest,
            (Break::Replaced, numbering) => Some(numbering.origin()),
        };
        self.first = self.end().ordinal;
        self.slots = VecDeque::new();
        self.events = 0;
        self.event_bytes = 0;
        self.floor = origin;
        self.newest = origin;
    }

    /// Says what an id that a client brought back means.
    pub(super) fn locate(&self, id: EventId) -> Located {
        if let Numbering::Sequence(mark) = self.numbering
            && id.mark != mark
        {
            return Located::Unknown;
        }
        if self.newest == Some(id) || self.floor == Some(id) {
            return Located::Known;
        }
        if id == self.numbering.origin() && self.newest.is_some() {
            // Before every record: what is not its own beginning is later.
            return Located::Older;
        }
        match self
            .slots
            .binary_search_by_key(&id.position, |slot| slot.id.position)
        {
            Ok(index) if self.slots.get(index).is_some_and(|slot| slot.id == id) => Located::Known,
            Err(_) if self.numbering == Numbering::Offsets && self.is_behind(id) => Located::Ahead,
            Err(0) => match self.floor {
                Some(floor) if id.position < floor.position => Located::Older,
                None if !self.slots.is_empty() => Located::Older,
                _ => Located::Unknown,
            },
            // Another record stands at its position, or none ever did.
            Ok(_) | Err(_) => Located::Unknown,
        }
    }

    /// Whether a record of this id would come after all that is known.
    fn is_behind(&self, id: EventId) -> bool {
        self.newest
            .filter(|newest| *newest != self.numbering.origin())
            .is_none_or(|newest| id.position > newest.position)
    }

    /// Lets the oldest go until every bound holds. `emptied` is told of each channel that lost an event.
    pub(super) fn trim(
        &mut self,
        config: &HubConfig,
        now: Instant,
        mut emptied: impl FnMut(&Arc<Channel>),
    ) {
        self.trim_noisy(config);
        while let Some(oldest) = self.slots.front() {
            let too_many = exceeds(self.events, config.max_events)
                || exceeds(
                    self.slots.len(),
                    config.max_events.saturating_mul(RECORDS_PER_EVENT),
                );
            let too_large = exceeds(self.bytes(), config.max_bytes) && self.slots.len() > 1;
            let too_old = !config.max_age.is_zero()
                && now.duration_since(oldest.accepted_at) > config.max_age;
            if !(too_many || too_large || too_old) {
                break;
            }
            self.drop_oldest(&mut emptied);
        }
        if self.slots.is_empty() {
            self.slots.shrink_to_fit();
        }
    }

    /// Lets go of what stands below this position, the oldest first, for as long as there is `more` to let go.
    pub(super) fn trim_below(
        &mut self,
        position: Position,
        more: impl Fn(&Self) -> bool,
        mut emptied: impl FnMut(&Arc<Channel>),
    ) {
        while more(self)
            && self
                .slots
                .front()
                .is_some_and(|oldest| oldest.id.position < position)
        {
            self.drop_oldest(&mut emptied);
        }
    }

    /// Holds the newest event's ring to its own bound: a noisy audience pushes out its own events first.
    fn trim_noisy(&mut self, config: &HubConfig) {
        let Some(Slot {
            content: Content::Held(_, channel),
            ..
        }) = self.slots.back()
        else {
            return;
        };
        let channel = Arc::clone(channel);
        while exceeds(channel.len(), config.channel_capacity) {
            let Some((ordinal, frame)) = channel.pop() else {
                return;
            };
            self.forget(&frame);
            let index = self.index(ordinal);
            if let Some(slot) = index.and_then(|index| self.slots.get_mut(index)) {
                slot.content = Content::Evicted(Arc::clone(&channel));
            }
        }
    }

    fn drop_oldest(&mut self, emptied: &mut impl FnMut(&Arc<Channel>)) {
        let Some(slot) = self.slots.pop_front() else {
            return;
        };
        self.first += 1;
        self.floor = Some(slot.id);
        if let Content::Held(frame, channel) = slot.content {
            self.forget(&frame);
            channel.pop();
            emptied(&channel);
        }
    }

    fn forget(&mut self, frame: &Frame) {
        self.events -= 1;
        self.event_bytes -= cost(frame);
    }
}

/// What an event takes: itself, and the channel that there may be for it alone.
fn cost(frame: &Frame) -> usize {
    frame.cost() + Channel::FOOTPRINT
}

/// Whether `value` is over `limit`, where 0 is none.
fn exceeds(value: usize, limit: usize) -> bool {
    limit != 0 && value > limit
}
