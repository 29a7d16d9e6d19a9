//! What Prometheus sees. Every series is made at the start, with closed label sets, so that a counter that never moved
//! reads 0 and not "no data", and nothing a client or a producer sends can create a series.
//!
//! This module knows nothing of the others: they count, it keeps.

mod process;
mod striped;

use std::sync::Arc;

pub use self::striped::Striped;

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// The content type of [`Metrics::render`]: Prometheus text exposition format 0.0.4.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The kinds of connection that clients hold.
pub const TRANSPORTS: &[&str] = &["sse"];
/// What the events queue can be.
pub const QUEUE_TYPES: &[&str] = &["stream", "quorum", "classic"];
/// How requests can be told apart.
pub const AUTH_MODES: &[&str] = &["jwt", "token", "none"];
/// What became of a request to publish an event.
pub const PUBLISH_OUTCOMES: &[&str] = &["confirmed", "refused", "failed"];
/// Why a stream of events ended.
pub const CLOSE_REASONS: &[&str] = &["client", "stalled", "slow", "drain", "expired", "revoked"];
/// Why a connection or a request for a stream was refused.
pub const REFUSAL_REASONS: &[&str] = &[
    "bad_request",
    "unauthorized",
    "revoked",
    "forbidden",
    "keys_unavailable",
    "connection_limit",
    "user_limit",
    "address_limit",
    "address_rate",
];
/// What became of an attempt to fetch keys.
pub const JWKS_OUTCOMES: &[&str] = &["fetched", "failed"];
/// Why an event did not reach a client that was entitled to it (one count a client), or nobody at all.
pub const DROP_REASONS: &[&str] = &["slow", "superseded", "expired"];
/// Why a message went to the dead-letter exchange.
pub const DEAD_LETTER_REASONS: &[&str] = &[
    "unaddressed",
    "bad_address",
    "too_large",
    "bad_headers",
    "not_utf8",
    "not_json",
    "not_object",
];
/// What a client was told about what it missed.
pub const GAP_REASONS: &[&str] = &["slow", "expired", "unknown"];
/// What became of a returning client's cursor.
pub const RESUME_OUTCOMES: &[&str] = &["memory", "stream", "expired", "unknown"];
/// Why a span did not reach the collector.
pub const SPAN_DROP_REASONS: &[&str] = &["queue_full", "failed", "rejected"];

/// Every series of this process. Shared by reference-counting; each field is one metric, named after it.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// 1 while `/readyz` answers 200. Set when it is read.
    pub ready: IntGauge,
    /// 1 for the type of the events queue.
    pub queue_type: Gauges,
    /// 1 for the way in which requests are told apart.
    pub auth_mode: Gauges,
    /// How many threads run tasks.
    pub worker_threads: IntGauge,
    /// Streams open now, by transport.
    pub connections: Gauges,
    /// TCP connections open now on the public listener.
    pub sockets: IntGauge,
    /// The bound of both.
    pub max_connections: IntGauge,
    /// When the certificate of the public listener ends, in seconds since 1970; 0 without TLS.
    pub tls_certificate_expiry: IntGauge,
    /// Streams that were opened, by transport.
    pub connections_opened: Counters,
    /// Streams that ended, by reason.
    pub connections_closed: Counters,
    /// Requests for a stream, or connections, that were refused, by reason.
    pub connections_refused: Counters,
    /// Attempts to fetch keys from the key server, by outcome.
    pub jwks_refreshes: Counters,
    /// Keys of the key server that can verify a token.
    pub jwks_keys: IntGauge,
    /// Deliveries handed over for judging, repeats included.
    pub events_consumed: IntCounter,
    /// Events handed to clients, one count a client, by transport.
    pub events_delivered: StripedCounters,
    /// Events that did not reach an entitled client, by reason.
    pub events_dropped: Counters,
    /// Requests to publish an event, by outcome.
    pub publishes: Counters,
    /// Messages confirmed by the dead-letter exchange, by reason.
    pub dead_letters: Counters,
    /// Attempts to dead-letter that failed and are tried again.
    pub dead_letter_failures: IntCounter,
    /// 1 while this replica dead-letters the poison of the stream, else 0.
    pub dead_letter_duty: IntGauge,
    /// Deliveries recognised as repeats and not sent again.
    pub duplicates: IntCounter,
    /// Gaps told to clients, by reason.
    pub gaps: Counters,
    /// Returning clients, by what became of their cursor.
    pub resumes: Counters,
    /// Readings of the stream under way, for clients whose cursor is older than memory.
    pub read_back_readers: IntGauge,
    /// The bound of those.
    pub max_read_back_readers: IntGauge,
    /// Records those have read.
    pub read_back_records: IntCounter,
    /// Revocations known now: tokens and users that are refused.
    pub revocations: IntGauge,
    /// 1 while this replica hears what others revoke, else 0.
    pub revocations_up: IntGauge,
    /// Records among the revocations that cannot be read.
    pub revocations_malformed: IntCounter,
    /// 1 while the consumer's link to the broker is up, else 0.
    pub broker_up: IntGauge,
    /// Times the consumer's link was made again after it had been lost.
    pub broker_reconnects: IntCounter,
    /// Messages in the events queue, as RabbitMQ counts them. On a stream: those it retains.
    pub queue_messages: IntGauge,
    /// Consumers of the events queue, as RabbitMQ counts them.
    pub queue_consumers: IntGauge,
    /// Deliveries taken and not yet acknowledged.
    pub unacknowledged: IntGauge,
    /// The bound of those.
    pub max_unacknowledged: IntGauge,
    /// Age of the newest event when it was consumed, by its producer's timestamp, in seconds.
    pub event_lag: Gauge,
    /// From consumption to the client's socket, in seconds: the oldest event of each write.
    pub delivery_seconds: Striped<Histogram>,
    /// Events held in memory for clients that return.
    pub history_events: IntGauge,
    /// The bound of those.
    pub history_max_events: IntGauge,
    /// Memory those take, in bytes.
    pub history_bytes: IntGauge,
    /// The bound of that.
    pub history_max_bytes: IntGauge,
    /// Audiences with events in memory or clients connected.
    pub channels: IntGauge,
    /// Spans that the collector has taken.
    pub spans_exported: IntCounter,
    /// Spans that it never will, by reason.
    pub spans_dropped: Counters,
}

impl Metrics {
    /// Makes every series, at zero.
    ///
    /// # Errors
    /// When two metrics bear one name: a mistake in this file.
    pub fn new() -> Result<Arc<Self>, prometheus::Error> {
        let make = Maker {
            registry: Registry::new(),
        };
        make.build_info()?;
        make.registry
            .register(Box::new(process::ProcessCollector::new()?))?;
        let metrics = Self {
            ready: make.gauge("ready", "1 while /readyz answers 200, else 0.")?,
            queue_type: make.gauges("queue_type", "1 for the type of the events queue, else 0; always 0 in dev.", "type", QUEUE_TYPES)?,
            auth_mode: make.gauges("auth_mode", "1 for AUTH_MODE, else 0; always 0 in dev.", "mode", AUTH_MODES)?,
            worker_threads: make.gauge("worker_threads", "Threads that carry events, and so the processors that can be used at once.")?,
            connections: make.gauges("connections", "Streams open now.", "transport", TRANSPORTS)?,
            sockets: make.gauge("sockets", "TCP connections open now on the public listener.")?,
            max_connections: make.gauge("max_connections", "HTTP_MAX_CONNECTIONS, the bound of streams and of TCP connections; 0 is no limit.")?,
            tls_certificate_expiry: make.gauge(
                "tls_certificate_expiry_timestamp_seconds",
                "When the public listener's certificate ends, in seconds since 1970; 0 without TLS.",
            )?,
            connections_opened: make.counters("connections_opened_total", "Streams that were opened.", "transport", TRANSPORTS)?,
            connections_closed: make.counters("connections_closed_total", "Streams that ended.", "reason", CLOSE_REASONS)?,
            connections_refused: make.counters(
                "connections_refused_total",
                "Connections and requests for a stream that were refused.",
                "reason",
                REFUSAL_REASONS,
            )?,
            jwks_refreshes: make.counters("jwks_refreshes_total", "Attempts to fetch keys from AUTH_JWKS_URL.", "outcome", JWKS_OUTCOMES)?,
            jwks_keys: make.gauge("jwks_keys", "Keys from there that can verify a token.")?,
            events_consumed: make.counter(
                "events_consumed_total",
                "Deliveries handed over to be judged, those too that are read again for dead-lettering. Not those that the consumer itself \
                 recognises: the record at which a link goes on, and what a work queue delivers again.",
            )?,
            events_delivered: make.striped_counters(
                "events_delivered_total",
                "Events handed to clients, one count a client.",
                "transport",
                TRANSPORTS,
            )?,
            events_dropped: make.counters(
                "events_dropped_total",
                "Events that did not reach a client: passed by its ring (slow; not where it is disconnected for that), \
                 replaced by a newer one of its routing key (superseded), or, on a stream, past their AMQP expiration (expired, one count an event).",
                "reason",
                DROP_REASONS,
            )?,
            publishes: make.counters(
                "publishes_total",
                "Requests of POST /publish: confirmed by the broker (202), refused (4xx), or failed, as the broker or what was revoked \
                 could not be had (503).",
                "outcome",
                PUBLISH_OUTCOMES,
            )?,
            dead_letters: make.counters(
                "dead_letters_total",
                "Messages that the dead-letter exchange confirmed.",
                "reason",
                DEAD_LETTER_REASONS,
            )?,
            dead_letter_failures: make.counter("dead_letter_failures_total", "Attempts to dead-letter that failed and are tried again.")?,
            dead_letter_duty: make.gauge("dead_letter_duty", "On a stream, 1 while this replica is the one that dead-letters, else 0.")?,
            duplicates: make.counter("duplicates_total", "Deliveries recognised as repeats by their message_id.")?,
            gaps: make.counters("gaps_total", "Gaps told to clients.", "reason", GAP_REASONS)?,
            resumes: make.counters(
                "resumes_total",
                "Returning clients, by what became of their id: served from memory, read back from the stream, or told of a gap.",
                "outcome",
                RESUME_OUTCOMES,
            )?,
            read_back_readers: make.gauge("read_back_readers", "Readings of the stream under way, for clients whose id is older than memory.")?,
            max_read_back_readers: make.gauge("max_read_back_readers", "RABBITMQ_READ_BACK_READERS, the bound of those; 0 where nothing is read back.")?,
            read_back_records: make.counter("read_back_records_total", "Records that those have read.")?,
            revocations: make.gauge("revocations", "Revocations known now: tokens and users that are refused.")?,
            revocations_up: make.gauge("revocations_up", "1 while this replica hears what others revoke, else 0; always 0 with AUTH_MODE=none.")?,
            revocations_malformed: make.counter("revocations_malformed_total", "Records among the revocations that cannot be read, and are skipped.")?,
            broker_up: make.gauge("broker_up", "1 while the consumer's link to the broker is up, else 0.")?,
            broker_reconnects: make.counter("broker_reconnects_total", "Times that link was made again.")?,
            queue_messages: make.gauge("queue_messages", "Messages in the queue as RabbitMQ counts them, every 10 s; on a stream those it retains.")?,
            queue_consumers: make.gauge("queue_consumers", "Consumers of the queue, likewise; on a stream RabbitMQ always says 0.")?,
            unacknowledged: make.gauge("unacknowledged_messages", "Deliveries taken and not yet acknowledged.")?,
            max_unacknowledged: make.gauge("max_unacknowledged_messages", "RABBITMQ_PREFETCH_COUNT, the bound of those; 0 in dev.")?,
            event_lag: make.float_gauge("event_lag_seconds", "Age of the newest event when it was consumed, by its timestamp.")?,
            delivery_seconds: make.histogram(
                "delivery_seconds",
                "From consumption to the client's socket: the oldest event of each write.",
                &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0],
            )?,
            history_events: make.gauge("history_events", "Events held in memory for clients that return.")?,
            history_max_events: make.gauge("history_max_events", "HISTORY_MAX_EVENTS, the bound of those; 0 is no limit.")?,
            history_bytes: make.gauge("history_bytes", "Memory that those events take.")?,
            history_max_bytes: make.gauge("history_max_bytes", "HISTORY_MAX_BYTES, the bound of that; 0 is no limit.")?,
            channels: make.gauge("channels", "Audiences with events in memory or clients connected.")?,
            spans_exported: make.counter("spans_exported_total", "Spans that the collector has taken.")?,
            spans_dropped: make.counters(
                "spans_dropped_total",
                "Spans that were recorded and not exported: the queue was full (queue_full), the collector could not be reached or refused \
                 the request (failed), or took it without them (rejected).",
                "reason",
                SPAN_DROP_REASONS,
            )?,
            registry: make.registry,
        };
        Ok(Arc::new(metrics))
    }

    /// The text exposition of every series.
    ///
    /// # Errors
    /// When a series cannot be written as text: a mistake in this file.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

/// A counter for each value of a closed label set.
#[derive(Debug)]
pub struct Counters(Vec<(&'static str, IntCounter)>);

/// The same, counted at every delivery.
#[derive(Debug)]
pub struct StripedCounters(Vec<(&'static str, Striped<IntCounter>)>);

/// A gauge for each value of a closed label set.
#[derive(Debug)]
pub struct Gauges(Vec<(&'static str, IntGauge)>);

impl Counters {
    /// The counter of `value`, which must be of the set; one that is not counts for the first and fails debug builds.
    #[must_use]
    pub fn of(&self, value: &str) -> &IntCounter {
        of(&self.0, value)
    }

    /// What they count together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(_, counter)| counter.get()).sum()
    }
}

impl StripedCounters {
    /// The counter of `value`, which must be of the set; one that is not counts for the first and fails debug builds.
    #[must_use]
    pub fn of(&self, value: &str) -> &Striped<IntCounter> {
        of(&self.0, value)
    }
}

impl Gauges {
    /// Says which one of the set it is, by a 1.
    pub fn choose(&self, value: &str) {
        self.of(value).set(1);
    }

    /// The gauge of `value`, which must be of the set; one that is not counts for the first and fails debug builds.
    #[must_use]
    pub fn of(&self, value: &str) -> &IntGauge {
        of(&self.0, value)
    }
}

#[expect(
    clippy::indexing_slicing,
    reason = "no set is empty: each is a constant above"
)]
fn of<'a, T>(set: &'a [(&'static str, T)], value: &str) -> &'a T {
    let found = set.iter().find(|(name, _)| *name == value);
    debug_assert!(found.is_some(), "{value} is not of a closed label set");
    found.map_or(&set[0].1, |(_, metric)| metric)
}

/// Makes metrics and registers them, with the prefix that all share.
struct Maker {
    registry: Registry,
}

const PREFIX: &str = "sse_bridge";

impl Maker {
    fn add<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C, prometheus::Error> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::with_opts(
            Opts::new(name, help).namespace(PREFIX),
        )?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::with_opts(
            Opts::new(name, help).namespace(PREFIX),
        )?)
    }

    fn float_gauge(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        self.add(Gauge::with_opts(Opts::new(name, help).namespace(PREFIX))?)
    }

    fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<Striped<Histogram>, prometheus::Error> {
        let options = HistogramOpts::new(name, help)
            .namespace(PREFIX)
            .buckets(buckets.to_vec());
        self.add(Striped::new(|| Histogram::with_opts(options.clone()))?)
    }

    fn striped_counters(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: &[&'static str],
    ) -> Result<StripedCounters, prometheus::Error> {
        let counters = values.iter().map(|value| {
            let options = Opts::new(name, help)
                .namespace(PREFIX)
                .const_label(label, *value);
            let counter = Striped::new(|| IntCounter::with_opts(options.clone()))?;
            Ok((*value, self.add(counter)?))
        });
        counters.collect::<Result<_, _>>().map(StripedCounters)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: &[&'static str],
    ) -> Result<Counters, prometheus::Error> {
        let family = self.add(IntCounterVec::new(
            Opts::new(name, help).namespace(PREFIX),
            &[label],
        )?)?;
        Ok(Counters(
            values
                .iter()
                .map(|value| (*value, family.with_label_values(&[*value])))
                .collect(),
        ))
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: &[&'static str],
    ) -> Result<Gauges, prometheus::Error> {
        let family = self.add(IntGaugeVec::new(
            Opts::new(name, help).namespace(PREFIX),
            &[label],
        )?)?;
        Ok(Gauges(
            values
                .iter()
                .map(|value| (*value, family.with_label_values(&[*value])))
                .collect(),
        ))
    }

    fn build_info(&self) -> Result<(), prometheus::Error> {
        let info = GaugeVec::new(
            Opts::new("build_info", "Always 1; its label is what runs.").namespace(PREFIX),
            &["version"],
        )?;
        self.add(info)?
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1.0);
        Ok(())
    }
}
