//! 15,000 clients to whom nothing happens: what one takes of memory, and what all their heartbeats take of a core.

use std::time::Duration;

use tokio::time::sleep;

use crate::harness::RabbitMq;
use crate::load_client::{LoadClient, Priority};
use crate::server::{self, Audience, Server};
use crate::table::{Row, Target};
use crate::trial::connect_order;
use crate::usage::{self, Cpu};

const CLIENTS: usize = 15_000;
/// How long memory must not have changed by more than a hundredth to count as settled, and how often it is looked at.
const SETTLED: usize = 15;
const LOOK: Duration = Duration::from_secs(1);
/// How many looks there are at most.
const LOOKS: usize = 60;
/// Three heartbeats of each client, by the default.
const HEARTBEATS: Duration = Duration::from_secs(45);

/// Each client is a user of its own, and all are in one team.
fn audience() -> Audience {
    Audience {
        query: "user_id={n}&team_id=0".to_owned(),
        ..Audience::team()
    }
}

pub async fn memory() -> Vec<Row> {
    let server = Server::bridge(&audience(), &[]).await;
    let (before, kernel_before) = (settled(&server).await, usage::kernel_bytes());
    let mut clients = LoadClient::start(Priority::Idle);
    clients.connect(connect_order(&server, CLIENTS, 0)).await;
    let of_each =
        |bytes: u64, before: u64| bytes.saturating_sub(before) as f64 / 1024.0 / CLIENTS as f64;
    let at_once = of_each(usage::resident_bytes(&server.pids), before);
    let after = of_each(settled(&server).await, before);
    let kernel = of_each(usage::kernel_bytes(), kernel_before);
    let row = |figure: &str, kibibytes: f64, against: &str| Row {
        scenario: "idle-memory".to_owned(),
        figure: figure.to_owned(),
        measured: format!("{kibibytes:.2} KiB"),
        against: against.to_owned(),
        ratio: None,
        target: None,
    };
    vec![
        Row {
            ratio: Some(after),
            target: Some(Target::AtMost(8.0)),
            ..row(
                "memory per client, settled",
                after,
                &format!(
                    "without clients {:.1} MiB in all",
                    before as f64 / 1_048_576.0
                ),
            )
        },
        row("the same, right after they connected", at_once, ""),
        row("the kernel's, of both ends", kernel, ""),
    ]
}

/// What a server holds when that has not changed for a while.
async fn settled(server: &Server) -> u64 {
    let mut looks = Vec::new();
    for _ in 0..LOOKS {
        looks.push(usage::resident_bytes(&server.pids));
        let last = &looks[looks.len().saturating_sub(SETTLED)..];
        let (least, most) = (
            last.iter().min().expect("a look"),
            last.iter().max().expect("a look"),
        );
        if looks.len() >= SETTLED && most - least <= most / 100 {
            break;
        }
        sleep(LOOK).await;
    }
    *looks.last().expect("a look")
}

pub async fn heartbeats() -> Vec<Row> {
    let vhost = RabbitMq::shared().await.vhost();
    let setup = server::setup(&vhost).set("SSE_HEARTBEAT_SECONDS", 15);
    let server = Server::bridge_on(&vhost, &setup, &audience()).await;
    let mut clients = LoadClient::start(Priority::Idle);
    clients.connect(connect_order(&server, CLIENTS, 0)).await;
    // What connecting left to do is done when the first heartbeats have come.
    sleep(Duration::from_secs(20)).await;
    clients.count(0, 0).await;
    let before = Cpu::of(&server.pids);
    sleep(HEARTBEATS).await;
    let cpu = Cpu::of(&server.pids).since(before);
    let report = clients.report(0, Duration::ZERO).await;
    assert!(
        report.ids > 2 * CLIENTS as u64,
        "too few heartbeats: {report:?}"
    );
    let share = cpu.total.as_secs_f64() / HEARTBEATS.as_secs_f64() * 100.0;
    vec![Row {
        scenario: "heartbeats".to_owned(),
        figure: format!(
            "CPU, {} heartbeats in {} s",
            report.ids,
            HEARTBEATS.as_secs()
        ),
        measured: format!(
            "{share:.2} % of a core, {:.1} us each",
            cpu.total.as_secs_f64() * 1e6 / report.ids as f64
        ),
        against: String::new(),
        ratio: Some(share),
        target: Some(Target::AtMost(2.0)),
    }]
}
