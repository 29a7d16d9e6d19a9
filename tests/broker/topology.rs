//! What the bridge declares, what it refuses to run on, and what it says then: `check` finds each mistake apart.

use lapin::types::AMQPValue;

use crate::harness::{Bridge, Client, Message, PASSWORD, RabbitMq, Setup};

/// `check` must fail, and say all of this.
async fn assert_check_fails(setup: &Setup, says: &[&str]) -> String {
    let finished = setup.run(&["check"]).await;
    assert_eq!(finished.code, Some(1), "{}", finished.output);
    let output = finished.output.to_lowercase();
    for word in says {
        assert!(
            output.contains(&word.to_lowercase()),
            "nothing of {word:?} in:\n{}",
            finished.output
        );
    }
    assert!(!output.contains("panicked"), "{}", finished.output);
    assert_no_password(&finished.output);
    finished.output
}

fn assert_no_password(output: &str) {
    assert!(
        !output.contains(PASSWORD) && !output.contains("word-that-nobody-prints"),
        "a password in:\n{output}"
    );
}

#[tokio::test]
async fn check_is_content_with_what_serve_declared() {
    let shared = RabbitMq::shared().await;
    for kind in ["stream", "quorum", "classic"] {
        let vhost = shared.vhost();
        let setup = Bridge::on(&vhost).set("RABBITMQ_EVENTS_QUEUE_TYPE", kind);
        let bridge = setup.start().await;
        drop(bridge);
        let finished = setup.run(&["check"]).await;
        assert_eq!(finished.code, Some(0), "{kind}: {}", finished.output);
        assert_no_password(&finished.output);
        // A second start finds everything as it wants it.
        setup.start().await;
    }
}

#[tokio::test]
async fn check_says_which_argument_of_an_existing_queue_differs() {
    let vhost = RabbitMq::shared().await.vhost();
    vhost.declare_queue("events.sse", "classic").await;
    assert_check_fails(
        &Bridge::on(&vhost),
        &["events.sse", "x-queue-type", "stream", "classic"],
    )
    .await;
}

#[tokio::test]
async fn a_quorum_queue_whose_delivery_limit_would_take_messages_is_told_by_check_and_by_serve() {
    let vhost = RabbitMq::shared().await.vhost();
    let limit = [("x-delivery-limit", AMQPValue::LongInt(20))];
    vhost
        .declare_queue_with("events.sse", "quorum", &limit)
        .await;
    let setup = Bridge::on(&vhost).set("RABBITMQ_EVENTS_QUEUE_TYPE", "quorum");
    let bridge = setup.start().await;
    assert_check_fails(&setup, &["problem", "x-delivery-limit=20", "anew"]).await;
    let warnings: Vec<_> = bridge
        .output()
        .lines()
        .filter(|line| line.contains("\"WARN\"") && line.contains("x-delivery-limit=20"))
        .map(str::to_owned)
        .collect();
    assert_eq!(warnings.len(), 1, "{}", bridge.output());
}

#[tokio::test]
async fn the_queue_of_the_duty_is_checked_like_the_others() {
    let vhost = RabbitMq::shared().await.vhost();
    let setup = Bridge::on(&vhost);
    drop(setup.start().await);
    vhost.delete_queue("events.sse.duty").await;
    let checking = setup.clone().set("RABBITMQ_DECLARE", "false");
    assert_check_fails(
        &checking,
        &["events.sse.duty", "x-single-active-consumer=true"],
    )
    .await;
    // One that would let every replica have the duty.
    vhost.declare_queue("events.sse.duty", "quorum").await;
    for setup in [setup, checking] {
        assert_check_fails(&setup, &["events.sse.duty", "x-single-active-consumer"]).await;
    }
}

#[tokio::test]
async fn check_tells_a_wrong_password_from_a_missing_virtual_host_from_an_unreachable_broker() {
    let node = RabbitMq::shared().await;
    let vhost = node.vhost();
    let wrong_password = Bridge::at(&vhost.url().replace("pass%2F", "wrong%2F"));
    let missing_vhost = Bridge::at(&vhost.url().replace(vhost.name(), "no-such-vhost"));
    let unreachable = Bridge::at(&vhost.url_at(1));
    let outputs = [
        assert_check_fails(&wrong_password, &["password"]).await,
        assert_check_fails(&missing_vhost, &["no-such-vhost"]).await,
        assert_check_fails(&unreachable, &["127.0.0.1:1"]).await,
    ];
    assert!(
        outputs[0] != outputs[1] && outputs[1] != outputs[2],
        "each says its own: {outputs:?}"
    );
}

#[tokio::test]
async fn a_bridge_that_may_not_declare_only_checks() {
    let vhost = RabbitMq::shared().await.vhost();
    let checking = Bridge::on(&vhost).set("RABBITMQ_DECLARE", "false");
    assert_check_fails(&checking, &["events."]).await;
    assert!(
        vhost.queue("events.sse").await.is_none(),
        "check declares nothing"
    );

    Bridge::on(&vhost).start().await.kill();
    let bridge = checking.start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    vhost
        .producer()
        .await
        .publish(Message::to("team.7.x", "1"))
        .await;
    assert_eq!(client.data(1).await, ["1"]);
}

#[tokio::test]
async fn names_of_exchange_queue_and_bindings_are_the_operators() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost)
        .set("RABBITMQ_EVENTS_QUEUE", "my.queue")
        .set("RABBITMQ_DEAD_LETTER_QUEUE", "my.dead.letters")
        .set("RABBITMQ_DEAD_LETTER_EXCHANGE", "my.dlx")
        .set("RABBITMQ_EVENTS_BINDING_KEY", "orders.*.changed")
        .set("ADDRESS_ROUTING_KEYS", "orders.{order_id}.changed")
        .set("ADDRESS_USER_FIELD", "/owner/id")
        .start()
        .await;
    let mut client = Client::connect(&bridge, "user_id=42&order_id=5").await;
    let producer = vhost.producer().await;
    let body = r#"{"owner":{"id":42}}"#;
    producer
        .publish(Message::to("orders.5.changed", body))
        .await;
    assert_eq!(client.data(1).await, [body]);
    producer
        .publish(Message::to("orders.6.changed", "poison"))
        .await;
    assert_eq!(vhost.take("my.dead.letters", 1).await[0].body, "poison");
    assert!(vhost.queue("events.sse").await.is_none());
}

#[tokio::test]
async fn what_went_with_a_deleted_stream_may_be_published_again_under_its_message_id() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost).start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    let producer = vhost.producer().await;
    let event = || Message::to("team.7.x", "1").id("a");
    producer.publish_all([event(), event()]).await;
    producer.publish(Message::to("team.7.x", "2")).await;
    assert_eq!(client.data(2).await, ["1", "2"]);
    vhost.delete_queue("events.sse").await;
    bridge
        .wait_metric("sse_bridge_broker_reconnects_total", |count| count >= 1.0)
        .await;
    bridge
        .wait_metric("sse_bridge_broker_up", |up| up == 1.0)
        .await;
    producer.publish_all([event(), event()]).await;
    producer.publish(Message::to("team.7.x", "3")).await;
    let mut data = Vec::new();
    while data.last().is_none_or(|last| last != "3") {
        let event = client.event().await;
        if !event.is_control() {
            data.push(event.data);
        }
    }
    assert_eq!(data, ["1", "3"]);
}

#[tokio::test]
async fn a_deleted_queue_is_declared_again_and_delivery_goes_on() {
    let shared = RabbitMq::shared().await;
    for kind in ["stream", "quorum", "classic"] {
        let vhost = shared.vhost();
        let mut bridge = Bridge::on(&vhost)
            .set("RABBITMQ_EVENTS_QUEUE_TYPE", kind)
            .start()
            .await;
        let mut client = Client::connect(&bridge, "team_id=7").await;
        let producer = vhost.producer().await;
        producer.publish(Message::to("team.7.x", "1")).await;
        assert_eq!(client.data(1).await, ["1"], "{kind}");

        vhost.delete_queue("events.sse").await;
        bridge
            .wait_metric("sse_bridge_broker_reconnects_total", |count| count >= 1.0)
            .await;
        bridge
            .wait_metric("sse_bridge_broker_up", |up| up == 1.0)
            .await;
        producer.publish(Message::to("team.7.x", "2")).await;
        // On a stream the positions begin anew, and the client may be told that its old ones mean nothing now.
        let event = loop {
            let event = client.event().await;
            if !event.is_control() {
                break event;
            }
        };
        assert_eq!(event.data, "2", "{kind}");
        assert!(bridge.is_running());
    }
}
