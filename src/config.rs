//! Configuration: text from the sources, judged once and turned into the types that the rest works with.
//!
//! [`settings`] has the names, [`raw`] reads the sources, `value` says what a setting's text may be and `secrecy` how much of
//! it may be shown. What the settings mean together stands here and, where there is more to say, in a file for each
//! concern; `contradictions` has what does not go together. Everything that is wrong is reported at once, so that a
//! configuration is put right in one round. Nothing else in this program reads the environment.

pub mod settings;
mod secrecy;
pub mod raw;
mod value;
mod reader;
mod broker;
mod auth;
mod traces;
mod contradictions;

use std::collections::HashSet;
use std::fmt;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::time::Duration;

pub use self::raw::Sources;
pub use self::secrecy::Secrecy;
pub use self::value::duration;

use self::raw::Raw;
use self::reader::Reader;
use self::value::{
    cors_origins, event_id_key, header_name, limit, list_or_none, log_filter, memory_size,
    networks, number, one_of, parsed, path, seconds, socket_address,
};
use crate::amqp::BrokerConfig;
use crate::auth::AuthConfig;
use crate::event::address::{AddressRules, JsonPointer, RoutingKeyTemplate};
use crate::event::id::Marking;
use crate::event::payload::{PayloadFormat, PayloadRules};
use crate::event::topic::TopicPattern;
use crate::http::tls::{Tls, TlsFiles, Which};
use crate::http::{CorsOrigins, HttpConfig};
use crate::hub::{Backpressure, HubConfig};
use crate::traces::TraceConfig;
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
        let mut reader = Reader::new(&raw, Command::Serve, problems, HashSet::new());
        match reader.value(&settings::ADMIN_BIND, socket_address) {
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
        let mut reader = Reader::new(&raw, command, problems, faulty);
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
            .optional(&settings::EVENT_ID_KEY, event_id_key)
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
        let drain = self.value(&settings::DRAIN_SECONDS, seconds(0..=3_600));
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

    fn address(&mut self) -> Option<AddressRules> {
        let rules = AddressRules {
            user_header: self.value(&settings::ADDRESS_USER_HEADER, header_name)?,
            team_header: self.value(&settings::ADDRESS_TEAM_HEADER, header_name)?,
            channel_header: self.value(&settings::ADDRESS_CHANNEL_HEADER, header_name)?,
            tenant_header: self.value(&settings::ADDRESS_TENANT_HEADER, header_name)?,
            routing_keys: self.value(
                &settings::ADDRESS_ROUTING_KEYS,
                list_or_none(parsed::<RoutingKeyTemplate>),
            )?,
            user_field: self.optional(&settings::ADDRESS_USER_FIELD, parsed::<JsonPointer>),
            team_field: self.optional(&settings::ADDRESS_TEAM_FIELD, parsed::<JsonPointer>),
            broadcast_keys: self.value(
                &settings::ADDRESS_BROADCAST_KEYS,
                list_or_none(parsed::<TopicPattern>),
            )?,
        };
        let taken = rules
            .attribute_names()
            .find(|name| PARAMETERS.contains(name))
            .map(str::to_owned);
        if let Some(name) = taken {
            self.problem(
                &settings::ADDRESS_ROUTING_KEYS,
                &format!("{{{name}}} would be filtered by a parameter that GET /events has already: name it otherwise"),
            );
        }
        Some(rules)
    }

    fn payload(&mut self) -> Option<PayloadRules> {
        Some(PayloadRules {
            format: self.value(&settings::PAYLOAD_FORMAT, parsed::<PayloadFormat>)?,
            max_bytes: self.value(&settings::PAYLOAD_MAX_BYTES, memory_size)?,
        })
    }

    fn http(&mut self) -> Option<HttpConfig> {
        let everywhere_or_here = match self.command {
            Command::Dev => Some("127.0.0.1:8080"),
            Command::Serve | Command::Publish | Command::Token => settings::HTTP_BIND.default,
        };
        let config = HttpConfig {
            bind: self.value_or(&settings::HTTP_BIND, everywhere_or_here, socket_address)?,
            tls: self.tls(),
            admin_bind: self.value(&settings::ADMIN_BIND, socket_address)?,
            cors_origins: self
                .optional(&settings::HTTP_CORS_ORIGINS, cors_origins)
                .unwrap_or(CorsOrigins::None),
            trusted_proxies: self
                .optional(&settings::HTTP_TRUSTED_PROXIES, networks)
                .unwrap_or_default(),
            max_connections: self
                .optional(&settings::HTTP_MAX_CONNECTIONS, limit("connections"))
                .unwrap_or_else(what_descriptors_allow),
            max_connections_per_user: self
                .value(&settings::HTTP_MAX_CONNECTIONS_PER_USER, limit("streams"))?,
            max_connections_per_address: self
                .value(&settings::HTTP_MAX_CONNECTIONS_PER_IP, limit("streams"))?,
            max_connection_rate_per_address: self.value(
                &settings::HTTP_MAX_CONNECTION_RATE_PER_IP,
                number(0..=1_000_000, "connections a second (0: no limit)"),
            )?,
        };
        if self.command == Command::Dev && !config.bind.ip().is_loopback() {
            self.problem(
                &settings::HTTP_BIND,
                "dev has no login and listens only on this machine: write 127.0.0.1 or [::1], or use sse-bridge serve",
            );
        }
        Some(config)
    }

    /// Certificate and key, both or neither. Looked into at once, so that `check` finds what `serve` would.
    fn tls(&mut self) -> Option<TlsFiles> {
        let certificate = self.optional(&settings::HTTP_TLS_CERT_FILE, path);
        let key = self.optional(&settings::HTTP_TLS_KEY_FILE, path);
        let (Some(certificate), Some(key)) = (certificate.clone(), key.clone()) else {
            if certificate.is_some() || key.is_some() {
                self.contradiction(
                    [&settings::HTTP_TLS_CERT_FILE, &settings::HTTP_TLS_KEY_FILE],
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
                Which::Certificate => &settings::HTTP_TLS_CERT_FILE,
                Which::Key => &settings::HTTP_TLS_KEY_FILE,
            };
            self.problem(setting, &error.to_string());
        }
        Some(files)
    }

    fn sse(&mut self) -> Option<SseConfig> {
        Some(SseConfig {
            heartbeat: self.value(&settings::SSE_HEARTBEAT_SECONDS, seconds(1..=3_600))?,
            retry: self
                .value(
                    &settings::SSE_RETRY_MS,
                    number(100..=600_000, "milliseconds"),
                )
                .map(Duration::from_millis)?,
            stall: self.value(&settings::SSE_STALL_SECONDS, seconds(0..=3_600))?,
        })
    }

    fn hub(&mut self) -> Option<HubConfig> {
        Some(HubConfig {
            channel_capacity: self.value(&settings::SSE_CHANNEL_CAPACITY, limit("events"))?,
            backpressure: self.value(
                &settings::SSE_BACKPRESSURE,
                one_of(&[
                    ("drop-oldest", Backpressure::DropOldest),
                    ("latest", Backpressure::Latest),
                    ("disconnect", Backpressure::Disconnect),
                ]),
            )?,
            max_events: self.value(&settings::HISTORY_MAX_EVENTS, limit("events"))?,
            max_bytes: self.value(&settings::HISTORY_MAX_BYTES, memory_size)?,
            max_age: self.value(&settings::HISTORY_MAX_AGE, duration)?,
            flush_window: self
                .value(
                    &settings::SSE_FLUSH_WINDOW_MS,
                    number(0..=1_000, "milliseconds (0: each event at once)"),
                )
                .map(Duration::from_millis)?,
            // As the broker's settings say, which are read next.
            reads_back: false,
        })
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
                    &settings::LOG_FORMAT,
                    one_of(&[("json", LogFormat::Json), ("pretty", LogFormat::Pretty)]),
                )
                .unwrap_or_else(by_terminal),
            filter: self.value(&settings::RUST_LOG, log_filter)?,
        })
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
