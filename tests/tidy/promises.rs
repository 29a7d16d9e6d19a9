//! What pages promise: an answer to every alert, a page behind every link, a test behind every promise.

use std::collections::BTreeSet;
use std::path::Path;

use crate::page::{anchors, code_spans, rows, section};
use crate::source::{read, root, sources};

/// What a paragraph of the runbook answers, in this order.
const ANSWERS: [&str; 5] = ["Means", "Users notice", "Look", "Do", "Harmless"];

#[test]
fn every_alert_has_its_paragraph_in_the_runbook_and_leads_there() {
    let runbook = read("deploy/RUNBOOK.md");
    let mut paragraphs = BTreeSet::new();
    for section in runbook.split("\n### ").skip(1) {
        let (name, text) = section.split_once('\n').expect("a paragraph");
        let text = text.split("\n## ").next().unwrap();
        let answers: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("- **")?.split_once("**: "))
            .map(|(answer, _)| answer)
            .collect();
        assert_eq!(answers, ANSWERS, "{name}");
        assert!(paragraphs.insert(name.to_owned()), "{name} stands twice");
    }
    let alerts = read("deploy/prometheus/alerts.yml");
    let mut named = BTreeSet::new();
    for alert in alerts.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        let link = format!("runbook_url: deploy/RUNBOOK.md#{}\n", name.to_lowercase());
        assert!(alert.contains(&link), "{name}: where it leads");
        assert!(named.insert(name.to_owned()), "{name} stands twice");
    }
    assert!(named.len() > 30, "only {named:?}");
    assert_eq!(paragraphs, named, "the runbook, and the alerts");
}

#[test]
fn what_the_pages_of_operators_link_to_is_there() {
    let mut followed = 0;
    for page in [
        "deploy/README.md",
        "deploy/RUNBOOK.md",
        "deploy/TUNING.md",
        "README.md",
    ] {
        let text = read(page);
        let folder = Path::new(page).parent().unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().unwrap();
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.to_owned(),
                file => folder.join(file).to_str().unwrap().to_owned(),
            };
            assert!(root().join(&target).exists(), "{page}: {link}");
            if !anchor.is_empty() {
                assert!(anchors(&read(&target)).contains(anchor), "{page}: {link}");
            }
            followed += 1;
        }
    }
    assert!(followed > 30, "only {followed} links");
}

#[test]
fn every_promise_of_the_readme_names_a_test_that_is_there() {
    let promises = section(&read("README.md"), "What it promises, and what it does not");
    let is_number = |text: &str| text.parse::<u8>().is_ok();
    let (proofs, cells): (Vec<_>, Vec<_>) =
        rows(&promises).partition(|cells| cells.len() == 2 && is_number(cells[0]));
    let tests: String = sources("tests/broker", 20)
        .iter()
        .map(|source| source.text.as_str())
        .collect();
    let mut proved = BTreeSet::new();
    for proof in &proofs {
        for test in code_spans(proof[1]) {
            assert!(
                tests.contains(&format!("async fn {test}(")),
                "{}: no test {test}",
                proof[0]
            );
            proved.insert(format!("[{}]", proof[0]));
        }
    }
    assert!(proved.len() > 20, "the table of proofs was not found");
    let named: BTreeSet<String> = code_spans(&promises)
        .into_iter()
        .filter(|span| span.starts_with('['))
        .map(str::to_owned)
        .collect();
    assert_eq!(
        named, proved,
        "numbers in the text, and numbers with a test"
    );
    // Each cell of the table of promises names its proof, but for what cannot be.
    for promise in cells
        .iter()
        .filter(|cells| cells.len() == 4 && !matches!(cells[0], "" | "---"))
    {
        let unproved: Vec<_> = promise[1..]
            .iter()
            .filter(|cell| !cell.contains("`["))
            .collect();
        let allowed = |cell: &&&&str| matches!(**cell, &"there is none" | &"streams have none");
        assert!(unproved.iter().all(|cell| allowed(&cell)), "{unproved:?}");
    }
}
