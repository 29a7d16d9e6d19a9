//! The SSE wire format (WHATWG HTML §9.2.5, §9.2.6), written byte for byte.
//!
//! Nothing here fails, and nothing that it is given can forge a field: data is split at every line end that a
//! client knows, ids and names have none by their types. One space stands after every colon, so that a client takes
//! away exactly that one and data may begin with its own.

use bytes::Bytes;

use super::block::Block;
use crate::event::EventName;
use crate::event::id::EventId;

/// A comment: keeps a connection alive and means nothing to a client.
#[must_use]
pub fn comment() -> Block {
    const COMMENT: &[u8] = b":\n\n";
    Block::written(COMMENT.len(), |block| block.extend_from_slice(COMMENT))
}

/// An event. Empty data still gives one `data:` line: without one a client would dispatch nothing. LF, CRLF and CR in
/// the data become line ends of the format, so that a client reads each as LF.
#[must_use]
pub fn event(id: EventId, name: Option<&EventName>, data: &[u8]) -> Block {
    let name_bytes = name.map_or(0, |name| EVENT.len() + name.as_str().len() + 1);
    let head_bytes = ID.len() + id.text_length() + 1 + name_bytes;
    // Exactly what data of one line takes, which is nearly all data; more lines make it grow.
    Block::written(head_bytes + DATA.len() + data.len() + 2, |block| {
        put_id(block, id);
        if let Some(name) = name {
            put_field(block, EVENT, name.as_str().as_bytes());
        }
        put_data(block, data);
        block.push(b'\n');
    })
}

/// An id and no data: moves the client's last event id and dispatches nothing.
#[must_use]
pub fn checkpoint(id: EventId) -> Block {
    Block::written(ID.len() + id.text_length() + 2, |block| {
        put_id(block, id);
        block.push(b'\n');
    })
}

/// A control event, such as `bridge.gap`. It never has an id: what the bridge says of itself has no place in the log.
/// Control characters of the name are left out.
#[must_use]
pub fn control(name: &str, json: &str) -> Block {
    let name: String = name
        .chars()
        .filter(|character| !character.is_control())
        .collect();
    let json = json.as_bytes();
    let bytes = EVENT.len() + name.len() + DATA.len() + json.len() + 3;
    Block::written(bytes, |block| {
        put_field(block, EVENT, name.as_bytes());
        put_data(block, json);
        block.push(b'\n');
    })
}

/// How long a client waits before it connects again.
#[must_use]
pub fn retry(milliseconds: u32) -> Block {
    let line = format!("retry: {milliseconds}\n\n");
    Block::written(line.len(), |block| block.extend_from_slice(line.as_bytes()))
}

/// The data inside the block that [`event`] made of it, sharing its memory; none where it takes several lines.
pub(super) fn data_of_one_line(block: &Block, data: &[u8]) -> Option<Bytes> {
    if memchr::memchr2(b'\n', b'\r', data).is_some() {
        return None;
    }
    // The line's end and the blank line stand behind it.
    block.part_before_last(data.len(), 2)
}

/// The most bytes that a block of this name takes whose data takes `data_bytes` with its `data:` fields.
pub(super) fn event_bound(name: Option<&EventName>, data_bytes: usize) -> usize {
    let name = name.map_or(0, |name| EVENT.len() + name.as_str().len() + 1);
    ID.len() + EventId::MAX_TEXT_LENGTH + 1 + name + data_bytes + 1 + Block::FRAME_BOUND
}

const ID: &[u8] = b"id: ";
const EVENT: &[u8] = b"event: ";
const DATA: &[u8] = b"data: ";

fn put_id(block: &mut Vec<u8>, id: EventId) {
    put_field(block, ID, id.text().as_bytes());
}

fn put_data(block: &mut Vec<u8>, data: &[u8]) {
    for line in lines(data) {
        put_field(block, DATA, line);
    }
}

fn put_field(block: &mut Vec<u8>, field: &[u8], value: &[u8]) {
    block.extend_from_slice(field);
    block.extend_from_slice(value);
    block.push(b'\n');
}

/// The lines of the data, split at LF, CRLF and CR; at least one, and an empty one behind a last line end.
fn lines(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(data);
    std::iter::from_fn(move || {
        let data = rest?;
        let end = memchr::memchr2(b'\n', b'\r', data);
        let Some((line, behind)) = end.and_then(|end| data.split_at_checked(end)) else {
            rest = None;
            return Some(data);
        };
        rest = behind.strip_prefix(b"\r\n").or_else(|| behind.get(1..));
        Some(line)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id() -> EventId {
        "48211-9f3c01ab".parse().unwrap()
    }

    #[test]
    fn a_checkpoint_is_an_id_and_nothing_else() {
        assert_eq!(&*checkpoint(id()), b"id: 48211-9f3c01ab\n\n");
        assert_eq!(&*checkpoint(EventId::ORIGIN), b"id: 0-00000000\n\n");
    }

    #[test]
    fn a_control_event_has_no_id_and_its_name_no_line_break() {
        assert_eq!(
            &*control("bridge.gap", r#"{"reason":"slow","missed":12}"#),
            b"event: bridge.gap\ndata: {\"reason\":\"slow\",\"missed\":12}\n\n"
        );
        assert_eq!(
            &*control("bridge\nid: 1\r.x\0", "a\r\nb"),
            b"event: bridgeid: 1.x\ndata: a\ndata: b\n\n"
        );
    }

    #[test]
    fn a_retry_is_in_milliseconds_and_a_comment_is_a_colon() {
        assert_eq!(&*retry(2_000), b"retry: 2000\n\n");
        assert_eq!(&*comment(), b":\n\n");
    }

    #[test]
    fn data_of_one_line_is_found_inside_its_block() {
        for data in ["", " ", "{}", "a: b"] {
            let block = event(id(), None, data.as_bytes());
            assert_eq!(data_of_one_line(&block, data.as_bytes()).unwrap(), data);
        }
        for data in ["\n", "\r", "a\r\nb", "a\n"] {
            let block = event(id(), None, data.as_bytes());
            assert_eq!(data_of_one_line(&block, data.as_bytes()), None, "{data:?}");
        }
    }

    proptest! {
        #[test]
        fn a_block_is_never_longer_than_its_bound(
            position: u64,
            name in proptest::option::of("[a-z]{1,20}"),
            data in "[a\r\n]{0,40}",
        ) {
            let id = EventId { position: crate::event::id::Position::new(position), ..id() };
            let name = name.map(|name| name.parse::<EventName>().unwrap());
            let block = event(id, name.as_ref(), data.as_bytes());
            let lines: usize = lines(data.as_bytes()).map(|line| DATA.len() + line.len() + 1).sum();
            prop_assert!(block.chunk().len() <= event_bound(name.as_ref(), lines));
        }
    }
}
