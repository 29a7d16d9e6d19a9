//! An event reaches every client that may see it, as it was published, in the order of the log, once.

use serde_json::json;

use crate::harness::{Bridge, Client, Event, Foreign, LONG, Message, RabbitMq, within};

/// Bodies that a bridge which parses and prints JSON again would change.
const BODIES: [&str; 4] = [
    r#"{"text":"Grüße, 世界 🌍","n":1.0,"big":12345678901234567890123,"e":1e3}"#,
    "{ \"spaces\" :  [ 1 , 2 ],\t\"b\":2, \"a\":1, \"a\":3 }",
    "{\n  \"lines\": \"\\u00fc \\/ \\n\",\n\n  \"n\": -0.0\n}",
    " \"a string\" ",
];

#[tokio::test]
async fn an_event_of_a_foreign_producer_reaches_its_team_byte_for_byte_and_no_other_team() {
    for foreign in Foreign::ALL {
        let vhost = RabbitMq::shared().await.vhost();
        let bridge = Bridge::on(&vhost).start().await;
        let mut entitled = Client::connect(&bridge, "team_id=7&job_id=9").await;
        let mut other_team = Client::connect(&bridge, "team_id=8").await;
        let mut other_job = Client::connect(&bridge, "team_id=7&job_id=10").await;

        let mut messages: Vec<_> = BODIES
            .iter()
            .map(|body| json!({"topic": "team.7.job.9.status", "body": body}))
            .collect();
        messages.push(json!({"topic": "broadcast.marker", "body": "\"marker\""}));
        foreign.publish(&vhost, &messages).await;

        assert_eq!(entitled.data(BODIES.len()).await, BODIES, "{foreign:?}");
        assert_eq!(other_team.before("\"marker\"").await, [], "{foreign:?}");
        // The marker is a broadcast without a job, which a filter by job keeps out: the team's next event will do.
        foreign
            .publish(
                &vhost,
                &[json!({"topic": "team.7.job.10.status", "body": "10"})],
            )
            .await;
        assert_eq!(other_job.data(1).await, ["10"], "{foreign:?}");
    }
}

#[tokio::test]
async fn an_event_for_a_user_reaches_that_user_only_whether_the_header_is_text_or_a_number() {
    for foreign in Foreign::ALL {
        let vhost = RabbitMq::shared().await.vhost();
        let bridge = Bridge::on(&vhost).start().await;
        let mut entitled = Client::connect(&bridge, "user_id=42").await;
        let mut other_user = Client::connect(&bridge, "user_id=43").await;
        let mut team = Client::connect(&bridge, "team_id=7").await;
        let messages = [
            json!({"topic": "team.7.note", "body": "1", "headers": {"user-id": 42}}),
            json!({"topic": "team.7.note", "body": "2", "headers": {"user-id": "42"}}),
            json!({"topic": "user.42.note", "body": "3"}),
            json!({"topic": "broadcast.marker", "body": "\"marker\""}),
        ];
        foreign.publish(&vhost, &messages).await;
        assert_eq!(
            entitled.data(4).await,
            ["1", "2", "3", "\"marker\""],
            "{foreign:?}"
        );
        assert_eq!(other_user.before("\"marker\"").await, [], "{foreign:?}");
        assert_eq!(
            team.before("\"marker\"").await,
            [],
            "{foreign:?}: the user's header outranks the team's topic"
        );
    }
}

#[tokio::test]
async fn a_broadcast_reaches_everybody_but_those_who_declined() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost).start().await;
    let mut user = Client::connect(&bridge, "user_id=1").await;
    let mut team = Client::connect(&bridge, "team_id=7").await;
    let mut all = Client::connect(&bridge, "").await;
    let mut declined = Client::connect(&bridge, "team_id=7&broadcast=false").await;
    let producer = vhost.producer().await;
    producer
        .publish_all([
            Message::to("broadcast.notice", r#"{"all":true}"#),
            Message::to("team.7.x", "1"),
        ])
        .await;
    assert_eq!(user.data(1).await, [r#"{"all":true}"#]);
    assert_eq!(team.data(2).await, [r#"{"all":true}"#, "1"]);
    assert_eq!(all.data(2).await, [r#"{"all":true}"#, "1"]);
    assert_eq!(declined.data(1).await, ["1"]);
}

#[tokio::test]
async fn the_amqp_type_names_the_event_and_without_one_onmessage_fires() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost).start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    let mut narrowed = Client::connect(&bridge, "team_id=7&event=job.status").await;
    let producer = vhost.producer().await;
    producer.publish(Message::to("team.7.a", "1")).await;
    producer
        .publish(Message::to("team.7.a", "2").kind("job.status"))
        .await;
    let events = client.events(2).await;
    assert_eq!(
        events
            .iter()
            .map(|event| event.name.as_str())
            .collect::<Vec<_>>(),
        ["message", "job.status"]
    );
    assert!(
        events.iter().all(|event| event.has_own_id),
        "every event bears its id: {events:?}"
    );
    assert_eq!(narrowed.data(1).await, ["2"]);
}

#[tokio::test]
async fn a_repeated_message_id_is_delivered_once() {
    let shared = RabbitMq::shared().await;
    for kind in ["stream", "quorum", "classic"] {
        let vhost = shared.vhost();
        let setup = Bridge::on(&vhost).set("RABBITMQ_EVENTS_QUEUE_TYPE", kind);
        let bridge = setup.start().await;
        let mut client = Client::connect(&bridge, "team_id=7").await;
        let producer = vhost.producer().await;
        producer
            .publish_all([
                Message::to("team.7.a", "1").id("m-1"),
                Message::to("team.7.a", "1").id("m-1"),
                Message::to("team.7.a", "2").id("m-2"),
            ])
            .await;
        assert_eq!(client.data(2).await, ["1", "2"], "{kind}");
        bridge
            .wait_metric("sse_bridge_duplicates_total", |count| count == 1.0)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_on_one_stream_both_deliver_everything_in_order_with_the_same_ids() {
    const COUNT: usize = 10_000;
    let vhost = RabbitMq::shared().await.vhost();
    // The rings are as long as the burst: what a slow client loses is another test's matter.
    let setup = Bridge::on(&vhost).set("SSE_CHANNEL_CAPACITY", 2 * COUNT);
    let first = setup.clone().set("REPLICA_NAME", "first").start().await;
    let second = setup.set("REPLICA_NAME", "second").start().await;
    let mut clients = Vec::new();
    for bridge in [&first, &second] {
        clients.push(Client::connect(bridge, "team_id=7").await);
    }

    let producer = vhost.producer().await;
    let publishing =
        producer.publish_all((0..COUNT).map(|n| Message::to("team.7.n", n.to_string())));
    let mut received: Vec<Vec<Event>> = Vec::new();
    let reading = async {
        let (left, right) = clients.split_at_mut(1);
        let (of_first, of_second) = tokio::join!(left[0].events(COUNT), right[0].events(COUNT));
        received = vec![of_first, of_second];
    };
    within("both replicas deliver everything", LONG, async {
        tokio::join!(publishing, reading)
    })
    .await;

    let expected: Vec<_> = (0..COUNT).map(|n| n.to_string()).collect();
    let data: Vec<_> = received[0].iter().map(|event| event.data.clone()).collect();
    assert_eq!(data, expected);
    assert_eq!(
        received[0], received[1],
        "the same events under the same ids"
    );
    assert!(
        received[0]
            .windows(2)
            .all(|pair| pair[0].position() < pair[1].position()),
        "positions rise"
    );
}
