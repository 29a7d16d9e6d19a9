//! What no log may ever hold. Every secret, password and token that a test uses, and every body that it publishes, is noted
//! here on its way to a bridge, and what a bridge wrote to its log is searched for all of them when it has ended, whichever
//! test it was started by. So a leak anywhere fails the test that found it.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard};

use serde_json::Value;
use sse_bridge::config::Secrecy;
use sse_bridge::config::settings::SETTINGS;
use url::Url;

/// What was noted.
#[derive(Default)]
struct Noted {
    /// How many of it are bodies.
    bodies: usize,
    /// The texts, by how they begin.
    texts: HashMap<[u8; SHORTEST], Vec<Box<[u8]>>>,
}

/// What was noted by all tests of this process.
static NOTED: LazyLock<Mutex<Noted>> = LazyLock::new(Mutex::default);

fn noted() -> MutexGuard<'static, Noted> {
    NOTED.lock().expect("nobody panics with it")
}

/// Shorter texts may stand in a log by chance.
const SHORTEST: usize = 7;
/// Shorter parts of bodies may, such as `{"message":"`.
const LONG_PART: usize = 16;
/// As much of a text is looked for.
const LONGEST: usize = 64;
/// As many bodies are noted as this; the others of a test say much the same.
const MOST_BODIES: usize = 50_000;

/// Notes the values of secret settings.
pub fn note_settings<'a>(environment: impl IntoIterator<Item = (&'a String, &'a String)>) {
    noted().settings(environment);
}

/// Notes the tokens in the head of a request, wherever one may stand: a header, a cookie, the query.
pub fn note_request(head: &str) {
    noted().request(head);
}

/// Notes a body that is published: as JSON that is more than a word, it stands in no log by chance.
pub fn note_body(body: &[u8]) {
    noted().body(body);
}

/// Notes what `POST /publish` is asked to publish.
pub fn note_publication(body: &str) {
    noted().publication(body);
}

/// Notes a secret.
pub fn note(secret: &str) {
    noted().secret(secret);
}

/// The line of a log that holds something that was noted.
pub fn find(log: &str) -> Option<String> {
    noted().find(log)
}

/// Fails the test whose bridge wrote this, if it holds something that was noted.
pub fn search(log: &str) {
    let Some(line) = find(log) else {
        return;
    };
    let test = std::thread::current();
    let test = test.name().unwrap_or("a test");
    eprintln!("{test}: a bridge logged a secret, a token or a body:\n{line}");
    if std::thread::panicking() {
        return;
    }
    // Nobody may look at how a task ends.
    if tokio::task::try_id().is_some() {
        std::process::exit(101);
    }
    panic!("{test}: a bridge logged a secret, a token or a body");
}

impl Noted {
    fn settings<'a>(&mut self, environment: impl IntoIterator<Item = (&'a String, &'a String)>) {
        for (name, value) in environment {
            let setting = SETTINGS.iter().find(|setting| setting.name == name);
            match setting.map(|setting| setting.secrecy) {
                Some(Secrecy::Secret) => {
                    self.secret(value);
                    // Of a list of headers, what they say.
                    let pairs = value.split(',').filter_map(|pair| pair.split_once('='));
                    pairs.for_each(|(_, value)| self.secret(value));
                }
                Some(Secrecy::Password) => value.split(',').for_each(|url| self.password(url)),
                Some(Secrecy::Open) | None => {}
            }
        }
    }

    fn password(&mut self, url: &str) {
        let password = Url::parse(url).ok().and_then(|url| {
            let password = url.password()?.to_owned();
            Some(password)
        });
        if let Some(password) = password {
            let decoded = percent_encoding::percent_decode_str(&password);
            self.secret(&decoded.decode_utf8_lossy());
            self.secret(&password);
        }
    }

    fn request(&mut self, head: &str) {
        for line in head.split("\r\n") {
            let query = line.split(['?', '&', ' ']);
            query
                .filter_map(|parameter| parameter.strip_prefix("access_token="))
                .for_each(|token| self.secret(token));
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            match name.to_ascii_lowercase().as_str() {
                "authorization" => value
                    .split_whitespace()
                    .skip(1)
                    .for_each(|token| self.secret(token)),
                "cookie" => value
                    .split(';')
                    .filter_map(|cookie| cookie.split_once('='))
                    .for_each(|(_, value)| self.secret(value)),
                _ => {}
            }
        }
    }

    fn body(&mut self, body: &[u8]) {
        let body = body.trim_ascii();
        if !matches!(body.first(), Some(b'{' | b'[' | b'"')) || body.len() < SHORTEST {
            return;
        }
        if self.bodies == MOST_BODIES {
            return;
        }
        self.bodies += 1;
        // As a list of bytes is shown for debugging.
        let bytes: Vec<String> = body.iter().take(LONGEST).map(u8::to_string).collect();
        self.add(bytes.join(", ").as_bytes());
        // What is not plain is written in many ways: of such a body its longest plain part will do.
        let is_odd = |byte: &u8| !(b' '..=b'~').contains(byte) || *byte == b'\\';
        let part = body.split(is_odd).max_by_key(|part| part.len());
        if let Some(part) = part.filter(|part| part.len() == body.len() || part.len() >= LONG_PART)
        {
            self.add(part);
        }
    }

    fn publication(&mut self, body: &str) {
        if let Ok(Value::Object(event)) = serde_json::from_str(body)
            && let Some(data) = event.get("data")
        {
            self.body(data.to_string().as_bytes());
        }
    }

    fn secret(&mut self, secret: &str) {
        self.add(secret.as_bytes());
    }

    fn add(&mut self, text: &[u8]) {
        // As it is looked for: without what a log may put before quotes.
        let text: Vec<u8> = text.iter().copied().filter(|byte| *byte != b'\\').collect();
        let text = &text[..text.len().min(LONGEST)];
        if let Some(start) = text.first_chunk() {
            let texts = self.texts.entry(*start).or_default();
            if !texts.iter().any(|known| **known == *text) {
                texts.push(text.into());
            }
        }
    }

    fn find(&self, log: &str) -> Option<String> {
        let holds = |line: &[u8]| {
            (0..line.len()).any(|at| {
                let rest = &line[at..];
                let start = rest.first_chunk::<SHORTEST>();
                let texts = start.and_then(|start| self.texts.get(start));
                texts.is_some_and(|texts| texts.iter().any(|text| rest.starts_with(text)))
            })
        };
        log.lines()
            .find(|line| holds(line.replace('\\', "").as_bytes()))
            .map(str::to_owned)
    }
}

#[test]
fn what_was_noted_is_found_however_a_log_may_write_it_and_nothing_else_is() {
    let mut noted = Noted::default();
    assert_eq!(noted.find("{\"message\":\"listening\"}"), None);
    noted.settings([
        (&"AUTH_TOKEN".to_owned(), &"planted-shared".to_owned()),
        (
            &"RABBITMQ_URL".to_owned(),
            &"amqp://u:planted%2Fpassword@h,amqp://u:planted-other@h".to_owned(),
        ),
        (&"SSE_BACKPRESSURE".to_owned(), &"planted-open".to_owned()),
    ]);
    noted.request(
        "GET /events?team_id=7&access_token=planted-query HTTP/1.1\r\nHost: h\r\nAUTHORIZATION: Bearer planted-bearer\r\n\
         Cookie: a=b; events=planted-cookie\r\n\r\n",
    );
    noted.publication(r#"{"topic":"planted-topic","data":{"planted":"publication"}}"#);
    noted.body(br#"{"planted":"body"}"#);
    noted.body("\n[\"é\", \"planted in a part\"]".as_bytes());
    for leak in [
        "token=planted-shared",
        "planted/password",
        "planted%2Fpassword",
        "planted-other",
        "/events?access_token=planted-query&x",
        "planted-bearer",
        "events=planted-cookie",
        r#"{"planted":"publication"}"#,
        r#"{\"planted\":\"body\"}"#,
        r#"{\\\"planted\\\":\\\"body\\\"}"#,
        &format!("{:?}", br#"{"planted":"body"}"#),
        &format!("{:?}", "[\"é\", \"planted in a part\"]"),
        r#"[\"\\xc3\\xa9\", \"planted in a part\"]"#,
    ] {
        let log = format!("first\nsecond {leak} more\nthird");
        let expected = format!("second {leak} more");
        assert_eq!(noted.find(&log), Some(expected), "{leak}");
    }
    for harmless in ["planted-open", "planted-topic", "planted", "planted%2Fpass"] {
        assert_eq!(noted.find(harmless), None, "{harmless}");
    }
}
