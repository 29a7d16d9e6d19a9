//! Who is sent what: each client exactly what it asked for and may see, and nothing else.

use serde_json::{Value, json};

use crate::harness::{Bridge, Client, Event, event, until_checkpoint};

/// What every test here publishes, in this order; `data` says which one it is.
fn published() -> Vec<Value> {
    vec![
        json!({"topic": "team.7.job.9.status", "type": "job.status", "data": "job 9 of team 7"}),
        json!({"topic": "team.7.job.10.status", "type": "job.status", "data": "job 10 of team 7"}),
        json!({"topic": "team.7.job.9.log", "type": "job.log", "data": "log of team 7"}),
        json!({"topic": "team.7.chat", "data": "chat of team 7"}),
        json!({"topic": "team.8.job.9.status", "type": "job.status", "data": "job 9 of team 8"}),
        json!({"topic": "user.42.mail", "type": "mail", "data": "mail to user 42"}),
        json!({"topic": "user.43.mail", "type": "mail", "data": "mail to user 43"}),
        json!({"topic": "channel.news", "data": "news"}),
        json!({"topic": "broadcast.notice", "type": "notice", "data": "to all"}),
        json!({"topic": "team.7.note", "user_id": "42", "data": "user 42, by header"}),
        json!({"topic": "team.7.note", "team_id": "8", "data": "team 8, by header"}),
        json!({"topic": "team.7.note", "channel": "news", "data": "news, by header"}),
        json!({"topic": "user.43.note", "user_id": "42", "channel": "news", "team_id": "7", "data": "user beats all"}),
        json!({"topic": "user.43.note", "channel": "news", "team_id": "7", "data": "channel beats team"}),
        json!({"topic": "team.7.note", "tenant_id": "acme", "data": "team 7 of acme"}),
        json!({"topic": "broadcast.notice", "tenant_id": "acme", "data": "to all of acme"}),
    ]
}

/// A query, and all that it is sent of what is [`published`].
const SEEN: &[(&str, &[&str])] = &[
    (
        "team_id=7",
        &[
            "job 9 of team 7",
            "job 10 of team 7",
            "log of team 7",
            "chat of team 7",
            "to all",
        ],
    ),
    (
        "team_id=7&broadcast=false",
        &[
            "job 9 of team 7",
            "job 10 of team 7",
            "log of team 7",
            "chat of team 7",
        ],
    ),
    (
        "team_id=8",
        &["job 9 of team 8", "to all", "team 8, by header"],
    ),
    (
        "user_id=42",
        &[
            "mail to user 42",
            "to all",
            "user 42, by header",
            "user beats all",
        ],
    ),
    ("user_id=43", &["mail to user 43", "to all"]),
    (
        "channel=news&broadcast=false",
        &["news", "news, by header", "channel beats team"],
    ),
    ("user_id=nobody", &["to all"]),
    ("user_id=nobody&broadcast=false", &[]),
    // Audiences are joined as a union, in the order of the log.
    (
        "user_id=42&user_id=43&team_id=8&channel=news&broadcast=false",
        &[
            "job 9 of team 8",
            "mail to user 42",
            "mail to user 43",
            "news",
            "user 42, by header",
            "team 8, by header",
            "news, by header",
            "user beats all",
            "channel beats team",
        ],
    ),
    ("team_id=7&team_id=7&topic=team.7.chat", &["chat of team 7"]),
    // A tenant is a fence, from both sides and for broadcasts too.
    ("tenant_id=acme", &["team 7 of acme", "to all of acme"]),
    (
        "tenant_id=acme&team_id=7",
        &["team 7 of acme", "to all of acme"],
    ),
    (
        "tenant_id=acme&team_id=7&broadcast=false",
        &["team 7 of acme"],
    ),
    ("tenant_id=acme&team_id=8", &["to all of acme"]),
    ("tenant_id=other&team_id=7", &[]),
    // Narrowing: every kind must match, any value of a kind.
    (
        "team_id=7&topic=team.7.job.*.status",
        &["job 9 of team 7", "job 10 of team 7"],
    ),
    (
        "team_id=7&topic=%23.status",
        &["job 9 of team 7", "job 10 of team 7"],
    ),
    ("team_id=7&topic=team.8.%23", &[]),
    (
        "team_id=7&topic=team.7.chat&topic=*.*.job.9.log",
        &["log of team 7", "chat of team 7"],
    ),
    (
        "team_id=7&event=job.status",
        &["job 9 of team 7", "job 10 of team 7"],
    ),
    (
        "team_id=7&event=job.log&event=notice",
        &["log of team 7", "to all"],
    ),
    ("team_id=7&event=JOB.LOG", &[]),
    ("team_id=7&job_id=9", &["job 9 of team 7"]),
    (
        "team_id=7&job_id=9&job_id=10",
        &["job 9 of team 7", "job 10 of team 7"],
    ),
    (
        "team_id=7&team_id=8&job_id=9",
        &["job 9 of team 7", "job 9 of team 8"],
    ),
    ("team_id=7&job_id=11", &[]),
    ("team_id=7&job_id=9&event=job.log", &[]),
    (
        "all=true&event=job.status&topic=team.*.job.%23&job_id=9",
        &["job 9 of team 7", "job 9 of team 8"],
    ),
    (
        "all=true&event=mail",
        &["mail to user 42", "mail to user 43"],
    ),
    (
        "tenant_id=acme&all=true&broadcast=false",
        &["team 7 of acme"],
    ),
    // Said to be not all, an audience has to be named.
    ("all=false&user_id=43&broadcast=false", &["mail to user 43"]),
];

/// What came until the client was told that it has everything up to `newest`.
async fn all_up_to(client: &mut Client, newest: &str) -> Vec<Event> {
    until_checkpoint(client, |id| id == newest).await.0
}

fn data(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .map(|event| event.json().as_str().expect("a label").to_owned())
        .collect()
}

#[tokio::test]
async fn every_client_is_sent_what_it_asked_for_in_log_order_and_nothing_else() {
    let bridge = Bridge::dev().set("SSE_HEARTBEAT_SECONDS", 1).start().await;
    let mut everything = Client::connect(&bridge, "all=true").await;
    let mut default = Client::connect(&bridge, "").await;
    let mut unannounced = Client::connect(&bridge, "all=true&broadcast=false").await;
    let mut clients = Vec::new();
    for (query, expected) in SEEN {
        clients.push((query, Client::connect(&bridge, query).await, expected));
    }
    let mut producer = bridge.producer().await;
    for event in published() {
        producer.publish(&event).await;
    }
    let all: Vec<String> = published()
        .iter()
        .map(|event| event["data"].as_str().unwrap().to_owned())
        .collect();
    let events = everything.events(all.len()).await;
    assert_eq!(data(&events), all);
    let newest = events.last().unwrap().id.clone();

    // Where nobody is told apart, everything is the default.
    assert_eq!(data(&all_up_to(&mut default, &newest).await), all);
    let mut without_broadcasts = all.clone();
    without_broadcasts.retain(|label| !label.starts_with("to all"));
    assert_eq!(
        data(&all_up_to(&mut unannounced, &newest).await),
        without_broadcasts
    );
    for (query, mut client, expected) in clients {
        let seen = all_up_to(&mut client, &newest).await;
        assert_eq!(data(&seen), *expected, "{query}");
        assert!(
            seen.iter().all(|event| event.has_own_id),
            "{query}: {seen:?}"
        );
    }
}

#[tokio::test]
async fn a_repeat_of_a_message_id_reaches_nobody_twice() {
    let bridge = Bridge::dev().start().await;
    let mut seven = Client::connect(&bridge, "team_id=7").await;
    let mut eight = Client::connect(&bridge, "team_id=8").await;
    let with_id =
        |topic: &str, id: &str, data: &str| json!({"topic": topic, "message_id": id, "data": data});
    for event in [
        with_id("team.7.n", "a", "first"),
        with_id("team.7.n", "a", "repeat"),
        with_id("team.7.other", "a", "repeat under another topic"),
        with_id("team.8.n", "a", "for others"),
        with_id("team.7.n", "b", "second"),
        event("team.7.n", "no id"),
        event("team.7.n", "no id"),
    ] {
        bridge.publish(&event).await;
    }
    assert_eq!(
        data(&seven.events(4).await),
        ["first", "second", "no id", "no id"]
    );
    assert_eq!(data(&eight.events(1).await), ["for others"]);
    bridge.wait_metric("sse_bridge_duplicates_total", 2.0).await;
}

#[tokio::test]
async fn another_header_name_addresses_by_templates_that_were_set() {
    let bridge = Bridge::dev()
        .set(
            "ADDRESS_ROUTING_KEYS",
            "team.{tenant_id}.{team_id}.order.{order_id}",
        )
        .set("ADDRESS_BROADCAST_KEYS", "none")
        .set("ADDRESS_USER_FIELD", "/for/user")
        .start()
        .await;
    let mut order = Client::connect(&bridge, "tenant_id=acme&team_id=7&order_id=1").await;
    let mut team = Client::connect(&bridge, "team_id=7").await;
    let mut user = Client::connect(&bridge, "user_id=42").await;
    bridge
        .publish(&event("team.acme.7.order.2", "not it"))
        .await;
    bridge.publish(&event("team.acme.7.order.1", "it")).await;
    bridge
        .publish(&json!({"topic": "team.x", "team_id": "7", "data": "no tenant"}))
        .await;
    bridge
        .publish(&json!({"topic": "user.x", "data": {"for": {"user": 42}}}))
        .await;
    assert_eq!(data(&order.events(1).await), ["it"]);
    assert_eq!(data(&team.events(1).await), ["no tenant"]);
    assert_eq!(user.event().await.json()["for"]["user"], 42);
}
