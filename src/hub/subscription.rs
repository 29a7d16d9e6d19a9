//! One client's way through the hub: where it joins, what it is sent, what it is told it missed.

use std::collections::{HashSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::channel::Cursor;
use super::history::{History, Located};
use super::listeners::Signal;
use super::read_back::{From, Returning, Turn};
use super::reader::{Missed, Reader, Start};
use super::{Backpressure, Numbering, Shared, lock};
use crate::event::Break;
use crate::event::filter::Filter;
use crate::event::id::EventId;
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
    Events {
        /// Whether those were all: then the task is woken when there is more, and need not ask before.
        all: bool,
    },
    /// The client missed something since; comes before any later event.
    Gap(Gap),
    /// The client is too slow and its stream is to end ([`Backpressure::Disconnect`]).
    Overrun,
    /// The hub was closed, and everything in it was shown. The stream is to end.
    Closed,
}

/// One client's subscription.
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<Shared>,
    signal: Arc<Signal>,
    scope: Arc<Scope>,
    filter: Filter,
    stage: Stage,
    missed: Missed,
    /// [`Backpressure::Latest`]: what is left of the events that waited, in order.
    latest: VecDeque<Arc<Frame>>,
}

/// How far a subscription is.
#[derive(Debug)]
enum Stage {
    /// The history is still being read.
    Waiting { resume: Resume, listener: usize },
    /// What the client came back for is being read back.
    Returning(Box<Returning>),
    /// It is sent what comes.
    Live(Reader),
}

/// Where a subscription goes from where it is.
enum Way {
    /// It joins here.
    Here(Start),
    /// It is served from the stream.
    Back(From),
}

/// With [`Backpressure::Latest`], a reader with more events waiting than this is behind. One that merely lags by a burst
/// of this size gets every event.
const BEHIND: u64 = 64;

/// How many events it keeps where the ring has no bound of its own.
const LATEST_CAPACITY: usize = 1024;

impl Subscription {
    pub(super) fn new(shared: Arc<Shared>, scope: Scope, filter: Filter, resume: Resume) -> Self {
        let signal = Arc::new(Signal::default());
        let listener = shared.waiting.add(&signal);
        Self {
            shared,
            signal,
            scope: Arc::new(scope),
            filter,
            stage: Stage::Waiting { resume, listener },
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
            Poll::Ready(Update::Events { all }) => Poll::Ready(Update::Events {
                all: all && !closed,
            }),
            update => update,
        }
    }

    fn look(&mut self, mut visit: impl FnMut(&Arc<Frame>) -> ControlFlow<()>) -> Poll<Update> {
        loop {
            match &mut self.stage {
                Stage::Waiting { resume, .. } => {
                    let resume = *resume;
                    return self.join(resume);
                }
                Stage::Returning(returning) => {
                    match returning.look(&self.shared, &self.filter, &mut visit) {
                        Turn::Wait => return Poll::Pending,
                        Turn::Tell(update) => return Poll::Ready(update),
                        Turn::Live(reader) => self.stage = Stage::Live(reader),
                        // An origin is that of every log: it does not tell whether this is still the same.
                        Turn::BrokeOff(From::After(id)) if id != EventId::ORIGIN => {
                            return self.join(Resume::After(id));
                        }
                        Turn::BrokeOff(_) => return self.join_again(),
                        Turn::Nowhere => return self.join(Resume::Malformed),
                    }
                }
                Stage::Live(reader) if !reader.is_current() => return self.join_again(),
                Stage::Live(_) => return self.look_at_live(&mut visit),
            }
        }
    }

    fn look_at_live(
        &mut self,
        visit: &mut impl FnMut(&Arc<Frame>) -> ControlFlow<()>,
    ) -> Poll<Update> {
        let Stage::Live(reader) = &mut self.stage else {
            return Poll::Pending;
        };
        let (mut any, mut all, filter) = (false, true, &self.filter);
        let mut visit = |frame: &Arc<Frame>| {
            if !filter.is_empty()
                && !filter.matches(frame.topic(), frame.name(), frame.attributes())
            {
                return ControlFlow::Continue(());
            }
            any = true;
            let wanted = visit(frame);
            all = wanted.is_continue();
            wanted
        };
        let latest = &mut self.latest;
        if self.shared.config.backpressure == Backpressure::Latest && !reader.cursors().is_empty() {
            supersede(&self.shared, reader, filter, latest, &mut self.missed);
            if self.missed.is_none() && send_latest(latest, &mut visit).is_continue() {
                reader.show(&mut self.missed, &mut visit);
            }
        } else {
            reader.show(&mut self.missed, &mut visit);
        }
        if any {
            let all = all && self.missed.is_none() && self.latest.is_empty();
            Poll::Ready(Update::Events { all })
        } else if !self.missed.is_none() {
            Poll::Ready(self.tell_missed())
        } else {
            Poll::Pending
        }
    }

    /// The newest id that this reader may be told it has everything up to; `None` while something waits for it.
    #[must_use]
    pub fn checkpoint(&self) -> Option<EventId> {
        match &self.stage {
            Stage::Waiting { .. } => None,
            Stage::Returning(returning) => returning.checkpoint(),
            Stage::Live(reader) if self.latest.is_empty() && self.missed.is_none() => {
                reader.checkpoint()
            }
            Stage::Live(_) => None,
        }
    }

    fn tell_missed(&mut self) -> Update {
        let missed = std::mem::take(&mut self.missed);
        if self.shared.config.backpressure == Backpressure::Disconnect {
            // It comes back for them: they are lost only if they are gone by then, and that it is told.
            return Update::Overrun;
        }
        let dropped = &self.shared.metrics.events_dropped;
        dropped.of("slow").inc_by(missed.passed);
        dropped.of("superseded").inc_by(missed.superseded);
        let exact = Some(missed.events()).filter(|_| !missed.inexact && self.filter.is_empty());
        Update::Gap(self.told(Gap {
            reason: GapReason::Slow,
            missed: exact,
        }))
    }

    fn told(&self, gap: Gap) -> Gap {
        self.shared.metrics.gaps.of(gap.reason.as_str()).inc();
        gap
    }

    /// Joins the log, if its history has been read.
    fn join(&mut self, resume: Resume) -> Poll<Update> {
        let shared = Arc::clone(&self.shared);
        let standing = lock(&shared.standing);
        if !standing.live {
            return Poll::Pending;
        }
        let joined = self.join_at(|history| way_of(history, resume, shared.config.reads_back));
        drop(standing);
        let Some((checkpoint, reason)) = joined else {
            return Poll::Pending;
        };
        if resume != Resume::Never {
            let outcome = reason.map_or("memory", GapReason::as_str);
            shared.metrics.resumes.of(outcome).inc();
        }
        Poll::Ready(self.joined(checkpoint, reason))
    }

    /// Joins the log anew, as it broke off.
    fn join_again(&mut self) -> Poll<Update> {
        let shared = Arc::clone(&self.shared);
        let standing = lock(&shared.standing);
        let reason = standing.break_off.map(GapReason::of);
        let joined = self.join_at(|history| {
            // What was read since is in memory, unless that is long ago.
            let since = history.floor().is_none() || history.begins_at_origin();
            match since || !shared.config.reads_back {
                true => (Way::Here(Start::Oldest), reason),
                false => (Way::Back(From::Oldest), reason),
            }
        });
        drop(standing);
        match joined {
            Some((checkpoint, reason)) => Poll::Ready(self.joined(checkpoint, reason)),
            None => Poll::Pending,
        }
    }

    fn joined(&self, checkpoint: Option<EventId>, reason: Option<GapReason>) -> Update {
        let gap = reason.map(|reason| {
            self.told(Gap {
                reason,
                missed: None,
            })
        });
        Update::Joined { checkpoint, gap }
    }

    /// Goes where `way` says, under the log's lock, so that no event falls between what is in memory and what comes.
    /// Where that leads back, there is nothing to tell yet.
    fn join_at(
        &mut self,
        way: impl FnOnce(&History) -> (Way, Option<GapReason>),
    ) -> Option<(Option<EventId>, Option<GapReason>)> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.log.lock();
        let (way, reason) = way(&state.history);
        let start = match way {
            Way::Here(start) => start,
            Way::Back(from) => {
                drop(state);
                self.return_from(from, reason);
                return None;
            }
        };
        let (reader, lost) =
            Reader::join(&shared.log, &mut state, &self.scope, &self.signal, start);
        let checkpoint = match start {
            Start::After(id) => Some(id),
            Start::Tail => state.history.newest(),
            Start::Oldest => state.history.floor(),
        };
        drop(state);
        if lost && shared.config.reads_back {
            let from = match start {
                Start::After(id) => From::After(id),
                Start::Oldest | Start::Tail if reason.is_none() => From::After(EventId::ORIGIN),
                Start::Oldest | Start::Tail => From::Oldest,
            };
            drop(reader);
            self.return_from(from, reason);
            return None;
        }
        self.enter(Stage::Live(reader));
        Some((checkpoint, reason.or(lost.then_some(GapReason::Expired))))
    }

    fn return_from(&mut self, from: From, reason: Option<GapReason>) {
        let (shared, scope, signal) = (&self.shared, &self.scope, &self.signal);
        let returning = Returning::new(shared, scope, signal, from, reason);
        self.enter(Stage::Returning(Box::new(returning)));
    }

    fn enter(&mut self, stage: Stage) {
        self.leave();
        self.latest.clear();
        self.missed = Missed::default();
        self.stage = stage;
    }

    fn leave(&self) {
        if let Stage::Waiting { listener, .. } = self.stage {
            self.shared.waiting.remove(listener);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Where a client's cursor leads, and what it must be told.
fn way_of(history: &History, resume: Resume, reads_back: bool) -> (Way, Option<GapReason>) {
    let reason = match resume {
        Resume::Never => return (Way::Here(Start::Tail), None),
        Resume::Malformed => GapReason::Unknown,
        Resume::After(id) => match history.locate(id) {
            // The one id that is no record's: a record may stand at its position.
            Located::Known if id == EventId::ORIGIN => return (Way::Here(Start::Oldest), None),
            Located::Known => return (Way::Here(Start::After(id)), None),
            // The stream itself knows whether it is.
            Located::Older | Located::Ahead if reads_back => {
                return (Way::Back(From::After(id)), None);
            }
            Located::Older => GapReason::Expired,
            Located::Ahead | Located::Unknown => GapReason::Unknown,
        },
    };
    let way = match history.numbering() {
        Numbering::Offsets if reads_back && !history.begins_at_origin() => Way::Back(From::Oldest),
        Numbering::Offsets => Way::Here(Start::Oldest),
        Numbering::Sequence(_) => Way::Here(Start::Tail),
    };
    (way, Some(reason))
}

/// [`Backpressure::Latest`]: where more waits than a burst, takes it all and keeps, of each routing key, the newest.
fn supersede(
    shared: &Shared,
    reader: &mut Reader,
    filter: &Filter,
    latest: &mut VecDeque<Arc<Frame>>,
    missed: &mut Missed,
) {
    let behind = reader.cursors().iter().map(Cursor::behind).sum::<u64>();
    if latest.len() as u64 + behind <= BEHIND {
        return;
    }
    let before = latest.len();
    let mut passed = Missed::default();
    reader.show(&mut passed, &mut |frame| {
        if filter.is_empty() || filter.matches(frame.topic(), frame.name(), frame.attributes()) {
            latest.push_back(Arc::clone(frame));
        }
        ControlFlow::Continue(())
    });
    missed.passed += passed.passed;
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
    missed.superseded += (gathered - latest.len()) as u64;
    // As many routing keys as a ring holds events: what is kept beside the ring is bounded as the ring is.
    let capacity = match shared.config.channel_capacity {
        0 => LATEST_CAPACITY,
        capacity => capacity,
    };
    while latest.len() > capacity {
        latest.pop_front();
        missed.passed += 1;
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
