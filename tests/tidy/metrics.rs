//! Metrics and their reasons: the same in the code, in README, in rules, alerts, dashboard and runbook.

use std::collections::{BTreeMap, BTreeSet};

use sse_bridge::event::Reason;
use sse_bridge::hub::GapReason;
use sse_bridge::metrics::{DEAD_LETTER_REASONS, GAP_REASONS, Metrics, RESUME_OUTCOMES};

use crate::page::{code_spans, rows, section, sole_code_span};
use crate::source::read;

#[test]
fn what_makes_a_message_poison_has_one_name_in_code_and_metric() {
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(reasons, DEAD_LETTER_REASONS);
}

#[test]
fn what_a_gap_can_be_about_has_one_name_in_code_and_metric() {
    // A reason that is new does not compile here until it is in the list as well.
    let all = [GapReason::Slow, GapReason::Expired, GapReason::Unknown];
    for reason in all {
        match reason {
            GapReason::Slow | GapReason::Expired | GapReason::Unknown => {}
        }
    }
    let names = all.map(GapReason::as_str);
    assert_eq!(names, GAP_REASONS);
    let outcomes: BTreeSet<&str> = RESUME_OUTCOMES.iter().copied().collect();
    // Who returns was not slow.
    assert_eq!(
        outcomes,
        BTreeSet::from(["memory", "stream", names[1], names[2]])
    );
}

/// What is told of a metric.
#[derive(Debug, Default, PartialEq)]
struct Metric {
    kind: String,
    label: Option<String>,
    /// The values of the label, as far as they are a closed set.
    values: BTreeSet<String>,
    meaning: String,
}

type Described = BTreeMap<String, Metric>;

/// As a table's cell and a help text both can say it: without marks, links and the last full stop, in small letters.
fn plain(meaning: &str) -> String {
    let mut text = String::new();
    let mut rest = meaning;
    while let Some((before, link)) = rest.split_once("](") {
        text.push_str(before);
        rest = link.split_once(')').expect("a link ends").1;
    }
    text.push_str(rest);
    text.replace(['`', '['], "")
        .trim_end_matches('.')
        .to_lowercase()
}

fn metrics_of_the_code() -> Described {
    let text = String::from_utf8(Metrics::new().unwrap().render().unwrap()).unwrap();
    let short = |name: &str| name.strip_prefix("sse_bridge_").unwrap_or(name).to_owned();
    let mut found = Described::new();
    for line in text.lines() {
        let told = |what: &str| line.strip_prefix(what)?.split_once(' ');
        if let Some((name, help)) = told("# HELP ") {
            found.entry(short(name)).or_default().meaning = plain(help);
        } else if let Some((name, kind)) = told("# TYPE ") {
            found.entry(short(name)).or_default().kind = kind.to_owned();
        } else if let Some((name, labels)) = line.split_once('{') {
            let Some(metric) = found.get_mut(&short(name)) else {
                // A bucket, whose label says only which.
                assert!(
                    name.ends_with("_bucket") && labels.starts_with("le="),
                    "{line}"
                );
                continue;
            };
            let (name, value) = labels.split_once("=\"").expect("a label");
            let (value, rest) = value.split_once('"').expect("its end");
            assert!(rest.starts_with('}'), "more than one label: {line}");
            metric.label = Some(name.to_owned());
            // What runs is no part of a closed set.
            if name != "version" {
                metric.values.insert(value.to_owned());
            }
        }
    }
    found
}

fn metrics_of_the_readme() -> Described {
    let readme = read("README.md");
    let mut found = Described::new();
    for cells in rows(&section(&readme, "Metrics")) {
        let Some(name) = sole_code_span(cells[0]) else {
            continue;
        };
        let spans = code_spans(cells[2]);
        let values = if cells[2].contains("(#what-is-dead-lettered)") {
            reasons_of_the_readme(&readme)
        } else {
            spans.iter().skip(1).map(ToString::to_string).collect()
        };
        let metric = Metric {
            kind: cells[1].to_owned(),
            label: spans.first().map(|label| (*label).to_owned()),
            values,
            meaning: plain(cells[3]),
        };
        let before = found.insert(name.to_owned(), metric);
        assert_eq!(before, None, "{name} stands twice");
    }
    found
}

/// The first column of the table of reasons for dead letters.
fn reasons_of_the_readme(readme: &str) -> BTreeSet<String> {
    let (_, rest) = readme
        .split_once("\n### What is dead-lettered\n")
        .expect("that section");
    let (_, table) = rest
        .split_once("\n| reason | when |\n")
        .expect("that table");
    let table = table.split("\n\n").next().unwrap();
    let found: BTreeSet<String> = rows(table)
        .flat_map(|cells| code_spans(cells[0]))
        .map(str::to_owned)
        .collect();
    assert!(found.len() >= 6, "only {found:?}");
    found
}

#[test]
fn readme_and_code_name_the_same_metrics_with_the_same_types_labels_and_meanings() {
    let (code, readme) = (metrics_of_the_code(), metrics_of_the_readme());
    assert!(code.len() >= 25, "only {} metrics were found", code.len());
    let labelled = code
        .values()
        .filter(|metric| metric.label.is_some())
        .count();
    assert!(labelled >= 7, "only {labelled} metrics have labels");
    for name in code.keys().chain(readme.keys()) {
        assert_eq!(
            readme.get(name),
            code.get(name),
            "{name}: README.md and the code"
        );
    }
}

/// What is written for Prometheus and Grafana, in their languages and in words.
const WATCHING: [&str; 6] = [
    "deploy/prometheus/rules.yml",
    "deploy/prometheus/alerts.yml",
    "deploy/grafana/dashboard.json",
    "deploy/RUNBOOK.md",
    "deploy/TUNING.md",
    "tests/broker/monitoring/alerts.test.yml",
];

/// The words of PromQL and of prose, each with what follows it.
fn words(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = &rest[rest.find(is_word)?..];
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        Some((word, after))
    })
}

/// The labels of a selector that stands here, with the values that are asked for.
fn selector(text: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
    let inner = text
        .strip_prefix('{')
        .and_then(|text| text.split('}').next());
    inner.unwrap_or_default().split(", ").filter_map(|matcher| {
        let (label, value) = matcher.split_once('=')?;
        let value = value.trim_start_matches('~').trim_matches('"');
        Some((label.trim_end_matches('!'), value.split('|').collect()))
    })
}

#[test]
fn whatever_looks_like_a_metric_in_rules_alerts_dashboard_and_runbook_is_one() {
    let metrics = metrics_of_the_code();
    let records: BTreeSet<String> = read("deploy/prometheus/rules.yml")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- record: "))
        .map(str::to_owned)
        .collect();
    let (mut found, mut selected) = (BTreeSet::new(), 0);
    for file in WATCHING {
        let text = read(file).replace("\\\"", "\"");
        for (word, after) in words(&text) {
            if word.contains(":sse_bridge_") {
                assert!(records.contains(word), "{file}: nobody records {word}");
            }
            let name = match word.strip_prefix("sse_bridge_") {
                Some(name) => name.trim_end_matches("_bucket"),
                None if word.ends_with("_total") || word.starts_with("process_") => word,
                None => continue,
            };
            let Some(metric) = metrics.get(name) else {
                panic!("{file}: there is no metric {word}");
            };
            found.insert(name.to_owned());
            for (label, values) in selector(after) {
                if ["job", "instance", "le", "version"].contains(&label) {
                    continue;
                }
                assert_eq!(metric.label.as_deref(), Some(label), "{file}: {word}");
                for value in values {
                    assert!(metric.values.contains(value), "{file}: {word}: {value}");
                    selected += 1;
                }
            }
        }
    }
    assert!(found.len() >= 40, "only {found:?}");
    assert!(selected >= 30, "only {selected} values of labels");
}

#[test]
fn readme_and_code_name_the_same_reasons_for_dead_letters_and_gaps() {
    let readme = read("README.md");
    let reasons: BTreeSet<String> = DEAD_LETTER_REASONS
        .iter()
        .map(|reason| (*reason).to_owned())
        .collect();
    assert_eq!(reasons_of_the_readme(&readme), reasons);
    let (_, rest) = readme
        .split_once("\n| reason of a gap |")
        .expect("that table");
    let table = rest.split("\n\n").next().unwrap();
    let gaps: Vec<&str> = rows(table)
        .flat_map(|cells| sole_code_span(cells[0]))
        .collect();
    assert_eq!(gaps, GAP_REASONS);
}
