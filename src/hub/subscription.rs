//! A reader: where it joined, what it is sent, what it is told it missed.

use std::collections::{HashSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::channel::{Cursor, Head, Signal};
use super::history::{Content, Located, Place};
use super::{Backpressure, Numbering, Shared, State, lock};
use crate::event::Break;
use crate::event::filter::Filter;
use crate::event::id::{EventId, Position};
use crate::event::scope::Scope;
use crate::frame::Frame;

/// Where a client says that it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// It is new: it gets what comes from now on.
    Never,
    /// It has everything up to this event.
    After(EventId),
    /// What it says is no id.
    Malformed,
}

/// What a client missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Why.
    pub reason: GapReason,
    /// How many events, where that is known.
    pub missed: Option<u64>,
}

/// Why a client missed something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// It did not keep up.
    Slow,
    /// What it came back for is no longer kept.
    Expired,
    /// Its id is not of this log.
    Unknown,
}

impl GapReason {
    /// As it stands on the wire and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Expired => "expired",
            Self::Unknown => "unknown",
        }
    }

    /// What readers are told of a log that broke off.
    fn of(what: Break) -> Self {
        match what {
            Break::Lost => Self::Expired,
            Break::Replaced => Self::Unknown,
        }
    }
}

/// What a subscription has to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// It has joined the log. Comes first; and again where the log broke off.
    Joined {
        /// The id up to which the client has, or was told that it missed, everything.
        checkpoint: Option<EventId>,
        /// What it missed before.
        gap: Option<Gap>,
    },
    /// Events were handed to the visitor.
    Events,
    /// The client missed something since; comes before any later event.
    Gap(Gap),
    /// The client is too slow and its stream is to end ([`Backpressure::Disconnect`]).
    Overrun,
    /// The hub was closed, and everything in it was shown. The stream is to end.
    Closed,
}

/// One client's place in the log.
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<Shared>,
    signal: Arc<Signal>,
    scope: Scope,
    filter: Filter,
    reader: Reader,
    /// The era in which it joined.
    era: u64,
    /// Events passed over since the last gap was told, and whether that count is exact.
    missed: Missed,
    /// [`Backpressure::Latest`]: what is left of the events that waited, in order.
    latest: VecDeque<Arc<Frame>>,
}

#[derive(Debug)]
enum Reader {
    /// The history is still being read.
    Waiting { resume: Resume, listener: usize },
    /// A cursor in each channel of the scope.
    Channels(Vec<Cursor>),
    /// A place in the whole log.
    Everything {
        next: Place,
        /// What is gone of the events before this was told when the reader joined.
        told: Place,
        listener: usize,
    },
}

#[derive(Clone, Copy, Debug, Default)]
struct Missed {
    events: u64,
    inexact: bool,
}

impl Missed {
    /// The ring, or the history, passed the reader.
    fn pass(&mut self, shared: &Shared, events: u64) {
        shared.metrics.events_dropped.of("slow").inc_by(events);
        self.events += events;
    }
}

/// With [`Backpressure::Latest`], a reader with more events waiting than this is behind. One that merely lags by a burst
/// of this size gets every event.
const BEHIND: u64 = 64;

/// How many events it keeps where the ring has no bound of its own.
const LATEST_CAPACITY: usize = 1024;

/// How many records a reader of everything looks at before it lets the writer in.
const RECORDS_PER_HOLD: usize = 256;

impl Subscription {
    pub(super) fn new(shared: Arc<Shared>, scope: Scope, filter: Filter, resume: Resume) -> Self {
        let signal = Arc::new(Signal::default());
        let listener = lock(&shared.waiting).add(&signal);
        Self {
            shared,
            signal,
            scope,
            filter,
            reader: Reader::Waiting { resume, listener },
            era: 0,
            missed: Missed::default(),
            latest: VecDeque::new(),
        }
    }

    /// What comes next. Events are shown to `visit` in log order until it breaks or there are no more; then, or when the
    /// first was shown, the answer is [`Update::Events`]. Wakes the task when there may be more.
    pub fn poll_update(
        &mut self,
        context: &mut Context<'_>,
        visit: impl FnMut(&Arc<Frame>) -> ControlFlow<()>,
    ) -> Poll<Update> {
        self.signal.listen(context.waker());
        // Read before looking: what was given before the hub was closed is shown first, as a queue has been told that it
        // was delivered.
        let closed = self.shared.closed.load(Ordering::Acquire);
        match self.look(visit) {
            Poll::Pending if closed => Poll::Ready(Update::Closed),
            update => update,
        }
    }

    fn look(&mut self, mut visit: impl FnMut(&Arc<Frame>) -> ControlFlow<()>) -> Poll<Update> {
        if let Reader::Waiting { resume, .. } = self.reader {
            return self.join(Some(resume));
        }
        if self.era != self.shared.era.load(Ordering::Acquire) {
            return self.join(None);
        }
        let mut any = false;
        let filter = &self.filter;
        let mut visit = |frame: &Arc<Frame>| {
            if !filter.is_empty()
                && !filter.matches(frame.topic(), frame.name(), frame.attributes())
            {
                return ControlFlow::Continue(());
            }
            any = true;
            visit(frame)
        };
        match &mut self.reader {
            Reader::Waiting { .. } => {}
            Reader::Channels(cursors) => match self.shared.config.backpressure {
                Backpressure::Latest => {
                    supersede(
                        &self.shared,
                        cursors,
                        &self.filter,
                        &mut self.latest,
                        &mut self.missed,
                    );
                    if self.missed.events == 0
                        && send_latest(&mut self.latest, &mut visit).is_continue()
                    {
                        merge(&self.shared, cursors, &mut self.missed, &mut visit);
                    }
                }
                Backpressure::DropOldest | Backpressure::Disconnect => {
                    merge(&self.shared, cursors, &mut self.missed, &mut visit);
                }
            },
            Reader::Everything { next, told, .. } => {
                follow(
                    &self.shared,
                    &self.scope,
                    self.era,
                    *told,
                    next,
                    &mut self.missed,
                    &mut visit,
                );
            }
        }
        if any {
            Poll::Ready(Update::Events)
        } else if self.missed.events > 0 {
            Poll::Ready(self.tell_missed())
        } else {
            Poll::Pending
        }
    }

    /// The newest id that this reader may be told it has everything up to; `None` while something waits for it.
    #[must_use]
    pub fn checkpoint(&self) -> Option<EventId> {
        let state = self.shared.lock();
        let is_current = self.era == self.shared.era.load(Ordering::Acquire);
        let is_at_end = match &self.reader {
            Reader::Waiting { .. } => false,
            Reader::Channels(cursors) => {
                self.latest.is_empty() && cursors.iter().all(Cursor::is_at_end)
            }
            Reader::Everything { next, .. } => *next == state.history.end(),
        };
        state
            .history
            .newest()
            .filter(|_| is_at_end && is_current && self.missed.events == 0)
    }

    fn tell_missed(&mut self) -> Update {
        let Missed { events, inexact } = std::mem::take(&mut self.missed);
        if self.shared.config.backpressure == Backpressure::Disconnect {
            return Update::Overrun;
        }
        let missed = Some(events).filter(|_| !inexact && self.filter.is_empty());
        Update::Gap(self.told(Gap {
            reason: GapReason::Slow,
            missed,
        }))
    }

    fn told(&self, gap: Gap) -> Gap {
        self.shared.metrics.gaps.of(gap.reason.as_str()).inc();
        gap
    }

    /// Joins the log, if its history has been read: for the first time, or anew because it broke off. Under the state
    /// lock, so that no event falls between what is in memory and what comes.
    fn join(&mut self, resume: Option<Resume>) -> Poll<Update> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        if !state.live {
            return Poll::Pending;
        }
        let (start, reason) = match resume {
            Some(resume) => start_of(&state, resume),
            None => (Start::Oldest, state.break_off.map(GapReason::of)),
        };
        let (reader, lost) = self.read_from(&mut state, start);
        let reason = reason.or(lost.then_some(GapReason::Expired));
        let checkpoint = match start {
            Start::After(id) => Some(id),
            Start::Tail => state.history.newest(),
            Start::Oldest => state.history.floor(),
        };
        self.leave(&mut state);
        self.reader = reader;
        self.era = shared.era.load(Ordering::Acquire);
        drop(state);
        if resume.is_some_and(|resume| resume != Resume::Never) {
            let outcome = reason.map_or("memory", GapReason::as_str);
            shared.metrics.resumes.of(outcome).inc();
        }
        let gap = reason.map(|reason| {
            self.told(Gap {
                reason,
                missed: None,
            })
        });
        Poll::Ready(Update::Joined { checkpoint, gap })
    }

    /// Stops listening.
    fn leave(&self, state: &mut State) {
        match &self.reader {
            Reader::Waiting { listener, .. } => lock(&self.shared.waiting).remove(*listener),
            Reader::Everything { listener, .. } => lock(&self.shared.everything).remove(*listener),
            Reader::Channels(cursors) => {
                for cursor in cursors {
                    cursor.leave();
                    state.registry.free_if_idle(&cursor.channel);
                }
            }
        }
    }

    /// Puts a cursor into everything that the scope names. The flag says that events after the start are gone.
    fn read_from(&self, state: &mut State, start: Start) -> (Reader, bool) {
        match &self.scope {
            Scope::Audiences(audiences) => {
                let mut lost = false;
                let cursors: Vec<Cursor> = audiences
                    .iter()
                    .map(|audience| {
                        let channel = state.registry.channel(audience);
                        let position = match start {
                            Start::Tail => return Cursor::at_tail(channel, &self.signal),
                            Start::Oldest => None,
                            Start::After(id) => Some(id.position),
                        };
                        let (cursor, evicted) = Cursor::after(channel, position, &self.signal);
                        lost |= evicted;
                        cursor
                    })
                    .collect();
                (Reader::Channels(cursors), lost)
            }
            Scope::Everything { .. } => {
                let (history, end) = (&state.history, state.history.end());
                let next = match start {
                    Start::Tail => end,
                    Start::Oldest => history.start(),
                    Start::After(id) => history.after(id.position),
                };
                let lost = (next.ordinal..end.ordinal).any(|ordinal| {
                    matches!(
                        history.get(ordinal).map(|slot| &slot.content),
                        Some(Content::Evicted(channel)) if self.scope.covers(channel.audience())
                    )
                });
                let listener = lock(&self.shared.everything).add(&self.signal);
                let reader = Reader::Everything {
                    next,
                    told: if lost { end } else { next },
                    listener,
                };
                (reader, lost)
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let shared = Arc::clone(&self.shared);
        self.leave(&mut shared.lock());
    }
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug)]
enum Start {
    After(EventId),
    Oldest,
    Tail,
}

/// Where a client's cursor leads, and what it must be told.
fn start_of(state: &State, resume: Resume) -> (Start, Option<GapReason>) {
    let reason = match resume {
        Resume::Never => return (Start::Tail, None),
        Resume::Malformed => GapReason::Unknown,
        Resume::After(id) => match state.history.locate(id) {
            // The one id that is no record's: a record may stand at its position.
            Located::Known if id == EventId::ORIGIN => return (Start::Oldest, None),
            Located::Known => return (Start::After(id), None),
            Located::Older => GapReason::Expired,
            Located::Unknown => GapReason::Unknown,
        },
    };
    let start = match state.history.numbering() {
        Numbering::Offsets => Start::Oldest,
        Numbering::Sequence(_) => Start::Tail,
    };
    (start, Some(reason))
}

/// Shows the events of all channels in log order, up to the tail as it was at the beginning. Stops where a ring has
/// passed its cursor, so that the gap is told before any later event.
fn merge(
    shared: &Shared,
    cursors: &mut [Cursor],
    missed: &mut Missed,
    visit: &mut impl FnMut(&Arc<Frame>) -> ControlFlow<()>,
) {
    let tail = shared.tail();
    loop {
        let mut first: Option<(usize, Position)> = None;
        let mut bound = tail;
        for (index, cursor) in cursors.iter_mut().enumerate() {
            match cursor.head() {
                Head::Empty => {}
                Head::Passed(events) => missed.pass(shared, events),
                Head::At(position) if position >= bound => {}
                Head::At(position) => match first {
                    Some((_, least)) if least < position => bound = position,
                    _ => {
                        bound = first.map_or(bound, |(_, least)| least);
                        first = Some((index, position));
                    }
                },
            }
        }
        if missed.events > 0 {
            return;
        }
        let Some(cursor) = first.and_then(|(index, _)| cursors.get_mut(index)) else {
            return;
        };
        if cursor.take(bound, visit).is_break() {
            return;
        }
    }
}

/// Shows the records of the whole log that the scope covers.
fn follow(
    shared: &Shared,
    scope: &Scope,
    era: u64,
    told: Place,
    next: &mut Place,
    missed: &mut Missed,
    visit: &mut impl FnMut(&Arc<Frame>) -> ControlFlow<()>,
) {
    let tail = shared.tail();
    loop {
        let run = next_run(shared, scope, era, told, *next, tail, missed);
        for (after, frame) in run.events {
            *next = after;
            if visit(&frame).is_break() {
                return;
            }
        }
        *next = run.reached;
        if run.ended {
            return;
        }
    }
}

/// A stretch of the log that was looked through under one hold of the lock.
struct Run {
    /// Its events that the scope covers, each with the place after it.
    events: Vec<(Place, Arc<Frame>)>,
    /// The place after the stretch.
    reached: Place,
    /// Whether there is nothing behind it to be shown now.
    ended: bool,
}

/// The next stretch from `next` on, no longer than the writer can wait for. It ends before an event that is gone, so that
/// what comes before that is shown first, and before an event that must wait until a gap was told.
fn next_run(
    shared: &Shared,
    scope: &Scope,
    era: u64,
    told: Place,
    next: Place,
    tail: Position,
    missed: &mut Missed,
) -> Run {
    let mut run = Run {
        events: Vec::new(),
        reached: next,
        ended: true,
    };
    let state = shared.lock();
    if era != shared.era.load(Ordering::Acquire) {
        return run;
    }
    let start = state.history.start();
    if next.ordinal < start.ordinal {
        let seen_or_told = next.events_before.max(told.events_before);
        let gone = start.events_before.saturating_sub(seen_or_told);
        missed.pass(shared, gone);
        // Whose events those were is no longer known.
        missed.inexact |= gone > 0 && !scope.is_unfenced();
        run.reached = start;
    }
    for _ in 0..RECORDS_PER_HOLD {
        let slot = state.history.get(run.reached.ordinal);
        let Some(slot) = slot.filter(|slot| slot.id.position < tail) else {
            return run;
        };
        let after = Place {
            ordinal: run.reached.ordinal + 1,
            events_before: slot.events_before + u64::from(slot.is_event()),
        };
        match &slot.content {
            Content::Evicted(channel)
                if run.reached.ordinal >= told.ordinal && scope.covers(channel.audience()) =>
            {
                if !run.events.is_empty() {
                    break;
                }
                missed.pass(shared, 1);
            }
            Content::Held(frame, _) if scope.covers(frame.audience()) => {
                if missed.events > 0 {
                    return run;
                }
                run.events.push((after, Arc::clone(frame)));
            }
            Content::Held(..) | Content::Evicted(_) | Content::Passed => {}
        }
        run.reached = after;
    }
    run.ended = false;
    run
}

/// [`Backpressure::Latest`]: where more waits than a burst, takes it all and keeps, of each routing key, the newest.
fn supersede(
    shared: &Shared,
    cursors: &mut [Cursor],
    filter: &Filter,
    latest: &mut VecDeque<Arc<Frame>>,
    missed: &mut Missed,
) {
    let waiting = latest.len() as u64 + cursors.iter().map(Cursor::behind).sum::<u64>();
    if waiting <= BEHIND {
        return;
    }
    let before = latest.len();
    let mut keep = |frame: &Arc<Frame>| {
        if filter.is_empty() || filter.matches(frame.topic(), frame.name(), frame.attributes()) {
            latest.push_back(Arc::clone(frame));
        }
        ControlFlow::Continue(())
    };
    let mut passed = Missed::default();
    merge(shared, cursors, &mut passed, &mut keep);
    missed.events += passed.events;
    if latest.len() == before {
        return;
    }
    let gathered = latest.len();
    let mut seen = HashSet::new();
    let mut newest: VecDeque<_> = VecDeque::new();
    while let Some(frame) = latest.pop_back() {
        if seen.insert(frame.topic().to_owned()) {
            newest.push_front(frame);
        }
    }
    *latest = newest;
    let superseded = (gathered - latest.len()) as u64;
    let dropped = &shared.metrics.events_dropped;
    dropped.of("superseded").inc_by(superseded);
    missed.events += superseded;
    // As many routing keys as a ring holds events: what is kept beside the ring is bounded as the ring is.
    let capacity = match shared.config.channel_capacity {
        0 => LATEST_CAPACITY,
        capacity => capacity,
    };
    while latest.len() > capacity {
        latest.pop_front();
        missed.pass(shared, 1);
    }
}

fn send_latest(
    latest: &mut VecDeque<Arc<Frame>>,
    visit: &mut impl FnMut(&Arc<Frame>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    while let Some(frame) = latest.pop_front() {
        visit(&frame)?;
    }
    ControlFlow::Continue(())
}
