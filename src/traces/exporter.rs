//! Spans on their way to the collector: a bounded queue, and the task that sends what is in it over OTLP/HTTP (protobuf,
//! OTLP 1.5 §OTLP/HTTP). A collector that is slow or away costs spans, which are counted, and never an event.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::TraceConfig;
use crate::lifecycle::Stage;
use crate::metrics::Metrics;
use crate::outbound::{self, NoTls, with_causes};

/// How many spans go in one request.
const BATCH: usize = 512;
/// How often a batch is tried that the collector does not take for now, and how long is waited after the first attempt: twice
/// as long after each that follows.
const ATTEMPTS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest that the collector may ask to be left alone.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long sending the last spans may take at the end.
const FLUSH: Duration = Duration::from_secs(5);
/// How often it may be told that spans are lost.
const TELL: Duration = Duration::from_secs(60);
/// The largest answer that is read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Makes the queue: where spans are put that have ended, and what sends them.
pub(super) fn queue(
    config: &TraceConfig,
    resource: &Resource,
    metrics: &Arc<Metrics>,
) -> Result<(Waiting, Exporter), NoTls> {
    let connector = outbound::connector(config.endpoint.scheme_str() == Some("https"))?;
    let (waiting, spans) = mpsc::channel(config.queue);
    let waiting = Waiting {
        spans: waiting,
        metrics: Arc::clone(metrics),
    };
    let exporter = Exporter {
        spans,
        collector: Collector {
            client: Client::builder(TokioExecutor::new()).build(connector),
            endpoint: config.endpoint.clone(),
            headers: config.headers.clone(),
            timeout: config.timeout,
        },
        resource: ResourceAttributesWithSchema::from(resource),
        delay: config.delay,
        told: Told::default(),
        metrics: Arc::clone(metrics),
    };
    Ok((waiting, exporter))
}

/// Where spans wait to be sent. One that finds no room is counted and gone.
#[derive(Debug)]
pub(super) struct Waiting {
    spans: mpsc::Sender<SpanData>,
    metrics: Arc<Metrics>,
}

impl SpanProcessor for Waiting {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.metrics.spans_dropped.of("queue_full").inc();
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// What sends spans to the collector. One a process.
#[derive(Debug)]
pub struct Exporter {
    spans: mpsc::Receiver<SpanData>,
    collector: Collector,
    resource: ResourceAttributesWithSchema,
    delay: Duration,
    told: Told,
    metrics: Arc<Metrics>,
}

/// Where spans go.
#[derive(Debug)]
struct Collector {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: Uri,
    headers: HeaderMap,
    timeout: Duration,
}

/// What was said of the collector.
#[derive(Debug, Default)]
struct Told {
    /// When it was last said that spans are lost.
    last: Option<Instant>,
    /// Whether the last word was a bad one.
    is_failing: bool,
    /// How many had been lost by then.
    dropped: u64,
}

/// Why the collector has not taken a batch.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("{0}")]
    Connection(String),
    #[error("it did not answer within {} ms", .0.as_millis())]
    TooLate(Duration),
    #[error("it answered {status}")]
    Status {
        status: StatusCode,
        /// How long it asks to be left alone.
        wait: Option<Duration>,
    },
}

impl ExportError {
    /// Whether the same batch may be taken later (OTLP/HTTP, "Retryable Response Codes"); all else would be refused again.
    fn is_passing(&self) -> bool {
        match self {
            Self::Connection(_) | Self::TooLate(_) => true,
            Self::Status { status, .. } => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }
}

impl Exporter {
    /// Sends what is in the queue until the doors close; then what is left of it, and not for long.
    pub async fn run(mut self, doors: Stage) {
        let mut spans = Vec::with_capacity(BATCH);
        while !doors.is_stopping() {
            // Cancel-safe: what was received is in `spans`, or still in the queue.
            tokio::select! {
                () = doors.stopping() => break,
                () = self.gather(&mut spans) => {}
            }
            if spans.is_empty() {
                return;
            }
            let batch = self.batch(&mut spans);
            self.send(batch, &doors).await;
            self.told.what_found_no_room(&self.metrics);
        }
        self.spans.close();
        let deadline = Instant::now() + FLUSH;
        let mut is_refused = false;
        loop {
            let room = BATCH - spans.len();
            self.spans.recv_many(&mut spans, room).await;
            if spans.is_empty() {
                break;
            }
            let batch = self.batch(&mut spans);
            // One refusal is enough: the others would only take their time.
            if !is_refused {
                drop(timeout_at(deadline, self.send(batch, &doors)).await);
                is_refused = self.told.is_failing;
            }
        }
        let dropped = self.told.newly_dropped(&self.metrics);
        if dropped > 0 {
            let collector = self.collector.shown();
            tracing::warn!(
                collector,
                dropped,
                "the collector did not take the last spans"
            );
        }
    }

    /// Waits for spans, and a little for others to go with the first.
    async fn gather(&mut self, spans: &mut Vec<SpanData>) {
        if spans.is_empty() && self.spans.recv_many(spans, BATCH).await == 0 {
            return;
        }
        let due = Instant::now() + self.delay;
        while spans.len() < BATCH {
            let room = BATCH - spans.len();
            match timeout_at(due, self.spans.recv_many(spans, room)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return,
            }
        }
    }

    fn batch(&self, spans: &mut Vec<SpanData>) -> Batch {
        let spans = std::mem::replace(spans, Vec::with_capacity(BATCH));
        let unsent = u64::try_from(spans.len()).unwrap_or(u64::MAX);
        let resource_spans = group_spans_by_resource_and_scope(spans, &self.resource);
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        Batch {
            unsent,
            body: body.into(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// Sends a batch, again where that may help and there is time.
    async fn send(&mut self, batch: Batch, doors: &Stage) {
        let mut wait = FIRST_WAIT;
        for attempt in 1..=ATTEMPTS {
            let posted = tokio::select! {
                biased;
                posted = self.collector.post(&batch.body) => posted,
                () = too_late(doors) => Err(ExportError::TooLate(FLUSH)),
            };
            let error = match posted {
                Ok(rejected) => {
                    batch.taken(rejected);
                    return self.told.works(&self.collector, &self.metrics);
                }
                Err(error) => error,
            };
            if attempt == ATTEMPTS || doors.is_stopping() || !error.is_passing() {
                drop(batch);
                return self.told.fails(&self.collector, &error, &self.metrics);
            }
            self.told.fails(&self.collector, &error, &self.metrics);
            let asked = match error {
                ExportError::Status { wait, .. } => wait,
                ExportError::Connection(_) | ExportError::TooLate(_) => None,
            };
            // A quarter more or less, so that replicas do not come back all at once.
            let rest = asked.unwrap_or(wait).mul_f64(0.75 + fastrand::f64() / 2.0);
            drop(timeout(rest, doors.stopping()).await);
            wait *= 2;
        }
    }
}

/// Resolves when the doors have been closing for so long that nobody waits for spans any more.
async fn too_late(doors: &Stage) {
    doors.stopping().await;
    sleep(FLUSH).await;
}

/// Spans as they are sent. Dropped, those that nobody has taken are lost.
struct Batch {
    unsent: u64,
    body: Bytes,
    metrics: Arc<Metrics>,
}

impl Batch {
    /// The collector has them, but for so many that it does not want.
    fn taken(mut self, rejected: u64) {
        let spans = std::mem::take(&mut self.unsent);
        let rejected = rejected.min(spans);
        self.metrics.spans_exported.inc_by(spans - rejected);
        self.metrics.spans_dropped.of("rejected").inc_by(rejected);
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.metrics.spans_dropped.of("failed").inc_by(self.unsent);
    }
}

impl Collector {
    /// One attempt; how many spans of the batch the collector does not want.
    async fn post(&self, body: &Bytes) -> Result<u64, ExportError> {
        timeout(self.timeout, self.answer(body))
            .await
            .unwrap_or(Err(ExportError::TooLate(self.timeout)))
    }

    async fn answer(&self, body: &Bytes) -> Result<u64, ExportError> {
        let failed = |error: &dyn std::error::Error| ExportError::Connection(with_causes(error));
        let mut request = Request::post(&self.endpoint)
            .body(Full::new(body.clone()))
            .map_err(|error| failed(&error))?;
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-protobuf"),
        );
        headers.insert(
            USER_AGENT,
            HeaderValue::from_static(concat!("sse-bridge/", env!("CARGO_PKG_VERSION"))),
        );
        let answer = self
            .client
            .request(request)
            .await
            .map_err(|error| failed(&error))?;
        let status = answer.status();
        if !status.is_success() {
            let seconds = answer.headers().get(RETRY_AFTER);
            let seconds = seconds.and_then(|value| value.to_str().ok()?.parse().ok());
            let wait = seconds.map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT));
            return Err(ExportError::Status { status, wait });
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await;
        // It has them; an answer that cannot be read changes nothing.
        let answer = body
            .ok()
            .and_then(|body| ExportTraceServiceResponse::decode(body.to_bytes()).ok());
        let rejected = answer.and_then(|answer| answer.partial_success);
        Ok(rejected.map_or(0, |partial| partial.rejected_spans.try_into().unwrap_or(0)))
    }

    /// The address as it may be logged.
    fn shown(&self) -> String {
        let authority = self
            .endpoint
            .authority()
            .map_or("", http::uri::Authority::as_str);
        format!("{authority}{}", self.endpoint.path())
    }
}

impl Told {
    /// An attempt failed. Said at once, and then every now and then.
    fn fails(&mut self, collector: &Collector, error: &ExportError, metrics: &Metrics) {
        self.is_failing = true;
        if self.is_soon() {
            return;
        }
        let dropped = self.newly_dropped(metrics);
        tracing::warn!(
            collector = collector.shown(),
            %error,
            dropped,
            "the collector does not take spans: a few wait for it, and the others are dropped"
        );
    }

    fn works(&mut self, collector: &Collector, metrics: &Metrics) {
        if std::mem::take(&mut self.is_failing) && !self.is_soon() {
            let dropped = self.newly_dropped(metrics);
            tracing::info!(
                collector = collector.shown(),
                dropped,
                "the collector takes spans again"
            );
        }
    }

    /// Spans came faster than they could be sent.
    fn what_found_no_room(&mut self, metrics: &Metrics) {
        if self.is_failing || metrics.spans_dropped.total() == self.dropped || self.is_soon() {
            return;
        }
        let dropped = self.newly_dropped(metrics);
        tracing::warn!(
            dropped,
            "more spans end than the collector takes: sample fewer (OTEL_TRACES_SAMPLER)"
        );
    }

    fn is_soon(&self) -> bool {
        self.last.is_some_and(|last| last.elapsed() < TELL)
    }

    fn newly_dropped(&mut self, metrics: &Metrics) -> u64 {
        self.last = Some(Instant::now());
        let dropped = metrics.spans_dropped.total();
        dropped - std::mem::replace(&mut self.dropped, dropped)
    }
}
