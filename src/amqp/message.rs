//! A delivery as the rest of the bridge takes it: AMQP's properties and headers in our own types.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, ShortString};

use super::mending::{DEPTH, Harm, SUBSTITUTE};
use crate::event::id::Position;
use crate::event::{HeaderValue, Message, Poison, Reason};

/// The header in which a stream says where a record is (a signed 64-bit number).
pub(super) const OFFSET: &str = "x-stream-offset";

/// What of a delivery is kept aside while the intake has its message: what a dead letter needs beyond that.
pub(super) struct Origin {
    /// The exchange it was published to.
    pub exchange: ShortString,
    pub routing_key: ShortString,
    pub properties: BasicProperties,
    pub body: Bytes,
    /// None where the queue has no positions.
    pub position: Option<Position>,
    /// How many of its headers did harm and were left out.
    pub headers_left_out: u32,
}

/// Takes a delivery apart: its message, and what a dead letter would need. The body is shared, not copied.
pub(super) fn take_apart(delivery: Delivery) -> (Message, Origin) {
    let Delivery {
        exchange,
        routing_key,
        redelivered,
        properties,
        data,
        ..
    } = delivery;
    let harm = harm(&properties);
    let origin = Origin {
        exchange,
        position: position(&properties),
        body: Bytes::from(data),
        routing_key,
        properties,
        headers_left_out: harm.map_or(0, |(_, left_out)| left_out),
    };
    let mut message = origin.message(redelivered);
    message.fault = match harm {
        Some((harm, _)) => Some(bad_headers(harm)),
        None => mended(&origin).map(not_utf8),
    };
    (message, origin)
}

impl Origin {
    fn message(&self, redelivered: bool) -> Message {
        let properties = &self.properties;
        let text = |value: &Option<ShortString>| Some(value.as_ref()?.as_str().to_owned());
        Message {
            position: self.position,
            routing_key: self.routing_key.as_str().to_owned(),
            headers: headers(properties),
            kind: text(properties.kind()),
            message_id: text(properties.message_id()),
            timestamp: *properties.timestamp(),
            expiration: text(properties.expiration()),
            redelivered,
            fault: None,
            body: self.body.clone(),
        }
    }
}

/// What harm its headers did, and how many of them were left out.
fn harm(properties: &BasicProperties) -> Option<(Harm, u32)> {
    let table = properties.headers().as_ref()?;
    table.into_iter().find_map(|(name, value)| {
        let left_out = match value {
            AMQPValue::LongUInt(left_out) => *left_out,
            _ => 0,
        };
        Some((Harm::said_by(name.as_str())?, left_out))
    })
}

fn bad_headers(harm: Harm) -> Poison {
    let detail = match harm {
        Harm::Depth => {
            format!("a header nests more than {DEPTH} tables and arrays; it is left out here")
        }
        Harm::Size => {
            "headers and properties do not fit into a frame; headers that do not are left out here"
                .to_owned()
        }
    };
    Poison::new(Reason::BadHeaders, &detail)
}

/// Its texts are not what its producer wrote: it must not be delivered as if they were.
fn not_utf8(what: &str) -> Poison {
    let detail = format_args!(
        "{what} is not UTF-8; each illegal byte is replaced by the control character SUB here"
    );
    Poison::new(Reason::NotUtf8, &detail)
}

/// The first text that was mended. One that was sent with a substitute in it is taken for such a one.
fn mended(origin: &Origin) -> Option<&'static str> {
    let properties = &origin.properties;
    let texts = [
        ("the exchange", Some(&origin.exchange)),
        ("the routing key", Some(&origin.routing_key)),
        ("the type", properties.kind().as_ref()),
        ("the message_id", properties.message_id().as_ref()),
        ("the content type", properties.content_type().as_ref()),
        (
            "the content encoding",
            properties.content_encoding().as_ref(),
        ),
        ("the correlation_id", properties.correlation_id().as_ref()),
        ("reply_to", properties.reply_to().as_ref()),
        ("the expiration", properties.expiration().as_ref()),
        ("the user_id", properties.user_id().as_ref()),
        ("the app_id", properties.app_id().as_ref()),
        ("the cluster_id", properties.cluster_id().as_ref()),
    ];
    let names = properties.headers().iter().flatten();
    texts
        .into_iter()
        .filter_map(|(what, text)| Some((what, text?)))
        .chain(names.map(|(name, _)| ("a header's name", name)))
        .find(|(_, text)| text.as_str().contains(SUBSTITUTE))
        .map(|(what, _)| what)
}

/// Where a delivery of a stream is in its log.
pub(super) fn position(properties: &BasicProperties) -> Option<Position> {
    match properties.headers().as_ref()?.inner().get(OFFSET)? {
        AMQPValue::LongLongInt(offset) => u64::try_from(*offset).ok().map(Position::new),
        _ => None,
    }
}

/// Whether a header of this name is not its producer's, but was added between it and us.
pub(super) fn is_added(name: &str) -> bool {
    name == OFFSET || Harm::said_by(name).is_some()
}

fn headers(properties: &BasicProperties) -> Vec<(String, HeaderValue)> {
    let Some(table) = properties.headers() else {
        return Vec::new();
    };
    table
        .into_iter()
        .filter(|(name, _)| !is_added(name.as_str()))
        .map(|(name, value)| (name.as_str().to_owned(), header(value)))
        .collect()
}

fn header(value: &AMQPValue) -> HeaderValue {
    let name = match value {
        AMQPValue::LongString(text) => match std::str::from_utf8(text.as_bytes()) {
            Ok(text) => return HeaderValue::Text(text.to_owned()),
            Err(_) => "bytes",
        },
        AMQPValue::ShortString(text) => return HeaderValue::Text(text.as_str().to_owned()),
        AMQPValue::ShortShortInt(number) => return HeaderValue::Integer((*number).into()),
        AMQPValue::ShortShortUInt(number) => return HeaderValue::Integer((*number).into()),
        AMQPValue::ShortInt(number) => return HeaderValue::Integer((*number).into()),
        AMQPValue::ShortUInt(number) => return HeaderValue::Integer((*number).into()),
        AMQPValue::LongInt(number) => return HeaderValue::Integer((*number).into()),
        AMQPValue::LongUInt(number) => return HeaderValue::Integer((*number).into()),
        AMQPValue::LongLongInt(number) => return HeaderValue::Integer((*number).into()),
        AMQPValue::Boolean(_) => "bool",
        AMQPValue::Float(_) => "float",
        AMQPValue::Double(_) => "double",
        AMQPValue::DecimalValue(_) => "decimal",
        AMQPValue::FieldArray(_) => "array",
        AMQPValue::Timestamp(_) => "timestamp",
        AMQPValue::FieldTable(_) => "table",
        AMQPValue::ByteArray(_) => "bytes",
        AMQPValue::Void => "void",
    };
    HeaderValue::Other(name)
}

#[cfg(test)]
mod tests {
    use lapin::types::FieldTable;

    use super::*;

    fn delivery(headers: FieldTable) -> Delivery {
        let mut delivery = Delivery::mock(
            7,
            "events.topic".into(),
            "user.1".into(),
            true,
            b"{}".to_vec(),
        );
        delivery.properties = BasicProperties::default()
            .with_headers(headers)
            .with_type("job".into())
            .with_message_id("m-1".into())
            .with_timestamp(1_700_000_000)
            .with_expiration("60000".into());
        delivery
    }

    #[test]
    fn a_delivery_becomes_a_message_with_all_that_an_event_is_made_of() {
        let mut headers = FieldTable::default();
        headers.insert(OFFSET.into(), AMQPValue::LongLongInt(48_211));
        headers.insert("user-id".into(), AMQPValue::LongString("42".into()));
        let (message, origin) = take_apart(delivery(headers));
        assert_eq!(
            message,
            Message {
                position: Some(Position::new(48_211)),
                routing_key: "user.1".to_owned(),
                headers: vec![("user-id".to_owned(), HeaderValue::Text("42".to_owned()))],
                kind: Some("job".to_owned()),
                message_id: Some("m-1".to_owned()),
                timestamp: Some(1_700_000_000),
                expiration: Some("60000".to_owned()),
                redelivered: true,
                fault: None,
                body: Bytes::from_static(b"{}"),
            }
        );
        assert_eq!(origin.exchange.as_str(), "events.topic");
        assert_eq!(origin.position, Some(Position::new(48_211)));
    }

    #[test]
    fn a_delivery_whose_texts_or_headers_were_mended_is_poison_and_keeps_its_body() {
        let plain = take_apart(delivery(FieldTable::default()));
        assert_eq!(plain.0.fault, None);
        let mut table = FieldTable::default();
        table.insert("\u{1a}".into(), AMQPValue::Boolean(true));
        let named = delivery(table);
        let mut keyed = delivery(FieldTable::default());
        keyed.routing_key = "team.\u{1a}".into();
        let mut typed = delivery(FieldTable::default());
        typed.properties = typed.properties.with_type("caf\u{1a}".into());
        let mut table = FieldTable::default();
        table.insert("\u{1a}depth".into(), AMQPValue::LongUInt(3));
        table.insert("\u{1a}".into(), AMQPValue::Boolean(true));
        let deep = delivery(table);
        for (delivery, reason, what, left_out) in [
            (named, Reason::NotUtf8, "a header's name", 0),
            (keyed, Reason::NotUtf8, "the routing key", 0),
            (typed, Reason::NotUtf8, "the type", 0),
            (deep, Reason::BadHeaders, "a header nests", 3),
        ] {
            let (message, origin) = take_apart(delivery);
            let fault = message.fault.expect("a fault");
            assert_eq!(fault.reason, reason);
            assert!(fault.detail.starts_with(what), "{fault}");
            assert_eq!(message.body, Bytes::from_static(b"{}"));
            assert_eq!(origin.headers_left_out, left_out);
        }
    }

    #[test]
    fn every_integer_is_an_integer_and_what_is_neither_text_nor_integer_keeps_its_types_name() {
        let cases = [
            (AMQPValue::ShortShortInt(-1), HeaderValue::Integer(-1)),
            (AMQPValue::ShortShortUInt(255), HeaderValue::Integer(255)),
            (AMQPValue::ShortInt(-2), HeaderValue::Integer(-2)),
            (AMQPValue::ShortUInt(2), HeaderValue::Integer(2)),
            (AMQPValue::LongInt(-3), HeaderValue::Integer(-3)),
            (
                AMQPValue::LongUInt(u32::MAX),
                HeaderValue::Integer(u32::MAX.into()),
            ),
            (
                AMQPValue::LongLongInt(i64::MIN),
                HeaderValue::Integer(i64::MIN.into()),
            ),
            (
                AMQPValue::LongString("é".into()),
                HeaderValue::Text("é".to_owned()),
            ),
            (
                AMQPValue::LongString(vec![0xff].into()),
                HeaderValue::Other("bytes"),
            ),
            (AMQPValue::Boolean(true), HeaderValue::Other("bool")),
            (AMQPValue::Double(1.0), HeaderValue::Other("double")),
            (AMQPValue::Timestamp(1), HeaderValue::Other("timestamp")),
            (
                AMQPValue::FieldTable(FieldTable::default()),
                HeaderValue::Other("table"),
            ),
            (AMQPValue::Void, HeaderValue::Other("void")),
        ];
        for (value, expected) in cases {
            assert_eq!(header(&value), expected, "{value:?}");
        }
    }

    #[test]
    fn an_offset_that_is_no_position_is_none() {
        for value in [
            AMQPValue::LongLongInt(-1),
            AMQPValue::LongString("1".into()),
        ] {
            let mut headers = FieldTable::default();
            headers.insert(OFFSET.into(), value);
            assert_eq!(
                position(&BasicProperties::default().with_headers(headers)),
                None
            );
        }
    }
}
