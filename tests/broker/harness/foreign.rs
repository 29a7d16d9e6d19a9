//! Programs that share no line of code with the bridge: Python's pika and aio-pika, as back ends use them, and PyJWT.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use super::{Vhost, command, secrets};

/// A client library of another language.
#[derive(Clone, Copy, Debug)]
pub enum Foreign {
    Pika,
    AioPika,
    /// Pika in a program whose texts are in Latin-1: what is not ASCII goes out as bytes that are not UTF-8.
    Latin1,
    /// Pika in a program that makes its headers itself, byte by byte: they are given in hexadecimal.
    Raw,
}

impl Foreign {
    /// Those that do as AMQP wants.
    pub const ALL: [Self; 2] = [Self::Pika, Self::AioPika];

    /// Publishes messages, each `{"topic", "body", "headers"?, "type"?, "message_id"?}`, and waits for their confirms.
    pub async fn publish(self, vhost: &Vhost, messages: &[Value]) {
        let script = match self {
            Self::Pika => "pika_publish.py",
            Self::AioPika => "aio_pika_publish.py",
            Self::Latin1 => "latin1_publish.py",
            Self::Raw => "raw_publish.py",
        };
        let mut process = python(script)
            .arg(vhost.url())
            .stderr(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let mut input = process.stdin.take().expect("stdin is a pipe");
        for message in messages {
            secrets::note_body(message["body"].as_str().unwrap_or_default().as_bytes());
            writeln!(input, "{message}").expect("Python reads");
        }
        drop(input);
        let waiting = tokio::task::spawn_blocking(|| process.wait_with_output());
        let output = waiting.await.expect("no panic").expect("Python ends");
        assert!(
            output.status.success(),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// One header in the bytes that AMQP has for it: its name, the letter of its type, and its value.
pub fn raw_header(name: &str, kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(name.len()).expect("a short name");
    [&[length], name.as_bytes(), &[kind], value].concat()
}

/// The same, with a value that says how long it is.
pub fn raw_long_header(name: &str, kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).expect("a short value");
    raw_header(name, kind, &[&length.to_be_bytes(), value].concat())
}

/// As [`Foreign::Raw`] takes headers.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An issuer of tokens: PyJWT, with keys that nobody else has.
pub struct Issuer {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Issuer {
    pub fn start() -> Self {
        let mut process = python("pyjwt_issuer.py").spawn().expect("Python starts");
        let input = process.stdin.take().expect("stdin is a pipe");
        let output = BufReader::new(process.stdout.take().expect("stdout is a pipe"));
        Self {
            process,
            input,
            output,
        }
    }

    /// Makes a key; its public half, as a JWK.
    pub fn make_key(&mut self, algorithm: &str, key_id: &str) -> Value {
        self.ask(&json!({"make": algorithm, "kid": key_id}))
    }

    /// A token with these claims, signed with a key that was made before.
    pub fn sign(&mut self, key_id: &str, claims: &Value) -> String {
        let token = self.ask(&json!({"sign": key_id, "claims": claims}));
        let token = token.as_str().expect("a token");
        secrets::note(token);
        token.to_owned()
    }

    fn ask(&mut self, command: &Value) -> Value {
        writeln!(self.input, "{command}").expect("Python reads");
        let mut answer = String::new();
        self.output.read_line(&mut answer).expect("Python answers");
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A script of `tests/broker/foreign`, with pipes to talk to it.
fn python(script: &str) -> Command {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = folder.join("target/foreign-venv/bin/python");
    assert!(
        python.exists(),
        "{} is missing: `make setup` makes it",
        python.display()
    );
    let mut command = command(python);
    command
        .arg(folder.join("tests/broker/foreign").join(script))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}
