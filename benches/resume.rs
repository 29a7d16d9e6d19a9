//! What it costs when 2,000 clients return at once whose cursors are 200,000 events back: how much is read from the
//! broker, against what one such client needs, and how much later live clients get their events meanwhile, against
//! their usual.
//!
//! `cargo bench --bench resume` prints a table. The returning clients are a process of their own, at the lowest priority,
//! so that the work of reading what they are sent is not taken for work of the bridge.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    missing_docs,
    reason = "a benchmark fails by panicking, and its tasks end with it"
)]
#![allow(
    dead_code,
    unused_imports,
    reason = "the harness of the tests offers more"
)]

mod harness;

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::{Bridge, Client, Message, Producer, RabbitMq};
use tokio::task::{JoinHandle, JoinSet};

const EVENTS: usize = 200_000;
const CLIENTS: usize = 2_000;
/// Each client is in one team; so many events are for it.
const TEAMS: usize = 200;
const PER_CLIENT: usize = EVENTS / TEAMS;
const LIVE_CLIENTS: usize = 20;
/// Between two live events.
const PACE: Duration = Duration::from_millis(5);
/// How long the usual delay is measured.
const USUAL: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|each| each == "returning") {
        return return_together(&arguments[at + 1], &arguments[at + 2]).await;
    }
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = Bridge::on(&vhost)
        .set("HISTORY_MAX_EVENTS", 2_000)
        .set("HTTP_MAX_CONNECTIONS", 0)
        .start()
        .await;
    let producer = vhost.producer().await;
    let mut first = Client::connect(&bridge, "team_id=0").await;
    producer.publish(event(0)).await;
    first.event().await;
    let id = first.last_id().to_owned();
    drop(first);
    producer.publish_all((1..=EVENTS).map(event)).await;
    bridge
        .wait_metric("sse_bridge_events_consumed_total", |count| {
            count > EVENTS as f64
        })
        .await;
    println!("{EVENTS} events are in the stream, 2,000 of them in the bridge's memory");

    let began = Instant::now();
    let mut alone =
        Client::connect_with(bridge.public, "team_id=1", &[("Last-Event-ID", &id)]).await;
    alone.events(PER_CLIENT).await;
    let (alone_took, alone_read) = (began.elapsed(), settled(&bridge).await);
    drop(alone);
    println!(
        "one client:       {alone_read:>8} records read, {:>6.2} s",
        alone_took.as_secs_f64()
    );

    let mut live = Live::begin(&bridge, vhost.producer().await).await;
    tokio::time::sleep(USUAL).await;
    live.mark();
    let began = Instant::now();
    let all = tokio::process::Command::new("nice")
        .args(["-n", "19"])
        .arg(std::env::current_exe().expect("this program has a name"))
        .args(["returning", &bridge.public.to_string(), &id])
        .stdout(Stdio::inherit())
        .kill_on_drop(true)
        .status()
        .await
        .expect("nice is installed");
    let took = began.elapsed();
    let (usual, meanwhile) = live.end().await;
    assert!(all.success(), "not every client got everything");
    let read = settled(&bridge).await - alone_read;
    println!(
        "{CLIENTS} clients:     {read:>8} records read, {:>6.2} s, {} deliveries, all complete",
        took.as_secs_f64(),
        CLIENTS * PER_CLIENT
    );
    println!(
        "records read:     {:.2} times those of one",
        read / alone_read
    );
    print_delays("usually", &usual);
    print_delays("meanwhile", &meanwhile);
    let ratio = percentile(&meanwhile, 0.99).as_secs_f64() / percentile(&usual, 0.99).as_secs_f64();
    println!("live p99:         {ratio:.2} times the usual");
}

fn event(number: usize) -> Message {
    let body = format!(r#"{{"n":{number},"padding":"{:150}"}}"#, "");
    Message::to(&format!("team.{}.n", number % TEAMS), body)
}

/// How many records were read back, when nobody needs more.
async fn settled(bridge: &Bridge) -> f64 {
    bridge
        .wait_metric("sse_bridge_read_back_readers", |readers| readers == 0.0)
        .await;
    bridge.metric("sse_bridge_read_back_records_total").await
}

/// The process of those who return: exits with 0 if each got every event of its team, in order.
async fn return_together(address: &str, id: &str) {
    let address = address.parse().expect("an address");
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let id = id.to_owned();
        clients.spawn(async move {
            let team = number % TEAMS;
            let query = format!("team_id={team}&broadcast=false");
            let headers = [("Last-Event-ID", id.as_str())];
            let mut client = Client::connect_with(address, &query, &headers).await;
            let mut expected = if team == 0 { TEAMS } else { team };
            for _ in 0..PER_CLIENT {
                let event = client
                    .next(Duration::from_secs(120))
                    .await
                    .expect("an event");
                assert!(
                    event.data.starts_with(&format!(r#"{{"n":{expected},"#)),
                    "{event:?}"
                );
                expected += TEAMS;
            }
        });
    }
    clients.join_all().await;
}

/// Clients that are there all the time, and a producer that tells them when it published.
struct Live {
    clients: JoinSet<()>,
    publishing: JoinHandle<()>,
    /// When each event came, and how long after it was published.
    delays: Arc<Mutex<Vec<(Instant, Duration)>>>,
    marked: Option<Instant>,
}

impl Live {
    async fn begin(bridge: &Bridge, producer: Producer) -> Self {
        let (began, delays) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
        let mut clients = JoinSet::new();
        for _ in 0..LIVE_CLIENTS {
            let mut client = Client::connect(bridge, "channel=live").await;
            let delays = Arc::clone(&delays);
            clients.spawn(async move {
                loop {
                    let event = client.event().await;
                    let now = Instant::now();
                    let sent = Duration::from_micros(event.data.parse().expect("a time"));
                    let delay = now.saturating_duration_since(began + sent);
                    delays
                        .lock()
                        .expect("nobody panics with it")
                        .push((now, delay));
                }
            });
        }
        let publishing = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(PACE);
            loop {
                ticks.tick().await;
                let sent = began.elapsed().as_micros().to_string();
                producer.publish(Message::to("channel.live", sent)).await;
            }
        });
        Self {
            clients,
            publishing,
            delays,
            marked: None,
        }
    }

    /// From here on it is not the usual.
    fn mark(&mut self) {
        self.marked = Some(Instant::now());
    }

    /// The delays before and after the mark.
    async fn end(mut self) -> (Vec<Duration>, Vec<Duration>) {
        self.publishing.abort();
        self.clients.shutdown().await;
        let delays = self.delays.lock().expect("nobody panics with it");
        let (usual, meanwhile): (Vec<_>, Vec<_>) = delays
            .iter()
            .partition(|(came, _)| Some(*came) < self.marked);
        let only = |delays: Vec<(Instant, Duration)>| delays.iter().map(|each| each.1).collect();
        (only(usual), only(meanwhile))
    }
}

fn percentile(delays: &[Duration], share: f64) -> Duration {
    let mut sorted = delays.to_vec();
    sorted.sort();
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

fn print_delays(when: &str, delays: &[Duration]) {
    let ms = |share| percentile(delays, share).as_secs_f64() * 1e3;
    println!(
        "live, {when:<10}  p50 {:>6.2} ms, p99 {:>6.2} ms, worst {:>6.2} ms, {} deliveries",
        ms(0.5),
        ms(0.99),
        ms(1.0),
        delays.len()
    );
}
