//! What a client asks for: the query of `GET /events`, parsed once, into types. A parameter that is unknown, twice where
//! it may stand once, or of a wrong value is named in the answer; nothing is ignored.

use std::fmt;

use http::HeaderValue;

use crate::auth::{ACCESS_TOKEN, Wanted};
use crate::event::EventName;
use crate::event::audience::Identifier;
use crate::event::filter::Filter;
use crate::event::topic::TopicPattern;
use crate::hub::Resume;

/// The header by which a browser says where it was (WHATWG HTML §9.2.4).
pub const LAST_EVENT_ID: &str = "last-event-id";

/// How many parameters one request may bear.
const MAX_PARAMETERS: usize = 128;

/// A request for a stream.
#[derive(Clone, Debug)]
pub struct EventsRequest {
    /// Whose events.
    pub wanted: Wanted,
    /// Which of them.
    pub filter: Filter,
    /// From where on.
    pub resume: Resume,
    /// Whether `data` is the event in its envelope.
    pub envelope: bool,
    /// Whether heartbeats are events.
    pub heartbeat: Heartbeat,
}

/// What a quiet stream sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeat {
    /// A checkpoint: an id that dispatches nothing.
    Checkpoint,
    /// `bridge.heartbeat`, for scripts that watch for half-open links.
    Event,
}

/// What is wrong with a request. The text names the parameter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// Nobody knows this parameter.
    #[error("unknown parameter `{name}`; known are {known}")]
    Unknown {
        /// As it was sent, shortened.
        name: String,
        /// All that may be sent.
        known: String,
    },
    /// The value is not legal.
    #[error("parameter `{name}`: {rule}")]
    Value {
        /// Which parameter.
        name: &'static str,
        /// What it must be.
        rule: String,
    },
    /// It may stand once.
    #[error("parameter `{0}` stands twice; it may stand once")]
    Twice(&'static str),
    /// Too many parameters.
    #[error("more than {MAX_PARAMETERS} parameters")]
    TooMany,
}

const PARAMETERS: [&str; 11] = [
    "user_id",
    "team_id",
    "channel",
    "tenant_id",
    "all",
    "broadcast",
    "topic",
    "event",
    "envelope",
    "heartbeat",
    "last_event_id",
];

impl EventsRequest {
    /// Reads a request's query and its `Last-Event-ID` header, which wins over the parameter. `attributes` are the names
    /// that routing-key templates give, by which clients may filter.
    ///
    /// # Errors
    /// [`BadRequest`] names what is wrong. A malformed last id is not: a browser cannot mend it, so it is told of a gap.
    pub fn parse(
        query: Option<&str>,
        last_event_id_header: Option<&HeaderValue>,
        attributes: &[String],
    ) -> Result<Self, BadRequest> {
        let mut wanted = Wanted {
            broadcast: true,
            ..Wanted::default()
        };
        let mut filter = Filter::default();
        let (mut broadcast, mut envelope, mut heartbeat, mut last_event_id) =
            (None, None, None, None);
        for (count, (name, value)) in
            form_urlencoded::parse(query.unwrap_or_default().as_bytes()).enumerate()
        {
            if count == MAX_PARAMETERS {
                return Err(BadRequest::TooMany);
            }
            match &*name {
                // Whether it may stand here was judged with the token itself.
                ACCESS_TOKEN => {}
                "user_id" => wanted.users.push(identifier("user_id", &value)?),
                "team_id" => wanted.teams.push(identifier("team_id", &value)?),
                "channel" => wanted.channels.push(identifier("channel", &value)?),
                "tenant_id" => once(
                    "tenant_id",
                    &mut wanted.tenant,
                    identifier("tenant_id", &value)?,
                )?,
                "all" => once("all", &mut wanted.all, boolean("all", &value)?)?,
                "broadcast" => once("broadcast", &mut broadcast, boolean("broadcast", &value)?)?,
                "envelope" => once("envelope", &mut envelope, boolean("envelope", &value)?)?,
                "heartbeat" => once("heartbeat", &mut heartbeat, heartbeat_of(&value)?)?,
                "last_event_id" => once("last_event_id", &mut last_event_id, value.into_owned())?,
                "topic" => {
                    let pattern: Result<TopicPattern, _> = value.parse();
                    filter
                        .topics
                        .push(pattern.map_err(|error| illegal("topic", &error))?);
                }
                "event" => {
                    let event: Result<EventName, _> = value.parse();
                    filter
                        .names
                        .push(event.map_err(|error| illegal("event", &error))?);
                }
                other => match attributes.iter().find(|attribute| *attribute == other) {
                    Some(attribute) => add_attribute(&mut filter, attribute, value.into_owned()),
                    None => return Err(unknown(other, attributes)),
                },
            }
        }
        wanted.broadcast = broadcast.unwrap_or(true);
        Ok(Self {
            wanted,
            filter,
            resume: resume(last_event_id_header, last_event_id.as_deref()),
            envelope: envelope.unwrap_or(false),
            heartbeat: heartbeat.unwrap_or(Heartbeat::Checkpoint),
        })
    }
}

/// Where the client was. An empty id is none: a browser sends no header then (WHATWG HTML §9.2.4).
fn resume(header: Option<&HeaderValue>, parameter: Option<&str>) -> Resume {
    let header = header.map(|value| value.to_str().unwrap_or("\u{fffd}"));
    match header
        .filter(|id| !id.is_empty())
        .or(parameter)
        .unwrap_or_default()
    {
        "" => Resume::Never,
        id => id.parse().map_or(Resume::Malformed, Resume::After),
    }
}

fn identifier(name: &'static str, value: &str) -> Result<Identifier, BadRequest> {
    value.parse().map_err(|error| illegal(name, &error))
}

fn boolean(name: &'static str, value: &str) -> Result<bool, BadRequest> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(illegal(name, &"must be `true` or `false`")),
    }
}

fn heartbeat_of(value: &str) -> Result<Heartbeat, BadRequest> {
    match value {
        "checkpoint" => Ok(Heartbeat::Checkpoint),
        "event" => Ok(Heartbeat::Event),
        _ => Err(illegal("heartbeat", &"must be `checkpoint` or `event`")),
    }
}

fn illegal(name: &'static str, rule: &dyn fmt::Display) -> BadRequest {
    BadRequest::Value {
        name,
        rule: rule.to_string(),
    }
}

fn once<T>(name: &'static str, place: &mut Option<T>, value: T) -> Result<(), BadRequest> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(BadRequest::Twice(name)),
    }
}

fn add_attribute(filter: &mut Filter, name: &str, value: String) {
    match filter
        .attributes
        .iter_mut()
        .find(|(known, _)| known == name)
    {
        Some((_, values)) => values.push(value),
        None => filter.attributes.push((name.to_owned(), vec![value])),
    }
}

fn unknown(name: &str, attributes: &[String]) -> BadRequest {
    let known: Vec<&str> = PARAMETERS
        .into_iter()
        .chain(attributes.iter().map(String::as_str))
        .collect();
    BadRequest::Unknown {
        name: name.chars().filter(|c| !c.is_control()).take(64).collect(),
        known: known.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<EventsRequest, BadRequest> {
        EventsRequest::parse(Some(query), None, &["job_id".to_owned()])
    }

    #[test]
    fn nothing_asked_for_is_everything_with_broadcasts() {
        let request = parse("").unwrap();
        assert_eq!(
            request.wanted,
            Wanted {
                broadcast: true,
                ..Wanted::default()
            }
        );
        assert!(request.filter.is_empty());
        assert_eq!(request.resume, Resume::Never);
    }

    #[test]
    fn parameters_repeat_as_a_union() {
        let request = parse("team_id=7&team_id=8&user_id=42&job_id=9&job_id=10").unwrap();
        assert_eq!(request.wanted.teams.len(), 2);
        assert_eq!(request.wanted.users.len(), 1);
        assert_eq!(
            request.filter.attributes,
            [("job_id".to_owned(), vec!["9".to_owned(), "10".to_owned()])]
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, text) in [
            ("team=7", "unknown parameter `team`"),
            ("team_id=", "parameter `team_id`"),
            ("team_id=a%0Ab", "parameter `team_id`"),
            ("team_id=%FF", "parameter `team_id`"),
            ("all=yes", "parameter `all`: must be `true` or `false`"),
            ("all=true&all=true", "parameter `all` stands twice"),
            ("heartbeat=never", "parameter `heartbeat`"),
            ("topic=", "parameter `topic`"),
            ("event=bridge.gap", "parameter `event`"),
        ] {
            let error = parse(query).unwrap_err().to_string();
            assert!(error.starts_with(text), "{query}: {error}");
        }
        let many = "team_id=7&".repeat(MAX_PARAMETERS + 1);
        assert_eq!(parse(&many).unwrap_err(), BadRequest::TooMany);
    }

    #[test]
    fn the_header_wins_over_the_parameter_and_garbage_is_a_gap_not_an_error() {
        assert_eq!(
            resume(None, Some("7-0000000a")),
            Resume::After("7-0000000a".parse().unwrap())
        );
        assert_eq!(resume(None, Some("seven")), Resume::Malformed);
        let header = HeaderValue::from_static("8-0000000a");
        assert_eq!(
            resume(Some(&header), Some("7-0000000a")),
            Resume::After("8-0000000a".parse().unwrap())
        );
        let garbage = HeaderValue::from_bytes(b"\xff").unwrap();
        assert_eq!(resume(Some(&garbage), None), Resume::Malformed);
    }
}
