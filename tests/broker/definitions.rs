//! What `deploy/compose.yaml` gives RabbitMQ to begin with: that this is what the bridge wants to find, and that its user may do what it
//! has to, and no more.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Bridge, Message, PASSWORD, RabbitMq, SOON, eventually, new_folder};

/// The file of users that compose makes, with the harness's password for both.
fn users() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = Command::new(root.join("target/tools/bin/compose"))
        .arg("deploy/compose.yaml")
        .current_dir(root)
        .env_clear()
        .envs(["AUTH_JWT_SECRET", "EVENT_ID_KEY", "GRAFANA_ADMIN_PASSWORD"].map(|name| (name, "x")))
        .envs(["RABBITMQ_PASSWORD", "RABBITMQ_ADMIN_PASSWORD"].map(|name| (name, PASSWORD)))
        .output()
        .expect("`make setup` builds the reader of Compose files");
    let errors = String::from_utf8_lossy(&read.stderr);
    assert!(read.status.success(), "{errors}");
    let project: Value = serde_json::from_slice(&read.stdout).expect("JSON");
    let content = &project["configs"]["rabbitmq-users"]["content"];
    content.as_str().expect("a text").to_owned()
}

#[tokio::test]
async fn on_the_definitions_of_compose_a_bridge_without_the_right_to_configure_finds_all_it_needs()
{
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/rabbitmq");
    let folder = new_folder("definitions");
    fs::write(folder.join("10-users.json"), users()).expect("a file");
    fs::copy(
        shipped.join("topology.json"),
        folder.join("20-topology.json"),
    )
    .expect("a file");
    let configuration =
        fs::read_to_string(shipped.join("rabbitmq.conf")).expect("the configuration");
    let there = "/etc/rabbitmq/definitions.d";
    assert_eq!(configuration.matches(there).count(), 1, "{configuration}");
    let here = folder.display().to_string();
    let node = RabbitMq::private_with_definitions(configuration.replace(there, &here)).await;
    let vhost = node.default_vhost();

    let setup = Bridge::on(&vhost)
        .set("RABBITMQ_DECLARE", false)
        .set("AUTH_MODE", "jwt")
        .set("AUTH_JWT_SECRET", "0123456789abcdef0123456789abcdef")
        .set("EVENT_ID_KEY", "0123456789abcdef0123456789abcdef");
    // Only who may configure is told how queues differ, so it is the administrator that compares.
    let all_may = setup
        .clone()
        .set("RABBITMQ_URL", vhost.url().replace("bridge:", "admin:"));
    let check = eventually("check is content", SOON, async || {
        let check = all_may.run(&["check"]).await;
        (check.code == Some(0)).then_some(check)
    })
    .await;
    let notes: Vec<&str> = check
        .output
        .lines()
        .filter(|line| line.starts_with("note "))
        .collect();
    assert!(
        matches!(notes[..], [bindings] if bindings.contains("bindings cannot be read")),
        "{}",
        check.output
    );

    let bridge = setup.start().await;
    let here = setup.clone().set("ADMIN_BIND", bridge.admin);
    let ready = here.run(&["check", "--local=ready"]).await;
    assert_eq!(ready.code, Some(0), "{}", ready.output);
    // It publishes to each kind of audience, consumes, and dead-letters what nobody can be sent, by the duty that replicas share.
    for topic in ["team.7.n", "user.1.n", "channel.x.n", "broadcast.n"] {
        let sent = setup
            .run(&["publish", "--topic", topic, "--data", "{}"])
            .await;
        assert_eq!(sent.code, Some(0), "{topic}: {}", sent.output);
    }
    let producer = vhost.producer().await;
    producer.publish(Message::to("team.7.n", "{half")).await;
    bridge
        .wait_metric(
            r#"sse_bridge_dead_letters_total{reason="not_json"}"#,
            |count| count == 1.0,
        )
        .await;
    bridge
        .wait_metric("sse_bridge_events_consumed_total", |count| count >= 5.0)
        .await;
    drop(bridge);

    let declares = setup
        .set("RABBITMQ_DECLARE", true)
        .set("RABBITMQ_EVENTS_QUEUE", "events.other");
    let refused = declares.start_unready().await;
    eventually("it is refused", SOON, async || {
        refused.output().contains("ACCESS_REFUSED").then_some(())
    })
    .await;
}
