//! Where a trace goes on: `traceparent` and `tracestate` (W3C Trace Context), as AMQP and HTTP headers bear them. What is not
//! exactly as the standard wants it is as if it were not there.

use http::HeaderMap;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

use crate::event::{HeaderValue, Message};

/// W3C Trace Context §3.2.
pub const TRACEPARENT: &str = "traceparent";
/// W3C Trace Context §3.3.
pub const TRACESTATE: &str = "tracestate";

/// The longest `tracestate` that is passed on, in bytes: as much as everybody has to (§3.3.1.5), as each span keeps it.
const LONGEST_STATE: usize = 512;

/// The span that a message's producer was in.
pub(super) fn of_message(message: &Message) -> Option<SpanContext> {
    let text = |name| match message.header(name)? {
        HeaderValue::Text(text) => Some(text.as_str()),
        HeaderValue::Integer(_) | HeaderValue::Other(_) => None,
    };
    parse(text(TRACEPARENT)?, text(TRACESTATE))
}

/// The span that whoever sent a request was in.
pub(super) fn of_request(headers: &HeaderMap) -> Option<SpanContext> {
    let mut parents = headers.get_all(TRACEPARENT).iter();
    let (Some(parent), None) = (parents.next(), parents.next()) else {
        return None;
    };
    // A list may come in several lines (§3.3.1.1).
    let states: Option<Vec<&str>> = headers
        .get_all(TRACESTATE)
        .iter()
        .map(|value| value.to_str().ok())
        .collect();
    let state = states.map(|states| states.join(","));
    parse(parent.to_str().ok()?, state.as_deref())
}

/// A span as the next one's headers name it.
pub(super) fn headers(span: &SpanContext) -> impl Iterator<Item = (String, HeaderValue)> + use<> {
    let sampled = span.trace_flags() & TraceFlags::SAMPLED;
    let parent = format!("00-{}-{}-{sampled:02x}", span.trace_id(), span.span_id());
    let state = Some(span.trace_state().header()).filter(|state| !state.is_empty());
    let named = |name: &str| {
        let name = name.to_owned();
        move |text| (name, HeaderValue::Text(text))
    };
    [
        Some(parent).map(named(TRACEPARENT)),
        state.map(named(TRACESTATE)),
    ]
    .into_iter()
    .flatten()
}

/// `00-<32 hex digits of the trace>-<16 of the span>-<2 of flags>`, all in lower case, neither id all zeros. A later version
/// may have more behind it (§4.1).
fn parse(parent: &str, state: Option<&str>) -> Option<SpanContext> {
    const SPAN: usize = 55;
    let is_hex = |text: &str| {
        text.bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let (known, more) = parent.split_at_checked(SPAN)?;
    let mut parts = known.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lengths = [version, trace, span, flags].map(str::len);
    if parts.next().is_some()
        || lengths != [2, 32, 16, 2]
        || ![version, trace, span, flags].into_iter().all(is_hex)
        || version == "ff"
        || (version == "00" && !more.is_empty())
        || !(more.is_empty() || more.starts_with('-'))
    {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let state = state
        .filter(|state| state.len() <= LONGEST_STATE)
        .and_then(|state| state.parse::<TraceState>().ok());
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        flags,
        true,
        state.unwrap_or_default(),
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue as HttpValue;

    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn text(span: &SpanContext) -> Vec<(String, String)> {
        headers(span)
            .map(|(name, value)| match value {
                HeaderValue::Text(text) => (name, text),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_parent_is_read_as_it_was_written_with_what_others_keep_of_the_trace() {
        let span = parse(PARENT, Some("vendor=of its own,other=7")).unwrap();
        assert!(span.is_remote() && span.is_sampled());
        let expected = [
            (TRACEPARENT.to_owned(), PARENT.to_owned()),
            (
                TRACESTATE.to_owned(),
                "vendor=of its own,other=7".to_owned(),
            ),
        ];
        assert_eq!(text(&span), expected);
        let unsampled = PARENT.replace("-01", "-00");
        assert!(!parse(&unsampled, None).unwrap().is_sampled());
        // Flags of later versions are not passed on, but for the one that is known.
        let later = format!(
            "{}-more",
            PARENT.replace("00-", "cc-").replace("-01", "-0b")
        );
        assert_eq!(text(&parse(&later, None).unwrap()), expected[..1]);
    }

    #[test]
    fn a_parent_that_is_not_as_the_standard_wants_it_is_none() {
        for wrong in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-001",
            "+0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01a",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-+1",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47é6-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parse(wrong, None), None, "{wrong}");
        }
    }

    #[test]
    fn what_others_keep_of_the_trace_is_left_out_where_it_cannot_be_read_or_is_too_long() {
        for wrong in ["no list", "UPPER=1", &format!("a={}", "x".repeat(600))] {
            let span = parse(PARENT, Some(wrong)).unwrap();
            assert_eq!(span.trace_state().header(), "", "{wrong}");
        }
    }

    #[test]
    fn a_request_has_one_parent_or_none() {
        let mut request = HeaderMap::new();
        assert_eq!(of_request(&request), None);
        request.append(TRACEPARENT, HttpValue::from_static(PARENT));
        request.append(TRACESTATE, HttpValue::from_static("a=1"));
        request.append(TRACESTATE, HttpValue::from_static("b=2"));
        let span = of_request(&request).unwrap();
        assert_eq!(span.trace_state().header(), "a=1,b=2");
        request.append(TRACEPARENT, HttpValue::from_static(PARENT));
        assert_eq!(of_request(&request), None);
    }
}
