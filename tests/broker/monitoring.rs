//! What Prometheus and Grafana make of the bridge: rules that are tried out, alerts that fire where they should, and a
//! dashboard that has an answer to each of its questions.

mod dashboard;
mod prometheus;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use self::dashboard::Dashboard;
use self::prometheus::Prometheus;
use crate::harness::{
    Authority, Bridge, Client, Message, Proxy, RabbitMq, SOON, Setup, command, request,
};

const TOKEN: &str = "a-token-that-nobody-prints-0123456789";

/// How long a client of the first replica may take nothing. The one that is let go for it waits so long.
const STALL_SECONDS: u64 = 30;

/// What may answer 0 where all else has moved, by panel and query, and why.
const MAY_BE_ZERO: &[(&str, &str, &str)] = &[
    ("Readers of the stream", "A", "a reading is over at once"),
    ("Unacknowledged", "A", "what is taken is settled at once"),
    ("Keys and revocations", "A", "there is no key server"),
    ("Keys and revocations", "C", "there is no key server"),
    ("Consumers of the queue", "A", "a stream has none"),
    ("Revocations that cannot be read", "A", "all of them can"),
    ("Memory", "C", "the machine may limit nothing"),
    ("Memory", "D", "the machine may limit nothing"),
    ("Spans a second", "A", "nothing is traced here"),
    ("Spans a second", "B", "nothing is traced here"),
];

fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy")
        .join(name)
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn promtool(arguments: &[&str], file: &Path) {
    let output = command("promtool")
        .args(arguments)
        .arg(file)
        .output()
        .expect("promtool starts; `make setup` installs it");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The names behind each `- <what>: ` of a file.
fn named(text: &str, what: &str) -> Vec<String> {
    let begin = format!("- {what}: ");
    let names = text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix(&begin));
    names.map(str::to_owned).collect()
}

#[test]
fn prometheus_can_use_its_configuration_and_the_rules_that_it_names() {
    promtool(&["check", "config"], &deployed("prometheus/prometheus.yml"));
}

#[test]
fn every_alert_fires_for_who_is_ill_and_for_nobody_else() {
    let cases =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broker/monitoring/alerts.test.yml");
    promtool(&["test", "rules"], &cases);

    let text = read(&cases);
    let (_, tests) = text.split_once("\ntests:\n").expect("tests");
    for test in tests.split("\n\n") {
        let name = named(test, "name").remove(0);
        assert!(
            test.contains("exp_samples: []"),
            "{name}: where it is quiet"
        );
        assert!(
            test.contains(&format!("- labels: 'ALERTS{{alertname=\"{name}\"")),
            "{name}: where it fires"
        );
    }
    let alerts = named(&read(deployed("prometheus/alerts.yml")), "alert");
    assert!(alerts.len() > 30, "only {alerts:?}");
    assert_eq!(named(tests, "name"), alerts, "cases, and alerts");
}

#[test]
fn the_dashboard_says_of_each_panel_what_it_shows_and_in_which_unit() {
    let dashboard = Dashboard::read(&deployed("grafana/dashboard.json"));
    let rows: Vec<&str> = dashboard.rows().collect();
    assert_eq!(rows.len(), 7, "{rows:?}");
    let mut ids = BTreeSet::new();
    let mut places = BTreeSet::new();
    for panel in &dashboard.panels {
        assert!(ids.insert(panel.id), "{}: its id is another's", panel.title);
        for place in panel.grid_pos.fields() {
            assert!(places.insert(place), "{}: it lies on another", panel.title);
        }
        if panel.kind == "row" {
            continue;
        }
        assert!(panel.description.len() > 10, "{}: no words", panel.title);
        assert!(!panel.unit().is_empty(), "{}: no unit", panel.title);
        assert!(!panel.targets.is_empty(), "{}: no query", panel.title);
        for target in &panel.targets {
            assert_eq!(target.datasource.uid, "${datasource}", "{}", panel.title);
            assert!(
                target.expr.contains("$instance") || target.expr.contains("ALERTS"),
                "{}: not of the chosen replicas",
                panel.title
            );
            assert!(!target.legend_format.is_empty(), "{}", panel.title);
        }
    }
}

/// Two replicas of one stream, the first behind a proxy that can cut its link. The second has TLS.
struct Replicas {
    first: Bridge,
    second: Bridge,
    proxy: Proxy,
}

impl Replicas {
    async fn start(broker: &RabbitMq, url_at: impl Fn(u16) -> String) -> Self {
        let proxy = Proxy::to(broker.port()).await;
        let common = |setup: Setup| {
            setup
                .set("AUTH_MODE", "token")
                .set("AUTH_TOKEN", TOKEN)
                .set("HISTORY_MAX_EVENTS", 100)
                .set("SSE_CHANNEL_CAPACITY", 50)
                .set("SSE_STALL_SECONDS", STALL_SECONDS)
        };
        let first = common(Bridge::at(&url_at(proxy.port()))).start().await;
        let authority = Authority::new();
        let identity = authority.sign("bridge", &["127.0.0.1"], 2090);
        let second = common(Bridge::at(&url_at(broker.port())))
            .set("HTTP_TLS_CERT_FILE", identity.certificate.display())
            .set("HTTP_TLS_KEY_FILE", identity.key.display())
            .start_unready()
            .await;
        second
            .wait_metric("sse_bridge_ready", |ready| ready == 1.0)
            .await;
        Self {
            first,
            second,
            proxy,
        }
    }

    /// A client of the first.
    async fn client(&self, query: &str, last_id: Option<&str>) -> Client {
        let bearer = format!("Bearer {TOKEN}");
        let mut headers = vec![("Authorization", bearer.as_str())];
        headers.extend(last_id.map(|id| ("Last-Event-ID", id)));
        let client = Client::connect_with(self.first.public, query, &headers).await;
        client.subscribed().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_of_the_dashboard_has_an_answer_and_shows_the_faults_that_happened() {
    let broker = RabbitMq::shared().await;
    let vhost = broker.vhost();
    let replicas = Replicas::start(broker, |port| vhost.url_at(port)).await;
    let prometheus = Prometheus::start(
        &[replicas.first.admin, replicas.second.admin],
        &["rules.yml", "alerts.yml"].map(|name| deployed("prometheus").join(name)),
    )
    .await;
    // From here on Prometheus sees what moves.
    prometheus
        .wait_for(
            "min(count_over_time(sse_bridge_ready[1m])) >= 2 and count(sse_bridge_ready) == 2",
        )
        .await;
    let producer = vhost.producer().await;
    let bearer = format!("Bearer {TOKEN}");
    let Replicas { first, proxy, .. } = &replicas;

    // Two clients that take nothing: one until it has fallen behind, the other until it is let go.
    let mut slow = replicas.client("team_id=9", None).await;
    let _stalled = replicas.client("team_id=9", None).await;
    let padding = "x".repeat(32 * 1024);
    producer
        .publish_all((0..400).map(|n| Message::to("team.9.x", format!(r#"[{n},"{padding}"]"#))))
        .await;
    producer.publish(Message::to("team.9.end", "\"end\"")).await;
    let told = slow.before("\"end\"").await;
    assert!(told.iter().any(|event| event.name == "bridge.gap"));

    // Clients that return: with an id that memory has, one that only the stream has, and one that nobody ever had.
    let mut client = replicas.client("team_id=7", None).await;
    producer.publish(Message::to("team.7.x", "1")).await;
    client.events(1).await;
    let id = client.last_id().to_owned();
    drop(replicas.client("team_id=7", Some(&id)).await);
    producer
        .publish_all((0..200).map(|n| Message::to(&format!("team.8.{n}"), n.to_string())))
        .await;
    first
        .wait_metric("sse_bridge_history_events", |events| events == 100.0)
        .await;
    let mut returned = replicas.client("team_id=7", Some(&id)).await;
    drop(replicas.client("team_id=7", Some("1-00000000")).await);
    Client::try_connect(first.public, "team_id=7", &[])
        .await
        .err()
        .expect("nobody is let in without a token");

    // What is not delivered: a repeat, one that came too late, poison; and what was revoked.
    let minute_ago = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock")
        .as_secs()
        - 60;
    producer
        .publish_all([
            Message::to("team.7.x", "2").id("twice"),
            Message::to("team.7.x", "2").id("twice"),
            Message::to("team.7.x", "3")
                .timestamp(minute_ago)
                .expiration("1000"),
            Message::to("team.7.x", "poison"),
        ])
        .await;
    let headers = [("Authorization", bearer.as_str())];
    let published = first
        .post("/publish", &headers, r#"{"topic":"team.7.x","data":4}"#)
        .await
        .expect("an answer");
    assert_eq!(published.head.status, 202, "{}", published.body);
    assert_eq!(returned.data(2).await, ["2", "4"]);
    let revoked = request(first.admin, "POST", "/revoke", &[], r#"{"user_id":"42"}"#)
        .await
        .expect("an answer");
    assert_eq!(revoked.head.status, 202, "{}", revoked.body);

    // Dead letters that nobody takes, and a link that is lost. With the next one the exchange is declared again.
    vhost.delete_exchange("events.dlx").await;
    producer.publish(Message::to("team.7.x", "poison")).await;
    prometheus
        .wait_for("sum(sse_bridge_dead_letter_failures_total) > 0")
        .await;
    proxy.cut();
    first
        .wait_metric("sse_bridge_broker_up", |up| up == 0.0)
        .await;
    proxy.restore();
    prometheus
        .wait_for("sum(sse_bridge_dead_letters_total) >= 2")
        .await;
    producer
        .publish(Message::to("team.7.x", "5").timestamp(minute_ago))
        .await;
    assert_eq!(returned.data(1).await, ["5"]);
    prometheus
        .wait_within(
            "sum(sse_bridge_connections_closed_total{reason=\"stalled\"}) > 0",
            SOON + Duration::from_secs(STALL_SECONDS),
        )
        .await;

    let dashboard = Dashboard::read(&deployed("grafana/dashboard.json"));
    for query in dashboard.queries() {
        let may_be = MAY_BE_ZERO
            .iter()
            .find(|(title, id, _)| (*title, *id) == (query.panel.as_str(), query.id.as_str()));
        let expression = query.substituted("5m", "sse-bridge", ".+");
        match may_be {
            None => {
                prometheus.wait_for(&format!("({expression}) > 0")).await;
            }
            // That of a limit which is not there is empty.
            Some(("Memory", ..)) => drop(prometheus.query(&expression).await),
            Some(_) => {
                prometheus.wait_for(&expression).await;
            }
        }
    }
    let titles: BTreeSet<&str> = dashboard
        .panels
        .iter()
        .map(|panel| panel.title.as_str())
        .collect();
    for (title, ..) in MAY_BE_ZERO {
        assert!(titles.contains(title), "no panel {title}");
    }

    prometheus.wait_until_all_rules_are_well().await;
    prometheus
        .wait_for(
            r#"ALERTS{alertname="SseBridgeDeadLetters", reason="not_json", alertstate="firing"}"#,
        )
        .await;
    replicas.first.signal(Signal::KILL);
    prometheus
        .wait_for(r#"ALERTS{alertname="SseBridgeDown"}"#)
        .await;
    let descriptions = prometheus.descriptions().await;
    let expected = " messages were dead-lettered as not_json within 10 minutes.";
    assert!(
        descriptions.iter().any(|text| text.ends_with(expected)),
        "{descriptions:?}"
    );
    drop(replicas.second);
}
