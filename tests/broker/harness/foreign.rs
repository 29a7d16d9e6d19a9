//! Producers that share no line of code with the bridge: Python's pika and aio-pika, as back ends use them.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use super::{Vhost, command};

/// A client library of another language.
#[derive(Clone, Copy, Debug)]
pub enum Foreign {
    Pika,
    AioPika,
    /// Pika in a program whose texts are in Latin-1: what is not ASCII goes out as bytes that are not UTF-8.
    Latin1,
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
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = folder.join("target/foreign-venv/bin/python");
        assert!(
            python.exists(),
            "{} is missing: `make setup` makes it",
            python.display()
        );
        let mut process = command(python)
            .arg(folder.join("tests/broker/foreign").join(script))
            .arg(vhost.url())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let mut input = process.stdin.take().expect("stdin is a pipe");
        for message in messages {
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
