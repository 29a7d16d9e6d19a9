//! One dead letter for each poison message of a stream, however many replicas read it and however often they restart;
//! and poison that a client library cannot even read.

use std::collections::{BTreeMap, BTreeSet};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{
    Bridge, Client, Foreign, LONG, Message, RabbitMq, SOON, Setup, Taken, Vhost, eventually, hex,
    raw_header, raw_long_header,
};

const DEAD_LETTERS: &str = "events.sse.dlq";

/// A replica that says when it has moved the token of the duty.
fn replica(vhost: &Vhost, name: &str) -> Setup {
    Bridge::on(vhost)
        .set("REPLICA_NAME", name)
        .set("RUST_LOG", "info,sse_bridge::amqp::duty=debug")
}

/// Waits until all that the bridge has dead-lettered is in the token: until then a crash may write it again.
async fn wait_until_token_is_moved(bridge: &Bridge, times: usize) {
    eventually("the duty's token was moved", SOON, async || {
        (count_moves(bridge) >= times).then_some(())
    })
    .await;
}

fn count_moves(bridge: &Bridge) -> usize {
    bridge
        .output()
        .lines()
        .filter(|line| line.contains("the duty's token was moved"))
        .count()
}

/// Publishes a last good message, and waits until every bridge has it and all before it settled.
async fn settle_all(vhost: &Vhost, bridges: &[&Bridge], clients: &mut [Client]) {
    vhost
        .producer()
        .await
        .publish(Message::to("broadcast.marker", "\"marker\""))
        .await;
    for client in clients {
        client.before("\"marker\"").await;
    }
    for bridge in bridges {
        bridge
            .wait_metric("sse_bridge_unacknowledged_messages", |count| count == 0.0)
            .await;
    }
}

/// How many letters there are now.
async fn letters_now(vhost: &Vhost) -> u32 {
    let (messages, _) = vhost
        .queue(DEAD_LETTERS)
        .await
        .expect("the dead-letter queue");
    messages
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("poison {n}")).collect()
}

fn sorted(mut bodies: Vec<String>) -> Vec<String> {
    bodies.sort();
    bodies
}

async fn take(vhost: &Vhost, count: usize) -> Vec<String> {
    let letters = vhost.take(DEAD_LETTERS, count).await;
    sorted(letters.into_iter().map(|letter| letter.body).collect())
}

#[tokio::test]
async fn a_poison_message_on_a_stream_that_two_replicas_read_is_dead_lettered_once() {
    let vhost = RabbitMq::shared().await.vhost();
    let first = replica(&vhost, "first").start().await;
    let second = replica(&vhost, "second").start().await;
    let mut clients = [
        Client::connect(&first, "").await,
        Client::connect(&second, "").await,
    ];
    let poison = numbered(20);
    vhost
        .producer()
        .await
        .publish_all(
            poison
                .iter()
                .map(|body| Message::to("team.7.x", body.as_str())),
        )
        .await;
    // Both replicas have settled all of it: what one wrote twice would be here by then.
    settle_all(&vhost, &[&first, &second], &mut clients).await;
    assert_eq!(take(&vhost, 20).await, sorted(poison));
    assert_eq!(letters_now(&vhost).await, 0, "and none of it twice");
    let duties = [
        first.metric("sse_bridge_dead_letter_duty").await,
        second.metric("sse_bridge_dead_letter_duty").await,
    ];
    assert_eq!(duties, [1.0, 0.0], "who has the duty");
}

#[tokio::test]
async fn a_restart_reads_history_again_and_dead_letters_nothing_again() {
    let vhost = RabbitMq::shared().await.vhost();
    let mut bridge = replica(&vhost, "first").start().await;
    let producer = vhost.producer().await;
    for restart in ["killed", "ended in order"] {
        producer.publish(Message::to("team.7.x", restart)).await;
        assert_eq!(take(&vhost, 1).await, [restart]);
        if restart == "killed" {
            wait_until_token_is_moved(&bridge, 1).await;
            bridge.kill();
        } else {
            bridge.signal(Signal::TERM);
            bridge.wait_exit(SOON).await;
        }
        bridge = replica(&vhost, "first").start().await;
        let mut clients = [Client::connect(&bridge, "").await];
        settle_all(&vhost, &[&bridge], &mut clients).await;
        assert_eq!(letters_now(&vhost).await, 0, "{restart}");
    }
}

#[tokio::test]
async fn poison_that_came_while_no_bridge_ran_is_dead_lettered_also_where_history_does_not_reach() {
    let vhost = RabbitMq::shared().await.vhost();
    let setup = replica(&vhost, "first").set("HISTORY_MAX_AGE", "0");
    let mut bridge = setup.start().await;
    let producer = vhost.producer().await;
    producer.publish(Message::to("team.7.x", "before")).await;
    assert_eq!(take(&vhost, 1).await, ["before"]);
    bridge.signal(Signal::TERM);
    bridge.wait_exit(SOON).await;
    producer
        .publish_all((0..50).map(|n| match n {
            20 => Message::to("team.7.x", "meanwhile"),
            _ => Message::to("team.7.x", n.to_string()),
        }))
        .await;
    let bridge = setup.start().await;
    assert_eq!(take(&vhost, 1).await, ["meanwhile"]);
    let mut clients = [Client::connect(&bridge, "").await];
    settle_all(&vhost, &[&bridge], &mut clients).await;
    assert_eq!(letters_now(&vhost).await, 0);
}

#[tokio::test]
async fn of_three_replicas_one_dead_letters_and_when_it_is_killed_another_takes_over_and_loses_none()
 {
    const POISON: usize = 30;
    let vhost = RabbitMq::shared().await.vhost();
    let mut bridges = Vec::new();
    for name in ["first", "second", "third"] {
        bridges.push(replica(&vhost, name).start().await);
    }
    let producer = vhost.producer().await;
    let publish = async |numbers: std::ops::Range<usize>| {
        let poison = numbers.flat_map(|n| {
            let good = (0..5).map(move |k| Message::to("team.7.x", format!("{}", n * 5 + k)));
            good.chain([Message::to("team.7.x", format!("poison {n}"))])
        });
        producer.publish_all(poison).await;
    };
    let holder = eventually("one replica has the duty", SOON, async || {
        for (index, bridge) in bridges.iter().enumerate() {
            if bridge.metric("sse_bridge_dead_letter_duty").await == 1.0 {
                return Some(index);
            }
        }
        None
    })
    .await;
    publish(0..POISON / 3).await;
    bridges[holder]
        .wait_metric(
            "sse_bridge_dead_letters_total{reason=\"not_json\"}",
            |count| count >= 5.0,
        )
        .await;
    // It is in the middle of them, or has just ended; the others have read them all and let them pass.
    bridges.remove(holder).kill();
    publish(POISON / 3..POISON).await;
    let mut letters: BTreeMap<String, usize> = BTreeMap::new();
    eventually("each poison message is dead-lettered", SOON, async || {
        let waiting = letters_now(&vhost).await;
        for body in take(&vhost, waiting as usize).await {
            *letters.entry(body).or_default() += 1;
        }
        (letters.len() >= POISON).then_some(())
    })
    .await;
    let expected: BTreeSet<String> = numbered(POISON).into_iter().collect();
    assert_eq!(letters.keys().cloned().collect::<BTreeSet<_>>(), expected);
    // What came after the kill, nobody has written twice.
    for n in POISON / 3..POISON {
        assert_eq!(letters[&format!("poison {n}")], 1, "{letters:?}");
    }
    let mut duties = 0.0;
    for bridge in &bridges {
        duties += bridge.metric("sse_bridge_dead_letter_duty").await;
    }
    assert_eq!(duties, 1.0, "one of the two has the duty now");
}

#[tokio::test]
async fn of_three_replicas_that_end_one_after_the_other_in_order_none_writes_a_dead_letter_twice() {
    let vhost = RabbitMq::shared().await.vhost();
    let mut bridges = Vec::new();
    for name in ["first", "second", "third"] {
        bridges.push(replica(&vhost, name).start().await);
    }
    let mut last = bridges.pop().expect("three of them");
    let mut client = Client::connect(&last, "").await;
    let producer = vhost.producer().await;
    let publish = async |n: usize| {
        producer
            .publish_all([
                Message::to("team.7.x", format!("poison {n}")),
                Message::to("team.7.x", n.to_string()),
            ])
            .await;
    };
    for (n, mut bridge) in bridges.into_iter().enumerate() {
        publish(2 * n).await;
        bridge.signal(Signal::TERM);
        publish(2 * n + 1).await;
        bridge.wait_exit(SOON).await;
    }
    last.wait_metric("sse_bridge_dead_letter_duty", |duty| duty == 1.0)
        .await;
    publish(4).await;
    assert_eq!(client.data(5).await, ["0", "1", "2", "3", "4"]);
    assert_eq!(take(&vhost, 5).await, numbered(5));
    settle_all(&vhost, &[&last], &mut [client]).await;
    last.signal(Signal::TERM);
    last.wait_exit(SOON).await;
    assert_eq!(letters_now(&vhost).await, 0);
}

#[tokio::test]
async fn a_stream_made_anew_while_no_bridge_ran_has_its_own_poison_dead_lettered() {
    let vhost = RabbitMq::shared().await.vhost();
    let setup = replica(&vhost, "first");
    let mut bridge = setup.start().await;
    let producer = vhost.producer().await;
    // The token of the old stream says more than the new one will have.
    producer
        .publish_all((0..50).map(|n| Message::to("team.7.x", n.to_string())))
        .await;
    producer.publish(Message::to("team.7.x", "old")).await;
    assert_eq!(take(&vhost, 1).await, ["old"]);
    bridge.signal(Signal::TERM);
    bridge.wait_exit(SOON).await;

    vhost.delete_queue("events.sse").await;
    // Made by another, with something in it before any bridge has seen it.
    let mut other = setup.start().await;
    other.signal(Signal::TERM);
    other.wait_exit(SOON).await;
    producer.publish(Message::to("team.7.x", "new")).await;
    let bridge = setup.start().await;
    assert_eq!(take(&vhost, 1).await, ["new"]);
    let mut clients = [Client::connect(&bridge, "").await];
    settle_all(&vhost, &[&bridge], &mut clients).await;
    assert_eq!(letters_now(&vhost).await, 0);
}

#[tokio::test]
async fn a_stream_made_anew_under_a_link_that_is_not_told_has_its_own_poison_dead_lettered() {
    let shared = RabbitMq::shared().await;
    let vhost = shared.vhost();
    let mut bridge = replica(&vhost, "first").start().await;
    let producer = vhost.producer().await;
    // The token of the old stream says more than the new one will have.
    producer
        .publish_all((0..50).map(|n| Message::to("team.7.x", n.to_string())))
        .await;
    producer.publish(Message::to("team.7.x", "old")).await;
    assert_eq!(take(&vhost, 1).await, ["old"]);
    bridge.signal(Signal::TERM);
    bridge.wait_exit(SOON).await;
    let bridge = replica(&vhost, "first").start().await;
    bridge
        .wait_metric("sse_bridge_dead_letter_duty", |duty| duty == 1.0)
        .await;
    let deletion = vhost.deletion_that_nobody_is_told("events.sse");
    shared.control(&["eval", &deletion]).await;
    let other = replica(&vhost, "second").start().await;
    producer.publish(Message::to("team.7.x", "new")).await;
    other.kill();
    // A bridge looks five seconds after the last event, and where that was too early, again after a minute.
    eventually(
        "the bridge sees that the stream is another",
        LONG,
        async || bridge.output().contains("made anew").then_some(()),
    )
    .await;
    assert_eq!(take(&vhost, 1).await, ["new"]);
}

/// Arrays in arrays, so many.
fn nested(levels: u32) -> Vec<u8> {
    let arrays = (0..levels).rev();
    arrays
        .flat_map(|within| [&b"A"[..], &(5 * within).to_be_bytes()].concat())
        .collect()
}

#[tokio::test]
async fn headers_that_would_harm_whoever_reads_them_are_dead_lettered_and_stop_nothing() {
    let shared = RabbitMq::shared().await;
    // A stream of RabbitMQ 3.10 keeps no arrays and tables.
    for kind in ["quorum", "classic"] {
        let vhost = shared.vhost();
        let setup = Bridge::on(&vhost).set("RABBITMQ_EVENTS_QUEUE_TYPE", kind);
        let bridge = setup.start().await;
        let mut client = Client::connect(&bridge, "team_id=7").await;
        let messages = [
            message("1", &[raw_long_header("shallow", b'A', &nested(31))]),
            message(
                "\"deep\"",
                &[raw_long_header("deep", b'A', &nested(26_000))],
            ),
            message("2", &[]),
        ];
        Foreign::Raw.publish(&vhost, &messages).await;
        assert_eq!(client.data(2).await, ["1", "2"], "{kind}");
        let letters = vhost.take(DEAD_LETTERS, 1).await;
        let said: Vec<_> = letters.iter().map(what_it_says).collect();
        let deep = "a header nests more than 32 tables and arrays; it is left out here";
        assert_eq!(said, [("\"deep\"".to_owned(), deep.to_owned())], "{kind}");
        nothing_broke(&vhost, &bridge, client, kind).await;
    }
}

#[tokio::test]
async fn a_header_by_which_a_producer_says_where_its_record_stands_is_not_believed() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost).start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    let far = raw_header("x-stream-offset", b'l', &(1_i64 << 61).to_be_bytes());
    let messages = [("1", 2), ("2", 1), ("3", 0)].map(|(body, times)| {
        json!({"topic": "team.7.x", "body": body, "headers": hex(&far.repeat(times))})
    });
    Foreign::Raw.publish(&vhost, &messages).await;
    assert_eq!(client.data(3).await, ["1", "2", "3"]);
    assert_eq!(letters_now(&vhost).await, 0);
}

/// A message with these headers, and one that a dead letter keeps.
fn message(body: &str, headers: &[Vec<u8>]) -> serde_json::Value {
    let headers = [
        &headers.concat()[..],
        &raw_long_header("kept", b'S', b"here"),
    ]
    .concat();
    json!({"topic": "team.7.x", "body": body, "headers": hex(&headers)})
}

#[tokio::test]
async fn headers_that_do_not_fit_into_a_frame_are_dead_lettered_and_stop_nothing() {
    /// What a header called "large" may have at most beside the other in a frame of RabbitMQ's default size.
    const MOST: usize = 131_072 - 27 - 14 - 11;
    let shared = RabbitMq::shared().await;
    for kind in ["stream", "quorum", "classic"] {
        let vhost = shared.vhost();
        let setup = Bridge::on(&vhost).set("RABBITMQ_EVENTS_QUEUE_TYPE", kind);
        let bridge = setup.start().await;
        let mut client = Client::connect(&bridge, "team_id=7").await;
        let large = |bytes| [raw_long_header("large", b'S', &vec![b'x'; bytes])];
        let messages = [
            message("1", &large(16_000)),
            message("\"large\"", &large(17_000)),
            message("\"largest\"", &large(MOST)),
            message("2", &[]),
        ];
        Foreign::Raw.publish(&vhost, &messages).await;
        assert_eq!(client.data(2).await, ["1", "2"], "{kind}");
        let letters = vhost.take(DEAD_LETTERS, 2).await;
        let said: BTreeMap<_, _> = letters.iter().map(what_it_says).collect();
        let detail =
            "headers and properties do not fit into a frame; headers that do not are left out here";
        let expected =
            ["\"large\"", "\"largest\""].map(|body| (body.to_owned(), detail.to_owned()));
        assert_eq!(said, BTreeMap::from(expected), "{kind}");
        nothing_broke(&vhost, &bridge, client, kind).await;
        // At the newest record of a stream they stop no start either.
        Foreign::Raw.publish(&vhost, &messages[2..3]).await;
        vhost.take(DEAD_LETTERS, 1).await;
        bridge.kill();
        setup.start().await;
    }
}

/// All is settled, and the link has held.
async fn nothing_broke(vhost: &Vhost, bridge: &Bridge, client: Client, kind: &str) {
    settle_all(vhost, &[bridge], &mut [client]).await;
    let reconnects = bridge.metric("sse_bridge_broker_reconnects_total").await;
    assert_eq!(reconnects, 0.0, "{kind}");
}

/// The body of a letter about bad headers, and its detail.
fn what_it_says(letter: &Taken) -> (String, String) {
    let header = |name| letter.header(name).unwrap_or_default();
    assert_eq!(header("x-bridge-reason"), "bad_headers");
    assert_eq!(header("kept"), "here");
    (letter.body.clone(), header("x-bridge-detail"))
}

#[tokio::test]
async fn a_dead_letter_exchange_that_is_gone_holds_the_acknowledgements_back_and_loses_and_repeats_nothing()
 {
    let vhost = RabbitMq::shared().await.vhost();
    let setup = replica(&vhost, "first");
    drop(setup.start().await);
    // Nobody mends what is missing: the bridge may not declare.
    let setup = setup.set("RABBITMQ_DECLARE", "false");
    let first = setup.start().await;
    let second = setup.clone().set("REPLICA_NAME", "second").start().await;
    let mut clients = [
        Client::connect(&first, "").await,
        Client::connect(&second, "").await,
    ];
    first
        .wait_metric("sse_bridge_dead_letter_duty", |duty| duty == 1.0)
        .await;
    vhost.delete_exchange("events.dlx").await;
    let producer = vhost.producer().await;
    let poison = numbered(10);
    producer
        .publish_all(
            poison
                .iter()
                .map(|body| Message::to("team.7.x", body.as_str())),
        )
        .await;
    producer.publish(Message::to("team.7.x", "1")).await;
    for client in &mut clients {
        assert_eq!(client.data(1).await, ["1"], "events go on");
    }
    first
        .wait_metric("sse_bridge_dead_letter_failures_total", |count| {
            count >= 20.0
        })
        .await;
    assert!(
        first.metric("sse_bridge_unacknowledged_messages").await >= 10.0,
        "they stay unsettled"
    );
    assert_eq!(
        second.metric("sse_bridge_dead_letter_failures_total").await,
        0.0,
        "it is not the other's duty"
    );
    // Somebody mends it.
    Bridge::on(&vhost)
        .set("REPLICA_NAME", "third")
        .start()
        .await
        .kill();
    settle_all(&vhost, &[&first, &second], &mut clients).await;
    assert_eq!(take(&vhost, 10).await, sorted(poison));
    assert_eq!(letters_now(&vhost).await, 0, "each once");
}

#[tokio::test]
async fn behind_a_missing_dead_letter_exchange_no_more_waits_than_the_prefetch_and_nothing_is_lost()
{
    const PREFETCH: usize = 10;
    const GOOD: usize = 30;
    let shared = RabbitMq::shared().await;
    for kind in ["stream", "quorum", "classic"] {
        let vhost = shared.vhost();
        let setup = Bridge::on(&vhost)
            .set("RABBITMQ_EVENTS_QUEUE_TYPE", kind)
            .set("RABBITMQ_PREFETCH_COUNT", PREFETCH);
        drop(setup.start().await);
        // Nobody mends what is missing: the bridge may not declare.
        let bridge = setup.clone().set("RABBITMQ_DECLARE", "false").start().await;
        let mut client = Client::connect(&bridge, "").await;
        if kind == "stream" {
            bridge
                .wait_metric("sse_bridge_dead_letter_duty", |duty| duty == 1.0)
                .await;
        }
        vhost.delete_exchange("events.dlx").await;
        let producer = vhost.producer().await;
        producer.publish(Message::to("team.7.x", "poison")).await;
        for n in 0..GOOD {
            // One by one: each is a chunk of the stream.
            producer
                .publish(Message::to("team.7.x", n.to_string()))
                .await;
        }
        bridge
            .wait_metric("sse_bridge_dead_letter_failures_total", |count| {
                count >= 3.0
            })
            .await;
        let held = bridge.metric("sse_bridge_unacknowledged_messages").await;
        // RabbitMQ delivers a stream's chunks whole.
        let most = if kind == "stream" { GOOD } else { PREFETCH };
        assert!(
            (PREFETCH as f64..=most as f64).contains(&held),
            "{kind}: {held}"
        );
        // Somebody mends it.
        setup
            .set("RABBITMQ_EVENTS_QUEUE", "events.other")
            .start()
            .await
            .kill();
        let expected: Vec<_> = (0..GOOD).map(|n| n.to_string()).collect();
        assert_eq!(client.data(GOOD).await, expected, "{kind}");
        assert_eq!(take(&vhost, 1).await, ["poison"], "{kind}");
        bridge
            .wait_metric("sse_bridge_unacknowledged_messages", |count| count == 0.0)
            .await;
    }
}

#[tokio::test]
async fn a_message_whose_texts_are_not_utf8_is_dead_lettered_and_stops_nothing() {
    let shared = RabbitMq::shared().await;
    for kind in ["stream", "quorum", "classic"] {
        let vhost = shared.vhost();
        let setup = Bridge::on(&vhost).set("RABBITMQ_EVENTS_QUEUE_TYPE", kind);
        let bridge = setup.start().await;
        let mut client = Client::connect(&bridge, "team_id=7").await;
        let messages = [
            json!({"topic": "team.7.x", "body": "1"}),
            json!({"topic": "team.7.caf\u{e9}", "body": "\"key\""}),
            json!({"topic": "team.7.x", "body": "\"type\"", "type": "caf\u{e9}"}),
            json!({"topic": "team.7.x", "body": "2"}),
            json!({"topic": "team.7.x", "body": "\"id\"", "message_id": "\u{ff}"}),
            json!({"topic": "team.7.x", "body": "\"header\"", "headers": {"\u{e9}": "x"}}),
            json!({"topic": "team.7.x", "body": "3"}),
            json!({"topic": "team.7.\u{e9}", "body": "\"last\""}),
        ];
        Foreign::Latin1.publish(&vhost, &messages).await;
        assert_eq!(client.data(3).await, ["1", "2", "3"], "{kind}");
        let letters = vhost.take(DEAD_LETTERS, 5).await;
        let mut said: Vec<_> = letters
            .iter()
            .map(|letter| {
                let header = |name| letter.header(name).unwrap_or_default();
                assert_eq!(header("x-bridge-reason"), "not_utf8", "{kind}");
                let detail = header("x-bridge-detail");
                let (what, _) = detail.split_once(" is not UTF-8").expect("a detail");
                (letter.body.clone(), what.to_owned())
            })
            .collect();
        said.sort();
        let expected = [
            ("\"header\"", "a header's name"),
            ("\"id\"", "the message_id"),
            ("\"key\"", "the routing key"),
            ("\"last\"", "the routing key"),
            ("\"type\"", "the type"),
        ]
        .map(|(body, what)| (body.to_owned(), what.to_owned()));
        assert_eq!(said, expected, "{kind}");
        nothing_broke(&vhost, &bridge, client, kind).await;
        // At the newest record of a stream it stops no start either.
        Foreign::Latin1.publish(&vhost, &messages[7..]).await;
        vhost.take(DEAD_LETTERS, 1).await;
        bridge.kill();
        setup.start().await;
    }
}
