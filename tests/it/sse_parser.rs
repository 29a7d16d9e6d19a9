//! What a browser makes of an event stream: a second reading of WHATWG HTML §9.2.5 and §9.2.6, written from the
//! standard and sharing nothing with the encoder, so that a mistake in one is not repeated in the other.

/// What a client dispatched, as the page sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatched {
    pub last_event_id: String,
    /// `message` where the block had no `event` field.
    pub kind: String,
    pub data: String,
}

/// The state of a client that reads one stream. Fed in chunks of any size.
#[derive(Debug, Default)]
pub struct SseParser {
    /// Bytes of the line that has not ended yet.
    line: Vec<u8>,
    /// How many lines have ended: a byte order mark is only at the start of the first.
    lines: usize,
    /// The last byte was a CR that ended a line: an LF right behind it belongs to it.
    after_cr: bool,
    data: String,
    kind: String,
    id: String,
    /// What the client would send as `Last-Event-ID`.
    pub last_event_id: String,
    /// The reconnection time in milliseconds, if the stream has set one.
    pub retry: Option<u64>,
    /// All that was dispatched so far.
    pub dispatched: Vec<Dispatched>,
}

impl SseParser {
    /// All that a client dispatches of a whole stream. What no blank line ends is discarded.
    pub fn read(stream: &[u8]) -> Self {
        let mut parser = Self::default();
        parser.feed(stream);
        parser
    }

    pub fn feed(&mut self, chunk: &[u8]) {
        for &byte in chunk {
            let completes_crlf = self.after_cr && byte == b'\n';
            self.after_cr = byte == b'\r';
            match byte {
                b'\n' if completes_crlf => {}
                b'\n' | b'\r' => self.end_line(),
                byte => self.line.push(byte),
            }
        }
    }

    fn end_line(&mut self) {
        let bytes = std::mem::take(&mut self.line);
        // "UTF-8 decode": one leading byte order mark goes, what is no UTF-8 is replaced.
        let bytes = match bytes.strip_prefix("\u{feff}".as_bytes()) {
            Some(rest) if self.lines == 0 => rest,
            _ => &bytes,
        };
        self.lines += 1;
        let line = String::from_utf8_lossy(bytes);
        if line.is_empty() {
            self.dispatch();
        } else if let Some((field, value)) = line.split_once(':') {
            // A colon at the start makes a comment: its field has no name, and is ignored as unknown.
            self.process_field(field, value.strip_prefix(' ').unwrap_or(value));
        } else {
            self.process_field(&line, "");
        }
    }

    fn process_field(&mut self, field: &str, value: &str) {
        match field {
            "event" => self.kind = value.to_owned(),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => self.id = value.to_owned(),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().ok();
            }
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        self.last_event_id.clone_from(&self.id);
        let mut data = std::mem::take(&mut self.data);
        let kind = std::mem::take(&mut self.kind);
        if data.is_empty() {
            return;
        }
        if data.ends_with('\n') {
            data.pop();
        }
        self.dispatched.push(Dispatched {
            last_event_id: self.last_event_id.clone(),
            kind: if kind.is_empty() {
                "message".to_owned()
            } else {
                kind
            },
            data,
        });
    }
}
