//! Patterns over topics, as an AMQP topic exchange has them: words between dots, `*` for one word, `#` for zero or
//! more (AMQP 0-9-1 §3.1.3.3).
//!
//! Words are split as RabbitMQ splits them: the empty topic has no words, and `a..b` has an empty one in the middle.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// An AMQP topic pattern, such as `team.7.job.*.status`. `*` and `#` stand for words only as whole words; `a*` is an
/// ordinary word.
#[derive(Clone, Debug)]
pub struct TopicPattern {
    /// As it was written.
    text: Box<str>,
    /// The words of `text`.
    segments: Box<[Segment]>,
    /// Whether no segment is a wildcard, so that only `text` itself matches.
    is_literal: bool,
}

impl TopicPattern {
    /// The most bytes a pattern may have: those of an AMQP short string.
    pub const MAX_BYTES: usize = 255;

    /// Whether the topic fits this pattern. Takes time proportional to the words of both, multiplied, at worst.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        if self.is_literal {
            return *self.text == *topic;
        }
        fit(&self.segments, topic, |_, _| ())
    }

    /// The pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for TopicPattern {
    type Err = BadTopicPattern;

    fn from_str(text: &str) -> Result<Self, BadTopicPattern> {
        if text.is_empty() {
            return Err(BadTopicPattern::Empty);
        }
        if text.len() > Self::MAX_BYTES {
            return Err(BadTopicPattern::TooLong { bytes: text.len() });
        }
        let segments: Box<[Segment]> = text.split('.').map(Segment::of_word).collect();
        let is_literal = segments
            .iter()
            .all(|segment| matches!(segment, Segment::Literal(_)));
        Ok(Self {
            text: Box::from(text),
            segments,
            is_literal,
        })
    }
}

impl PartialEq for TopicPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for TopicPattern {}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is no topic pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadTopicPattern {
    /// It has no bytes.
    #[error("a topic pattern is empty; `#` matches every topic")]
    Empty,
    /// It has more than 255 bytes.
    #[error(
        "a topic pattern has {bytes} bytes; AMQP allows {}",
        TopicPattern::MAX_BYTES
    )]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
}

/// One word of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// This word.
    Literal(Box<str>),
    /// Any one word.
    One,
    /// Any words, or none.
    Many,
}

impl Segment {
    pub(super) fn of_word(word: &str) -> Self {
        match word {
            "*" => Self::One,
            "#" => Self::Many,
            literal => Self::Literal(Box::from(literal)),
        }
    }
}

/// Whether the topic fits the segments, each `#` taking as few words as it can, from the left. `bind` is told which
/// word each `*` stands for, by the index of its segment; a later call for one index replaces an earlier one.
///
/// Only the last `#` is ever widened: what stands before it has matched as early as it can, so that widening an
/// earlier one could not help. That keeps the time within words times segments.
pub(super) fn fit<'t>(
    segments: &[Segment],
    topic: &'t str,
    mut bind: impl FnMut(usize, &'t str),
) -> bool {
    let mut words = Words::of(topic);
    let mut at = 0;
    // Where the last `#` ends: the segment behind it, and the first word that it has not taken.
    let mut widen: Option<(usize, Words<'t>)> = None;
    loop {
        let mut behind = words;
        match (segments.get(at), behind.next()) {
            (None, None) => return true,
            (Some(Segment::Many), _) if at + 1 == segments.len() => return true,
            (Some(Segment::Many), _) => {
                at += 1;
                widen = Some((at, words));
                continue;
            }
            // The words are used up and a segment wants one; widening would leave even fewer.
            (Some(_), None) => return false,
            (Some(Segment::One), Some(word)) => {
                bind(at, word);
                at += 1;
                words = behind;
                continue;
            }
            (Some(Segment::Literal(literal)), Some(word)) if **literal == *word => {
                at += 1;
                words = behind;
                continue;
            }
            (Some(Segment::Literal(_)) | None, Some(_)) => {}
        }
        let Some((segment, mut rest)) = widen else {
            return false;
        };
        if rest.next().is_none() {
            return false;
        }
        widen = Some((segment, rest));
        at = segment;
        words = rest;
    }
}

/// The words of a topic that are still to come.
#[derive(Clone, Copy)]
struct Words<'t>(Option<&'t str>);

impl<'t> Words<'t> {
    fn of(topic: &'t str) -> Self {
        Self(Some(topic).filter(|topic| !topic.is_empty()))
    }

    fn next(&mut self) -> Option<&'t str> {
        let rest = self.0?;
        match rest.split_once('.') {
            Some((word, rest)) => {
                self.0 = Some(rest);
                Some(word)
            }
            None => self.0.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, topic: &str) -> bool {
        pattern.parse::<TopicPattern>().unwrap().matches(topic)
    }

    #[test]
    fn topics_match_as_in_a_topic_exchange() {
        for (pattern, topic, expected) in [
            ("team.7.job.9.status", "team.7.job.9.status", true),
            ("team.7", "team.77", false),
            ("team.7", "team", false),
            ("team.*", "team.7", true),
            ("team.*", "team", false),
            ("team.*", "team.7.job", false),
            ("team.#", "team", true),
            ("team.#", "team.7.job", true),
            ("team.#", "teams", false),
            ("#.status", "status", true),
            ("#.status", "team.7.status", true),
            ("#.status", "team.7.status.x", false),
            ("a.#.b.#.c", "a.b.c", true),
            ("a.#.b.#.c", "a.x.b.b.y.c", true),
            ("a.#.b.#.c", "a.c.b", false),
            ("a.#.*.b", "a.b", false),
            ("a.#.*.b", "a.b.b", true),
            ("#", "", true),
            ("#.#", "", true),
            ("*", "", false),
            ("a", "", false),
            ("*.*", ".", true),
            ("*", ".", false),
            ("a.*.b", "a..b", true),
            ("a..b", "a..b", true),
            ("a.b", "a..b", false),
            ("a.*", "a.", true),
            ("a.", "a", false),
            ("a*", "ab", false),
            ("a*", "a*", true),
            ("A", "a", false),
        ] {
            assert_eq!(matches(pattern, topic), expected, "{pattern} on {topic:?}");
        }
    }

    #[test]
    fn a_pattern_fits_an_amqp_short_string() {
        assert_eq!("".parse::<TopicPattern>(), Err(BadTopicPattern::Empty));
        let longest = "p".repeat(255);
        assert_eq!(longest.parse::<TopicPattern>().unwrap().as_str(), longest);
        let bytes = 256;
        let long = "p".repeat(bytes).parse::<TopicPattern>();
        assert_eq!(long, Err(BadTopicPattern::TooLong { bytes }));
    }

    /// With backtracking into every `#` this one would not end within the age of the universe.
    #[test]
    fn many_wildcards_on_a_long_topic_end() {
        let pattern = format!("{}b", "#.a.".repeat(62));
        let topic = vec!["a"; 50_000].join(".");
        assert!(!matches(&pattern, &topic));
        assert!(matches(&pattern, &format!("{topic}.b")));
    }

    /// RabbitMQ's rules as plainly as they can be said.
    fn model(pattern: &[&str], topic: &[&str]) -> bool {
        match pattern.split_first() {
            None => topic.is_empty(),
            Some((&"#", behind)) => (0..=topic.len()).any(|taken| model(behind, &topic[taken..])),
            Some((word, behind)) => topic.split_first().is_some_and(|(first, rest)| {
                (*word == "*" || word == first) && model(behind, rest)
            }),
        }
    }

    /// As `split_topic_key` of RabbitMQ's topic exchange.
    fn words(key: &str) -> Vec<&str> {
        if key.is_empty() {
            Vec::new()
        } else {
            key.split('.').collect()
        }
    }

    fn key_of(alphabet: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
        let word = proptest::sample::select(alphabet);
        proptest::collection::vec(word, 0..=most).prop_map(|words| words.join("."))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn matching_equals_the_model(
            pattern in key_of(&["a", "b", "", "*", "#", "#", "ab"], 7),
            topic in key_of(&["a", "b", "", "ab", "*", "#"], 8),
        ) {
            prop_assume!(!pattern.is_empty());
            let expected = model(&words(&pattern), &words(&topic));
            prop_assert_eq!(matches(&pattern, &topic), expected);
        }

        #[test]
        fn what_a_star_stands_for_makes_the_pattern_match_literally(
            pattern in key_of(&["a", "b", "*", "#"], 6),
            topic in key_of(&["a", "b", ""], 8),
        ) {
            prop_assume!(!pattern.is_empty());
            let segments: Vec<Segment> = pattern.split('.').map(Segment::of_word).collect();
            let mut bound: Vec<&str> = pattern.split('.').collect();
            if fit(&segments, &topic, |segment, word| bound[segment] = word) {
                prop_assert!(model(&bound, &words(&topic)), "{:?}", bound);
            }
        }

        #[test]
        fn no_text_makes_a_pattern_panic(pattern in any::<String>(), topic in any::<String>()) {
            if let Ok(pattern) = pattern.parse::<TopicPattern>() {
                prop_assert_eq!(pattern.matches(&topic), pattern.clone().matches(&topic));
                prop_assert!(topic.is_empty() || !pattern.is_literal || pattern.matches(pattern.as_str()));
            }
        }
    }
}
