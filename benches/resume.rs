//! What it costs when 2,000 clients return at once whose cursors are 200,000 events back: how much is read from the
//! broker, against what one such client needs, and how much later live clients get their events meanwhile, against
//! their usual. Beside them a bare consumer of the stream shows how much of that is the broker's and the machine's.
//!
//! `cargo bench --bench resume` prints a table, over several rounds. The returning clients are a process of their own, at
//! the lowest priority, so that the work of reading what they are sent is not taken for work of the bridge.

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

use std::ops::Range;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::{Bridge, Client, Message, RabbitMq, Vhost};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::{JoinHandle, JoinSet};
use tokio_stream::StreamExt;

const EVENTS: usize = 200_000;
const CLIENTS: usize = 2_000;
/// Each client is in one team; so many events are for it.
const TEAMS: usize = 200;
const PER_CLIENT: usize = EVENTS / TEAMS;
const LIVE_CLIENTS: usize = 20;
/// What the process of those who return says when they have.
const ALL: &str = "all have everything";
/// Between two live events.
const PACE: Duration = Duration::from_millis(5);
/// How often they return: one round's p99 differs from another's by half.
const ROUNDS: usize = 3;
/// How long the usual delay is measured before each round.
const USUAL: Duration = Duration::from_secs(20);
/// In which they connect.
const FIRST_MOMENT: Duration = Duration::from_millis(250);

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

    let live = Live::begin(&vhost, &bridge).await;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        tokio::time::sleep(USUAL).await;
        let before = bridge.metric("sse_bridge_read_back_records_total").await;
        let began = Instant::now();
        all_return(&bridge, &id).await;
        let ended = Instant::now();
        let read = settled(&bridge).await - before;
        println!(
            "{CLIENTS} clients:     {read:>8} records read, {:>6.2} s, {} deliveries, all complete; {:.2} times the records of one",
            (ended - began).as_secs_f64(),
            CLIENTS * PER_CLIENT,
            read / alone_read
        );
        rounds.push((began, ended));
    }
    let [live, bare] = live.end().await;
    let (live_usually, live_meanwhile) = (usual(&live, &rounds), meanwhile(&live, &rounds));
    let (bare_usually, bare_meanwhile) = (usual(&bare, &rounds), meanwhile(&bare, &rounds));
    print_delays("live, usually", &live_usually);
    print_delays("live, meanwhile", &live_meanwhile);
    print_delays("  as they come", &first_moment(&live, &rounds));
    print_delays("bare, usually", &bare_usually);
    print_delays("bare, meanwhile", &bare_meanwhile);
    let p99 = |delays: &[Duration]| percentile(delays, 0.99).as_secs_f64();
    println!(
        "p99 meanwhile:    {:.2} times the usual; of a bare consumer {:.2} times",
        p99(&live_meanwhile) / p99(&live_usually),
        p99(&bare_meanwhile) / p99(&bare_usually)
    );
}

/// Everybody returns, gets everything, and leaves.
async fn all_return(bridge: &Bridge, id: &str) {
    let mut returning = tokio::process::Command::new("chrt")
        .args(["--idle", "0"])
        .arg(std::env::current_exe().expect("this program has a name"))
        .args(["returning", &bridge.public.to_string(), id])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("chrt, of util-linux, is installed");
    let said = returning.stdout.take().expect("it is piped");
    let said = BufReader::new(said).lines().next_line().await;
    let said = said.expect("it can be read");
    assert_eq!(
        said.as_deref(),
        Some(ALL),
        "not every client got everything"
    );
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

/// The process of those who return: says so when each has every event of its team, in order, and stays.
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
            client
        });
    }
    // They stay: only returning is measured.
    let _clients = clients.join_all().await;
    println!("{ALL}");
    std::future::pending().await
}

/// When events came, and how long after they were published.
type Delays = Arc<Mutex<Vec<(Instant, Duration)>>>;

/// Clients that are there all the time, a bare consumer of the stream, and a producer that tells them when it published.
struct Live {
    readers: JoinSet<()>,
    publishing: JoinHandle<()>,
    of_clients: Delays,
    of_bare_consumer: Delays,
}

impl Live {
    async fn begin(vhost: &Vhost, bridge: &Bridge) -> Self {
        let began = Instant::now();
        let (of_clients, of_bare_consumer) = (Delays::default(), Delays::default());
        let note = move |delays: &Delays, sent: &str| {
            let now = Instant::now();
            let Ok(sent) = sent.parse() else { return };
            let delay = now.saturating_duration_since(began + Duration::from_micros(sent));
            delays
                .lock()
                .expect("nobody panics with it")
                .push((now, delay));
        };
        let mut readers = JoinSet::new();
        for _ in 0..LIVE_CLIENTS {
            let mut client = Client::connect(bridge, "channel=live").await;
            let delays = Arc::clone(&of_clients);
            readers.spawn(async move {
                loop {
                    let event = client.event().await;
                    note(&delays, &event.data);
                }
            });
        }
        let delays = Arc::clone(&of_bare_consumer);
        let connection = vhost.connect().await;
        let mut records = bare_consumer(&connection).await;
        readers.spawn(async move {
            let _connection = connection;
            while let Some(record) = records.next().await {
                let record = record.expect("a record");
                note(&delays, &String::from_utf8_lossy(&record.data));
                record
                    .ack(BasicAckOptions::default())
                    .await
                    .expect("the broker is there");
            }
        });
        let producer = vhost.producer().await;
        let publishing = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(PACE);
            loop {
                ticks.tick().await;
                let sent = began.elapsed().as_micros().to_string();
                producer.publish(Message::to("channel.live", sent)).await;
            }
        });
        Self {
            readers,
            publishing,
            of_clients,
            of_bare_consumer,
        }
    }

    /// The delays of the clients and of the bare consumer.
    async fn end(mut self) -> [Vec<(Instant, Duration)>; 2] {
        self.publishing.abort();
        self.readers.shutdown().await;
        [self.of_clients, self.of_bare_consumer]
            .map(|delays| delays.lock().expect("nobody panics with it").clone())
    }
}

/// Of what came in the time before each round.
fn usual(delays: &[(Instant, Duration)], rounds: &[(Instant, Instant)]) -> Vec<Duration> {
    within(delays, rounds, |(began, _)| began - USUAL..began)
}

/// Of what came in each round.
fn meanwhile(delays: &[(Instant, Duration)], rounds: &[(Instant, Instant)]) -> Vec<Duration> {
    within(delays, rounds, |(began, ended)| began..ended)
}

/// Of what came while they connected.
fn first_moment(delays: &[(Instant, Duration)], rounds: &[(Instant, Instant)]) -> Vec<Duration> {
    within(delays, rounds, |(began, _)| began..began + FIRST_MOMENT)
}

fn within(
    delays: &[(Instant, Duration)],
    rounds: &[(Instant, Instant)],
    time: impl Fn((Instant, Instant)) -> Range<Instant>,
) -> Vec<Duration> {
    let counts = |came: &Instant| rounds.iter().any(|round| time(*round).contains(came));
    let chosen = delays.iter().filter(|(came, _)| counts(came));
    chosen.map(|(_, delay)| *delay).collect()
}

async fn bare_consumer(connection: &lapin::Connection) -> lapin::Consumer {
    let channel = connection.create_channel().await.expect("a channel");
    channel
        .basic_qos(100, BasicQosOptions::default())
        .await
        .expect("a prefetch");
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-stream-offset".into(),
        AMQPValue::LongString("next".into()),
    );
    let options = BasicConsumeOptions::default();
    channel
        .basic_consume("events.sse".into(), "".into(), options, arguments)
        .await
        .expect("the stream")
}

fn percentile(delays: &[Duration], share: f64) -> Duration {
    let mut sorted = delays.to_vec();
    sorted.sort();
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

fn print_delays(when: &str, delays: &[Duration]) {
    let ms = |share| percentile(delays, share).as_secs_f64() * 1e3;
    println!(
        "{when:<16}  p50 {:>6.2} ms, p99 {:>6.2} ms, worst {:>6.2} ms, {} deliveries",
        ms(0.5),
        ms(0.99),
        ms(1.0),
        delays.len()
    );
}
