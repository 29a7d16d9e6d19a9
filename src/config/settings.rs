//! Every setting: its name, its default, and how much of it may be shown. The only place with the names of variables.

use super::secrecy::Secrecy;

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
    /// The listener of metrics.
    ADMIN_BIND: Some("127.0.0.1:9090"), Open;
    /// How long an ending process takes over its clients.
    DRAIN_SECONDS: Some("20"), Open;
    /// After how much silence a client is sent a checkpoint.
    SSE_HEARTBEAT_SECONDS: Some("15"), Open;
    /// When browsers are told to come back.
    SSE_RETRY_MS: Some("2000"), Open;
    /// Within how long an audience's events are sent together.
    SSE_FLUSH_WINDOW_MS: Some("2"), Open;
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
