//! The envelope: an event as one JSON object, for clients that need its topic and for transports without fields.
//!
//! A JSON body stands inside as it came, byte for byte; any other text becomes a JSON string.

use std::fmt;
use std::io::Write;

use serde::de::IgnoredAny;

use crate::event::EventName;
use crate::event::id::EventId;

/// `{"id":…,"topic":…,"event":…,"time":…,"data":…}`: `event` is null without a name, `time` is the timestamp (seconds
/// since the Unix epoch) by RFC 3339, null without one or after the year 9999.
///
/// Bytes that are no UTF-8, which the check of the payload lets nobody send, become replacement characters.
#[must_use]
pub fn envelope(
    id: EventId,
    topic: &str,
    name: Option<&EventName>,
    timestamp: Option<u64>,
    body: &[u8],
) -> Vec<u8> {
    let name_bytes = name.map_or(0, |name| name.as_str().len());
    let mut object = Vec::with_capacity(FIXED_BOUND + topic.len() + name_bytes + body.len());
    // Writing into memory does not fail.
    drop(write!(object, "{{\"id\":\"{id}\",\"topic\":"));
    put_string(&mut object, topic);
    object.extend_from_slice(b",\"event\":");
    match name {
        Some(name) => put_string(&mut object, name.as_str()),
        None => object.extend_from_slice(b"null"),
    }
    object.extend_from_slice(b",\"time\":");
    match timestamp.and_then(UtcTime::of_unix_seconds) {
        Some(time) => drop(write!(object, "\"{time}\"")),
        None => object.extend_from_slice(b"null"),
    }
    object.extend_from_slice(b",\"data\":");
    put_data(&mut object, body);
    object.push(b'}');
    object
}

/// The most bytes that [`envelope`] takes with its `data:` fields, without encoding it; `block_bytes` is what the block of
/// the body itself takes.
pub(super) fn envelope_bound(
    topic: &str,
    name: Option<&EventName>,
    body: &[u8],
    block_bytes: usize,
) -> usize {
    let name = name.map_or(0, |name| string_bound(name.as_str().as_bytes()));
    // Whether the body is JSON is not known yet, so either form must fit.
    let data = block_bytes.max(string_bound(body));
    FIXED_BOUND + string_bound(topic.as_bytes()) + name + data
}

/// More than all of an envelope that is neither topic nor name nor body, a `data:` field around it.
const FIXED_BOUND: usize = 144;

fn put_data(object: &mut Vec<u8>, body: &[u8]) {
    match std::str::from_utf8(body) {
        Ok(text) if serde_json::from_str::<IgnoredAny>(text).is_ok() => {
            object.extend_from_slice(body);
        }
        Ok(text) => put_string(object, text),
        Err(_) => put_string(object, &String::from_utf8_lossy(body)),
    }
}

/// A string does not fail to be JSON, nor memory to be written.
fn put_string(object: &mut Vec<u8>, text: &str) {
    drop(serde_json::to_writer(object, text));
}

/// The most bytes that a JSON string of these takes: six for a control character, two for a quote or a backslash, three
/// for what is replaced because it is no UTF-8.
fn string_bound(text: &[u8]) -> usize {
    // Summed in bytes, 32 at a time, which compilers do for all of them at once; 5 * 32 fits a byte.
    let escapes: usize = text
        .chunks(32)
        .map(|bytes| {
            let extra = |byte: &u8| match byte {
                0..=0x1f => 5,
                b'"' | b'\\' => 1,
                _ => 0,
            };
            usize::from(bytes.iter().map(extra).sum::<u8>())
        })
        .sum();
    let replacements = if std::str::from_utf8(text).is_ok() {
        0
    } else {
        2 * text.len()
    };
    2 + text.len() + escapes + replacements
}

/// A time of the proleptic Gregorian calendar, in UTC, from 1970 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UtcTime {
    year: u64,
    month: u64,
    day: u64,
    second_of_day: u64,
}

impl UtcTime {
    /// None after the year 9999, which RFC 3339 §1 cannot write.
    fn of_unix_seconds(seconds: u64) -> Option<Self> {
        const LAST: u64 = 253_402_300_799;
        if seconds > LAST {
            return None;
        }
        let (year, month, day) = date_of_unix_day(seconds / SECONDS_OF_DAY);
        Some(Self {
            year,
            month,
            day,
            second_of_day: seconds % SECONDS_OF_DAY,
        })
    }
}

const SECONDS_OF_DAY: u64 = 86_400;

/// The date this many days after 1970-01-01. Years are counted from 1 March, so that the leap day ends one, in eras of
/// 400 years, after which the calendar repeats (Hinnant, "chrono-compatible low-level date algorithms").
fn date_of_unix_day(days: u64) -> (u64, u64, u64) {
    const DAYS_OF_ERA: u64 = 146_097;
    const DAYS_FROM_YEAR_0_TO_1970: u64 = 719_468;
    let days = days + DAYS_FROM_YEAR_0_TO_1970;
    let (era, day_of_era) = (days / DAYS_OF_ERA, days % DAYS_OF_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let is_next_year = month_from_march >= 10;
    let month = if is_next_year {
        month_from_march - 9
    } else {
        month_from_march + 3
    };
    (
        400 * era + year_of_era + u64::from(is_next_year),
        month,
        day,
    )
}

impl fmt::Display for UtcTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            year,
            month,
            day,
            second_of_day,
        } = self;
        let (hour, minute) = (second_of_day / 3_600, second_of_day / 60 % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z",
            second_of_day % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::frame::sse;

    fn of(topic: &str, name: Option<&str>, timestamp: Option<u64>, body: &[u8]) -> String {
        let id = "48211-9f3c01ab".parse().unwrap();
        let name = name.map(|name| name.parse().unwrap());
        String::from_utf8(envelope(id, topic, name.as_ref(), timestamp, body)).unwrap()
    }

    #[test]
    fn a_json_body_stands_inside_as_it_came() {
        assert_eq!(
            of(
                "team.7",
                Some("job.status"),
                Some(1_700_000_000),
                b" {\"a\": 1.0,\"a\":\"\\u00e9\"}"
            ),
            "{\"id\":\"48211-9f3c01ab\",\"topic\":\"team.7\",\"event\":\"job.status\",\
             \"time\":\"2023-11-14T22:13:20Z\",\"data\": {\"a\": 1.0,\"a\":\"\\u00e9\"}}"
        );
        assert_eq!(
            of("a\"\n", None, None, b"[1,\r\n2]"),
            "{\"id\":\"48211-9f3c01ab\",\"topic\":\"a\\\"\\n\",\"event\":null,\"time\":null,\
             \"data\":[1,\r\n2]}"
        );
    }

    #[test]
    fn other_text_becomes_a_json_string() {
        for (body, data) in [
            ("", "\"\""),
            ("hello", "\"hello\""),
            ("a\r\n\"b\"\\\u{1}", r#""a\r\n\"b\"\\\u0001""#),
            ("{\"a\":1", r#""{\"a\":1""#),
            ("\u{feff}{}", "\"\u{feff}{}\""),
        ] {
            let expected = format!(",\"data\":{data}}}");
            let envelope = of("t", None, None, body.as_bytes());
            assert!(envelope.ends_with(&expected), "{envelope}");
        }
        assert!(of("t", None, None, b"a\xffb").ends_with(",\"data\":\"a\u{fffd}b\"}"));
    }

    #[test]
    fn a_time_is_written_as_rfc_3339_until_the_year_9999() {
        let time = |seconds| UtcTime::of_unix_seconds(seconds).map(|time| time.to_string());
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (59, "1970-01-01T00:00:59Z"),
            (86_399, "1970-01-01T23:59:59Z"),
            (68_169_599, "1972-02-28T23:59:59Z"),
            (68_169_600, "1972-02-29T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(time(seconds).as_deref(), Some(expected));
        }
        assert_eq!(time(253_402_300_800), None);
        assert_eq!(time(u64::MAX), None);
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let days_of = |year: u64, month: u64| match month {
            2 if year.is_multiple_of(4)
                && (!year.is_multiple_of(100) || year.is_multiple_of(400)) =>
            {
                29
            }
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let (mut year, mut month, mut day) = (1970, 1, 1);
        let mut days = 0;
        while year < 10_000 {
            assert_eq!(date_of_unix_day(days), (year, month, day));
            days += 1;
            day += 1;
            if day > days_of(year, month) {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
    }

    proptest! {
        #[test]
        fn an_envelope_is_json_and_within_its_bound(
            topic: String,
            name in proptest::option::of("[a-z\"\\\\é]{1,20}"),
            timestamp: Option<u64>,
            body in prop_oneof![
                any::<String>().prop_map(String::into_bytes),
                any::<Vec<u8>>(),
                "[\\[\\] \r\n1,]{0,20}".prop_map(String::into_bytes),
                "[\u{0}-\u{1f}\"\\\\]{0,40}".prop_map(String::into_bytes),
            ],
        ) {
            let text = of(&topic, name.as_deref(), timestamp, &body);
            let value: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(value["topic"].as_str(), Some(topic.as_str()));
            prop_assert_eq!(value["event"].as_str(), name.as_deref());
            match serde_json::from_slice::<Value>(&body) {
                Ok(body) => prop_assert_eq!(&value["data"], &body),
                Err(_) => {
                    let body = String::from_utf8_lossy(&body);
                    prop_assert_eq!(value["data"].as_str(), Some(&*body));
                }
            }
            let name = name.map(|name| name.parse().unwrap());
            let id = "48211-9f3c01ab".parse().unwrap();
            let block_bytes = sse::event(id, name.as_ref(), &body).len();
            let bound = envelope_bound(&topic, name.as_ref(), &body, block_bytes);
            let bound = sse::event_bound(name.as_ref(), bound);
            let block = sse::event(id, name.as_ref(), text.as_bytes());
            prop_assert!(block.len() <= bound, "{} > {bound}", block.len());
        }
    }
}
