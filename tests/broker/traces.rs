//! Traces: from a producer through RabbitMQ and the bridge to the hub, at a real collector's door (OTLP).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::harness::collector::{Span, sole};
use crate::harness::{Bridge, Client, Collector, Message, RabbitMq, SOON, Setup, Vhost, free_port};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PRODUCER: &str = "00f067aa0ba902b7";
const CONSUME: &str = "consume events.sse";

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PRODUCER}-{flags}")
}

/// A bridge whose spans are at the collector soon.
fn traced(vhost: &Vhost, collector: &Collector) -> Setup {
    Bridge::on(vhost)
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .set("OTEL_BSP_SCHEDULE_DELAY", 50)
}

fn attributes(of: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    of.iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

#[tokio::test]
async fn a_trace_goes_on_from_the_producer_through_consuming_and_addressing_to_the_hub() {
    let (vhost, collector) = (RabbitMq::shared().await.vhost(), Collector::start());
    let bridge = traced(&vhost, &collector)
        .set("OTEL_SERVICE_NAME", "events")
        .set(
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        )
        .set(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "api-key=secret-of-the-collector",
        )
        .set("REPLICA_NAME", "replica-7")
        .start()
        .await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    let body = r#"{"planted":"a body that is in no span"}"#;
    let message = Message::to("team.7.job.9.status", body)
        .id("m-1")
        .header("traceparent", &traceparent("01"))
        .header("tracestate", "vendor=kept");
    vhost.producer().await.publish(message).await;
    let event = client.events(1).await.remove(0);

    let spans = collector.wait_for(1, CONSUME).await;
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let consume = sole(&spans, CONSUME);
    assert_eq!(consume.kind, "SPAN_KIND_CONSUMER");
    assert_eq!(
        (consume.trace.as_str(), consume.parent.as_str()),
        (TRACE, PRODUCER)
    );
    assert_eq!(consume.error, None);
    assert_eq!(
        attributes(&consume.attributes),
        [
            (
                "messaging.destination.name",
                "events.topic:team.7.job.9.status:events.sse"
            ),
            (
                "messaging.message.body.size",
                body.len().to_string().as_str()
            ),
            ("messaging.message.id", "m-1"),
            ("messaging.operation.name", "consume"),
            ("messaging.operation.type", "process"),
            (
                "messaging.rabbitmq.destination.routing_key",
                "team.7.job.9.status"
            ),
            ("messaging.system", "rabbitmq"),
            ("sse_bridge.event.id", event.id.as_str()),
            ("sse_bridge.outcome", "published"),
        ]
    );
    for name in ["address", "publish to hub"] {
        let step = sole(&spans, name);
        assert_eq!(
            (&step.trace, &step.parent),
            (&consume.trace, &consume.id),
            "{name}"
        );
        assert_eq!(step.kind, "SPAN_KIND_INTERNAL");
        assert!(consume.nanoseconds.0 <= step.nanoseconds.0, "{spans:#?}");
        assert!(step.nanoseconds.1 <= consume.nanoseconds.1, "{spans:#?}");
    }
    for span in &spans {
        assert_eq!(span.state, "vendor=kept");
        for (name, value) in [
            ("service.name", "events"),
            ("service.instance.id", "replica-7"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("deployment.environment.name", "test"),
            ("telemetry.sdk.language", "rust"),
        ] {
            assert_eq!(span.resource[name], value, "{name}");
        }
    }
    let request = collector.requests().remove(0);
    for line in [
        "post /v1/traces http/1.1\r\n",
        "content-type: application/x-protobuf\r\n",
        "api-key: secret-of-the-collector\r\n",
    ] {
        assert!(request.head.contains(line), "{}", request.head);
    }
    bridge
        .wait_metric("sse_bridge_spans_exported_total", |count| count == 3.0)
        .await;
}

#[tokio::test]
async fn a_trace_that_its_producer_does_not_record_is_not_recorded_here_and_what_is_no_trace_begins_one()
 {
    let (vhost, collector) = (RabbitMq::shared().await.vhost(), Collector::start());
    let bridge = traced(&vhost, &collector).start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    let producer = vhost.producer().await;
    let to = |topic: &str| Message::to(topic, "1");
    producer
        .publish_all([
            to("team.7.unsampled").header("traceparent", &traceparent("00")),
            to("team.7.malformed").header("traceparent", "00-xyz-01"),
            to("team.7.plain"),
            to("team.7.sampled").header("traceparent", &traceparent("01")),
        ])
        .await;
    client.events(4).await;
    let spans = collector.wait_for(3, CONSUME).await;
    assert_eq!(spans.len(), 9, "{spans:#?}");
    let of = |topic: &str| -> &Span {
        let key = "messaging.rabbitmq.destination.routing_key";
        let is_of = |span: &&Span| span.attributes.get(key).is_some_and(|own| own == topic);
        spans
            .iter()
            .find(is_of)
            .unwrap_or_else(|| panic!("{topic}: {spans:#?}"))
    };
    let sampled = of("team.7.sampled");
    assert_eq!(
        (sampled.trace.as_str(), sampled.parent.as_str()),
        (TRACE, PRODUCER)
    );
    for topic in ["team.7.malformed", "team.7.plain"] {
        let root = of(topic);
        assert_eq!(root.parent, "", "{topic}");
        assert_ne!(root.trace, TRACE, "{topic}");
    }
}

#[tokio::test]
async fn what_is_read_again_at_the_start_is_not_traced_again() {
    let (vhost, collector) = (RabbitMq::shared().await.vhost(), Collector::start());
    drop(Bridge::on(&vhost).start().await);
    let producer = vhost.producer().await;
    producer.publish(Message::to("team.7.old", "1")).await;
    let bridge = traced(&vhost, &collector).start().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    producer.publish(Message::to("team.7.new", "2")).await;
    client.events(1).await;
    let spans = collector.wait_for(1, CONSUME).await;
    let consumed = sole(&spans, CONSUME);
    let key = "messaging.rabbitmq.destination.routing_key";
    assert_eq!(consumed.attributes[key], "team.7.new");
}

#[tokio::test]
async fn poison_is_traced_as_an_error_that_says_why_and_nothing_of_its_body() {
    let (vhost, collector) = (RabbitMq::shared().await.vhost(), Collector::start());
    let bridge = traced(&vhost, &collector).start().await;
    let poison = Message::to("team.7.x", r#"{"planted": body that is no JSON"#);
    vhost
        .producer()
        .await
        .publish(poison.header("traceparent", &traceparent("01")))
        .await;
    let spans = collector.wait_for(1, CONSUME).await;
    let consume = sole(&spans, CONSUME);
    assert_eq!(consume.trace, TRACE);
    assert_eq!(consume.error.as_deref(), Some("not_json"));
    assert_eq!(consume.attributes["error.type"], "not_json");
    assert_eq!(consume.attributes["sse_bridge.outcome"], "dead_lettered");
    assert_eq!(sole(&spans, "address").parent, consume.id);
    assert_eq!(spans.len(), 2, "{spans:#?}");
    drop(bridge);
}

#[tokio::test]
async fn what_is_published_over_http_is_in_the_trace_of_whoever_published_it() {
    let (vhost, collector) = (RabbitMq::shared().await.vhost(), Collector::start());
    let with_login = |setup: Setup| {
        setup
            .set("AUTH_MODE", "token")
            .set("AUTH_TOKEN", "token-of-a-back-end")
    };
    let bridge = with_login(traced(&vhost, &collector)).start().await;
    let untraced = with_login(Bridge::on(&vhost)).start().await;
    let login = ("Authorization", "Bearer token-of-a-back-end");
    let client = Client::connect_with(bridge.public, "team_id=7", &[login]).await;
    let mut client = client.subscribed().await;
    let event = json!({"topic": "team.7.x", "data": {"planted": "data"}, "message_id": "m-1"});
    let (parent, body) = (traceparent("01"), event.to_string());
    let headers = [
        login,
        ("traceparent", parent.as_str()),
        ("tracestate", "vendor=kept"),
    ];
    let answer = bridge.post("/publish", &headers, &body).await.unwrap();
    assert_eq!(answer.head.status, 202);
    client.events(1).await;

    collector.wait_for(1, "POST /publish").await;
    let spans = collector.wait_for(1, CONSUME).await;
    assert_eq!(spans.len(), 5, "{spans:#?}");
    let request = sole(&spans, "POST /publish");
    assert_eq!(request.kind, "SPAN_KIND_SERVER");
    assert_eq!(
        (request.trace.as_str(), request.parent.as_str()),
        (TRACE, PRODUCER)
    );
    assert_eq!(
        attributes(&request.attributes),
        [
            ("http.request.method", "POST"),
            ("http.response.status_code", "202"),
            ("http.route", "/publish"),
            ("url.path", "/publish"),
        ]
    );
    let publish = sole(&spans, "publish events.topic");
    assert_eq!(publish.kind, "SPAN_KIND_PRODUCER");
    assert_eq!(
        (&publish.trace, &publish.parent),
        (&request.trace, &request.id)
    );
    assert_eq!(
        publish.attributes["messaging.destination.name"],
        "events.topic:team.7.x"
    );
    assert_eq!(publish.attributes["messaging.operation.type"], "send");
    assert_eq!(publish.attributes["messaging.message.id"], "m-1");
    let consume = sole(&spans, CONSUME);
    assert_eq!(
        (&consume.trace, &consume.parent),
        (&publish.trace, &publish.id)
    );
    assert_eq!(consume.state, "vendor=kept");

    // A bridge that traces nothing passes on what it was told.
    let event = json!({"topic": "team.7.y", "data": 2}).to_string();
    let answer = untraced.post("/publish", &headers, &event).await.unwrap();
    assert_eq!(answer.head.status, 202);
    client.events(1).await;
    let spans = collector.wait_for(2, CONSUME).await;
    let consume = spans.iter().rfind(|span| span.name == CONSUME).unwrap();
    assert_eq!(
        (consume.trace.as_str(), consume.parent.as_str()),
        (TRACE, PRODUCER)
    );
    assert_eq!(consume.state, "vendor=kept");
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_no_event() {
    const EVENTS: usize = 2_000;
    let vhost = RabbitMq::shared().await.vhost();
    let away = format!("http://127.0.0.1:{}", free_port());
    let mut bridge = Bridge::on(&vhost)
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", away)
        .set("OTEL_BSP_SCHEDULE_DELAY", 0)
        .set("OTEL_BSP_MAX_QUEUE_SIZE", 100)
        .set("SSE_CHANNEL_CAPACITY", EVENTS)
        .start()
        .await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    let messages = (0..EVENTS).map(|number| Message::to("team.7.x", number.to_string()));
    vhost.producer().await.publish_all(messages).await;
    let expected: Vec<String> = (0..EVENTS).map(|number| number.to_string()).collect();
    assert_eq!(client.data(EVENTS).await, expected);
    let full = r#"sse_bridge_spans_dropped_total{reason="queue_full"}"#;
    bridge.wait_metric(full, |count| count > 0.0).await;
    assert_eq!(bridge.metric("sse_bridge_spans_exported_total").await, 0.0);
    bridge.signal(rustix::process::Signal::TERM);
    let began = std::time::Instant::now();
    assert!(bridge.wait_exit(SOON).await.success());
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    let output = bridge.output();
    let told = output.matches("the collector does not take spans").count();
    assert_eq!(told, 1, "{output}");
    assert_eq!(
        output.matches("did not take the last spans").count(),
        1,
        "{output}"
    );
}
