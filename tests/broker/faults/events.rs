//! What is published in a run, made from its number: so that whoever receives it can tell whether that is what was sent.

use std::time::{SystemTime, UNIX_EPOCH};

use super::history::{Intent, Scope};
use crate::harness::Message;

/// How many teams and users there are.
pub const TEAMS: u64 = 20;
pub const USERS: u64 = 40;

/// The largest body that the bridge takes, by default.
const LARGEST: usize = 262_144;

/// The last word of topics that are rare.
const RARE: &str = "rare";

/// An event: what is to be remembered of it, and the message.
pub fn make(number: u64, publisher: u32, random: &mut fastrand::Rng) -> (Intent, Message) {
    if random.u32(..100) == 0 {
        return make_poison(number, publisher, random);
    }
    let (team, user, job) = (random.u64(..TEAMS), random.u64(..USERS), random.u64(..10));
    let of_team = || format!("team:{team}");
    let of_user = || format!("user:{user}");
    let (audience, topic, header) = match random.u32(..100) {
        0..50 => (of_team(), format!("team.{team}.job.{job}.status"), None),
        50 => (of_team(), format!("team.{team}.{RARE}"), None),
        51..80 => (of_user(), format!("user.{user}.note"), None),
        // Addressed by its header, whatever its topic says.
        80..90 => (of_user(), format!("team.{team}.note"), Some(user)),
        _ => ("broadcast".to_owned(), "broadcast.news".to_owned(), None),
    };
    let mut message = Message::to(&topic, body(number))
        .id(&message_id(number))
        .timestamp(now());
    if let Some(user) = header {
        message = message.header("user-id", &user.to_string());
    }
    if let Some(name) = name(number) {
        message = message.kind(name);
    }
    let intent = Intent {
        number,
        publisher,
        audience,
        topic,
        poison: None,
    };
    (intent, message)
}

/// An event that marks a moment, for everybody who takes broadcasts.
pub fn make_mark(number: u64, publisher: u32) -> (Intent, Message) {
    let topic = "broadcast.mark".to_owned();
    let mut message = Message::to(&topic, body(number))
        .id(&message_id(number))
        .timestamp(now());
    if let Some(name) = name(number) {
        message = message.kind(name);
    }
    let intent = Intent {
        number,
        publisher,
        audience: "broadcast".to_owned(),
        topic,
        poison: None,
    };
    (intent, message)
}

fn make_poison(number: u64, publisher: u32, random: &mut fastrand::Rng) -> (Intent, Message) {
    let topic = format!("team.{}.job.1.status", random.u64(..TEAMS));
    let (reason, topic, bytes) = match random.u32(..20) {
        0 => ("too_large", topic, vec![b' '; LARGEST + 1]),
        1..7 => ("not_json", topic, b"{\"number\":".to_vec()),
        7..13 => ("not_utf8", topic, b"\"\xff\"".to_vec()),
        _ => ("unaddressed", "team".to_owned(), body(number).into_bytes()),
    };
    let intent = Intent {
        number,
        publisher,
        audience: "nobody".to_owned(),
        topic: topic.clone(),
        poison: Some(reason.to_owned()),
    };
    (intent, Message::to(&topic, bytes).id(&message_id(number)))
}

/// Without it a repeat is not known where it is read back.
fn now() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.expect("a clock that is set").as_secs()
}

/// The number in a message's id.
pub fn number_in(message_id: &str) -> Option<u64> {
    message_id.strip_prefix("event-")?.parse().ok()
}

pub fn message_id(number: u64) -> String {
    format!("event-{number}")
}

/// Some are long, and some have two lines, which SSE has to take apart.
fn body(number: u64) -> String {
    let length = usize::try_from(number.wrapping_mul(2_654_435_761) >> 7 & 0xff).expect("a byte");
    let separator = if number.is_multiple_of(5) { "\n" } else { "" };
    format!(
        "{{\"number\":{number},{separator}\"rest\":\"{:.>length$}\"}}",
        ""
    )
}

/// The AMQP `type`, which is the event's name.
fn name(number: u64) -> Option<&'static str> {
    number.is_multiple_of(3).then_some("job.status")
}

/// The number of an event as a client received it; none if it is not, to the letter, what was published.
pub fn number_of_received(event_name: &str, data: &str) -> Option<u64> {
    let digits = data.strip_prefix("{\"number\":")?;
    let (digits, _) = digits.split_once(',')?;
    let number = digits.parse().ok()?;
    (data == body(number) && event_name == name(number).unwrap_or("message")).then_some(number)
}

/// What the nth client asks for: most are users with teams, some want everything, one topic, or hear nothing for long.
pub fn scope(client: u32) -> Scope {
    let client = u64::from(client);
    let user = format!("user:{}", client % USERS);
    let teams = [client % TEAMS, (client * 7 + 3) % TEAMS].map(|team| format!("team:{team}"));
    let broadcast = "broadcast".to_owned();
    let [one, other] = teams;
    let (audiences, topics) = match client % 10 {
        0 => (vec![user, broadcast], vec![]),
        // Silent for seconds and minutes, while the log goes on.
        1 => (vec![one, other], vec![format!("team.*.{RARE}")]),
        2 => (vec!["user:nobody".to_owned()], vec![]),
        3 => (vec![broadcast], vec![]),
        4 => (
            vec![one, broadcast],
            vec!["#.status".to_owned(), "broadcast.#".to_owned()],
        ),
        _ => (vec![user, one, other, broadcast], vec![]),
    };
    let mut audiences = audiences;
    audiences.dedup();
    Scope {
        audiences,
        everything: false,
        topics,
    }
}

/// The scope of who wants everything.
pub fn everything() -> Scope {
    Scope {
        everything: true,
        ..Scope::default()
    }
}

/// A scope as the query of a request.
pub fn query(scope: &Scope) -> String {
    let mut parts: Vec<String> = Vec::new();
    for audience in &scope.audiences {
        if let Some((kind, name)) = audience.split_once(':') {
            parts.push(format!("{kind}_id={name}"));
        }
    }
    if scope.everything {
        parts.push("all=true".to_owned());
    } else if !scope
        .audiences
        .iter()
        .any(|audience| audience == "broadcast")
    {
        parts.push("broadcast=false".to_owned());
    } else if scope.audiences.len() == 1 {
        parts.push("all=false".to_owned());
    }
    for topic in &scope.topics {
        parts.push(format!("topic={}", topic.replace('#', "%23")));
    }
    parts.join("&")
}

#[test]
fn what_was_published_is_known_again_and_nothing_else_is() {
    let event = |name: Option<&'static str>| name.unwrap_or("message");
    for number in 1..100 {
        let (data, name) = (body(number), event(name(number)));
        assert_eq!(number_of_received(name, &data), Some(number));
        assert_eq!(number_of_received("other", &data), None);
        assert_eq!(number_of_received(name, &data[..data.len() - 1]), None);
        assert_eq!(number_of_received(name, &data.replace(".\"", "\"")), {
            (!data.contains(".\"")).then_some(number)
        });
    }
}
