//! Who is let in, and what each is sent: tokens of a foreign library, keys that change under load, tenants of one name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::{
    Bridge, Client, Issuer, KeyServer, LONG, Message, RabbitMq, Setup, Silence, Vhost, eventually,
    jwks, within,
};

const ISSUER: &str = "https://issuer.example";
fn claims(tenant: &str, user: &str, team: &str) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    json!({
        "iss": ISSUER, "aud": "events", "iat": now.as_secs(), "exp": now.as_secs() + 3_600,
        "sub": user, "teams": [team], "tenant_id": tenant, "permissions": ["events:read", "events:publish"],
    })
}

fn by_keys_of(server: &KeyServer, vhost: &Vhost) -> Setup {
    Bridge::on(vhost)
        .set("AUTH_MODE", "jwt")
        .set("AUTH_JWKS_URL", server.url())
        .set("AUTH_JWT_ISSUER", ISSUER)
        .set("AUTH_JWT_AUDIENCE", "events")
}

#[tokio::test]
async fn tokens_that_pyjwt_signed_open_what_they_name_and_publish_into_their_own_tenant() {
    let vhost = RabbitMq::shared().await.vhost();
    let mut issuer = Issuer::start();
    let algorithms = ["RS256", "ES256", "EdDSA"];
    let keys = algorithms.map(|algorithm| issuer.make_key(algorithm, algorithm));
    let server = KeyServer::start(jwks(&keys));
    let bridge = by_keys_of(&server, &vhost).start().await;
    let other = issuer.sign("RS256", &claims("other", "42", "7"));
    let other = format!("Bearer {other}");
    let mut stranger = Client::connect_with(bridge.public, "", &[("Authorization", &other)])
        .await
        .subscribed()
        .await;
    for algorithm in algorithms {
        let bearer = format!(
            "Bearer {}",
            issuer.sign(algorithm, &claims("acme", "42", "7"))
        );
        let headers = [("Authorization", bearer.as_str())];
        let mut client = Client::connect_with(bridge.public, "", &headers)
            .await
            .subscribed()
            .await;
        let event = json!({"topic": "team.7.n", "data": algorithm, "tenant_id": null});
        let answer = bridge
            .post("/publish", &headers, &event.to_string())
            .await
            .unwrap();
        assert_eq!(answer.head.status, 202, "{}", answer.body);
        assert_eq!(client.data(1).await, [format!("{algorithm:?}")]);
        let elsewhere = json!({"topic": "team.7.n", "data": "crossed", "tenant_id": "other"});
        let answer = bridge
            .post("/publish", &headers, &elsewhere.to_string())
            .await
            .unwrap();
        assert_eq!(answer.head.status, 403, "{}", answer.body);
    }
    let marker = json!({"topic": "team.7.n", "data": "marker"});
    let headers = [("Authorization", other.as_str())];
    let answer = bridge
        .post("/publish", &headers, &marker.to_string())
        .await
        .unwrap();
    assert_eq!(answer.head.status, 202, "{}", answer.body);
    assert_eq!(stranger.before("\"marker\"").await, []);
}

#[tokio::test]
async fn keys_that_change_under_load_cost_no_entitled_client_its_stream() {
    let vhost = RabbitMq::shared().await.vhost();
    let mut issuer = Issuer::start();
    let mut published = vec![issuer.make_key("RS256", "key-0")];
    let server = KeyServer::start(jwks(&published));
    let bridge = by_keys_of(&server, &vhost).start().await;

    // Clients come and go with whatever token is the newest.
    let newest = Arc::new(std::sync::Mutex::new((
        0,
        issuer.sign("key-0", &claims("acme", "42", "7")),
    )));
    let stop = Arc::new(AtomicBool::new(false));
    let served: Arc<Vec<AtomicUsize>> = Arc::new((0..4).map(|_| AtomicUsize::new(0)).collect());
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (newest, stop, served) =
                (Arc::clone(&newest), Arc::clone(&stop), Arc::clone(&served));
            let address = bridge.public;
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let (generation, token): (usize, String) = newest.lock().unwrap().clone();
                    let bearer = format!("Bearer {token}");
                    // Panics on anything but a stream.
                    let headers = [("Authorization", bearer.as_str())];
                    Client::connect_with(address, "team_id=7", &headers)
                        .await
                        .reset();
                    served[generation].fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let enough = async |generation: usize| {
        eventually(
            "clients with the newest token are served",
            LONG,
            async || (served[generation].load(Ordering::Relaxed) >= 50).then_some(()),
        )
        .await;
    };
    enough(0).await;
    for (generation, algorithm) in [(1, "ES256"), (2, "EdDSA"), (3, "RS256")] {
        // The worst case: the new key signs from the moment on that it is there, and nobody was told.
        let name = format!("key-{generation}");
        published.push(issuer.make_key(algorithm, &name));
        server.answer(jwks(&published));
        let token = issuer.sign(&name, &claims("acme", "42", "7"));
        *newest.lock().unwrap() = (generation, token);
        enough(generation).await;
        published.remove(0);
        server.answer(jwks(&published));
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        within("a client ends", LONG, client)
            .await
            .expect("no client was refused");
    }
    let refused = r#"sse_bridge_connections_refused_total{reason="unauthorized"}"#;
    assert_eq!(bridge.metric(refused).await, 0.0);
    let asked = server.requests().len();
    assert!(asked <= 10, "the key server was asked {asked} times");
}

/// How many events each tenant's two audiences get together.
const EVENTS: usize = 100_000;

#[tokio::test]
async fn of_two_tenants_with_the_same_names_no_event_crosses_at_full_rate_and_over_a_restart() {
    let vhost = RabbitMq::shared().await.vhost();
    let mut issuer = Issuer::start();
    let server = KeyServer::start(jwks(&[issuer.make_key("ES256", "one")]));
    let setup = by_keys_of(&server, &vhost)
        .set("SSE_CHANNEL_CAPACITY", 0)
        .set("HISTORY_MAX_EVENTS", 3 * EVENTS);
    let bridge = setup.start().await;
    let tenants = ["acme", "other"];
    let mut readers = Vec::new();
    for tenant in tenants {
        for query in ["user_id=42&broadcast=false", "team_id=7&broadcast=false"] {
            let bearer = format!("Bearer {}", issuer.sign("one", &claims(tenant, "42", "7")));
            let headers = [("Authorization", bearer.as_str())];
            let client = Client::connect_with(bridge.public, query, &headers).await;
            readers.push((tenant, query, bearer.clone(), client.subscribed().await));
        }
    }
    let (address, moved) = tokio::sync::watch::channel(bridge.public);
    let reading: Vec<_> = readers
        .into_iter()
        .map(|(tenant, query, bearer, client)| {
            tokio::spawn(read_all(tenant, query, bearer, client, moved.clone()))
        })
        .collect();
    let publishing = tenants.map(|tenant| {
        let vhost = vhost.clone();
        tokio::spawn(async move {
            let producer = vhost.producer().await;
            for first in (0..EVENTS).step_by(1_000) {
                let events = (first..first + 1_000).map(|number| {
                    let topic = if number % 2 == 0 {
                        "user.42.n"
                    } else {
                        "team.7.n"
                    };
                    Message::to(topic, format!("\"{tenant} {number}\"")).header("tenant-id", tenant)
                });
                producer.publish_all(events).await;
            }
        })
    });
    bridge
        .wait_metric("sse_bridge_events_consumed_total", |consumed| {
            consumed >= EVENTS as f64 / 2.0
        })
        .await;
    bridge.kill();
    let bridge = setup.start().await;
    address.send(bridge.public).unwrap();
    for task in publishing {
        within("all is published", LONG, task).await.unwrap();
    }
    for task in reading {
        within("all is read", LONG, task).await.unwrap();
    }
}

/// Reads until it has all that is for it, in order and once, coming back to wherever the bridge is; nothing of another
/// tenant or audience may come.
async fn read_all(
    tenant: &str,
    query: &str,
    bearer: String,
    mut client: Client,
    mut moved: tokio::sync::watch::Receiver<std::net::SocketAddr>,
) {
    let mut expected = usize::from(query.starts_with("team"));
    let mut returned = false;
    while expected < EVENTS {
        match client.next(LONG).await {
            Ok(event) => {
                assert!(!event.is_control(), "{tenant} {query}: {event:?}");
                assert_eq!(event.data, format!("\"{tenant} {expected}\""), "{query}");
                expected += 2;
            }
            Err(Silence::Nothing) => panic!("{tenant} {query}: nothing more after {expected}"),
            Err(Silence::Ended | Silence::Broken) => {
                let last = client.last_id().to_owned();
                moved.changed().await.expect("the bridge comes back");
                let address = *moved.borrow_and_update();
                let headers = [
                    ("Authorization", bearer.as_str()),
                    ("Last-Event-ID", last.as_str()),
                ];
                client = Client::connect_with(address, query, &headers).await;
                returned = true;
            }
        }
    }
    assert!(returned, "{tenant} {query}: the restart came too late");
}
