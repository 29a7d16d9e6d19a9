//! The page of `dev`: whole, and under a policy that it keeps itself.

use std::collections::BTreeSet;

use crate::harness::{Bridge, Response};

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

#[tokio::test]
async fn the_page_and_all_that_it_loads_are_served_under_its_policy() {
    let bridge = Bridge::dev().start().await;
    let page = bridge.get("/").await;
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
        let file = bridge.get(&path).await;
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
    let expected = ["/console.css", "/console.js", "/json.js", "/sse.js"];
    assert_eq!(found, expected.map(str::to_owned).into());
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
