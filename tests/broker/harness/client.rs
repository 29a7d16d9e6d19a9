//! A browser's `EventSource`, as far as the wire shows it: a raw socket, the standard's parser, and a last event id that
//! it brings back when it returns. It reads only when it is asked to, so that a slow client is one that is not asked.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::http::{BodyDecoder, Head, Response, encode_head, read_head};
use super::{Bridge, Event, EventStream, Item, SOON, within};

/// A client and its connection.
pub struct Client {
    socket: TcpStream,
    /// The response's head.
    pub head: Head,
    body: BodyDecoder,
    buffer: Vec<u8>,
    stream: EventStream,
    /// What was read and not yet asked for.
    items: VecDeque<Item>,
    address: SocketAddr,
    query: String,
    /// The reconnection time that the server last asked for, in milliseconds.
    pub retry: Option<u64>,
}

/// Why there was no item.
#[derive(Debug, PartialEq, Eq)]
pub enum Silence {
    /// Nothing came in time.
    Nothing,
    /// The server ended the stream, as HTTP wants it.
    Ended,
    /// The connection broke.
    Broken,
}

impl Client {
    /// Connects with a query such as `team_id=7`, expects to be let in, and waits for the first checkpoint: whatever is
    /// published from then on is news for this client.
    pub async fn connect(bridge: &Bridge, query: &str) -> Self {
        Self::connect_with(bridge.public, query, &[])
            .await
            .subscribed()
            .await
    }

    /// As [`Client::connect`], with headers, and to an address.
    pub async fn connect_with(address: SocketAddr, query: &str, headers: &[(&str, &str)]) -> Self {
        match Self::try_connect(address, query, headers).await {
            Ok(client) => client,
            Err(refusal) => panic!("{query:?} was refused: {refusal:?}"),
        }
    }

    /// Connects, and gives the response when it is anything but a stream.
    pub async fn try_connect(
        address: SocketAddr,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Response> {
        Self::open(address, "/events", query, headers).await
    }

    /// As [`Client::try_connect`], of what is told to those who run the bridge.
    pub async fn try_watch(address: SocketAddr, query: &str) -> Result<Self, Response> {
        Self::open(address, "/tail", query, &[]).await
    }

    /// Watches what becomes of messages, from now on.
    pub async fn watch(address: SocketAddr, query: &str) -> Self {
        match Self::try_watch(address, query).await {
            Ok(client) => client,
            Err(refusal) => panic!("{query:?} was refused: {refusal:?}"),
        }
    }

    async fn open(
        address: SocketAddr,
        path: &str,
        query: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Response> {
        let connecting = async {
            let mut all = vec![("Accept", "text/event-stream")];
            all.extend_from_slice(headers);
            let mut socket = TcpStream::connect(address).await?;
            let target = if query.is_empty() {
                path.to_owned()
            } else {
                format!("{path}?{query}")
            };
            socket
                .write_all(encode_head(address, "GET", &target, &all).as_bytes())
                .await?;
            let (head, rest) = read_head(&mut socket).await?;
            Ok::<_, std::io::Error>((socket, head, rest))
        };
        let (socket, head, rest) = within("a response's head", SOON, connecting)
            .await
            .expect("the bridge answers");
        let mut body = BodyDecoder::of(&head);
        if head.status != 200 {
            let mut text = Vec::new();
            body.decode(&rest, &mut text);
            return Err(Response {
                head,
                body: String::from_utf8_lossy(&text).into_owned(),
            });
        }
        let returning = headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("Last-Event-ID"));
        let mut client = Self {
            socket,
            body,
            buffer: Vec::new(),
            stream: returning
                .map_or_else(EventStream::default, |(_, id)| EventStream::resumed_at(id)),
            items: VecDeque::new(),
            address,
            query: query.to_owned(),
            retry: None,
            head,
        };
        client.take_in(&rest);
        Ok(client)
    }

    /// Returns as a browser does: a new connection, to the same place, with the last event id.
    pub async fn reconnect(self) -> Self {
        let address = self.address;
        self.reconnect_to(address).await
    }

    /// Returns to another replica, or to one that was started again.
    pub async fn reconnect_to(self, address: SocketAddr) -> Self {
        let id = self.last_id().to_owned();
        let query = self.query.clone();
        drop(self);
        Self::connect_with(address, &query, &[("Last-Event-ID", &id)]).await
    }

    /// The id that it would return with.
    pub fn last_id(&self) -> &str {
        self.stream.last_id()
    }

    /// The next item of the stream, whatever it is.
    pub async fn next_item(&mut self, limit: Duration) -> Result<Item, Silence> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(item);
            }
            self.read_more(deadline).await?;
        }
    }

    async fn read_more(&mut self, deadline: Instant) -> Result<(), Silence> {
        self.buffer.clear();
        self.buffer.reserve(8 * 1024);
        match timeout_at(deadline, self.socket.read_buf(&mut self.buffer)).await {
            Err(_) => Err(Silence::Nothing),
            Ok(Ok(1..)) => {
                let bytes = std::mem::take(&mut self.buffer);
                self.take_in(&bytes);
                self.buffer = bytes;
                Ok(())
            }
            Ok(_) if self.body.is_complete() => Err(Silence::Ended),
            Ok(_) => Err(Silence::Broken),
        }
    }

    /// The next event, control events included; checkpoints and comments pass unseen.
    pub async fn next(&mut self, limit: Duration) -> Result<Event, Silence> {
        let deadline = Instant::now() + limit;
        loop {
            if let Item::Event(event) = self
                .next_item(deadline.saturating_duration_since(Instant::now()))
                .await?
            {
                return Ok(event);
            }
        }
    }

    /// The next event, which must come [`SOON`].
    pub async fn event(&mut self) -> Event {
        match self.next(SOON).await {
            Ok(event) => event,
            Err(silence) => panic!("no event, but {silence:?}, for {:?}", self.query),
        }
    }

    /// The next `count` events, none of which may be a control event: nothing was missed.
    pub async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            let event = match self.next(SOON).await {
                Ok(event) => event,
                Err(silence) => panic!(
                    "{} of {count} events, then {silence:?}, for {:?}",
                    events.len(),
                    self.query
                ),
            };
            assert!(
                !event.is_control(),
                "after {} of {count} events: {event:?}",
                events.len()
            );
            events.push(event);
        }
        events
    }

    /// The data of the next `count` events.
    pub async fn data(&mut self, count: usize) -> Vec<String> {
        self.events(count)
            .await
            .into_iter()
            .map(|event| event.data)
            .collect()
    }

    /// Everything up to the event with this data, that one left out: what came before the marker.
    pub async fn before(&mut self, marker: &str) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.event().await;
            if event.data == marker {
                return events;
            }
            events.push(event);
        }
    }

    /// Waits for the first checkpoint, which stays to be read, with all that came before it.
    pub async fn subscribed(mut self) -> Self {
        let deadline = Instant::now() + SOON;
        while !self
            .items
            .iter()
            .any(|item| matches!(item, Item::Checkpoint(_)))
        {
            if let Err(silence) = self.read_more(deadline).await {
                panic!(
                    "no checkpoint, but {silence:?}, for {:?}: {:?}",
                    self.query, self.items
                );
            }
        }
        self
    }

    /// Everything until the stream ends, and how it ended.
    pub async fn until_end(&mut self, limit: Duration) -> (Vec<Item>, Silence) {
        let deadline = Instant::now() + limit;
        let mut items = Vec::new();
        loop {
            match self
                .next_item(deadline.saturating_duration_since(Instant::now()))
                .await
            {
                Ok(item) => items.push(item),
                Err(silence) => return (items, silence),
            }
        }
    }

    /// Closes with a reset, which leaves no port in `TIME_WAIT`: for clients in their thousands.
    pub fn reset(self) {
        socket2::SockRef::from(&self.socket)
            .set_linger(Some(Duration::ZERO))
            .expect("a socket's option");
    }

    fn take_in(&mut self, bytes: &[u8]) {
        let mut text = Vec::new();
        self.body.decode(bytes, &mut text);
        let Self {
            stream,
            items,
            retry,
            ..
        } = self;
        stream.read(&text, &mut |item| {
            if let Item::Retry(milliseconds) = item {
                *retry = Some(milliseconds);
            }
            items.push_back(item);
        });
    }
}
