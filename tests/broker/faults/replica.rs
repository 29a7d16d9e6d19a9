//! One bridge of a run: behind a proxy on each side, started again on the same ports, and looked at all the while.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::browser::Doors;
use super::history::{Phase, Record, Recorder, Sample};
use crate::harness::{Bridge, Proxy, RabbitMq, SOON, Setup, Vhost, eventually, free_port, request};

/// How often each bridge is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// How long a look may take: a bridge that was stopped does not answer.
const ANSWER: Duration = Duration::from_secs(2);

/// A bridge and its ways.
pub struct Replica {
    pub number: u32,
    setup: Setup,
    bridge: Option<Bridge>,
    /// Between the bridge and the broker.
    pub link: Proxy,
    /// Between clients and the bridge.
    pub door: Proxy,
    public: SocketAddr,
    admin: SocketAddr,
    incarnation: u32,
    recorder: Recorder,
    looking: JoinHandle<()>,
    /// What earlier incarnations wrote.
    pub outputs: Vec<String>,
}

impl Replica {
    /// Starts one, and waits until it is ready.
    pub async fn start(
        number: u32,
        broker: &RabbitMq,
        vhost: &Vhost,
        settings: &[(&str, String)],
        recorder: &Recorder,
    ) -> Self {
        let link = Proxy::to(broker.port()).await;
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let (public, admin) = (address(free_port()), address(free_port()));
        let mut setup = Bridge::at(&vhost.url_at(link.port()))
            .set("HTTP_BIND", public)
            .set("ADMIN_BIND", admin)
            // Some clients never read, and a drain waits for them.
            .set("DRAIN_SECONDS", 2)
            // Every poison message is an error in the log, and would drown what matters here.
            .set("RUST_LOG", "info,sse_bridge::amqp::dead_letter=off")
            .set("REPLICA_NAME", format!("replica-{number}"));
        for (name, value) in settings {
            setup = setup.set(name, value);
        }
        let mut replica = Self {
            number,
            setup,
            bridge: None,
            link,
            door: Proxy::to(public.port()).await,
            public,
            admin,
            incarnation: 0,
            recorder: recorder.clone(),
            looking: tokio::spawn(look(number, admin, recorder.clone())),
            outputs: Vec::new(),
        };
        replica.start_again().await;
        replica.bridge().wait_ready().await;
        replica
    }

    pub fn doors(&self) -> Doors {
        let spoilt = SocketAddr::from(([127, 0, 0, 1], self.door.port()));
        Doors {
            straight: self.public,
            spoilt,
        }
    }

    pub fn bridge(&self) -> &Bridge {
        self.bridge.as_ref().expect("it runs")
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        if let Some(bridge) = self.bridge.take() {
            self.outputs.push(bridge.output());
            bridge.kill();
        }
    }

    /// Asks it to end, and waits until it has.
    pub async fn terminate(&mut self, limit: Duration) {
        let mut bridge = self.bridge.take().expect("it runs");
        bridge.signal(rustix::process::Signal::TERM);
        let status = bridge.wait_exit(limit).await;
        assert!(
            status.success(),
            "a bridge that drains ends with 0, not {status}:\n{}",
            bridge.output()
        );
        self.outputs.push(bridge.output());
    }

    /// Starts it, and waits until it listens.
    pub async fn start_again(&mut self) {
        assert!(self.bridge.is_none(), "it runs");
        self.incarnation += 1;
        // Before it is, as clients find it before we do.
        self.recorder.record(&Record::Started {
            replica: self.number,
            incarnation: self.incarnation,
        });
        self.bridge = Some(self.setup.start_unready().await);
    }

    /// What the present incarnation wrote.
    pub fn output(&self) -> String {
        self.bridge.as_ref().map(Bridge::output).unwrap_or_default()
    }

    /// How often its link was made again.
    pub async fn reconnects(&self) -> f64 {
        self.bridge()
            .metric("sse_bridge_broker_reconnects_total")
            .await
    }

    /// Waits until its link was made again more often than that.
    pub async fn wait_reconnected(&self, before: f64, limit: Duration) {
        eventually("the link is made again", limit, async || {
            (self.reconnects().await > before).then_some(())
        })
        .await;
    }

    /// Looks at it once, for the record.
    pub async fn sample(&self, phase: Phase) -> Sample {
        let sample = eventually("the bridge answers", SOON, async || {
            take_sample(self.number, self.admin, phase).await
        })
        .await;
        self.recorder.record(&Record::Sample(sample.clone()));
        sample
    }

    /// Looks at it, not for the record.
    pub async fn peek(&self) -> Option<Sample> {
        take_sample(self.number, self.admin, Phase::Run).await
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

async fn look(replica: u32, admin: SocketAddr, recorder: Recorder) {
    loop {
        if let Some(sample) = take_sample(replica, admin, Phase::Run).await {
            recorder.record(&Record::Sample(sample));
        }
        sleep(LOOK).await;
    }
}

async fn take_sample(replica: u32, admin: SocketAddr, phase: Phase) -> Option<Sample> {
    let asking = request(admin, "GET", "/metrics", &[], "");
    let text = timeout(ANSWER, asking).await.ok()?.ok()?.body;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts and bytes, far below 2^52 and never negative"
    )]
    let value = |name: &str| {
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| Some(value.parse::<f64>().ok()? as u64))
    };
    Some(Sample {
        replica,
        phase,
        unacknowledged: value("sse_bridge_unacknowledged_messages")?,
        broker_up: value("sse_bridge_broker_up")? == 1,
        threads: value("process_threads")?,
        descriptors: value("process_open_fds")?,
        memory: value("process_resident_memory_bytes")?,
        history: value("sse_bridge_history_bytes")?,
    })
}
