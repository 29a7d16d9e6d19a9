//! The settings of traces, by the names and meanings that OpenTelemetry gives them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::reader::Reader;
use super::settings;
use super::value::{
    number, one_of, otlp_endpoint, otlp_headers, otlp_protocol, ratio, resource_attributes,
    service_name,
};
use crate::traces::{Sampler, TraceConfig};

/// A value of `OTEL_TRACES_SAMPLER`: what decides of a trace that begins here, and whether it is asked of others too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SamplerName {
    Always(Root),
    ParentBased(Root),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    AlwaysOn,
    AlwaysOff,
    Ratio,
}

impl Reader<'_> {
    /// Nothing is traced where no collector is named. What is wrong is told all the same.
    pub(super) fn traces(&mut self) -> Option<TraceConfig> {
        let endpoint = self.optional(&settings::OTEL_EXPORTER_OTLP_ENDPOINT, otlp_endpoint);
        self.value(&settings::OTEL_EXPORTER_OTLP_PROTOCOL, otlp_protocol);
        let headers = self.optional(&settings::OTEL_EXPORTER_OTLP_HEADERS, otlp_headers);
        let timeout = self.value(
            &settings::OTEL_EXPORTER_OTLP_TIMEOUT,
            number(1..=600_000, "milliseconds"),
        );
        let sampler = self.sampler();
        let resource = self.resource();
        let delay = self.value(
            &settings::OTEL_BSP_SCHEDULE_DELAY,
            number(0..=600_000, "milliseconds"),
        );
        let queue = self.value(
            &settings::OTEL_BSP_MAX_QUEUE_SIZE,
            number(1..=1_000_000, "spans"),
        );
        Some(TraceConfig {
            endpoint: endpoint?,
            headers: headers.unwrap_or_default(),
            timeout: Duration::from_millis(timeout?),
            sampler: sampler?,
            resource,
            queue: queue?,
            delay: Duration::from_millis(delay?),
        })
    }

    fn sampler(&mut self) -> Option<Sampler> {
        let name = self.value(
            &settings::OTEL_TRACES_SAMPLER,
            one_of(&[
                (
                    "parentbased_always_on",
                    SamplerName::ParentBased(Root::AlwaysOn),
                ),
                (
                    "parentbased_always_off",
                    SamplerName::ParentBased(Root::AlwaysOff),
                ),
                (
                    "parentbased_traceidratio",
                    SamplerName::ParentBased(Root::Ratio),
                ),
                ("always_on", SamplerName::Always(Root::AlwaysOn)),
                ("always_off", SamplerName::Always(Root::AlwaysOff)),
                ("traceidratio", SamplerName::Always(Root::Ratio)),
            ]),
        );
        let ratio = self.value(&settings::OTEL_TRACES_SAMPLER_ARG, ratio)?;
        let of = |root| match root {
            Root::AlwaysOn => Sampler::AlwaysOn,
            Root::AlwaysOff => Sampler::AlwaysOff,
            Root::Ratio => Sampler::TraceIdRatioBased(ratio),
        };
        Some(match name? {
            SamplerName::Always(root) => of(root),
            SamplerName::ParentBased(root) => Sampler::ParentBased(Box::new(of(root))),
        })
    }

    /// What tells this process' spans from others: what is set goes before what we know.
    fn resource(&mut self) -> Vec<(String, String)> {
        let set = self.optional(&settings::OTEL_RESOURCE_ATTRIBUTES, resource_attributes);
        let name = self.value(&settings::OTEL_SERVICE_NAME, service_name);
        let is_named = self.raw.given(&settings::OTEL_SERVICE_NAME).is_some();
        let replica = self.raw.given(&settings::REPLICA_NAME).map_or_else(
            || gethostname::gethostname().to_string_lossy().into_owned(),
            |given| given.text.clone(),
        );
        let name = name.map(|name| ("service.name".to_owned(), name));
        let known = [
            (
                "service.version".to_owned(),
                env!("CARGO_PKG_VERSION").to_owned(),
            ),
            ("service.instance.id".to_owned(), replica),
        ];
        // Of a name that is there twice the last stays.
        let first = name.clone().filter(|_| !is_named).into_iter().chain(known);
        let last = name.filter(|_| is_named);
        let all: BTreeMap<String, String> =
            first.chain(set.unwrap_or_default()).chain(last).collect();
        all.into_iter().collect()
    }
}
