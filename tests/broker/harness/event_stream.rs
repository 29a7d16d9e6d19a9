//! An event stream read by the rules of WHATWG HTML §9.2.6, written apart from the bridge's encoder so that the two
//! cannot share a mistake.

/// An event as `EventSource` would dispatch it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `lastEventId`: the newest id of the stream, of this block or of an earlier one.
    pub id: String,
    /// Whether this very block bore an id.
    pub has_own_id: bool,
    /// The event's type: `message` where the block names none.
    pub name: String,
    pub data: String,
}

impl Event {
    /// Whether the bridge speaks for itself here.
    pub fn is_control(&self) -> bool {
        self.name.starts_with("bridge.")
    }

    /// The data as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {:?}", self.data))
    }

    /// The position in its id: the decimal number before the hyphen.
    pub fn position(&self) -> u64 {
        let position = self
            .id
            .split_once('-')
            .and_then(|(position, _)| position.parse().ok());
        position.unwrap_or_else(|| panic!("an id without a position: {:?}", self.id))
    }
}

/// What a stream holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Event(Event),
    /// A block with an id and no data: it moves the last event id and dispatches nothing.
    Checkpoint(String),
    /// A new reconnection time, in milliseconds.
    Retry(u64),
    Comment(String),
}

/// A stream that is being read. Bytes go in as they come, items come out.
#[derive(Debug, Default)]
pub struct EventStream {
    line: Vec<u8>,
    after_carriage_return: bool,
    started: bool,
    data: String,
    has_data: bool,
    name: String,
    id: String,
    has_own_id: bool,
    /// The id as of the last block that came to its end.
    last_id: String,
}

impl EventStream {
    /// A stream that resumes: events without an id of their own have this one.
    pub fn resumed_at(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            last_id: id.to_owned(),
            ..Self::default()
        }
    }

    /// The last event id, which a browser sends back when it returns. An id counts only once its block has ended: what
    /// a connection broke off in the middle of was never dispatched.
    pub fn last_id(&self) -> &str {
        &self.last_id
    }

    /// Whether a block has begun and not ended: what came of it is lost if nothing follows.
    pub fn is_in_block(&self) -> bool {
        self.has_data || self.has_own_id || !self.name.is_empty() || !self.line.is_empty()
    }

    /// Reads `bytes` and hands every item they complete to `sink`.
    pub fn read(&mut self, bytes: &[u8], sink: &mut impl FnMut(Item)) {
        for &byte in bytes {
            let follows_carriage_return = std::mem::take(&mut self.after_carriage_return);
            match byte {
                b'\n' if follows_carriage_return => {}
                b'\n' => self.end_line(sink),
                b'\r' => {
                    self.after_carriage_return = true;
                    self.end_line(sink);
                }
                _ => self.line.push(byte),
            }
        }
    }

    fn end_line(&mut self, sink: &mut impl FnMut(Item)) {
        let bytes = std::mem::take(&mut self.line);
        let line = std::str::from_utf8(&bytes)
            .unwrap_or_else(|error| panic!("a stream that is not UTF-8: {error}"));
        let line = if std::mem::replace(&mut self.started, true) {
            line
        } else {
            line.trim_start_matches('\u{feff}')
        };
        if line.is_empty() {
            self.dispatch(sink);
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => sink(Item::Comment(value.to_owned())),
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
                self.has_data = true;
            }
            "id" if !value.contains('\0') => {
                value.clone_into(&mut self.id);
                self.has_own_id = true;
            }
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                sink(Item::Retry(value.parse().expect("digits")));
            }
            _ => {}
        }
    }

    fn dispatch(&mut self, sink: &mut impl FnMut(Item)) {
        let mut data = std::mem::take(&mut self.data);
        let name = std::mem::take(&mut self.name);
        let has_own_id = std::mem::take(&mut self.has_own_id);
        if has_own_id {
            self.last_id.clone_from(&self.id);
        }
        if std::mem::take(&mut self.has_data) {
            data.pop();
            let name = if name.is_empty() {
                "message".to_owned()
            } else {
                name
            };
            sink(Item::Event(Event {
                id: self.id.clone(),
                has_own_id,
                name,
                data,
            }));
        } else if has_own_id {
            sink(Item::Checkpoint(self.id.clone()));
        }
    }
}

#[test]
fn the_reader_itself_follows_the_standard() {
    let mut items = Vec::new();
    let mut stream = EventStream::default();
    for bytes in [
        &b"\xef\xbb\xbfretry: 5\r"[..],
        b"\n\r\nid: 1-a\n\n:x\nevent: e\ndata: a\ndata:  b\ndata\n\nda",
        b"ta:c\r\r",
    ] {
        stream.read(bytes, &mut |item| items.push(item));
    }
    let event = |name: &str, data: &str| {
        Item::Event(Event {
            id: "1-a".into(),
            has_own_id: false,
            name: name.into(),
            data: data.into(),
        })
    };
    let expected = [
        Item::Retry(5),
        Item::Checkpoint("1-a".into()),
        Item::Comment("x".into()),
        event("e", "a\n b\n"),
        event("message", "c"),
    ];
    assert_eq!(items, expected);
}

#[test]
fn an_id_counts_once_its_block_has_ended() {
    let mut stream = EventStream::resumed_at("1-a");
    stream.read(b"id: 2-b\ndata: x\n", &mut |_| {});
    assert_eq!(stream.last_id(), "1-a");
    stream.read(b"\n", &mut |_| {});
    assert_eq!(stream.last_id(), "2-b");
}
