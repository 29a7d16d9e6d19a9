//! What operators see: commands and their exit codes, metrics, the log, and no secret anywhere.

use std::io::Write;
use std::process::Stdio;

use rustix::process::Signal;

use crate::harness::{Bridge, Client, Message, Proxy, RabbitMq, SOON, command, eventually};

const TOKEN: &str = "a-token-that-nobody-prints-0123456789";

#[tokio::test]
async fn publish_is_confirmed_and_an_event_that_no_queue_is_bound_for_is_an_error() {
    let vhost = RabbitMq::shared().await.vhost();
    let setup = Bridge::on(&vhost);
    let bridge = setup.start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    let mut user = Client::connect(&bridge, "user_id=42").await;

    let bound = setup
        .run(&[
            "publish",
            "--topic",
            "team.7.x",
            "--type",
            "note",
            "--data",
            r#"{"n":1.0}"#,
        ])
        .await;
    assert_eq!(bound.code, Some(0), "{}", bound.output);
    let event = client.event().await;
    assert_eq!(
        (event.name.as_str(), event.data.as_str()),
        ("note", r#"{"n":1.0}"#)
    );

    let to_user = setup
        .run(&[
            "publish", "--topic", "team.7.x", "--user", "42", "--data", "2",
        ])
        .await;
    assert_eq!(to_user.code, Some(0), "{}", to_user.output);
    assert_eq!(user.data(1).await, ["2"]);

    let unbound = setup
        .run(&["publish", "--topic", "nobody.is.bound", "--data", "{}"])
        .await;
    assert_eq!(unbound.code, Some(1), "{}", unbound.output);
    assert!(
        unbound.output.contains("nobody.is.bound"),
        "{}",
        unbound.output
    );
}

#[tokio::test]
async fn an_event_posted_over_http_is_answered_when_the_broker_has_it_and_refused_when_it_cannot_be_had()
 {
    let broker = RabbitMq::shared().await;
    let vhost = broker.vhost();
    let proxy = Proxy::to(broker.port()).await;
    let bridge = Bridge::at(&vhost.url_at(proxy.port()))
        .set("AUTH_MODE", "token")
        .set("AUTH_TOKEN", TOKEN)
        .start()
        .await;
    let bearer = format!("Bearer {TOKEN}");
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
    ];
    let mut client = Client::connect_with(bridge.public, "user_id=42", &headers)
        .await
        .subscribed()
        .await;
    let body = r#"{"topic":"team.7.x","data":{"n":1.0},"type":"note","user_id":"42"}"#;
    let answer = bridge
        .post("/publish", &headers, body)
        .await
        .expect("an answer");
    assert_eq!(answer.head.status, 202, "{}", answer.body);
    let event = client.event().await;
    assert_eq!(
        (event.name.as_str(), event.data.as_str()),
        ("note", r#"{"n":1.0}"#)
    );

    let unbound = bridge
        .post(
            "/publish",
            &headers,
            r#"{"topic":"nobody.is.bound","data":1}"#,
        )
        .await
        .expect("an answer");
    assert_eq!(unbound.head.status, 422, "{}", unbound.body);

    proxy.cut();
    bridge
        .wait_metric("sse_bridge_broker_up", |up| up == 0.0)
        .await;
    // The connection that publishes may see its end later than the one that consumes.
    eventually("the broker is known to be away", SOON, async || {
        let away = bridge
            .post("/publish", &headers, body)
            .await
            .expect("an answer");
        assert_eq!(away.head.status, 503, "{}", away.body);
        assert!(away.head.header("Retry-After").is_some(), "{away:?}");
        away.body
            .contains("the broker does not have the event")
            .then_some(())
    })
    .await;

    proxy.restore();
    eventually("the broker can be had again", SOON, async || {
        (bridge
            .post("/publish", &headers, body)
            .await
            .expect("an answer")
            .head
            .status
            == 202)
            .then_some(())
    })
    .await;
    assert_eq!(client.data(1).await, [r#"{"n":1.0}"#]);
    for (outcome, count) in [("confirmed", 2.0), ("refused", 1.0)] {
        let series = format!("sse_bridge_publishes_total{{outcome=\"{outcome}\"}}");
        assert_eq!(bridge.metric(&series).await, count, "{outcome}");
    }
    bridge
        .wait_metric("sse_bridge_publishes_total{outcome=\"failed\"}", |count| {
            count >= 1.0
        })
        .await;
}

#[tokio::test]
async fn a_configuration_that_cannot_be_right_stops_the_start_with_64_and_names_the_mistake() {
    // None of these reaches a broker.
    let good = Bridge::at("amqp://127.0.0.1:1");
    let cases = [
        (
            good.clone().set("RABBITMQ_EVENTS_QUEUE_TYPE", "strem"),
            "RABBITMQ_EVENTS_QUEUE_TYPE",
        ),
        (
            good.clone().set("RABBITMQ_EVENTS_QUEU", "x"),
            "RABBITMQ_EVENTS_QUEUE",
        ),
        (good.clone().without("AUTH_MODE"), "AUTH_MODE"),
        (good.clone().set("AUTH_MODE", "token"), "AUTH_TOKEN"),
        (good.clone().set("AUTH_MODE", "jwt"), "AUTH_"),
        (good.clone().set("HTTP_BIND", "nowhere"), "HTTP_BIND"),
        (
            good.clone().set("RABBITMQ_URL", "http://127.0.0.1"),
            "RABBITMQ_URL",
        ),
        (
            good.clone().set("SSE_CHANNEL_CAPACITY", "-1"),
            "SSE_CHANNEL_CAPACITY",
        ),
        (
            good.clone().set("ADDRESS_ROUTING_KEYS", "team.{team_id"),
            "ADDRESS_ROUTING_KEYS",
        ),
        (
            good.clone().set("RABBITMQ_EVENTS_QUEUE_SCOPE", "replica"),
            "RABBITMQ_EVENTS_QUEUE_SCOPE",
        ),
        (
            good.clone().set("HISTORY_MAX_BYTES", "many"),
            "HISTORY_MAX_BYTES",
        ),
    ];
    for (setup, named) in cases {
        for command in ["serve", "check"] {
            let finished = setup.run(&[command]).await;
            assert_eq!(
                finished.code,
                Some(64),
                "{named}: {command}: {}",
                finished.output
            );
            assert!(
                finished.output.contains(named),
                "{named} is not named: {}",
                finished.output
            );
        }
    }
}

#[tokio::test]
async fn a_start_and_an_end_without_a_fault_log_nothing_that_alarms() {
    let vhost = RabbitMq::shared().await.vhost();
    // The first start declares everything, the second finds it.
    for start in ["first", "second"] {
        let mut bridge = Bridge::on(&vhost).start().await;
        Client::connect(&bridge, "team_id=7").await;
        bridge.signal(Signal::TERM);
        bridge.wait_exit(SOON).await;
        let output = bridge.output();
        let alarms: Vec<_> = output
            .lines()
            .filter(|line| line.contains("\"ERROR\"") || line.contains("\"WARN\""))
            .collect();
        assert!(alarms.is_empty(), "{start} start: {alarms:#?}");
    }
}

#[tokio::test]
async fn names_that_kubernetes_injects_are_left_alone() {
    let vhost = RabbitMq::shared().await.vhost();
    let injected = Bridge::on(&vhost)
        .set("RABBITMQ_SERVICE_HOST", "10.0.0.1")
        .set("RABBITMQ_PORT_5672_TCP_ADDR", "10.0.0.1")
        .set("RABBITMQ_PORT", "tcp://10.0.0.1:5672");
    injected.start().await;
}

#[tokio::test]
async fn promtool_finds_nothing_to_say_about_the_metrics() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost).start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    vhost
        .producer()
        .await
        .publish_all([
            Message::to("team.7.x", "1"),
            Message::to("team.7.x", "poison"),
        ])
        .await;
    client.events(1).await;
    let metrics = bridge.metrics().await;
    let mut promtool = command("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts; `make setup` installs it");
    promtool
        .stdin
        .take()
        .expect("a pipe")
        .write_all(metrics.as_bytes())
        .expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success() && said.is_empty(),
        "{}\n{metrics}",
        String::from_utf8_lossy(&said)
    );
}

#[tokio::test]
async fn metrics_count_what_happened_and_are_not_on_the_public_port() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost).start().await;
    let mut clients = [
        Client::connect(&bridge, "team_id=7").await,
        Client::connect(&bridge, "").await,
    ];
    let producer = vhost.producer().await;
    producer
        .publish_all((0..5).map(|n| Message::to("team.7.x", n.to_string())))
        .await;
    for client in &mut clients {
        client.events(5).await;
    }
    bridge
        .wait_metric("sse_bridge_events_consumed_total", |count| count == 5.0)
        .await;
    bridge
        .wait_metric(
            "sse_bridge_events_delivered_total{transport=\"sse\"}",
            |count| count == 10.0,
        )
        .await;
    bridge
        .wait_metric("sse_bridge_connections{transport=\"sse\"}", |count| {
            count == 2.0
        })
        .await;
    bridge
        .wait_metric(
            "sse_bridge_connections_opened_total{transport=\"sse\"}",
            |count| count == 2.0,
        )
        .await;
    assert_eq!(bridge.metric("sse_bridge_broker_up").await, 1.0);
    assert_eq!(
        bridge.get("/metrics").await.expect("an answer").head.status,
        404
    );
}

#[tokio::test]
async fn metrics_tell_what_runs_within_which_bounds_and_whether_it_is_ready() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost)
        .set("HTTP_MAX_CONNECTIONS", 77)
        .set("RABBITMQ_PREFETCH_COUNT", 66)
        .set("RABBITMQ_READ_BACK_READERS", 5)
        .set("HISTORY_MAX_EVENTS", 4444)
        .set("HISTORY_MAX_BYTES", "3MiB")
        .start()
        .await;
    let told = [
        ("ready", 1.0),
        ("queue_type{type=\"stream\"}", 1.0),
        ("queue_type{type=\"quorum\"}", 0.0),
        ("auth_mode{mode=\"none\"}", 1.0),
        ("auth_mode{mode=\"jwt\"}", 0.0),
        ("max_connections", 77.0),
        ("max_unacknowledged_messages", 66.0),
        ("max_read_back_readers", 5.0),
        ("history_max_events", 4444.0),
        ("history_max_bytes", 3.0 * 1024.0 * 1024.0),
    ];
    for (name, value) in told {
        let series = format!("sse_bridge_{name}");
        assert_eq!(bridge.metric(&series).await, value, "{name}");
    }
    assert!(bridge.metric("sse_bridge_worker_threads").await >= 1.0);

    let unready = Bridge::on(&vhost)
        .set("RABBITMQ_URL", vhost.url_at(1))
        .set("RABBITMQ_EVENTS_QUEUE_TYPE", "classic")
        .start_unready()
        .await;
    let told = [
        ("ready", 0.0),
        ("queue_type{type=\"stream\"}", 0.0),
        ("queue_type{type=\"classic\"}", 1.0),
        ("max_read_back_readers", 0.0),
    ];
    for (name, value) in told {
        let series = format!("sse_bridge_{name}");
        assert_eq!(unready.metric(&series).await, value, "{name}");
    }
}

#[tokio::test]
async fn a_token_opens_the_stream_and_nothing_else_does() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost)
        .set("AUTH_MODE", "token")
        .set("AUTH_TOKEN", TOKEN)
        .start()
        .await;
    let bearer = format!("Bearer {TOKEN}");
    let wrong = format!("Bearer {TOKEN}x");
    for headers in [
        &[][..],
        &[("Authorization", wrong.as_str())],
        &[("Authorization", TOKEN)],
        &[("Authorization", "Bearer ")],
    ] {
        let refusal = Client::try_connect(bridge.public, "team_id=7", headers)
            .await
            .err()
            .expect("a refusal");
        assert_eq!(refusal.head.status, 401, "{headers:?}: {refusal:?}");
        assert!(
            refusal
                .head
                .header("WWW-Authenticate")
                .is_some_and(|value| value.starts_with("Bearer")),
            "{refusal:?}"
        );
    }
    // A query string is logged by every proxy on the way: off unless it is asked for.
    let by_query = Client::try_connect(
        bridge.public,
        &format!("team_id=7&access_token={TOKEN}"),
        &[],
    )
    .await;
    assert!(matches!(
        by_query.err().map(|refusal| refusal.head.status),
        Some(400 | 401)
    ));

    let mut client =
        Client::connect_with(bridge.public, "team_id=7", &[("Authorization", &bearer)])
            .await
            .subscribed()
            .await;
    vhost
        .producer()
        .await
        .publish(Message::to("team.7.x", "1"))
        .await;
    assert_eq!(client.data(1).await, ["1"]);
    assert_eq!(
        bridge.get("/readyz").await.expect("an answer").head.status,
        200,
        "a probe needs no token"
    );
}

#[tokio::test]
async fn no_secret_is_printed_not_even_at_the_most_talkative() {
    let vhost = RabbitMq::shared().await.vhost();
    let talkative = Bridge::on(&vhost)
        .set("RUST_LOG", "trace")
        .set("AUTH_MODE", "token")
        .set("AUTH_TOKEN", TOKEN);
    let mut said = String::new();
    for format in ["json", "pretty"] {
        let setup = talkative.clone().set("LOG_FORMAT", format);
        if format == "json" {
            let bridge = setup.start().await;
            let bearer = format!("Bearer {TOKEN}");
            let headers = [("Authorization", bearer.as_str())];
            let mut client = Client::connect_with(bridge.public, "team_id=7", &headers)
                .await
                .subscribed()
                .await;
            vhost
                .producer()
                .await
                .publish_all([
                    Message::to("team.7.x", "1"),
                    Message::to("team.7.x", "poison"),
                ])
                .await;
            client.events(1).await;
            said += &bridge.metrics().await;
            said += &bridge.output();
        }
        for setup in [
            setup.clone(),
            setup.clone().set(
                "RABBITMQ_URL",
                vhost.url().replace(vhost.name(), "no-such-vhost"),
            ),
            setup.clone().set("RABBITMQ_URL", vhost.url_at(1)),
            setup.clone().set(
                "RABBITMQ_URL",
                vhost.url().replace("127.0.0.1", "not a host"),
            ),
            setup.clone().set("RABBITMQ_EVENTS_QUEUE_TYPE", "strem"),
        ] {
            said += &setup.run(&["check"]).await.output;
        }
    }
    for secret in ["word-that-nobody-prints", "token-that-nobody-prints"] {
        let lines: Vec<_> = said.lines().filter(|line| line.contains(secret)).collect();
        assert!(lines.is_empty(), "{secret} in {lines:#?}");
    }
}
