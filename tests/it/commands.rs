//! The command line: what it says, and what it exits with.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::harness::{
    Bridge, Finished, KeyServer, SOON, Setup, closed_port, eventually, http_answer,
};

/// Exit code of what cannot be used (sysexits.h: EX_USAGE).
const BAD_CONFIGURATION: Option<i32> = Some(64);

async fn run(arguments: &[&str]) -> Finished {
    Setup::default().run(arguments, "").await
}

/// Lines are wrapped by the width of a terminal: one line, one blank between words.
fn unwrapped(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn help_says_what_a_command_does_and_needs() {
    let cases: &[(&[&str], &[&str])] = &[
        (
            &["--help"],
            &[
                "Server-Sent Events",
                "dev",
                "serve",
                "check",
                "publish",
                "--config",
                "SSE_BRIDGE_CONFIG",
                "--env-file",
                ".env.example",
                "sse-bridge dev",
                "Exit codes: 0 done, 1 failed, 64 bad configuration",
            ],
        ),
        (
            &["dev", "--help"],
            &[
                "in memory",
                "no login",
                "RabbitMQ",
                "page at /",
                "--env-file",
            ],
        ),
        (
            &["serve", "--help"],
            &["RABBITMQ_URL", "AUTH_MODE", "SIGTERM", "drain"],
        ),
        (
            &["check", "--help"],
            &[
                "configuration",
                "topology",
                "changes nothing",
                "Exits with 0",
                "--local[=<QUESTION>]",
                "ADMIN_BIND",
                "alive",
                "ready",
            ],
        ),
        (
            &["publish", "--help"],
            &[
                "confirm",
                "Example: sse-bridge publish --topic",
                "--topic",
                "--user",
                "--team",
                "--channel",
                "--tenant",
                "--type",
                "--message-id",
                "--data",
                "standard input",
            ],
        ),
    ];
    for (arguments, mentioned) in cases {
        let finished = run(arguments).await;
        assert_eq!(finished.code, Some(0), "{arguments:?}: {finished:?}");
        assert_eq!(finished.stderr, "", "{arguments:?}");
        let text = unwrapped(&finished.stdout);
        for words in *mentioned {
            assert!(
                text.contains(words),
                "{arguments:?} does not mention {words:?}:\n{}",
                finished.stdout
            );
        }
        assert!(
            finished
                .stdout
                .lines()
                .all(|line| line.chars().count() <= 120),
            "too wide for a terminal:\n{}",
            finished.stdout
        );
    }
    let version = run(&["--version"]).await;
    assert_eq!(version.code, Some(0));
    let expected = format!("sse-bridge {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(version.stdout, expected);
}

#[tokio::test]
async fn a_command_line_that_makes_no_sense_exits_with_64() {
    for (arguments, says) in [
        (&[][..], "dev"),
        (&["frobnicate"], "frobnicate"),
        (&["dev", "--frobnicate"], "--frobnicate"),
        (&["publish"], "--topic"),
        (&["publish", "--topic", "user.1", "--user", "a b"], "--user"),
        (
            &["publish", "--topic", "user.1", "--type", "bridge.gap"],
            "--type",
        ),
        (&["dev", "--env-file", "/nowhere/.env"], "/nowhere/.env"),
        (&["dev", "--config", "/nowhere.toml"], "/nowhere.toml"),
        (&["check", "--local=well"], "--local"),
    ] {
        let finished = run(arguments).await;
        assert_eq!(
            finished.code, BAD_CONFIGURATION,
            "{arguments:?}: {finished:?}"
        );
        assert!(
            finished.stderr.contains(says),
            "{arguments:?}: {finished:?}"
        );
        assert_eq!(finished.stdout, "", "{arguments:?}");
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_exits_with_64_and_names_all_that_is_wrong() {
    let serve = run(&["serve"]).await;
    assert_eq!(serve.code, BAD_CONFIGURATION);
    for name in ["RABBITMQ_URL", "AUTH_MODE"] {
        assert!(serve.stderr.contains(name), "{serve:?}");
    }
    let misspelt = Bridge::dev()
        .set("SSE_RETRY_MSS", 1)
        .set("SSE_CHANNEL_CAPACITY", "many")
        .run(&["dev"], "")
        .await;
    assert_eq!(misspelt.code, BAD_CONFIGURATION);
    for part in [
        "SSE_RETRY_MSS",
        "SSE_RETRY_MS,",
        "SSE_CHANNEL_CAPACITY=many",
    ] {
        assert!(misspelt.stderr.contains(part), "{misspelt:?}");
    }
    let contradiction = Bridge::dev()
        .set("SSE_STALL_SECONDS", 1)
        .set("SSE_HEARTBEAT_SECONDS", 2)
        .run(&["dev"], "")
        .await;
    assert_eq!(contradiction.code, BAD_CONFIGURATION);
    for name in ["SSE_STALL_SECONDS=1", "SSE_HEARTBEAT_SECONDS=2"] {
        assert!(contradiction.stderr.contains(name), "{contradiction:?}");
    }
}

#[tokio::test]
async fn dev_has_no_login_and_so_listens_only_on_this_machine() {
    for everywhere in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let finished = Bridge::dev()
            .set("HTTP_BIND", everywhere)
            .run(&["dev"], "")
            .await;
        assert_eq!(finished.code, BAD_CONFIGURATION, "{everywhere}");
        assert!(
            finished.stderr.contains(&format!("HTTP_BIND={everywhere}")),
            "{finished:?}"
        );
    }
    // What belongs to `serve` is not looked at, so that its .env may lie about.
    Bridge::dev()
        .set("RABBITMQ_PREFETCH_COUNT", "many")
        .set("AUTH_MODE", "nonsense")
        .set("ADMIN_BIND", "0.0.0.0:1")
        .start()
        .await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_with_the_setting_that_chose_it() {
    let other = Bridge::dev().start().await;
    let finished = Bridge::dev()
        .set("HTTP_BIND", other.public)
        .run(&["dev"], "")
        .await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let text = &finished.stderr;
    assert!(
        text.contains("HTTP_BIND") && text.contains(&other.public.to_string()),
        "{text}"
    );
}

#[tokio::test]
async fn dev_greets_with_commands_that_work_as_they_stand() {
    let bridge = Bridge::dev().start().await;
    for part in [
        format!("http://{}/events?team_id=7", bridge.public),
        format!("http://{}/publish", bridge.public),
        format!("http://{}/\n", bridge.public),
    ] {
        eventually(&format!("{part} in the greeting"), SOON, async || {
            bridge.output().contains(&part).then_some(())
        })
        .await;
    }
    let greeting = bridge.output();
    let (_, data) = greeting.split_once("-d '").expect("a body");
    let (data, _) = data.split_once('\'').expect("its end");
    // As curl sends it.
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let answer = bridge.request("POST", "/publish", &form, data).await;
    assert_eq!(answer.head.status, 202, "{}", answer.body);
}

#[tokio::test]
async fn a_broker_that_is_away_is_told_and_exits_with_1() {
    let url = format!("amqp://guest:hush-hush@127.0.0.1:{}", closed_port());
    let away = Setup::default()
        .set("RABBITMQ_URL", &url)
        .set("AUTH_MODE", "none");
    for arguments in [
        &["check"][..],
        &["publish", "--topic", "team.7.n", "--data", "{}"],
    ] {
        let finished = away.run(arguments, "").await;
        assert_eq!(finished.code, Some(1), "{arguments:?}: {finished:?}");
        assert!(finished.stderr.contains("127.0.0.1"), "{finished:?}");
        let output = format!("{}{}", finished.stdout, finished.stderr);
        assert!(!output.contains("hush-hush"), "{output}");
    }
}

#[tokio::test]
async fn a_container_asks_the_serve_in_it_whether_it_is_alive_or_ready() {
    let bridge = Bridge::dev().start_without_broker().await;
    let admin = bridge.admin();
    // All interfaces are no address that could be asked; this machine's own is meant.
    let everywhere = format!("0.0.0.0:{}", admin.port());
    for bind in [admin.to_string(), everywhere] {
        // It needs to know nothing else, neither broker nor login.
        let setup = Setup::default().set("ADMIN_BIND", bind);
        for arguments in [&["check", "--local"][..], &["check", "--local=alive"]] {
            let alive = setup.run(arguments, "").await;
            let says = format!("ok       http://{admin}/healthz: ok\n");
            assert_eq!((alive.code, alive.stdout), (Some(0), says));
            assert_eq!(alive.stderr, "");
        }
        let ready = setup.run(&["check", "--local=ready"], "").await;
        let says = format!(
            "sse-bridge: http://{admin}/readyz answers 503 Service Unavailable: the broker has not been reached yet\n"
        );
        assert_eq!((ready.code, ready.stderr), (Some(1), says));
        assert_eq!(ready.stdout, "");
    }
}

#[tokio::test]
async fn a_serve_that_is_not_there_hangs_or_is_another_program_is_not_alive() {
    let check = async |bind: &str| {
        let setup = Setup::default().set("ADMIN_BIND", bind);
        let finished = setup.run(&["check", "--local"], "").await;
        assert_eq!(finished.stdout, "", "{bind}");
        (finished.code, finished.stderr)
    };
    let nobody = format!("127.0.0.1:{}", closed_port());
    let (code, says) = check(&nobody).await;
    assert_eq!(code, Some(1), "{says}");
    for part in [
        &*nobody,
        "does sse-bridge serve run here",
        "ADMIN_BIND",
        "refused",
    ] {
        assert!(says.contains(part), "{part}: {says}");
    }

    // Its connections are taken by the system, and by nobody else.
    let hangs = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (code, says) = check(&hangs.local_addr().expect("its address").to_string()).await;
    assert_eq!(code, Some(1), "{says}");
    assert!(says.contains("does not answer within 3s"), "{says}");

    let other = KeyServer::start(http_answer("404 Not Found", &"x".repeat(100_000)));
    let (code, says) = check(&other.address().to_string()).await;
    assert_eq!(code, Some(1), "{says}");
    assert!(says.contains("answers 404 Not Found: "), "{says}");
    assert!(says.len() < 1_000, "its answer is not repeated: {says}");

    let (code, says) = check("127.0.0.1:0").await;
    assert_eq!(code, Some(1), "{says}");
    assert!(
        says.contains("ADMIN_BIND=127.0.0.1:0") && says.contains("name one"),
        "{says}"
    );
    let (code, says) = check("everywhere").await;
    assert_eq!(code, BAD_CONFIGURATION, "{says}");
    assert!(says.contains("ADMIN_BIND=everywhere"), "{says}");
}

#[tokio::test]
async fn publish_refuses_what_the_bridge_would_dead_letter() {
    let setup = Setup::default().set("RABBITMQ_URL", "amqp://127.0.0.1");
    for (arguments, input) in [
        (&["publish", "--topic", "team.7.n", "--data", "{"][..], ""),
        (&["publish", "--topic", "team.7.n"], "{\"half\":"),
        (&["publish", "--topic", "team.7.n"], ""),
    ] {
        let finished = setup.run(arguments, input).await;
        assert_eq!(finished.code, Some(1), "{arguments:?}: {finished:?}");
        assert!(finished.stderr.contains("not_json"), "{finished:?}");
    }
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let away = format!("amqp://127.0.0.1:{}", closed_port());
    let token = ["token", "--user", "42"];
    for (arguments, closes_errors, code) in [
        (&token[..], false, 0),
        (&["--help"], false, 0),
        // What the broker says decides, read or not.
        (&["check"], false, 1),
        (&["check"], true, 1),
        (&["frobnicate"], true, 64),
    ] {
        // As `sse-bridge token | true` is left with: a pipe that nobody reads.
        let closed = || {
            let (reader, writer) = std::io::pipe().expect("a pipe");
            drop(reader);
            Stdio::from(writer)
        };
        let child = Command::new(env!("CARGO_BIN_EXE_sse-bridge"))
            .args(arguments)
            .env_clear()
            .env("AUTH_MODE", "jwt")
            .env("AUTH_JWT_SECRET", "0123456789abcdef0123456789abcdef")
            .env("RABBITMQ_URL", &away)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(closed())
            .stderr(if closes_errors {
                closed()
            } else {
                Stdio::piped()
            })
            .spawn()
            .expect("the bridge starts");
        let finished = child.wait_with_output().expect("it ends");
        let errors = String::from_utf8_lossy(&finished.stderr);
        assert_eq!(
            finished.status.code(),
            Some(code),
            "{arguments:?}: {errors}"
        );
        assert!(!errors.contains("panicked"), "{arguments:?}: {errors}");
    }
}
