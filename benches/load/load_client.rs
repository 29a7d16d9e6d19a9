//! The process of the clients, as whoever measures holds it.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, watch};

use super::harness::{command, within};
use super::orders::{Answer, Connect, Connected, Order, Report};

/// The argument that makes this program the process of the clients.
pub const ROLE: &str = "clients";

/// How much longer than it may take an answer is waited for.
const GRACE: Duration = Duration::from_secs(20);

/// Whether the clients may take the processor from what they measure.
#[derive(Clone, Copy, Debug)]
pub enum Priority {
    /// They run when nobody else wants to, so that a server that writes is not interrupted by who reads.
    Idle,
    /// As everybody: where their own work is part of what is timed.
    Normal,
}

pub struct LoadClient {
    _child: Child,
    orders: ChildStdin,
    answers: mpsc::Receiver<Answer>,
    complete: watch::Receiver<u64>,
}

impl LoadClient {
    pub fn start(priority: Priority) -> Self {
        let program = std::env::current_exe().expect("this program has a name");
        let mut command = match priority {
            Priority::Idle => {
                let mut chrt = command("chrt");
                chrt.args(["--idle", "0"]).arg(program);
                chrt
            }
            Priority::Normal => command(program),
        };
        command
            .arg(ROLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .expect("chrt, of util-linux, is installed");
        let orders = child.stdin.take().expect("it is piped");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let (tell_complete, complete) = watch::channel(0);
        let (tell, answers) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                match serde_json::from_str(&line).expect("an answer") {
                    Answer::Complete(number) => drop(tell_complete.send(number)),
                    answer => drop(tell.send(answer).await),
                }
            }
        });
        Self {
            _child: child,
            orders,
            answers,
            complete,
        }
    }

    /// Connects clients, all of which must be served in time.
    pub async fn connect(&mut self, order: Connect) -> Connected {
        let clients = order.clients;
        let connected = self.try_connect(order).await;
        assert_eq!(
            connected.served, clients,
            "not all clients were served in time"
        );
        connected
    }

    pub async fn try_connect(&mut self, order: Connect) -> Connected {
        let limit = Duration::from_millis(order.within_ms);
        self.order(&Order::Connect(order)).await;
        match self.answer(limit).await {
            Answer::Connected(connected) => connected,
            other => panic!("{other:?}"),
        }
    }

    /// Begins to count, from the event with this number on, each of which is for so many clients.
    pub async fn count(&mut self, first: u64, recipients: u32) {
        self.order(&Order::Count { first, recipients }).await;
    }

    /// What came, as soon as that are so many deliveries, or the time is over.
    pub async fn report(&mut self, deliveries: u64, limit: Duration) -> Report {
        let within_ms = u64::try_from(limit.as_millis()).expect("a short time");
        self.order(&Order::Report {
            deliveries,
            within_ms,
        })
        .await;
        match self.answer(limit).await {
            Answer::Report(report) => report,
            other => panic!("{other:?}"),
        }
    }

    /// The number below which all events have reached all that they are for.
    pub fn complete(&self) -> watch::Receiver<u64> {
        self.complete.clone()
    }

    async fn order(&mut self, order: &Order) {
        let mut line = serde_json::to_vec(order).expect("JSON");
        line.push(b'\n');
        self.orders.write_all(&line).await.expect("the clients run");
    }

    async fn answer(&mut self, limit: Duration) -> Answer {
        within("the clients answer", limit + GRACE, self.answers.recv())
            .await
            .expect("the clients run")
    }
}
