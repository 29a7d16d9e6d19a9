//! A reader's place in a log, and how what it has not seen yet is shown to it: in log order, once, and up to where
//! something is gone.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::channel::{Cursor, Head};
use super::history::{Content, Place};
use super::listeners::Signal;
use super::log::{Log, State};
use crate::event::id::{EventId, Position};
use crate::event::scope::Scope;
use crate::frame::Frame;

/// How many records a reader of everything looks at before it lets the writer in.
const RECORDS_PER_HOLD: usize = 256;

/// Where a reader begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start {
    After(EventId),
    Oldest,
    Tail,
}

/// A place in a log, among whose listeners it is until it is dropped. Not to be dropped under that log's lock.
#[derive(Debug)]
pub(super) struct Reader {
    log: Arc<Log>,
    scope: Arc<Scope>,
    /// The era in which it joined.
    era: u64,
    at: At,
}

#[derive(Debug)]
enum At {
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

/// Events that a reader was passed over, since that was last told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Missed {
    /// The ring, or the history, passed the reader.
    pub(super) passed: u64,
    /// Newer ones of the same routing key were kept in their stead.
    pub(super) superseded: u64,
    /// Whether those were not all the reader's.
    pub(super) inexact: bool,
}

impl Missed {
    pub(super) fn is_none(self) -> bool {
        self.events() == 0
    }

    pub(super) fn events(self) -> u64 {
        self.passed + self.superseded
    }
}

impl Reader {
    /// Joins the log whose state this is. The flag says that events after the start are gone.
    pub(super) fn join(
        log: &Arc<Log>,
        state: &mut State,
        scope: &Arc<Scope>,
        signal: &Arc<Signal>,
        start: Start,
    ) -> (Self, bool) {
        let (at, lost) = match &**scope {
            Scope::Audiences(audiences) => {
                let mut lost = false;
                let cursors = audiences.iter().map(|audience| {
                    let channel = state.registry.channel(audience);
                    let position = match start {
                        Start::Tail => return Cursor::at_tail(channel, signal),
                        Start::Oldest => None,
                        Start::After(id) => Some(id.position),
                    };
                    let (cursor, evicted) = Cursor::after(channel, position, signal);
                    lost |= evicted;
                    cursor
                });
                (At::Channels(cursors.collect()), lost)
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
                        Some(Content::Evicted(channel)) if scope.covers(channel.audience())
                    )
                });
                let at = At::Everything {
                    next,
                    told: if lost { end } else { next },
                    listener: log.everything().add(signal),
                };
                (at, lost)
            }
        };
        let reader = Self {
            log: Arc::clone(log),
            scope: Arc::clone(scope),
            era: log.era(),
            at,
        };
        (reader, lost)
    }

    /// Whether the log still goes on where this reader joined it.
    pub(super) fn is_current(&self) -> bool {
        self.era == self.log.era()
    }

    /// Its cursors; none where it reads the whole log.
    pub(super) fn cursors(&self) -> &[Cursor] {
        match &self.at {
            At::Channels(cursors) => cursors,
            At::Everything { .. } => &[],
        }
    }

    /// Shows what is new, in log order, up to the tail as it was at the beginning, for as long as `visit` wants more.
    /// Stops where something is gone, so that the gap is told before any later event.
    pub(super) fn show(
        &mut self,
        missed: &mut Missed,
        visit: &mut impl FnMut(&Arc<Frame>) -> ControlFlow<()>,
    ) {
        match &mut self.at {
            At::Channels(cursors) => merge(&self.log, cursors, missed, visit),
            At::Everything { next, told, .. } => {
                let whole = Whole {
                    log: &self.log,
                    scope: &self.scope,
                    era: self.era,
                    told: *told,
                };
                whole.follow(next, missed, visit);
            }
        }
    }

    /// The newest id, if nothing before it waits for this reader.
    pub(super) fn checkpoint(&self) -> Option<EventId> {
        let state = self.log.lock();
        let is_at_end = match &self.at {
            At::Channels(cursors) => cursors.iter().all(Cursor::is_at_end),
            At::Everything { next, .. } => *next == state.history.end(),
        };
        state
            .history
            .newest()
            .filter(|_| is_at_end && self.is_current())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        match &self.at {
            At::Everything { listener, .. } => self.log.everything().remove(*listener),
            At::Channels(cursors) => {
                let mut state = self.log.lock();
                for cursor in cursors {
                    cursor.leave();
                    state.registry.free_if_idle(&cursor.channel);
                }
            }
        }
    }
}

/// Shows the events of all channels in log order, up to the tail as it was at the beginning. Stops where a ring has
/// passed its cursor, so that the gap is told before any later event.
fn merge(
    log: &Log,
    cursors: &mut [Cursor],
    missed: &mut Missed,
    visit: &mut impl FnMut(&Arc<Frame>) -> ControlFlow<()>,
) {
    let tail = log.tail();
    loop {
        let mut first: Option<(usize, Position)> = None;
        let mut bound = tail;
        for (index, cursor) in cursors.iter_mut().enumerate() {
            match cursor.head() {
                Head::Empty => {}
                Head::Passed(events) => missed.passed += events,
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
        if !missed.is_none() {
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

/// The whole log, as a reader of everything sees it.
struct Whole<'a> {
    log: &'a Log,
    scope: &'a Scope,
    era: u64,
    told: Place,
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

impl Whole<'_> {
    /// Shows the records from `next` on that the scope covers.
    fn follow(
        &self,
        next: &mut Place,
        missed: &mut Missed,
        visit: &mut impl FnMut(&Arc<Frame>) -> ControlFlow<()>,
    ) {
        let tail = self.log.tail();
        loop {
            let run = self.next_run(*next, tail, missed);
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

    /// The next stretch from `next` on, no longer than the writer can wait for. It ends before an event that is gone, so
    /// that what comes before that is shown first, and before an event that must wait until a gap was told.
    fn next_run(&self, next: Place, tail: Position, missed: &mut Missed) -> Run {
        let mut run = Run {
            events: Vec::new(),
            reached: next,
            ended: true,
        };
        let state = self.log.lock();
        if self.era != self.log.era() {
            return run;
        }
        let start = state.history.start();
        if next.ordinal < start.ordinal {
            let seen_or_told = next.events_before.max(self.told.events_before);
            let gone = start.events_before.saturating_sub(seen_or_told);
            missed.passed += gone;
            // Whose events those were is no longer known.
            missed.inexact |= gone > 0 && !self.scope.is_unfenced();
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
                    if run.reached.ordinal >= self.told.ordinal
                        && self.scope.covers(channel.audience()) =>
                {
                    if !run.events.is_empty() {
                        break;
                    }
                    missed.passed += 1;
                }
                Content::Held(frame, _) if self.scope.covers(frame.audience()) => {
                    if !missed.is_none() {
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
}
