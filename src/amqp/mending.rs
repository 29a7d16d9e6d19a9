//! What RabbitMQ sends, made readable before `lapin` sees it: a short string that is not UTF-8 (a routing key, a `type`,
//! a header's name...) is an error to its parser, and ends the whole link, again and again, at the same message.
//!
//! AMQP wants UTF-8 there (0-9-1 §4.2.5.3), but RabbitMQ carries any bytes. Here those that are illegal become
//! [`SUBSTITUTE`], so that no length changes. Headers that would harm whoever reads them are left out, and a header of our
//! own stands for them ([`Harm`]). The message is then dead-lettered for what it is (see [`message`](super::message)).
//! Bodies pass untouched.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use async_rs::{Runtime, Tokio};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::future::{self, Either};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};

use super::connection::LOGIN;
use super::message::OFFSET;
use super::trust::{Passage, Spoken};

/// What stands where an illegal byte stood: the control character that Unicode keeps for this, SUB.
pub(super) const SUBSTITUTE: char = '\u{1a}';

/// How much is read from the socket at once.
const CHUNK: usize = 32 * 1024;
/// Type, channel and size of a frame (AMQP 0-9-1 §2.3.5).
const HEAD: usize = 7;
/// The largest frame of properties that is kept to be looked at: far more than what RabbitMQ takes unless it is told
/// otherwise, which is 128 KiB.
const LARGEST: usize = 16 * 1024 * 1024;
/// The smallest frame that a peer may have for the largest (AMQP 0-9-1 §4.2.3).
const SMALLEST: usize = 4096;
/// What a header takes that stands for those that were left out, and more.
const NOTE: usize = 64;
/// How deep tables and arrays may be in one another. `lapin` has a stack frame or more for each, and the process ends where
/// its stack does.
pub(super) const DEPTH: u8 = 32;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
/// The class and method of `basic.deliver`, and the class of a content header.
const DELIVER: [u8; 4] = [0, 60, 0, 60];
const BASIC: [u8; 2] = [0, 60];
/// The class and method of `connection.tune`.
const TUNE: [u8; 4] = [0, 10, 0, 30];

/// The runtime that `lapin` is to connect to one node with: tokio's, but for what its sockets read, and for what is under
/// them. `frame_max` is what `lapin` asks for; none, or 0, is the broker's.
pub(super) fn runtime(passage: Passage, frame_max: Option<u32>) -> Runtime<Mending> {
    let largest = match frame_max {
        None | Some(0) => usize::MAX,
        Some(frame_max) => frame_max as usize,
    };
    Runtime::new(Mending(Tokio::current(), passage, largest))
}

/// Tokio, with sockets that mend; the passage that each takes first, and the largest frame that it may give.
#[derive(Clone, Debug)]
pub(super) struct Mending(Tokio, Passage, usize);

impl RuntimeKit for Mending {}

impl Executor for Mending {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        future: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        work: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(work)
    }
}

impl Reactor for Mending {
    type TcpStream = Mended<Compat<Spoken>>;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(
        &self,
        duration: Duration,
    ) -> impl futures_util::Stream<Item = Instant> + Send + 'static {
        self.0.interval(duration)
    }

    fn tcp_connect_addr(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connecting = self.0.tcp_connect_addr(address);
        let Self(_, passage, largest) = self.clone();
        // A node that never ends its handshake must not keep `lapin`'s thread for ever.
        let patience = self.0.sleep(LOGIN);
        async move {
            let socket = connecting.await?.into_inner();
            let shaking = std::pin::pin!(passage.over(socket));
            match future::select(shaking, std::pin::pin!(patience)).await {
                Either::Left((spoken, _)) => Ok(Mended::new(spoken?.compat(), largest)),
                Either::Right(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }
}

/// A socket whose reader finds every short string in UTF-8.
pub(super) struct Mended<S> {
    socket: S,
    chunk: Box<[u8]>,
    frames: Frames,
}

impl<S> Mended<S> {
    fn new(socket: S, largest: usize) -> Self {
        Self {
            socket,
            chunk: vec![0; CHUNK].into_boxed_slice(),
            frames: Frames::new(largest),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Mended<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let Self {
            socket,
            chunk,
            frames,
        } = self.get_mut();
        loop {
            let taken = frames.take(buffer);
            if taken > 0 || buffer.is_empty() {
                return Poll::Ready(Ok(taken));
            }
            let read = ready!(Pin::new(&mut *socket).poll_read(context, chunk))?;
            match chunk.get(..read) {
                Some(bytes) if read > 0 => frames.add(bytes),
                // The end: what is left is no whole frame, and whoever reads it will say so.
                _ => return Poll::Ready(Ok(frames.take_rest(buffer))),
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Mended<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(context, slices)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_close(context)
    }
}

/// Bytes that were read, in which whole frames of methods and properties are mended before they are given out.
#[derive(Debug)]
struct Frames {
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
    fn new(largest: usize) -> Self {
        Self {
            bytes: Vec::new(),
            given: 0,
            ready: 0,
            passing: 0,
            largest,
        }
    }

    fn add(&mut self, bytes: &[u8]) {
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
    fn take(&mut self, buffer: &mut [u8]) -> usize {
        self.take_up_to(self.ready, buffer)
    }

    fn take_rest(&mut self, buffer: &mut [u8]) -> usize {
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

/// What harm a message's headers would do. Those that would do it are left out; in their place stands one that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Harm {
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
    pub(super) fn said_by(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|harm| harm.header() == name)
    }
}

/// Mends the short strings of a delivery. None where the payload ends too early.
fn mend_method(payload: &mut [u8]) -> Option<()> {
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
fn tuned(payload: &[u8]) -> Option<usize> {
    let (_channel_max, rest) = payload.strip_prefix(&TUNE)?.split_first_chunk::<2>()?;
    match u32::from_be_bytes(*rest.first_chunk()?) {
        0 => None,
        frame_max => Some(frame_max as usize),
    }
}

/// Mends the short strings of a message's properties. Another payload, where this one would do harm, or has more bytes than
/// `most`.
fn mend_header(payload: &mut [u8], most: usize) -> Option<Vec<u8>> {
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
fn mend_text(mut text: &mut [u8]) {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
