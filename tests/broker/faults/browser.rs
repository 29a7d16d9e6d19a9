//! Clients as they are: they read, fall silent, close half, come back to whichever replica, with the last id they had;
//! and a few who mean no good. Each writes down all it is sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::events;
use super::history::{Person, Record, Recorder, Scope};
use crate::harness::{BodyDecoder, EventStream, Item, encode_head, read_head, within};

/// How long a connection may take to be made and answered before a browser tries anew. A bridge that was stopped for a
/// while accepts and does not answer.
const ANSWER: Duration = Duration::from_secs(15);

/// When it comes back, as long as nothing else was said: the standard leaves the first value to browsers.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// Ids that nobody gave out: of the future, of another stream, of no form at all.
const FORGED: &[&str] = &[
    "9223372036854775807-deadbeef",
    "18446744073709551615-ffffffff",
    "3-00c0ffee",
    "99999999999999999999999999-00000000",
    "0x10-00000000",
    "-1",
    "1",
    "a b",
];

/// Where a replica can be reached: straight, and through a proxy that may spoil the way.
#[derive(Clone, Copy, Debug)]
pub struct Doors {
    pub straight: SocketAddr,
    pub spoilt: SocketAddr,
}

/// What a client is like.
#[derive(Clone, Debug)]
pub struct Habits {
    pub scope: Scope,
    /// It comes to this replica only.
    pub replica: Option<u32>,
    /// It comes through the proxy.
    pub spoilt: bool,
    /// It comes back when it has heard nothing for so long, as a script that looks for heartbeats does. A plain
    /// EventSource waits.
    pub patience: Option<Duration>,
    /// It has a small buffer, so that it is slow as soon as it does not read.
    pub slow: bool,
    /// It was here before.
    pub last_id: Option<String>,
}

/// What a client is told to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Orders {
    /// Reads nothing.
    frozen: bool,
    /// How often it was told to come back with an id that it makes up.
    forge: usize,
    /// How often it was told to close its half of the connection.
    half_close: usize,
    /// Goes away; `true`: it was owed everything up to now.
    leave: Option<bool>,
}

/// A client that lives in a task of its own.
pub struct Browser {
    pub number: u32,
    pub habits: Habits,
    orders: watch::Sender<Orders>,
    last_id: Arc<Mutex<String>>,
    task: JoinHandle<()>,
}

impl Browser {
    /// Starts one.
    pub fn start(
        number: u32,
        habits: Habits,
        doors: Arc<[Doors]>,
        recorder: &Recorder,
        seed: u64,
    ) -> Self {
        recorder.record(&Record::Client(Person {
            client: number,
            scope: habits.scope.clone(),
            slow: habits.slow,
        }));
        let (orders, ordered) = watch::channel(Orders::default());
        let last_id = Arc::new(Mutex::new(habits.last_id.clone().unwrap_or_default()));
        let life = Life {
            number,
            doors,
            recorder: recorder.clone(),
            orders: ordered,
            told: Arc::clone(&last_id),
            last_id: habits.last_id.clone(),
            retry: FIRST_RETRY,
            forged: 0,
            random: fastrand::Rng::with_seed(seed ^ u64::from(number) << 16),
            habits: habits.clone(),
        };
        Self {
            number,
            habits,
            orders,
            last_id,
            task: tokio::spawn(life.live()),
        }
    }

    /// The id that it would come back with now. Empty: it has none yet.
    pub fn last_id(&self) -> String {
        self.last_id.lock().expect("nobody panics with it").clone()
    }

    /// Lets it read nothing from now on.
    pub fn freeze(&self) {
        self.orders.send_modify(|orders| orders.frozen = true);
    }

    /// Lets it read again.
    pub fn thaw(&self) {
        self.orders.send_modify(|orders| orders.frozen = false);
    }

    /// Lets it come back with an id that it makes up.
    pub fn forge(&self) {
        self.orders.send_modify(|orders| orders.forge += 1);
    }

    /// Lets it close its half of the connection.
    pub fn half_close(&self) {
        self.orders.send_modify(|orders| orders.half_close += 1);
    }

    /// Lets it go away. `owed`: it should have had everything.
    pub async fn leave(self, owed: bool) {
        self.orders.send_modify(|orders| orders.leave = Some(owed));
        within("a client goes away", ANSWER * 2, self.task)
            .await
            .expect("a client does not panic");
    }

    /// Whether it has panicked, or gone.
    pub fn is_gone(&self) -> bool {
        self.task.is_finished()
    }
}

/// How a connection ended.
enum End {
    /// The client goes away.
    Left(bool),
    Closed(String),
}

/// What a client keeps from one connection to the next.
struct Life {
    number: u32,
    habits: Habits,
    doors: Arc<[Doors]>,
    recorder: Recorder,
    orders: watch::Receiver<Orders>,
    /// Its last id, for those who wait for it.
    told: Arc<Mutex<String>>,
    last_id: Option<String>,
    retry: Duration,
    /// How often it has forged an id.
    forged: usize,
    random: fastrand::Rng,
}

impl Life {
    async fn live(mut self) {
        loop {
            let how = match self.connection().await {
                End::Left(owed) => {
                    self.finish(owed);
                    return;
                }
                End::Closed(how) => how,
            };
            self.record(&Record::Closed {
                client: self.number,
                how,
            });
            let mut orders = self.orders.clone();
            let leaving = orders.wait_for(|orders| orders.leave.is_some());
            let owed = tokio::select! {
                () = sleep(self.retry) => None,
                orders = leaving => Some(orders.ok().and_then(|orders| orders.leave).unwrap_or_default()),
            };
            if let Some(owed) = owed {
                self.finish(owed);
                return;
            }
        }
    }

    fn finish(&self, owed: bool) {
        self.record(&Record::Finished {
            client: self.number,
            owed,
        });
    }

    fn record(&self, record: &Record) {
        self.recorder.record(record);
    }

    /// One connection, from its beginning to its end.
    async fn connection(&mut self) -> End {
        let any = self.random.usize(..self.doors.len());
        let replica = self
            .habits
            .replica
            .map_or(any, |replica| usize::try_from(replica).expect("few"));
        let doors = self.doors[replica];
        let address = if self.habits.spoilt {
            doors.spoilt
        } else {
            doors.straight
        };
        let wanted = self.orders.borrow().forge;
        let any = self.random.usize(..FORGED.len());
        let forged = (wanted > self.forged).then(|| FORGED[any].to_owned());
        self.forged = wanted;
        let id = forged.clone().or_else(|| self.last_id.clone());
        self.record(&Record::Connect {
            client: self.number,
            replica: u32::try_from(replica).expect("few"),
            last_id: id.clone(),
            forged: forged.is_some(),
        });
        let connected = timeout(ANSWER, self.connect(address, id.as_deref())).await;
        let (mut socket, mut body, rest) = match connected {
            Ok(Ok(Some(connected))) => connected,
            Ok(Ok(None)) => return End::Closed("refused".to_owned()),
            Ok(Err(error)) => return End::Closed(format!("no answer: {:?}", error.kind())),
            Err(_) => return End::Closed("no answer".to_owned()),
        };
        // A made-up id is not believed by the client either, should nothing come of it.
        let mut stream = EventStream::resumed_at(self.last_id.as_deref().unwrap_or_default());
        self.read(&rest, &mut body, &mut stream);
        self.listen(&mut socket, &mut body, &mut stream).await
    }

    /// Connects, asks, and waits for the answer's head. None if that is no stream.
    async fn connect(
        &self,
        address: SocketAddr,
        last_id: Option<&str>,
    ) -> std::io::Result<Option<(TcpStream, BodyDecoder, Vec<u8>)>> {
        let socket = TcpSocket::new_v4()?;
        if self.habits.slow {
            socket.set_recv_buffer_size(4 * 1024)?;
        }
        let mut socket = socket.connect(address).await?;
        let mut headers = vec![("Accept", "text/event-stream")];
        if let Some(id) = last_id {
            headers.push(("Last-Event-ID", id));
        }
        let target = format!("/events?{}", events::query(&self.habits.scope));
        let head = encode_head(address, "GET", &target, &headers);
        socket.write_all(head.as_bytes()).await?;
        let (head, rest) = read_head(&mut socket).await?;
        if head.status != 200 {
            self.record(&Record::Answered {
                client: self.number,
                status: head.status,
            });
            return Ok(None);
        }
        let body = BodyDecoder::of(&head);
        Ok(Some((socket, body, rest)))
    }

    /// Reads until the connection ends.
    async fn listen(
        &mut self,
        socket: &mut TcpStream,
        body: &mut BodyDecoder,
        stream: &mut EventStream,
    ) -> End {
        let mut buffer = vec![0; 16 * 1024];
        let mut half_closed = self.orders.borrow().half_close;
        loop {
            let orders = *self.orders.borrow_and_update();
            if let Some(owed) = orders.leave {
                reset(socket);
                return End::Left(owed);
            }
            if orders.forge > self.forged {
                return End::Closed("to come back with another id".to_owned());
            }
            if orders.half_close > half_closed {
                half_closed = orders.half_close;
                // The other end may be gone already.
                let _ = socket.shutdown().await;
            }
            if orders.frozen {
                // Whoever gives the orders is gone only when the run is.
                let _ = self.orders.changed().await;
                continue;
            }
            let patience = self.habits.patience.unwrap_or(Duration::MAX);
            // Both are cancel-safe: what is not read yet stays in the socket.
            let read = tokio::select! {
                read = timeout(patience, socket.read(&mut buffer)) => read,
                changed = self.orders.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return End::Left(false),
                },
            };
            let broken = || match stream.is_in_block() {
                true => "broken in the middle of an event",
                false => "broken",
            };
            match read {
                Ok(Ok(length @ 1..)) => self.read(&buffer[..length], body, stream),
                Ok(Ok(_)) if body.is_complete() => return End::Closed("ended".to_owned()),
                Ok(_) => return End::Closed(broken().to_owned()),
                Err(_) => return End::Closed("out of patience".to_owned()),
            }
        }
    }

    /// Takes in what came, and writes it down.
    fn read(&mut self, bytes: &[u8], body: &mut BodyDecoder, stream: &mut EventStream) {
        let mut text = Vec::new();
        body.decode(bytes, &mut text);
        let client = self.number;
        let recorder = &self.recorder;
        let retry = &mut self.retry;
        stream.read(&text, &mut |item| match item {
            Item::Retry(milliseconds) => *retry = Duration::from_millis(milliseconds),
            Item::Comment(_) => {}
            Item::Checkpoint(id) => {
                recorder.record(&Record::Checkpoint { client, id });
            }
            Item::Event(event) if event.is_control() => {
                record_control(recorder, client, &event.name, &event.json());
            }
            Item::Event(event) => {
                let number = events::number_of_received(&event.name, &event.data);
                recorder.record(&Record::Event {
                    client,
                    number: number.filter(|_| event.has_own_id),
                    id: event.id,
                });
            }
        });
        if stream.last_id() != self.last_id.as_deref().unwrap_or_default() {
            self.last_id = Some(stream.last_id().to_owned());
            stream
                .last_id()
                .clone_into(&mut self.told.lock().expect("nobody panics with it"));
        }
    }
}

fn record_control(recorder: &Recorder, client: u32, name: &str, data: &serde_json::Value) {
    let reason = data["reason"].as_str().unwrap_or_default().to_owned();
    match name {
        "bridge.gap" => recorder.record(&Record::Gap {
            client,
            reason,
            missed: data["missed"].as_u64(),
        }),
        "bridge.bye" => recorder.record(&Record::Bye { client, reason }),
        other => panic!("nobody asked for {other}"),
    };
}

/// Closes with a reset, which leaves no port in `TIME_WAIT`.
fn reset(socket: &TcpStream) {
    // The other end may have closed it already.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// One that asks for everything and never reads a byte, for as long as it is not dropped.
pub struct Deaf(JoinHandle<()>);

impl Deaf {
    pub fn start(address: SocketAddr) -> Self {
        Self(tokio::spawn(async move {
            loop {
                if let Ok(mut socket) = TcpStream::connect(address).await {
                    let headers = [("Accept", "text/event-stream")];
                    let head = encode_head(address, "GET", "/events?all=true", &headers);
                    // Where that fails it comes back.
                    let _ = socket.write_all(head.as_bytes()).await;
                    sleep(Duration::from_secs(40)).await;
                }
                sleep(FIRST_RETRY).await;
            }
        }))
    }
}

impl Drop for Deaf {
    fn drop(&mut self) {
        self.0.abort();
    }
}
