//! STOMP over a WebSocket, as RabbitMQ's Web-STOMP plugin speaks it: what a client sends, and what it reads, at little cost.

use memchr::{memchr, memmem};

/// What the broker says.
#[derive(Debug, PartialEq, Eq)]
pub enum Said<'a> {
    /// The answer to the WebSocket's handshake, with its status.
    Status(u16),
    Connected,
    /// The subscription is there.
    Receipt,
    /// An event's body.
    Message(&'a [u8]),
    /// The command of any other frame.
    Other(&'a [u8]),
}

/// The request that asks for a WebSocket.
pub fn handshake(address: &str) -> Vec<u8> {
    format!(
        "GET /ws HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v12.stomp\r\n\r\n"
    )
    .into_bytes()
}

/// A login.
pub fn connect(vhost: &str, user: &str, password: &str) -> Vec<u8> {
    masked(&format!(
        "CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:{user}\npasscode:{password}\nheart-beat:0,0\n\n\0"
    ))
}

/// A subscription that asks for a receipt.
pub fn subscribe(destination: &str) -> Vec<u8> {
    masked(&format!(
        "SUBSCRIBE\nid:0\ndestination:{destination}\nack:auto\nreceipt:0\n\n\0"
    ))
}

/// A text frame with the mask 0, which is one that a client may choose (RFC 6455 §5.3). The length has to be written as
/// briefly as it can be (§5.2).
fn masked(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("a short frame");
    let mut frame = vec![0x81];
    match u8::try_from(length) {
        Ok(length @ ..126) => frame.push(0x80 | length),
        _ => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// A WebSocket that is being read.
#[derive(Debug, Default)]
pub struct WebStomp {
    open: bool,
    /// What has begun and not ended yet: the handshake's answer, or a frame.
    begun: Vec<u8>,
}

impl WebStomp {
    /// Takes the bytes that came.
    pub fn take(&mut self, bytes: &[u8], mut hear: impl FnMut(Said)) {
        if self.begun.is_empty() {
            let taken = self.whole(bytes, &mut hear);
            self.begun.extend_from_slice(&bytes[taken..]);
        } else {
            let mut begun = std::mem::take(&mut self.begun);
            begun.extend_from_slice(bytes);
            let taken = self.whole(&begun, &mut hear);
            begun.drain(..taken);
            self.begun = begun;
        }
    }

    /// Takes what is whole, and says how many bytes that was.
    fn whole(&mut self, bytes: &[u8], hear: &mut impl FnMut(Said)) -> usize {
        let mut taken = 0;
        if !self.open {
            let Some(end) = memmem::find(bytes, b"\r\n\r\n") else {
                return 0;
            };
            let head = String::from_utf8_lossy(&bytes[..end]);
            let status = head
                .split(' ')
                .nth(1)
                .and_then(|status| status.parse().ok());
            hear(Said::Status(status.unwrap_or(0)));
            self.open = true;
            taken = end + 4;
        }
        while let Some((payload, length)) = frame(&bytes[taken..]) {
            say(payload, hear);
            taken += length;
        }
        taken
    }
}

/// The payload of the frame that these bytes begin with, if it is whole, and the frame's length. A server's are not masked.
fn frame(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (head, length): (usize, usize) = match bytes.get(1)? & 0x7f {
        126 => (
            4,
            usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
        ),
        127 => (
            10,
            usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?,
        ),
        length => (2, usize::from(length)),
    };
    let payload = bytes.get(head..head.checked_add(length)?)?;
    Some((payload, head + length))
}

fn say(payload: &[u8], hear: &mut impl FnMut(Said)) {
    let command = &payload[..memchr(b'\n', payload).unwrap_or(payload.len())];
    hear(match command {
        b"CONNECTED" => Said::Connected,
        b"RECEIPT" => Said::Receipt,
        b"MESSAGE" => {
            let body = memmem::find(payload, b"\n\n").map_or(payload.len(), |end| end + 2);
            let body = &payload[body..];
            Said::Message(body.strip_suffix(b"\0").unwrap_or(body))
        }
        other => Said::Other(other),
    });
}

#[cfg(test)]
mod tests {
    use super::{Said, WebStomp, connect, frame, subscribe};

    fn text(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x81];
        match payload.len() {
            length @ 0..126 => frame.push(length as u8),
            length @ 126..65_536 => {
                frame.push(126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn the_same_is_heard_wherever_the_bytes_are_cut() {
        let long = format!("MESSAGE\ndestination:/x\n\n{}\0", "y".repeat(300));
        let bytes = [
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n".to_vec(),
            text(b"CONNECTED\nversion:1.2\n\n\0"),
            text(b"RECEIPT\nreceipt-id:0\n\n\0"),
            text(b"MESSAGE\n\none\n\ntwo\0"),
            text(long.as_bytes()),
            text(b"ERROR\n\nno\0"),
        ]
        .concat();
        let mut expected = vec!["Status(101)", "Connected", "Receipt"];
        let messages = [
            Said::Message(b"one\n\ntwo"),
            Said::Message("y".repeat(300).as_bytes()),
        ]
        .map(|message| format!("{message:?}"));
        let other = format!("{:?}", Said::Other(b"ERROR"));
        expected.extend(messages.iter().map(String::as_str));
        expected.push(&other);
        for cut in 0..bytes.len() {
            let mut stream = WebStomp::default();
            let mut said = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                stream.take(part, |each| said.push(format!("{each:?}")));
            }
            assert_eq!(said, expected, "cut at {cut}");
        }
    }

    #[test]
    fn a_frame_of_any_length_is_read_whole_or_not_at_all() {
        for length in [0, 125, 126, 65_535, 65_536] {
            let payload = vec![b'x'; length];
            let bytes = text(&payload);
            assert_eq!(frame(&bytes), Some((payload.as_slice(), bytes.len())));
            assert_eq!(frame(&bytes[..bytes.len() - 1]), None);
        }
    }

    #[test]
    fn what_a_client_sends_is_masked_with_0_and_tells_its_length_briefly() {
        let short = subscribe("/topic/x");
        assert_eq!(short[0], 0x81);
        assert_eq!(usize::from(short[1]), 0x80 + short.len() - 6);
        assert_eq!(short[2..6], [0; 4]);
        let long = connect("/", &"u".repeat(100), &"p".repeat(100));
        assert_eq!(long[..2], [0x81, 0x80 + 126]);
        let length = u16::from_be_bytes([long[2], long[3]]);
        assert_eq!(usize::from(length), long.len() - 8);
        assert_eq!(long[4..8], [0; 4]);
    }
}
