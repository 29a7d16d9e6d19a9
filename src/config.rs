//! Configuration: text from the sources, judged once and turned into the types that the rest works with.
//!
//! [`raw`] has the names and reads the sources; this file says which setting means what, `value` what its text may be,
//! and `contradictions` what does not go together. Everything that is wrong is
//! reported at once, so that a configuration is put right in one round. Nothing else in this program reads the
//! environment.

pub mod raw;
mod value;
mod contradictions;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use url::Url;

pub use self::raw::Sources;
pub use self::value::duration;

use self::raw::{Raw, Setting};
use self::value::{
    LONGEST_NAME, algorithm, amqp_address, binding_key, boolean, cookie_name, cors_origins,
    event_id_key, exchange_name, header_name, limit, list, list_or_none, log_filter, memory_size,
    networks, number, one_of, otlp_endpoint, otlp_headers, otlp_protocol, parsed, path,
    queue_expires, queue_name, ratio, replica_name, resource_attributes, revocation_age, seconds,
    service_name, signing_secret, size, socket_address, string_or_uri, token,
};
use crate::amqp::{AmqpAddress, BrokerConfig, QueueScope, QueueType, RevocationStream, Trust};
use crate::auth::{
    Algorithm, AuthConfig, AuthMode, ClaimName, ClaimNames, CookiePlace, JwksConfig, JwtConfig,
    KeySet, KeySource, Places, TokenRules,
};
use crate::event::address::{AddressRules, JsonPointer, RoutingKeyTemplate};
use crate::event::id::Marking;
use crate::event::payload::{PayloadFormat, PayloadRules};
use crate::event::topic::TopicPattern;
use crate::http::tls::{Tls, TlsFiles, Which};
use crate::http::{CorsOrigins, HttpConfig};
use crate::hub::{Backpressure, HubConfig};
use crate::traces::{Sampler, TraceConfig};
use crate::transport::SseConfig;

/// All settings of a process, judged.
#[derive(Clone, Debug)]
pub struct Config {
    /// RabbitMQ. For `dev`, which has none, without nodes and otherwise as by default.
    pub broker: BrokerConfig,
    /// How events are addressed.
    pub address: AddressRules,
    /// What bodies may be.
    pub payload: PayloadRules,
    /// How ids of a stream's events are marked.
    pub marking: Marking,
    /// Listeners and their limits.
    pub http: HttpConfig,
    /// Streams to browsers.
    pub sse: SseConfig,
    /// What is held in memory, and what becomes of readers that fall behind.
    pub hub: HubConfig,
    /// How clients are told apart.
    pub auth: AuthConfig,
    /// What is logged.
    pub log: LogConfig,
    /// Which spans are made and where they go, where a collector is named.
    pub traces: Option<TraceConfig>,
    /// How long an ending process takes over its clients; zero ends their streams at once.
    pub drain: Duration,
    /// What is no mistake, but should be logged once at the start.
    pub warnings: Vec<String>,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// For machines or for people.
    pub format: LogFormat,
    /// Directives of `tracing_subscriber::EnvFilter`, known to be legal.
    pub filter: String,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For reading on a terminal.
    Pretty,
}

/// All that is wrong with a configuration: one line each, each naming the setting, its value (never a secret), what is
/// legal, and what to do.
#[derive(Debug)]
pub struct ConfigError {
    problems: Vec<String>,
}

impl ConfigError {
    /// The lines.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// The configuration of `serve` and `check`: the broker and the way of telling clients apart must be named.
    ///
    /// # Errors
    ///
    /// Everything that is wrong.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        Self::read(sources, Command::Serve)
    }

    /// The configuration of `publish`, which has no clients: without `AUTH_MODE` it is as if that were `none`.
    ///
    /// # Errors
    ///
    /// Everything that is wrong.
    pub fn for_publish(sources: &Sources) -> Result<Self, ConfigError> {
        Self::read(sources, Command::Publish)
    }

    /// The configuration of `token`, which reaches nothing: how JWTs are judged is all that is looked at, and without
    /// `AUTH_MODE` it is as if that were `jwt`. Where `serve` would only verify, no key is needed.
    ///
    /// # Errors
    ///
    /// Everything that is wrong.
    pub fn for_token(sources: &Sources) -> Result<Self, ConfigError> {
        Self::read(sources, Command::Token)
    }

    /// The configuration of `dev`: no broker, no login, no admin listener (what is set of these is not looked at), and
    /// a listener that only this machine reaches.
    ///
    /// # Errors
    ///
    /// Everything that is wrong.
    pub fn for_dev(sources: &Sources) -> Result<Self, ConfigError> {
        Self::read(sources, Command::Dev)
    }

    /// Where `serve` with the same settings has its admin listener. Nothing else is judged and no file of a secret is
    /// read, as whoever asks whether it is alive asks often.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with that setting, or with the sources.
    pub fn admin_listener(sources: &Sources) -> Result<SocketAddr, ConfigError> {
        let mut problems = Vec::new();
        let raw = Raw::read(sources, &mut problems);
        let mut reader = Reader {
            raw: &raw,
            command: Command::Serve,
            problems,
            faulty: HashSet::new(),
            warnings: Vec::new(),
        };
        match reader.value(&raw::ADMIN_BIND, socket_address) {
            Some(address) if reader.problems.is_empty() => Ok(address),
            _ => Err(ConfigError {
                problems: reader.problems,
            }),
        }
    }

    fn read(sources: &Sources, command: Command) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let raw = Raw::read(sources, &mut problems);
        let raw = if command == Command::Dev {
            raw.for_dev()
        } else {
            raw
        };
        let mut faulty = HashSet::new();
        let raw = raw.with_files(&mut problems, &mut faulty);
        let mut reader = Reader {
            raw: &raw,
            command,
            problems,
            faulty,
            warnings: Vec::new(),
        };
        let config = reader.config();
        match config {
            Some(mut config) if reader.problems.is_empty() => {
                config.warnings = reader.warnings;
                Ok(config)
            }
            _ => Err(ConfigError {
                problems: reader.problems,
            }),
        }
    }
}

/// What is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Serve,
    Publish,
    Token,
    Dev,
}

/// A value of `AUTH_MODE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AuthModeName {
    Jwt,
    Token,
    None,
}

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

/// The judging of a configuration, and what was found so far.
struct Reader<'a> {
    raw: &'a Raw,
    command: Command,
    problems: Vec<String>,
    /// Settings whose value is not legal: no use in comparing it with others.
    faulty: HashSet<&'static str>,
    warnings: Vec<String>,
}

/// Concern by concern. A value that is not legal is noted and its default put in its place, so that reading goes on;
/// hence `None` only after a problem was noted.
impl Reader<'_> {
    fn config(&mut self) -> Option<Config> {
        let mut hub = self.hub();
        let mut broker = self.broker(hub.as_ref().map(|hub| hub.max_age));
        if let (Some(hub), Some(broker)) = (&mut hub, &broker) {
            hub.reads_back = self.command == Command::Serve && broker.reads_back();
        }
        let address = self.address();
        let payload = self.payload();
        let marking = self
            .optional(&raw::EVENT_ID_KEY, event_id_key)
            .unwrap_or_default();
        let http = self.http();
        let sse = self.sse();
        let auth = self.auth(http.as_ref().map(|http| &http.cors_origins));
        let revocations = auth.as_ref().and_then(|auth| self.revocations(auth));
        if let Some(broker) = &mut broker {
            broker.revocations = revocations;
        }
        let log = self.log();
        let traces = self.traces();
        let drain = self.value(&raw::DRAIN_SECONDS, seconds(0..=3_600));
        let config = Config {
            broker: broker?,
            address: address?,
            payload: payload?,
            marking,
            http: http?,
            sse: sse?,
            hub: hub?,
            auth: auth?,
            log: log?,
            traces,
            drain: drain?,
            warnings: Vec::new(),
        };
        self.contradictions(&config);
        Some(config)
    }

    fn broker(&mut self, history_max_age: Option<Duration>) -> Option<BrokerConfig> {
        let nodes = match self.command {
            Command::Dev | Command::Token => Vec::new(),
            Command::Serve | Command::Publish => self.nodes(),
        };
        let trust = self.trust(&nodes);
        let queue_scope = self.value(
            &raw::RABBITMQ_EVENTS_QUEUE_SCOPE,
            one_of(&[
                ("shared", QueueScope::Shared),
                ("replica", QueueScope::Replica),
            ]),
        )?;
        let queue_type = self.value(
            &raw::RABBITMQ_EVENTS_QUEUE_TYPE,
            one_of(&[
                ("stream", QueueType::Stream),
                ("quorum", QueueType::Quorum),
                ("classic", QueueType::Classic),
            ]),
        )?;
        let heartbeat = self.value(&raw::RABBITMQ_HEARTBEAT_SECONDS, seconds(1..=600))?;
        self.heartbeats_of_nodes(heartbeat);
        Some(BrokerConfig {
            nodes,
            trust,
            exchange: self.value(&raw::RABBITMQ_EVENTS_EXCHANGE, exchange_name)?,
            queue: self.queue(queue_scope)?,
            queue_type,
            queue_scope,
            binding_keys: self.value(&raw::RABBITMQ_EVENTS_BINDING_KEY, list(binding_key))?,
            prefetch: self.value(
                &raw::RABBITMQ_PREFETCH_COUNT,
                number(1..=65_535, "deliveries"),
            )?,
            declare: self.value(&raw::RABBITMQ_DECLARE, boolean)?,
            stream_max_age: self.value(&raw::RABBITMQ_STREAM_MAX_AGE, duration)?,
            stream_max_bytes: self.value(&raw::RABBITMQ_STREAM_MAX_BYTES, size)?,
            replica_queue_expires: self
                .value(&raw::RABBITMQ_REPLICA_QUEUE_EXPIRES, queue_expires)?,
            dead_letter_exchange: self.value(&raw::RABBITMQ_DEAD_LETTER_EXCHANGE, exchange_name)?,
            dead_letter_queue: self.value(&raw::RABBITMQ_DEAD_LETTER_QUEUE, queue_name)?,
            heartbeat,
            publish_pool_size: self.value(
                &raw::RABBITMQ_PUBLISH_POOL_SIZE,
                number(1..=64, "connections"),
            )?,
            read_back_readers: self
                .value(&raw::RABBITMQ_READ_BACK_READERS, number(0..=64, "readers"))?,
            history_max_age: history_max_age?,
            // As the settings of identity say, which are read later.
            revocations: None,
        })
    }

    /// Where replicas tell each other what was revoked: in a stream beside the events' queue, whatever that is.
    fn revocations(&mut self, auth: &AuthConfig) -> Option<RevocationStream> {
        let max_age = self.value(&raw::AUTH_REVOCATION_MAX_AGE, revocation_age)?;
        let queue = self.value(&raw::RABBITMQ_EVENTS_QUEUE, queue_name)?;
        auth.mode.checks_tokens().then(|| RevocationStream {
            queue: format!("{queue}.revocations"),
            max_age,
        })
    }

    fn nodes(&mut self) -> Vec<AmqpAddress> {
        if self.raw.given(&raw::RABBITMQ_URL).is_none() {
            self.missing(
                &raw::RABBITMQ_URL,
                "the broker, such as amqp://user:password@rabbitmq.example:5672/%2F (sse-bridge dev needs none)",
            );
        }
        self.optional(&raw::RABBITMQ_URL, list(amqp_address))
            .unwrap_or_default()
    }

    /// Whose certificates are believed, where a node is asked for TLS.
    fn trust(&mut self, nodes: &[AmqpAddress]) -> Option<Trust> {
        let of_file =
            |text: &str| Trust::of_file(Path::new(text)).map_err(|error| error.to_string());
        let given = self.raw.given(&raw::RABBITMQ_CA_FILE).is_some();
        let trust = self.optional(&raw::RABBITMQ_CA_FILE, of_file);
        match (nodes.iter().any(AmqpAddress::is_tls), given) {
            (true, true) => trust,
            (true, false) => Trust::of_system()
                .map_err(|error| self.problem(&raw::RABBITMQ_URL, &error.to_string()))
                .ok(),
            (false, true) if !nodes.is_empty() => {
                self.contradiction(
                    [&raw::RABBITMQ_CA_FILE, &raw::RABBITMQ_URL],
                    "without TLS nobody shows a certificate: write amqps://, or take the file out",
                );
                None
            }
            (false, _) => None,
        }
    }

    /// A heartbeat of the URL's own goes before the setting: fine, unless both are given and differ.
    fn heartbeats_of_nodes(&mut self, heartbeat: Duration) {
        if self.raw.given(&raw::RABBITMQ_HEARTBEAT_SECONDS).is_none() {
            return;
        }
        let urls = self
            .raw
            .given(&raw::RABBITMQ_URL)
            .map_or("", |given| &given.text);
        let of_url = |url: &str| {
            let url = Url::parse(url.trim()).ok()?;
            let (_, value) = url.query_pairs().find(|(name, _)| name == "heartbeat")?;
            Some(value.into_owned())
        };
        let other = urls
            .split(',')
            .filter_map(of_url)
            .find(|value| value.parse() != Ok(heartbeat.as_secs()));
        if let Some(value) = other {
            self.contradiction(
                [&raw::RABBITMQ_URL, &raw::RABBITMQ_HEARTBEAT_SECONDS],
                &format!("the URL says heartbeat={value}: take one out"),
            );
        }
    }

    /// The queue's full name: that of a replica's own queue ends in what tells it from the others.
    fn queue(&mut self, scope: QueueScope) -> Option<String> {
        let queue = self.value(&raw::RABBITMQ_EVENTS_QUEUE, queue_name)?;
        if scope == QueueScope::Shared {
            return Some(queue);
        }
        let replica = match self.optional(&raw::REPLICA_NAME, replica_name) {
            Some(name) => name,
            None => self.host_name()?,
        };
        let queue = format!("{queue}.{replica}");
        if queue.len() > LONGEST_NAME {
            self.contradiction(
                [&raw::RABBITMQ_EVENTS_QUEUE, &raw::REPLICA_NAME],
                "the two joined by a dot are longer than the 255 bytes of an AMQP name: shorten one",
            );
        }
        Some(queue)
    }

    fn host_name(&mut self) -> Option<String> {
        let name = gethostname::gethostname().to_string_lossy().into_owned();
        replica_name(&name)
            .map_err(|_| {
                self.missing(
                    &raw::REPLICA_NAME,
                    "a name that no other replica has, as this host's own is of no use",
                );
            })
            .ok()
    }

    fn address(&mut self) -> Option<AddressRules> {
        let rules = AddressRules {
            user_header: self.value(&raw::ADDRESS_USER_HEADER, header_name)?,
            team_header: self.value(&raw::ADDRESS_TEAM_HEADER, header_name)?,
            channel_header: self.value(&raw::ADDRESS_CHANNEL_HEADER, header_name)?,
            tenant_header: self.value(&raw::ADDRESS_TENANT_HEADER, header_name)?,
            routing_keys: self.value(
                &raw::ADDRESS_ROUTING_KEYS,
                list_or_none(parsed::<RoutingKeyTemplate>),
            )?,
            user_field: self.optional(&raw::ADDRESS_USER_FIELD, parsed::<JsonPointer>),
            team_field: self.optional(&raw::ADDRESS_TEAM_FIELD, parsed::<JsonPointer>),
            broadcast_keys: self.value(
                &raw::ADDRESS_BROADCAST_KEYS,
                list_or_none(parsed::<TopicPattern>),
            )?,
        };
        let taken = rules
            .attribute_names()
            .find(|name| PARAMETERS.contains(name))
            .map(str::to_owned);
        if let Some(name) = taken {
            self.problem(
                &raw::ADDRESS_ROUTING_KEYS,
                &format!("{{{name}}} would be filtered by a parameter that GET /events has already: name it otherwise"),
            );
        }
        Some(rules)
    }

    fn payload(&mut self) -> Option<PayloadRules> {
        Some(PayloadRules {
            format: self.value(&raw::PAYLOAD_FORMAT, parsed::<PayloadFormat>)?,
            max_bytes: self.value(&raw::PAYLOAD_MAX_BYTES, memory_size)?,
        })
    }

    fn http(&mut self) -> Option<HttpConfig> {
        let everywhere_or_here = match self.command {
            Command::Dev => Some("127.0.0.1:8080"),
            Command::Serve | Command::Publish | Command::Token => raw::HTTP_BIND.default,
        };
        let config = HttpConfig {
            bind: self.value_or(&raw::HTTP_BIND, everywhere_or_here, socket_address)?,
            tls: self.tls(),
            admin_bind: self.value(&raw::ADMIN_BIND, socket_address)?,
            cors_origins: self
                .optional(&raw::HTTP_CORS_ORIGINS, cors_origins)
                .unwrap_or(CorsOrigins::None),
            trusted_proxies: self
                .optional(&raw::HTTP_TRUSTED_PROXIES, networks)
                .unwrap_or_default(),
            max_connections: self
                .optional(&raw::HTTP_MAX_CONNECTIONS, limit("connections"))
                .unwrap_or_else(what_descriptors_allow),
            max_connections_per_user: self
                .value(&raw::HTTP_MAX_CONNECTIONS_PER_USER, limit("streams"))?,
            max_connections_per_address: self
                .value(&raw::HTTP_MAX_CONNECTIONS_PER_IP, limit("streams"))?,
            max_connection_rate_per_address: self.value(
                &raw::HTTP_MAX_CONNECTION_RATE_PER_IP,
                number(0..=1_000_000, "connections a second (0: no limit)"),
            )?,
            tcp_nodelay: self.value(&raw::HTTP_TCP_NODELAY, boolean)?,
        };
        if self.command == Command::Dev && !config.bind.ip().is_loopback() {
            self.problem(
                &raw::HTTP_BIND,
                "dev has no login and listens only on this machine: write 127.0.0.1 or [::1], or use sse-bridge serve",
            );
        }
        Some(config)
    }

    /// Certificate and key, both or neither. Looked into at once, so that `check` finds what `serve` would.
    fn tls(&mut self) -> Option<TlsFiles> {
        let certificate = self.optional(&raw::HTTP_TLS_CERT_FILE, path);
        let key = self.optional(&raw::HTTP_TLS_KEY_FILE, path);
        let (Some(certificate), Some(key)) = (certificate.clone(), key.clone()) else {
            if certificate.is_some() || key.is_some() {
                self.contradiction(
                    [&raw::HTTP_TLS_CERT_FILE, &raw::HTTP_TLS_KEY_FILE],
                    "one is of no use without the other: set both, or neither",
                );
            }
            return None;
        };
        let files = TlsFiles { certificate, key };
        // Whoever only publishes may not be able to read the key, and need not.
        if self.command != Command::Publish
            && let Err(error) = Tls::check(&files)
        {
            let setting = match error.which {
                Which::Certificate => &raw::HTTP_TLS_CERT_FILE,
                Which::Key => &raw::HTTP_TLS_KEY_FILE,
            };
            self.problem(setting, &error.to_string());
        }
        Some(files)
    }

    fn sse(&mut self) -> Option<SseConfig> {
        Some(SseConfig {
            heartbeat: self.value(&raw::SSE_HEARTBEAT_SECONDS, seconds(1..=3_600))?,
            retry: self
                .value(&raw::SSE_RETRY_MS, number(100..=600_000, "milliseconds"))
                .map(Duration::from_millis)?,
            stall: self.value(&raw::SSE_STALL_SECONDS, seconds(0..=3_600))?,
        })
    }

    fn hub(&mut self) -> Option<HubConfig> {
        Some(HubConfig {
            channel_capacity: self.value(&raw::SSE_CHANNEL_CAPACITY, limit("events"))?,
            backpressure: self.value(
                &raw::SSE_BACKPRESSURE,
                one_of(&[
                    ("drop-oldest", Backpressure::DropOldest),
                    ("latest", Backpressure::Latest),
                    ("disconnect", Backpressure::Disconnect),
                ]),
            )?,
            max_events: self.value(&raw::HISTORY_MAX_EVENTS, limit("events"))?,
            max_bytes: self.value(&raw::HISTORY_MAX_BYTES, memory_size)?,
            max_age: self.value(&raw::HISTORY_MAX_AGE, duration)?,
            // As the broker's settings say, which are read next.
            reads_back: false,
        })
    }

    fn auth(&mut self, origins: Option<&CorsOrigins>) -> Option<AuthConfig> {
        let modes = [
            ("jwt", AuthModeName::Jwt),
            ("token", AuthModeName::Token),
            ("none", AuthModeName::None),
        ];
        let named = self.optional(&raw::AUTH_MODE, one_of(&modes));
        if named.is_none()
            && self.command == Command::Serve
            && self.raw.given(&raw::AUTH_MODE).is_none()
        {
            self.missing(
                &raw::AUTH_MODE,
                "jwt (each client shows a token of its own), token (a trusted front end shows AUTH_TOKEN), or none \
                 (whoever reaches the port reads every event)",
            );
        }
        let name = named.unwrap_or(match self.command {
            Command::Token => AuthModeName::Jwt,
            Command::Serve | Command::Publish | Command::Dev => AuthModeName::None,
        });
        let places = self.places(name, origins)?;
        let shared = self.optional(&raw::AUTH_TOKEN, token);
        let jwt = self.jwt(name);
        self.settings_of_other_modes(name);
        let mode = match name {
            AuthModeName::None => AuthMode::None,
            AuthModeName::Token => {
                if self.raw.given(&raw::AUTH_TOKEN).is_none() {
                    self.missing(
                        &raw::AUTH_TOKEN,
                        "the secret that AUTH_MODE=token is about: at least 16 characters (openssl rand -hex 32)",
                    );
                }
                shared.map_or(AuthMode::None, AuthMode::Token)
            }
            AuthModeName::Jwt => jwt.map_or(AuthMode::None, |jwt| AuthMode::Jwt(Box::new(jwt))),
        };
        Some(AuthConfig { mode, places })
    }

    /// Where a token may stand. Whose pages may use a cookie is what CORS names.
    fn places(&mut self, mode: AuthModeName, origins: Option<&CorsOrigins>) -> Option<Places> {
        let name = self.optional(&raw::AUTH_COOKIE, cookie_name);
        let query = self.value(&raw::AUTH_QUERY_TOKEN, boolean)?;
        if query && mode == AuthModeName::None && self.command == Command::Serve {
            self.contradiction(
                [&raw::AUTH_QUERY_TOKEN, &raw::AUTH_MODE],
                "there is no token to take from anywhere: take the first out",
            );
        }
        if name.is_some() && origins == Some(&CorsOrigins::Any) {
            self.contradiction(
                [&raw::AUTH_COOKIE, &raw::HTTP_CORS_ORIGINS],
                "browsers would send the cookie for every page: name the origins that may use it",
            );
        }
        let origins = match origins {
            Some(CorsOrigins::Exactly(origins)) => origins
                .iter()
                .filter_map(|origin| origin.to_str().ok())
                .map(str::to_owned)
                .collect(),
            Some(CorsOrigins::None | CorsOrigins::Any) | None => Vec::new(),
        };
        let cookie = name.map(|name| CookiePlace { name, origins });
        Some(Places { cookie, query })
    }

    fn jwt(&mut self, mode: AuthModeName) -> Option<JwtConfig> {
        let given = self.optional(&raw::AUTH_JWT_ALGORITHMS, list(algorithm));
        let secret = self.optional(&raw::AUTH_JWT_SECRET, signing_secret);
        let asymmetric = self.raw.given(&raw::AUTH_JWT_SECRET).is_none();
        let by_kind: &[Algorithm] = if asymmetric {
            &[Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]
        } else {
            &[Algorithm::HS256]
        };
        let algorithms = given.unwrap_or_else(|| by_kind.to_vec());
        let file = self.optional(&raw::AUTH_JWT_PUBLIC_KEY_FILE, |path| {
            let text = std::fs::read_to_string(path)
                .map_err(|error| format!("cannot be read: {error}"))?;
            KeySet::of_pem(&text, &algorithms).map_err(|error| error.to_string())
        });
        let refresh = self.value(&raw::AUTH_JWKS_REFRESH_SECONDS, seconds(10..=86_400))?;
        let jwks = self.optional(&raw::AUTH_JWKS_URL, |url| JwksConfig::new(url, refresh));
        let rules = TokenRules {
            algorithms,
            issuers: self.strings(&raw::AUTH_JWT_ISSUER),
            audiences: self.strings(&raw::AUTH_JWT_AUDIENCE),
            leeway: self.value(&raw::AUTH_LEEWAY_SECONDS, seconds(0..=30))?,
            claims: ClaimNames {
                user: self.value(&raw::AUTH_CLAIM_USER, parsed::<ClaimName>)?,
                teams: self.value(&raw::AUTH_CLAIM_TEAMS, parsed::<ClaimName>)?,
                channels: self.value(&raw::AUTH_CLAIM_CHANNELS, parsed::<ClaimName>)?,
                tenant: self.value(&raw::AUTH_CLAIM_TENANT, parsed::<ClaimName>)?,
                permissions: self.value(&raw::AUTH_CLAIM_PERMISSIONS, parsed::<ClaimName>)?,
            },
        };
        self.contradictions_of_claims();
        self.contradictions_of_keys(&rules.algorithms);
        let keys = match (secret, file, jwks) {
            (Some(secret), _, _) => KeySource::Secret(secret),
            (None, Some(keys), _) => KeySource::File(keys),
            (None, None, Some(jwks)) => KeySource::Jwks(jwks),
            (None, None, None) => {
                let any = [
                    &raw::AUTH_JWT_SECRET,
                    &raw::AUTH_JWT_PUBLIC_KEY_FILE,
                    &raw::AUTH_JWKS_URL,
                ];
                let none_given = any.iter().all(|setting| self.raw.given(setting).is_none());
                if mode == AuthModeName::Jwt && none_given && self.command == Command::Serve {
                    self.problems.push(
                        "AUTH_MODE=jwt has no key to verify tokens with: set one of AUTH_JWT_SECRET, \
                         AUTH_JWT_PUBLIC_KEY_FILE, AUTH_JWKS_URL"
                            .to_owned(),
                    );
                }
                // `token` may be given a key to sign with on its command line, and `publish` has no clients.
                KeySource::File(KeySet::none())
            }
        };
        Some(JwtConfig { keys, rules })
    }

    fn strings(&mut self, setting: &Setting) -> Vec<String> {
        self.optional(setting, list(string_or_uri))
            .unwrap_or_default()
    }

    fn log(&mut self) -> Option<LogConfig> {
        let by_terminal = || {
            if std::io::stderr().is_terminal() {
                LogFormat::Pretty
            } else {
                LogFormat::Json
            }
        };
        Some(LogConfig {
            format: self
                .optional(
                    &raw::LOG_FORMAT,
                    one_of(&[("json", LogFormat::Json), ("pretty", LogFormat::Pretty)]),
                )
                .unwrap_or_else(by_terminal),
            filter: self.value(&raw::RUST_LOG, log_filter)?,
        })
    }

    /// Nothing is traced where no collector is named. What is wrong is told all the same.
    fn traces(&mut self) -> Option<TraceConfig> {
        let endpoint = self.optional(&raw::OTEL_EXPORTER_OTLP_ENDPOINT, otlp_endpoint);
        self.value(&raw::OTEL_EXPORTER_OTLP_PROTOCOL, otlp_protocol);
        let headers = self.optional(&raw::OTEL_EXPORTER_OTLP_HEADERS, otlp_headers);
        let timeout = self.value(
            &raw::OTEL_EXPORTER_OTLP_TIMEOUT,
            number(1..=600_000, "milliseconds"),
        );
        let sampler = self.sampler();
        let resource = self.resource();
        let delay = self.value(
            &raw::OTEL_BSP_SCHEDULE_DELAY,
            number(0..=600_000, "milliseconds"),
        );
        let queue = self.value(
            &raw::OTEL_BSP_MAX_QUEUE_SIZE,
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
            &raw::OTEL_TRACES_SAMPLER,
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
        let ratio = self.value(&raw::OTEL_TRACES_SAMPLER_ARG, ratio)?;
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
        let set = self.optional(&raw::OTEL_RESOURCE_ATTRIBUTES, resource_attributes);
        let name = self.value(&raw::OTEL_SERVICE_NAME, service_name);
        let is_named = self.raw.given(&raw::OTEL_SERVICE_NAME).is_some();
        let replica = self.raw.given(&raw::REPLICA_NAME).map_or_else(
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

/// Single values, and the words for what is wrong with them.
impl Reader<'_> {
    /// What is given for a setting or, where nothing is, its default.
    fn value<T>(
        &mut self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.value_or(setting, setting.default, parse)
    }

    fn value_or<T>(
        &mut self,
        setting: &Setting,
        default: Option<&str>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        if let Some(value) = self.optional(setting, &parse) {
            return Some(value);
        }
        match default.map(parse) {
            Some(Ok(value)) => Some(value),
            Some(Err(legal)) => {
                self.problem(setting, &legal);
                None
            }
            None => {
                self.missing(setting, "a value");
                None
            }
        }
    }

    /// What is given for a setting.
    fn optional<T>(
        &mut self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let given = self.raw.given(setting)?;
        match parse(&given.text) {
            Ok(value) => Some(value),
            Err(legal) => {
                self.problem(setting, &legal);
                None
            }
        }
    }

    fn problem(&mut self, setting: &Setting, legal: &str) {
        if self.faulty.insert(setting.name) {
            let problem = format!("{}: {legal}", self.said(setting));
            self.problems.push(problem);
        }
    }

    fn missing(&mut self, setting: &Setting, what: &str) {
        if self.faulty.insert(setting.name) {
            self.problems
                .push(format!("{} is not set: set it to {what}", setting.name));
        }
    }

    fn contradiction(&mut self, settings: [&Setting; 2], what: &str) {
        if settings
            .iter()
            .any(|setting| self.faulty.contains(setting.name))
        {
            return;
        }
        let [first, second] = settings.map(|setting| self.said(setting));
        self.problems
            .push(format!("{first} contradicts {second}: {what}"));
    }

    /// A setting with its value and where that is from, for people: never with a secret.
    fn said(&self, setting: &Setting) -> String {
        match (self.raw.given(setting), setting.default) {
            (Some(given), _) => {
                format!(
                    "{}={} ({})",
                    setting.name,
                    setting.secrecy.shown(&given.text),
                    given.origin
                )
            }
            (None, Some(default)) => format!("{}={default} (the default)", setting.name),
            (None, None) => setting.name.to_owned(),
        }
    }

    fn same(&self, one: &Setting, other: &Setting) -> bool {
        self.raw.given(one).map(|given| &given.text)
            == self.raw.given(other).map(|given| &given.text)
    }
}

/// Descriptors that are no clients': listeners, the broker's connections, files, and what a library opens.
const RESERVED_DESCRIPTORS: u64 = 64;

/// Parameters of `GET /events` that filter by something else than an attribute.
const PARAMETERS: &[&str] = &[
    "user_id",
    "team_id",
    "channel",
    "tenant_id",
    "broadcast",
    "all",
    "topic",
    "event",
    "envelope",
    "heartbeat",
    "last_event_id",
    "access_token",
];

/// Connections for which this process may open descriptors; 0 where there is no limit.
fn what_descriptors_allow() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(0, |limit| {
        // Of a small limit, half.
        let allowed = limit
            .saturating_sub(RESERVED_DESCRIPTORS)
            .max(limit / 2)
            .max(1);
        usize::try_from(allowed).unwrap_or(0)
    })
}
