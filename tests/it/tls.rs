//! TLS on the public listener, and HTTP/2, which comes with it: the same events, over one connection for many streams.

#![allow(
    clippy::disallowed_methods,
    reason = "the tasks of a test end with its runtime"
)]

use std::collections::VecDeque;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use rustix::process::Signal;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{
    Authority, Bridge, Client, Event, EventStream, Identity, Item, Raw, SOON, Setup, event,
    eventually, may_open_many_files, small_socket, within,
};

pub const BOTH: &[&rustls::SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// A bridge with a certificate for `localhost`.
pub fn with(identity: &Identity) -> Setup {
    Bridge::dev()
        .set("HTTP_TLS_CERT_FILE", identity.certificate.display())
        .set("HTTP_TLS_KEY_FILE", identity.key.display())
}

async fn handshake(
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    handshake_over(socket, config).await
}

pub async fn handshake_over(
    socket: TcpStream,
    config: Arc<rustls::ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    socket.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").expect("a name");
    let shaking = TlsConnector::from(config).connect(name, socket);
    within("a TLS handshake", SOON, shaking).await
}

/// One HTTP/2 connection.
pub struct Http2 {
    sender: SendRequest<Bytes>,
    ended: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

/// One stream of events on it.
pub struct Stream {
    headers: HeaderMap,
    body: RecvStream,
    parser: EventStream,
    items: VecDeque<Item>,
    /// What was read and not given back to the window.
    held: usize,
}

impl Http2 {
    pub async fn connect(address: SocketAddr, authority: &Authority) -> Self {
        let stream = handshake(address, authority.client(&["h2"], BOTH)).await;
        let stream = stream.expect("a certificate that is trusted");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (sender, connection) = h2::client::Builder::new()
            .initial_connection_window_size(64 * 1024 * 1024)
            .handshake(stream)
            .await
            .expect("HTTP/2");
        let ended = tokio::spawn(connection);
        Self { sender, ended }
    }

    /// A request without a body.
    async fn request(&self, target: &str, headers: &[(&str, &str)]) -> http::Response<RecvStream> {
        let mut request = Request::get(format!("https://localhost{target}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let asking = async {
            let mut sender = self.sender.clone().ready().await?;
            let (answer, _) = sender.send_request(request.body(()).unwrap(), true)?;
            answer.await
        };
        let answer = within("an answer", SOON, asking).await;
        answer.expect("the bridge answers")
    }

    /// All of a short answer.
    async fn get(&self, target: &str) -> String {
        let (_, mut body) = self.request(target, &[]).await.into_parts();
        let mut text = Vec::new();
        while let Some(data) = within("a body", SOON, body.data()).await {
            text.extend_from_slice(&data.expect("a body"));
        }
        String::from_utf8(text).expect("UTF-8")
    }

    pub async fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").await;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("no series {series} in:\n{text}"))
    }

    pub async fn publish(&self, topic: &str, data: &str) {
        let mut request = Request::post("https://localhost/publish");
        request = request.header("content-type", "application/json");
        let body = json!({"topic": topic, "data": data}).to_string();
        let asking = async {
            let mut sender = self.sender.clone().ready().await?;
            let (answer, mut sending) = sender.send_request(request.body(()).unwrap(), false)?;
            sending.send_data(body.into(), true)?;
            answer.await
        };
        let answer = within("an answer", SOON, asking).await;
        assert_eq!(answer.expect("the bridge answers").status(), 202);
    }

    /// A stream that has its first checkpoint.
    pub async fn stream(&self, query: &str, headers: &[(&str, &str)]) -> Stream {
        let answer = self.request(&format!("/events?{query}"), headers).await;
        assert_eq!(answer.status(), 200, "{query}");
        let (head, body) = answer.into_parts();
        let mut stream = Stream {
            headers: head.headers,
            body,
            parser: EventStream::default(),
            items: VecDeque::new(),
            held: 0,
        };
        while !stream
            .items
            .iter()
            .any(|item| matches!(item, Item::Checkpoint(_)))
        {
            let read = stream.read(true).await.expect("a checkpoint");
            read.expect("the stream is not reset");
        }
        stream
    }
}

impl Stream {
    /// Reads what came. None at the end.
    async fn read(&mut self, gives_back: bool) -> Option<Result<(), h2::Error>> {
        let data = within("bytes of a stream", SOON, self.body.data()).await?;
        let data = match data {
            Ok(data) => data,
            Err(error) => return Some(Err(error)),
        };
        if gives_back {
            let window = self.body.flow_control();
            window.release_capacity(data.len()).expect("it was used");
        } else {
            self.held += data.len();
        }
        let items = &mut self.items;
        self.parser.read(&data, &mut |item| items.push_back(item));
        Some(Ok(()))
    }

    pub async fn event(&mut self) -> Event {
        loop {
            match self.items.pop_front() {
                Some(Item::Event(event)) => return event,
                Some(_) => {}
                None => self
                    .read(true)
                    .await
                    .expect("the stream goes on")
                    .expect("the stream is not reset"),
            }
        }
    }
}

#[tokio::test]
async fn over_tls_a_browser_gets_its_events_with_http1_and_with_http2() {
    let authority = Authority::new();
    let bridge = with(&authority.sign("server", &["localhost"], 2090))
        .start_listening()
        .await;
    for (protocols, spoken) in [
        (&["http/1.1"][..], Some(&b"http/1.1"[..])),
        (&[], None),
        (&["h2", "http/1.1"], Some(b"h2")),
    ] {
        for version in [&TLS12, &TLS13] {
            let config = authority.client(protocols, &[version]);
            let stream = handshake(bridge.public, config).await.expect("TLS");
            assert_eq!(stream.get_ref().1.alpn_protocol(), spoken);
            assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        }
    }

    let config = authority.client(&["http/1.1"], BOTH);
    let mut one = handshake(bridge.public, config).await.expect("TLS");
    one.write_all(b"GET /events?team_id=7 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    let head = until(&mut one, "id: ").await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("connection: close"), "{head}");

    let two = Http2::connect(bridge.public, &authority).await;
    let mut seven = two.stream("team_id=7", &[]).await;
    assert_eq!(seven.headers["content-type"], "text/event-stream");
    assert!(!seven.headers.contains_key("connection"));
    let mut eight = two.stream("team_id=8", &[]).await;
    two.publish("team.7.n", "for seven").await;
    two.publish("team.8.n", "for eight").await;
    assert_eq!(seven.event().await.data, "\"for seven\"");
    assert_eq!(eight.event().await.data, "\"for eight\"");
    until(&mut one, "for seven").await;
    // Counted once a write is through: at least one on each of the two connections.
    eventually("deliveries are timed", SOON, async || {
        let count = two.metric("sse_bridge_delivery_seconds_count").await;
        (count >= 2.0).then_some(())
    })
    .await;
    eventually("those that only shook hands are gone", SOON, async || {
        (two.metric("sse_bridge_sockets").await == 2.0).then_some(())
    })
    .await;
    assert_eq!(
        two.metric(r#"sse_bridge_connections{transport="sse"}"#)
            .await,
        3.0
    );
}

#[tokio::test]
async fn over_http2_a_request_is_for_the_host_that_its_authority_names() {
    let authority = Authority::new();
    let bridge = with(&authority.sign("server", &["localhost"], 2090))
        .set("AUTH_MODE", "token")
        .set("AUTH_TOKEN", "0123456789abcdef")
        .set("AUTH_COOKIE", "events")
        .start_serve()
        .await;
    let connection = Http2::connect(bridge.public, &authority).await;
    let cookie = ("cookie", "events=0123456789abcdef");
    for (headers, status) in [
        // A page of the same origin, in a browser that says no more than that.
        (&[cookie, ("origin", "https://localhost")][..], 200),
        (&[cookie, ("origin", "https://elsewhere")], 403),
        (
            &[
                cookie,
                ("origin", "https://elsewhere"),
                ("host", "elsewhere"),
            ],
            400,
        ),
        (
            &[
                cookie,
                ("origin", "https://localhost"),
                ("host", "localhost"),
            ],
            200,
        ),
    ] {
        let answer = connection.request("/events", headers).await;
        assert_eq!(answer.status(), status, "{headers:?}");
    }
}

#[tokio::test]
async fn over_http1_a_full_socket_loses_nothing_and_a_client_that_hangs_up_is_let_go() {
    let authority = Authority::new();
    // No heartbeat wakes a stream that sleeps by mistake.
    let setup = |setup: Setup| {
        setup
            .set("SSE_HEARTBEAT_SECONDS", 3600)
            .set("SSE_STALL_SECONDS", 0)
    };
    let plain = setup(Bridge::dev()).start().await;
    let tls = setup(with(&authority.sign("server", &["localhost"], 2090)))
        .start_listening()
        .await;
    let config = || authority.client(&["http/1.1"], BOTH);

    let series = r#"sse_bridge_connections{transport="sse"}"#;

    let mut witness = Client::connect(&plain, "team_id=7").await;
    let streams = [
        small_socket(plain.public).await,
        small_socket(plain.public).await,
    ];
    let publish = async |data: &str| {
        plain.publish(&event("team.7.n", data)).await;
        assert_eq!(witness.event().await.json(), data);
    };
    let left = hang_up(streams, publish).await;
    plain.wait_metric(series, 1.0).await;
    drop(left);

    let connection = Http2::connect(tls.public, &authority).await;
    let mut witness = connection.stream("team_id=7", &[]).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let name = ServerName::try_from("localhost").expect("a name");
        let socket = small_socket(tls.public).await;
        let connecting = TlsConnector::from(config()).connect(name, socket);
        streams.push(connecting.await.expect("TLS"));
    }
    let publish = async |data: &str| {
        connection.publish("team.7.n", data).await;
        assert_eq!(witness.event().await.json(), data);
    };
    let left = hang_up(streams, publish).await;
    eventually("who hung up is let go", SOON, async || {
        (connection.metric(series).await == 1.0).then_some(())
    })
    .await;
    drop(left);
}

/// Opens a stream on each of these, lets their sockets fill, reads one of them to the end of what was published and then
/// closes the client's half of each. `publish` comes back when others have the event.
async fn hang_up<S>(
    streams: impl IntoIterator<Item = S>,
    mut publish: impl AsyncFnMut(&str),
) -> Vec<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut streams: Vec<S> = streams.into_iter().collect();
    for stream in &mut streams {
        stream
            .write_all(
                b"GET /events?team_id=7 HTTP/1.1
Host: localhost

",
            )
            .await
            .expect("it reads");
        until(stream, "id: ").await;
    }
    // One after the other, until the socket takes no more than a part of one: the others come while the rest of that waits.
    for _ in 0..30 {
        publish(&"z".repeat(12_000)).await;
    }
    publish("came meanwhile").await;
    let received = until(&mut streams[0], "came meanwhile").await;
    assert_eq!(received.matches('z').count(), 360_000);
    // The first has been read to its end, and the second is still full.
    for stream in &mut streams {
        within("a half that closes", SOON, stream.shutdown())
            .await
            .expect("it closes");
    }
    streams
}

/// Reads until a text has come.
async fn until(stream: &mut (impl AsyncRead + Unpin), text: &str) -> String {
    let reading = async {
        let mut received = Vec::new();
        while !String::from_utf8_lossy(&received).contains(text) {
            let read = stream.read_buf(&mut received).await.expect("bytes");
            assert!(
                read > 0,
                "the end, after {}",
                String::from_utf8_lossy(&received)
            );
        }
        String::from_utf8_lossy(&received).into_owned()
    };
    within(text, SOON, reading).await
}

#[tokio::test]
async fn where_tls_is_asked_for_nothing_is_served_in_the_clear() {
    let authority = Authority::new();
    let bridge = with(&authority.sign("server", &["localhost"], 2090))
        .start_listening()
        .await;
    for request in [
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\u{4}\0\0\0\0\0",
    ] {
        let mut raw = Raw::connect(bridge.public).await;
        raw.send(request.as_bytes()).await;
        assert!(
            !raw.rest_bytes()
                .await
                .windows(4)
                .any(|four| four == b"HTTP")
        );
    }
    // Nor is anybody served who would believe another authority, and the bridge is none the worse for it.
    let stranger = Authority::new().client(&["h2"], BOTH);
    let error = handshake(bridge.public, stranger).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let config = authority.client(&["http/1.1"], BOTH);
    handshake(bridge.public, config).await.expect("TLS");
}

#[tokio::test]
async fn many_streams_share_a_connection_and_each_resumes_where_it_was() {
    let authority = Authority::new();
    let bridge = with(&authority.sign("server", &["localhost"], 2090))
        .start_listening()
        .await;
    let connection = Http2::connect(bridge.public, &authority).await;
    let mut streams = Vec::new();
    for team in 0..90 {
        streams.push(connection.stream(&format!("team_id={team}"), &[]).await);
    }
    assert_eq!(connection.sender.current_max_send_streams(), 100);
    for round in ["first", "second"] {
        for team in 0..90 {
            connection
                .publish(&format!("team.{team}.n"), &format!("{round} {team}"))
                .await;
        }
        for (team, stream) in streams.iter_mut().enumerate() {
            assert_eq!(stream.event().await.data, format!("\"{round} {team}\""));
        }
        if round == "first" {
            // Ten leave, miss something, and come back.
            let ids: Vec<String> = streams
                .drain(..10)
                .map(|stream| stream.parser.last_id().to_owned())
                .collect();
            for team in 0..10 {
                connection
                    .publish(&format!("team.{team}.n"), &format!("missed {team}"))
                    .await;
            }
            for (team, id) in ids.iter().enumerate().rev() {
                let returned = [("last-event-id", id.as_str())];
                let query = format!("team_id={team}");
                let mut stream = connection.stream(&query, &returned).await;
                assert_eq!(stream.event().await.data, format!("\"missed {team}\""));
                streams.insert(0, stream);
            }
        }
    }
    assert_eq!(connection.metric("sse_bridge_sockets").await, 1.0);
    drop(streams);
    eventually("streams that were reset are gone", SOON, async || {
        let open = connection.metric(r#"sse_bridge_connections{transport="sse"}"#);
        (open.await == 0.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn streams_in_all_are_bounded_over_however_few_connections_they_come() {
    let authority = Authority::new();
    let bridge = with(&authority.sign("server", &["localhost"], 2090))
        .set("HTTP_MAX_CONNECTIONS", 3)
        .start_listening()
        .await;
    let one = Http2::connect(bridge.public, &authority).await;
    let other = Http2::connect(bridge.public, &authority).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(one.stream("team_id=7", &[]).await);
    }
    for connection in [&one, &other] {
        let answer = connection.request("/events?team_id=7", &[]).await;
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "10");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
    let refused = r#"sse_bridge_connections_refused_total{reason="connection_limit"}"#;
    assert_eq!(one.metric(refused).await, 2.0);
    one.publish("team.7.n", "for who was let in").await;
    for stream in &mut streams {
        assert_eq!(stream.event().await.data, "\"for who was let in\"");
    }
    streams.pop();
    eventually("a place is free again", SOON, async || {
        let answer = other.request("/events?team_id=7", &[]).await;
        (answer.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stream_whose_client_makes_no_room_is_let_go_and_its_neighbours_are_not() {
    let authority = Authority::new();
    let bridge = with(&authority.sign("server", &["localhost"], 2090))
        .set("SSE_HEARTBEAT_SECONDS", 1)
        .set("SSE_STALL_SECONDS", 5)
        .start_listening()
        .await;
    let connection = Http2::connect(bridge.public, &authority).await;
    let mut stuck = connection.stream("team_id=7", &[]).await;
    let mut reading = connection.stream("team_id=7", &[]).await;
    let quiet = connection.stream("team_id=8", &[]).await;
    let padding = "x".repeat(20_000);
    for _ in 0..12 {
        connection.publish("team.7.n", &padding).await;
    }
    for _ in 0..12 {
        assert_eq!(reading.event().await.data.len(), 20_002);
    }
    let stalled = r#"sse_bridge_connections_closed_total{reason="stalled"}"#;
    eventually("the one that is stuck is let go", SOON, async || {
        (connection.metric(stalled).await == 1.0).then_some(())
    })
    .await;
    let ended = async {
        loop {
            match stuck.read(false).await {
                Some(Ok(())) => {}
                other => return other,
            }
        }
    };
    let ended = within("the end of the stream that was stuck", SOON, ended).await;
    assert!(ended.is_some_and(|end| end.is_err_and(|error| error.is_reset())));
    assert!(stuck.held <= 65_535, "no more than it had room for");
    connection.publish("team.7.n", "on").await;
    assert_eq!(reading.event().await.data, "\"on\"");
    let open = r#"sse_bridge_connections{transport="sse"}"#;
    assert_eq!(connection.metric(open).await, 2.0);
    drop(quiet);
}

#[tokio::test]
async fn a_drain_says_goodbye_on_every_stream_and_ends_the_connection_in_good_order() {
    let authority = Authority::new();
    let mut bridge = with(&authority.sign("server", &["localhost"], 2090))
        .start_listening()
        .await;
    let connection = Http2::connect(bridge.public, &authority).await;
    // One on which nothing happens holds nothing up.
    let idle = Http2::connect(bridge.public, &authority).await;
    let mut streams = Vec::new();
    for team in 0..20 {
        streams.push(connection.stream(&format!("team_id={team}"), &[]).await);
    }
    bridge.signal(Signal::TERM);
    for stream in &mut streams {
        assert_eq!(stream.event().await.name, "bridge.bye");
        while let Some(read) = stream.read(true).await {
            read.expect("it ends and is not reset");
        }
        assert!(stream.items.is_empty(), "nothing after that");
    }
    for connection in [connection, idle] {
        let ended = within("the end of a connection", SOON, connection.ended).await;
        let ended = ended.expect("no panic");
        let is_in_order = ended.as_ref().err().is_none_or(h2::Error::is_go_away);
        assert!(is_in_order, "{ended:?}");
    }
    assert_eq!(bridge.wait_exit(Duration::from_secs(8)).await, Some(0));
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_without_a_restart_and_one_that_is_no_good_is_not() {
    let authority = Authority::new();
    let used = authority.sign("server", &["localhost"], 2090);
    let bridge = with(&used).start_listening().await;
    let before = Http2::connect(bridge.public, &authority).await;
    let mut stream = before.stream("team_id=7", &[]).await;
    let expiry = "sse_bridge_tls_certificate_expiry_timestamp_seconds";
    let first = before.metric(expiry).await;
    assert_eq!(first, 3_786_912_000.0, "2090-01-01");
    let shown = async || {
        let config = authority.client(&["http/1.1"], BOTH);
        let stream = handshake(bridge.public, config).await.expect("TLS");
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let old = shown().await;

    fs::write(&used.certificate, "no certificate").unwrap();
    let line = bridge.log_line("the old one stays in use").await;
    assert_eq!(line["level"], "ERROR");
    assert_eq!(shown().await, old);
    assert_eq!(before.metric(expiry).await, first);

    let new = authority.sign("new", &["localhost"], 2091);
    fs::copy(&new.certificate, &used.certificate).unwrap();
    fs::copy(&new.key, &used.key).unwrap();
    eventually("the new certificate is shown", SOON, async || {
        (shown().await != old).then_some(())
    })
    .await;
    assert_eq!(before.metric(expiry).await, 3_818_448_000.0, "2091-01-01");
    before.publish("team.7.n", "still here").await;
    assert_eq!(stream.event().await.data, "\"still here\"");
}

#[tokio::test]
async fn tls_files_that_cannot_be_used_stop_the_start_and_say_what_to_do() {
    let authority = Authority::new();
    let good = authority.sign("server", &["localhost"], 2090);
    let other = authority.sign("other", &["localhost"], 2090);
    let empty = good.certificate.with_file_name("empty.pem");
    fs::write(&empty, "").unwrap();
    let missing = good.certificate.with_file_name("missing.pem");
    let cases = [
        (
            Some(&good.certificate),
            None,
            "HTTP_TLS_CERT_FILE",
            "contradicts HTTP_TLS_KEY_FILE",
        ),
        (
            None,
            Some(&good.key),
            "HTTP_TLS_CERT_FILE",
            "contradicts HTTP_TLS_KEY_FILE",
        ),
        (
            Some(&missing),
            Some(&good.key),
            "HTTP_TLS_CERT_FILE",
            "cannot be read",
        ),
        (
            Some(&empty),
            Some(&good.key),
            "HTTP_TLS_CERT_FILE",
            "has no certificate",
        ),
        (
            Some(&good.certificate),
            Some(&missing),
            "HTTP_TLS_KEY_FILE",
            "cannot be read",
        ),
        (
            Some(&good.certificate),
            Some(&good.certificate),
            "HTTP_TLS_KEY_FILE",
            "has no key",
        ),
        (
            Some(&good.certificate),
            Some(&other.key),
            "HTTP_TLS_KEY_FILE",
            "the key that belongs to it",
        ),
    ];
    for (certificate, key, named, says) in cases {
        let mut setup = Bridge::dev();
        if let Some(certificate) = certificate {
            setup = setup.set("HTTP_TLS_CERT_FILE", certificate.display());
        }
        if let Some(key) = key {
            setup = setup.set("HTTP_TLS_KEY_FILE", key.display());
        }
        let finished = setup.run(&["dev"], "").await;
        assert_eq!(finished.code, Some(64), "{says}: {}", finished.stderr);
        let line = finished.stderr.lines().find(|line| line.contains(says));
        let line = line.unwrap_or_else(|| panic!("{says}: {}", finished.stderr));
        assert!(line.trim().starts_with(named), "{line}");
        assert!(!finished.stderr.contains("PRIVATE"), "{}", finished.stderr);
    }
}

#[tokio::test]
async fn who_is_slow_before_its_request_is_whole_is_let_go_and_a_byte_now_and_then_buys_no_time() {
    let authority = Authority::new();
    let tls = with(&authority.sign("server", &["localhost"], 2090))
        .start_listening()
        .await;
    let plain = Bridge::dev().start().await;
    let began = Instant::now();
    // Each sends what it is given at once, and then a byte every half second.
    let drip = async |address: SocketAddr, first: &'static [u8], then: &'static [u8]| {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(first).await.unwrap();
        dripping(socket, then, began).await
    };
    let over = async |protocol: &'static str, first: &'static [u8], then: &'static [u8]| {
        let config = authority.client(&[protocol], BOTH);
        let mut stream = handshake(tls.public, config).await.unwrap();
        stream.write_all(first).await.unwrap();
        dripping(stream, then, began).await
    };
    let all = tokio::join!(
        drip(plain.public, b"", b""),
        drip(
            plain.public,
            b"GET /events HTTP/1.1\r\nHost: localhost\r\nX: ",
            b"x"
        ),
        drip(plain.public, b"G", b"E"),
        drip(tls.public, b"", b""),
        drip(
            tls.public,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\x01"
        ),
        over(
            "http/1.1",
            b"GET /events HTTP/1.1\r\nHost: localhost\r\nX: ",
            b"x"
        ),
        over("h2", b"", b""),
        over("h2", b"PRI * HTTP/2.0\r\n", b""),
        over(
            "h2",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            b""
        ),
    );
    let ends = [
        all.0, all.1, all.2, all.3, all.4, all.5, all.6, all.7, all.8,
    ];
    for (which, end) in ends.iter().enumerate() {
        let seconds = end.as_secs_f64();
        assert!((8.0..30.0).contains(&seconds), "{which}: {seconds}");
    }
}

/// Who begin a TLS handshake and do not end it.
const STALLED: usize = 2_000;

/// What anything may take to an honest client meanwhile, on a machine that does other things too.
const BOUND: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_who_never_end_their_handshake_are_let_go_and_nobody_else_notices() {
    may_open_many_files();
    let authority = Authority::new();
    let bridge = with(&authority.sign("server", &["localhost"], 2090))
        .start_listening()
        .await;
    let honest = Http2::connect(bridge.public, &authority).await;
    let mut events = honest.stream("team_id=7", &[]).await;
    let memory = "process_resident_memory_bytes";
    let before = honest.metric(memory).await;
    let hello = {
        let config = authority.client(&["h2"], BOTH);
        let name = ServerName::try_from("localhost").unwrap();
        let mut session = rustls::ClientConnection::new(config, name).unwrap();
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        hello
    };
    // A third each: silent, half a hello, and a whole one whose answer is never answered.
    let kinds = [&[][..], &hello[..hello.len() / 2], &hello];
    let mut attackers = JoinSet::new();
    for number in 0..STALLED {
        let (address, first) = (bridge.public, kinds[number % kinds.len()].to_vec());
        attackers.spawn(async move {
            let began = Instant::now();
            let mut socket = TcpStream::connect(address).await.expect("it listens");
            socket.write_all(&first).await.expect("it reads");
            let mut buffer = [0; 4096];
            let end =
                async { while matches!(socket.read(&mut buffer).await, Ok(read) if read > 0) {} };
            within("the end of a handshake", Duration::from_secs(60), end).await;
            began.elapsed()
        });
    }
    // On a busy machine the first are let go before the last are there.
    let mut most = 0.0_f64;
    eventually("as many are there as will be", SOON, async || {
        let there = honest.metric("sse_bridge_sockets").await - 1.0;
        most = most.max(there);
        (there < most || there >= STALLED as f64).then_some(())
    })
    .await;
    assert!(most >= STALLED as f64 / 2.0, "only {most} at one time");
    let grown = honest.metric(memory).await - before;
    let each = grown / most;
    assert!(each < 64.0 * 1024.0, "{each} bytes each");
    while !attackers.is_empty() {
        let began = Instant::now();
        honest.publish("team.7.n", "on").await;
        assert_eq!(events.event().await.data, "\"on\"");
        let another = Http2::connect(bridge.public, &authority).await;
        another.stream("team_id=7", &[]).await;
        let took = began.elapsed();
        assert!(took < BOUND, "an event and a newcomer took {took:?}");
        while let Some(ended) = attackers.try_join_next() {
            let seconds = ended.expect("it ends").as_secs_f64();
            assert!((8.0..30.0).contains(&seconds), "{seconds}");
        }
    }
}

/// Sends a byte now and then until the other side has had enough; how long that took.
async fn dripping<S>(stream: S, byte: &'static [u8], began: Instant) -> Duration
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut reading, mut writing) = tokio::io::split(stream);
    let end = async {
        let mut buffer = [0; 1024];
        while matches!(reading.read(&mut buffer).await, Ok(read) if read > 0) {}
    };
    let drip = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        loop {
            ticks.tick().await;
            if !byte.is_empty() && writing.write_all(byte).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let limit = Duration::from_secs(60);
    within("the end of a slow connection", limit, async {
        tokio::select! { () = end => {}, () = drip => {} }
    })
    .await;
    began.elapsed()
}
