//! Where log lines go: to standard error, one JSON object a line for machines or coloured for people. What a field holds is
//! escaped, and cut where it is long: some of it is from others.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};

use tracing::Event;
use tracing::field::{Field, Visit};
use tracing::subscriber::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer, debug_fn};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::registry::LookupSpan;

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
    // lapin logs messages that come back, bodies and all; h2, while it is looked at closely, a path that it cannot read, and the
    // token that may stand in it. What the setting says of them goes before.
    let filter = EnvFilter::try_new(format!("lapin=off,h2=info,{}", config.filter))?;
    // Of a line that cannot be written (a full disk, a reader that has gone) nobody can be told: the library would, on standard
    // error, and panics where that fails.
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false);
    Ok(match config.format {
        LogFormat::Json => Box::new(logs.with_writer(writer).event_format(Objects).finish()),
        LogFormat::Pretty => {
            let writer = move || WholeLines {
                writer: writer(),
                in_colour,
            };
            let fields = debug_fn(|writer, field, value| {
                let value = Capped::of(value);
                match field.name() {
                    "message" => write!(writer, "{value}"),
                    name => write!(writer, "{name}={value}"),
                }
            });
            let logs = logs.with_writer(writer).with_ansi(in_colour);
            Box::new(
                logs.with_target(false)
                    .fmt_fields(fields.delimited(" "))
                    .finish(),
            )
        }
    })
}

/// The longest value of a field, in bytes; what is longer is cut there, and ends in an ellipsis.
const LONGEST_VALUE: usize = 2048;

/// What a field holds, as far as it is written.
#[derive(Default)]
struct Capped {
    text: String,
    is_cut: bool,
}

impl Capped {
    fn of(value: &dyn fmt::Debug) -> Self {
        let mut capped = Self::default();
        // A value that cannot be written down to its end is cut there, too.
        capped.is_cut |= write!(capped, "{value:?}").is_err();
        capped
    }
}

impl fmt::Write for Capped {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = LONGEST_VALUE - self.text.len();
        if self.is_cut || text.len() > room {
            self.is_cut = true;
            let (fitting, _) = text.split_at(text.floor_char_boundary(room));
            self.text.push_str(fitting);
            // There is no use in writing the rest.
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}

impl fmt::Display for Capped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)?;
        formatter.write_str(if self.is_cut { "…" } else { "" })
    }
}

/// Writes each event as a JSON object on a line, in the form of `tracing_subscriber`'s own, which knows no bound.
struct Objects;

impl<S, N> FormatEvent<S, N> for Objects
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        writer.write_str("{\"timestamp\":\"")?;
        SystemTime.format_time(&mut writer)?;
        write!(
            writer,
            "\",\"level\":\"{}\",\"fields\":{{",
            metadata.level()
        )?;
        let mut members = Members {
            writer: writer.by_ref(),
            comma: "",
            result: Ok(()),
        };
        event.record(&mut members);
        members.result?;
        writeln!(writer, "}},\"target\":{}}}", json(metadata.target()))
    }
}

/// The fields of an event, as members of an object.
struct Members<'a> {
    writer: Writer<'a>,
    comma: &'static str,
    result: fmt::Result,
}

impl Members<'_> {
    fn add(&mut self, field: &Field, value: impl fmt::Display) {
        let name = json(field.name());
        if self.result.is_ok() {
            self.result = write!(self.writer, "{}{name}:{value}", self.comma);
        }
        self.comma = ",";
    }
}

impl Visit for Members<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, json(&Capped::of(value).to_string()));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, serde_json::Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }
}

/// A text as JSON (RFC 8259 §7).
fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
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

    #[test]
    fn what_a_field_holds_is_cut_where_it_is_long() {
        let long = "é".repeat(100_000);
        for format in [LogFormat::Json, LogFormat::Pretty] {
            let text = written(format, false, &long);
            assert_eq!(text.lines().count(), 2, "{format:?}");
            let first = text.lines().next().unwrap();
            // It is there twice: in the message too.
            assert_eq!(first.matches('…').count(), 2, "{format:?}: {first}");
            assert!(first.len() < 2 * LONGEST_VALUE + 200, "{format:?}");
            assert!(first.len() > 2 * LONGEST_VALUE, "{format:?}");
        }
    }

    #[test]
    fn for_machines_values_keep_their_types() {
        let config = LogConfig {
            format: LogFormat::Json,
            filter: "info".to_owned(),
        };
        let written = Written::default();
        let writer = written.clone();
        let logs = subscriber(&config, false, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(logs, || {
            tracing::warn!(
                target: "sse_bridge::\"odd\"",
                count = 7u64,
                below = -7,
                share = 0.5,
                never = f64::NAN,
                is_so = true,
                text = "a \"quoted\" word",
                shown = %"x",
                none = None::<u64>,
                "said"
            );
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let mut line: serde_json::Value = serde_json::from_str(&text).unwrap();
        let timestamp = line["timestamp"].take();
        assert!(timestamp.as_str().unwrap().ends_with('Z'), "{timestamp}");
        let expected = serde_json::json!({
            "timestamp": null,
            "level": "WARN",
            "target": "sse_bridge::\"odd\"",
            "fields": {
                "message": "said", "count": 7, "below": -7, "share": 0.5, "never": null, "is_so": true,
                "text": "a \"quoted\" word", "shown": "x"
            }
        });
        assert_eq!(line, expected);
    }
}
