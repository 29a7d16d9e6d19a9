//! What is in a frame of a method or of properties: short strings become UTF-8, headers that would do harm are left out.

use std::ops::Range;

use super::super::message::OFFSET;

/// What stands where an illegal byte stood: the control character that Unicode keeps for this, SUB.
pub(in crate::amqp) const SUBSTITUTE: char = '\u{1a}';

/// What a header takes that stands for those that were left out, and more.
const NOTE: usize = 64;
/// How deep tables and arrays may be in one another. `lapin` has a stack frame or more for each, and the process ends where
/// its stack does.
pub(in crate::amqp) const DEPTH: u8 = 32;
/// The class and method of `basic.deliver`, and the class of a content header.
pub(super) const DELIVER: [u8; 4] = [0, 60, 0, 60];
pub(super) const BASIC: [u8; 2] = [0, 60];
/// The class and method of `connection.tune`.
pub(super) const TUNE: [u8; 4] = [0, 10, 0, 30];

/// What harm a message's headers would do. Those that would do it are left out; in their place stands one that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::amqp) enum Harm {
    /// They nest deeper than [`DEPTH`].
    Depth,
    /// They do not fit into a frame.
    Size,
}

impl Harm {
    const ALL: [Self; 2] = [Self::Depth, Self::Size];

    /// The name of the header that says so; its value says how many were left out. No producer has a use for such a
    /// name, and one that sends it is taken at its word.
    const fn header(self) -> &'static str {
        match self {
            Self::Depth => "\u{1a}depth",
            Self::Size => "\u{1a}size",
        }
    }

    /// Adds the header that says so.
    fn write(self, left_out: u32, headers: &mut Vec<u8>) -> Option<()> {
        let name = self.header();
        headers.push(u8::try_from(name.len()).ok()?);
        headers.extend_from_slice(name.as_bytes());
        headers.push(b'i');
        headers.extend_from_slice(&left_out.to_be_bytes());
        Some(())
    }

    /// What the header of this name says.
    pub(in crate::amqp) fn said_by(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|harm| harm.header() == name)
    }
}

/// Mends the short strings of a delivery. None where the payload ends too early.
pub(super) fn mend_method(payload: &mut [u8]) -> Option<()> {
    let mut rest = Rest(payload);
    if rest.take(4)? != DELIVER {
        return Some(());
    }
    rest.mend_short()?; // consumer tag
    rest.take(8 + 1)?; // delivery tag, redelivered
    rest.mend_short()?; // exchange
    rest.mend_short()?; // routing key
    Some(())
}

/// The largest frame that the broker says it will send (AMQP 0-9-1 §1.4.2.5); without a limit, any.
pub(super) fn tuned(payload: &[u8]) -> Option<usize> {
    let (_channel_max, rest) = payload.strip_prefix(&TUNE)?.split_first_chunk::<2>()?;
    match u32::from_be_bytes(*rest.first_chunk()?) {
        0 => None,
        frame_max => Some(frame_max as usize),
    }
}

/// Mends the short strings of a message's properties. Another payload, where this one would do harm, or has more bytes than
/// `most`.
pub(super) fn mend_header(payload: &mut [u8], most: usize) -> Option<Vec<u8>> {
    let all = payload.len();
    let mut rest = Rest(payload);
    if rest.take(2)? != BASIC {
        return None;
    }
    rest.take(2 + 8)?; // weight, size of the body
    let flags = rest.number(2)?;
    // From the highest flag down (AMQP 0-9-1 §4.2.6.1): the properties that are there, in this order.
    let properties = [
        Property::Short, // content type
        Property::Short, // content encoding
        Property::Headers,
        Property::Bytes(1), // delivery mode
        Property::Bytes(1), // priority
        Property::Short,    // correlation id
        Property::Short,    // reply to
        Property::Short,    // expiration
        Property::Short,    // message id
        Property::Bytes(8), // timestamp
        Property::Short,    // type
        Property::Short,    // user id
        Property::Short,    // app id
        Property::Short,    // cluster id
    ];
    let mut headers = None;
    for (index, property) in properties.into_iter().enumerate() {
        if flags & (1 << (15 - index)) == 0 {
            continue;
        }
        match property {
            Property::Short => drop(rest.mend_short()?),
            Property::Headers => {
                let size = rest.number(4)?;
                let begin = all - rest.0.len();
                headers = mend_headers(rest.take(size)?, most.saturating_sub(all - size))?
                    .map(|other| (begin..begin + size, other));
            }
            Property::Bytes(count) => drop(rest.take(count)?),
        }
    }
    let (place, other) = headers?;
    let size = u32::try_from(other.len()).ok()?.to_be_bytes();
    let before = payload.get(..place.start.checked_sub(size.len())?)?;
    Some([before, &size, &other, payload.get(place.end..)?].concat())
}

/// Mends the names in a message's headers. Other headers, where these would do harm, or have more bytes than `most`.
fn mend_headers(table: &mut [u8], most: usize) -> Option<Option<Vec<u8>>> {
    let all = table.len();
    let mut room = match all <= most {
        true => most,
        false => most.saturating_sub(NOTE),
    };
    // Seldom any, and then often one after the other.
    let mut left_out: Vec<Range<usize>> = Vec::new();
    let (mut count, mut harm) = (0, None);
    let mut rest = Rest(table);
    let (mut begin, mut has_position) = (0, false);
    while !rest.0.is_empty() {
        let is_position = rest.mend_short()? == OFFSET.as_bytes();
        let nesting = rest.mend_value(DEPTH)?;
        let end = all - rest.0.len();
        let stays = match nesting {
            // A stream puts its own first, and `lapin` believes the last: a producer's would say that the record stands
            // elsewhere. It is no loss to anybody.
            Nesting::Shallow if is_position => !std::mem::replace(&mut has_position, true),
            Nesting::Shallow if end - begin <= room => {
                room -= end - begin;
                true
            }
            Nesting::Shallow => {
                (count, harm) = (count + 1, harm.or(Some(Harm::Size)));
                false
            }
            Nesting::Deep => {
                (count, harm) = (count + 1, Some(Harm::Depth));
                false
            }
        };
        if !stays {
            match left_out.last_mut().filter(|before| before.end == begin) {
                Some(before) => before.end = end,
                None => left_out.push(begin..end),
            }
        }
        begin = end;
    }
    if left_out.is_empty() {
        return Some(None);
    }
    let mut other = Vec::new();
    let mut begin = 0;
    for Range { start, end } in left_out {
        other.extend_from_slice(table.get(begin..start)?);
        begin = end;
    }
    other.extend_from_slice(table.get(begin..)?);
    if let Some(harm) = harm {
        harm.write(count, &mut other)?;
    }
    Some(Some(other))
}

#[derive(Clone, Copy)]
enum Property {
    Short,
    Headers,
    Bytes(usize),
}

/// What of a payload was not looked at yet. Every step is None where it is too short.
struct Rest<'a>(&'a mut [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a mut [u8]> {
        let (taken, rest) = std::mem::take(&mut self.0).split_at_mut_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of so many bytes, four at most.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        let number = self.take(bytes)?;
        Some(
            number
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
        )
    }

    fn mend_short(&mut self) -> Option<&'a [u8]> {
        let length = self.number(1)?;
        let text = self.take(length)?;
        mend_text(text);
        Some(text)
    }

    /// A value. Only tables within have short strings; text is long, and may be any bytes. What is deeper than so many
    /// tables and arrays is not looked at.
    fn mend_value(&mut self, levels: u8) -> Option<Nesting> {
        let kind = u8::try_from(self.number(1)?).ok()?;
        let count = match kind {
            b'F' | b'A' => {
                let size = self.number(4)?;
                let mut within = Rest(self.take(size)?);
                let Some(levels) = levels.checked_sub(1) else {
                    return Some(Nesting::Deep);
                };
                while !within.0.is_empty() {
                    if kind == b'F' {
                        within.mend_short()?;
                    }
                    if within.mend_value(levels)? == Nesting::Deep {
                        return Some(Nesting::Deep);
                    }
                }
                return Some(Nesting::Shallow);
            }
            b'S' | b'x' => self.number(4)?,
            b't' | b'b' | b'B' => 1,
            b's' | b'u' | b'U' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'L' | b'l' | b'd' | b'T' => 8,
            b'V' => 0,
            _ => return None,
        };
        self.take(count)?;
        Some(Nesting::Shallow)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Nesting {
    Shallow,
    Deep,
}

/// Puts the substitute for every byte that is not part of UTF-8.
pub(super) fn mend_text(mut text: &mut [u8]) {
    while let Err(error) = std::str::from_utf8(text) {
        let bad = error.error_len().unwrap_or(text.len());
        let Some((_, rest)) = text.split_at_mut_checked(error.valid_up_to()) else {
            return;
        };
        let Some((illegal, rest)) = rest.split_at_mut_checked(bad.min(rest.len())) else {
            return;
        };
        illegal.fill(SUBSTITUTE as u8);
        text = rest;
    }
}
