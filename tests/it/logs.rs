//! What stands in the log for whoever looks for what became of a client.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Authority, Bridge, Client, Raw, SOON, event, eventually};
use crate::tls::{self, Http2};

const CLOSED: &str = "stream closed";
const OPENED: &str = "stream opened";

fn is(line: &Value, message: &str) -> bool {
    line["target"] == "sse_bridge::streams" && line["fields"]["message"] == message
}

#[tokio::test]
async fn a_line_tells_of_each_stream_that_ended_whose_it_was_why_it_ended_and_what_it_was_sent() {
    let mut bridge = Bridge::dev().start().await;
    let mut client = Client::connect(&bridge, "team_id=7&user_id=42").await;
    for number in 1..=3 {
        bridge.publish(&event("team.7.x", number)).await;
    }
    let last = client.events(3).await.remove(2);
    drop(client);
    let line = bridge.log_line_where(|line| is(line, CLOSED)).await;
    assert_eq!(line["level"], "INFO");
    let fields = &line["fields"];
    assert_eq!(fields["reason"], "client");
    assert_eq!(fields["transport"], "sse");
    assert_eq!(fields["client"], "127.0.0.1");
    assert_eq!(fields["user_id"], "42");
    assert_eq!(fields["events"], 3);
    assert_eq!(fields["last_id"], last.id.as_str());
    let bytes = fields["bytes"].as_u64().unwrap();
    assert!((100..1000).contains(&bytes), "{line}");
    let seconds = fields["seconds"].as_f64().unwrap();
    assert!((0.0..60.0).contains(&seconds), "{line}");
    assert!(!bridge.output().contains(OPENED));

    let _nobody = Client::connect(&bridge, "team_id=7").await;
    bridge.signal(Signal::TERM);
    bridge.wait_exit(SOON).await;
    let line = bridge
        .log_line_where(|line| is(line, CLOSED) && line["fields"]["reason"] == "drain")
        .await;
    assert_eq!(line["fields"]["events"], 0);
    assert_eq!(line["fields"]["user_id"], Value::Null);
    // It was told where the log stood when it came.
    assert_eq!(line["fields"]["last_id"], last.id.as_str());
}

#[tokio::test]
async fn lines_of_streams_can_be_had_in_full_or_not_at_all() {
    let bridge = Bridge::dev()
        .set("RUST_LOG", "sse_bridge::streams=debug,info")
        .start()
        .await;
    drop(Client::connect(&bridge, "user_id=42").await);
    let line = bridge.log_line_where(|line| is(line, OPENED)).await;
    assert_eq!(line["level"], "DEBUG");
    assert_eq!(line["fields"]["user_id"], "42");
    assert_eq!(line["fields"]["client"], "127.0.0.1");
    bridge.log_line_where(|line| is(line, CLOSED)).await;

    let silent = Bridge::dev()
        .set("RUST_LOG", "sse_bridge::streams=off,info")
        .start()
        .await;
    drop(Client::connect(&silent, "user_id=42").await);
    let closed = r#"sse_bridge_connections_closed_total{reason="client"}"#;
    silent.wait_metric(closed, 1.0).await;
    let output = silent.output();
    assert!(
        output.contains("listening") && !output.contains("stream "),
        "{output}"
    );
}

#[tokio::test]
async fn a_log_that_nobody_reads_any_more_costs_lines_and_nothing_else() {
    let authority = Authority::new();
    let mut bridge = tls::with(&authority.sign("server", &["localhost"], 2090))
        .let_go_of_the_log()
        .start_listening()
        .await;
    let hangs_up = Http2::connect(bridge.public, &authority).await;
    let streams = [
        hangs_up.stream("team_id=7", &[]).await,
        hangs_up.stream("team_id=8", &[]).await,
    ];
    let stays = Http2::connect(bridge.public, &authority).await;
    let open = r#"sse_bridge_connections{transport="sse"}"#;
    assert_eq!(stays.metric(open).await, 2.0);
    // Each of these would have been a line.
    drop((streams, hangs_up));
    stays.publish("team", "for nobody").await;
    let dead = r#"sse_bridge_dead_letters_total{reason="unaddressed"}"#;
    eventually("it is counted what became of them", SOON, async || {
        let sockets = stays.metric("sse_bridge_sockets").await;
        let all = (stays.metric(open).await, sockets, stays.metric(dead).await);
        (all == (0.0, 1.0, 1.0)).then_some(())
    })
    .await;
    bridge.signal(Signal::TERM);
    assert_eq!(bridge.wait_exit(SOON).await, Some(0));
}

#[tokio::test]
async fn a_lack_of_descriptors_is_told_less_and_less_often() {
    const CANNOT: &str = "cannot accept a connection";
    let bridge = Bridge::dev().start().await;
    bridge.leave_descriptors(2);
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(Raw::connect(bridge.public).await);
    }
    // It is tried 20 times a second.
    let line = bridge
        .log_line_where(|line| {
            let message = line["fields"]["message"].as_str().unwrap_or_default();
            message.contains(CANNOT) && line["fields"]["times"].as_u64() > Some(1)
        })
        .await;
    assert_eq!(line["level"], "ERROR");
    let lines = bridge.output().matches(CANNOT).count() as u64;
    let times = line["fields"]["times"].as_u64().unwrap();
    assert!(lines <= 3 && times > lines, "{times} times, {lines} lines");
}
