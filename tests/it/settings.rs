//! The settings, from outside: `.env.example` says what the code does, and whoever makes a mistake is told which one,
//! all of them at once, and never with a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use sse_bridge::amqp::{QueueScope, QueueType};
use sse_bridge::auth::AuthMode;
use sse_bridge::config::settings::{SETTINGS, Setting};
use sse_bridge::config::{Config, LogFormat, Sources};
use sse_bridge::http::CorsOrigins;
use sse_bridge::hub::Backpressure;
use tempfile::TempDir;

const EXAMPLE: &str = include_str!("../../.env.example");

/// What `serve` cannot do without.
const LEAST: &[(&str, &str)] = &[("RABBITMQ_URL", "amqp://localhost"), ("AUTH_MODE", "none")];

type Pairs<'a> = &'a [(&'a str, &'a str)];

/// An environment and no files. Of a name that is there twice, the last holds.
fn environment(pairs: &[Pairs<'_>]) -> Sources {
    let variables: BTreeMap<String, String> = pairs
        .concat()
        .iter()
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect();
    Sources {
        environment: variables.into_iter().collect(),
        env_file: None,
        config_file: None,
    }
}

fn load(pairs: Pairs<'_>) -> Config {
    match Config::load(&environment(&[LEAST, pairs])) {
        Ok(config) => config,
        Err(error) => panic!("{pairs:?} is refused: {error}"),
    }
}

/// The lines that `serve` refuses this with, beside what it cannot do without.
fn refusal(pairs: Pairs<'_>) -> String {
    refusal_of(&environment(&[LEAST, pairs]))
}

fn refusal_of(sources: &Sources) -> String {
    match Config::load(sources) {
        Ok(_) => panic!("{:?} is accepted", sources.environment),
        Err(error) => error.to_string(),
    }
}

/// Files that are gone when the test ends.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        match tempfile::tempdir() {
            Ok(directory) => Self(directory),
            Err(error) => panic!("no temporary directory: {error}"),
        }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        match std::fs::write(&path, text) {
            Ok(()) => path,
            Err(error) => panic!("{} cannot be written: {error}", path.display()),
        }
    }
}

/// The settings of `.env.example`: name, value, and whether the line is commented out.
fn example() -> Vec<(&'static str, &'static str, bool)> {
    EXAMPLE
        .lines()
        .filter_map(|line| {
            let (text, commented_out) = line
                .strip_prefix("# ")
                .map_or((line, false), |text| (text, true));
            let (name, value) = text.split_once('=')?;
            let legal =
                |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
            name.bytes()
                .all(legal)
                .then_some((name, value, commented_out))
        })
        .collect()
}

#[test]
fn the_example_names_every_setting_once_in_the_order_of_the_code() {
    let names: Vec<&str> = example().into_iter().map(|(name, ..)| name).collect();
    let settings: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
    assert_eq!(names, settings);
}

#[test]
fn the_example_shows_the_defaults_commented_out_and_leaves_open_what_must_be_set() {
    let must_be_set = BTreeSet::from(["RABBITMQ_URL", "AUTH_MODE", "AUTH_TOKEN"]);
    for (name, value, commented_out) in example() {
        assert_eq!(
            commented_out,
            !must_be_set.contains(name),
            "{name} is commented out"
        );
        let default = SETTINGS
            .iter()
            .find(|setting| setting.name == name)
            .and_then(|setting| setting.default);
        if commented_out {
            assert_eq!(value, default.unwrap_or_default(), "the default of {name}");
        } else {
            assert_eq!(default, None, "{name} must be set, but has a default");
        }
    }
}

#[test]
fn every_setting_of_the_example_has_a_comment_above_it() {
    let mut explained = false;
    for line in EXAMPLE.lines() {
        let setting = line
            .trim_start_matches("# ")
            .split_once('=')
            .map(|(name, _)| name);
        let is_setting =
            setting.is_some_and(|name| SETTINGS.iter().any(|setting| setting.name == name));
        assert!(!is_setting || explained, "nothing explains {line}");
        explained =
            (is_setting && explained) || (line.starts_with('#') && !line.starts_with("# ---"));
    }
}

#[test]
fn the_example_is_legal_as_it_stands_once_the_token_is_set() {
    let files = Files::new();
    let token = "AUTH_TOKEN=0123456789abcdef0123456789abcdef";
    let as_copied = EXAMPLE.replace("\nAUTH_TOKEN=\n", &format!("\n{token}\n"));
    let uncommented = example()
        .into_iter()
        .fold(String::new(), |mut text, (name, value, _)| {
            let value = if name == "AUTH_TOKEN" {
                "0123456789abcdef"
            } else {
                value
            };
            writeln!(text, "{name}={value}").unwrap();
            text
        });
    for text in [as_copied, uncommented] {
        let env_file = Some(files.write(".env", &text));
        let sources = Sources {
            environment: Vec::new(),
            env_file,
            config_file: None,
        };
        let config = Config::load(&sources).unwrap();
        assert!(matches!(config.auth.mode, AuthMode::Token(_)));
        assert_eq!(config.warnings, Vec::<String>::new());
    }
    let env_file = Some(files.write(".env", EXAMPLE));
    let untouched = refusal_of(&Sources {
        environment: Vec::new(),
        env_file,
        config_file: None,
    });
    assert!(
        untouched.starts_with("AUTH_TOKEN is not set: "),
        "{untouched}"
    );
    assert_eq!(untouched.lines().count(), 1, "{untouched}");
}

#[test]
fn what_is_not_set_is_as_by_default() {
    let config = load(&[]);
    assert_eq!(config.warnings, Vec::<String>::new());
    let broker = &config.broker;
    assert_eq!(broker.nodes.len(), 1);
    assert_eq!(
        (broker.exchange.as_str(), broker.queue.as_str()),
        ("events.topic", "events.sse")
    );
    assert_eq!(
        (broker.queue_type, broker.queue_scope),
        (QueueType::Stream, QueueScope::Shared)
    );
    assert_eq!(
        broker.binding_keys,
        ["team.#", "user.#", "channel.#", "broadcast.#"]
    );
    assert_eq!((broker.prefetch, broker.declare), (512, true));
    assert_eq!(broker.stream_max_age, Duration::from_secs(24 * 60 * 60));
    assert_eq!(broker.stream_max_bytes, 1 << 30);
    assert_eq!(
        broker.replica_queue_expires,
        Duration::from_secs(24 * 60 * 60)
    );
    assert_eq!(broker.dead_letter_exchange, "events.dlx");
    assert_eq!(broker.dead_letter_queue, "events.sse.dlq");
    assert_eq!(
        (broker.heartbeat, broker.publish_pool_size),
        (Duration::from_secs(10), 2)
    );
    assert_eq!(broker.history_max_age, Duration::from_secs(600));
    assert_eq!(config.address.user_header, "user-id");
    assert_eq!(config.address.channel_header, "channel");
    assert_eq!(config.address.team_header, "team-id");
    assert_eq!(config.address.tenant_header, "tenant-id");
    assert_eq!(config.address.routing_keys.len(), 4);
    assert_eq!(
        config.address.attribute_names().collect::<Vec<_>>(),
        ["job_id"]
    );
    assert_eq!(
        (&config.address.user_field, &config.address.team_field),
        (&None, &None)
    );
    assert_eq!(config.address.broadcast_keys.len(), 1);
    assert_eq!(config.payload.max_bytes, 262_144);
    assert_eq!(config.http.bind.to_string(), "0.0.0.0:8080");
    assert_eq!(config.http.admin_bind.to_string(), "127.0.0.1:9090");
    assert_eq!(config.http.cors_origins, CorsOrigins::None);
    assert_eq!(config.http.max_connections_per_user, 0);
    assert_eq!(config.http.max_connections_per_address, 0);
    assert_eq!(config.sse.heartbeat, Duration::from_secs(15));
    assert_eq!(config.sse.retry, Duration::from_secs(2));
    assert_eq!(config.sse.stall, Duration::from_secs(30));
    assert_eq!(config.hub.channel_capacity, 1024);
    assert_eq!(config.hub.backpressure, Backpressure::DropOldest);
    assert_eq!(
        (config.hub.max_events, config.hub.max_bytes),
        (100_000, 256 << 20)
    );
    assert_eq!(config.hub.max_age, Duration::from_secs(600));
    assert!(matches!(config.auth.mode, AuthMode::None));
    assert_eq!(config.log.filter, "info");
    assert_eq!(config.drain, Duration::from_secs(20));
}

#[test]
fn what_is_required_is_asked_for_with_the_choices() {
    let nothing = refusal_of(&environment(&[]));
    let lines: Vec<&str> = nothing.lines().collect();
    assert_eq!(lines.len(), 2, "{nothing}");
    assert!(
        lines[0].starts_with("RABBITMQ_URL is not set: set it to the broker, such as amqp://"),
        "{nothing}"
    );
    assert!(
        lines[1].starts_with("AUTH_MODE is not set: set it to jwt ("),
        "{nothing}"
    );
    assert!(lines[1].contains("or none ("), "{nothing}");
    let no_token = refusal(&[("AUTH_MODE", "token")]);
    assert!(
        no_token.starts_with("AUTH_TOKEN is not set: "),
        "{no_token}"
    );
}

#[test]
fn a_name_that_is_nearly_right_stops_the_start_and_names_the_right_one() {
    let cases = [
        ("RABBITMQ_URI", "RABBITMQ_URL"),
        ("RABITMQ_URL", "RABBITMQ_URL"),
        ("RABBITMQ_EVENT_QUEUE", "RABBITMQ_EVENTS_QUEUE"),
        ("SSE_HEARTBEAT_SECOND", "SSE_HEARTBEAT_SECONDS"),
        ("SSE_RETYR_MS", "SSE_RETRY_MS"),
        ("HTTP_BNID", "HTTP_BIND"),
        ("AUTH_TOKE", "AUTH_TOKEN"),
        ("AUTH_MODES", "AUTH_MODE"),
        ("HISTORY_MAX_EVENT", "HISTORY_MAX_EVENTS"),
        ("DRAIN_SECS", ""),
        ("history_max_age", "HISTORY_MAX_AGE"),
        ("AUTH_JWT_SECRETS", "AUTH_JWT_SECRET"),
        ("SSE_BRIDGE_CONFG", "SSE_BRIDGE_CONFIG"),
    ];
    let files = Files::new();
    for (written, meant) in cases {
        if meant.is_empty() {
            // Four letters away: nobody's slip, as far as can be told.
            load(&[(written, "1")]);
            continue;
        }
        let in_environment = refusal(&[(written, "hunter2")]);
        let line =
            format!("{written} (the environment): is no setting: write {meant}, or take it out");
        assert_eq!(in_environment, line);

        let mut sources = environment(&[LEAST]);
        let env_file = files.write(".env", &format!("{written}=hunter2\n"));
        sources.env_file = Some(env_file.clone());
        let line = format!(
            "{written} ({}): is no setting: write {meant}, or take it out",
            env_file.display()
        );
        assert_eq!(refusal_of(&sources), line);
    }
}

#[test]
fn variables_of_others_are_left_alone() {
    load(&[
        ("RABBITMQ_SERVICE_HOST", "10.0.0.7"),
        ("RABBITMQ_SERVICE_PORT", "5672"),
        ("RABBITMQ_SERVICE_PORT_AMQP", "5672"),
        ("RABBITMQ_PORT", "tcp://10.0.0.7:5672"),
        ("RABBITMQ_PORT_5672_TCP", "tcp://10.0.0.7:5672"),
        ("RABBITMQ_PORT_5672_TCP_ADDR", "10.0.0.7"),
        ("RABBITMQ_PORT_5672_TCP_PROTO", "tcp"),
        ("RABBITMQ_HOST", "rabbitmq"),
        ("RABBITMQ_USER", "guest"),
        ("RABBITMQ_PASS", "guest"),
        ("RABBITMQ_VHOST", "/"),
        ("RABBITMQ_NODENAME", "rabbit@localhost"),
        ("RABBITMQ_LOGS", "-"),
        ("RABBITMQ_DEFAULT_USER", "guest"),
        ("SSE_BRIDGE_PORT", "tcp://10.0.0.8:8080"),
        ("SSE_BRIDGE_SERVICE_HOST", "10.0.0.8"),
        ("HTTP_PROXY", "http://proxy:3128"),
        ("http_proxy", "http://proxy:3128"),
        ("HTTPS_PROXY", "http://proxy:3128"),
        ("HTTP_PORT", "80"),
        ("OAUTH_TOKEN", "x"),
        ("AUTH_USER", "x"),
        ("RUST_BACKTRACE", "1"),
        ("RUST_LOG_STYLE", "never"),
        ("HOSTNAME", "replica-7"),
        ("LOG_LEVEL", "info"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "x"),
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "x"),
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "x"),
        ("PATH", "/bin"),
        ("HISTFILE", "x"),
        ("HISTORY", "x"),
    ]);
}

#[test]
fn nothing_is_traced_unless_a_collector_is_named() {
    assert!(load(&[]).traces.is_none());
    assert!(
        load(&[("OTEL_TRACES_SAMPLER", "always_on")])
            .traces
            .is_none()
    );
    let traces = load(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")])
        .traces
        .unwrap();
    assert_eq!(traces.endpoint, "http://collector:4318/v1/traces");
    assert_eq!(traces.timeout, Duration::from_secs(10));
    assert!(traces.headers.is_empty());
}

#[test]
fn traces_are_told_from_those_of_others_by_what_is_set_before_what_is_known() {
    let resource = |pairs: Pairs<'_>| {
        let mut all = vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector/otlp/"),
            ("REPLICA_NAME", "replica-7"),
        ];
        all.extend_from_slice(pairs);
        let traces = load(&all).traces.unwrap();
        assert_eq!(traces.endpoint, "https://collector/otlp/v1/traces");
        let mut resource: BTreeMap<String, String> = traces.resource.into_iter().collect();
        let version = resource.remove("service.version");
        assert_eq!(version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
        resource
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        resource(&[]),
        "service.instance.id=replica-7 service.name=sse-bridge"
    );
    let attributes = (
        "OTEL_RESOURCE_ATTRIBUTES",
        "service.name=of%20all, service.instance.id = 9 ,team=a%2Cb",
    );
    assert_eq!(
        resource(&[attributes]),
        "service.instance.id=9 service.name=of all team=a,b"
    );
    assert_eq!(
        resource(&[attributes, ("OTEL_SERVICE_NAME", "bridge")]),
        "service.instance.id=9 service.name=bridge team=a,b"
    );
}

#[test]
fn headers_for_the_collector_are_decoded_and_shown_to_nobody() {
    let pairs = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "API-Key=hunter2%2C, x-more=1"),
    ];
    let config = load(&pairs);
    let traces = config.traces.as_ref().unwrap();
    assert_eq!(traces.headers["api-key"], "hunter2,");
    assert_eq!(traces.headers["x-more"], "1");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert_eq!(
        config.warnings,
        [
            "OTEL_EXPORTER_OTLP_HEADERS=*** (the environment) is sent in the clear to \
             OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 (the environment): write https://"
        ]
    );
    let here = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    assert!(load(&[here, pairs[1]]).warnings.is_empty());
    let wrong = ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2");
    let refused = refusal(&[wrong]);
    assert!(
        refused.contains("OTEL_EXPORTER_OTLP_HEADERS=***"),
        "{refused}"
    );
    assert!(!refused.contains("hunter2"), "{refused}");
}

#[test]
fn a_share_of_traces_that_nothing_asks_for_is_warned_of() {
    let pairs = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.5"),
    ];
    let warnings = load(&pairs).warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("OTEL_TRACES_SAMPLER_ARG=0.5"),
        "{warnings:?}"
    );
    for sampler in ["traceidratio", "parentbased_traceidratio"] {
        let sampler = ("OTEL_TRACES_SAMPLER", sampler);
        assert!(load(&[pairs[0], pairs[1], sampler]).warnings.is_empty());
    }
}

#[test]
fn values_that_contradict_each_other_stop_the_start_and_both_are_named() {
    let token = ("AUTH_TOKEN", "0123456789abcdef");
    let secret = ("AUTH_JWT_SECRET", "0123456789abcdef0123456789abcdef");
    let jwks = ("AUTH_JWKS_URL", "https://keys.example/jwks");
    let jwt = ("AUTH_MODE", "jwt");
    let cases: &[(Pairs<'_>, [&str; 2])] = &[
        (
            &[secret],
            [
                "AUTH_JWT_SECRET=*** (the environment)",
                "AUTH_MODE=none (the environment)",
            ],
        ),
        (
            &[jwt, secret, token],
            [
                "AUTH_TOKEN=*** (the environment)",
                "AUTH_MODE=jwt (the environment)",
            ],
        ),
        (
            &[jwt, secret, jwks],
            [
                "AUTH_JWT_SECRET=*** (the environment)",
                "AUTH_JWKS_URL=https://keys.example/jwks (the environment)",
            ],
        ),
        (
            &[jwt, secret, ("AUTH_JWT_ALGORITHMS", "RS256")],
            [
                "AUTH_JWT_ALGORITHMS=RS256 (the environment)",
                "AUTH_JWT_SECRET=*** (the environment)",
            ],
        ),
        (
            &[jwt, jwks, ("AUTH_JWT_ALGORITHMS", "HS512")],
            [
                "AUTH_JWT_ALGORITHMS=HS512 (the environment)",
                "AUTH_JWKS_URL=https://keys.example/jwks (the environment)",
            ],
        ),
        (
            &[jwt, secret, ("AUTH_CLAIM_TEAMS", "sub")],
            [
                "AUTH_CLAIM_USER=sub (the default)",
                "AUTH_CLAIM_TEAMS=sub (the environment)",
            ],
        ),
        (
            &[
                jwt,
                secret,
                ("AUTH_COOKIE", "events"),
                ("HTTP_CORS_ORIGINS", "*"),
            ],
            [
                "AUTH_COOKIE=events (the environment)",
                "HTTP_CORS_ORIGINS=* (the environment)",
            ],
        ),
        (
            &[("AUTH_QUERY_TOKEN", "true")],
            [
                "AUTH_QUERY_TOKEN=true (the environment)",
                "AUTH_MODE=none (the environment)",
            ],
        ),
        (
            &[("RABBITMQ_EVENTS_QUEUE_SCOPE", "replica")],
            [
                "RABBITMQ_EVENTS_QUEUE_TYPE=stream (the default)",
                "RABBITMQ_EVENTS_QUEUE_SCOPE=replica (the environment)",
            ],
        ),
        (
            &[token],
            ["AUTH_TOKEN=*** (the environment)", "AUTH_MODE=none"],
        ),
        (
            &[("ADMIN_BIND", "127.0.0.1:8080")],
            [
                "HTTP_BIND=0.0.0.0:8080 (the default)",
                "ADMIN_BIND=127.0.0.1:8080",
            ],
        ),
        (
            &[
                ("HTTP_BIND", "127.0.0.1:80"),
                ("ADMIN_BIND", "127.0.0.1:80"),
            ],
            ["HTTP_BIND=127.0.0.1:80", "ADMIN_BIND=127.0.0.1:80"],
        ),
        (
            &[("HISTORY_MAX_EVENTS", "1000")],
            [
                "SSE_CHANNEL_CAPACITY=1024 (the default)",
                "HISTORY_MAX_EVENTS=1000",
            ],
        ),
        (
            &[("HISTORY_MAX_BYTES", "128KiB")],
            [
                "PAYLOAD_MAX_BYTES=262144 (the default)",
                "HISTORY_MAX_BYTES=128KiB",
            ],
        ),
        (
            &[("HISTORY_MAX_BYTES", "0"), ("HISTORY_MAX_EVENTS", "0")],
            ["HISTORY_MAX_EVENTS=0", "HISTORY_MAX_BYTES=0"],
        ),
        (
            &[("SSE_STALL_SECONDS", "14")],
            [
                "SSE_STALL_SECONDS=14",
                "SSE_HEARTBEAT_SECONDS=15 (the default)",
            ],
        ),
        (
            &[("RABBITMQ_DEAD_LETTER_EXCHANGE", "events.topic")],
            [
                "RABBITMQ_DEAD_LETTER_EXCHANGE=events.topic",
                "RABBITMQ_EVENTS_EXCHANGE=events.topic (the default)",
            ],
        ),
        (
            &[("RABBITMQ_EVENTS_QUEUE", "events.sse.dlq")],
            [
                "RABBITMQ_DEAD_LETTER_QUEUE=events.sse.dlq (the default)",
                "RABBITMQ_EVENTS_QUEUE=events.sse.dlq",
            ],
        ),
        (
            &[
                ("RABBITMQ_EVENTS_QUEUE_TYPE", "classic"),
                ("RABBITMQ_EVENTS_QUEUE_SCOPE", "replica"),
                ("REPLICA_NAME", "dlq"),
            ],
            [
                "RABBITMQ_DEAD_LETTER_QUEUE=events.sse.dlq",
                "RABBITMQ_EVENTS_QUEUE=events.sse",
            ],
        ),
        (
            &[("HISTORY_MAX_AGE", "25h")],
            ["HISTORY_MAX_AGE=25h", "RABBITMQ_STREAM_MAX_AGE=24h"],
        ),
        (
            &[("ADDRESS_TEAM_HEADER", "user-id")],
            ["ADDRESS_USER_HEADER=user-id", "ADDRESS_TEAM_HEADER=user-id"],
        ),
        (
            &[
                ("ADDRESS_TEAM_FIELD", "/owner"),
                ("ADDRESS_USER_FIELD", "/owner"),
            ],
            ["ADDRESS_USER_FIELD=/owner", "ADDRESS_TEAM_FIELD=/owner"],
        ),
        (
            &[("ADDRESS_TEAM_FIELD", "/team"), ("PAYLOAD_FORMAT", "text")],
            ["ADDRESS_TEAM_FIELD=/team", "PAYLOAD_FORMAT=text"],
        ),
        (
            &[
                token,
                ("AUTH_MODE", "token"),
                ("RABBITMQ_DEAD_LETTER_QUEUE", "events.sse.revocations"),
            ],
            [
                "RABBITMQ_DEAD_LETTER_QUEUE=events.sse.revocations",
                "RABBITMQ_EVENTS_QUEUE=events.sse",
            ],
        ),
        (
            &[
                token,
                ("AUTH_MODE", "token"),
                ("RABBITMQ_EVENTS_QUEUE_TYPE", "quorum"),
                ("RABBITMQ_EVENTS_QUEUE_SCOPE", "replica"),
                ("REPLICA_NAME", "revocations"),
            ],
            [
                "REPLICA_NAME=revocations",
                "RABBITMQ_EVENTS_QUEUE=events.sse",
            ],
        ),
        (
            &[
                ("HTTP_MAX_CONNECTIONS", "10"),
                ("HTTP_MAX_CONNECTIONS_PER_IP", "11"),
            ],
            ["HTTP_MAX_CONNECTIONS_PER_IP=11", "HTTP_MAX_CONNECTIONS=10"],
        ),
        (
            &[
                ("RABBITMQ_URL", "amqp://u:hunter2@h?heartbeat=60"),
                ("RABBITMQ_HEARTBEAT_SECONDS", "10"),
            ],
            [
                "RABBITMQ_URL=amqp://u:***@h (the environment)",
                "RABBITMQ_HEARTBEAT_SECONDS=10 (the environment)",
            ],
        ),
    ];
    for (pairs, [first, second]) in cases {
        let text = refusal(pairs);
        assert_eq!(text.lines().count(), 1, "{text}");
        let (before, after) = text
            .split_once(" contradicts ")
            .unwrap_or_else(|| panic!("{text}"));
        assert!(before.starts_with(first), "{first}: {text}");
        assert!(after.starts_with(second), "{second}: {text}");
        assert!(after.contains("): "), "what to do: {text}");
    }
}

#[test]
fn values_that_only_look_contradictory_are_accepted() {
    let cases: &[Pairs<'_>] = &[
        &[("HTTP_BIND", "127.0.0.1:0"), ("ADMIN_BIND", "127.0.0.1:0")],
        &[
            ("HTTP_BIND", "127.0.0.2:80"),
            ("ADMIN_BIND", "127.0.0.1:80"),
        ],
        &[("SSE_CHANNEL_CAPACITY", "0"), ("HISTORY_MAX_EVENTS", "10")],
        &[("HISTORY_MAX_EVENTS", "0")],
        &[("SSE_STALL_SECONDS", "0")],
        &[("RABBITMQ_URL", "amqp://h?heartbeat=60")],
        &[("HISTORY_MAX_AGE", "0")],
        &[("HISTORY_MAX_AGE", "2D"), ("RABBITMQ_STREAM_MAX_AGE", "0")],
        &[
            ("HISTORY_MAX_AGE", "2D"),
            ("RABBITMQ_EVENTS_QUEUE_TYPE", "quorum"),
        ],
        &[("PAYLOAD_MAX_BYTES", "0"), ("HISTORY_MAX_BYTES", "1MiB")],
        &[
            ("RABBITMQ_URL", "amqp://h?heartbeat=60"),
            ("RABBITMQ_HEARTBEAT_SECONDS", "60"),
        ],
        &[("AUTH_MODE", "token"), ("AUTH_TOKEN", "0123456789abcdef")],
        &[
            ("AUTH_MODE", "jwt"),
            ("AUTH_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
            ("AUTH_JWT_ALGORITHMS", "HS384, HS512"),
        ],
        &[
            ("AUTH_MODE", "jwt"),
            ("AUTH_JWKS_URL", "http://127.0.0.1:8000/jwks"),
            ("AUTH_CLAIM_TEAMS", "/realm/teams"),
        ],
    ];
    for pairs in cases {
        load(pairs);
    }
}

#[test]
fn a_value_that_is_not_legal_is_shown_with_what_is() {
    let cases = [
        (
            "RABBITMQ_EVENTS_QUEUE_TYPE",
            "mirrored",
            "write one of stream, quorum, classic",
        ),
        (
            "RABBITMQ_EVENTS_QUEUE_SCOPE",
            "Shared",
            "write one of shared, replica",
        ),
        ("RABBITMQ_EVENTS_QUEUE", "amq.gen-1", "are the broker's own"),
        (
            "RABBITMQ_EVENTS_BINDING_KEY",
            "team.#,,user.#",
            "number 2 of the list is empty",
        ),
        (
            "RABBITMQ_PREFETCH_COUNT",
            "0",
            "write a whole number of deliveries from 1 to 65535",
        ),
        ("RABBITMQ_PREFETCH_COUNT", "65536", "from 1 to 65535"),
        ("RABBITMQ_DECLARE", "maybe", "write true or false"),
        (
            "RABBITMQ_STREAM_MAX_AGE",
            "24",
            "write a whole number and a unit",
        ),
        (
            "RABBITMQ_STREAM_MAX_AGE",
            "101Y",
            "write a whole number and a unit",
        ),
        (
            "RABBITMQ_STREAM_MAX_AGE",
            "h",
            "write a whole number and a unit",
        ),
        (
            "RABBITMQ_STREAM_MAX_AGE",
            "1h30m",
            "write a whole number and a unit",
        ),
        (
            "RABBITMQ_STREAM_MAX_AGE",
            "10é",
            "write a whole number and a unit",
        ),
        (
            "RABBITMQ_STREAM_MAX_AGE",
            "99999999999999999999h",
            "write a whole number and a unit",
        ),
        (
            "RABBITMQ_STREAM_MAX_BYTES",
            "1 GiBi",
            "write a number of bytes",
        ),
        ("RABBITMQ_STREAM_MAX_BYTES", "-1", "write a number of bytes"),
        (
            "RABBITMQ_STREAM_MAX_BYTES",
            "10000000000GiB",
            "write a number of bytes",
        ),
        ("RABBITMQ_REPLICA_QUEUE_EXPIRES", "50D", "at most 49D"),
        ("RABBITMQ_HEARTBEAT_SECONDS", "0", "from 1 to 600"),
        ("RABBITMQ_PUBLISH_POOL_SIZE", "0", "from 1 to 64"),
        (
            "ADDRESS_ROUTING_KEYS",
            "{topic}.x",
            "{topic} would be filtered by a parameter",
        ),
        ("ADDRESS_ROUTING_KEYS", "a.{User}", "{User}"),
        ("ADDRESS_USER_FIELD", "user", "/"),
        ("PAYLOAD_FORMAT", "xml", "json, json-object, text"),
        ("HTTP_BIND", "8080", "write an IP address and a port"),
        (
            "HTTP_BIND",
            "localhost:8080",
            "write an IP address and a port",
        ),
        (
            "HTTP_CORS_ORIGINS",
            "https://a.example/",
            "no slash at the end",
        ),
        ("HTTP_CORS_ORIGINS", "https://a.example/app", "is no origin"),
        ("HTTP_CORS_ORIGINS", "a.example", "is no origin"),
        ("HTTP_CORS_ORIGINS", "https://*.a.example", "is no origin"),
        (
            "HTTP_CORS_ORIGINS",
            "https://A.example:443",
            "browsers write it https://a.example",
        ),
        (
            "HTTP_CORS_ORIGINS",
            "https://a.example,*",
            "number 2 of the list: * stands alone",
        ),
        (
            "HTTP_TRUSTED_PROXIES",
            "proxy.example",
            "write an IP address or a network",
        ),
        (
            "HTTP_TRUSTED_PROXIES",
            "10.0.0.0/33",
            "write an IP address or a network",
        ),
        (
            "HTTP_TRUSTED_PROXIES",
            "10.0.0.1,10.0.0.7/8",
            "number 2 of the list: has bits set behind its prefix: write 10.0.0.0/8",
        ),
        (
            "HTTP_TRUSTED_PROXIES",
            "0.0.0.0/0",
            "would believe everybody",
        ),
        (
            "HTTP_MAX_CONNECTION_RATE_PER_IP",
            "0.5",
            "write a whole number of connections a second",
        ),
        ("RABBITMQ_CA_FILE", "/nowhere/ca.pem", "cannot be read"),
        (
            "HTTP_MAX_CONNECTIONS",
            "many",
            "write a whole number of connections, or 0 for no limit",
        ),
        (
            "DRAIN_SECONDS",
            "20s",
            "write a whole number of seconds from 0 to 3600",
        ),
        ("SSE_HEARTBEAT_SECONDS", "0", "from 1 to 3600"),
        (
            "SSE_RETRY_MS",
            "0",
            "write a whole number of milliseconds from 100 to 600000",
        ),
        (
            "SSE_BACKPRESSURE",
            "drop",
            "write one of drop-oldest, latest, disconnect",
        ),
        ("AUTH_MODE", "basic", "write one of jwt, token, none"),
        (
            "AUTH_JWKS_URL",
            "http://keys.example/jwks",
            "write https://",
        ),
        ("AUTH_JWKS_URL", "ftp://127.0.0.1/jwks", "write https://"),
        ("AUTH_JWKS_URL", "https://keys.example/#x", "write https://"),
        (
            "AUTH_JWKS_REFRESH_SECONDS",
            "0",
            "write a whole number of seconds from 10 to 86400",
        ),
        ("AUTH_JWT_ALGORITHMS", "none", "write names of HS256,"),
        ("AUTH_JWT_ALGORITHMS", "rs256", "write names of HS256,"),
        ("AUTH_JWT_ALGORITHMS", "RS256,HS256", "mixes secrets"),
        (
            "AUTH_JWT_PUBLIC_KEY_FILE",
            "/nowhere/keys.pem",
            "cannot be read",
        ),
        (
            "AUTH_LEEWAY_SECONDS",
            "31",
            "write a whole number of seconds from 0 to 30",
        ),
        ("AUTH_CLAIM_TEAMS", "/a~2", "~"),
        ("AUTH_COOKIE", "a b", "write the name of a cookie"),
        ("AUTH_QUERY_TOKEN", "perhaps", "write true or false"),
        ("AUTH_REVOCATION_MAX_AGE", "0", "from 1m to 365D"),
        ("AUTH_REVOCATION_MAX_AGE", "59s", "from 1m to 365D"),
        ("AUTH_REVOCATION_MAX_AGE", "366D", "from 1m to 365D"),
        (
            "AUTH_REVOCATION_MAX_AGE",
            "24",
            "write a whole number and a unit",
        ),
        ("LOG_FORMAT", "text", "write one of json, pretty"),
        (
            "RUST_LOG",
            "sse_bridge=loud",
            "write directives such as info",
        ),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "grpc://collector:4317",
            "write http://host:4318",
        ),
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "grpc",
            "write http/protobuf, which is all that is spoken here",
        ),
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "http/json",
            "write http/protobuf, which is all that is spoken here",
        ),
        (
            "OTEL_EXPORTER_OTLP_TIMEOUT",
            "10s",
            "write a whole number of milliseconds from 1 to 600000",
        ),
        (
            "OTEL_TRACES_SAMPLER",
            "jaeger_remote",
            "write one of parentbased_always_on, parentbased_always_off, parentbased_traceidratio, always_on, always_off, \
             traceidratio",
        ),
        ("OTEL_TRACES_SAMPLER_ARG", "1.1", "write a number from 0"),
        ("OTEL_TRACES_SAMPLER_ARG", "NaN", "write a number from 0"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team", "write name=value"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=1,", "write name=value"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=%ff", "write name=value"),
        ("OTEL_BSP_SCHEDULE_DELAY", "5s", "from 0 to 600000"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "from 1 to 1000000"),
    ];
    for (name, value, legal) in cases {
        let text = refusal(&[(name, value)]);
        assert!(
            text.starts_with(&format!("{name}={value} (the environment): ")),
            "{text}"
        );
        assert!(text.contains(legal), "{legal}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn tokens_are_judged_by_keys_of_one_place_that_is_asked_for() {
    let text = refusal(&[("AUTH_MODE", "jwt")]);
    for source in [
        "AUTH_JWT_SECRET",
        "AUTH_JWT_PUBLIC_KEY_FILE",
        "AUTH_JWKS_URL",
    ] {
        assert!(text.contains(source), "{text}");
    }
    let text = refusal(&[("AUTH_MODE", "jwt"), ("AUTH_JWT_SECRET", "hunter2")]);
    assert!(
        text.starts_with("AUTH_JWT_SECRET=*** (the environment): write 32 to"),
        "{text}"
    );
}

#[test]
fn a_value_is_shown_on_one_line_of_bounded_length() {
    let long = "x".repeat(100_000);
    let text = refusal(&[("SSE_BACKPRESSURE", &format!("a\nAUTH_MODE={long}"))]);
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.len() < 400, "{text}");
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    let text = refusal(&[
        ("RABBITMQ_URL", "http://localhost"),
        ("SSE_RETYR_MS", "1"),
        ("SSE_RETRY_MS", "x"),
        ("HTTP_BIND", "x"),
        ("AUTH_MODE", "jwt"),
        ("HISTORY_MAX_EVENTS", "10"),
        // Not compared with HTTP_BIND, which is not legal.
        ("ADMIN_BIND", "127.0.0.1:8080"),
    ]);
    let named: Vec<&str> = text
        .lines()
        .filter_map(|line| line.split(['=', ' ']).next())
        .collect();
    let all = [
        "SSE_RETYR_MS",
        "RABBITMQ_URL",
        "HTTP_BIND",
        "SSE_RETRY_MS",
        "AUTH_MODE",
        "SSE_CHANNEL_CAPACITY",
    ];
    assert_eq!(named, all, "{text}");
}

#[test]
fn secrets_are_never_shown() {
    // The password of each is hunter2, in part or whole, legal or not.
    let urls = [
        "amqp://user:hunter2@host:5672/%2F",
        "amqp://user:hunter2@host:port/%2F",
        "amqp://user:hunter2@",
        "amqp://user:hunter2",
        "amqp://user:hun/ter2@host",
        "amqp://user:hun#ter2@host",
        "amqp://user:hun@ter2@host",
        "amqp://user:hun,ter2@host",
        "amqp://user:12,hunter2@host",
        "amqp://a:hunter2@host,amqp://b:hunter2@other",
        "amqps://user:hunter2@host?heartbeat=x&password=hunter2",
        "http://user:hunter2@host",
        "user:hunter2@host",
        "hunter2",
        "//user:hunter2@host",
    ];
    for url in urls {
        for other in ["none", "jwt"] {
            let sources = environment(&[&[
                ("RABBITMQ_URL", url),
                ("AUTH_MODE", other),
                ("RABBITMQ_HEARTBEAT_SECONDS", "7"),
            ]]);
            let shown = match Config::load(&sources) {
                Ok(config) => format!("{config:?} {}", config.broker.nodes[0]),
                Err(error) => format!("{error} {error:?}"),
            };
            for part in ["hunter2", "hun", "ter2"] {
                assert!(!shown.contains(part), "{url}: {shown}");
            }
        }
    }
    for token in [
        "hunter2",
        "hunter2 hunter2 hunter2",
        "hunter2-hunter2-hunter2",
    ] {
        for mode in ["token", "none", "jwt"] {
            let pairs: Pairs<'_> = &[
                ("AUTH_TOKEN", token),
                ("AUTH_MODE", mode),
                ("HTTP_BIND", "x"),
            ];
            let shown = refusal(pairs);
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
    let short = refusal(&[("EVENT_ID_KEY", "hunter2-hunter2-hunter2-hunter2")]);
    assert!(
        short.starts_with("EVENT_ID_KEY=*** ") && short.contains("at least 32 bytes"),
        "{short}"
    );
    let config = load(&[
        ("AUTH_TOKEN", "hunter2-hunter2-hunter2"),
        ("AUTH_MODE", "token"),
        ("EVENT_ID_KEY", "hunter2-hunter2-hunter2-hunter2-"),
    ]);
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
    let AuthMode::Token(token) = config.auth.mode else {
        panic!("a token is expected")
    };
    assert_eq!(
        (token.expose(), token.to_string().as_str()),
        ("hunter2-hunter2-hunter2", "***")
    );
}

#[test]
fn what_is_secret_may_be_read_from_a_file_of_its_own() {
    let with_files: Vec<&str> = SETTINGS.iter().filter_map(Setting::file).collect();
    let expected = [
        "RABBITMQ_URL_FILE",
        "EVENT_ID_KEY_FILE",
        "AUTH_TOKEN_FILE",
        "AUTH_JWT_SECRET_FILE",
        "AUTH_JWKS_URL_FILE",
        "OTEL_EXPORTER_OTLP_ENDPOINT_FILE",
        "OTEL_EXPORTER_OTLP_HEADERS_FILE",
    ];
    assert_eq!(with_files, expected);
    for file in expected {
        assert!(
            EXAMPLE.contains(file),
            ".env.example does not tell of {file}"
        );
    }

    let files = Files::new();
    // As Kubernetes mounts it, and as an editor leaves it.
    let url = files.write("url", "amqp://user:hunter2@broker.example");
    let token = files.write("token", "of-a-file-of-its-own\n");
    let toml = files.write(
        "c.toml",
        &format!("auth_token_file = \"{}\"\n", token.display()),
    );
    let url = url.display().to_string();
    let token = token.display().to_string();
    let given: Pairs<'_> = &[("RABBITMQ_URL_FILE", &url), ("AUTH_MODE", "token")];
    let exposed = |sources: &Sources| {
        let config = Config::load(sources).unwrap();
        let node = config.broker.nodes[0].to_string();
        assert_eq!(node, "amqp://user:***@broker.example:5672/%2F");
        let AuthMode::Token(token) = config.auth.mode else {
            panic!("a token is expected")
        };
        token.expose().to_owned()
    };
    let of_environment = environment(&[given, &[("AUTH_TOKEN_FILE", &token)]]);
    assert_eq!(exposed(&of_environment), "of-a-file-of-its-own");
    // An empty one is none, as compose files pass on what may not be set.
    let with_empty = environment(&[given, &[("AUTH_TOKEN_FILE", &token), ("AUTH_TOKEN", "")]]);
    assert_eq!(exposed(&with_empty), "of-a-file-of-its-own");

    // Sources keep their order, whichever of the two ways each chooses.
    let of_toml = |pairs: Pairs<'_>| Sources {
        config_file: Some(toml.clone()),
        ..environment(&[given, pairs])
    };
    assert_eq!(exposed(&of_toml(&[])), "of-a-file-of-its-own");
    let stronger = "of-the-environment";
    assert_eq!(exposed(&of_toml(&[("AUTH_TOKEN", stronger)])), stronger);
    let weaker = files.write("weaker.toml", "auth_token = 'of-the-weaker-source'\n");
    let over_a_value = Sources {
        config_file: Some(weaker),
        ..of_environment
    };
    assert_eq!(exposed(&over_a_value), "of-a-file-of-its-own");
}

#[test]
fn a_file_of_a_secret_that_is_of_no_use_stops_the_start_and_its_contents_are_not_shown() {
    let files = Files::new();
    let refused = |pairs: Pairs<'_>| {
        let text = refusal(&[&[("AUTH_MODE", "token")], pairs].concat());
        let folder = format!("{}/", files.0.path().display());
        text.replace(&folder, "")
    };
    let path = |name: &str, text: &str| files.write(name, text).display().to_string();
    let (blank, short) = (path("blank", " \n"), path("short", "hunter2\n"));
    let good = path("good", "hunter2-hunter2-hunter2");
    let missing = files.0.path().join("missing").display().to_string();

    let text = refused(&[("AUTH_TOKEN_FILE", &missing)]);
    let start = "AUTH_TOKEN_FILE=missing (the environment): cannot be read: ";
    assert!(text.starts_with(start), "{text}");
    assert_eq!(
        text.lines().count(),
        1,
        "it is not asked for as well: {text}"
    );
    assert_eq!(
        refused(&[("AUTH_TOKEN_FILE", &blank)]),
        "AUTH_TOKEN_FILE=blank (the environment): holds nothing"
    );
    let text = refused(&[("AUTH_TOKEN_FILE", &short)]);
    assert!(text.starts_with("AUTH_TOKEN=*** (short): "), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
    assert_eq!(
        refused(&[
            ("AUTH_TOKEN_FILE", &good),
            ("AUTH_TOKEN", "hunter2-hunter2-hunter2")
        ]),
        "AUTH_TOKEN and AUTH_TOKEN_FILE (the environment): are both there: take one out"
    );
    // Nearly right is wrong here too, and what is no secret is not in a file.
    let text = refused(&[
        ("AUTH_TOKEN_FILES", &short),
        ("AUTH_TOKEN", "hunter2-hunter2-hunter2"),
    ]);
    assert!(
        text.contains("write AUTH_TOKEN_FILE, or take it out"),
        "{text}"
    );

    // `dev` has no secrets, and so needs no files of them.
    let sources = environment(&[&[
        ("AUTH_TOKEN_FILE", &missing),
        ("RABBITMQ_URL_FILE", &missing),
    ]]);
    Config::for_dev(&sources).unwrap();
}

#[test]
fn a_file_that_cannot_be_read_is_not_quoted() {
    let files = Files::new();
    let env_file = files.write(
        ".env",
        "SSE_RETRY_MS=100\n\nAUTH_TOKEN=hunter2 hunter2\nHTTP_BIND=x\n",
    );
    let text = refusal_of(&Sources {
        env_file: Some(env_file),
        ..environment(&[LEAST])
    });
    assert!(text.contains(".env: line 3 is not NAME=value"), "{text}");
    assert!(text.contains("HTTP_BIND=x"), "the rest is read: {text}");
    assert!(!text.contains("hunter2"), "{text}");

    for toml in [
        "sse_retry_ms = 100\nrabbitmq_url = amqp://u:hunter2@h\n",
        "auth_token = \"hunter2\n",
        "auth_token = 'a'\nauth_token = 'hunter2'\n",
        "auth_token = hunter2",
    ] {
        let config_file = files.write("sse-bridge.toml", toml);
        let text = refusal_of(&Sources {
            config_file: Some(config_file),
            ..environment(&[LEAST])
        });
        assert!(
            text.contains("sse-bridge.toml: TOML parse error at line "),
            "{text}"
        );
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    let missing = files.0.path().join("missing");
    let text = refusal_of(&Sources {
        env_file: Some(missing.clone()),
        config_file: Some(missing.clone()),
        ..environment(&[LEAST])
    });
    assert_eq!(
        text.matches("missing: cannot be read: ").count(),
        2,
        "{text}"
    );
}

#[test]
fn the_environment_goes_before_the_env_file_and_that_before_the_toml_file() {
    let files = Files::new();
    let config_file = files.write(
        "c.toml",
        "SSE_RETRY_MS = 1003\nDRAIN_SECONDS = 3\nSSE_STALL_SECONDS = 33\n",
    );
    let env_file = files.write(
        ".env",
        "SSE_RETRY_MS=1002\nDRAIN_SECONDS=2 # a comment\nHTTP_MAX_CONNECTIONS=5\n",
    );
    let sources = |pairs: Pairs<'_>| Sources {
        env_file: Some(env_file.clone()),
        config_file: Some(config_file.clone()),
        ..environment(&[LEAST, pairs])
    };
    let config = Config::load(&sources(&[("SSE_RETRY_MS", "1001")])).unwrap();
    assert_eq!(config.sse.retry, Duration::from_millis(1001));
    assert_eq!(config.drain, Duration::from_secs(2));
    assert_eq!(config.sse.stall, Duration::from_secs(33));
    assert_eq!(config.http.max_connections, 5);

    let config = Config::load(&sources(&[("SSE_RETRY_MS", ""), ("DRAIN_SECONDS", " ")])).unwrap();
    assert_eq!(
        config.sse.retry,
        Duration::from_secs(2),
        "an empty value stands for the default"
    );
    assert_eq!(config.drain, Duration::from_secs(20));

    let text = refusal_of(&sources(&[("HTTP_MAX_CONNECTIONS_PER_USER", "6")]));
    let both = format!(
        "HTTP_MAX_CONNECTIONS_PER_USER=6 (the environment) contradicts HTTP_MAX_CONNECTIONS=5 ({}): ",
        env_file.display()
    );
    assert!(text.starts_with(&both), "{text}");
}

#[test]
fn the_toml_file_takes_names_in_either_case_numbers_and_lists_and_nothing_unknown() {
    let files = Files::new();
    let config_file = files.write(
        "c.toml",
        r#"
            rabbitmq_url = ["amqp://a", "amqp://b"]
            Auth_Mode = "none"
            RABBITMQ_PREFETCH_COUNT = 7
            rabbitmq_declare = false
            address_broadcast_keys = []
            rabbitmq_events_binding_key = ["a.#", "b.*"]
            http_cors_origins = ["https://a.example", "http://localhost:3000"]
            history_max_bytes = "64 MiB"
        "#,
    );
    // Named by the variable, as there is no argument.
    let path = config_file.display().to_string();
    let config = Config::load(&environment(&[&[("SSE_BRIDGE_CONFIG", &path)]])).unwrap();
    assert_eq!(config.broker.nodes.len(), 2);
    assert_eq!((config.broker.prefetch, config.broker.declare), (7, false));
    assert_eq!(config.broker.binding_keys, ["a.#", "b.*"]);
    assert_eq!(config.address.broadcast_keys.len(), 0);
    assert_eq!(config.hub.max_bytes, 64 << 20);
    let CorsOrigins::Exactly(origins) = config.http.cors_origins else {
        panic!("origins are expected")
    };
    assert_eq!(origins, ["https://a.example", "http://localhost:3000"]);

    let config_file = files.write(
        "c.toml",
        "answer = 42\nsse_retyr_ms = 1\nhttp_bind = { port = 80 }\ndrain_seconds = 1\nDRAIN_SECONDS = 2\n[rabbitmq]\nurl = 1\n",
    );
    let text = refusal_of(&Sources {
        config_file: Some(config_file),
        ..environment(&[LEAST])
    });
    let lines = [
        "DRAIN_SECONDS (c.toml): is there twice, with different values: take one out",
        "answer (c.toml): is no setting: take it out (.env.example lists all there are)",
        "HTTP_BIND (c.toml): is a table: write text, a number, true, false, or a list of texts",
        "rabbitmq (c.toml): is no setting: take it out (.env.example lists all there are)",
        "sse_retyr_ms (c.toml): is no setting: write SSE_RETRY_MS, or take it out",
    ];
    let directory = format!("{}/", files.0.path().display());
    let text = text.replace(&directory, "");
    let found: BTreeSet<&str> = text.lines().collect();
    assert_eq!(found, BTreeSet::from(lines));
}

#[test]
fn what_is_there_twice_in_one_file_is_refused_unless_it_is_the_same() {
    let files = Files::new();
    let load = |text: &str| {
        let env_file = Some(files.write(".env", text));
        Config::load(&Sources {
            env_file,
            ..environment(&[LEAST])
        })
    };
    load("\u{feff}export DRAIN_SECONDS='5'\nDRAIN_SECONDS=5  ").unwrap();
    let text = load("DRAIN_SECONDS=5\nDRAIN_SECONDS=6\n")
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("is there twice, with different values"),
        "{text}"
    );
}

#[test]
fn durations_and_sizes_have_units() {
    for (text, seconds) in [
        ("0", 0),
        ("30s", 30),
        ("10m", 600),
        ("24h", 86_400),
        ("7D", 604_800),
        ("7d", 604_800),
        ("1M", 2_592_000),
        ("1Y", 31_536_000),
    ] {
        let config = load(&[("RABBITMQ_STREAM_MAX_AGE", text), ("HISTORY_MAX_AGE", "1s")]);
        assert_eq!(
            config.broker.stream_max_age,
            Duration::from_secs(seconds),
            "{text}"
        );
    }
    for (text, bytes) in [
        ("0", 0),
        ("262144", 262_144),
        ("1b", 1),
        ("2KiB", 2048),
        ("2 kib", 2048),
        ("1MiB", 1 << 20),
        ("5GiB", 5 << 30),
        ("1KB", 1_000),
        ("1MB", 1_000_000),
        ("1GB", 1_000_000_000),
    ] {
        let config = load(&[("RABBITMQ_STREAM_MAX_BYTES", text)]);
        assert_eq!(config.broker.stream_max_bytes, bytes, "{text}");
    }
}

#[test]
fn a_replicas_own_queue_bears_its_name() {
    let own: Pairs<'_> = &[
        ("RABBITMQ_EVENTS_QUEUE_TYPE", "quorum"),
        ("RABBITMQ_EVENTS_QUEUE_SCOPE", "replica"),
    ];
    let named = load(&[own, &[("REPLICA_NAME", "bridge-2")]].concat());
    assert_eq!(named.broker.queue, "events.sse.bridge-2");
    let by_host = load(own).broker.queue;
    assert!(
        by_host
            .strip_prefix("events.sse.")
            .is_some_and(|host| !host.is_empty()),
        "{by_host}"
    );
    let shared = load(&[("REPLICA_NAME", "bridge-2")]);
    assert_eq!(shared.broker.queue, "events.sse");
    let long = "x".repeat(250);
    let text = refusal(&[own, &[("REPLICA_NAME", &long)]].concat());
    assert!(text.contains("longer than the 255 bytes"), "{text}");
}

#[test]
fn connections_are_limited_by_what_the_process_may_open() {
    let by_default = load(&[]).http.max_connections;
    assert_ne!(
        load(&[("HTTP_MAX_CONNECTIONS", "7")]).http.max_connections,
        by_default
    );
    let unlimited = load(&[("HTTP_MAX_CONNECTIONS", "0")]);
    assert_eq!(unlimited.http.max_connections, 0);
    // Where the machine has a limit, it is said that this one is not kept.
    assert_eq!(
        unlimited.warnings.len(),
        usize::from(by_default != 0),
        "{:?}",
        unlimited.warnings
    );
}

#[test]
fn what_is_legal_but_surprising_is_warned_of() {
    let cases: &[(Pairs<'_>, &str)] = &[
        (
            &[("SSE_HEARTBEAT_SECONDS", "60"), ("SSE_STALL_SECONDS", "60")],
            "most proxies cut",
        ),
        (
            &[
                ("RABBITMQ_STREAM_MAX_AGE", "0"),
                ("RABBITMQ_STREAM_MAX_BYTES", "0"),
            ],
            "until the broker's disk is full",
        ),
    ];
    for (pairs, warning) in cases {
        let warnings = load(pairs).warnings;
        assert!(
            matches!(&warnings[..], [one] if one.contains(warning)),
            "{warning}: {warnings:?}"
        );
    }
}

#[test]
fn dev_needs_nothing_and_listens_only_here() {
    let config = Config::for_dev(&environment(&[])).unwrap();
    assert_eq!(config.http.bind.to_string(), "127.0.0.1:8080");
    assert!(matches!(config.auth.mode, AuthMode::None));
    assert_eq!(config.broker.nodes.len(), 0);

    // Beside the .env of a real deployment, right or wrong about what dev does not have.
    let config = Config::for_dev(&environment(&[&[
        ("RABBITMQ_URL", "nonsense"),
        ("RABBITMQ_EVENTS_QUEUE_SCOPE", "replica"),
        ("AUTH_MODE", "jwt"),
        ("AUTH_TOKEN", "0123456789abcdef"),
        ("HISTORY_MAX_AGE", "2D"),
        ("ADDRESS_USER_FIELD", "/user"),
        ("PAYLOAD_FORMAT", "json-object"),
        ("SSE_RETRY_MS", "100"),
        ("LOG_FORMAT", "json"),
        ("HTTP_BIND", "[::1]:9090"),
        ("ADMIN_BIND", "[::]:9090"),
    ]]))
    .unwrap();
    assert!(matches!(config.auth.mode, AuthMode::None));
    assert_eq!(config.hub.max_age, Duration::from_secs(2 * 86_400));
    assert!(config.address.user_field.is_some());
    assert_eq!(config.sse.retry, Duration::from_millis(100));
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.http.bind.to_string(), "[::1]:9090");

    let text = Config::for_dev(&environment(&[&[("HTTP_BIND", "0.0.0.0:8081")]]))
        .unwrap_err()
        .to_string();
    assert!(
        text.starts_with("HTTP_BIND=0.0.0.0:8081 (the environment): dev has no login"),
        "{text}"
    );
    let misspelt = Config::for_dev(&environment(&[&[("SSE_RETYR_MS", "1")]]))
        .unwrap_err()
        .to_string();
    assert!(misspelt.contains("write SSE_RETRY_MS"), "{misspelt}");
}

#[test]
fn publish_needs_a_broker_and_no_mode_of_login() {
    assert!(Config::for_publish(&environment(&[&[("RABBITMQ_URL", "amqp://localhost")]])).is_ok());
    let text = Config::for_publish(&environment(&[]))
        .unwrap_err()
        .to_string();
    assert!(text.starts_with("RABBITMQ_URL is not set"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn no_two_settings_have_one_name() {
    let names: Vec<&str> = SETTINGS
        .iter()
        .flat_map(|setting| std::iter::once(setting.name).chain(setting.file()))
        .collect();
    let different: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(different.len(), names.len());
}
