//! Who was owed what: worked out from what clients asked for and what was published, apart from the bridge's own code.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::super::history::{Intent, Scope};
use super::outline::{Outline, Place};

/// Whether an event is for a client with this scope.
pub(super) fn covers(scope: &Scope, intent: &Intent) -> bool {
    let asked = scope.everything || scope.audiences.contains(&intent.audience);
    asked
        && (scope.topics.is_empty()
            || scope
                .topics
                .iter()
                .any(|pattern| matches(pattern, &intent.topic)))
}

/// AMQP 0-9-1 §3.1.3.3: `*` is one word, `#` any number.
fn matches(pattern: &str, topic: &str) -> bool {
    fn rest(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern.split_first(), topic.split_first()) {
            (None, None) => true,
            (Some((&"#", after)), _) => (0..=topic.len()).any(|taken| rest(after, &topic[taken..])),
            (Some((&word, after)), Some((&first, others))) => {
                (word == "*" || word == first) && rest(after, others)
            }
            _ => false,
        }
    }
    rest(
        &pattern.split('.').collect::<Vec<_>>(),
        &topic.split('.').collect::<Vec<_>>(),
    )
}

/// An event that is owed, where it stands first in the log. A queue has no places: there it is the event's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) place: Place,
    pub(super) number: u64,
}

/// What is owed to each scope; thousands of clients share few of them.
pub(super) struct Scopes<'a> {
    outline: &'a Outline,
    /// Every good event of the log, where it stands first.
    good: Vec<Due>,
    skipped: u64,
    due: HashMap<Scope, Rc<[Due]>>,
}

impl<'a> Scopes<'a> {
    pub(super) fn of(outline: &'a Outline) -> Self {
        let mut scopes = Self {
            outline,
            good: Vec::new(),
            skipped: 0,
            due: HashMap::new(),
        };
        if outline.is_stream() {
            scopes.take_log();
        } else {
            scopes.take_published();
        }
        scopes
    }

    fn take_log(&mut self) {
        let mut known = HashSet::new();
        for (place, number) in &self.outline.log {
            let Some(number) = number.filter(|number| self.is_good(*number)) else {
                continue;
            };
            if known.insert(number) {
                self.good.push(Due {
                    place: *place,
                    number,
                });
            } else {
                self.skipped += 1;
            }
        }
    }

    fn take_published(&mut self) {
        let mut numbers: Vec<u64> = self.outline.published.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            if self.is_good(number) {
                let offset = i64::try_from(number).expect("numbers are small");
                self.good.push(Due {
                    place: Place {
                        generation: 0,
                        offset,
                    },
                    number,
                });
            }
        }
    }

    fn is_good(&self, number: u64) -> bool {
        let published = self.outline.published.get(&number);
        published.is_some_and(|published| published.intent.poison.is_none())
    }

    /// What clients of this scope are owed, in the log's order.
    pub(super) fn due(&mut self, scope: &Scope) -> Rc<[Due]> {
        if let Some(due) = self.due.get(scope) {
            return Rc::clone(due);
        }
        let published = &self.outline.published;
        let due: Rc<[Due]> = self
            .good
            .iter()
            .filter(|due| {
                published
                    .get(&due.number)
                    .is_some_and(|published| covers(scope, &published.intent))
            })
            .copied()
            .collect();
        self.due.insert(scope.clone(), Rc::clone(&due));
        due
    }

    /// How many records of the log repeat an earlier one.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }
}

#[test]
fn patterns_are_those_of_amqp() {
    for (pattern, topic, expected) in [
        ("team.7.x", "team.7.x", true),
        ("team.7.x", "team.7", false),
        ("team.*.x", "team.7.x", true),
        ("team.*.x", "team.7.8.x", false),
        ("team.#", "team", true),
        ("team.#.x", "team.7.8.x", true),
        ("#", "", true),
        ("*", "", true),
        ("team.7.#", "team.71.x", false),
    ] {
        assert_eq!(matches(pattern, topic), expected, "{pattern} {topic}");
    }
}
