//! Reads Server-Sent Events off an HTTP/1.1 response at little cost: what is whole in the bytes that came is handed on
//! from where it lies, and only a line that the next read will end is kept.

use memchr::{memchr, memmem};

/// What a server says, line by line. A measured event is one line of data.
#[derive(Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// The response began, with this status.
    Status(u16),
    Id(&'a [u8]),
    Event(&'a [u8]),
    Data(&'a [u8]),
}

/// A response that is being read.
#[derive(Debug, Default)]
pub struct EventStream {
    part: Part,
    /// The beginning of a line, or of the response's head, that has not ended yet.
    begun: Vec<u8>,
}

/// Where in a response the next byte stands.
#[derive(Clone, Copy, Debug, Default)]
enum Part {
    #[default]
    Head,
    /// A body that is not chunked.
    Plain,
    /// The line with a chunk's length, with what was read of it, and whether its digits have ended.
    Length(usize, bool),
    /// So much of a chunk is to come.
    Chunk(usize),
    /// So much of what ends a chunk.
    ChunkEnd(usize),
}

impl EventStream {
    /// Takes the bytes that came.
    pub fn take(&mut self, mut bytes: &[u8], mut hear: impl FnMut(Said)) {
        while !bytes.is_empty() {
            match self.part {
                Part::Head => bytes = self.head(bytes, &mut hear),
                Part::Plain => {
                    self.lines(bytes, &mut hear);
                    return;
                }
                Part::Length(length, ended) => {
                    let (byte, rest) = (bytes[0], &bytes[1..]);
                    bytes = rest;
                    self.part = match char::from(byte).to_digit(16) {
                        Some(digit) if !ended => Part::Length(length * 16 + digit as usize, false),
                        _ if byte == b'\n' => Part::Chunk(length),
                        _ => Part::Length(length, true),
                    };
                }
                Part::Chunk(length) => {
                    let (chunk, rest) = bytes.split_at(length.min(bytes.len()));
                    self.lines(chunk, &mut hear);
                    bytes = rest;
                    self.part = match length - chunk.len() {
                        0 => Part::ChunkEnd(2),
                        left => Part::Chunk(left),
                    };
                }
                Part::ChunkEnd(length) => {
                    let skipped = length.min(bytes.len());
                    bytes = &bytes[skipped..];
                    self.part = match length - skipped {
                        0 => Part::Length(0, false),
                        left => Part::ChunkEnd(left),
                    };
                }
            }
        }
    }

    /// Takes the head, and gives what comes after it.
    fn head<'a>(&mut self, bytes: &'a [u8], hear: &mut impl FnMut(Said)) -> &'a [u8] {
        let before = self.begun.len();
        self.begun.extend_from_slice(bytes);
        let Some(end) = memmem::find(&self.begun, b"\r\n\r\n") else {
            return &[];
        };
        let head = String::from_utf8_lossy(&self.begun[..end]).to_ascii_lowercase();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok());
        self.part = match head.contains("\r\ntransfer-encoding: chunked") {
            true => Part::Length(0, false),
            false => Part::Plain,
        };
        self.begun = Vec::new();
        hear(Said::Status(status.unwrap_or(0)));
        &bytes[end + 4 - before..]
    }

    fn lines(&mut self, mut bytes: &[u8], hear: &mut impl FnMut(Said)) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.begun.is_empty() {
                say(line, hear);
            } else {
                self.begun.extend_from_slice(line);
                say(&self.begun, hear);
                self.begun.clear();
            }
            bytes = rest;
        }
        self.begun.extend_from_slice(bytes);
    }
}

fn say(line: &[u8], hear: &mut impl FnMut(Said)) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if let Some(data) = line.strip_prefix(b"data: ") {
        hear(Said::Data(data));
    } else if let Some(id) = line.strip_prefix(b"id: ") {
        hear(Said::Id(id));
    } else if let Some(event) = line.strip_prefix(b"event: ") {
        hear(Said::Event(event));
    }
}

#[cfg(test)]
mod tests {
    use super::EventStream;

    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n\
        d\r\nretry: 2500\n\n\r\n\
        12\r\nid: 7-0\ndata: one\n\r\n2;x=y\r\n\n:\r\n\
        1b\r\n\nevent: a\r\ndata: \r\ndata: tw\r\n2\r\no\n\r\n";
    const PLAIN: &str =
        "HTTP/1.1 200 OK\r\n\r\nid: 7-0\ndata: one\n\n:\n\nevent: a\ndata: \ndata: two\n\n";
    const SAID: [&str; 6] = [
        "Status(200)",
        "Id \"7-0\"",
        "Data \"one\"",
        "Event \"a\"",
        "Data \"\"",
        "Data \"two\"",
    ];

    fn said(parts: &[&[u8]]) -> Vec<String> {
        use super::Said::{Data, Event, Id, Status};
        let mut stream = EventStream::default();
        let mut all = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
        for part in parts {
            stream.take(part, |said| {
                all.push(match said {
                    Status(status) => format!("Status({status})"),
                    Id(id) => format!("Id {:?}", text(id)),
                    Event(event) => format!("Event {:?}", text(event)),
                    Data(data) => format!("Data {:?}", text(data)),
                });
            });
        }
        all
    }

    #[test]
    fn the_same_is_heard_wherever_the_bytes_are_cut() {
        for response in [CHUNKED, PLAIN] {
            let bytes = response.as_bytes();
            assert_eq!(said(&[bytes]), SAID);
            assert_eq!(said(&bytes.chunks(1).collect::<Vec<_>>()), SAID);
            for first in 0..bytes.len() {
                for second in first..bytes.len() {
                    let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                    assert_eq!(said(&parts), SAID, "cut at {first} and {second}");
                }
            }
        }
    }

    #[test]
    fn a_refusal_is_heard_as_its_status() {
        assert_eq!(
            said(&[b"HTTP/1.1 503 Service Unavailable\r\n\r\n"]),
            ["Status(503)"]
        );
    }
}
