//! Whom an event is for; and what is for nobody, or is no event, is dead-lettered with the reason, and never dropped.

use lapin::types::AMQPValue;
use serde_json::json;

use crate::harness::{Bridge, Client, Foreign, Message, RabbitMq, SOON, eventually};

const DEAD_LETTERS: &str = "events.sse.dlq";

#[tokio::test]
async fn what_is_not_json_is_dead_lettered_with_the_reason_and_reaches_nobody() {
    for foreign in Foreign::ALL {
        let vhost = RabbitMq::shared().await.vhost();
        let bridge = Bridge::on(&vhost).start().await;
        let mut client = Client::connect(&bridge, "").await;
        let messages = [
            json!({"topic": "team.7.job.9.status", "body": "{\"half\":"}),
            json!({"topic": "broadcast.marker", "body": "\"marker\""}),
        ];
        foreign.publish(&vhost, &messages).await;
        assert_eq!(client.before("\"marker\"").await, [], "{foreign:?}");

        let letters = vhost.take(DEAD_LETTERS, 1).await;
        let letter = &letters[0];
        assert_eq!(letter.body, "{\"half\":");
        assert_eq!(
            letter.header("x-bridge-reason").as_deref(),
            Some("not_json")
        );
        assert_eq!(
            letter.header("x-bridge-exchange").as_deref(),
            Some("events.topic")
        );
        assert_eq!(
            letter.header("x-bridge-routing-key").as_deref(),
            Some("team.7.job.9.status")
        );
        let position = letter.header("x-bridge-position");
        assert!(
            position
                .as_ref()
                .is_some_and(|text| text.parse::<u64>().is_ok()),
            "{position:?}"
        );
        let detail = letter.header("x-bridge-detail").expect("a detail");
        assert!(
            !detail.is_empty() && !detail.contains("half"),
            "a detail that quotes the payload: {detail}"
        );
        bridge
            .wait_metric(
                "sse_bridge_dead_letters_total{reason=\"not_json\"}",
                |count| count == 1.0,
            )
            .await;
        let errors = eventually("the dead letter is told of", SOON, async || {
            let output = bridge.output();
            let lines = output.lines();
            let errors = lines
                .filter(|line| line.contains("\"ERROR\"") && line.contains("dead-lettered"))
                .count();
            (errors > 0).then_some(errors)
        })
        .await;
        assert_eq!(
            errors,
            1,
            "one line in the log for one dead letter:\n{}",
            bridge.output()
        );
    }
}

#[tokio::test]
async fn each_kind_of_bad_message_is_dead_lettered_under_its_own_reason() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost)
        .set("PAYLOAD_MAX_BYTES", 1000)
        .set("RABBITMQ_EVENTS_BINDING_KEY", "#")
        .start()
        .await;
    let mut client = Client::connect(&bridge, "").await;
    let cases = [
        ("unaddressed", Message::to("nobody.in.particular", "1")),
        (
            "bad_address",
            Message::to("team.7.x", "1").raw_header("user-id", AMQPValue::Boolean(true)),
        ),
        (
            "bad_address",
            Message::to("team.7.x", "1").header("user-id", ""),
        ),
        (
            "bad_address",
            Message::to("team.7.x", "1").header("team-id", "7\r\nid: 1"),
        ),
        (
            "bad_address",
            Message::to("team.7.x", "1").raw_header("channel", AMQPValue::Double(1.5)),
        ),
        (
            "too_large",
            Message::to("team.7.x", format!("\"{}\"", "x".repeat(1000))),
        ),
        ("not_utf8", Message::to("team.7.x", b"\"\xff\"".to_vec())),
        ("not_json", Message::to("team.7.x", "")),
        ("not_json", Message::to("team.7.x", "{} {}")),
    ];
    let producer = vhost.producer().await;
    producer
        .publish_all(cases.iter().map(|(_, message)| message.clone()))
        .await;
    producer
        .publish(Message::to("broadcast.marker", "\"marker\""))
        .await;
    assert_eq!(client.before("\"marker\"").await, []);

    let mut letters = vhost.take(DEAD_LETTERS, cases.len()).await;
    // They are on their way together, and may overtake each other.
    letters.sort_by_key(|letter| letter.header("x-bridge-position"));
    let reasons: Vec<_> = letters
        .iter()
        .map(|letter| letter.header("x-bridge-reason").unwrap_or_default())
        .collect();
    assert_eq!(
        reasons,
        cases.iter().map(|(reason, _)| *reason).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn json_object_refuses_what_is_no_object_and_text_takes_anything_that_is_utf8() {
    let shared = RabbitMq::shared().await;
    let bodies = ["{\"a\":1}", "[1]", "plain, with a\nline"];
    for (format, delivered) in [("json-object", 1), ("text", 3)] {
        let vhost = shared.vhost();
        let bridge = Bridge::on(&vhost)
            .set("PAYLOAD_FORMAT", format)
            .start()
            .await;
        let mut client = Client::connect(&bridge, "").await;
        let producer = vhost.producer().await;
        producer
            .publish_all(bodies.map(|body| Message::to("team.7.x", body)))
            .await;
        assert_eq!(
            client.data(delivered).await,
            bodies[..delivered],
            "{format}"
        );
        let mut letters = vhost.take(DEAD_LETTERS, bodies.len() - delivered).await;
        letters.sort_by_key(|letter| letter.header("x-bridge-position"));
        let reasons: Vec<_> = letters
            .iter()
            .filter_map(|letter| letter.header("x-bridge-reason"))
            .collect();
        assert_eq!(
            reasons,
            ["not_object", "not_json"][..bodies.len() - delivered],
            "{format}"
        );
    }
}

#[tokio::test]
async fn tenants_are_fenced_from_each_other_in_broadcasts_too() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost).start().await;
    let mut acme = Client::connect(&bridge, "tenant_id=acme&team_id=7").await;
    let mut umbrella = Client::connect(&bridge, "tenant_id=umbrella&team_id=7").await;
    let producer = vhost.producer().await;
    for tenant in ["acme", "umbrella"] {
        producer
            .publish(Message::to("team.7.x", format!("\"{tenant}\"")).header("tenant-id", tenant))
            .await;
        producer
            .publish(
                Message::to("broadcast.x", format!("\"all {tenant}\"")).header("tenant-id", tenant),
            )
            .await;
    }
    assert_eq!(acme.data(2).await, ["\"acme\"", "\"all acme\""]);
    assert_eq!(umbrella.data(2).await, ["\"umbrella\"", "\"all umbrella\""]);
    // What came for the other tenant would have come before this.
    producer
        .publish(Message::to("team.7.x", "1").header("tenant-id", "acme"))
        .await;
    assert_eq!(acme.data(1).await, ["1"]);
}

#[tokio::test]
async fn filters_narrow_by_topic_and_by_attribute_and_all_kinds_must_match() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost).start().await;
    let mut by_topic = Client::connect(&bridge, "team_id=7&topic=team.7.job.*.status").await;
    let mut by_job = Client::connect(&bridge, "team_id=7&job_id=9&job_id=10").await;
    let mut by_both = Client::connect(&bridge, "team_id=7&job_id=9&topic=team.%23.9.status").await;
    let topics = [
        "team.7.job.9.status",
        "team.7.job.10.status",
        "team.7.job.11.status",
        "team.7.job.9.log",
        "team.7.note",
    ];
    let producer = vhost.producer().await;
    producer
        .publish_all(topics.map(|topic| Message::to(topic, format!("\"to {topic}\""))))
        .await;
    let quoted = |topics: &[&str]| {
        topics
            .iter()
            .map(|topic| format!("\"to {topic}\""))
            .collect::<Vec<_>>()
    };
    assert_eq!(by_topic.data(3).await, quoted(&topics[..3]));
    assert_eq!(by_job.data(2).await, quoted(&topics[..2]));
    assert_eq!(by_both.data(1).await, quoted(&topics[..1]));
    // Only the template with `job_id` makes the attribute: a log line of job 9 has none.
    producer
        .publish(Message::to("team.7.job.9.status", "\"again\""))
        .await;
    assert_eq!(by_job.data(1).await, ["\"again\""]);
    assert_eq!(by_both.data(1).await, ["\"again\""]);
}
