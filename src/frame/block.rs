//! Bytes that are ready to be sent, framed once as a chunk of HTTP/1.1: clients share the very same bytes, down to the
//! write to their sockets.

use std::io::Write;
use std::ops::Deref;

use bytes::Bytes;

/// Whole lines of a stream; cheap to clone. It derefs to them, without the frame.
#[derive(Clone, Debug)]
pub struct Block {
    /// The size in hex and a line end, the lines, and a line end (RFC 9112 §7.1).
    chunk: Bytes,
    /// How many bytes stand before the lines.
    head: usize,
}

const LINE_END: &[u8] = b"\r\n";

impl Block {
    /// The most bytes that the frame takes.
    pub(super) const FRAME_BOUND: usize = 2 * size_of::<usize>() + 2 * LINE_END.len();

    /// What `write` writes, which takes `expected` bytes, or grows. It must be something: nothing ends a body.
    pub(super) fn written(expected: usize, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let digits = hex_digits(expected);
        let mut chunk = Vec::with_capacity(digits + expected + 2 * LINE_END.len());
        chunk.resize(digits, b'0');
        chunk.extend_from_slice(LINE_END);
        write(&mut chunk);
        let bytes = chunk.len() - digits - LINE_END.len();
        let missing = hex_digits(bytes).saturating_sub(digits);
        chunk.splice(..0, std::iter::repeat_n(b'0', missing));
        let digits = digits + missing;
        if let Some(mut size) = chunk.get_mut(..digits) {
            // Zeros may stand before it. Writing into memory does not fail.
            drop(write!(size, "{bytes:0digits$x}"));
        }
        chunk.extend_from_slice(LINE_END);
        Self {
            chunk: Bytes::from(chunk.into_boxed_slice()),
            head: digits + LINE_END.len(),
        }
    }

    /// The lines inside their frame.
    #[must_use]
    pub const fn chunk(&self) -> &Bytes {
        &self.chunk
    }

    /// The lines, sharing their memory.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.chunk.slice_ref(self)
    }

    /// A part of the lines, sharing their memory: of `bytes` bytes, with so many behind it. None where it has not so many.
    pub(super) fn part_before_last(&self, bytes: usize, behind: usize) -> Option<Bytes> {
        let end = self.len().checked_sub(behind)?;
        let part = self.get(end.checked_sub(bytes)?..end)?;
        Some(self.chunk.slice_ref(part))
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let end = self.chunk.len() - LINE_END.len();
        self.chunk.get(self.head..end).unwrap_or_default()
    }
}

fn hex_digits(size: usize) -> usize {
    let bits = usize::BITS - size.leading_zeros();
    bits.div_ceil(4).max(1) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_frame_tells_the_size_of_the_lines(lines in "[a-z\n]{1,600}", expected in 0..600_usize) {
            let block = Block::written(expected, |buffer| buffer.extend_from_slice(lines.as_bytes()));
            prop_assert_eq!(&*block, lines.as_bytes());
            prop_assert_eq!(block.bytes(), lines.as_bytes());
            let chunk = std::str::from_utf8(block.chunk()).unwrap();
            let (size, rest) = chunk.split_once("\r\n").unwrap();
            prop_assert_eq!(usize::from_str_radix(size, 16), Ok(lines.len()));
            prop_assert_eq!(rest.strip_suffix("\r\n"), Some(&*lines));
            prop_assert!(chunk.len() - lines.len() <= Block::FRAME_BOUND);
        }
    }

    #[test]
    fn a_size_has_no_more_digits_than_was_expected() {
        let chunk = |expected| {
            let block = Block::written(expected, |buffer| {
                buffer.extend_from_slice(b"0123456789abcdef")
            });
            block.chunk().clone()
        };
        assert_eq!(chunk(16), "10\r\n0123456789abcdef\r\n");
        assert_eq!(chunk(1), "10\r\n0123456789abcdef\r\n");
        assert_eq!(chunk(0x100), "010\r\n0123456789abcdef\r\n");
    }
}
