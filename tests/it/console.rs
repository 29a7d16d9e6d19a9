//! The console: a page that is whole, under a policy that it keeps itself, and the tail of what was judged that it lists.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Bridge, Client, Item, Response, SOON, Silence, event, eventually, http};

/// What stands in quotes after each `before` in a text.
fn quoted_after<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(before).filter_map(move |(start, _)| {
        let rest = &text[start + before.len()..];
        let quote = rest.chars().next().filter(|mark| "\"'".contains(*mark))?;
        rest[1..].split(quote).next()
    })
}

/// What a page or a script loads from its own origin.
fn loads(text: &str) -> BTreeSet<String> {
    let of_page = ["src=", "href="]
        .into_iter()
        .flat_map(|attribute| quoted_after(text, attribute))
        .filter(|target| !target.starts_with(['#']) && !target.starts_with("data:"));
    let of_script = quoted_after(text, " from ").filter(|target| target.starts_with("./"));
    of_page
        .chain(of_script)
        .map(|target| {
            format!(
                "/{}",
                target.trim_start_matches("./").trim_start_matches('/')
            )
        })
        .collect()
}

fn assert_policy(response: &Response) {
    let policy = response
        .head
        .header("Content-Security-Policy")
        .expect("a policy");
    let directives: BTreeSet<&str> = policy.split(';').map(str::trim).collect();
    for directive in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(directives.contains(directive), "{directive}: {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    assert_eq!(
        response.head.header("X-Content-Type-Options"),
        Some("nosniff")
    );
    assert_eq!(response.head.header("Referrer-Policy"), Some("no-referrer"));
}

/// The page and all that it loads, by path.
async fn assert_whole(address: SocketAddr, path: &str) -> String {
    let get = async |path: &str| {
        http::request(address, "GET", path, &[], "")
            .await
            .expect("an answer")
    };
    let page = get(path).await;
    assert_eq!(page.head.status, 200);
    assert_eq!(
        page.head.header("Content-Type"),
        Some("text/html; charset=utf-8")
    );
    assert_policy(&page);

    let mut found = BTreeSet::new();
    let mut waiting: Vec<String> = loads(&page.body).into_iter().collect();
    while let Some(path) = waiting.pop() {
        if !found.insert(path.clone()) {
            continue;
        }
        let file = get(&path).await;
        assert_eq!(file.head.status, 200, "{path}");
        let kind = match path.rsplit_once('.') {
            Some((_, "js")) => "text/javascript; charset=utf-8",
            Some((_, "css")) => "text/css; charset=utf-8",
            _ => panic!("a file of what kind? {path}"),
        };
        assert_eq!(file.head.header("Content-Type"), Some(kind), "{path}");
        assert!(!file.body.is_empty(), "{path}");
        assert_policy(&file);
        if path.ends_with(".js") {
            waiting.extend(loads(&file.body));
        }
    }
    let expected = [
        "/chart.js",
        "/console.css",
        "/console.js",
        "/format.js",
        "/json.js",
        "/prometheus.js",
        "/sse.js",
        "/vitals.js",
    ];
    assert_eq!(found, expected.map(str::to_owned).into());
    page.body
}

/// Where the admin listener is.
async fn admin(bridge: &Bridge) -> SocketAddr {
    let line = bridge.log_line("listening").await;
    let admin = line["fields"]["admin"].as_str().expect("an address");
    admin.parse().expect("an address")
}

#[tokio::test]
async fn the_page_and_all_that_it_loads_are_served_under_its_policy() {
    let dev = Bridge::dev().start().await;
    let page = assert_whole(dev.public, "/").await;
    assert!(page.contains("data-console=\"dev\""), "{page}");
    assert!(page.contains("id=\"publish\""), "{page}");
    assert!(!page.contains("<title>sse-bridge console"), "{page}");
}

#[tokio::test]
async fn in_serve_the_console_is_on_the_admin_listener_alone_and_only_reads() {
    let serve = Bridge::dev().start_without_broker().await;
    let admin = admin(&serve).await;
    let page = assert_whole(admin, "/console").await;
    assert!(page.contains("data-console=\"serve\""), "{page}");
    assert!(!page.to_lowercase().contains("publish"), "{page}");
    for path in ["/", "/console", "/console.js", "/tail"] {
        let answer = serve.get(path).await;
        assert_eq!(answer.head.status, 404, "{path}");
    }
    for path in ["/console", "/console.js", "/tail"] {
        for method in ["POST", "PUT", "DELETE"] {
            let answer = http::request(admin, method, path, &[], "").await;
            assert_eq!(
                answer.expect("an answer").head.status,
                405,
                "{method} {path}"
            );
        }
    }
}

/// The data of the next events of a tail.
async fn told(tail: &mut Client, count: usize) -> Vec<Value> {
    let events = tail.events(count).await;
    events.iter().map(|event| event.json()).collect()
}

const BODY: &str = "a-body-that-nobody-is-told";

#[tokio::test]
async fn the_tail_tells_what_became_of_each_message_and_never_its_body() {
    let bridge = Bridge::dev()
        .set("PAYLOAD_FORMAT", "json-object")
        .start()
        .await;
    let mut tail = Client::watch(bridge.public, "").await;
    let _listening = Client::connect(&bridge, "team_id=7").await;
    let status = json!({
        "topic": "team.7.job.9.status", "type": "job.status", "message_id": "m-1", "data": {"secret": BODY},
    });
    bridge.publish(&status).await;
    bridge.publish(&status).await;
    bridge.publish(&event("team.7.job.9.log", BODY)).await;
    bridge
        .publish(&json!({"topic": "team.7.note", "user_id": "42", "tenant_id": "acme", "data": {}}))
        .await;

    let rows = told(&mut tail, 4).await;
    let of = |row: &Value, names: &[&str]| -> Vec<Value> {
        names.iter().map(|name| row[*name].clone()).collect()
    };
    let none = Value::Null;
    assert_eq!(
        of(
            &rows[0],
            &["verdict", "topic", "event", "tenant", "audience"]
        ),
        [
            "published".into(),
            "team.7.job.9.status".into(),
            "job.status".into(),
            none.clone(),
            "team:7".into()
        ]
    );
    assert_eq!(rows[0]["listening"], 1);
    assert_eq!(rows[0]["bytes"], json!({"secret": BODY}).to_string().len());
    assert_eq!(rows[1]["verdict"], "duplicate");
    assert_eq!(
        of(&rows[2], &["verdict", "reason", "audience"]),
        ["dead_letter".into(), "not_object".into(), none]
    );
    assert_eq!(
        of(&rows[3], &["verdict", "tenant", "audience", "listening"]),
        [
            "published".into(),
            "acme".into(),
            "user:42".into(),
            Value::from(0)
        ]
    );
    let said = rows.iter().map(Value::to_string).collect::<String>();
    assert!(!said.contains(BODY), "{said}");

    // Who comes later is told of the dead letter, and of nothing else.
    let mut later = Client::watch(bridge.public, "").await;
    bridge.publish(&event("team.7.x", json!({}))).await;
    let rows = told(&mut later, 2).await;
    assert_eq!(
        (rows[0]["reason"].as_str(), rows[1]["topic"].as_str()),
        (Some("not_object"), Some("team.7.x"))
    );
}

#[tokio::test]
async fn the_tail_takes_the_filters_of_a_client_and_refuses_what_that_would_be_refused() {
    let bridge = Bridge::dev()
        .set("PAYLOAD_FORMAT", "json-object")
        .start()
        .await;
    let mut of_team = Client::watch(bridge.public, "team_id=7&broadcast=false").await;
    let mut of_topic = Client::watch(bridge.public, "topic=team.8.%23").await;
    let mut of_job = Client::watch(bridge.public, "job_id=9").await;
    for topic in ["team.8.job.1.status", "broadcast.x", "team.7.job.9.status"] {
        bridge.publish(&event(topic, json!({}))).await;
    }
    bridge.publish(&event("team.8.poison", "poison")).await;
    bridge.publish(&event("team.7.end", json!({}))).await;
    let topics = |rows: Vec<Value>| -> Vec<String> {
        let topics = rows.iter().map(|row| row["topic"].as_str());
        topics.map(|topic| topic.unwrap().to_owned()).collect()
    };
    assert_eq!(
        topics(told(&mut of_team, 2).await),
        ["team.7.job.9.status", "team.7.end"]
    );
    assert_eq!(
        topics(told(&mut of_topic, 2).await),
        ["team.8.job.1.status", "team.8.poison"]
    );
    assert_eq!(topics(told(&mut of_job, 1).await), ["team.7.job.9.status"]);

    let refusal = Client::try_watch(bridge.public, "team=7").await;
    let refusal = refusal.err().expect("a refusal");
    assert_eq!(refusal.head.status, 400);
    assert!(refusal.body.contains("`team`"), "{refusal:?}");
}

#[tokio::test]
async fn only_so_many_watch_the_tail_and_one_who_leaves_makes_room() {
    let bridge = Bridge::dev().start().await;
    let mut watching = Vec::new();
    for _ in 0..16 {
        watching.push(Client::watch(bridge.public, "").await);
    }
    let refusal = Client::try_watch(bridge.public, "").await;
    let refusal = refusal.err().expect("a refusal");
    assert_eq!(refusal.head.status, 503, "{refusal:?}");
    assert!(refusal.head.header("Retry-After").is_some(), "{refusal:?}");
    watching.pop();
    eventually("there is room", SOON, async || {
        Client::try_watch(bridge.public, "").await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_drain_says_goodbye_to_who_watches_the_tail_and_does_not_wait_for_them() {
    let mut bridge = Bridge::dev().start().await;
    let mut tail = Client::watch(bridge.public, "").await;
    bridge.signal(Signal::TERM);
    let (items, silence) = tail.until_end(SOON).await;
    assert_eq!(silence, Silence::Ended, "{items:?}");
    let Some(Item::Event(bye)) = items.last() else {
        panic!("no goodbye at the end of {items:?}")
    };
    assert_eq!(bye.name, "bridge.bye");
    assert_eq!(bye.json()["reason"], "drain");
    assert_eq!(bridge.wait_exit(SOON).await, Some(0));
}

#[tokio::test]
async fn the_page_holds_nothing_that_its_policy_forbids() {
    let bridge = Bridge::dev().start().await;
    let page = bridge.get("/").await.body;
    let tags: Vec<&str> = page
        .split('<')
        .skip(1)
        .map(|tag| tag.split('>').next().unwrap_or_default())
        .filter(|tag| !tag.starts_with('!'))
        .collect();
    assert!(tags.len() > 50, "is that the page? {page}");
    for tag in tags {
        let inline = tag.starts_with("style")
            || (tag.starts_with("script") && !tag.contains("src="))
            || tag.contains(" style=")
            || tag.contains(" action=")
            || tag.contains("javascript:")
            || tag
                .split_whitespace()
                .any(|attribute| attribute.starts_with("on") && attribute.contains('='));
        assert!(!inline, "<{tag}>");
    }
}
