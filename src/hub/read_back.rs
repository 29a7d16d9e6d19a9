//! Serving what is no longer in memory. Those who came back for it wait at the *desk*; there they are gathered into
//! *readings* of the stream, each of which serves everybody whose cursor it passes, and when they have caught up with
//! memory they are live.
//!
//! A reading fills a log of its own, so that its readers merge, wake and join as live ones do. It differs in one thing:
//! nothing is dropped that somebody still needs. It waits for its readers instead, and lets go of one that holds up
//! others: that one comes to the desk again and goes on where it was.

use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout_at};

use super::channel::Signal;
use super::history::Located;
use super::log::{Log, State};
use super::reader::{Missed, Reader, Start};
use super::subscription::{Gap, GapReason, Update};
use super::{Numbering, Shared, lock};
use crate::event::audience::Audience;
use crate::event::filter::Filter;
use crate::event::id::{EventId, Position};
use crate::event::scope::Scope;
use crate::frame::Frame;

/// How long nobody may have come to the desk before a reading begins: clients that lost one server return together.
const GATHER: Duration = Duration::from_millis(50);
/// How long the first of them waits at most.
const LONGEST_GATHER: Duration = Duration::from_secs(1);
/// How many records before the lowest cursor a reading begins, so that a repeat is known by the message that it repeats.
const LOOK_BACK: u64 = small(4096);
/// How long somebody waits at the desk before its turn comes, however many come after it who are nearer.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Cursors that are not farther than this from each other share a reading, however near the tail they are.
const NEAR: u64 = small(8192);
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

/// In tests of the hub bounds are small, so that few events reach them.
const fn small(bound: u64) -> u64 {
    if cfg!(test) { bound / 256 } else { bound }
}

/// Up to where a returning client has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// It has nothing: it begins with the oldest record that is kept.
    Oldest,
    /// Up to this record, which is yet to be seen.
    After(EventId),
}

impl From {
    /// The lowest position that a reading must pass to serve it.
    fn needs(self) -> u64 {
        match self {
            Self::Oldest => 0,
            Self::After(id) => id.position.get(),
        }
    }
}

/// One returning client, as its reading knows it. Dropped when the client leaves; lists hold it weakly.
#[derive(Debug)]
struct Seat {
    signal: Arc<Signal>,
    scope: Arc<Scope>,
    /// The lowest position it still needs. Moved by its client alone.
    needs: AtomicU64,
    /// It held up others.
    let_go: AtomicBool,
    /// Given to it when a reading takes it, for its client to fetch.
    place: Mutex<Option<Place>>,
    /// When it came to the desk.
    since: Instant,
}

/// A place in a reading.
#[derive(Debug)]
struct Place {
    stretch: Arc<Stretch>,
    reader: Reader,
    /// Since when the reading serves it.
    since: Instant,
}

impl Seat {
    fn needs(&self) -> u64 {
        self.needs.load(Ordering::Acquire)
    }
}

/// Where returning clients wait, and the readings there are.
#[derive(Debug, Default)]
pub(super) struct Desk {
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// In no order. As many as there are connections at most.
    waiting: Vec<Weak<Seat>>,
    readings: Vec<Weak<Stretch>>,
    /// How many ever came, to see whether they keep coming.
    arrivals: u64,
}

impl Desk {
    /// Takes a seat in a reading that has not passed it yet, or waits for one. `newest` is the newest live position.
    fn take(&self, seat: &Arc<Seat>, newest: u64) {
        let mut queue = lock(&self.queue);
        queue.readings.retain(|reading| reading.strong_count() > 0);
        let taken = queue
            .readings
            .iter()
            .filter_map(Weak::upgrade)
            .any(|reading| reading.is_worth_waiting_for(seat, newest) && reading.attach(seat));
        if !taken {
            if queue.waiting.len() == queue.waiting.capacity() {
                // Before it grows: who has left needs no place.
                queue.waiting.retain(|seat| seat.strong_count() > 0);
            }
            queue.waiting.push(Arc::downgrade(seat));
            queue.arrivals += 1;
            self.arrived.notify_one();
        }
    }

    /// Wakes everybody who waits or is served.
    pub(super) fn wake(&self) {
        let queue = lock(&self.queue);
        for seat in queue.waiting.iter().filter_map(Weak::upgrade) {
            seat.signal.raise();
        }
        for reading in queue.readings.iter().filter_map(Weak::upgrade) {
            reading.wake();
        }
    }

    fn arrivals(&self) -> u64 {
        lock(&self.queue).arrivals
    }

    fn is_empty(&self) -> bool {
        let mut queue = lock(&self.queue);
        queue.waiting.retain(|seat| seat.strong_count() > 0);
        queue.waiting.is_empty()
    }

    /// Makes a reading for a group of those who wait, the nearest to the tail: they are served soonest; but for that of who has
    /// waited too long, if there is one. Nobody is made to read, or to wait, more than twice as far as it came from, so that
    /// all groups together read at most twice what the farthest client needs.
    fn group(&self, newest: u64) -> Option<Arc<Stretch>> {
        let mut queue = lock(&self.queue);
        let mut seats: Vec<Arc<Seat>> = queue.waiting.iter().filter_map(Weak::upgrade).collect();
        seats.sort_by_key(|seat| seat.needs());
        let groups = groups(seats.iter().map(|seat| seat.needs()), newest);
        let longest = seats.iter().enumerate().min_by_key(|(_, seat)| seat.since);
        let urgent = longest.filter(|(_, seat)| seat.since.elapsed() > LONGEST_WAIT);
        let group = match urgent {
            Some((index, _)) => groups.into_iter().find(|group| group.contains(&index)),
            None => groups.into_iter().next_back(),
        }?;
        let mut chosen: Vec<Arc<Seat>> = seats.drain(group).collect();
        queue.waiting = seats.iter().map(Arc::downgrade).collect();
        let lowest = chosen.first()?.needs();
        // Not beyond the newest that is known: beyond the end of a stream there is silence.
        let begin = lowest.saturating_sub(LOOK_BACK).min(newest);
        let stretch = Arc::new(Stretch::new(Position::new(begin)));
        chosen.retain(|seat| !stretch.attach(seat));
        // It begins below them all, so that none is refused; whoever were would wait on.
        queue.waiting.extend(chosen.iter().map(Arc::downgrade));
        queue.readings.push(Arc::downgrade(&stretch));
        Some(stretch)
    }
}

/// The groups of cursors in rising order, made from the farthest on: each of those that are not nearer than half as far as
/// its first.
fn groups(cursors: impl Iterator<Item = u64>, newest: u64) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut farthest = 0;
    for (index, cursor) in cursors.enumerate() {
        let distance = newest.saturating_sub(cursor).max(NEAR);
        match groups.last_mut() {
            Some(group) if distance >= farthest / 2 => group.end = index + 1,
            _ => {
                groups.push(index..index + 1);
                farthest = distance;
            }
        }
    }
    groups
}

/// What a reading has read and its readers still need.
#[derive(Debug)]
struct Stretch {
    log: Arc<Log>,
    begin: Position,
    attached: Mutex<Attached>,
    /// A reader needs less than it did.
    moved: Notify,
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
enum Found {
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
    fn new(begin: Position) -> Self {
        Self {
            log: Arc::new(Log::new(Numbering::Offsets)),
            begin,
            attached: Mutex::default(),
            moved: Notify::new(),
        }
    }

    /// Whether a client is not so far from this reading that one of its own were better.
    fn is_worth_waiting_for(&self, seat: &Seat, newest: u64) -> bool {
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
    fn attach(self: &Arc<Self>, seat: &Arc<Seat>) -> bool {
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

    fn is_closed(&self) -> bool {
        lock(&self.attached).closed
    }

    fn wake(&self) {
        for seat in lock(&self.attached).seats.iter().filter_map(Weak::upgrade) {
            seat.signal.raise();
        }
    }

    fn find(&self, from: From, since: Instant) -> Found {
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
        let more = |history: &super::history::History| {
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

/// Who waits for readings.
#[derive(Debug)]
pub struct Readings {
    shared: Arc<Shared>,
}

impl Readings {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The next reading that somebody waits for, when those who come with it are here too. Cancel-safe.
    pub async fn next(&mut self) -> Reading {
        let desk = &self.shared.desk;
        loop {
            while desk.is_empty() {
                desk.arrived.notified().await;
            }
            let longest = Instant::now() + LONGEST_GATHER;
            let mut arrivals = desk.arrivals();
            loop {
                sleep(GATHER).await;
                let so_far = arrivals;
                arrivals = desk.arrivals();
                if arrivals == so_far || Instant::now() >= longest {
                    break;
                }
            }
            if let Some(stretch) = desk.group(self.shared.newest()) {
                return Reading {
                    stretch,
                    shared: Arc::clone(&self.shared),
                    since_round: 0,
                    woken: 0,
                    asked: None,
                    is_full: false,
                };
            }
        }
    }
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

/// A subscription whose client came back for what is no longer in memory.
#[derive(Debug)]
pub(super) struct Returning {
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
pub(super) enum Turn {
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
    pub(super) fn new(
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
    pub(super) fn look(
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
    pub(super) fn checkpoint(&self) -> Option<EventId> {
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

/// Whoever leaves a reading makes room in it.
impl Drop for Place {
    fn drop(&mut self) {
        self.stretch.moved.notify_one();
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

fn queue(shared: &Shared, scope: &Arc<Scope>, signal: &Arc<Signal>, from: From) -> Arc<Seat> {
    let seat = Arc::new(Seat {
        signal: Arc::clone(signal),
        scope: Arc::clone(scope),
        needs: AtomicU64::new(from.needs()),
        let_go: AtomicBool::new(false),
        place: Mutex::default(),
        since: Instant::now(),
    });
    shared.desk.take(&seat, shared.newest());
    seat
}

impl Shared {
    /// The newest live position.
    fn newest(&self) -> u64 {
        self.log.tail().get().saturating_sub(1)
    }

    /// Joins what is live after this record, if all that follows it for this scope is in memory.
    fn join_live(&self, id: EventId, scope: &Arc<Scope>, signal: &Arc<Signal>) -> Option<Reader> {
        let mut state = self.log.lock();
        if state.history.locate(id) != Located::Known {
            return None;
        }
        let start = match id {
            EventId::ORIGIN => Start::Oldest,
            id => Start::After(id),
        };
        let (reader, lost) = Reader::join(&self.log, &mut state, scope, signal, start);
        drop(state);
        (!lost).then_some(reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::id::Mark;
    use crate::hub::{Backpressure, HubConfig, hub};
    use crate::metrics::Metrics;

    #[test]
    #[expect(
        clippy::single_range_in_vec_init,
        reason = "one group is a range, not its members"
    )]
    fn a_group_is_of_those_who_came_from_not_less_than_half_as_far() {
        let newest = 1_000_000;
        for (cursors, expected) in [
            (vec![], vec![]),
            (vec![0], vec![0..1]),
            (vec![0, 400_000], vec![0..2]),
            (vec![0, 400_000, 600_000, 700_000], vec![0..2, 2..4]),
            (
                vec![0, 600_000, 900_000, 960_000],
                vec![0..1, 1..2, 2..3, 3..4],
            ),
            (
                vec![newest - 2 * NEAR, newest - NEAR, newest - 1],
                vec![0..3],
            ),
            (vec![1_000_005], vec![0..1]),
        ] {
            assert_eq!(
                groups(cursors.iter().copied(), newest),
                expected,
                "{cursors:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_came_from_far_is_not_passed_over_for_ever() {
        let config = HubConfig {
            channel_capacity: 0,
            backpressure: Backpressure::DropOldest,
            max_events: 10,
            max_bytes: 0,
            max_age: Duration::ZERO,
            reads_back: true,
        };
        let (mut writer, hub) = hub(config, Numbering::Offsets, Metrics::new().unwrap());
        writer.caught_up();
        let id = |position| EventId {
            position: Position::new(position),
            mark: Mark::epoch(7),
        };
        writer.pass(id(1_000_000), Instant::now());
        let shared = &hub.shared;
        let scope = Arc::new(Scope::Everything {
            tenant: None,
            broadcast: true,
        });
        let signal = Arc::new(Signal::default());
        let far = queue(shared, &scope, &signal, From::After(id(1000)));
        let mut readings = 0;
        while lock(&far.place).is_none() {
            let near = queue(shared, &scope, &signal, From::After(id(900_000)));
            let stretch = shared.desk.group(shared.newest()).unwrap();
            tokio::time::advance(Duration::from_secs(1)).await;
            drop((near, stretch));
            readings += 1;
        }
        assert_eq!(readings, 7, "the nearer ones first, but not for ever");
    }
}
