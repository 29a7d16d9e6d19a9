//! The composition root: what there is, how it is joined, in which order it ends. Only this module knows all others.
//!
//! Building binds the ports, so that whoever starts the process knows where it listens; running spawns the rest.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use axum::Router;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use crate::amqp::{self, BrokerConfig, Consumer, DeadLetters, Publisher, QueueType};
use crate::auth::{Authenticator, KeyRefresh, Revocations};
use crate::bridge::{Bridge, ReadBacks, Rules};
use crate::config::Config;
use crate::embedded;
use crate::event::id::Mark;
use crate::event::topic::TopicPattern;
use crate::http::console::Console;
use crate::http::proxies::TrustedProxies;
use crate::http::rate::ConnectionRate;
use crate::http::routes;
use crate::http::routes::Refusal;
use crate::http::server::{Pace, Room, Server, ServerLimits, Share};
use crate::http::tls::Tls;
use crate::hub::{Hub, Numbering, hub};
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::publish::{Exchange, Publishing};
use crate::revoke::{self, Feed, Revoking};
use crate::traces::{Exporter, Tracer};
use crate::transport::{Bounds, Limits, Transport};
use crate::watch::Watching;

/// How often the history lets go of what is too old where no event does it in passing.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// A process that is built: its ports are bound, nothing runs yet.
#[derive(Debug)]
pub struct App {
    lifecycle: Lifecycle,
    metrics: Arc<Metrics>,
    hub: Hub,
    bridge: Bridge,
    /// Who waits for what is read back, and who reads; none where nothing can be.
    read_back: Option<(amqp::ReadBacks, ReadBacks)>,
    /// What is revoked, and who hears of it; nobody where no tokens are checked.
    revocations: Revocations,
    /// Whether nothing may be sent before all that was revoked is known.
    awaits_revocations: bool,
    revocation_feed: Option<(amqp::Revocations, Feed)>,
    source: Source,
    /// What fetches the keys of tokens, where they are from a key server.
    key_refresh: Option<KeyRefresh>,
    /// What sends spans to a collector, where there is one.
    exporter: Option<Exporter>,
    public: Server,
    tls: Option<Arc<Tls>>,
    /// `dev` has none: what it would serve is on the public listener, which only this machine reaches.
    admin: Option<Server>,
    drain: Duration,
}

/// Where events come from.
#[derive(Debug)]
enum Source {
    Broker(Consumer, Publisher),
    Embedded(embedded::Queue),
}

/// What differs between `serve` and `dev`.
struct Head {
    source: Source,
    read_back: Option<amqp::ReadBacks>,
    exchange: Exchange,
    numbering: Numbering,
    authenticator: Authenticator,
    key_refresh: Option<KeyRefresh>,
    revocations: Revocations,
    awaits_revocations: bool,
    revocation_feed: Option<(amqp::Revocations, Feed)>,
    revoking: Option<Arc<Revoking>>,
    console: Console,
}

impl App {
    /// Builds `serve`. RabbitMQ is not asked yet: it may be away.
    ///
    /// # Errors
    /// When a port cannot be had, or nothing tells a key server from another.
    pub fn serve(config: &Config) -> anyhow::Result<Self> {
        let (metrics, lifecycle) = (Metrics::new()?, Lifecycle::default());
        metrics.queue_type.choose(config.broker.queue_type.as_str());
        metrics.auth_mode.choose(config.auth.mode.as_str());
        metrics
            .max_unacknowledged
            .set(config.broker.prefetch.into());
        if config.broker.reads_back() {
            let readers = bound(config.broker.read_back_readers);
            metrics.max_read_back_readers.set(readers);
        }
        let (authenticator, key_refresh) = Authenticator::new(&config.auth, &metrics)?;
        let broker = Arc::new(config.broker.clone());
        let publisher = Publisher::new(&broker);
        let dead_letters =
            DeadLetters::new(publisher.clone(), Arc::clone(&broker), Arc::clone(&metrics));
        let consumer = Consumer::new(
            Arc::clone(&broker),
            dead_letters,
            Arc::clone(&metrics),
            lifecycle.clone(),
        );
        let revocations = match &broker.revocations {
            Some(_) => Revocations::awaited(),
            None => Revocations::default(),
        };
        let awaits_revocations = config.auth.mode.tells_apart();
        if awaits_revocations {
            lifecycle.await_revocations();
        }
        let revocation_feed = broker.revocations.clone().map(|stream| {
            let feed = Feed {
                revocations: revocations.clone(),
                metrics: Arc::clone(&metrics),
                lifecycle: lifecycle.clone(),
            };
            let (broker, metrics) = (Arc::clone(&broker), Arc::clone(&metrics));
            let reader = amqp::Revocations::new(broker, stream, metrics, lifecycle.clone());
            (reader, feed)
        });
        let revoking = broker.revocations.clone().map(|stream| {
            Arc::new(Revoking {
                revocations: revocations.clone(),
                publisher: publisher.clone(),
                stream,
                metrics: Arc::clone(&metrics),
            })
        });
        let head = Head {
            revocations,
            awaits_revocations,
            revocation_feed,
            revoking,
            exchange: Exchange::Broker(publisher.clone(), broker.exchange.clone()),
            source: Source::Broker(consumer, publisher),
            read_back: broker.reads_back().then(|| {
                amqp::ReadBacks::new(Arc::clone(&broker), Arc::clone(&metrics), lifecycle.clone())
            }),
            numbering: numbering(&broker),
            authenticator,
            key_refresh,
            console: Console::Serve,
        };
        Self::build(config, head, metrics, lifecycle)
    }

    /// Builds `dev`: the same way of an event, with an exchange in memory at its head and a page at its end.
    ///
    /// # Errors
    /// When a port cannot be had, or a binding key is none.
    pub fn dev(config: &Config) -> anyhow::Result<Self> {
        let bindings: Result<Vec<TopicPattern>, _> = config
            .broker
            .binding_keys
            .iter()
            .map(|key| key.parse())
            .collect();
        let (exchange, queue) = embedded::exchange(bindings?);
        let (metrics, lifecycle) = (Metrics::new()?, Lifecycle::default());
        let head = Head {
            exchange: Exchange::Embedded(exchange),
            source: Source::Embedded(queue),
            read_back: None,
            numbering: Numbering::Sequence(epoch()),
            authenticator: Authenticator::for_dev(),
            key_refresh: None,
            // There are no tokens.
            revocations: Revocations::default(),
            awaits_revocations: false,
            revocation_feed: None,
            revoking: None,
            console: Console::Dev,
        };
        Self::build(config, head, metrics, lifecycle)
    }

    fn build(
        config: &Config,
        head: Head,
        metrics: Arc<Metrics>,
        lifecycle: Lifecycle,
    ) -> anyhow::Result<Self> {
        let workers = Handle::current().metrics().num_workers();
        metrics.worker_threads.set(bound(workers));
        metrics
            .max_connections
            .set(bound(config.http.max_connections));
        metrics.history_max_events.set(bound(config.hub.max_events));
        metrics.history_max_bytes.set(bound(config.hub.max_bytes));
        let (writer, hub) = hub(config.hub.clone(), head.numbering, Arc::clone(&metrics));
        let rules = Arc::new(Rules {
            address: config.address.clone(),
            payload: config.payload,
            marking: config.marking.clone(),
        });
        let waiting = ReadBacks::new(Arc::clone(&rules), hub.readings());
        let (tracer, exporter) = tracing_of(config, &metrics)?.unzip();
        let bridge = Bridge::new(
            rules,
            head.numbering,
            writer,
            tracer.clone(),
            Arc::clone(&metrics),
        );
        let transport = Transport {
            hub: hub.clone(),
            authenticator: head.authenticator.clone(),
            revocations: head.revocations.clone(),
            attributes: config
                .address
                .attribute_names()
                .map(str::to_owned)
                .collect(),
            config: config.sse,
            limits: Limits::new(Bounds {
                // With HTTP/2 a connection may hold many.
                in_all: config.http.max_connections,
                per_user: config.http.max_connections_per_user,
                per_address: config.http.max_connections_per_address,
            }),
            metrics: Arc::clone(&metrics),
        };
        let publishing = Publishing {
            authenticator: head.authenticator,
            revocations: head.revocations.clone(),
            exchange: head.exchange,
            address: config.address.clone(),
            max_bytes: config.payload.max_bytes,
            tracer,
            faults: Mutex::default(),
            metrics: Arc::clone(&metrics),
        };
        let watching = Watching {
            tail: bridge.tail(),
            hub: hub.clone(),
            attributes: transport.attributes.clone(),
            lifecycle: lifecycle.clone(),
        };
        let public = routes::public(
            Arc::new(transport),
            Arc::new(publishing),
            lifecycle.clone(),
            &config.http.cors_origins,
        );
        let operators = routes::operators(
            Arc::clone(&metrics),
            lifecycle.clone(),
            Arc::new(watching),
            head.console,
        );
        let (public, admin) = match head.console {
            Console::Dev => {
                let all = routes::dev(public, operators, &config.http.cors_origins);
                (all, None)
            }
            Console::Serve => {
                let admin = routes::admin(operators, head.revoking, lifecycle.clone());
                let is_for_this_machine = config.http.admin_bind.ip().is_loopback();
                let admin = match is_for_this_machine {
                    true => routes::for_this_machine(admin),
                    false => admin,
                };
                (public, Some(admin))
            }
        };
        let refusing =
            |refusal| routes::refusing(refusal, lifecycle.clone(), &config.http.cors_origins);
        let limits = ServerLimits {
            room: (config.http.max_connections != 0).then(|| Room {
                connections: config.http.max_connections,
                when_full: refusing(Refusal::Full),
            }),
            pace: (config.http.max_connection_rate_per_address != 0).then(|| Pace {
                rate: Arc::new(ConnectionRate::new(
                    config.http.max_connection_rate_per_address,
                )),
                when_over: refusing(Refusal::TooFast),
            }),
            share: connections_of_an_address(config.http.max_connections_per_address).map(
                |connections| Share {
                    places: Limits::new(Bounds {
                        per_address: connections,
                        ..Bounds::default()
                    }),
                    when_over: refusing(Refusal::TooMany),
                },
            ),
            proxies: config.http.trusted_proxies.clone(),
            stall: config.sse.stall,
            sockets: Some(metrics.sockets.clone()),
        };
        let unlimited = ServerLimits {
            room: None,
            pace: None,
            share: None,
            proxies: TrustedProxies::default(),
            stall: config.sse.stall,
            sockets: None,
        };
        let tls = config
            .http
            .tls
            .clone()
            .map(|files| Tls::load(files, metrics.tls_certificate_expiry.clone()))
            .transpose()
            .context("the TLS certificate or its key cannot be used")?
            .map(Arc::new);
        let admin = admin
            .map(|router| {
                bind(
                    "ADMIN_BIND",
                    config.http.admin_bind,
                    router,
                    unlimited,
                    &metrics,
                    None,
                )
            })
            .transpose()?;
        Ok(Self {
            public: bind(
                "HTTP_BIND",
                config.http.bind,
                public,
                limits,
                &metrics,
                tls.clone(),
            )?,
            tls,
            admin,
            lifecycle,
            metrics,
            hub,
            bridge,
            read_back: head.read_back.map(|readers| (readers, waiting)),
            revocations: head.revocations,
            awaits_revocations: head.awaits_revocations,
            revocation_feed: head.revocation_feed,
            source: head.source,
            key_refresh: head.key_refresh,
            exporter,
            drain: config.drain,
        })
    }

    /// Where clients connect.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn public_address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.public.local_address()?)
    }

    /// Runs until SIGTERM or SIGINT, then drains: not ready, stop consuming and settle, tell clients and let them go,
    /// close the doors. A second signal ends that at once.
    ///
    /// # Errors
    /// When signals cannot be received, when the source ended by itself or a task panicked, or when a second signal cut the
    /// drain short.
    pub async fn run(self) -> anyhow::Result<()> {
        let mut signals = Signals::new()?;
        let Self {
            lifecycle,
            metrics,
            hub,
            bridge,
            read_back,
            revocations,
            awaits_revocations,
            revocation_feed,
            source,
            key_refresh,
            exporter,
            public,
            tls,
            admin,
            drain,
        } = self;
        let public_address = public.local_address()?;
        let admin_address = admin.as_ref().map(Server::local_address).transpose()?;
        let publisher = match &source {
            Source::Broker(_, publisher) => Some(publisher.clone()),
            Source::Embedded(_) => None,
        };
        let mut intake = match source {
            Source::Broker(consumer, _) => {
                let must_know = awaits_revocations.then(|| revocations.clone());
                let stopping = lifecycle.intake.stopping();
                lifecycle.intake.spawn("intake", async move {
                    // Streams are open, and are sent nothing before it is known whose must not be.
                    if let Some(revocations) = must_know {
                        tokio::select! {
                            () = revocations.informed() => {}
                            () = stopping => return,
                        }
                    }
                    consumer.run(bridge).await;
                })
            }
            Source::Embedded(queue) => lifecycle.intake.spawn(
                "intake",
                queue.run(bridge, lifecycle.clone(), Arc::clone(&metrics)),
            ),
        };
        if let Some((readers, waiting)) = read_back {
            lifecycle.intake.spawn("read-back", readers.run(waiting));
        }
        if let Some((reader, feed)) = revocation_feed {
            lifecycle.streams.spawn("revocations", reader.run(feed));
        }
        lifecycle.doors.spawn("flusher", {
            let (flusher, doors) = (hub.flusher(), lifecycle.doors.clone());
            async move {
                tokio::select! {
                    () = flusher.run() => {}
                    () = doors.stopping() => {}
                }
            }
        });
        lifecycle.doors.spawn(
            "housekeeping",
            housekeeping(
                hub.clone(),
                revocations,
                Arc::clone(&metrics),
                lifecycle.clone(),
            ),
        );
        if let Some(refresh) = key_refresh {
            lifecycle
                .doors
                .spawn("keys", refresh.run(lifecycle.doors.stopping()));
        }
        if let Some(exporter) = exporter {
            let doors = lifecycle.doors.clone();
            lifecycle.doors.spawn("traces", exporter.run(doors));
        }
        if let Some(tls) = tls {
            let looking = tls.look_after(lifecycle.clone());
            lifecycle.doors.spawn("certificate", looking);
        }
        lifecycle.doors.spawn(
            "public listener",
            public.run(lifecycle.streams.clone(), lifecycle.clone()),
        );
        if let Some(admin) = admin {
            lifecycle.doors.spawn(
                "admin listener",
                admin.run(lifecycle.doors.clone(), lifecycle.clone()),
            );
        }
        tracing::info!(public = %public_address, admin = admin_address.map(tracing::field::display), version = env!("CARGO_PKG_VERSION"), "listening");

        tokio::select! {
            // Of an intake that panicked is told that it did, not that it ended.
            biased;
            () = signals.next() => {}
            // Whoever starts it again has all of it; without a listener or its keys it would go on as if all were well.
            name = lifecycle.panicked() => anyhow::bail!("the task \"{name}\" panicked; standard error says where"),
            _ = &mut intake => anyhow::bail!("the task that consumes events ended by itself"),
        }
        tracing::info!(
            seconds = drain.as_secs(),
            streams = metrics.connections.of("sse").get(),
            "draining; a second signal ends at once"
        );
        tokio::select! {
            () = signals.next() => anyhow::bail!("a second signal came: ended at once, clients were not told"),
            () = drain_within(drain, &lifecycle, &hub, publisher.as_ref()) => {}
        }
        tracing::info!("ended");
        Ok(())
    }
}

/// Ends stage by stage, in the order of the way of an event, until the deadline; what has not ended then is cut.
async fn drain_within(
    drain: Duration,
    lifecycle: &Lifecycle,
    hub: &Hub,
    publisher: Option<&Publisher>,
) {
    let began = Instant::now();
    let deadline = began + drain;
    // Half of it, so that clients are told whatever the broker does.
    if timeout_at(began + drain / 2, lifecycle.intake.stop())
        .await
        .is_err()
    {
        tracing::warn!(
            "not everything consumed could be settled in time; the broker will deliver it again"
        );
    }
    hub.close();
    if timeout_at(deadline, lifecycle.streams.stop())
        .await
        .is_err()
    {
        tracing::warn!("not every client took its farewell in time; those are cut off");
    }
    if let Some(publisher) = publisher {
        drop(timeout_at(deadline, publisher.close()).await);
    }
    drop(timeout_at(deadline + HOUSEKEEPING, lifecycle.doors.stop()).await);
}

/// A configured bound, as a gauge takes it.
fn bound(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// How many connections go with so many streams of one address: with HTTP/1.1 each stream has one of its own, and a page
/// makes other requests beside it. None where streams are not bounded.
fn connections_of_an_address(streams: usize) -> Option<usize> {
    (streams != 0).then(|| streams.saturating_mul(2).saturating_add(16))
}

/// Lets go of what is too old, every now and then.
async fn housekeeping(
    hub: Hub,
    revocations: Revocations,
    metrics: Arc<Metrics>,
    lifecycle: Lifecycle,
) {
    let mut ticks = interval(HOUSEKEEPING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopping = std::pin::pin!(lifecycle.doors.stopping());
    loop {
        tokio::select! {
            () = &mut stopping => return,
            now = ticks.tick() => {
                hub.expire(now);
                revocations.forget(SystemTime::now());
                metrics.revocations.set(revoke::count(&revocations));
            }
        }
    }
}

/// What makes spans and what sends them, where a collector is configured.
fn tracing_of(
    config: &Config,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Option<(Tracer, Exporter)>> {
    let Some(traces) = &config.traces else {
        return Ok(None);
    };
    Tracer::new(
        traces,
        &config.broker.exchange,
        &config.broker.queue,
        metrics,
    )
    .context("nothing tells the collector of OTEL_EXPORTER_OTLP_ENDPOINT from another")
    .map(Some)
}

/// Positions of a stream are the broker's; a queue has none, so this process counts.
fn numbering(broker: &BrokerConfig) -> Numbering {
    match broker.queue_type {
        QueueType::Stream => Numbering::Offsets,
        QueueType::Quorum | QueueType::Classic => Numbering::Sequence(epoch()),
    }
}

/// What tells this process' count from that of any other.
fn epoch() -> Mark {
    Mark::epoch(fastrand::u32(..))
}

fn bind(
    setting: &str,
    address: SocketAddr,
    router: Router,
    limits: ServerLimits,
    metrics: &Arc<Metrics>,
    tls: Option<Arc<Tls>>,
) -> anyhow::Result<Server> {
    Server::bind(address, router, limits, Arc::clone(metrics), tls).with_context(|| {
        format!("cannot listen on {address}: free the port, or set {setting} to another (port 0 takes any)")
    })
}

/// What asks a process to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot receive signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
