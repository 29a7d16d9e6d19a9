//! Where log lines go: to standard error, one JSON object a line for machines or coloured for people.

use std::io::{self, IsTerminal, Write};

use tracing::subscriber::Subscriber;
use tracing_subscriber::EnvFilter;

use crate::config::{LogConfig, LogFormat};

/// Begins to log. Called once, before anything else does.
///
/// # Errors
/// When something in this process logs already, or the filter cannot be read.
pub fn begin(config: &LogConfig) -> anyhow::Result<()> {
    let logs = subscriber(config, io::stderr().is_terminal(), io::stderr)?;
    tracing::subscriber::set_global_default(logs)
        .map_err(|error| anyhow::anyhow!("cannot begin to log: {error}"))
}

fn subscriber<W: Write>(
    config: &LogConfig,
    in_colour: bool,
    writer: impl Fn() -> W + Send + Sync + 'static,
) -> anyhow::Result<Box<dyn Subscriber + Send + Sync>> {
    // lapin logs messages that come back, bodies and all. What the setting says of it goes before.
    let filter = EnvFilter::try_new(format!("lapin=off,{}", config.filter))?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter);
    Ok(match config.format {
        LogFormat::Json => Box::new(
            logs.with_writer(writer)
                .json()
                .with_current_span(false)
                .with_span_list(false)
                .finish(),
        ),
        LogFormat::Pretty => {
            let writer = move || WholeLines {
                writer: writer(),
                in_colour,
            };
            let logs = logs.with_writer(writer).with_ansi(in_colour);
            Box::new(logs.with_target(false).finish())
        }
    })
}

/// Writes each event as one line for people, whatever is in it: what somebody put into a routing key must neither look like a line of
/// ours nor steer a terminal. It is handed one event at a time, with a line feed at its end.
struct WholeLines<W> {
    writer: W,
    in_colour: bool,
}

impl<W: Write> Write for WholeLines<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let mut whole = String::with_capacity(event.len());
        for (at, character) in line.char_indices() {
            let is_colour = || self.in_colour && line.get(at..).is_some_and(begins_with_a_colour);
            if character.is_control() && character != '\t' && !is_colour() {
                whole.extend(character.escape_default());
            } else {
                whole.push(character);
            }
        }
        whole.push('\n');
        self.writer.write_all(whole.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Whether this is how a formatter sets a colour (ECMA-48 §8.3.117, SGR), which does no more than that.
fn begins_with_a_colour(text: &str) -> bool {
    text.strip_prefix("\u{1b}[").is_some_and(|parameters| {
        let is_parameter = |character: char| character.is_ascii_digit() || character == ';';
        parameters.trim_start_matches(is_parameter).starts_with('m')
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What two events come to, the first with a text of somebody else's.
    fn written(format: LogFormat, in_colour: bool, routing_key: &str) -> String {
        let config = LogConfig {
            format,
            filter: "info".to_owned(),
        };
        let written = Written::default();
        let writer = written.clone();
        let logs = subscriber(&config, in_colour, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(logs, || {
            tracing::error!(%routing_key, "poison: {routing_key}");
            tracing::info!("next");
        });
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    const FORGED: &str = "team.7\nERROR\r\n\0forged\u{1b}[2J\u{1b}[1\u{9b}2J\u{b}\u{7f}\u{fc}";

    #[test]
    fn for_people_an_event_is_one_line_and_steers_no_terminal_whatever_somebody_put_into_it() {
        for in_colour in [false, true] {
            let text = written(LogFormat::Pretty, in_colour, FORGED);
            let lines: Vec<&str> = text.split('\n').collect();
            assert_eq!(lines.len(), 3, "{text:?}");
            assert!(lines[0].contains("forged"), "{text:?}");
            assert!(lines[0].contains('\u{fc}'), "{text:?}");
            assert!(lines[1].contains("next"), "{text:?}");
            assert_eq!(lines[2], "");
            let controls = ['\r', '\0', '\u{b}', '\u{7f}', '\u{9b}'];
            assert!(!text.contains(controls), "{text:?}");
            assert!(!text.contains("\u{1b}[2J"), "{text:?}");
            assert_eq!(text.contains('\u{1b}'), in_colour, "{text:?}");
        }
    }

    #[test]
    fn for_machines_an_event_is_one_object_with_what_somebody_put_into_it_as_it_was() {
        let text = written(LogFormat::Json, false, FORGED);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text:?}");
        let line: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
        assert_eq!(line["fields"]["routing_key"], FORGED);
    }
}
