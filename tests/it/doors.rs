//! What comes in at the public listener, byte by byte: what could be read in two ways is not read at all, and thousands who
//! hold the door do not keep others from it.

#![allow(
    clippy::disallowed_methods,
    reason = "the tasks of a test end with its runtime"
)]

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::{Bridge, Client, Raw, SOON, event, eventually, may_open_many_files, within};

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
        "POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{PUBLISH}",
        PUBLISH.len()
    );
    let chunked = format!("{:x}\r\n{PUBLISH}\r\n0\r\n\r\n", PUBLISH.len());
    // The lines between the request's and the blank one, the body, and the status that it comes to.
    let cases: &[(&str, &str, u16)] = &[
        // Two lengths, or a length and chunks, in whichever order (RFC 9112 §6.1, §6.3).
        (
            "Host: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            &chunked,
            411,
        ),
        (
            "Host: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            &chunked,
            411,
        ),
        (
            "Host: x\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
            411,
        ),
        ("Host: x\r\nTransfer-Encoding: chunked\r\n", &chunked, 411),
        (
            "Host: x\r\nTransfer-Encoding: gzip, chunked\r\n",
            &chunked,
            411,
        ),
        (
            "Host: x\r\nTransfer-Encoding: chunked, identity\r\n",
            &chunked,
            400,
        ),
        ("Host: x\r\nTransfer-Encoding: xchunked\r\n", &chunked, 400),
        ("Host: x\r\nTransfer-Encoding : chunked\r\n", &chunked, 400),
        (
            "Host: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            &chunked,
            411,
        ),
        (
            "Host: x\r\nTransfer-Encoding: chunked, chunked\r\n",
            &chunked,
            411,
        ),
        (
            "Host: x\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
            &chunked,
            411,
        ),
        (
            "Host: x\r\nTransfer-Encoding: \t ChunKed\t \r\n",
            &chunked,
            411,
        ),
        (
            "Host: x\r\nTransfer-Encoding: chunked;q=1\r\n",
            &chunked,
            400,
        ),
        (
            "Host: x\r\nTransfer-Encoding: \"chunked\"\r\n",
            &chunked,
            400,
        ),
        (
            "Host: x\r\nTransfer-Encoding: \u{b}chunked\r\n",
            &chunked,
            400,
        ),
        ("Host: x\r\nTransfer-Encoding: chunked\0\r\n", &chunked, 400),
        (
            "Host: x\r\nTransfer-Encoding:\r\n chunked\r\n",
            &chunked,
            400,
        ),
        ("Host: x\r\nTransfer-Encoding\r\n", &chunked, 400),
        ("Host: x\r\nTransfer-Encoding:\r\n", &chunked, 400),
        ("Host: x\r\n Transfer-Encoding: chunked\r\n", &chunked, 400),
        (
            "Host: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n",
            "hello",
            400,
        ),
        ("Host: x\r\nContent-Length: 5, 6\r\n", "hello", 400),
        ("Host: x\r\nContent-Length: +5\r\n", "hello", 400),
        ("Host: x\r\nContent-Length: -1\r\n", "", 400),
        ("Host: x\r\nContent-Length: 0x5\r\n", "hello", 400),
        (
            "Host: x\r\nContent-Length: 99999999999999999999\r\n",
            "",
            400,
        ),
        // Lines that are folded, or end otherwise than they may (RFC 9112 §2.2, §5.2).
        ("Host: x\r\nX-A: b\r\n c\r\nContent-Length: 0\r\n", "", 400),
        ("Host: x\r\nX-A: b\rc\r\nContent-Length: 0\r\n", "", 400),
        ("Host: x\r\nX-A: b\0c\r\nContent-Length: 0\r\n", "", 400),
        ("Host: x\r\nX\0A: b\r\nContent-Length: 0\r\n", "", 400),
        ("Host: x\r\nX-A\r\nContent-Length: 0\r\n", "", 400),
        ("Host: x\r\n: b\r\nContent-Length: 0\r\n", "", 400),
        // For no host, or for two (RFC 9112 §3.2).
        ("Content-Length: 0\r\n", "", 400),
        ("Host: x\r\nHost: y\r\nContent-Length: 0\r\n", "", 400),
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
        let request = format!("{line}Host: x\r\n\r\n{inner}");
        let answers = statuses(&bridge, request.as_bytes()).await;
        assert_eq!(answers, [status], "{line:?}");
    }
    // A preflight is a request like another, and so is one whose target says for which host it is (RFC 9112 §3.2.2).
    for (line, lines, status) in [
        ("OPTIONS /publish", "Host: x\r\nHost: y\r\n", 400),
        ("OPTIONS /publish", "", 400),
        (
            "OPTIONS /publish",
            "Host: x\r\nTransfer-Encoding: chunked\r\n",
            411,
        ),
        ("GET http://y/healthz", "Host: x\r\n", 400),
        ("GET http://x:81/healthz", "Host: x\r\n", 400),
        ("OPTIONS *", "Host: x\r\nHost: x\r\n", 400),
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
async fn what_is_old_or_rare_but_clear_is_answered() {
    let bridge = Bridge::dev().start().await;
    let last = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let cases = [
        // HTTP/1.0 needs no host and closes.
        ("GET /healthz HTTP/1.0\r\n\r\n".to_owned(), vec![200]),
        // A target with its host in it (RFC 9112 §3.2.2).
        (
            "GET http://x/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_owned(),
            vec![200],
        ),
        (
            "GET http://X:80/healthz HTTP/1.1\r\nHost: x:80\r\nConnection: close\r\n\r\n"
                .to_owned(),
            vec![200],
        ),
        // Requests that do not wait for answers are answered in their order (RFC 9112 §9.3.2).
        (
            format!(
                "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /none HTTP/1.1\r\nHost: x\r\n\r\n{last}"
            ),
            vec![200, 404, 200],
        ),
        // Empty lines before a request (RFC 9112 §2.2).
        (format!("\r\n\r\n{last}"), vec![200]),
        // The same length twice is one length, and lines may end in LF alone (RFC 9112 §6.3, §2.2).
        (
            format!(
                "POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: {0}\r\nContent-Length: {0}\r\nConnection: close\r\n\r\n{PUBLISH}",
                PUBLISH.len()
            ),
            vec![202],
        ),
        (
            "GET /healthz HTTP/1.1\nHost: x\nConnection: close\n\n".to_owned(),
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
        raw.send(format!("GET /events HTTP/1.1\r\nHost: x\r\n{name}: ").as_bytes())
            .await;
        // The answer may come, and the bridge have had enough, before all is sent.
        let _ = raw.try_send(&vec![b'a'; more * 1024]).await;
        let answer = String::from_utf8_lossy(&raw.rest_bytes().await).into_owned();
        assert!(answer.starts_with("HTTP/1.1 431 "), "{more}: {answer:?}");
    }
    let many: String = (0..150)
        .map(|number| format!("X-{number}: a\r\n"))
        .collect();
    let request = format!("GET /events HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    assert_eq!(statuses(&bridge, request.as_bytes()).await, [431]);
}

const ATTACKERS: usize = 5_000;
const HONEST: usize = 1_000;
const EVENTS: usize = 20;
/// What an event may take to an honest client while all of that goes on, on a machine that does other things too.
const BOUND: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_who_hold_the_door_are_not_noticed_by_a_thousand_who_came_for_events() {
    may_open_many_files();
    let bridge = Bridge::dev().start().await;
    let began = Instant::now();

    // A fifth each: silent, half a head, half a body, and streams of much and of little that are never read.
    let kinds: [&[u8]; 5] = [
        b"",
        b"GET /events HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
        b"GET /events?team_id=flood HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /events?all=true HTTP/1.1\r\nHost: x\r\n\r\n",
    ];
    let mut attackers = Vec::with_capacity(ATTACKERS);
    let mut connecting = JoinSet::new();
    for number in 0..ATTACKERS {
        let address = bridge.public;
        connecting.spawn(async move {
            let mut socket = TcpStream::connect(address).await.expect("it listens");
            // Closed with a reset, so that no port waits for its end.
            socket2::SockRef::from(&socket)
                .set_linger(Some(Duration::ZERO))
                .expect("an option");
            socket
                .write_all(kinds[number % kinds.len()])
                .await
                .expect("it reads");
            socket
        });
    }
    while let Some(attacker) = connecting.join_next().await {
        attackers.push(attacker.expect("no panic"));
    }
    let streams = r#"sse_bridge_connections{transport="sse"}"#;
    let of_attackers = (ATTACKERS / kinds.len() * 2) as f64;
    bridge
        .wait_metric_where(streams, |open| open >= of_attackers)
        .await;

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
    let mut honest = Vec::with_capacity(HONEST);
    while let Some(client) = arriving.join_next().await {
        honest.push(client.expect("every honest client is let in"));
    }

    // Much for those who read nothing, in between what the honest ones wait for.
    let mut reading = JoinSet::new();
    for mut client in honest {
        reading.spawn(async move {
            let mut worst = Duration::ZERO;
            for number in 0..EVENTS {
                let event = client.event().await;
                let data = event.json();
                assert_eq!(data["number"], number, "every event, in its order");
                let sent = data["sent"].as_u64().expect("milliseconds");
                let took = began.elapsed().saturating_sub(Duration::from_millis(sent));
                worst = worst.max(took);
            }
            worst
        });
    }
    let mut producer = bridge.producer().await;
    let padding = "x".repeat(16 * 1024);
    for number in 0..EVENTS {
        producer
            .publish(&event("team.flood.n", padding.clone()))
            .await;
        let sent = u64::try_from(began.elapsed().as_millis()).expect("a short time");
        producer
            .publish(&event("team.7.n", json!({"number": number, "sent": sent})))
            .await;
    }
    let mut worst = Duration::ZERO;
    let all = async {
        while let Some(took) = reading.join_next().await {
            worst = worst.max(took.expect("every event comes"));
        }
    };
    within(
        "every event at every honest client",
        Duration::from_secs(30),
        all,
    )
    .await;
    assert!(worst < BOUND, "the slowest event took {worst:?}");
    // They were there all the time, or had been let go for what they did.
    assert_eq!(attackers.len(), ATTACKERS);
    drop(attackers);
    eventually("their streams are gone", SOON, async || {
        (bridge.metric(streams).await == 0.0).then_some(())
    })
    .await;
}
