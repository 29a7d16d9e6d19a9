//! Whether a body may be sent to clients: its size, its encoding, its form. Checked without building a tree, and
//! never quoted: what is wrong is told by place alone.

use std::fmt;
use std::str::FromStr;

use serde::de::IgnoredAny;
use thiserror::Error;

use super::{Poison, Reason};

/// What a body must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PayloadFormat {
    /// Any JSON value (RFC 8259), in UTF-8 and without a byte order mark.
    #[default]
    Json,
    /// A JSON object.
    JsonObject,
    /// Any text in UTF-8.
    Text,
}

impl PayloadFormat {
    /// Its name in the settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::JsonObject => "json-object",
            Self::Text => "text",
        }
    }
}

impl FromStr for PayloadFormat {
    type Err = BadPayloadFormat;

    fn from_str(text: &str) -> Result<Self, BadPayloadFormat> {
        match text {
            "json" => Ok(Self::Json),
            "json-object" => Ok(Self::JsonObject),
            "text" => Ok(Self::Text),
            _ => Err(BadPayloadFormat),
        }
    }
}

impl fmt::Display for PayloadFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text names no payload format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a payload format is one of json, json-object, text")]
pub struct BadPayloadFormat;

/// What bodies must obey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadRules {
    /// What a body must be.
    pub format: PayloadFormat,
    /// The most bytes a body may have; 0 is no limit.
    pub max_bytes: usize,
}

impl PayloadRules {
    /// Whether a body may be sent. Takes one pass over it and no stack, however deep it nests.
    ///
    /// # Errors
    /// The first rule that it breaks, in the order size, UTF-8, JSON, object.
    pub fn check(&self, body: &[u8]) -> Result<(), Poison> {
        if self.max_bytes != 0 && body.len() > self.max_bytes {
            let detail = format_args!(
                "the body has {} bytes, at most {} are allowed",
                body.len(),
                self.max_bytes
            );
            return Err(Poison::new(Reason::TooLarge, &detail));
        }
        let text = std::str::from_utf8(body).map_err(|error| {
            let detail = format_args!("the body is not UTF-8 at byte {}", error.valid_up_to());
            Poison::new(Reason::NotUtf8, &detail)
        })?;
        match self.format {
            PayloadFormat::Text => Ok(()),
            PayloadFormat::Json => check_json(text),
            PayloadFormat::JsonObject => check_json(text).and_then(|()| check_object(text)),
        }
    }
}

fn check_json(text: &str) -> Result<(), Poison> {
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Ok(()),
        // The error's own message may quote the body.
        Err(error) => {
            let detail = format_args!(
                "the body is not JSON at line {}, column {}",
                error.line(),
                error.column()
            );
            Err(Poison::new(Reason::NotJson, &detail))
        }
    }
}

/// `text` is JSON: its first character that is no whitespace tells what it is.
fn check_object(text: &str) -> Result<(), Poison> {
    if text
        .trim_start_matches([' ', '\t', '\n', '\r'])
        .starts_with('{')
    {
        return Ok(());
    }
    Err(Poison::new(
        Reason::NotObject,
        &"the body is JSON, but not an object",
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEPTH: usize = 1_000_000;

    fn check(format: PayloadFormat, body: &[u8]) -> Result<(), Reason> {
        let rules = PayloadRules {
            format,
            max_bytes: 0,
        };
        rules.check(body).map_err(|poison| poison.reason)
    }

    #[test]
    fn a_body_is_what_the_format_says() {
        use PayloadFormat::{Json, JsonObject, Text};
        use Reason::{NotJson, NotObject, NotUtf8};
        type Judged = Result<(), Reason>;
        let cases: &[(&[u8], [Judged; 3])] = &[
            (b"{}", [Ok(()), Ok(()), Ok(())]),
            (b" \t\r\n{\"a\":1}\n", [Ok(()), Ok(()), Ok(())]),
            (b"[]", [Ok(()), Err(NotObject), Ok(())]),
            (b"1", [Ok(()), Err(NotObject), Ok(())]),
            (b"\"{\"", [Ok(()), Err(NotObject), Ok(())]),
            (b"null", [Ok(()), Err(NotObject), Ok(())]),
            (b"1e999", [Ok(()), Err(NotObject), Ok(())]),
            (br#""\ud800""#, [Ok(()), Err(NotObject), Ok(())]),
            (b"", [Err(NotJson), Err(NotJson), Ok(())]),
            (b"{", [Err(NotJson), Err(NotJson), Ok(())]),
            (b"{} {}", [Err(NotJson), Err(NotJson), Ok(())]),
            (b"hello", [Err(NotJson), Err(NotJson), Ok(())]),
            (b"{'a':1}", [Err(NotJson), Err(NotJson), Ok(())]),
            (b"01", [Err(NotJson), Err(NotJson), Ok(())]),
            (b"NaN", [Err(NotJson), Err(NotJson), Ok(())]),
            (b"\"\n\"", [Err(NotJson), Err(NotJson), Ok(())]),
            (
                "\u{feff}{}".as_bytes(),
                [Err(NotJson), Err(NotJson), Ok(())],
            ),
            (b"\"\xff\"", [Err(NotUtf8), Err(NotUtf8), Err(NotUtf8)]),
            (b"\xed\xa0\x80", [Err(NotUtf8), Err(NotUtf8), Err(NotUtf8)]),
        ];
        for (body, [json, object, text]) in cases {
            assert_eq!(check(Json, body), *json, "{body:?}");
            assert_eq!(check(JsonObject, body), *object, "{body:?}");
            assert_eq!(check(Text, body), *text, "{body:?}");
        }
    }

    #[test]
    fn a_body_has_at_most_the_allowed_bytes_and_0_is_no_limit() {
        let limited = PayloadRules {
            format: PayloadFormat::Text,
            max_bytes: 3,
        };
        assert_eq!(limited.check(b"abc"), Ok(()));
        let poison = limited.check(b"abcd").unwrap_err();
        assert_eq!(poison.reason, Reason::TooLarge);
        assert_eq!(poison.detail, "the body has 4 bytes, at most 3 are allowed");
        let unlimited = PayloadRules {
            format: PayloadFormat::Text,
            max_bytes: 0,
        };
        assert_eq!(unlimited.check(&vec![b'x'; 10_000_000]), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_told_by_place_and_never_quoted() {
        let json = PayloadRules {
            format: PayloadFormat::Json,
            max_bytes: 0,
        };
        let poison = json.check(b"{\"password\":\n\"hunter2\" x}").unwrap_err();
        assert_eq!(poison.detail, "the body is not JSON at line 2, column 11");
        let poison = json.check(b"abc\xff").unwrap_err();
        assert_eq!(poison.detail, "the body is not UTF-8 at byte 3");
    }

    #[test]
    fn a_body_may_nest_deeper_than_any_stack() {
        let arrays = [vec![b'['; DEPTH], vec![b']'; DEPTH]].concat();
        assert_eq!(check(PayloadFormat::Json, &arrays), Ok(()));
        assert_eq!(
            check(PayloadFormat::Json, &arrays[..DEPTH]),
            Err(Reason::NotJson)
        );
        let objects = ["{\"a\":".repeat(DEPTH), "1".to_owned(), "}".repeat(DEPTH)].concat();
        assert_eq!(check(PayloadFormat::JsonObject, objects.as_bytes()), Ok(()));
    }

    #[test]
    fn formats_have_the_names_of_the_settings() {
        for format in [
            PayloadFormat::Json,
            PayloadFormat::JsonObject,
            PayloadFormat::Text,
        ] {
            assert_eq!(format.as_str().parse(), Ok(format));
        }
        assert_eq!("JSON".parse::<PayloadFormat>(), Err(BadPayloadFormat));
    }

    proptest! {
        #[test]
        fn no_body_makes_a_check_panic(body: Vec<u8>, max_bytes in 0..64_usize) {
            for format in [PayloadFormat::Json, PayloadFormat::JsonObject, PayloadFormat::Text] {
                if let Err(poison) = (PayloadRules { format, max_bytes }).check(&body) {
                    prop_assert!(poison.detail.len() <= Poison::DETAIL_MAX_BYTES);
                }
            }
        }

        #[test]
        fn json_is_what_a_parser_that_builds_a_tree_takes(body in "[\\[\\]{}:,\"a1.e\\- ]{0,12}") {
            let tree = serde_json::from_str::<serde_json::Value>(&body);
            // A tree has no room for a number such as 1e999, which is JSON all the same.
            let is_json = tree.is_ok();
            if is_json {
                prop_assert_eq!(check(PayloadFormat::Json, body.as_bytes()), Ok(()));
            } else if !body.contains('e') {
                prop_assert_eq!(check(PayloadFormat::Json, body.as_bytes()), Err(Reason::NotJson));
            }
        }
    }
}
