//! Bytes on their way to `lapin`, cut into frames (AMQP 0-9-1 §2.3.5), of which those of methods and properties are mended.

use super::payload::{mend_header, mend_method, tuned};

/// Type, channel and size of a frame (AMQP 0-9-1 §2.3.5).
const HEAD: usize = 7;
/// The largest frame of properties that is kept to be looked at: far more than what RabbitMQ takes unless it is told
/// otherwise, which is 128 KiB.
const LARGEST: usize = 16 * 1024 * 1024;
/// The smallest frame that a peer may have for the largest (AMQP 0-9-1 §4.2.3).
const SMALLEST: usize = 4096;
const METHOD: u8 = 1;
const HEADER: u8 = 2;

/// Bytes that were read, in which whole frames of methods and properties are mended before they are given out.
#[derive(Debug)]
pub(super) struct Frames {
    bytes: Vec<u8>,
    /// Up to here they were given out.
    given: usize,
    /// Up to here they may be.
    ready: usize,
    /// How much of the frame that is passing was not read yet.
    passing: usize,
    /// How large a frame may be, all of it. The broker minds that too, but not where it adds a header of its own; nor does
    /// it mind that our frames are smaller than the producer's.
    largest: usize,
}

impl Frames {
    pub(super) fn new(largest: usize) -> Self {
        Self {
            bytes: Vec::new(),
            given: 0,
            ready: 0,
            passing: 0,
            largest,
        }
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        while self.release() {}
    }

    /// Lets one frame pass, or what is there of it. False if more must be read first.
    fn release(&mut self) -> bool {
        let waiting = self.bytes.get_mut(self.ready..).unwrap_or_default();
        if waiting.is_empty() {
            return false;
        }
        if self.passing > 0 {
            let passes = self.passing.min(waiting.len());
            self.passing -= passes;
            self.ready += passes;
            return true;
        }
        let Some((head, rest)) = waiting.split_first_chunk_mut::<HEAD>() else {
            return false;
        };
        let [kind, _, _, size @ ..] = *head;
        let size = u32::from_be_bytes(size) as usize;
        // One byte ends a frame.
        let length = HEAD.saturating_add(size).saturating_add(1);
        if !matches!(kind, METHOD | HEADER) || size > LARGEST {
            self.passing = length;
            return true;
        }
        if rest.len() <= size {
            return false;
        }
        let shorter = match rest.get_mut(..size) {
            Some(payload) if kind == METHOD => {
                // None where it is malformed, which is not for us to tell; below as well.
                let _mended: Option<()> = mend_method(payload);
                if let Some(tuned) = tuned(payload) {
                    self.largest = self.largest.min(tuned).max(SMALLEST);
                }
                None
            }
            Some(payload) => mend_header(payload, self.largest.saturating_sub(HEAD + 1)),
            None => None,
        };
        self.ready += match shorter {
            Some(payload) => self.replace(length, &payload),
            None => length,
        };
        true
    }

    /// Puts a frame with this payload in the place of the one that waits, which is so long. How long it is.
    fn replace(&mut self, length: usize, payload: &[u8]) -> usize {
        let begin = self.ready + HEAD;
        let end = self.ready + length - 1;
        let size = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let payload = payload.iter().copied();
        self.bytes.splice(begin..end, payload);
        self.bytes.splice(begin - 4..begin, size.to_be_bytes());
        HEAD + size as usize + 1
    }

    /// Gives out what is ready, as far as there is room.
    pub(super) fn take(&mut self, buffer: &mut [u8]) -> usize {
        self.take_up_to(self.ready, buffer)
    }

    pub(super) fn take_rest(&mut self, buffer: &mut [u8]) -> usize {
        self.ready = self.bytes.len();
        self.take(buffer)
    }

    fn take_up_to(&mut self, end: usize, buffer: &mut [u8]) -> usize {
        let ready = self.bytes.get(self.given..end).unwrap_or_default();
        let taken = ready.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..taken), ready.get(..taken)) {
            to.copy_from_slice(from);
        }
        self.given += taken;
        if self.given == self.ready {
            // What is left is part of one frame.
            self.bytes.drain(..self.given);
            (self.given, self.ready) = (0, 0);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::payload::{BASIC, DELIVER, DEPTH, Harm, TUNE, mend_text};
    use super::*;

    fn short(text: &[u8]) -> Vec<u8> {
        let mut bytes = vec![u8::try_from(text.len()).unwrap()];
        bytes.extend_from_slice(text);
        bytes
    }

    fn long(content: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(content.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 1];
        bytes.extend(long(payload));
        bytes.push(0xce);
        bytes
    }

    fn deliver(exchange: &[u8], routing_key: &[u8]) -> Vec<u8> {
        let payload = [
            &DELIVER[..],
            &short(b"tag"),
            &[0, 0, 0, 0, 0, 0, 0, 7, 1],
            &short(exchange),
            &short(routing_key),
        ];
        frame(METHOD, &payload.concat())
    }

    /// Headers (a name, a nested table with the same name, text), a priority, a timestamp and a type.
    fn header(name: &[u8], kind: &[u8]) -> Vec<u8> {
        let inner = [&short(name)[..], b"t\x01"].concat();
        let nested = [b"F".to_vec(), long(&inner)].concat();
        let array = [b"A".to_vec(), long(&nested)].concat();
        let table = [
            short(name),
            array,
            short(b"text"),
            b"S".to_vec(),
            long(b"any \xff bytes"),
            short(b"number"),
            b"l\x00\x00\x00\x00\x00\x00\x00\xff".to_vec(),
        ]
        .concat();
        let payload = [
            &BASIC[..],
            &[0; 2 + 8],
            &0b0010_1000_0110_0000_u16.to_be_bytes(),
            &long(&table),
            &[9],
            &[0xff; 8],
            &short(kind),
        ];
        frame(HEADER, &payload.concat())
    }

    fn body(content: &[u8]) -> Vec<u8> {
        frame(3, content)
    }

    /// A frame with these headers, and a priority after them.
    fn headers(headers: &[&[u8]]) -> Vec<u8> {
        let flags = 0b0010_1000_0000_0000_u16.to_be_bytes();
        let payload = [&BASIC[..], &[0; 10], &flags, &long(&headers.concat()), &[9]];
        frame(HEADER, &payload.concat())
    }

    /// A header that is so many arrays or tables in one another.
    fn nested(name: &[u8], kind: u8, levels: usize) -> Vec<u8> {
        let mut value = Vec::new();
        for level in 0..levels {
            value = [&[kind][..], &long(&value)].concat();
            if kind == b'F' && level + 1 < levels {
                value = [&short(b"in")[..], &value].concat();
            }
        }
        [short(name), value].concat()
    }

    fn says(name: &str, left_out: u32) -> Vec<u8> {
        [&short(name.as_bytes())[..], b"i", &left_out.to_be_bytes()].concat()
    }

    fn mended(bytes: &[u8], slice: usize) -> Vec<u8> {
        mended_for(usize::MAX, bytes, slice)
    }

    fn mended_for(largest: usize, bytes: &[u8], slice: usize) -> Vec<u8> {
        let mut frames = Frames::new(largest);
        let mut out = Vec::new();
        let mut buffer = [0; 13];
        for piece in bytes.chunks(slice.max(1)) {
            frames.add(piece);
            loop {
                let taken = frames.take(&mut buffer);
                out.extend_from_slice(&buffer[..taken]);
                if taken == 0 {
                    break;
                }
            }
        }
        loop {
            let taken = frames.take_rest(&mut buffer);
            out.extend_from_slice(&buffer[..taken]);
            if taken == 0 {
                return out;
            }
        }
    }

    #[test]
    fn illegal_bytes_of_short_strings_are_substituted_and_nothing_else() {
        let sent = [
            deliver(b"caf\xe9", b"team.\xff\xfe.x"),
            header(b"\xe9", b"na\xefve\xe2\x82"),
            body(b"\xff\xff"),
        ]
        .concat();
        let expected = [
            deliver(b"caf\x1a", b"team.\x1a\x1a.x"),
            header(b"\x1a", b"na\x1ave\x1a\x1a"),
            body(b"\xff\xff"),
        ]
        .concat();
        for slice in [1, 2, 7, 8, 64, usize::MAX] {
            assert_eq!(mended(&sent, slice), expected, "{slice}");
        }
    }

    #[test]
    fn a_header_that_nests_too_deep_is_left_out_and_another_says_so() {
        let small = [short(b"small"), b"V".to_vec()].concat();
        let (deepest, levels) = (usize::from(DEPTH), 5_000);
        for kind in [b'A', b'F'] {
            let fits = headers(&[&nested(b"fits", kind, deepest), &small]);
            assert_eq!(mended(&fits, 100), fits);
            let sent = [
                headers(&[
                    &nested(b"a", kind, deepest + 1),
                    &small,
                    &nested(b"", kind, 99),
                ]),
                body(b"between"),
                headers(&[
                    &small,
                    &nested(b"a", kind, if kind == b'A' { levels } else { 300 }),
                ]),
            ];
            let expected = [
                headers(&[&small, &says("\u{1a}depth", 2)]),
                body(b"between"),
                headers(&[&small, &says("\u{1a}depth", 1)]),
            ];
            assert_eq!(mended(&sent.concat(), 1000), expected.concat());
        }
        assert_eq!(Harm::said_by("\u{1a}depth"), Some(Harm::Depth));
    }

    fn tune(frame_max: u32) -> Vec<u8> {
        let payload = [&TUNE[..], &[0, 0], &frame_max.to_be_bytes(), &[0, 60]];
        frame(METHOD, &payload.concat())
    }

    #[test]
    fn headers_that_do_not_fit_into_a_frame_are_left_out_but_for_where_the_record_stands() {
        let text = |name: &[u8], bytes: usize| {
            [&short(name)[..], b"S", &long(&vec![b'x'; bytes])].concat()
        };
        let position = [&short(b"x-stream-offset")[..], b"l", &[7; 8]].concat();
        let small = [short(b"small"), b"V".to_vec()].concat();
        // A frame of 8,192 bytes to the last of them, with 8 around it, 14 and 4 before the headers and 1 after them.
        let full = text(b"full", 8192 - 8 - 14 - 4 - 1 - 10);
        let fits = headers(&[&full]);
        assert_eq!(fits.len(), 8192);
        let too_many: Vec<Vec<u8>> = (0..1000).map(|_| text(b"one", 7)).collect();
        let too_many: Vec<&[u8]> = too_many.iter().map(Vec::as_slice).collect();
        for (largest, tuned) in [(8192, 0), (8192, 131_072), (usize::MAX, 8192)] {
            let mended = |frame: &[u8]| {
                let out = mended_for(largest, &[&tune(tuned), frame].concat(), 1000);
                out[tune(tuned).len()..].to_vec()
            };
            assert_eq!(mended(&fits), fits, "{largest} {tuned}");
            assert_eq!(
                mended(&headers(&[&full, &small, &position])),
                headers(&[&small, &position, &says("\u{1a}size", 1)]),
                "{largest} {tuned}"
            );
            let cut = mended(&headers(&too_many));
            assert!((8000..=8192).contains(&cut.len()), "{}", cut.len());
            let deep = nested(b"deep", b'A', 99);
            assert_eq!(
                mended(&headers(&[&full, &deep, &small])),
                headers(&[&small, &says("\u{1a}depth", 2)]),
                "{largest} {tuned}"
            );
        }
        let huge = headers(&[&text(b"huge", 200_000), &position]);
        let expected = headers(&[&position, &says("\u{1a}size", 1)]);
        assert_eq!(mended_for(16_384, &huge, 1000), expected);
        assert_eq!(mended(&huge, 1000), huge);
    }

    #[test]
    fn of_two_headers_that_say_where_a_record_stands_the_first_is_believed() {
        let stands = |offset: u8| [&short(b"x-stream-offset")[..], b"B", &[offset]].concat();
        let small = [short(b"small"), b"V".to_vec()].concat();
        let sent = headers(&[&stands(1), &small, &stands(2), &stands(3)]);
        assert_eq!(mended(&sent, 100), headers(&[&stands(1), &small]));
        let nested = [&short(b"in")[..], b"F", &long(&stands(2))].concat();
        let sent = headers(&[&nested, &stands(1)]);
        assert_eq!(mended(&sent, 100), sent);
    }

    #[test]
    fn what_is_utf8_and_what_is_no_delivery_passes_as_it_is() {
        let sent = [
            deliver("café".as_bytes(), b"team.7"),
            header("é".as_bytes(), "naïve".as_bytes()),
            frame(METHOD, b"\x00\x0a\x00\x0a\xff\xff"),
            frame(8, b""),
            body(&vec![0xff; 200_000]),
        ]
        .concat();
        assert_eq!(mended(&sent, 1000), sent);
        // What a server answers that speaks another version (AMQP 0-9-1 §2.2.4).
        assert_eq!(mended(b"AMQP\x00\x00\x09\x01", 3), b"AMQP\x00\x00\x09\x01");
    }

    proptest! {
        #[test]
        fn no_bytes_are_added_lost_or_panicked_at(
            bytes in prop::collection::vec(any::<u8>(), 0..600), slice in 1..100_usize,
        ) {
            prop_assert_eq!(mended(&bytes, slice).len(), bytes.len());
            for kind in [METHOD, HEADER] {
                let framed = frame(kind, &[&DELIVER[..], &bytes].concat());
                prop_assert_eq!(mended(&framed, slice).len(), framed.len());
                let framed = frame(kind, &[&BASIC[..], &[0; 10], &bytes].concat());
                prop_assert_eq!(mended(&framed, slice).len(), framed.len());
            }
        }

        #[test]
        fn every_short_string_of_a_delivery_becomes_utf8(
            key in prop::collection::vec(any::<u8>(), 0..255), name in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let out = mended(&[deliver(&key, &key), header(&name, &name)].concat(), 11);
            let mut expected = (key.clone(), name.clone());
            mend_text(&mut expected.0);
            mend_text(&mut expected.1);
            prop_assert!(std::str::from_utf8(&expected.0).is_ok() && std::str::from_utf8(&expected.1).is_ok());
            prop_assert_eq!(out, [deliver(&expected.0, &expected.0), header(&expected.1, &expected.1)].concat());
        }
    }
}
