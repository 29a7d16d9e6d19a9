//! `GET /events`, byte for byte: what a client is sent first, with which headers, and what an event looks like.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Bridge, Client, Raw, event, until_checkpoint};
use crate::sse_parser::SseParser;

/// A request whose answer is not cut into chunks, as the nginx of a user who changed nothing makes it.
const PLAIN_REQUEST: &str = "GET /events?team_id=7 HTTP/1.0\r\n\r\n";

/// Opens a stream whose bytes are the body and nothing else, and gives the id it begins with.
async fn open_plain(bridge: &Bridge, request: &str) -> (Raw, String) {
    let mut raw = Raw::connect(bridge.public).await;
    raw.send(request.as_bytes()).await;
    raw.until(b"\r\n\r\n").await;
    raw.until(b"\n\n").await;
    let checkpoint = raw.until(b"\n\n").await;
    let id = checkpoint
        .strip_prefix("id: ")
        .unwrap_or_else(|| panic!("a checkpoint: {checkpoint:?}"));
    (raw, id.trim_end().to_owned())
}

/// The position and the mark of an id, which must be canonical.
fn parts(id: &str) -> (u64, String) {
    let (position, mark) = id.split_once('-').expect("two parts");
    let position: u64 = position.parse().expect("a position");
    assert_eq!(format!("{position}-{mark}"), id, "no leading zeros");
    assert!(
        mark.len() == 8
            && mark
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')),
        "{id}"
    );
    (position, mark.to_owned())
}

#[tokio::test]
async fn the_first_bytes_are_a_jittered_retry_and_then_a_checkpoint() {
    let bridge = Bridge::dev().set("SSE_RETRY_MS", 8000).start().await;
    let mut delays = BTreeSet::new();
    for _ in 0..16 {
        let mut raw = Raw::connect(bridge.public).await;
        raw.send(PLAIN_REQUEST.as_bytes()).await;
        raw.until(b"\r\n\r\n").await;
        let retry = raw.until(b"\n\n").await;
        let delay = retry
            .strip_prefix("retry: ")
            .and_then(|rest| rest.strip_suffix("\n\n"))
            .and_then(|digits| digits.parse::<u32>().ok());
        let delay = delay.unwrap_or_else(|| panic!("a retry: {retry:?}"));
        assert!((6000..=10_000).contains(&delay), "{delay}");
        delays.insert(delay);
        let checkpoint = raw.until(b"\n\n").await;
        let id = checkpoint.strip_prefix("id: ").expect("an id");
        assert_eq!(parts(id.trim_end()).0, 0, "nothing has happened yet");
    }
    // 16 draws from 4,000 are all the same with a chance of 1 in 10^54.
    assert!(delays.len() > 1, "nothing is jittered: {delays:?}");
}

#[tokio::test]
async fn the_head_of_an_answer_lets_nobody_keep_transform_or_hold_back_the_stream() {
    let bridge = Bridge::dev().start().await;
    let mut raw = Raw::connect(bridge.public).await;
    raw.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
        .await;
    let head = raw.until(b"\r\n\r\n").await;
    let mut lines = head.trim_end().split("\r\n");
    assert_eq!(lines.next(), Some("HTTP/1.1 200 OK"));
    let headers: BTreeSet<&str> = lines.filter(|line| !line.starts_with("date: ")).collect();
    let expected = BTreeSet::from([
        "content-type: text/event-stream",
        "cache-control: private, no-cache, no-store, no-transform",
        "x-accel-buffering: no",
        "x-content-type-options: nosniff",
        "vary: Origin",
        "connection: close",
        "transfer-encoding: chunked",
    ]);
    assert_eq!(headers, expected);
}

#[tokio::test]
async fn a_request_that_arrives_byte_by_byte_is_a_request_like_another() {
    let bridge = Bridge::dev().start().await;
    let mut raw = Raw::connect(bridge.public).await;
    for byte in PLAIN_REQUEST.as_bytes() {
        raw.send(&[*byte]).await;
    }
    assert!(
        raw.until(b"\r\n\r\n")
            .await
            .starts_with("HTTP/1.0 200 OK\r\n")
    );
    assert!(raw.until(b"\n\n").await.starts_with("retry: "));
}

#[tokio::test]
async fn what_accepts_an_event_stream_gets_one() {
    let bridge = Bridge::dev().start().await;
    for accept in [
        "",
        "Accept: text/event-stream\r\n",
        "Accept: */*\r\n",
        "Accept: text/*\r\n",
        "Accept: text/html, TEXT/EVENT-STREAM;q=0.9\r\n",
        "Accept: application/json\r\nAccept: text/event-stream\r\n",
    ] {
        open_plain(&bridge, &format!("GET /events HTTP/1.0\r\n{accept}\r\n")).await;
    }
}

#[tokio::test]
async fn an_event_arrives_byte_for_byte() {
    let bridge = Bridge::dev().start().await;
    let (mut raw, first) = open_plain(&bridge, PLAIN_REQUEST).await;
    let (_, mark) = parts(&first);
    // What a JSON library would tidy: blanks, escapes, a number that no float holds, a key that is there twice.
    let data = r#"{ "a" :1.00e400,"a":"\u00e9é \/ 😀",  "z":[ ] }"#;
    let body = format!(r#"{{"topic":"team.7.job.9.status","type":"job.status","data":{data}}}"#);
    bridge.request("POST", "/publish", &[], &body).await;
    let expected = format!("id: 1-{mark}\nevent: job.status\ndata: {data}\n\n");
    assert_eq!(raw.until(b"\n\n").await, expected);

    // Without a type there is no event field, so that `onmessage` fires.
    bridge.publish(&event("team.7.n", json!(null))).await;
    assert_eq!(
        raw.until(b"\n\n").await,
        format!("id: 2-{mark}\ndata: null\n\n")
    );
}

#[tokio::test]
async fn a_body_of_several_lines_is_read_back_line_by_line() {
    let bridge = Bridge::dev().start().await;
    let (mut raw, first) = open_plain(&bridge, PLAIN_REQUEST).await;
    let body = "{\"topic\":\"team.7.n\",\"data\":{\n  \"a\": 1,\r\n\r  \"b\": 2\n}}";
    bridge.request("POST", "/publish", &[], body).await;
    let block = raw.until(b"\n\n").await;
    let mark = parts(&first).1;
    assert_eq!(
        block,
        format!(
            "id: 1-{mark}\ndata: {{\ndata:   \"a\": 1,\ndata: \ndata:   \"b\": 2\ndata: }}\n\n"
        )
    );
    let dispatched = SseParser::read(block.as_bytes()).dispatched;
    assert_eq!(dispatched.len(), 1);
    assert_eq!(dispatched[0].data, "{\n  \"a\": 1,\n\n  \"b\": 2\n}");
    assert_eq!(dispatched[0].kind, "message");
    assert_eq!(dispatched[0].last_event_id, format!("1-{mark}"));
}

#[tokio::test]
async fn an_envelope_holds_topic_name_and_time_and_the_body_as_it_came() {
    let bridge = Bridge::dev().start().await;
    let mut enveloped = Client::connect(&bridge, "team_id=7&envelope=true").await;
    let mut bare = Client::connect(&bridge, "team_id=7&envelope=false").await;
    let data = r#"{ "n": 1.0e2 }"#;
    let body = format!(r#"{{"topic":"team.7.a\"b","type":"note","data":{data}}}"#);
    bridge.request("POST", "/publish", &[], &body).await;
    let event = enveloped.event().await;
    assert_eq!(bare.event().await.data, data);
    assert_eq!(
        event.name, "note",
        "the event's own name, in an envelope too"
    );
    let (before, after) = event.data.split_once(r#","time":""#).expect("a time");
    assert_eq!(
        before,
        format!(
            r#"{{"id":"{}","topic":"team.7.a\"b","event":"note""#,
            event.id
        )
    );
    let (time, after) = after.split_once('"').expect("the end of the time");
    assert_eq!(after, format!(r#","data":{data}}}"#));
    assert!(time.len() == 20 && time.ends_with('Z'), "RFC 3339: {time}");

    bridge.publish(&crate::harness::event("team.7.n", 2)).await;
    let event = enveloped.event().await;
    assert_eq!(event.json()["event"], json!(null));
    assert_eq!(event.json()["data"], 2);
    assert_eq!(bare.event().await.data, "2");
}

#[tokio::test]
async fn a_quiet_client_is_told_the_newest_position_though_nothing_of_it_was_for_that_client() {
    let bridge = Bridge::dev().set("SSE_HEARTBEAT_SECONDS", 1).start().await;
    let mut quiet = Client::connect(&bridge, "team_id=7&broadcast=false").await;
    let mut busy = Client::connect(&bridge, "team_id=8").await;
    bridge.publish(&event("team.8.n", 1)).await;
    bridge.publish(&event("team.8.n", 2)).await;
    let newest = busy.events(2).await.pop().unwrap().id;
    let (events, before) = until_checkpoint(&mut quiet, |id| id == newest).await;
    assert_eq!(events, []);
    // None names a position beyond.
    assert!(
        before.iter().all(|id| parts(id).0 < parts(&newest).0),
        "{before:?}"
    );
    // A message that nobody is sent moves it too.
    bridge.publish(&event("team", 3)).await;
    let expected = format!("3-{}", parts(&newest).1);
    let (events, before) = until_checkpoint(&mut quiet, |id| id == expected).await;
    assert_eq!(events, []);
    assert!(before.iter().all(|id| *id == newest), "{before:?}");
}

#[tokio::test]
async fn a_script_can_ask_for_heartbeats_that_it_sees_and_others_get_none() {
    let bridge = Bridge::dev().set("SSE_HEARTBEAT_SECONDS", 1).start().await;
    let (mut seeing, id) = open_plain(
        &bridge,
        "GET /events?team_id=7&heartbeat=event HTTP/1.0\r\n\r\n",
    )
    .await;
    let (mut other, _) = open_plain(&bridge, PLAIN_REQUEST).await;
    // A script does not see the first checkpoint either: without this it would not know where it is until the next.
    assert_eq!(
        seeing.until(b"\n\n").await,
        "event: bridge.heartbeat\ndata: {}\n\n"
    );
    for _ in 0..2 {
        assert_eq!(seeing.until(b"\n\n").await, format!("id: {id}\n\n"));
        // Control events bear no id.
        assert_eq!(
            seeing.until(b"\n\n").await,
            "event: bridge.heartbeat\ndata: {}\n\n"
        );
        assert_eq!(other.until(b"\n\n").await, format!("id: {id}\n\n"));
    }
}

#[tokio::test]
async fn events_that_come_within_the_flush_window_are_sent_when_it_ends_and_the_first_at_once() {
    const WINDOW: Duration = Duration::from_secs(1);
    let bridge = Bridge::dev()
        .set("SSE_FLUSH_WINDOW_MS", WINDOW.as_millis())
        // A heartbeat takes along what is there.
        .set("SSE_HEARTBEAT_SECONDS", 30)
        .start()
        .await;
    let mut producer = bridge.producer().await;
    let mut late = 0;
    // A stream that is still awake takes along what has come since: then another audience, which has rested, is looked at.
    for team in 0..100 {
        let request = format!("GET /events?team_id={team} HTTP/1.0\r\n\r\n");
        let (mut raw, _) = open_plain(&bridge, &request).await;
        let topic = format!("team.{team}.a");
        let began = Instant::now();
        producer.publish(&event(&topic, 1)).await;
        raw.until(b"data: 1\n\n").await;
        let first = began.elapsed();
        for number in 2..=4 {
            producer.publish(&event(&topic, number)).await;
        }
        for number in 2..=4 {
            let next = raw.until(b"\n\n").await;
            assert!(next.ends_with(&format!("data: {number}\n\n")), "{next:?}");
        }
        if first >= WINDOW {
            late += 1;
            assert!(late < 2, "the first waits too, and it is not this machine");
        } else if began.elapsed() >= WINDOW {
            return;
        }
    }
    panic!("they never wait");
}
