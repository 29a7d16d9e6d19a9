//! What the console of `serve` shows of messages from RabbitMQ, and what it never shows.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Bridge, Client, Item, Message, RabbitMq, SOON, Silence};

const TOKEN: &str = "a-token-that-nobody-prints-0123456789";
const BODY: &str = "\"a-body-that-nobody-is-told\"";

#[tokio::test]
async fn the_tail_of_serve_tells_of_every_message_without_its_body_or_a_token_until_the_drain() {
    let vhost = RabbitMq::shared().await.vhost();
    let mut bridge = Bridge::on(&vhost)
        .set("AUTH_MODE", "token")
        .set("AUTH_TOKEN", TOKEN)
        .start()
        .await;
    let bearer = format!("Bearer {TOKEN}");
    let mut client =
        Client::connect_with(bridge.public, "team_id=7", &[("Authorization", &bearer)])
            .await
            .subscribed()
            .await;
    let mut tail = Client::watch(bridge.admin, "").await;
    vhost
        .producer()
        .await
        .publish_all([
            Message::to("team.7.x", BODY),
            Message::to("team.7.x", "poison-that-nobody-is-told"),
            Message::to("team.8.x", BODY),
        ])
        .await;
    let event = client.event().await;
    assert_eq!(event.data, BODY);

    let rows: Vec<Value> = tail.events(3).await.iter().map(|row| row.json()).collect();
    let told: Vec<[&str; 3]> = rows
        .iter()
        .map(|row| ["verdict", "audience", "reason"].map(|name| row[name].as_str().unwrap_or("")))
        .collect();
    assert_eq!(
        told,
        [
            ["published", "team:7", ""],
            ["dead_letter", "", "not_json"],
            ["published", "team:8", ""]
        ]
    );
    assert_eq!(rows[0]["id"], event.id, "the id that clients get");
    assert_eq!(
        (&rows[0]["listening"], &rows[2]["listening"]),
        (&Value::from(1), &Value::from(0))
    );

    let mut later = Client::watch(bridge.admin, "").await;
    let kept = later.events(1).await.remove(0).json();
    assert_eq!(kept, rows[1], "who comes after a dead letter is told of it");

    bridge.signal(Signal::TERM);
    let (items, silence) = tail.until_end(SOON).await;
    assert_eq!(silence, Silence::Ended, "{items:?}");
    let is_bye = |item: &Item| matches!(item, Item::Event(event) if event.name == "bridge.bye");
    assert!(items.last().is_some_and(is_bye), "{items:?}");
    assert_eq!(bridge.wait_exit(SOON).await.code(), Some(0));
    let said = format!("{rows:?} {items:?}");
    for secret in ["nobody-is-told", "nobody-prints"] {
        assert!(!said.contains(secret), "{secret} in {said}");
        assert!(!bridge.output().contains(secret), "{secret} in the log");
    }
}
