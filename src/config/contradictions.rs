//! Settings that are legal alone and make no sense together: each line names both. What is legal but surprising is a
//! warning instead.

use std::time::Duration;

use super::auth::AuthModeName;
use super::reader::Reader;
use super::settings::{self, Setting};
use super::value::queue_name;
use super::{Command, Config, HttpConfig, SseConfig, what_descriptors_allow};
use crate::amqp::{BrokerConfig, QueueScope, QueueType};
use crate::auth::{Algorithm, AlgorithmFamily};
use crate::event::address::AddressRules;
use crate::event::payload::PayloadFormat;
use crate::hub::HubConfig;
use crate::traces::TraceConfig;

/// After how much silence most proxies cut a connection.
const PATIENCE_OF_PROXIES: Duration = Duration::from_secs(60);

impl Reader<'_> {
    pub(super) fn contradictions(&mut self, config: &Config) {
        if !matches!(self.command, Command::Dev | Command::Token) {
            self.contradictions_of_the_broker(&config.broker);
        }
        self.contradictions_of_addressing(&config.address, config.payload.format);
        self.contradictions_of_listeners(&config.http);
        self.contradictions_of_streams(&config.sse);
        self.contradictions_of_memory(&config.hub, config.payload.max_bytes);
        self.surprises_of_traces(config.traces.as_ref());
    }

    fn contradictions_of_the_broker(&mut self, broker: &BrokerConfig) {
        let stream = broker.queue_type == QueueType::Stream;
        if stream && broker.queue_scope == QueueScope::Replica {
            self.contradiction(
                [&settings::RABBITMQ_EVENTS_QUEUE_TYPE, &settings::RABBITMQ_EVENTS_QUEUE_SCOPE],
                "all replicas read one stream, each at its own offset: write shared, or another queue type",
            );
        }
        if broker.dead_letter_exchange == broker.exchange {
            self.contradiction(
                [
                    &settings::RABBITMQ_DEAD_LETTER_EXCHANGE,
                    &settings::RABBITMQ_EVENTS_EXCHANGE,
                ],
                "poison would come back for ever: name two exchanges",
            );
        }
        let queue = self.value(&settings::RABBITMQ_EVENTS_QUEUE, queue_name);
        if broker.dead_letter_queue == broker.queue
            || queue.as_ref() == Some(&broker.dead_letter_queue)
        {
            self.contradiction(
                [
                    &settings::RABBITMQ_DEAD_LETTER_QUEUE,
                    &settings::RABBITMQ_EVENTS_QUEUE,
                ],
                "poison would come back for ever: name two queues",
            );
        }
        let taken = |name: &str| {
            let revocations = broker.revocations.as_ref();
            revocations.is_some_and(|stream| stream.queue == name)
        };
        if taken(&broker.queue) {
            self.contradiction(
                [&settings::REPLICA_NAME, &settings::RABBITMQ_EVENTS_QUEUE],
                "the queue would have the name of the stream by which replicas tell each other what was revoked: name \
                 the replica otherwise",
            );
        }
        if taken(&broker.dead_letter_queue) {
            self.contradiction(
                [
                    &settings::RABBITMQ_DEAD_LETTER_QUEUE,
                    &settings::RABBITMQ_EVENTS_QUEUE,
                ],
                "that is the name of the stream by which replicas tell each other what was revoked: name another queue",
            );
        }
        let retained = broker.stream_max_age;
        if stream && !retained.is_zero() && broker.history_max_age > retained {
            self.contradiction(
                [&settings::HISTORY_MAX_AGE, &settings::RABBITMQ_STREAM_MAX_AGE],
                "memory cannot reach further back than the stream it is filled from: lower the first or raise the second",
            );
        }
        let tells_apart = self
            .raw
            .given(&settings::AUTH_MODE)
            .is_some_and(|given| given.text == "jwt");
        if stream && tells_apart && self.raw.given(&settings::EVENT_ID_KEY).is_none() {
            self.warnings.push(format!(
                "{} is not set: ids of events that are not for a client confirm its guesses at what these say: set it to a \
                 secret of at least 32 bytes, the same on all replicas (openssl rand -hex 32)",
                settings::EVENT_ID_KEY.name
            ));
        }
        if stream && broker.declare && retained.is_zero() && broker.stream_max_bytes == 0 {
            self.warnings.push(format!(
                "{} and {}: the stream grows until the broker's disk is full",
                self.said(&settings::RABBITMQ_STREAM_MAX_AGE),
                self.said(&settings::RABBITMQ_STREAM_MAX_BYTES)
            ));
        }
    }

    fn contradictions_of_addressing(&mut self, rules: &AddressRules, format: PayloadFormat) {
        let headers = [
            (&settings::ADDRESS_USER_HEADER, &rules.user_header),
            (&settings::ADDRESS_CHANNEL_HEADER, &rules.channel_header),
            (&settings::ADDRESS_TEAM_HEADER, &rules.team_header),
            (&settings::ADDRESS_TENANT_HEADER, &rules.tenant_header),
        ];
        for (index, (setting, header)) in headers.iter().enumerate() {
            for (other_setting, other) in headers.iter().skip(index + 1) {
                if header == other {
                    self.contradiction(
                        [setting, other_setting],
                        "one header cannot name two kinds of audience: name two headers",
                    );
                }
            }
        }
        if rules.user_field.is_some()
            && self.same(&settings::ADDRESS_USER_FIELD, &settings::ADDRESS_TEAM_FIELD)
        {
            self.contradiction(
                [&settings::ADDRESS_USER_FIELD, &settings::ADDRESS_TEAM_FIELD],
                "one field cannot name two kinds of audience: name two fields",
            );
        }
        let fields = [
            (&settings::ADDRESS_USER_FIELD, rules.user_field.is_some()),
            (&settings::ADDRESS_TEAM_FIELD, rules.team_field.is_some()),
        ];
        for (setting, there) in fields {
            if there && format == PayloadFormat::Text {
                self.contradiction(
                    [setting, &settings::PAYLOAD_FORMAT],
                    "text has no fields: write json or json-object, or take the field out",
                );
            }
        }
    }

    fn contradictions_of_listeners(&mut self, http: &HttpConfig) {
        let (public, admin) = (http.bind, http.admin_bind);
        let same_address = public.ip() == admin.ip()
            || public.ip().is_unspecified()
            || admin.ip().is_unspecified();
        let both = self.command != Command::Dev;
        if both && public.port() != 0 && public.port() == admin.port() && same_address {
            self.contradiction(
                [&settings::HTTP_BIND, &settings::ADMIN_BIND],
                "two listeners cannot have one port: change one",
            );
        }
        let limits = [
            (
                &settings::HTTP_MAX_CONNECTIONS_PER_USER,
                http.max_connections_per_user,
            ),
            (
                &settings::HTTP_MAX_CONNECTIONS_PER_IP,
                http.max_connections_per_address,
            ),
        ];
        let given = self.raw.given(&settings::HTTP_MAX_CONNECTIONS).is_some();
        for (setting, limit) in limits {
            if given && http.max_connections != 0 && limit > http.max_connections {
                self.contradiction(
                    [setting, &settings::HTTP_MAX_CONNECTIONS],
                    "the first could never be reached: lower it or raise the second",
                );
            }
        }
        let allowed = what_descriptors_allow();
        if given && allowed != 0 && (http.max_connections == 0 || http.max_connections > allowed) {
            self.warnings.push(format!(
                "{}: this process may open descriptors for about {allowed} connections: raise its limit (ulimit -n, \
                 LimitNOFILE=)",
                self.said(&settings::HTTP_MAX_CONNECTIONS)
            ));
        }
    }

    /// Settings that protect something in one mode only: where they are set in another, somebody is mistaken about what
    /// protects the events.
    pub(super) fn settings_of_other_modes(&mut self, mode: AuthModeName) {
        let settings = [
            (&settings::AUTH_TOKEN, AuthModeName::Token, "token"),
            (&settings::AUTH_JWT_SECRET, AuthModeName::Jwt, "jwt"),
            (
                &settings::AUTH_JWT_PUBLIC_KEY_FILE,
                AuthModeName::Jwt,
                "jwt",
            ),
            (&settings::AUTH_JWKS_URL, AuthModeName::Jwt, "jwt"),
        ];
        // Without a mode nothing is protected anyway, and the commands that need none look at no client.
        if self.raw.given(&settings::AUTH_MODE).is_none() {
            return;
        }
        for (setting, of, word) in settings {
            if mode != of && self.raw.given(setting).is_some() {
                self.contradiction(
                    [setting, &settings::AUTH_MODE],
                    &format!(
                        "the first would protect nothing: write AUTH_MODE={word}, or take it out"
                    ),
                );
            }
        }
    }

    /// Keys are from one place, and of the kind that the algorithms want: where a public key could serve as a secret,
    /// whoever has it could sign (RFC 8725 §2.1).
    pub(super) fn contradictions_of_keys(&mut self, algorithms: &[Algorithm]) {
        let sources = [
            &settings::AUTH_JWT_SECRET,
            &settings::AUTH_JWT_PUBLIC_KEY_FILE,
            &settings::AUTH_JWKS_URL,
        ];
        let given: Vec<_> = sources
            .into_iter()
            .filter(|source| self.raw.given(source).is_some())
            .collect();
        if let [first, second, ..] = given[..] {
            self.contradiction(
                [first, second],
                "keys are from one place: take all but one out",
            );
            return;
        }
        let symmetric =
            |algorithm: &Algorithm| AlgorithmFamily::Hmac.algorithms().contains(algorithm);
        let secrets = algorithms
            .iter()
            .filter(|algorithm| symmetric(algorithm))
            .count();
        if secrets != 0 && secrets != algorithms.len() {
            self.problem(
                &settings::AUTH_JWT_ALGORITHMS,
                "mixes secrets (HS) with public keys: write one kind",
            );
        }
        for source in given {
            let wants_secrets = *source == settings::AUTH_JWT_SECRET;
            if wants_secrets != (secrets != 0) {
                let kind = if wants_secrets {
                    "HS256, HS384 or HS512"
                } else {
                    "RS, PS, ES or EdDSA"
                };
                self.contradiction(
                    [&settings::AUTH_JWT_ALGORITHMS, source],
                    &format!("such a key verifies {kind}: write those"),
                );
            }
        }
    }

    pub(super) fn contradictions_of_claims(&mut self) {
        let claims = [
            &settings::AUTH_CLAIM_USER,
            &settings::AUTH_CLAIM_TEAMS,
            &settings::AUTH_CLAIM_CHANNELS,
            &settings::AUTH_CLAIM_TENANT,
            &settings::AUTH_CLAIM_PERMISSIONS,
        ];
        let name = |reader: &Self, setting: &Setting| {
            let given = reader.raw.given(setting).map(|given| given.text.clone());
            given.or_else(|| setting.default.map(str::to_owned))
        };
        for (index, setting) in claims.iter().enumerate() {
            for other in claims.iter().skip(index + 1) {
                if name(self, setting) == name(self, other) {
                    self.contradiction(
                        [setting, other],
                        "one claim cannot mean two things: name two claims",
                    );
                }
            }
        }
    }

    fn contradictions_of_streams(&mut self, sse: &SseConfig) {
        if !sse.stall.is_zero() && sse.stall < sse.heartbeat {
            self.contradiction(
                [&settings::SSE_STALL_SECONDS, &settings::SSE_HEARTBEAT_SECONDS],
                "a client that is sent nothing for the second cannot prove within the first that it reads: raise the \
                 first to at least the second",
            );
        }
        if sse.heartbeat >= PATIENCE_OF_PROXIES {
            self.warnings.push(format!(
                "{}: most proxies cut a connection that is silent for 60 seconds",
                self.said(&settings::SSE_HEARTBEAT_SECONDS)
            ));
        }
    }

    fn contradictions_of_memory(&mut self, hub: &HubConfig, payload_max_bytes: usize) {
        if hub.max_events == 0 && hub.max_bytes == 0 {
            self.contradiction(
                [&settings::HISTORY_MAX_EVENTS, &settings::HISTORY_MAX_BYTES],
                "nothing would bound the memory: set one",
            );
        }
        if hub.max_events != 0 && hub.channel_capacity > hub.max_events {
            self.contradiction(
                [&settings::SSE_CHANNEL_CAPACITY, &settings::HISTORY_MAX_EVENTS],
                "one audience cannot hold more events than all together: lower the first or raise the second",
            );
        }
        if hub.max_bytes != 0 && payload_max_bytes > hub.max_bytes {
            self.contradiction(
                [&settings::PAYLOAD_MAX_BYTES, &settings::HISTORY_MAX_BYTES],
                "one body may not be larger than all that is held: lower the first or raise the second",
            );
        }
    }
    fn surprises_of_traces(&mut self, traces: Option<&TraceConfig>) {
        let Some(traces) = traces else { return };
        let by_ratio = self
            .raw
            .given(&settings::OTEL_TRACES_SAMPLER)
            .is_some_and(|given| given.text.ends_with("traceidratio"));
        if self.raw.given(&settings::OTEL_TRACES_SAMPLER_ARG).is_some() && !by_ratio {
            self.warnings.push(format!(
                "{} has no effect with {}: write traceidratio or parentbased_traceidratio",
                self.said(&settings::OTEL_TRACES_SAMPLER_ARG),
                self.said(&settings::OTEL_TRACES_SAMPLER)
            ));
        }
        let here = matches!(
            traces.endpoint.host(),
            Some("localhost" | "127.0.0.1" | "[::1]")
        );
        let in_the_clear = traces.endpoint.scheme_str() == Some("http");
        if in_the_clear && !here && !traces.headers.is_empty() {
            self.warnings.push(format!(
                "{} is sent in the clear to {}: write https://",
                self.said(&settings::OTEL_EXPORTER_OTLP_HEADERS),
                self.said(&settings::OTEL_EXPORTER_OTLP_ENDPOINT)
            ));
        }
    }
}
