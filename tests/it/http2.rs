//! HTTP/2 frame by frame (RFC 9113 §6): who floods a connection loses it and nobody else notices, and who is slow gets what
//! was said last.

#![allow(
    clippy::disallowed_methods,
    reason = "the tasks of a test end with its runtime"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use crate::harness::{Authority, SOON, eventually, small_socket, within};
use crate::tls::{BOTH, Http2, handshake_over, with};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const UNKNOWN: u8 = 250;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// RFC 9113 §7.
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A request's fields (RFC 7541 §6, without Huffman coding).
fn fields(method: &str, path: &str) -> Vec<u8> {
    let method = if method == "GET" { 0x82 } else { 0x83 };
    let mut fields = vec![method, 0x87, 0x04, u8::try_from(path.len()).expect("short")];
    fields.extend(path.as_bytes());
    fields.extend(b"\x01\x09localhost");
    fields
}

fn get(stream: u32, path: &str) -> Vec<u8> {
    let fields = fields("GET", path);
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &fields)
}

/// A connection, as its frames.
struct Frames {
    incoming: Incoming,
    writing: WriteHalf<TlsStream<TcpStream>>,
}

/// What comes from the bridge.
struct Incoming {
    reading: ReadHalf<TlsStream<TcpStream>>,
    received: Vec<u8>,
}

struct Frame {
    kind: u8,
    payload: Vec<u8>,
}

impl Frames {
    async fn connect(address: SocketAddr, authority: &Authority) -> Self {
        let socket = TcpStream::connect(address).await.expect("it listens");
        Self::over(socket, authority).await.expect("TLS")
    }

    async fn over(socket: TcpStream, authority: &Authority) -> std::io::Result<Self> {
        let tls = handshake_over(socket, authority.client(&["h2"], BOTH)).await?;
        let (reading, writing) = tokio::io::split(tls);
        let incoming = Incoming {
            reading,
            received: Vec::new(),
        };
        let mut frames = Self { incoming, writing };
        let mut first = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        first.extend(frame(SETTINGS, 0, 0, &[]));
        frames.send(&first).await?;
        Ok(frames)
    }

    async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let sending = async {
            self.writing.write_all(bytes).await?;
            self.writing.flush().await
        };
        within("a connection takes bytes", SOON, sending).await
    }

    /// Opens a stream of events: a connection without one would end by itself.
    async fn subscribe(&mut self, query: &str) {
        let request = get(1, &format!("/events?{query}"));
        self.send(&request).await.expect("the bridge reads");
        loop {
            let frame = self.incoming.next().await.expect("no reset");
            let frame = frame.expect("no end");
            if frame.kind == DATA && frame.payload.windows(3).any(|three| three == b"id:") {
                return;
            }
        }
    }
}

impl Incoming {
    /// The next frame; none at the end.
    async fn next(&mut self) -> std::io::Result<Option<Frame>> {
        loop {
            if let Some((head, rest)) = self.received.split_at_checked(9) {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                if let Some(payload) = rest.get(..length) {
                    let frame = Frame {
                        kind: head[3],
                        payload: payload.to_vec(),
                    };
                    self.received.drain(..9 + length);
                    return Ok(Some(frame));
                }
            }
            let read = self.reading.read_buf(&mut self.received);
            if within("bytes, or the end", SOON, read).await? == 0 {
                return Ok(None);
            }
        }
    }
}

impl Frame {
    /// A GOAWAY's code (RFC 9113 §6.8).
    fn code(&self) -> Option<u32> {
        let code = self.payload.get(4..8)?.try_into().expect("4 bytes");
        (self.kind == GOAWAY).then_some(u32::from_be_bytes(code))
    }
}

/// What somebody sends who floods: the same again and again, by the number of the time.
struct Flood {
    what: &'static str,
    again: fn(u32) -> Vec<u8>,
    /// The code of the GOAWAY, where one is sent.
    code: Option<u32>,
}

/// The streams of a client are odd, and 1 is in use.
fn stream(number: u32) -> u32 {
    number * 2 + 3
}

const FLOODS: &[Flood] = &[
    Flood {
        what: "rapid reset (CVE-2023-44487)",
        again: |number| {
            let mut two = get(stream(number), "/events?team_id=7");
            two.extend(frame(RST_STREAM, 0, stream(number), &[0, 0, 0, 8]));
            two
        },
        code: Some(ENHANCE_YOUR_CALM),
    },
    Flood {
        what: "more streams than there may be",
        again: |number| get(stream(number), "/events?team_id=7"),
        code: Some(ENHANCE_YOUR_CALM),
    },
    Flood {
        what: "headers without end (CVE-2024-27316)",
        again: |number| match number {
            0 => frame(HEADERS, END_STREAM, 3, &fields("GET", "/events")),
            _ => frame(CONTINUATION, 0, 3, b"\x00\x01a\x01b"),
        },
        code: Some(ENHANCE_YOUR_CALM),
    },
    Flood {
        what: "empty data (CVE-2019-9518)",
        again: |number| match number {
            0 => frame(HEADERS, END_HEADERS, 3, &fields("POST", "/publish")),
            _ => frame(DATA, 0, 3, &[]),
        },
        code: Some(ENHANCE_YOUR_CALM),
    },
    Flood {
        what: "pings (CVE-2019-9512)",
        again: |_| frame(PING, 0, 0, b"flooding"),
        code: None,
    },
    Flood {
        what: "settings that touch every stream (CVE-2019-9515)",
        again: |number| {
            let window = 1_000 + number % 2;
            let mut setting = vec![0, 4];
            setting.extend(window.to_be_bytes());
            frame(SETTINGS, 0, 0, &setting)
        },
        code: None,
    },
    Flood {
        what: "priorities",
        again: |number| frame(PRIORITY, 0, stream(number), &[0, 0, 0, 0, 1]),
        code: None,
    },
    Flood {
        what: "frames of no known type",
        again: |_| frame(UNKNOWN, 0, 0, b"what?"),
        code: None,
    },
];

/// What an event may take to an honest client meanwhile, on a machine that does other things too.
const BOUND: Duration = Duration::from_secs(5);

/// How much memory all that may cost.
const MEMORY_BYTES: f64 = 64.0 * 1024.0 * 1024.0;

#[tokio::test(flavor = "multi_thread")]
async fn who_floods_a_connection_loses_it_and_nobody_else_notices() {
    let authority = Authority::new();
    let bridge = with(&authority.sign("server", &["localhost"], 2090))
        .start_listening()
        .await;
    let honest = Http2::connect(bridge.public, &authority).await;
    let mut events = honest.stream("team_id=8", &[]).await;
    let memory = "process_resident_memory_bytes";
    let before = honest.metric(memory).await;
    for flood in FLOODS {
        let mut attackers = JoinSet::new();
        for _ in 0..3 {
            let connection = Frames::connect(bridge.public, &authority).await;
            attackers.spawn(attack(connection, flood));
        }
        while !attackers.is_empty() {
            let began = Instant::now();
            honest.publish("team.8.n", flood.what).await;
            events.event().await;
            let took = began.elapsed();
            assert!(took < BOUND, "{}: an event took {took:?}", flood.what);
            let now = honest.metric(memory).await;
            let grown = now - before;
            assert!(grown < MEMORY_BYTES, "{}: {grown} bytes", flood.what);
            while let Some(ended) = attackers.try_join_next() {
                ended.expect("it ends");
            }
        }
        if let Some(code) = flood.code {
            let mut connection = Frames::connect(bridge.public, &authority).await;
            connection.subscribe("team_id=9").await;
            assert_eq!(told(connection, flood).await, Some(code), "{}", flood.what);
        }
    }
    eventually("the attackers' connections are gone", SOON, async || {
        (honest.metric("sse_bridge_sockets").await == 1.0).then_some(())
    })
    .await;
}

/// Much of a flood.
fn much(flood: &Flood, from: u32) -> Vec<u8> {
    (from..from + 500).flat_map(flood.again).collect()
}

/// Floods until the bridge takes no more, whatever it says.
async fn attack(mut connection: Frames, flood: &Flood) {
    connection.subscribe("team_id=9").await;
    let Frames {
        mut incoming,
        mut writing,
    } = connection;
    let flooding = async {
        let mut number = 0;
        while writing.write_all(&much(flood, number)).await.is_ok() {
            number += 500;
        }
    };
    let reading = async { while let Ok(Some(_)) = incoming.next().await {} };
    within(flood.what, SOON, async { tokio::join!(flooding, reading) }).await;
}

/// Floods and then listens: the code with which the bridge ends it.
async fn told(mut connection: Frames, flood: &Flood) -> Option<u32> {
    connection.send(&much(flood, 0)).await.expect("it reads");
    let mut code = None;
    while let Some(frame) = connection.incoming.next().await.expect("no reset") {
        code = frame.code().or(code);
    }
    code
}

#[tokio::test]
async fn who_opens_streams_and_resets_them_one_after_the_other_is_let_go_as_well() {
    let authority = Authority::new();
    let bridge = with(&authority.sign("server", &["localhost"], 2090))
        .start_listening()
        .await;
    let mut connection = Frames::connect(bridge.public, &authority).await;
    connection.subscribe("team_id=9").await;
    let mut resets = 0;
    let attacking = async {
        loop {
            let numbers = resets..resets + 50;
            let requests: Vec<u8> = numbers
                .clone()
                .flat_map(|number| get(stream(number), "/events?team_id=7"))
                .collect();
            if connection.send(&requests).await.is_err() {
                return;
            }
            // Waits until each is answered, so that none is reset unseen.
            let mut answered = 0;
            while answered < numbers.len() {
                match connection.incoming.next().await {
                    Ok(Some(frame)) if frame.kind == HEADERS => answered += 1,
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return,
                }
            }
            let all: Vec<u8> = numbers
                .flat_map(|number| frame(RST_STREAM, 0, stream(number), &[0, 0, 0, 8]))
                .collect();
            if connection.send(&all).await.is_err() {
                return;
            }
            resets += 50;
        }
    };
    within("the end of the attack", SOON, attacking).await;
    assert!((1_000..3_000).contains(&resets), "after {resets}");
    let honest = Http2::connect(bridge.public, &authority).await;
    eventually("its streams are gone", SOON, async || {
        let open = honest.metric(r#"sse_bridge_connections{transport="sse"}"#);
        (open.await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn at_a_drain_a_slow_client_gets_what_was_said_last_though_it_speaks_meanwhile() {
    let padding = "x".repeat(12 * 1024);
    for _ in 0..3 {
        let Some((text, code)) = said_last(&padding).await else {
            continue;
        };
        assert!(text.contains(&padding));
        assert!(text.contains("event: bridge.bye"), "its farewell");
        assert_eq!(code, Some(0), "a GOAWAY in good order");
        return;
    }
    panic!("this machine is too slow to speak while the bridge listens");
}

/// How long the bridge still listens once it has said all.
const LINGER: Duration = Duration::from_secs(1);

/// What a slow client that speaks meanwhile gets of a bridge that drains, and with which code that ends: of the stream, this
/// event and all that comes behind. None where this machine let it speak too late.
async fn said_last(event: &str) -> Option<(String, Option<u32>)> {
    let authority = Authority::new();
    let mut bridge = with(&authority.sign("server", &["localhost"], 2090))
        .start_listening()
        .await;
    // Most of what comes waits at the bridge's end.
    let socket = small_socket(bridge.public).await;
    let own = socket.local_addr().unwrap();
    let mut slow = Frames::over(socket, &authority).await.expect("TLS");
    slow.subscribe("team_id=7").await;
    let other = Http2::connect(bridge.public, &authority).await;
    other.publish("team.7.n", event).await;
    drop(other);
    bridge.signal(Signal::TERM);
    let mut not_yet = Instant::now();
    eventually("the bridge has said all", SOON, async || {
        let now = Instant::now();
        let has_said_all = state(bridge.public, own) == Some(FIN_WAIT1);
        if !has_said_all {
            not_yet = now;
        }
        has_said_all.then_some(())
    })
    .await;

    let room = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 16, 0]);
    let sent = slow.send(&room).await;
    if not_yet.elapsed() > LINGER / 2 {
        return None;
    }
    sent.expect("somebody is there");
    let mut text = Vec::new();
    let mut code = None;
    while let Some(frame) = slow.incoming.next().await.expect("no reset") {
        code = frame.code().or(code);
        if frame.kind == DATA {
            text.extend(frame.payload);
        }
    }
    drop(slow);
    assert_eq!(bridge.wait_exit(Duration::from_secs(8)).await, Some(0));
    Some((String::from_utf8(text).expect("UTF-8"), code))
}

/// The kernel's number for an end that has closed, whose last bytes wait for room at the other.
const FIN_WAIT1: u8 = 4;

/// The state of the bridge's end of a connection, as far as there is one.
fn state(bridge: SocketAddr, client: SocketAddr) -> Option<u8> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    table.lines().find_map(|line| {
        let cells: Vec<&str> = line.split_whitespace().collect();
        let port = |cell: &str| u16::from_str_radix(cell.split_once(':')?.1, 16).ok();
        let is_it = port(cells.get(1)?)? == bridge.port() && port(cells.get(2)?)? == client.port();
        is_it.then_some(u8::from_str_radix(cells.get(3)?, 16).ok()?)
    })
}

#[tokio::test]
async fn a_path_that_cannot_be_read_is_not_logged_however_closely_one_looks() {
    let authority = Authority::new();
    let mut bridge = with(&authority.sign("server", &["localhost"], 2090))
        .set("RUST_LOG", "debug")
        .start_listening()
        .await;
    let mut connection = Frames::connect(bridge.public, &authority).await;
    connection.subscribe("team_id=7").await;
    let request = get(3, "/events?access_token=stands-in-no-log\u{1}");
    connection.send(&request).await.expect("the bridge reads");
    let reset = async {
        while let Ok(Some(frame)) = connection.incoming.next().await {
            if frame.kind == RST_STREAM {
                return;
            }
        }
        panic!("the stream is reset");
    };
    within("a reset", SOON, reset).await;
    bridge.signal(Signal::TERM);
    assert_eq!(bridge.wait_exit(SOON).await, Some(0));
    let output = bridge.output();
    assert!(output.contains("stream opened"), "{output}");
    assert!(!output.contains("stands-in-no-log"), "{output}");
}

#[tokio::test]
async fn who_is_only_told_that_it_is_one_too_many_is_told_once() {
    let authority = Authority::new();
    let bridge = with(&authority.sign("server", &["localhost"], 2090))
        .set("HTTP_MAX_CONNECTIONS", 1)
        .start_listening()
        .await;
    let mut held = Frames::connect(bridge.public, &authority).await;
    held.subscribe("team_id=7").await;
    // It has a second for its handshake and its first request; where this machine takes longer, the next one is told.
    let goodbye = eventually("one that is told", SOON, async || {
        let socket = TcpStream::connect(bridge.public).await;
        let told = Frames::over(socket.expect("it listens"), &authority).await;
        let (answers, goodbye) = ask_on_and_on(told.ok()?).await;
        (answers > 0).then_some(goodbye)
    })
    .await;
    assert_eq!(goodbye, Some(0));
}

/// Heeds nothing that it is told, no GOAWAY and no ping, until the connection ends: how often it was answered, and the code of
/// the last GOAWAY.
async fn ask_on_and_on(mut told: Frames) -> (u32, Option<u32>) {
    let (mut answers, mut goodbye) = (0, None);
    let asking = async {
        for number in 0.. {
            let request = get(number * 2 + 1, "/healthz");
            if told.send(&request).await.is_err() {
                return;
            }
            loop {
                match told.incoming.next().await {
                    Ok(Some(frame)) if frame.kind == DATA => break answers += 1,
                    Ok(Some(frame)) => goodbye = frame.code().or(goodbye),
                    Ok(None) | Err(_) => return,
                }
            }
        }
    };
    within("the end of that connection", SOON, asking).await;
    (answers, goodbye)
}
