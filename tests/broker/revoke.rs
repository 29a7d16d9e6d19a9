//! `POST /revoke`: streams end on every replica, whatever becomes of replicas and links; and ids of events that tell
//! nothing to who has not the key.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use serde_json::json;
use sse_bridge::event::id::{EventId, Mark};

use crate::harness::{
    Bridge, Client, Event, Foreign, Item, Message, Proxy, RabbitMq, SOON, Setup, Silence, Vhost,
    eventually, hex, raw_long_header, request,
};

const TOKEN: &str = "a-token-that-nobody-prints-0123456789";
const BEARER: &str = "Bearer a-token-that-nobody-prints-0123456789";
const STREAM: &str = "events.sse.revocations";

fn with_token(setup: Setup) -> Setup {
    setup.set("AUTH_MODE", "token").set("AUTH_TOKEN", TOKEN)
}

/// A bridge that checks tokens, once it hears what others revoke.
async fn start(setup: Setup) -> Bridge {
    let bridge = with_token(setup).start().await;
    hears(&bridge, true).await;
    bridge
}

async fn hears(bridge: &Bridge, whether: bool) {
    bridge
        .wait_metric("sse_bridge_revocations_up", |up| {
            up == f64::from(u8::from(whether))
        })
        .await;
}

async fn knows(bridge: &Bridge, count: f64) {
    bridge
        .wait_metric("sse_bridge_revocations", |known| known == count)
        .await;
}

async fn connect(address: SocketAddr, query: &str) -> Client {
    Client::connect_with(address, query, &[("Authorization", BEARER)])
        .await
        .subscribed()
        .await
}

/// What the admin listener answers: its status, and all of it for when that is not the right one.
async fn post(bridge: &Bridge, body: &str) -> (u16, String) {
    let answer = request(bridge.admin, "POST", "/revoke", &[], body)
        .await
        .expect("an answer");
    (answer.head.status, format!("{body}: {answer:?}"))
}

async fn revoke(bridge: &Bridge, user: &str) {
    let (status, answer) = post(bridge, &json!({"user_id": user}).to_string()).await;
    assert_eq!(status, 202, "{answer}");
}

/// The stream ends, with a farewell that says why and names no time to come back. What came before that.
async fn farewell(client: &mut Client) -> Vec<Event> {
    let (items, end) = client.until_end(SOON).await;
    assert_eq!(end, Silence::Ended, "{items:?}");
    let mut events: Vec<Event> = Vec::new();
    let mut retries = 0;
    for item in items {
        match item {
            Item::Event(event) => events.push(event),
            Item::Retry(_) => retries += 1,
            Item::Checkpoint(_) | Item::Comment(_) => {}
        }
    }
    assert!(retries <= 1, "one at the beginning");
    let bye = events.pop().expect("a farewell");
    assert_eq!(bye.name, "bridge.bye", "{bye:?}");
    assert_eq!(bye.json(), json!({"reason": "revoked"}));
    assert!(!bye.has_own_id, "{bye:?}");
    events
}

/// Publishes to the stream of revocations what no bridge has written.
async fn tell(vhost: &Vhost, body: &str) {
    let connection = vhost.connect().await;
    let channel = connection.create_channel().await.expect("a channel");
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .expect("confirms");
    channel
        .basic_publish(
            "".into(),
            STREAM.into(),
            BasicPublishOptions::default(),
            body.as_bytes(),
            BasicProperties::default(),
        )
        .await
        .expect("it is published")
        .await
        .expect("it is confirmed");
}

#[tokio::test]
async fn the_streams_of_a_revoked_user_end_on_every_replica_and_nobody_elses() {
    let shared = RabbitMq::shared().await;
    // A stream of revocations stands beside any kind of queue.
    for kind in ["stream", "quorum"] {
        let vhost = shared.vhost();
        let setup = Bridge::on(&vhost).set("RABBITMQ_EVENTS_QUEUE_TYPE", kind);
        let setup = setup.set(
            "RABBITMQ_EVENTS_QUEUE_SCOPE",
            match kind {
                "stream" => "shared",
                _ => "replica",
            },
        );
        let first = start(setup.clone().set("REPLICA_NAME", "first")).await;
        let second = start(setup.set("REPLICA_NAME", "second")).await;
        let mut meant = Vec::new();
        let mut others = Vec::new();
        for bridge in [&first, &second] {
            meant.push(connect(bridge.public, "user_id=42").await);
            meant.push(connect(bridge.public, "user_id=41&user_id=42&tenant_id=acme").await);
            others.push(connect(bridge.public, "user_id=43").await);
            others.push(connect(bridge.public, "team_id=42").await);
            others.push(connect(bridge.public, "").await);
        }
        revoke(&first, "42").await;
        for client in &mut meant {
            assert_eq!(farewell(client).await, [], "{kind}");
        }
        let producer = vhost.producer().await;
        let to_all = Message::to("broadcast.notice", "\"after\"");
        producer.publish(to_all).await;
        for client in &mut others {
            assert_eq!(client.data(1).await, ["\"after\""], "{kind}");
        }
        for bridge in [&first, &second] {
            let closed = "sse_bridge_connections_closed_total{reason=\"revoked\"}";
            assert_eq!(bridge.metric(closed).await, 2.0, "{kind}");
            assert_eq!(bridge.metric("sse_bridge_revocations").await, 1.0, "{kind}");
        }
        // The front end has decided anew, and a revocation that was heard is not heard again.
        let mut again = connect(second.public, "user_id=42").await;
        producer.publish(Message::to("user.42.n", "1")).await;
        assert_eq!(again.data(1).await, ["1"], "{kind}");
        revoke(&second, "42").await;
        assert_eq!(farewell(&mut again).await, [], "{kind}");
        assert_eq!(first.metric("sse_bridge_revocations").await, 1.0, "{kind}");
    }
}

#[tokio::test]
async fn a_revocation_inside_a_tenant_ends_nothing_in_another() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = start(Bridge::on(&vhost)).await;
    let mut meant = connect(bridge.public, "user_id=42&tenant_id=acme").await;
    let mut other = connect(bridge.public, "user_id=42&tenant_id=other").await;
    let mut none = connect(bridge.public, "user_id=42").await;
    let body = r#"{"user_id":"42","tenant_id":"acme"}"#;
    let (status, answer) = post(&bridge, body).await;
    assert_eq!(status, 202, "{answer}");
    assert_eq!(farewell(&mut meant).await, []);
    let producer = vhost.producer().await;
    let event = || Message::to("user.42.n", "1");
    producer.publish(event()).await;
    producer.publish(event().header("tenant-id", "other")).await;
    assert_eq!(none.data(1).await, ["1"]);
    assert_eq!(other.data(1).await, ["1"]);
    revoke(&bridge, "42").await;
    assert_eq!(farewell(&mut other).await, []);
    assert_eq!(farewell(&mut none).await, []);
}

#[tokio::test]
async fn a_busy_client_and_one_that_stalls_are_sent_nothing_that_comes_after_they_were_revoked() {
    const BEFORE: usize = 3000;
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = start(Bridge::on(&vhost).set("SSE_STALL_SECONDS", 600)).await;
    // It is not asked to read before the end.
    let mut stalled = connect(bridge.public, "user_id=42").await;
    let mut busy = connect(bridge.public, "user_id=42").await;
    let producer = vhost.producer().await;
    let padding = "x".repeat(2000);
    let event = |n: usize| Message::to("user.42.n", format!(r#"{{"n":{n},"x":"{padding}"}}"#));
    let reading = async { farewell(&mut busy).await };
    let publishing = async {
        producer.publish_all((0..BEFORE).map(event)).await;
        revoke(&bridge, "42").await;
        producer
            .publish_all((BEFORE..BEFORE + 100).map(event))
            .await;
    };
    let (of_busy, ()) = tokio::join!(reading, publishing);
    bridge
        .wait_metric("sse_bridge_events_consumed_total", |count| {
            count == (BEFORE + 100) as f64
        })
        .await;
    let of_stalled = farewell(&mut stalled).await;
    assert!(of_stalled.len() < BEFORE / 2, "it did not stall");
    for events in [of_busy, of_stalled] {
        let numbers = events
            .iter()
            .filter(|event| !event.is_control())
            .map(|event| event.json()["n"].as_u64().expect("a number"));
        assert!(numbers.max() < Some(BEFORE as u64));
    }
}

#[tokio::test]
async fn a_replica_that_was_cut_off_learns_what_was_revoked_meanwhile() {
    let shared = RabbitMq::shared().await;
    let vhost = shared.vhost();
    let proxy = Proxy::to(shared.port()).await;
    let first = start(Bridge::on(&vhost)).await;
    let second = start(Bridge::at(&vhost.url_at(proxy.port()))).await;
    let mut before = connect(second.public, "user_id=41").await;
    let mut meant = connect(second.public, "user_id=42").await;
    revoke(&first, "41").await;
    farewell(&mut before).await;
    for round in 0..3 {
        proxy.cut();
        hears(&second, false).await;
        revoke(&first, "42").await;
        proxy.restore();
        assert_eq!(farewell(&mut meant).await, [], "round {round}");
        meant = connect(second.public, "user_id=42").await;
    }
    // The stream may be another one by then.
    proxy.cut();
    hears(&second, false).await;
    vhost.delete_queue(STREAM).await;
    eventually("the first replica makes it again", SOON, async || {
        vhost.queue(STREAM).await
    })
    .await;
    hears(&first, true).await;
    revoke(&first, "42").await;
    proxy.restore();
    assert_eq!(farewell(&mut meant).await, []);
}

#[tokio::test]
async fn a_replica_that_starts_knows_what_was_revoked_before() {
    let vhost = RabbitMq::shared().await.vhost();
    let first = start(Bridge::on(&vhost)).await;
    for user in ["41", "42", "43"] {
        revoke(&first, user).await;
    }
    let (status, answer) = post(&first, r#"{"token_id":"j1"}"#).await;
    assert_eq!(status, 202, "{answer}");
    let (status, answer) = post(&first, r#"{"token_id":"j1"}"#).await;
    assert_eq!(status, 202, "twice is as good as once: {answer}");
    // It has ended already, so that nobody need know it.
    let (status, answer) = post(&first, r#"{"token_id":"j2","expires_at":1700000000}"#).await;
    assert_eq!(status, 202, "{answer}");
    knows(&first, 4.0).await;
    let second = start(Bridge::on(&vhost)).await;
    knows(&second, 4.0).await;
    first.kill();
    second.kill();
    let third = start(Bridge::on(&vhost)).await;
    knows(&third, 4.0).await;
    assert_eq!(
        third.metric("sse_bridge_revocations_malformed_total").await,
        0.0
    );
}

#[tokio::test]
async fn without_the_broker_a_revocation_holds_on_this_replica_and_is_answered_503() {
    let shared = RabbitMq::shared().await;
    let vhost = shared.vhost();
    let proxy = Proxy::to(shared.port()).await;
    let bridge = start(Bridge::at(&vhost.url_at(proxy.port()))).await;
    let other = start(Bridge::on(&vhost)).await;
    let mut here = connect(bridge.public, "user_id=42").await;
    let mut there = connect(other.public, "user_id=42").await;
    proxy.refuse();
    hears(&bridge, false).await;
    let body = r#"{"user_id":"42"}"#;
    let away = request(bridge.admin, "POST", "/revoke", &[], body)
        .await
        .expect("an answer");
    assert_eq!(away.head.status, 503, "{away:?}");
    assert!(away.head.header("Retry-After").is_some(), "{away:?}");
    assert!(away.body.contains("this replica only"), "{away:?}");
    farewell(&mut here).await;
    // Whoever is let in goes on being served.
    assert_eq!(
        bridge.get("/readyz").await.expect("an answer").head.status,
        200
    );
    let again =
        Client::connect_with(bridge.public, "user_id=42", &[("Authorization", BEARER)]).await;
    assert_eq!(again.head.status, 200);
    assert_eq!(other.metric("sse_bridge_revocations").await, 0.0);
    proxy.restore();
    hears(&bridge, true).await;
    revoke(&bridge, "42").await;
    farewell(&mut there).await;
}

#[tokio::test]
async fn what_cannot_be_revoked_is_refused_with_the_reason_and_revokes_nothing() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = start(Bridge::on(&vhost)).await;
    let long = "x".repeat(257);
    let huge = "x".repeat(9000);
    let cases: &[(&str, u16, &str)] = &[
        ("", 400, "EOF"),
        ("{", 400, "EOF"),
        ("user_id=42", 400, "expected"),
        (r#"{"user_id":"42"} x"#, 400, "trailing"),
        ("[]", 422, "invalid"),
        ("{}", 422, "either token_id or user_id"),
        (r#"{"user_id":"42","token_id":"j"}"#, 422, "either"),
        (r#"{"user_id":42}"#, 422, "string"),
        (r#"{"user_id":""}"#, 422, "user_id"),
        (r#"{"user_id":"*"}"#, 422, "user_id"),
        (r#"{"user_id":"4\u00002"}"#, 422, "user_id"),
        (r#"{"user_id":"42","user_id":"43"}"#, 422, "user_id"),
        (r#"{"user_id":"42","tenant":"acme"}"#, 422, "`tenant`"),
        (r#"{"user_id":"42","tenant_id":""}"#, 422, "tenant_id"),
        (r#"{"tenant_id":"acme"}"#, 422, "either"),
        (r#"{"token_id":"j","tenant_id":"acme"}"#, 422, "tenant_id"),
        (r#"{"token_id":""}"#, 422, "token_id"),
        (&format!(r#"{{"token_id":"{long}"}}"#), 422, "token_id"),
        (r#"{"token_id":"j\n"}"#, 422, "token_id"),
        (&format!(r#"{{"token_id":"{huge}"}}"#), 413, "8192"),
        (
            r#"{"user_id":"42","expires_at":1700000000}"#,
            422,
            "is past",
        ),
        (r#"{"user_id":"42","expires_at":-1}"#, 422, "-1"),
        (r#"{"user_id":"42","expires_at":1.5}"#, 422, "1.5"),
        (r#"{"user_id":"42","expires_at":"1"}"#, 422, "u64"),
        (
            r#"{"user_id":"42","expires_at":99999999999}"#,
            422,
            "AUTH_REVOCATION_MAX_AGE",
        ),
        (
            r#"{"user_id":"42","expires_at":18446744073709551615}"#,
            422,
            "AUTH_REVOCATION_MAX_AGE",
        ),
    ];
    for (body, expected, reason) in cases {
        let (status, answer) = post(&bridge, body).await;
        assert_eq!(status, *expected, "{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
        assert!(answer.contains(reason), "{reason}: {answer}");
    }
    for (method, path, expected, says) in [
        ("GET", "/revoke", 405, "POST /revoke"),
        ("GET", "/events", 404, "GET /metrics"),
    ] {
        let answer = request(bridge.admin, method, path, &[], "")
            .await
            .expect("an answer");
        assert_eq!(answer.head.status, expected, "{answer:?}");
        assert!(answer.body.contains(says), "{answer:?}");
    }
    let good = r#"{"user_id":"42"}"#;
    let elsewhere = [
        (bridge.admin, "GET", vec![], 405),
        (
            bridge.admin,
            "POST",
            vec![("Origin", "http://127.0.0.1")],
            403,
        ),
        (bridge.admin, "POST", vec![("Origin", "null")], 403),
        (bridge.public, "POST", vec![("Authorization", BEARER)], 404),
    ];
    for (address, method, headers, expected) in elsewhere {
        let answer = request(address, method, "/revoke", &headers, good)
            .await
            .expect("an answer");
        assert_eq!(answer.head.status, expected, "{method} {answer:?}");
    }
    assert_eq!(bridge.metric("sse_bridge_revocations").await, 0.0);
    // Where there are no tokens there is nothing to revoke.
    let open = Bridge::on(&vhost).start().await;
    let (status, answer) = post(&open, good).await;
    assert_eq!(status, 404, "{answer}");
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_counted_and_those_behind_it_are_heard() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = start(Bridge::on(&vhost)).await;
    let mut client = connect(bridge.public, "user_id=42").await;
    for body in ["", "nonsense", r#"{"user_id":"42"}"#, "\u{0}"] {
        tell(&vhost, body).await;
    }
    bridge
        .wait_metric("sse_bridge_revocations_malformed_total", |count| {
            count == 4.0
        })
        .await;
    revoke(&bridge, "42").await;
    farewell(&mut client).await;
    let second = start(Bridge::on(&vhost)).await;
    knows(&second, 1.0).await;
    assert_eq!(
        second
            .metric("sse_bridge_revocations_malformed_total")
            .await,
        4.0
    );
}

#[tokio::test]
async fn a_record_whose_headers_fill_a_frame_keeps_no_replica_from_hearing_those_behind_it() {
    let vhost = RabbitMq::shared().await.vhost();
    let setup = Bridge::on(&vhost);
    let first = start(setup.clone()).await;
    // As large as a producer may make them: the stream adds one more.
    let headers = raw_long_header("large", b'S', &vec![b'x'; 131_072 - 27 - 11]);
    let record = json!({"exchange": "", "topic": STREAM, "body": "{}", "headers": hex(&headers)});
    Foreign::Raw.publish(&vhost, &[record]).await;
    revoke(&first, "7").await;
    let second = start(setup).await;
    knows(&second, 1.0).await;
    knows(&first, 1.0).await;
}

#[tokio::test]
async fn a_revocation_is_forgotten_when_what_it_revokes_has_ended() {
    let vhost = RabbitMq::shared().await.vhost();
    let bridge = start(Bridge::on(&vhost)).await;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a clock")
        .as_secs();
    // It is remembered for a minute beyond its end, of which all but ten seconds are over.
    let body = json!({"token_id": "j1", "expires_at": now - 50}).to_string();
    let (status, answer) = post(&bridge, &body).await;
    assert_eq!(status, 202, "{answer}");
    knows(&bridge, 1.0).await;
    knows(&bridge, 0.0).await;
}

#[tokio::test]
async fn check_and_serve_say_what_is_wrong_with_the_stream_of_revocations() {
    let vhost = RabbitMq::shared().await.vhost();
    let setup = with_token(Bridge::on(&vhost));
    let before = setup.run(&["check"]).await;
    assert_eq!(before.code, Some(0), "{}", before.output);
    assert!(
        before
            .output
            .contains(&format!("`{STREAM}` is not there yet")),
        "{}",
        before.output
    );
    let open = Bridge::on(&vhost).run(&["check"]).await;
    assert!(!open.output.contains(STREAM), "{}", open.output);
    start(Bridge::on(&vhost)).await.kill();
    let after = setup.run(&["check"]).await;
    assert_eq!(after.code, Some(0), "{}", after.output);
    let there = format!("ok       stream queue `{STREAM}`");
    assert!(after.output.contains(&there), "{}", after.output);

    let other = setup.clone().set("AUTH_REVOCATION_MAX_AGE", "1h");
    let differs = other.run(&["check"]).await;
    assert_eq!(differs.code, Some(1), "{}", differs.output);
    assert!(
        differs
            .output
            .contains("set AUTH_REVOCATION_MAX_AGE to what is there"),
        "{}",
        differs.output
    );
    // A trusted front end is served all the same, and the operator is told.
    let bridge = other.start().await;
    eventually("it is told", SOON, async || {
        let output = bridge.output();
        (output.contains("cannot read what was revoked") && output.contains("ERROR")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_bridge_whose_user_may_not_read_revocations_says_so_and_serves_a_front_end() {
    let shared = RabbitMq::shared().await;
    let vhost = shared.vhost();
    start(Bridge::on(&vhost)).await.kill();
    let user = format!("limited-{}", vhost.name());
    shared.control(&["add_user", &user, "secret"]).await;
    let all_but = "^(?!.*revocations).*$";
    let rights = ["-p", vhost.name(), &user, all_but, ".*", all_but];
    shared
        .control(&[&["set_permissions"], &rights[..]].concat())
        .await;
    let url = format!(
        "amqp://{user}:secret@127.0.0.1:{}/{}",
        shared.port(),
        vhost.name()
    );
    for declare in ["true", "false"] {
        let bridge = with_token(Bridge::at(&url))
            .set("RABBITMQ_DECLARE", declare)
            .start()
            .await;
        eventually("it is told", SOON, async || {
            let output = bridge.output();
            let line = output
                .lines()
                .find(|line| line.contains("cannot read what was revoked"))?;
            assert!(line.contains("ERROR") && line.contains(STREAM), "{line}");
            Some(())
        })
        .await;
        assert_eq!(bridge.metric("sse_bridge_revocations_up").await, 0.0);
        connect(bridge.public, "user_id=42").await;
    }
}

fn numbered(range: std::ops::Range<usize>) -> impl Iterator<Item = Message> {
    range.map(|n| Message::to("team.7.n", n.to_string()))
}

#[tokio::test]
async fn replicas_with_one_event_id_key_go_on_for_each_other_and_with_another_the_client_is_told() {
    const KEY: &str = "a key of at least thirty-two bytes";
    let vhost = RabbitMq::shared().await.vhost();
    let keyed = Bridge::on(&vhost).set("EVENT_ID_KEY", KEY);
    let first = keyed.start().await;
    let second = keyed.start().await;
    let mut client = Client::connect(&first, "team_id=7").await;
    let mut witness = Client::connect(&second, "team_id=7").await;
    let producer = vhost.producer().await;
    producer.publish_all(numbered(0..10)).await;
    let ids =
        |events: Vec<Event>| -> Vec<String> { events.into_iter().map(|event| event.id).collect() };
    let seen = ids(client.events(10).await);
    assert_eq!(seen, ids(witness.events(10).await), "on both replicas");
    let body = |n: usize| n.to_string().into_bytes();
    for (n, id) in seen.iter().enumerate() {
        let id: EventId = id.parse().expect("an id");
        let guessed = Mark::of_record(id.position, "team.7.n", None, None, &body(n));
        assert_ne!(id.mark, guessed, "a right guess at event {n} is confirmed");
    }

    first.kill();
    producer.publish_all(numbered(10..20)).await;
    let mut client = client.reconnect_to(second.public).await;
    let expected: Vec<String> = (10..20).map(|n| n.to_string()).collect();
    assert_eq!(client.data(10).await, expected, "on the other replica");
    second.kill();
    // As what memory has, and as what is read back.
    for history in ["10m", "0"] {
        let restarted = keyed.clone().set("HISTORY_MAX_AGE", history).start().await;
        let id = [("Last-Event-ID", seen[9].as_str())];
        let mut again = Client::connect_with(restarted.public, "team_id=7", &id).await;
        assert_eq!(again.data(10).await, expected, "after a restart, {history}");
        let output = restarted.output();
        assert!(!output.contains(KEY), "{output}");
    }
    for other in [Some("another key of thirty-two bytes !"), None] {
        for history in ["10m", "0"] {
            let setup = Bridge::on(&vhost).set("HISTORY_MAX_AGE", history);
            let setup = match other {
                Some(key) => setup.set("EVENT_ID_KEY", key),
                None => setup,
            };
            let changed = setup.start().await;
            let id = [("Last-Event-ID", seen[9].as_str())];
            let mut returned = Client::connect_with(changed.public, "team_id=7", &id).await;
            let gap = match returned.next(SOON + Duration::from_secs(10)).await {
                Ok(event) => event,
                Err(silence) => panic!("no gap, but {silence:?}"),
            };
            assert_eq!(gap.name, "bridge.gap", "{other:?}, {history}: {gap:?}");
            assert_eq!(gap.json()["reason"], "unknown", "{other:?}, {history}");
        }
    }
}

/// A JSON Web Token of this user, with this id.
fn token(user: &str, id: &str, issued_seconds_ago: u64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let claims = json!({
        "sub": user, "jti": id, "teams": ["7"], "permissions": ["events:read", "events:publish"],
        "iat": now.as_secs() - issued_seconds_ago, "exp": now.as_secs() + 3_600,
    });
    let key = jsonwebtoken::EncodingKey::from_secret(TOKEN.as_bytes());
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key);
    format!("Bearer {}", token.expect("it can be signed"))
}

async fn with_jwt(bridge: &Bridge, token: &str) -> Result<Client, u16> {
    match Client::try_connect(bridge.public, "", &[("Authorization", token)]).await {
        Ok(client) => Ok(client.subscribed().await),
        Err(answer) => Err(answer.head.status),
    }
}

#[tokio::test]
async fn a_revoked_jwt_ends_on_every_replica_and_is_refused_also_by_one_that_starts_later() {
    let vhost = RabbitMq::shared().await.vhost();
    let setup = Bridge::on(&vhost)
        .set("AUTH_MODE", "jwt")
        .set("AUTH_JWT_SECRET", TOKEN);
    let first = setup.start().await;
    let second = setup.clone().set("REPLICA_NAME", "second").start().await;
    let (phone, laptop) = (token("42", "phone", 10), token("42", "laptop", 10));
    let other = token("43", "other", 10);
    let mut on_phone = with_jwt(&first, &phone).await.expect("a stream");
    let mut on_laptop = with_jwt(&second, &laptop).await.expect("a stream");
    let mut of_other = with_jwt(&second, &other).await.expect("a stream");

    // One token, by the replica that does not hold its stream.
    let (status, answer) = post(&second, r#"{"token_id":"phone"}"#).await;
    assert_eq!(status, 202, "{answer}");
    assert_eq!(farewell(&mut on_phone).await, []);
    assert_eq!(with_jwt(&first, &phone).await.err(), Some(401));
    let event = json!({"topic": "team.7.n", "data": 1}).to_string();
    let answer = first
        .post("/publish", &[("Authorization", &phone)], &event)
        .await
        .expect("an answer");
    assert_eq!(answer.head.status, 401, "{answer:?}");
    let answer = first
        .post("/publish", &[("Authorization", &laptop)], &event)
        .await
        .expect("an answer");
    assert_eq!(answer.head.status, 202, "{answer:?}");
    assert_eq!(on_laptop.data(1).await, ["1"]);

    // All that a user holds, but not what is issued later.
    revoke(&first, "42").await;
    assert_eq!(farewell(&mut on_laptop).await, []);
    for bridge in [&first, &second] {
        knows(bridge, 2.0).await;
        assert_eq!(with_jwt(bridge, &laptop).await.err(), Some(401));
    }
    let later = eventually(
        "a login that is later than the revocation",
        SOON,
        async || with_jwt(&second, &token("42", "new", 0)).await.ok(),
    )
    .await;
    drop(later);
    let third = setup.set("REPLICA_NAME", "third").start().await;
    for token in [&phone, &laptop] {
        assert_eq!(with_jwt(&third, token).await.err(), Some(401));
    }
    with_jwt(&third, &other).await.expect("a stream");
    vhost
        .producer()
        .await
        .publish_all([Message::to("team.7.n", "2")])
        .await;
    assert_eq!(of_other.data(2).await, ["1", "2"], "nothing ended it");
}
