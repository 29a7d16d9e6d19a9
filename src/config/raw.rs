//! Settings as text: their names, their defaults, and the sources they are read from. The only place with the names of
//! variables.
//!
//! The environment goes before `.env`, and that before the TOML file. What a value means is no concern of this file,
//! only whether its name is one: a name that is nearly right stops the start, because the default that would stand in
//! for it is not what was asked for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use config::{FileFormat, Source, Value, ValueKind};

/// A setting by its name.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    /// The name, the same in every source.
    pub name: &'static str,
    /// The name under which a file may be given that holds the value, if that is for settings such as this one.
    file: &'static str,
    /// What holds where no source names it. Where this is `None`, it is required, off, or computed at the start.
    pub default: Option<&'static str>,
    /// How much of its value may be shown.
    pub secrecy: Secrecy,
}

impl Setting {
    /// The name under which a file may be given that holds the value instead, as containers get their secrets. Only what
    /// is secret, or may hold a password, has one.
    #[must_use]
    pub const fn file(&self) -> Option<&'static str> {
        match self.secrecy {
            Secrecy::Open => None,
            Secrecy::Password | Secrecy::Secret => Some(self.file),
        }
    }
}

/// How much of a value may be shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// All of it.
    Open,
    /// A URL, or a comma list of them, whose passwords are hidden.
    Password,
    /// Nothing.
    Secret,
}

macro_rules! settings {
    ($($(#[$documentation:meta])* $name:ident: $default:expr, $secrecy:ident;)*) => {
        $(
            $(#[$documentation])*
            pub const $name: Setting = Setting {
                name: stringify!($name),
                file: concat!(stringify!($name), "_FILE"),
                default: $default,
                secrecy: Secrecy::$secrecy,
            };
        )*

        /// Every setting of this version, in the order of `.env.example`.
        pub const SETTINGS: &[Setting] = &[$($name),*];
    };
}

settings! {
    /// The broker's nodes, tried in turn.
    RABBITMQ_URL: None, Password;
    /// Whose certificates are believed of the broker; this system's authorities where it is not given.
    RABBITMQ_CA_FILE: None, Open;
    /// The exchange that producers publish to.
    RABBITMQ_EVENTS_EXCHANGE: Some("events.topic"), Open;
    /// The queue that is consumed.
    RABBITMQ_EVENTS_QUEUE: Some("events.sse"), Open;
    /// `stream`, `quorum` or `classic`.
    RABBITMQ_EVENTS_QUEUE_TYPE: Some("stream"), Open;
    /// Whether replicas read one queue or one each.
    RABBITMQ_EVENTS_QUEUE_SCOPE: Some("shared"), Open;
    /// What tells this replica's queue from the others'; the host's name where it is not given.
    REPLICA_NAME: None, Open;
    /// Which routing keys the queue is bound for.
    RABBITMQ_EVENTS_BINDING_KEY: Some("team.#,user.#,channel.#,broadcast.#"), Open;
    /// Deliveries on their way or not yet settled.
    RABBITMQ_PREFETCH_COUNT: Some("512"), Open;
    /// Whether the topology is declared or only checked.
    RABBITMQ_DECLARE: Some("true"), Open;
    /// How long a declared stream retains.
    RABBITMQ_STREAM_MAX_AGE: Some("24h"), Open;
    /// How much a declared stream retains.
    RABBITMQ_STREAM_MAX_BYTES: Some("1GiB"), Open;
    /// When the queue of a replica that is gone goes away.
    RABBITMQ_REPLICA_QUEUE_EXPIRES: Some("24h"), Open;
    /// Where poison goes.
    RABBITMQ_DEAD_LETTER_EXCHANGE: Some("events.dlx"), Open;
    /// The queue behind that exchange.
    RABBITMQ_DEAD_LETTER_QUEUE: Some("events.sse.dlq"), Open;
    /// AMQP heartbeats.
    RABBITMQ_HEARTBEAT_SECONDS: Some("10"), Open;
    /// Connections that publish.
    RABBITMQ_PUBLISH_POOL_SIZE: Some("2"), Open;
    /// How many may read back from the stream at once.
    RABBITMQ_READ_BACK_READERS: Some("4"), Open;
    /// The AMQP header that names a user.
    ADDRESS_USER_HEADER: Some("user-id"), Open;
    /// The AMQP header that names a channel.
    ADDRESS_CHANNEL_HEADER: Some("channel"), Open;
    /// The AMQP header that names a team.
    ADDRESS_TEAM_HEADER: Some("team-id"), Open;
    /// The AMQP header that names a tenant.
    ADDRESS_TENANT_HEADER: Some("tenant-id"), Open;
    /// Templates that address by routing key.
    ADDRESS_ROUTING_KEYS:
        Some("team.{team_id}.job.{job_id}.status,team.{team_id}.#,user.{user_id}.#,channel.{channel}.#"), Open;
    /// A JSON pointer to the user.
    ADDRESS_USER_FIELD: None, Open;
    /// A JSON pointer to the team.
    ADDRESS_TEAM_FIELD: None, Open;
    /// Routing keys of events that are for everybody.
    ADDRESS_BROADCAST_KEYS: Some("broadcast.#"), Open;
    /// What a body must be.
    PAYLOAD_FORMAT: Some("json"), Open;
    /// How large a body may be.
    PAYLOAD_MAX_BYTES: Some("262144"), Open;
    /// The secret by which ids of a stream's events are marked.
    EVENT_ID_KEY: None, Secret;
    /// The public listener.
    HTTP_BIND: Some("0.0.0.0:8080"), Open;
    /// The certificate of the public listener.
    HTTP_TLS_CERT_FILE: None, Open;
    /// Its key.
    HTTP_TLS_KEY_FILE: None, Open;
    /// Origins whose pages may read.
    HTTP_CORS_ORIGINS: None, Open;
    /// Proxies that are believed about whom a request is from.
    HTTP_TRUSTED_PROXIES: None, Open;
    /// Connections in all; what the descriptor limit allows where it is not given.
    HTTP_MAX_CONNECTIONS: None, Open;
    /// Streams of one user.
    HTTP_MAX_CONNECTIONS_PER_USER: Some("0"), Open;
    /// Streams from one address.
    HTTP_MAX_CONNECTIONS_PER_IP: Some("0"), Open;
    /// New connections a second from one address.
    HTTP_MAX_CONNECTION_RATE_PER_IP: Some("0"), Open;
    /// Whether each event leaves at once.
    HTTP_TCP_NODELAY: Some("true"), Open;
    /// The listener of metrics.
    ADMIN_BIND: Some("127.0.0.1:9090"), Open;
    /// How long an ending process takes over its clients.
    DRAIN_SECONDS: Some("20"), Open;
    /// After how much silence a client is sent a checkpoint.
    SSE_HEARTBEAT_SECONDS: Some("15"), Open;
    /// When browsers are told to come back.
    SSE_RETRY_MS: Some("2000"), Open;
    /// What becomes of a client that cannot keep up.
    SSE_BACKPRESSURE: Some("drop-oldest"), Open;
    /// Events that one audience's ring holds.
    SSE_CHANNEL_CAPACITY: Some("1024"), Open;
    /// How long a client may take nothing.
    SSE_STALL_SECONDS: Some("30"), Open;
    /// Events held in memory.
    HISTORY_MAX_EVENTS: Some("100000"), Open;
    /// Bytes held in memory.
    HISTORY_MAX_BYTES: Some("256MiB"), Open;
    /// How long an event is held in memory.
    HISTORY_MAX_AGE: Some("10m"), Open;
    /// How clients are told apart.
    AUTH_MODE: None, Open;
    /// The secret of `AUTH_MODE=token`.
    AUTH_TOKEN: None, Secret;
    /// The secret that JWTs are signed with.
    AUTH_JWT_SECRET: None, Secret;
    /// The public keys that JWTs are verified with.
    AUTH_JWT_PUBLIC_KEY_FILE: None, Open;
    /// Where those are fetched.
    AUTH_JWKS_URL: None, Password;
    /// How often they are.
    AUTH_JWKS_REFRESH_SECONDS: Some("300"), Open;
    /// Which algorithms may have signed a JWT; by the kind of key where it is not given.
    AUTH_JWT_ALGORITHMS: None, Open;
    /// Who may have issued it.
    AUTH_JWT_ISSUER: None, Open;
    /// For whom it has to be.
    AUTH_JWT_AUDIENCE: None, Open;
    /// By how much clocks may differ.
    AUTH_LEEWAY_SECONDS: Some("30"), Open;
    /// The claim that is the user.
    AUTH_CLAIM_USER: Some("sub"), Open;
    /// The claim with the teams.
    AUTH_CLAIM_TEAMS: Some("teams"), Open;
    /// The claim with the patterns of channels.
    AUTH_CLAIM_CHANNELS: Some("channels"), Open;
    /// The claim that is the tenant.
    AUTH_CLAIM_TENANT: Some("tenant_id"), Open;
    /// The claim with the permissions.
    AUTH_CLAIM_PERMISSIONS: Some("permissions"), Open;
    /// The cookie that may bear a token.
    AUTH_COOKIE: None, Open;
    /// Whether a token may stand in the query.
    AUTH_QUERY_TOKEN: Some("false"), Open;
    /// How long a revocation is known.
    AUTH_REVOCATION_MAX_AGE: Some("24h"), Open;
    /// `json` or `pretty`; by the terminal where it is not given.
    LOG_FORMAT: None, Open;
    /// What is logged.
    RUST_LOG: Some("info"), Open;
    /// Where the collector of traces is.
    OTEL_EXPORTER_OTLP_ENDPOINT: None, Password;
    /// How it is spoken to.
    OTEL_EXPORTER_OTLP_PROTOCOL: Some("http/protobuf"), Open;
    /// What is sent along.
    OTEL_EXPORTER_OTLP_HEADERS: None, Secret;
    /// How long the collector may take.
    OTEL_EXPORTER_OTLP_TIMEOUT: Some("10000"), Open;
    /// Which traces are recorded.
    OTEL_TRACES_SAMPLER: Some("parentbased_always_on"), Open;
    /// How many of them.
    OTEL_TRACES_SAMPLER_ARG: Some("1"), Open;
    /// What this service is called in traces.
    OTEL_SERVICE_NAME: Some("sse-bridge"), Open;
    /// What else tells its spans from others.
    OTEL_RESOURCE_ATTRIBUTES: None, Open;
    /// How long a span may wait for others.
    OTEL_BSP_SCHEDULE_DELAY: Some("5000"), Open;
    /// How many spans may wait.
    OTEL_BSP_MAX_QUEUE_SIZE: Some("2048"), Open;
}

/// The TOML file. No setting of its own, as it cannot stand in that file.
const CONFIG_FILE: &str = "SSE_BRIDGE_CONFIG";

/// Variables of other programs that happen to be spelt almost like ours.
const OF_OTHERS: &[&str] = &[
    "OAUTH_TOKEN",
    "AUTH_CODE",
    "OTEL_BLRP_SCHEDULE_DELAY",
    "OTEL_BLRP_MAX_QUEUE_SIZE",
];

/// What settings of a broker, of identity and of the admin listener begin with: `dev` has none of these.
const NOT_FOR_DEV: &[&str] = &["RABBITMQ_", "REPLICA_", "AUTH_", "ADMIN_"];

/// A name as far as this from a known one, in letters added, left out, changed or swapped, is taken for a slip of it.
const NEAR: usize = 2;
/// Shorter names are not judged: at two letters, too many are near.
const SHORTEST_JUDGED: usize = 8;

/// Where settings are read from. No `Debug`: it holds secrets.
pub struct Sources {
    /// The variables of the environment: the strongest source.
    pub environment: Vec<(String, String)>,
    /// A file of `NAME=value` lines.
    pub env_file: Option<PathBuf>,
    /// A TOML file of flat names: the weakest source. `SSE_BRIDGE_CONFIG` names it where this is `None`.
    pub config_file: Option<PathBuf>,
}

impl Sources {
    /// The sources of this process: its environment, and the files that its arguments name. Without `env_file` it is
    /// `.env` in the current directory, if there is one.
    #[must_use]
    pub fn from_process(env_file: Option<PathBuf>, config_file: Option<PathBuf>) -> Self {
        // Not `vars`, which panics where one is not UTF-8.
        let environment = std::env::vars_os()
            .map(|(name, value)| {
                (
                    name.to_string_lossy().into_owned(),
                    value.to_string_lossy().into_owned(),
                )
            })
            .collect();
        let usual = || Some(PathBuf::from(".env")).filter(|path| path.is_file());
        Self {
            environment,
            env_file: env_file.or_else(usual),
            config_file,
        }
    }
}

/// What the sources gave, as text.
#[derive(Default)]
pub struct Raw {
    given: HashMap<&'static str, Given>,
    /// By the names of their settings, the files that hold values: their paths as text.
    files: HashMap<&'static str, Given>,
}

/// One value and where it is from.
#[derive(Clone, PartialEq, Eq)]
pub struct Given {
    /// The value, without blanks around it; never empty.
    pub text: String,
    /// The source, in words.
    pub origin: String,
}

impl Raw {
    /// Reads the sources, and puts what is wrong with names and files into `problems`. An empty value hides that of a
    /// weaker source and stands for the default.
    #[must_use]
    pub fn read(sources: &Sources, problems: &mut Vec<String>) -> Self {
        let mut reading = Reading { problems };
        let environment = reading.environment(&sources.environment);
        let env_file = sources
            .env_file
            .as_deref()
            .and_then(|path| reading.env_file(path));
        let named = [Some(&environment), env_file.as_ref()]
            .into_iter()
            .flatten()
            .find_map(|layer| layer.texts.get(CONFIG_FILE))
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        let config_file = sources
            .config_file
            .clone()
            .or(named)
            .and_then(|path| reading.toml(&path));

        let builder = [config_file, env_file, Some(environment)]
            .into_iter()
            .flatten()
            .fold(config::Config::builder(), |builder, layer| {
                builder.add_source(layer)
            });
        let merged = builder
            .build()
            .and_then(|merged| merged.collect())
            .unwrap_or_else(|error| {
                reading
                    .problems
                    .push(format!("the settings cannot be joined: {error}"));
                config::Map::new()
            });
        let given = |name: &str| {
            let value = merged.get(name)?;
            let text = text_of(&value.kind).filter(|text| !text.is_empty())?;
            let origin = value.origin().unwrap_or("unknown").to_owned();
            Some(Given { text, origin })
        };
        Self {
            given: SETTINGS
                .iter()
                .filter_map(|setting| Some((setting.name, given(setting.name)?)))
                .collect(),
            files: SETTINGS
                .iter()
                .filter_map(|setting| Some((setting.name, given(setting.file()?)?)))
                .collect(),
        }
    }

    /// Puts in what the files hold that the sources name. A step of its own, so that whoever has no use for a secret needs
    /// no file. The names of settings whose file is of no use go into `faulty`.
    #[must_use]
    pub fn with_files(
        mut self,
        problems: &mut Vec<String>,
        faulty: &mut HashSet<&'static str>,
    ) -> Self {
        for setting in SETTINGS {
            let (Some(name), Some(file)) = (setting.file(), self.files.remove(setting.name)) else {
                continue;
            };
            let wrong = match std::fs::read_to_string(&file.text) {
                Ok(text) if text.trim().is_empty() => "holds nothing".to_owned(),
                Ok(text) => {
                    let text = text.trim().to_owned();
                    let origin = one_line(&file.text);
                    self.given.insert(setting.name, Given { text, origin });
                    continue;
                }
                Err(error) => format!("cannot be read: {error}"),
            };
            let (path, origin) = (one_line(&file.text), file.origin);
            problems.push(format!("{name}={path} ({origin}): {wrong}"));
            faulty.insert(setting.name);
        }
        self
    }

    /// What the sources gave for a setting.
    #[must_use]
    pub fn given(&self, setting: &Setting) -> Option<&Given> {
        self.given.get(setting.name)
    }

    /// The same without what `dev` has no use for, so that it starts beside a `.env` that was written for `serve`.
    #[must_use]
    pub fn for_dev(mut self) -> Self {
        let is_for_dev = |name: &str| !NOT_FOR_DEV.iter().any(|prefix| name.starts_with(prefix));
        self.given.retain(|name, _| is_for_dev(name));
        self.files.retain(|name, _| is_for_dev(name));
        self
    }
}

impl Secrecy {
    /// What of a value may be shown: on one line, of bounded length.
    #[must_use]
    pub fn shown(self, text: &str) -> String {
        match self {
            Self::Open => one_line(text),
            Self::Password => one_line(&without_passwords(text)),
            Self::Secret => "***".to_owned(),
        }
    }
}

/// One source's values under known names.
#[derive(Clone)]
struct Layer {
    origin: String,
    texts: BTreeMap<&'static str, String>,
}

/// Without the values, of which some are secret.
impl std::fmt::Debug for Layer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Layer")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, Value>, config::ConfigError> {
        let value = |text: &String| Value::new(Some(&self.origin), text.as_str());
        Ok(self
            .texts
            .iter()
            .map(|(name, text)| ((*name).to_owned(), value(text)))
            .collect())
    }
}

/// The reading of sources, and what was found wrong with them.
struct Reading<'a> {
    problems: &'a mut Vec<String>,
}

impl Reading<'_> {
    fn environment(&mut self, variables: &[(String, String)]) -> Layer {
        let variables = variables
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()));
        self.layer("the environment".to_owned(), variables)
    }

    fn env_file(&mut self, path: &Path) -> Option<Layer> {
        let origin = path.display().to_string();
        let text = self.contents(path, "name another with --env-file, or leave it out")?;
        // The parser wants neither a byte order mark nor blanks before the end of the file.
        let text = format!("{}\n", text.trim_start_matches('\u{feff}'));
        let mut variables = Vec::new();
        for line in dotenvy::from_read_iter(text.as_bytes()) {
            match line {
                Ok(variable) => variables.push(variable),
                Err(error) => self.problems.push(format!(
                    "{origin}: {} is not NAME=value: put a value with blanks or quotes in single quotes",
                    place(&text, &error)
                )),
            }
        }
        let variables = variables
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()));
        Some(self.layer(origin, variables))
    }

    fn toml(&mut self, path: &Path) -> Option<Layer> {
        let origin = path.display().to_string();
        let text = self.contents(path, "name another with --config, or leave it out")?;
        let table = match config::File::from_str(&text, FileFormat::Toml).collect() {
            Ok(table) => table,
            Err(error) => {
                // Its other lines quote the file, which may hold a secret.
                let error = error.to_string();
                let place = error.lines().next().unwrap_or_default();
                self.problems.push(format!(
                    "{origin}: {place}: write NAME = \"value\", strings in quotes, every name once"
                ));
                return None;
            }
        };
        let mut layer = Layer {
            origin,
            texts: BTreeMap::new(),
        };
        let table: BTreeMap<String, Value> = table.into_iter().collect();
        for (written, value) in table {
            let name = written.to_ascii_uppercase();
            match (known(&name), text_of(&value.kind)) {
                (Some(known), Some(text)) => self.keep(&mut layer, known, &text),
                (Some(known), None) => self.problems.push(format!(
                    "{known} ({}): is a table: write text, a number, true, false, or a list of texts",
                    layer.origin
                )),
                (None, _) => self.problems.push(unknown(&written, &name, &layer.origin)),
            }
        }
        Some(self.values_or_their_files(layer))
    }

    fn layer<'a>(
        &mut self,
        origin: String,
        variables: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Layer {
        let mut layer = Layer {
            origin,
            texts: BTreeMap::new(),
        };
        for (name, text) in variables {
            if let Some(known) = known(name) {
                self.keep(&mut layer, known, text);
            } else if let Some(meant) = meant(name) {
                self.problems.push(misspelt(name, meant, &layer.origin));
            }
        }
        self.values_or_their_files(layer)
    }

    /// A value and the file that it may be read from are two ways to say one thing: a source that says either hides both
    /// of a weaker source, and one that says both contradicts itself.
    fn values_or_their_files(&mut self, mut layer: Layer) -> Layer {
        for setting in SETTINGS {
            let (name, Some(file)) = (setting.name, setting.file()) else {
                continue;
            };
            let given = |name| layer.texts.get(name).map(|text| !text.is_empty());
            match (given(name), given(file)) {
                (None, None) => continue,
                (Some(true), Some(true)) => self.problems.push(format!(
                    "{name} and {file} ({}): are both there: take one out",
                    layer.origin
                )),
                _ => {}
            }
            layer.texts.entry(name).or_default();
            layer.texts.entry(file).or_default();
        }
        layer
    }

    fn keep(&mut self, layer: &mut Layer, name: &'static str, text: &str) {
        let text = text.trim();
        if text.contains(char::REPLACEMENT_CHARACTER) {
            self.problems
                .push(format!("{name} ({}): is not UTF-8", layer.origin));
            return;
        }
        let before = layer.texts.insert(name, text.to_owned());
        if before.is_some_and(|before| before != text) {
            self.problems.push(format!(
                "{name} ({}): is there twice, with different values: take one out",
                layer.origin
            ));
        }
    }

    fn contents(&mut self, path: &Path, instead: &str) -> Option<String> {
        std::fs::read_to_string(path)
            .map_err(|error| {
                self.problems.push(format!(
                    "{}: cannot be read: {error}: {instead}",
                    path.display()
                ));
            })
            .ok()
    }
}

/// Every name that is no mistake.
fn names() -> impl Iterator<Item = &'static str> {
    SETTINGS
        .iter()
        .flat_map(|setting| std::iter::once(setting.name).chain(setting.file()))
        .chain(std::iter::once(CONFIG_FILE))
}

fn known(name: &str) -> Option<&'static str> {
    names().find(|known| *known == name)
}

/// The known name that an unknown one is a slip of.
fn meant(name: &str) -> Option<&'static str> {
    if name.len() < SHORTEST_JUDGED || OF_OTHERS.contains(&name) {
        return None;
    }
    let name = name.to_ascii_uppercase();
    names()
        .map(|known| (strsim::damerau_levenshtein(&name, known), known))
        .filter(|(distance, _)| *distance <= NEAR)
        .min()
        .map(|(_, known)| known)
}

fn misspelt(name: &str, meant: &str, origin: &str) -> String {
    format!("{name} ({origin}): is no setting: write {meant}, or take it out")
}

fn unknown(written: &str, name: &str, origin: &str) -> String {
    meant(name).map_or_else(
        || {
            format!(
                "{} ({origin}): is no setting: take it out (.env.example lists all there are)",
                one_line(written)
            )
        },
        |meant| misspelt(written, meant, origin),
    )
}

/// A TOML value as the environment would have it. Of a list, its members joined by commas, and of an empty one the word
/// that stands for nothing, as an empty value is the default.
fn text_of(kind: &ValueKind) -> Option<String> {
    match kind {
        ValueKind::Array(members) if members.is_empty() => Some(NOTHING.to_owned()),
        ValueKind::Array(members) => {
            let members: Option<Vec<String>> = members
                .iter()
                .map(|member| {
                    Some(&member.kind)
                        .filter(|kind| !matches!(kind, ValueKind::Array(_)))
                        .and_then(text_of)
                })
                .collect();
            members.map(|members| members.join(","))
        }
        ValueKind::Table(_) | ValueKind::Nil => None,
        scalar => Some(scalar.to_string()),
    }
}

/// What stands for an empty list.
pub const NOTHING: &str = "none";

/// Where in a `.env` file an error is, without quoting the file.
fn place(text: &str, error: &dotenvy::Error) -> String {
    match error {
        dotenvy::Error::LineParse(line, _) => text
            .find(line.trim_end())
            .and_then(|start| text.get(..start))
            .map_or_else(
                || "a line".to_owned(),
                |before| format!("line {}", before.matches('\n').count() + 1),
            ),
        _ => "a line".to_owned(),
    }
}

/// A value on one line, of bounded length.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut line = String::new();
    for character in text.chars().take(LONGEST) {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

/// A comma list of URLs with `***` for their passwords. What does not look like such a list is hidden whole, as it may
/// be a password with a comma in it.
fn without_passwords(text: &str) -> String {
    let urls: Option<Vec<String>> = text.split(',').map(without_password).collect();
    urls.map_or_else(|| "***".to_owned(), |urls| urls.join(","))
}

fn without_password(url: &str) -> Option<String> {
    let (scheme, rest) = url.trim().split_once("://")?;
    let rest = match rest.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split_once(':').map_or(user, |(user, _)| user);
            format!("{user}:***@{host}")
        }
        // No host after it: this may be a user and the first half of a password.
        None => {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let port = authority
                .rsplit_once(':')
                .map_or("", |(_, port)| port.trim_end_matches(']'));
            if port.chars().all(|character| character.is_ascii_hexdigit()) {
                rest.to_owned()
            } else {
                "***".to_owned()
            }
        }
    };
    let rest = rest.split('?').next().unwrap_or_default();
    Some(format!("{scheme}://{rest}"))
}
