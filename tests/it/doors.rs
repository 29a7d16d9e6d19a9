//! What comes in at the public listener, byte by byte: what could be read in two ways is not read at all, and thousands who
//! hold the door do not keep others from it.

#![allow(
    clippy::disallowed_methods,
    reason = "the tasks of a test end with its runtime"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::harness::{
    Bridge, Client, Producer, Raw, SOON, event, eventually, http, may_open_many_files,
    small_socket, within,
};

const PUBLISH: &str = r#"{"topic":"team.7.n","data":"smuggled"}"#;

/// The statuses of all answers on one connection, which must end.
async fn statuses(bridge: &Bridge, bytes: &[u8]) -> Vec<u16> {
    let mut raw = Raw::connect(bridge.public).await;
    raw.send(bytes).await;
    let answers = String::from_utf8_lossy(&raw.rest_bytes().await).into_owned();
    answers
        .split("HTTP/1.")
        .skip(1)
        .map(|answer| answer[2..5].parse().expect("a status"))
        .collect()
}

#[tokio::test]
async fn a_request_that_could_be_read_in_two_ways_is_refused_and_its_connection_closed() {
    let bridge = Bridge::dev().start().await;
    let mut listener = Client::connect(&bridge, "team_id=7").await;
    let inner = format!(
        "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{PUBLISH}",
        PUBLISH.len()
    );
    let chunked = format!("{:x}\r\n{PUBLISH}\r\n0\r\n\r\n", PUBLISH.len());
    // The lines between the request's and the blank one, the body, and the status that it comes to.
    let cases: &[(&str, &str, u16)] = &[
        // Two lengths, or a length and chunks, in whichever order (RFC 9112 §6.1, §6.3).
        (
            "Host: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            &chunked,
            411,
        ),
        (
            "Host: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            &chunked,
            411,
        ),
        (
            "Host: localhost\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
            411,
        ),
        (
            "Host: localhost\r\nTransfer-Encoding: chunked\r\n",
            &chunked,
            411,
        ),
        (
            "Host: localhost\r\nTransfer-Encoding: gzip, chunked\r\n",
            &chunked,
            411,
        ),
        (
            "Host: localhost\r\nTransfer-Encoding: chunked, identity\r\n",
            &chunked,
            400,
        ),
        (
            "Host: localhost\r\nTransfer-Encoding: xchunked\r\n",
            &chunked,
            400,
        ),
        (
            "Host: localhost\r\nTransfer-Encoding : chunked\r\n",
            &chunked,
            400,
        ),
        (
            "Host: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            &chunked,
            411,
        ),
        (
            "Host: localhost\r\nTransfer-Encoding: chunked, chunked\r\n",
            &chunked,
            411,
        ),
        (
            "Host: localhost\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
            &chunked,
            411,
        ),
        (
            "Host: localhost\r\nTransfer-Encoding: \t ChunKed\t \r\n",
            &chunked,
            411,
        ),
        (
            "Host: localhost\r\nTransfer-Encoding: chunked;q=1\r\n",
            &chunked,
            400,
        ),
        (
            "Host: localhost\r\nTransfer-Encoding: \"chunked\"\r\n",
            &chunked,
            400,
        ),
        (
            "Host: localhost\r\nTransfer-Encoding: \u{b}chunked\r\n",
            &chunked,
            400,
        ),
        (
            "Host: localhost\r\nTransfer-Encoding: chunked\0\r\n",
            &chunked,
            400,
        ),
        (
            "Host: localhost\r\nTransfer-Encoding:\r\n chunked\r\n",
            &chunked,
            400,
        ),
        ("Host: localhost\r\nTransfer-Encoding\r\n", &chunked, 400),
        ("Host: localhost\r\nTransfer-Encoding:\r\n", &chunked, 400),
        (
            "Host: localhost\r\n Transfer-Encoding: chunked\r\n",
            &chunked,
            400,
        ),
        (
            "Host: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
            "hello",
            400,
        ),
        ("Host: localhost\r\nContent-Length: 5, 6\r\n", "hello", 400),
        ("Host: localhost\r\nContent-Length: +5\r\n", "hello", 400),
        ("Host: localhost\r\nContent-Length: -1\r\n", "", 400),
        ("Host: localhost\r\nContent-Length: 0x5\r\n", "hello", 400),
        (
            "Host: localhost\r\nContent-Length: 99999999999999999999\r\n",
            "",
            400,
        ),
        // Lines that are folded, or end otherwise than they may (RFC 9112 §2.2, §5.2).
        (
            "Host: localhost\r\nX-A: b\r\n c\r\nContent-Length: 0\r\n",
            "",
            400,
        ),
        (
            "Host: localhost\r\nX-A: b\rc\r\nContent-Length: 0\r\n",
            "",
            400,
        ),
        (
            "Host: localhost\r\nX-A: b\0c\r\nContent-Length: 0\r\n",
            "",
            400,
        ),
        (
            "Host: localhost\r\nX\0A: b\r\nContent-Length: 0\r\n",
            "",
            400,
        ),
        ("Host: localhost\r\nX-A\r\nContent-Length: 0\r\n", "", 400),
        ("Host: localhost\r\n: b\r\nContent-Length: 0\r\n", "", 400),
        // For no host, or for two (RFC 9112 §3.2).
        ("Content-Length: 0\r\n", "", 400),
        (
            "Host: localhost\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n",
            "",
            400,
        ),
    ];
    for (lines, body, status) in cases {
        let request = format!("POST /publish HTTP/1.1\r\n{lines}\r\n{body}{inner}");
        let answers = statuses(&bridge, request.as_bytes()).await;
        assert_eq!(answers, [*status], "{lines:?}");
    }
    for (line, status) in [
        ("GET /healthz HTTP/1.1 \r\n", 400),
        ("GET  /healthz HTTP/1.1\r\n", 400),
        ("GET /heal\0thz HTTP/1.1\r\n", 400),
        ("GET /heal thz HTTP/1.1\r\n", 400),
        ("GET healthz HTTP/1.1\r\n", 400),
        ("GET /healthz HTTP/3.0\r\n", 400),
        ("GET /healthz HTTP/0.9\r\n", 400),
        ("G\0T /healthz HTTP/1.1\r\n", 400),
        ("GET /healthz\r\n", 400),
    ] {
        let request = format!("{line}Host: localhost\r\n\r\n{inner}");
        let answers = statuses(&bridge, request.as_bytes()).await;
        assert_eq!(answers, [status], "{line:?}");
    }
    // A preflight is a request like another, and so is one whose target says for which host it is (RFC 9112 §3.2.2).
    for (line, lines, status) in [
        (
            "OPTIONS /publish",
            "Host: localhost\r\nHost: 127.0.0.1\r\n",
            400,
        ),
        ("OPTIONS /publish", "", 400),
        (
            "OPTIONS /publish",
            "Host: localhost\r\nTransfer-Encoding: chunked\r\n",
            411,
        ),
        ("GET http://127.0.0.1/healthz", "Host: localhost\r\n", 400),
        (
            "GET http://localhost:81/healthz",
            "Host: localhost\r\n",
            400,
        ),
        ("OPTIONS *", "Host: localhost\r\nHost: localhost\r\n", 400),
    ] {
        let request = format!("{line} HTTP/1.1\r\n{lines}\r\n0\r\n\r\n{inner}");
        let answers = statuses(&bridge, request.as_bytes()).await;
        assert_eq!(answers, [status], "{line} {lines:?}");
    }
    // HTTP/1.0 knows no chunks (RFC 9112 §6.1).
    let old =
        format!("POST /publish HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}{inner}");
    assert_eq!(statuses(&bridge, old.as_bytes()).await, [400]);
    // Nothing of it got through.
    bridge.publish(&event("team.7.n", "honest")).await;
    assert_eq!(listener.data(1).await, ["\"honest\""]);
}

#[tokio::test]
async fn the_admin_listener_too_takes_a_body_by_its_length_alone() {
    let bridge = Bridge::dev()
        .set("AUTH_MODE", "token")
        .set("AUTH_TOKEN", "0123456789abcdef")
        .start_serve()
        .await;
    for (lines, status) in [
        ("Host: localhost\r\nTransfer-Encoding: chunked\r\n", 411),
        ("Host: localhost\r\nHost: localhost\r\n", 400),
        ("", 400),
    ] {
        let mut raw = Raw::connect(bridge.admin()).await;
        let request = format!("POST /revoke HTTP/1.1\r\n{lines}\r\n2\r\n{{}}\r\n0\r\n\r\n");
        raw.send(request.as_bytes()).await;
        let answer = raw.rest().await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(answer.starts_with(&expected), "{lines:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
}

/// The status of an answer, which may have no end.
async fn status_for(address: SocketAddr, target: &str, host: &str) -> u16 {
    let mut raw = Raw::connect(address).await;
    raw.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
        .await;
    let line = raw.until(b"\r\n").await;
    line[9..12].parse().expect("a status")
}

#[tokio::test]
async fn what_is_for_this_machine_alone_answers_to_no_name_that_somebody_may_lead_here() {
    const NAMES: &[&str] = &[
        "evil.example",
        "evil.example:9090",
        "localhost.evil.example",
        "127.0.0.1.evil.example:9090",
        "evil.example:127.0.0.1",
        "localhost, evil.example",
        "bridge",
        "",
    ];
    const OURS: &[&str] = &[
        "localhost",
        "LocalHost:9090",
        "127.0.0.1",
        "127.0.0.1:8080",
        "[::1]",
        "[::1]:9090",
        "192.0.2.1:80",
    ];
    let dev = Bridge::dev().start().await;
    let serve = Bridge::dev().start_without_broker().await;
    let operators = ["/metrics", "/tail", "/healthz"];
    let of_dev = ["/", "/events", "/metrics", "/tail", "/healthz"];
    for (address, targets) in [
        (dev.public, &of_dev[..]),
        (serve.admin(), &operators),
        (serve.admin(), &["/console"]),
    ] {
        for target in targets {
            for host in NAMES {
                let status = status_for(address, target, host).await;
                assert_eq!(status, 421, "{target} {host}");
            }
            for host in OURS {
                let status = status_for(address, target, host).await;
                assert_eq!(status, 200, "{target} {host}");
            }
        }
    }
    let told = http::request(dev.public, "GET", "http://evil.example/none", &[], "").await;
    assert!(told.expect("an answer").body.contains("127.0.0.1"));
    // What is for others too goes by whichever name they have for it.
    let elsewhere = Bridge::dev()
        .set("ADMIN_BIND", "0.0.0.0:0")
        .start_without_broker()
        .await;
    for (address, target) in [
        (serve.public, "/events"),
        (serve.public, "/healthz"),
        (elsewhere.admin(), "/metrics"),
    ] {
        let status = status_for(address, target, "events.example.com").await;
        assert_eq!(status, 200, "{target}");
    }
}

#[tokio::test]
async fn what_is_old_or_rare_but_clear_is_answered() {
    let bridge = Bridge::dev().start().await;
    let last = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let cases = [
        // HTTP/1.0 needs no host and closes.
        ("GET /healthz HTTP/1.0\r\n\r\n".to_owned(), vec![200]),
        // A target with its host in it (RFC 9112 §3.2.2).
        (
            "GET http://localhost/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".to_owned(),
            vec![200],
        ),
        (
            "GET http://LOCALHOST:80/healthz HTTP/1.1\r\nHost: localhost:80\r\nConnection: close\r\n\r\n"
                .to_owned(),
            vec![200],
        ),
        // Requests that do not wait for answers are answered in their order (RFC 9112 §9.3.2).
        (
            format!(
                "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /none HTTP/1.1\r\nHost: localhost\r\n\r\n{last}"
            ),
            vec![200, 404, 200],
        ),
        // Empty lines before a request (RFC 9112 §2.2).
        (format!("\r\n\r\n{last}"), vec![200]),
        // The same length twice is one length, and lines may end in LF alone (RFC 9112 §6.3, §2.2).
        (
            format!(
                "POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: {0}\r\nContent-Length: {0}\r\nConnection: close\r\n\r\n{PUBLISH}",
                PUBLISH.len()
            ),
            vec![202],
        ),
        (
            "GET /healthz HTTP/1.1\nHost: localhost\nConnection: close\n\n".to_owned(),
            vec![200],
        ),
    ];
    for (request, expected) in cases {
        let answers = statuses(&bridge, request.as_bytes()).await;
        assert_eq!(answers, expected, "{request:?}");
    }
}

#[tokio::test]
async fn a_head_over_the_limit_is_told_so_though_its_sender_has_not_finished() {
    let bridge = Bridge::dev().start().await;
    for (name, more) in [("X-A", 16), ("Cookie", 60), ("X-A", 200)] {
        let mut raw = Raw::connect(bridge.public).await;
        raw.send(format!("GET /events HTTP/1.1\r\nHost: localhost\r\n{name}: ").as_bytes())
            .await;
        // The answer may come, and the bridge have had enough, before all is sent.
        let _ = raw.try_send(&vec![b'a'; more * 1024]).await;
        let answer = String::from_utf8_lossy(&raw.rest_bytes().await).into_owned();
        assert!(answer.starts_with("HTTP/1.1 431 "), "{more}: {answer:?}");
    }
    let many: String = (0..150)
        .map(|number| format!("X-{number}: a\r\n"))
        .collect();
    let request = format!("GET /events HTTP/1.1\r\nHost: localhost\r\n{many}\r\n");
    assert_eq!(statuses(&bridge, request.as_bytes()).await, [431]);
}

const ATTACKERS: usize = 5_000;
const HONEST: usize = 1_000;
const EVENTS: usize = 20;

/// What an event may usually take to 99 of 100 honest clients while all of that goes on: so many times what it takes without,
/// in the same run, and so much on top for a machine that does other things too.
const TIMES: u32 = 5;
const ON_TOP: Duration = Duration::from_millis(250);

/// In which time those are let go who send no whole request, and those who read nothing, on a machine that is busy.
const LET_GO: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_who_hold_the_door_are_not_noticed_by_a_thousand_who_came_for_events() {
    may_open_many_files();
    let bridge = Bridge::dev()
        .set("SSE_HEARTBEAT_SECONDS", 5)
        .set("SSE_STALL_SECONDS", 10)
        .start()
        .await;
    let mut producer = bridge.producer().await;

    let quiet = delays(arrive(&bridge).await, &mut producer, &[]).await;
    let streams = r#"sse_bridge_connections{transport="sse"}"#;
    bridge.wait_metric(streams, 0.0).await;

    let attackers = attack(&bridge).await;
    let of_attackers = (ATTACKERS / ATTACKS.len() * 2) as f64;
    bridge
        .wait_metric_where(streams, |open| open >= of_attackers)
        .await;
    let honest = arrive(&bridge).await;
    let mut staying = Client::connect(&bridge, "team_id=7").await;
    // Much for those who read nothing, in between what the honest ones wait for.
    let padding = "x".repeat(16 * 1024);
    let flood = [event("team.flood.n", padding)];
    let loud = delays(honest, &mut producer, &flood).await;

    let (quiet, loud) = (usual(quiet), usual(loud));
    assert!(
        loud <= quiet * TIMES + ON_TOP,
        "{loud:?} with attackers, {quiet:?} without"
    );
    // None of them goes by itself. What stays: one stream, one producer, and who asks for the metrics.
    eventually("attackers are let go", LET_GO, async || {
        (bridge.metric("sse_bridge_sockets").await <= 3.0).then_some(())
    })
    .await;
    let stalled = r#"sse_bridge_connections_closed_total{reason="stalled"}"#;
    assert_eq!(bridge.metric(stalled).await, of_attackers);
    assert_eq!(staying.events(EVENTS).await.len(), EVENTS);
    assert_eq!(bridge.metric(streams).await, 1.0, "who reads stays");
    drop(attackers);
}

/// A fifth each: silent, half a head, half a body, and streams of much and of little that are never read.
const ATTACKS: [&[u8]; 5] = [
    b"",
    b"GET /events HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
    b"POST /publish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{",
    b"GET /events?team_id=flood HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /events?all=true HTTP/1.1\r\nHost: localhost\r\n\r\n",
];

async fn attack(bridge: &Bridge) -> Vec<TcpStream> {
    let mut connecting = JoinSet::new();
    for number in 0..ATTACKERS {
        let address = bridge.public;
        connecting.spawn(async move {
            let mut socket = small_socket(address).await;
            // Closed with a reset, so that no port waits for its end.
            socket2::SockRef::from(&socket)
                .set_linger(Some(Duration::ZERO))
                .expect("an option");
            socket
                .write_all(ATTACKS[number % ATTACKS.len()])
                .await
                .expect("it reads");
            socket
        });
    }
    connecting.join_all().await
}

async fn arrive(bridge: &Bridge) -> Vec<Client> {
    let mut arriving = JoinSet::new();
    for _ in 0..HONEST {
        let address = bridge.public;
        arriving.spawn(async move {
            Client::connect_with(address, "team_id=7", &[])
                .await
                .subscribed()
                .await
        });
    }
    arriving.join_all().await
}

/// What it took to each client, by event. The next is published once all have one; before each, `others`.
async fn delays(
    clients: Vec<Client>,
    producer: &mut Producer,
    others: &[serde_json::Value],
) -> Vec<Vec<Duration>> {
    let began = Instant::now();
    let all_have_it = Arc::new(Barrier::new(clients.len() + 1));
    let mut reading = JoinSet::new();
    for mut client in clients {
        let all_have_it = Arc::clone(&all_have_it);
        reading.spawn(async move {
            let mut delays = Vec::with_capacity(EVENTS);
            for number in 0..EVENTS {
                let data = client.event().await.json();
                assert_eq!(data["number"], number, "every event, in its order");
                let sent = data["sent"].as_u64().expect("microseconds");
                delays.push(began.elapsed().saturating_sub(Duration::from_micros(sent)));
                all_have_it.wait().await;
            }
            delays
        });
    }
    for number in 0..EVENTS {
        for other in others {
            producer.publish(other).await;
        }
        let sent = u64::try_from(began.elapsed().as_micros()).expect("a short time");
        let data = json!({"number": number, "sent": sent});
        producer.publish(&event("team.7.n", data)).await;
        within("an event at every client", SOON, all_have_it.wait()).await;
    }
    let by_client = reading.join_all().await;
    (0..EVENTS)
        .map(|number| by_client.iter().map(|delays| delays[number]).collect())
        .collect()
}

/// What an event takes to 99 of 100 clients. It is the median of all events, as those during which this machine stands still
/// are late at every client.
fn usual(events: Vec<Vec<Duration>>) -> Duration {
    let mut each: Vec<Duration> = events
        .into_iter()
        .map(|mut delays| percentile(&mut delays, 99))
        .collect();
    percentile(&mut each, 50)
}

fn percentile(delays: &mut [Duration], percent: usize) -> Duration {
    delays.sort_unstable();
    delays[delays.len() * percent / 100]
}
