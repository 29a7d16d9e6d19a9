//! How spans get to the collector, and what becomes of them where it does not take them.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::collector::sole;
use crate::harness::{Authority, Bridge, Client, Collector, SOON, Setup, event};

const CONSUME: &str = "consume events.sse";

fn traced(collector: &Collector) -> Setup {
    Bridge::dev()
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url())
        .set("OTEL_BSP_SCHEDULE_DELAY", 20)
}

fn dropped(reason: &str) -> String {
    format!("sse_bridge_spans_dropped_total{{reason=\"{reason}\"}}")
}

#[tokio::test]
async fn nobody_is_connected_to_where_nothing_is_traced() {
    let collector = Collector::start();
    let off = [("OTEL_EXPORTER_OTLP_ENDPOINT", "")];
    let never = [("OTEL_TRACES_SAMPLER", "always_off")];
    for settings in [off, never] {
        let setup = settings
            .into_iter()
            .fold(traced(&collector), |setup, (name, value)| {
                setup.set(name, value)
            });
        let mut bridge = setup.start().await;
        let mut client = Client::connect(&bridge, "team_id=7").await;
        bridge.publish(&event("team.7.x", 1)).await;
        client.events(1).await;
        // What there is to send is sent before it ends.
        bridge.signal(Signal::TERM);
        assert_eq!(bridge.wait_exit(SOON).await, Some(0));
        assert_eq!(collector.connections(), 0, "{settings:?}");
    }
}

#[tokio::test]
async fn as_many_traces_are_recorded_as_are_asked_for() {
    let collector = Collector::start();
    let bridge = traced(&collector)
        .set("OTEL_TRACES_SAMPLER", "traceidratio")
        .set("OTEL_TRACES_SAMPLER_ARG", 0.5)
        .start()
        .await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    // The first 8 bytes of an id are not looked at: it is sampled if the others are in the lower half.
    for (trace, last) in [("0", "7"), ("f", "8"), ("f", "7")] {
        let parent = format!(
            "00-{}{}-00f067aa0ba902b7-00",
            trace.repeat(16),
            last.repeat(16)
        );
        let body = event("team.7.x", 1).to_string();
        let headers = [("traceparent", parent.as_str())];
        let answer = bridge.request("POST", "/publish", &headers, &body).await;
        assert_eq!(answer.head.status, 202);
        client.events(1).await;
    }
    let spans = collector.wait_for(2, CONSUME).await;
    let traces: Vec<_> = spans
        .iter()
        .filter(|span| span.name == CONSUME)
        .map(|span| span.trace.as_str())
        .collect();
    assert_eq!(
        traces,
        [
            "00000000000000007777777777777777",
            "ffffffffffffffff7777777777777777"
        ]
    );
}

#[tokio::test]
async fn a_request_that_is_refused_is_traced_as_what_it_was() {
    let collector = Collector::start();
    let bridge = traced(&collector).start().await;
    let unbound = event("nobody.is.bound", 1).to_string();
    for (body, status) in [("no event", 422), (unbound.as_str(), 422)] {
        let answer = bridge.request("POST", "/publish", &[], body).await;
        assert_eq!(answer.head.status, status);
    }
    let spans = collector.wait_for(2, "POST /publish").await;
    for span in spans.iter().filter(|span| span.name == "POST /publish") {
        assert_eq!(span.attributes["http.response.status_code"], "422");
        // It was the client's fault.
        assert_eq!(span.error, None);
    }
    let publish = sole(&spans, "publish events.topic");
    assert_eq!(publish.error.as_deref(), Some("unroutable"));
}

#[tokio::test]
async fn what_is_left_is_sent_before_the_end() {
    let collector = Collector::start();
    let mut bridge = traced(&collector)
        .set("OTEL_BSP_SCHEDULE_DELAY", 600_000)
        .start()
        .await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    bridge.publish(&event("team.7.x", 1)).await;
    client.events(1).await;
    assert_eq!(collector.connections(), 0);
    bridge.signal(Signal::TERM);
    assert_eq!(bridge.wait_exit(SOON).await, Some(0));
    sole(&collector.spans(), CONSUME);
}

#[tokio::test]
async fn a_collector_that_does_not_answer_does_not_keep_a_bridge_from_ending() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut bridge = Bridge::dev()
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        .set("OTEL_BSP_SCHEDULE_DELAY", 0)
        .start()
        .await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    bridge.publish(&event("team.7.x", 1)).await;
    client.events(1).await;
    // The span is on its way; nobody ever reads it.
    let _unread = silent.accept().await.unwrap();
    bridge.signal(Signal::TERM);
    let began = Instant::now();
    assert_eq!(bridge.wait_exit(SOON).await, Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    assert!(
        bridge
            .output()
            .contains("the collector does not take spans")
    );
}

#[tokio::test]
async fn what_the_collector_does_not_take_for_now_is_sent_again_and_what_it_refuses_is_counted() {
    let collector = Collector::start();
    collector.answer("503 Service Unavailable", "Retry-After: 0\r\n", b"");
    let bridge = traced(&collector)
        .set("OTEL_BSP_SCHEDULE_DELAY", 500)
        .start()
        .await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    bridge.publish(&event("team.7.x", 1)).await;
    client.events(1).await;
    let spans = collector.wait_for(1, CONSUME).await;
    sole(&spans, CONSUME);
    bridge
        .wait_metric("sse_bridge_spans_exported_total", 5.0)
        .await;
    for reason in ["queue_full", "failed", "rejected"] {
        assert_eq!(bridge.metric(&dropped(reason)).await, 0.0, "{reason}");
    }

    // ExportTraceServiceResponse { partial_success: { rejected_spans: 2 } }, for a request of the next event's spans.
    collector.answer("200 OK", "", &[0x0a, 0x02, 0x08, 0x02]);
    bridge.publish(&event("team.7.x", 2)).await;
    bridge.wait_metric(&dropped("rejected"), 2.0).await;
    client.events(1).await;
}

#[tokio::test]
async fn what_the_collector_can_make_nothing_of_is_not_sent_again() {
    let collector = Collector::start();
    let bridge = traced(&collector)
        .set("OTEL_BSP_SCHEDULE_DELAY", 500)
        .start()
        .await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    collector.answer("400 Bad Request", "", b"");
    bridge.publish(&event("team.7.x", 1)).await;
    client.events(1).await;
    bridge.wait_metric(&dropped("failed"), 5.0).await;
    assert_eq!(collector.requests().len(), 1);
    let line = bridge.log_line("the collector does not take spans").await;
    assert_eq!(line["fields"]["error"], "it answered 400 Bad Request");
    assert_eq!(line["fields"]["dropped"], 5);
}

#[tokio::test]
async fn a_collector_is_reached_over_tls_if_its_authority_is_believed() {
    let authority = Authority::new();
    let collector = Collector::start_over_tls(&authority.sign("collector", &["localhost"], 2040));
    let url = collector.url().replace("127.0.0.1", "localhost");
    let setup = traced(&collector).set("OTEL_EXPORTER_OTLP_ENDPOINT", url);
    let mut believing = setup
        .clone()
        .set("SSL_CERT_FILE", authority.file().display())
        .start()
        .await;
    believing.publish(&event("team.7.x", 1)).await;
    collector.wait_for(1, CONSUME).await;
    // What it still had to send is sent by then.
    believing.signal(Signal::TERM);
    assert_eq!(believing.wait_exit(SOON).await, Some(0));

    let taken = collector.requests().len();
    let strange = Authority::new();
    let doubting = setup
        .set("SSL_CERT_FILE", strange.file().display())
        .start()
        .await;
    doubting.publish(&event("team.7.x", 1)).await;
    let line = doubting.log_line("the collector does not take spans").await;
    let error = line["fields"]["error"].as_str().unwrap();
    assert!(error.contains("certificate"), "{error}");
    assert_eq!(collector.requests().len(), taken);
}
