//! Spans of the way of an event, for whoever follows a trace from a back end to the browser: a message that was consumed,
//! addressed and published to the hub, and one that `POST /publish` sent. They continue what `traceparent` names.
//!
//! Where no collector is configured there is no [`Tracer`], and an event costs a look at an `Option` that is empty. Spans bear
//! what a message is called, never what it says: no body, no token. Names are those of OpenTelemetry's semantic
//! conventions 1.42 for messaging, RabbitMQ and HTTP.

mod context;
mod exporter;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode, Uri};
use opentelemetry::trace::{
    Span as _, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span, SpanLimits};

pub use self::context::{TRACEPARENT, TRACESTATE};
pub use self::exporter::Exporter;
pub use opentelemetry_sdk::trace::Sampler;

use crate::event::id::EventId;
use crate::event::{Message, Reason};
use crate::metrics::Metrics;
use crate::outbound::NoTls;

/// Which spans are made, and where they go.
#[derive(Clone)]
pub struct TraceConfig {
    /// Where the collector takes traces over OTLP/HTTP.
    pub endpoint: Uri,
    /// What is sent along with each request; secrets.
    pub headers: HeaderMap,
    /// How long the collector may take over one.
    pub timeout: Duration,
    /// Which traces are recorded.
    pub sampler: Sampler,
    /// What tells this process' spans from those of others.
    pub resource: Vec<(String, String)>,
    /// How many spans may wait.
    pub queue: usize,
    /// How long one may wait for others to go with it.
    pub delay: Duration,
}

/// Without the headers, which are secret.
impl fmt::Debug for TraceConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("TraceConfig")
            .field("endpoint", &self.endpoint)
            .field("sampler", &self.sampler)
            .field("resource", &self.resource)
            .finish_non_exhaustive()
    }
}

/// What makes spans. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tracer {
    spans: SdkTracer,
    exchange: Arc<str>,
    queue: Arc<str>,
}

/// The span of a message that was consumed. It ends when this is dropped.
#[derive(Debug)]
pub struct Consumption {
    tracer: SdkTracer,
    span: Span,
    /// What its steps are in.
    context: Context,
}

/// A part of a span. It ends when this is dropped.
#[derive(Debug)]
pub struct Step(#[expect(dead_code, reason = "its end is what it is for")] Span);

/// The trace that a `POST /publish` is in. Without a tracer it is the caller's, and passed on as it came.
#[derive(Debug)]
pub struct Publication {
    caller: Option<SpanContext>,
    traced: Option<Traced>,
}

/// The spans of a `POST /publish`.
#[derive(Debug)]
struct Traced {
    tracer: Tracer,
    request: Span,
    sending: Option<Span>,
}

/// Which version of the conventions names are of.
const SCHEMA: &str = "https://opentelemetry.io/schemas/1.42.0";

impl Tracer {
    /// What makes spans of an exchange and a queue, and what sends them to the collector. Nothing is sent yet.
    ///
    /// # Errors
    /// [`NoTls`] when the collector could not be told from another.
    pub fn new(
        config: &TraceConfig,
        exchange: &str,
        queue: &str,
        metrics: &Arc<Metrics>,
    ) -> Result<(Self, Exporter), NoTls> {
        let resource = Resource::builder_empty()
            .with_detector(Box::new(TelemetryResourceDetector))
            .with_attributes(
                config
                    .resource
                    .iter()
                    .map(|(name, value)| KeyValue::new(name.clone(), value.clone())),
            )
            .build();
        let (waiting, exporter) = exporter::queue(config, &resource, metrics)?;
        // All that the library would look up in the environment is given: the configuration has judged it.
        let provider = SdkTracerProvider::builder()
            .with_sampler(config.sampler.clone())
            .with_span_limits(SpanLimits::default())
            .with_resource(resource)
            .with_span_processor(waiting)
            .build();
        let scope = InstrumentationScope::builder("sse-bridge")
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(SCHEMA)
            .build();
        let tracer = Self {
            spans: provider.tracer_with_scope(scope),
            exchange: exchange.into(),
            queue: queue.into(),
        };
        Ok((tracer, exporter))
    }

    /// Begins the span of a message, if its trace is sampled.
    #[must_use]
    pub fn consume(&self, message: &Message) -> Option<Box<Consumption>> {
        let parent = within(context::of_message(message));
        let mut span = self
            .spans
            .span_builder("consume")
            .with_kind(SpanKind::Consumer)
            .start_with_context(&self.spans, &parent);
        if !span.is_recording() {
            return None;
        }
        let (exchange, queue, key) = (&self.exchange, &self.queue, &message.routing_key);
        span.update_name(format!("consume {queue}"));
        span.set_attribute(KeyValue::new("messaging.operation.type", "process"));
        span.set_attribute(KeyValue::new("messaging.operation.name", "consume"));
        span.set_attribute(KeyValue::new(
            "messaging.destination.name",
            format!("{exchange}:{key}:{queue}"),
        ));
        describe(&mut span, message);
        let context = within(Some(span.span_context().clone()));
        Some(Box::new(Consumption {
            tracer: self.spans.clone(),
            span,
            context,
        }))
    }
}

/// What a message is called.
fn describe(span: &mut Span, message: &Message) {
    span.set_attribute(KeyValue::new("messaging.system", "rabbitmq"));
    span.set_attribute(KeyValue::new(
        "messaging.rabbitmq.destination.routing_key",
        message.routing_key.clone(),
    ));
    if let Some(id) = &message.message_id {
        span.set_attribute(KeyValue::new("messaging.message.id", id.clone()));
    }
    let bytes = i64::try_from(message.body.len()).unwrap_or(i64::MAX);
    span.set_attribute(KeyValue::new("messaging.message.body.size", bytes));
}

/// What a span begins in.
fn within(parent: Option<SpanContext>) -> Context {
    parent.map_or_else(Context::new, |parent| {
        Context::new().with_remote_span_context(parent)
    })
}

fn fail(span: &mut Span, kind: &'static str) {
    span.set_attribute(KeyValue::new("error.type", kind));
    span.set_status(Status::error(kind));
}

impl Consumption {
    /// Begins a part of it.
    #[must_use]
    pub fn step(&self, name: &'static str) -> Step {
        let builder = self.tracer.span_builder(name);
        Step(builder.start_with_context(&self.tracer, &self.context))
    }

    /// It is published, as the event of this id.
    pub fn publishes(&mut self, id: EventId) {
        self.span
            .set_attribute(KeyValue::new("sse_bridge.event.id", id.to_string()));
        self.ends_as("published");
    }

    /// What becomes of it.
    pub fn ends_as(&mut self, outcome: &'static str) {
        self.span
            .set_attribute(KeyValue::new("sse_bridge.outcome", outcome));
    }

    /// It is poison.
    pub fn fails(&mut self, reason: Reason) {
        self.ends_as("dead_lettered");
        fail(&mut self.span, reason.as_str());
    }
}

impl Publication {
    /// Begins with a request.
    #[must_use]
    pub fn begin(tracer: Option<&Tracer>, headers: &HeaderMap) -> Self {
        let caller = context::of_request(headers);
        let traced = tracer.map(|tracer| {
            let attributes = [
                KeyValue::new("http.request.method", "POST"),
                KeyValue::new("http.route", "/publish"),
                KeyValue::new("url.path", "/publish"),
            ];
            let request = tracer
                .spans
                .span_builder("POST /publish")
                .with_kind(SpanKind::Server)
                .with_attributes(attributes)
                .start_with_context(&tracer.spans, &within(caller.clone()));
            Traced {
                tracer: tracer.clone(),
                request,
                sending: None,
            }
        });
        Self { caller, traced }
    }

    /// The message is about to be sent: it is told where its trace goes on.
    pub fn send(&mut self, message: &mut Message) {
        let span = match &mut self.traced {
            None => self.caller.clone(),
            Some(traced) => Some(traced.send(message)),
        };
        if let Some(span) = span {
            message.headers.extend(context::headers(&span));
        }
    }

    /// The broker has it, or nobody knows: then `error` says why.
    pub fn sent(&mut self, error: Option<&'static str>) {
        let sending = self
            .traced
            .as_mut()
            .and_then(|traced| traced.sending.take());
        if let (Some(mut span), Some(error)) = (sending, error) {
            fail(&mut span, error);
        }
    }

    /// The request is answered.
    pub fn answered(self, status: StatusCode) {
        let Some(Traced { mut request, .. }) = self.traced else {
            return;
        };
        request.set_attribute(KeyValue::new(
            "http.response.status_code",
            i64::from(status.as_u16()),
        ));
        if status.is_server_error() {
            request.set_attribute(KeyValue::new("error.type", status.as_str().to_owned()));
            request.set_status(Status::error(""));
        }
    }
}

impl Traced {
    fn send(&mut self, message: &Message) -> SpanContext {
        let (spans, exchange) = (&self.tracer.spans, &self.tracer.exchange);
        let mut span = spans
            .span_builder("publish")
            .with_kind(SpanKind::Producer)
            .start_with_context(spans, &within(Some(self.request.span_context().clone())));
        if span.is_recording() {
            span.update_name(format!("publish {exchange}"));
            span.set_attribute(KeyValue::new("messaging.operation.type", "send"));
            span.set_attribute(KeyValue::new("messaging.operation.name", "publish"));
            span.set_attribute(KeyValue::new(
                "messaging.destination.name",
                format!("{exchange}:{}", message.routing_key),
            ));
            describe(&mut span, message);
        }
        let context = span.span_context().clone();
        self.sending = Some(span);
        context
    }
}
