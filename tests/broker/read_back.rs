//! A client whose last event id is older than the bridge's memory is served from the stream, and joined to what is live
//! with nothing missing and nothing twice.

use futures_util::FutureExt;
use rustix::process::Signal;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::harness::{
    Bridge, Client, Event, LONG, Message, Producer, Proxy, RabbitMq, SOON, Setup, Vhost,
    eventually, within,
};

/// What the bridge holds in memory: little, so that whoever was away is older than that.
const MEMORY: usize = 50;

fn forgetful(vhost: &Vhost) -> Setup {
    Bridge::on(vhost)
        .set("HISTORY_MAX_EVENTS", 2 * MEMORY)
        .set("SSE_CHANNEL_CAPACITY", MEMORY)
        .set("SSE_STALL_SECONDS", 600)
}

fn numbered(range: std::ops::Range<usize>) -> impl Iterator<Item = Message> {
    range.map(|n| Message::to("team.7.n", n.to_string()))
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

async fn consumed(bridge: &Bridge, count: usize) {
    bridge
        .wait_metric("sse_bridge_events_consumed_total", |consumed| {
            consumed >= count as f64
        })
        .await;
}

async fn resumes(bridge: &Bridge, outcome: &str) -> f64 {
    bridge
        .metric(&format!(
            "sse_bridge_resumes_total{{outcome=\"{outcome}\"}}"
        ))
        .await
}

/// A client that has the first event, and is away.
async fn away_after_one(bridge: &Bridge, producer: &Producer) -> String {
    let mut client = Client::connect(bridge, "team_id=7").await;
    producer.publish_all(numbered(0..1)).await;
    assert_eq!(client.data(1).await, ["0"]);
    client.last_id().to_owned()
}

async fn returning(bridge: &Bridge, query: &str, id: &str) -> Client {
    Client::connect_with(bridge.public, query, &[("Last-Event-ID", id)]).await
}

#[tokio::test]
async fn a_client_older_than_memory_is_served_from_the_stream_and_then_live() {
    const COUNT: usize = 3000;
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = forgetful(&vhost).start().await;
    let producer = vhost.producer().await;
    let id = away_after_one(&bridge, &producer).await;
    producer.publish_all(numbered(1..COUNT)).await;
    consumed(&bridge, COUNT).await;

    let mut client = returning(&bridge, "team_id=7", &id).await;
    assert_eq!(client.data(COUNT - 1).await, numbers(1..COUNT));
    producer.publish_all(numbered(COUNT..COUNT + 5)).await;
    assert_eq!(client.data(5).await, numbers(COUNT..COUNT + 5));
    assert_eq!(resumes(&bridge, "stream").await, 1.0);
    // Nobody needs it any more.
    bridge
        .wait_metric("sse_bridge_read_back_readers", |readers| readers == 0.0)
        .await;
}

#[tokio::test]
async fn what_is_published_at_full_rate_meanwhile_is_joined_without_a_hole_or_a_repeat() {
    const BEFORE: usize = 5000;
    const COUNT: usize = 40_000;
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = forgetful(&vhost)
        .set("SSE_CHANNEL_CAPACITY", 20_000)
        .set("HISTORY_MAX_EVENTS", 20_000)
        .start()
        .await;
    let producer = vhost.producer().await;
    let id = away_after_one(&bridge, &producer).await;
    producer.publish_all(numbered(1..BEFORE)).await;
    let publishing = tokio::spawn(async move {
        producer.publish_all(numbered(BEFORE..COUNT)).await;
    });
    consumed(&bridge, COUNT / 2 + 5000).await;
    let mut clients = JoinSet::new();
    for query in [
        "team_id=7",
        "all=true",
        "team_id=7&team_id=8",
        "topic=team.7.*",
    ] {
        let mut client = returning(&bridge, query, &id).await;
        clients.spawn(async move {
            let data = client.data(COUNT - 1).await;
            assert!(data == numbers(1..COUNT), "{query}");
        });
    }
    within("every client has it all", LONG, clients.join_all()).await;
    publishing.await.expect("all is published");
    assert_eq!(resumes(&bridge, "stream").await, 4.0);
    let gaps = ["slow", "expired", "unknown"]
        .map(|reason| format!("sse_bridge_gaps_total{{reason=\"{reason}\"}}"));
    for gap in gaps {
        assert_eq!(bridge.metric(&gap).await, 0.0, "{gap}");
    }
}

#[tokio::test]
async fn a_narrow_client_is_sent_its_own_from_among_all_others_and_moved_on_while_it_is_quiet() {
    const COUNT: usize = 4000;
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = forgetful(&vhost).start().await;
    let producer = vhost.producer().await;
    let id = away_after_one(&bridge, &producer).await;
    let others = (0..COUNT).map(|n| match n % 1000 {
        500 => Message::to("team.7.n", n.to_string()),
        _ => Message::to("team.8.n", n.to_string()),
    });
    producer.publish_all(others).await;
    consumed(&bridge, COUNT + 1).await;
    let mut client = returning(&bridge, "team_id=7", &id).await;
    assert_eq!(client.data(4).await, ["500", "1500", "2500", "3500"]);
    // Nothing is for this one; what it comes back with next is the newest all the same.
    let quiet = returning(&bridge, "team_id=9", &id)
        .await
        .subscribed()
        .await;
    assert_eq!(quiet.last_id(), id, "it is told where it was found");
    bridge
        .wait_metric("sse_bridge_read_back_readers", |readers| readers == 0.0)
        .await;
    producer
        .publish(Message::to("broadcast.x", "\"marker\""))
        .await;
    let mut quiet = quiet;
    assert_eq!(quiet.before("\"marker\"").await, []);
}

#[tokio::test]
async fn after_a_crash_of_the_bridge_its_clients_lose_nothing_though_memory_is_gone() {
    const COUNT: usize = 2000;
    let vhost = RabbitMq::shared().await.vhost();
    let setup = forgetful(&vhost);
    let first = setup.clone().set("REPLICA_NAME", "first").start().await;
    let producer = vhost.producer().await;
    let id = away_after_one(&first, &producer).await;
    first.kill();
    producer.publish_all(numbered(1..COUNT)).await;
    let second = setup.set("REPLICA_NAME", "second").start().await;
    let mut client = returning(&second, "team_id=7", &id).await;
    assert_eq!(client.data(COUNT - 1).await, numbers(1..COUNT));
}

#[tokio::test]
async fn an_id_that_no_record_has_is_recognised_in_the_stream_too() {
    const COUNT: usize = 500;
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = forgetful(&vhost).start().await;
    let producer = vhost.producer().await;
    let id = away_after_one(&bridge, &producer).await;
    producer.publish_all(numbered(1..COUNT)).await;
    consumed(&bridge, COUNT).await;
    let position = id.split_once('-').expect("an id has two halves").0;
    for forged in [
        format!("{position}-00000001"),
        "5-deadbeef".to_owned(),
        "nonsense".to_owned(),
    ] {
        let mut client = returning(&bridge, "team_id=7", &forged).await;
        let gap = client.event().await;
        assert_eq!(
            (gap.name.as_str(), gap.data.as_str()),
            ("bridge.gap", r#"{"reason":"unknown","missed":null}"#),
            "{forged}"
        );
        // From the oldest that is kept, as nobody knows what it has.
        assert_eq!(client.data(COUNT).await, numbers(0..COUNT), "{forged}");
    }
}

#[tokio::test]
async fn an_id_beyond_the_end_is_recognised_though_events_never_stop_coming() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = forgetful(&vhost).start().await;
    let producer = vhost.producer().await;
    let last_position = "18446744073709551615-ffffffff";
    let mut client = returning(&bridge, "team_id=7", last_position).await;
    let mut published = 0;
    let gap = {
        let mut told = std::pin::pin!(client.event());
        loop {
            // Each is confirmed before the next, so that there is never a pause.
            producer
                .publish_all(numbered(published..published + 1))
                .await;
            published += 1;
            if let Some(gap) = told.as_mut().now_or_never() {
                break gap;
            }
        }
    };
    assert_eq!(
        (gap.name.as_str(), gap.data.as_str()),
        ("bridge.gap", r#"{"reason":"unknown","missed":null}"#)
    );
    assert_eq!(client.data(published).await, numbers(0..published));
}

#[tokio::test]
async fn what_retention_removed_is_told_and_the_rest_is_served() {
    const COUNT: usize = 800;
    let vhost = RabbitMq::shared().await.vhost();
    // The smallest segments there are: 1 MiB, of which at most 4 are kept.
    let bridge = forgetful(&vhost)
        .set("RABBITMQ_STREAM_MAX_BYTES", 4 << 20)
        .start()
        .await;
    let producer = vhost.producer().await;
    let id = away_after_one(&bridge, &producer).await;
    let padding = "x".repeat(16 * 1024);
    let large = |n: usize| Message::to("team.7.n", format!(r#"{{"n":{n},"padding":"{padding}"}}"#));
    let mut witness = Client::connect(&bridge, "team_id=8").await;
    producer.publish_all((1..COUNT).map(large)).await;
    producer
        .publish(Message::to("team.8.n", "\"the last\""))
        .await;
    // On a busy machine the bridge itself may have been overtaken, so that it has not consumed all of them.
    witness.before("\"the last\"").await;
    let mut client = returning(&bridge, "team_id=7", &id).await;
    let gap = client.event().await;
    assert_eq!(
        (gap.name.as_str(), gap.data.as_str()),
        ("bridge.gap", r#"{"reason":"expired","missed":null}"#)
    );
    let mut expected = None;
    loop {
        let event: Event = client.event().await;
        assert!(!event.is_control(), "one gap, not several: {event:?}");
        let number = event.json()["n"].as_u64().expect("a number");
        assert!(number > 1, "the oldest were removed");
        assert!(
            expected.is_none_or(|expected| expected == number),
            "in order and whole: {number}"
        );
        expected = Some(number + 1);
        if number == COUNT as u64 - 1 {
            break;
        }
    }
    assert_eq!(resumes(&bridge, "expired").await, 1.0);
}

#[tokio::test]
async fn a_bridge_that_retention_overtakes_tells_its_clients_before_it_goes_on() {
    const COUNT: u64 = 3000;
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = forgetful(&vhost)
        .set("RABBITMQ_STREAM_MAX_BYTES", 4 << 20)
        .set("RABBITMQ_PREFETCH_COUNT", 10)
        .set("SSE_CHANNEL_CAPACITY", 10_000)
        .set("HISTORY_MAX_EVENTS", 10_000)
        .start()
        .await;
    let producer = vhost.producer().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    producer
        .publish_all([Message::to("team.7.n", r#"{"n":0}"#)])
        .await;
    client.events(1).await;
    // It stands still while more is published than the stream keeps.
    bridge.signal(Signal::STOP);
    let padding = "x".repeat(16 * 1024);
    let large = |n: u64| Message::to("team.7.n", format!(r#"{{"n":{n},"padding":"{padding}"}}"#));
    producer.publish_all((1..COUNT).map(large)).await;
    bridge.signal(Signal::CONT);
    let (mut next, mut gaps) = (1, 0);
    while next < COUNT {
        let event = client.event().await;
        if event.name == "bridge.gap" {
            assert_eq!(event.json()["reason"], "expired");
            gaps += 1;
            next = client.event().await.json()["n"].as_u64().expect("a number") + 1;
            continue;
        }
        assert_eq!(
            event.json()["n"],
            next,
            "nothing is missing that was not told"
        );
        next += 1;
    }
    assert_eq!(gaps, 1, "once");
}

#[tokio::test]
async fn a_repeat_of_a_message_is_known_where_it_is_read_back() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = forgetful(&vhost).start().await;
    let producer = vhost.producer().await;
    let mut client = Client::connect(&bridge, "team_id=7").await;
    producer
        .publish_all([
            Message::to("team.7.n", "\"first\"")
                .id("a")
                .timestamp(1_000_000),
            Message::to("team.7.n", "\"daily\"").id("d"),
            Message::to("team.7.n", "\"last\"").id("b"),
        ])
        .await;
    let before = ["\"first\"", "\"daily\"", "\"last\""];
    assert_eq!(client.data(3).await, before);
    let id = client.last_id().to_owned();
    drop(client);
    // Its producer had no confirm, and tries again.
    producer
        .publish(
            Message::to("team.7.n", "\"first\"")
                .id("a")
                .timestamp(1_000_001),
        )
        .await;
    for _ in 0..2 {
        producer
            .publish(
                Message::to("team.7.n", "\"new\"")
                    .id("c")
                    .timestamp(1_000_001),
            )
            .await;
    }
    // It bears no timestamp: it may be of another day.
    producer
        .publish(Message::to("team.7.n", "\"daily\"").id("d"))
        .await;
    producer.publish_all(numbered(0..200)).await;
    consumed(&bridge, 207).await;
    let mut client = returning(&bridge, "team_id=7", &id).await;
    let mut expected = vec!["\"new\"".to_owned(), "\"daily\"".to_owned()];
    expected.extend(numbers(0..200));
    assert_eq!(client.data(202).await, expected);
    assert_eq!(resumes(&bridge, "stream").await, 1.0);
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_up_nobody_who_returned_with_it() {
    const COUNT: usize = 60_000;
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = forgetful(&vhost).start().await;
    let producer = vhost.producer().await;
    let id = away_after_one(&bridge, &producer).await;
    let padded =
        |n: usize| Message::to("team.7.n", format!(r#"{{"n":{n},"padding":"{:200}"}}"#, ""));
    producer.publish_all((1..COUNT).map(padded)).await;
    consumed(&bridge, COUNT).await;
    let mut frozen = returning(&bridge, "team_id=7", &id).await;
    let mut client = returning(&bridge, "team_id=7", &id).await;
    let all = within("the other is served", LONG, client.events(COUNT - 1)).await;
    assert!(
        all.iter().zip(1..).all(|(event, n)| event.json()["n"] == n),
        "in order"
    );
    // The frozen one goes on where it was, and misses nothing either.
    let all = within("the frozen one is served", LONG, frozen.events(COUNT - 1)).await;
    assert!(
        all.iter().zip(1..).all(|(event, n)| event.json()["n"] == n),
        "in order"
    );
}

/// How many connections to a port hold bytes that nobody has read (`proc(5)`, `/proc/net/tcp`).
fn unread_requests(port: u16) -> usize {
    let port = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux has it");
    let is_unread = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().unwrap_or_default();
        let state = fields.nth(1).unwrap_or_default();
        let queues = fields.next().unwrap_or_default();
        local.ends_with(&port) && state == "01" && !queues.ends_with(":00000000")
    };
    table.lines().filter(is_unread).count()
}

#[tokio::test]
async fn clients_that_return_together_share_what_is_read() {
    const CLIENTS: usize = 300;
    const COUNT: usize = 20_000;
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = forgetful(&vhost).start().await;
    let producer = vhost.producer().await;
    let id = away_after_one(&bridge, &producer).await;
    let spread = |n: usize| Message::to(&format!("team.{}.n", n % 100), n.to_string());
    producer.publish_all((1..COUNT).map(spread)).await;
    consumed(&bridge, COUNT).await;
    let records = async || bridge.metric("sse_bridge_read_back_records_total").await;

    let mut alone = returning(&bridge, "team_id=1", &id).await;
    alone.events(COUNT / 100).await;
    bridge
        .wait_metric("sse_bridge_read_back_readers", |readers| readers == 0.0)
        .await;
    let for_one = records().await;

    // They come together, however busy the machine: the bridge sees none before all have asked.
    bridge.signal(Signal::STOP);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (address, id) = (bridge.public, id.clone());
        clients.spawn(async move {
            let team = number % 100;
            let query = format!("team_id={team}");
            let mut client = Client::connect_with(address, &query, &[("Last-Event-ID", &id)]).await;
            let expected: Vec<String> = (1..COUNT)
                .filter(|n| n % 100 == team)
                .map(|n| n.to_string())
                .collect();
            let limit = Instant::now() + LONG;
            for number in expected {
                let event = client.next(limit - Instant::now()).await.expect("an event");
                assert_eq!(event.data, number, "{query}");
            }
        });
    }
    eventually("all have asked", SOON, async || {
        (unread_requests(bridge.public.port()) >= CLIENTS).then_some(())
    })
    .await;
    bridge.signal(Signal::CONT);
    within("all have all of it", LONG, clients.join_all()).await;
    bridge
        .wait_metric("sse_bridge_read_back_readers", |readers| readers == 0.0)
        .await;
    let for_all = records().await - for_one;
    assert!(
        for_all <= 2.0 * for_one,
        "{CLIENTS} clients cost {for_all} records, one costs {for_one}"
    );
}

#[tokio::test]
async fn a_link_that_breaks_while_it_is_read_back_costs_nothing() {
    const COUNT: usize = 100_000;
    let broker = RabbitMq::shared().await;
    let vhost = broker.vhost();
    let proxy = Proxy::to(broker.port()).await;
    let bridge = forgetful(&vhost)
        .set("RABBITMQ_URL", vhost.url_at(proxy.port()))
        .start()
        .await;
    let producer = vhost.producer().await;
    let id = away_after_one(&bridge, &producer).await;
    producer.publish_all(numbered(1..COUNT)).await;
    consumed(&bridge, COUNT).await;
    let mut client = returning(&bridge, "team_id=7", &id).await;
    let mut next = 1;
    for break_at in [100, 20_000, 50_000, COUNT] {
        while next < break_at {
            let event = client.event().await;
            assert_eq!(event.data, next.to_string());
            next += 1;
        }
        proxy.restore();
    }
    producer.publish(Message::to("team.7.n", "\"live\"")).await;
    assert_eq!(client.before("\"live\"").await, []);
}

#[tokio::test]
async fn without_readers_nothing_is_read_back_and_the_client_is_told() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = forgetful(&vhost)
        .set("RABBITMQ_READ_BACK_READERS", 0)
        .start()
        .await;
    let producer = vhost.producer().await;
    let id = away_after_one(&bridge, &producer).await;
    producer.publish_all(numbered(1..500)).await;
    consumed(&bridge, 500).await;
    let mut client = returning(&bridge, "team_id=7", &id).await;
    assert_eq!(client.event().await.json()["reason"], "expired");
    assert_eq!(client.data(MEMORY).await, numbers(500 - MEMORY..500));
}
