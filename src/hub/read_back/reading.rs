//! A reading: a stretch of the stream, and the readers whom it serves.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use super::{From, NEAR, Place, Seat, small};
use crate::event::audience::Audience;
use crate::event::id::{EventId, Position};
use crate::frame::Frame;
use crate::hub::history::{History, Located};
use crate::hub::log::{Log, State};
use crate::hub::reader::{Reader, Start};
use crate::hub::subscription::GapReason;
use crate::hub::{Numbering, Shared, lock};

/// How many events a reading holds for its readers.
const MAX_EVENTS: usize = if cfg!(test) { 64 } else { 16_384 };
/// How many records it remembers, events or not.
const MAX_RECORDS: usize = 4 * MAX_EVENTS;
/// How many bytes of events it holds.
const MAX_BYTES: usize = 16 << 20;
/// Within how many records everybody is woken once, to take what is there for it: seldom, so that it is written together;
/// and one after the other, so that live clients do not wait for all who returned.
const ROUND: u64 = small(4096);
/// The same where memory has been reached, and readers may leave.
const LAST_ROUND: u64 = small(1024);
/// How many are woken at once where all are, before others have their turn.
const GROUP: usize = 8;
/// How long what a client came back with is waited for where the stream ends before it: it may be of a replica that is
/// ahead, on a node of the broker that is.
const END: Duration = Duration::from_secs(2);
/// How long readers may take to make room while they hold up others.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a reading has read and its readers still need.
#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) log: Arc<Log>,
    begin: Position,
    attached: Mutex<Attached>,
    /// A reader needs less than it did.
    pub(super) moved: Notify,
}

#[derive(Debug, Default)]
struct Attached {
    seats: Vec<Weak<Seat>>,
    /// When the stream last had nothing more than was read, as the broker said.
    ended_at: Option<Instant>,
    /// Nothing more will be read.
    closed: bool,
}

/// What an id means to the reading that serves it.
pub(super) enum Found {
    /// The reading has not come there.
    NotYet,
    /// Its client joins here, and is told of a gap if there is one.
    Here(Start, Option<GapReason>),
    /// Another record stands there, or none.
    Nowhere,
}

/// Whether a reading may go on.
enum Room {
    /// Nobody needs more.
    Nobody,
    Free,
    Full,
}

impl Stretch {
    pub(super) fn new(begin: Position) -> Self {
        Self {
            log: Arc::new(Log::new(Numbering::Offsets)),
            begin,
            attached: Mutex::default(),
            moved: Notify::new(),
        }
    }

    /// Whether a client is not so far from this reading that one of its own were better.
    pub(super) fn is_worth_waiting_for(&self, seat: &Seat, newest: u64) -> bool {
        let needs = seat.needs();
        let wait = needs.saturating_sub(self.next(&self.log.lock()));
        wait <= newest.saturating_sub(needs).max(NEAR)
    }

    /// The lowest position that this reading is yet to pass. Where it begins, one below must show whether a record is
    /// not kept any more or never was.
    fn next(&self, state: &State) -> u64 {
        match (state.history.newest(), self.begin.get()) {
            (Some(newest), _) => newest.position.get() + 1,
            (None, 0) => 0,
            (None, begin) => begin + 1,
        }
    }

    /// Takes a client if this reading is yet to pass its cursor. From here on, what is for it is kept.
    pub(super) fn attach(self: &Arc<Self>, seat: &Arc<Seat>) -> bool {
        let mut attached = lock(&self.attached);
        let mut state = self.log.lock();
        if attached.closed || seat.needs() < self.next(&state) {
            return false;
        }
        let (reader, _) = Reader::join(
            &self.log,
            &mut state,
            &seat.scope,
            &seat.signal,
            Start::Tail,
        );
        drop(state);
        let stretch = Arc::clone(self);
        let since = Instant::now();
        lock(&seat.place).replace(Place {
            stretch,
            reader,
            since,
        });
        attached.seats.push(Arc::downgrade(seat));
        seat.signal.raise();
        true
    }

    /// Whether the stream had nothing more at this moment or later.
    fn ended_after(&self, moment: Instant) -> bool {
        let ended_at = lock(&self.attached).ended_at;
        ended_at.is_some_and(|ended_at| ended_at >= moment)
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.attached).closed
    }

    pub(super) fn wake(&self) {
        for seat in lock(&self.attached).seats.iter().filter_map(Weak::upgrade) {
            seat.signal.raise();
        }
    }

    pub(super) fn find(&self, from: From, since: Instant) -> Found {
        let state = self.log.lock();
        let located = match from {
            From::Oldest if state.history.newest().is_none() => Located::Ahead,
            From::Oldest => Located::Known,
            From::After(id) => state.history.locate(id),
        };
        drop(state);
        match (located, from) {
            // The origin is no record's: a record may stand at its position.
            (Located::Known, From::Oldest | From::After(EventId::ORIGIN)) => {
                Found::Here(Start::Oldest, None)
            }
            (Located::Known, From::After(id)) => Found::Here(Start::After(id), None),
            // The reading was to begin below it, and begins above it: those before it are not kept any more.
            (Located::Older, _) => Found::Here(Start::Oldest, Some(GapReason::Expired)),
            (Located::Ahead, _) if !self.ended_after(since + END) => Found::NotYet,
            (Located::Ahead | Located::Unknown, _) => Found::Nowhere,
        }
    }

    /// Lets go of what nobody needs if there is too much, until there is half of it.
    fn make_room(&self, was_full: bool) -> Room {
        let mut attached = lock(&self.attached);
        attached.seats.retain(|seat| seat.strong_count() > 0);
        let needs = |seat: Arc<Seat>| seat.needs();
        let Some(lowest) = attached
            .seats
            .iter()
            .filter_map(Weak::upgrade)
            .map(needs)
            .min()
        else {
            return Room::Nobody;
        };
        let mut state = self.log.lock();
        let share = if was_full { 2 } else { 1 };
        if !exceeds(&state, share) {
            return Room::Free;
        }
        let State { registry, history } = &mut *state;
        let more = |history: &History| {
            history.events() > MAX_EVENTS / 2
                || history.records() > MAX_RECORDS / 2
                || history.bytes() > MAX_BYTES / 2
        };
        history.trim_below(Position::new(lowest), more, |channel| {
            registry.free_if_idle(channel);
        });
        match exceeds(&state, 2) {
            true => Room::Full,
            false => Room::Free,
        }
    }

    /// Lets go of those who have not taken the older half, if that holds up others; says how many.
    fn let_go(&self, others_wait: bool) -> usize {
        let mut attached = lock(&self.attached);
        let Some(middle) = self.log.lock().history.middle() else {
            return 0;
        };
        let is_slow = |seat: &Weak<Seat>| {
            seat.upgrade()
                .is_some_and(|seat| seat.needs() <= middle.get())
        };
        let slow = attached.seats.iter().filter(|seat| is_slow(seat)).count();
        if slow == attached.seats.len() && !others_wait {
            return 0;
        }
        attached.seats.retain(|seat| {
            let goes = is_slow(seat);
            if let Some(seat) = seat.upgrade().filter(|_| goes) {
                seat.let_go.store(true, Ordering::Release);
                seat.signal.raise();
            }
            !goes
        });
        slow
    }
}

/// Whether there is more than a share of what a reading may hold.
fn exceeds(state: &State, share: usize) -> bool {
    let history = &state.history;
    history.events() > MAX_EVENTS / share
        || history.records() > MAX_RECORDS / share
        || history.bytes() > MAX_BYTES / share
}

/// What a reading is yet to read.
enum Remaining {
    /// What is older than anything in memory.
    Older,
    /// What is in memory too: its readers may leave.
    InMemory,
    Nothing,
}

/// A reading of the stream, to be filled. When it is dropped those whom it served so far come to the desk again.
#[derive(Debug)]
pub struct Reading {
    stretch: Arc<Stretch>,
    shared: Arc<Shared>,
    /// How many records were given in this round, and how many readers were woken.
    since_round: u64,
    woken: usize,
    /// When the broker was asked how far the stream goes, and how far the live log went then.
    asked: Option<(Instant, Position)>,
    /// There was no room, and there is more than half still.
    is_full: bool,
}

impl Reading {
    pub(super) fn new(stretch: Arc<Stretch>, shared: Arc<Shared>) -> Self {
        Self {
            stretch,
            shared,
            since_round: 0,
            woken: 0,
            asked: None,
            is_full: false,
        }
    }

    /// The position to begin at: its record, or the oldest that is kept after it.
    #[must_use]
    pub fn begin(&self) -> Position {
        self.stretch.begin
    }

    /// Gives the next event.
    pub fn publish(&mut self, frame: Frame) {
        self.stretch.log.push(frame, |_| {});
        self.count();
    }

    /// Notes the next record, of which nobody is sent anything.
    pub fn pass(&mut self, id: EventId) {
        self.stretch.log.pass(id, Instant::now(), |_| {});
        self.count();
    }

    /// Notes the next record as [`Self::pass`] does, unless its event is to be sent to somebody: then it must be given.
    pub fn pass_if_for_nobody(&mut self, id: EventId, audience: &Audience) -> bool {
        let passed = self
            .stretch
            .log
            .pass_if_for_nobody(id, audience, Instant::now());
        if passed {
            self.count();
        }
        passed
    }

    /// There is nothing more to read for now: everybody looks whether it is live.
    pub async fn pause(&mut self) {
        self.round().await;
    }

    /// The broker is about to be asked how far the stream goes.
    pub fn asked(&mut self) {
        self.asked = Some((Instant::now(), self.shared.log.tail()));
    }

    /// All that there was when it was asked has been given. A reading that is behind what is live is not believed that.
    pub async fn ended(&mut self) {
        let is_there = |(_, tail): &(Instant, Position)| self.stretch.log.tail() >= *tail;
        if let Some((asked_at, _)) = self.asked.take_if(|asked| is_there(asked)) {
            lock(&self.stretch.attached).ended_at = Some(asked_at);
        }
        self.round().await;
    }

    /// Wakes as many as are due in this round.
    fn wake_some(&mut self) {
        let round = match self.remaining() {
            Remaining::Older => ROUND,
            Remaining::InMemory => LAST_ROUND,
            Remaining::Nothing => 1,
        };
        let given = self.since_round.min(round);
        let attached = lock(&self.stretch.attached);
        let share = attached.seats.len() as u64 * given / round;
        let due = usize::try_from(share).unwrap_or(usize::MAX);
        for seat in attached.seats.get(self.woken..due).unwrap_or_default() {
            if let Some(seat) = seat.upgrade() {
                seat.signal.raise();
            }
        }
        self.woken = self.woken.max(due);
        if given == round {
            (self.since_round, self.woken) = (0, 0);
        }
    }

    /// Everybody takes what is there for it.
    async fn round(&mut self) {
        (self.since_round, self.woken) = (0, 0);
        let seats: Vec<_> = lock(&self.stretch.attached).seats.clone();
        for group in seats.chunks(GROUP) {
            for seat in group.iter().filter_map(Weak::upgrade) {
                seat.signal.raise();
            }
            yield_now().await;
        }
    }

    /// Waits until there is room for more. False when nobody needs more.
    pub async fn room(&mut self) -> bool {
        self.wake_some();
        let mut patience = Instant::now() + PATIENCE;
        loop {
            match self.stretch.make_room(self.is_full) {
                Room::Nobody => return false,
                Room::Free => {
                    self.is_full = false;
                    return true;
                }
                Room::Full if self.is_full => {}
                Room::Full => {
                    self.is_full = true;
                    self.round().await;
                    continue;
                }
            }
            let moved = self.stretch.moved.notified();
            if timeout_at(patience, moved).await.is_err() {
                patience = Instant::now() + PATIENCE;
                let slow = self.stretch.let_go(!self.shared.desk.is_empty());
                if slow > 0 {
                    let clients = slow;
                    tracing::info!(
                        clients,
                        "let go of clients that held up a reading; they go on in another"
                    );
                }
            }
        }
    }

    fn count(&mut self) {
        self.since_round += 1;
    }

    /// What lies between this reading and what is live.
    fn remaining(&self) -> Remaining {
        let reached = self.stretch.log.tail();
        let live = &self.shared.log;
        let floor = live.lock().history.floor();
        if floor.is_none_or(|floor| floor.position >= reached) {
            Remaining::Older
        } else if live.tail() > reached {
            Remaining::InMemory
        } else {
            Remaining::Nothing
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        lock(&self.stretch.attached).closed = true;
        self.stretch.wake();
    }
}
