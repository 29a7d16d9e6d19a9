//! Who may import whom.

use std::collections::BTreeSet;

use crate::source::{Source, code, read, sources, tokens};

const ALL: &[&str] = &["*"];

/// Which modules of ours each module may know, in reading order. The ends know the middle, the middle knows neither
/// end; only `app` and the commands know all.
const IMPORTS: &[(&str, &[&str])] = &[
    ("lifecycle", &[]),
    ("metrics", &[]),
    ("faults", &[]),
    ("event", &[]),
    ("authorities", &[]),
    ("outbound", &["authorities"]),
    ("traces", &["event", "lifecycle", "metrics", "outbound"]),
    (
        "amqp",
        &["authorities", "event", "faults", "lifecycle", "metrics"],
    ),
    ("embedded", &["event", "lifecycle", "metrics"]),
    ("tail", &["event"]),
    (
        "bridge",
        &[
            "amqp", "embedded", "event", "frame", "hub", "metrics", "tail", "traces",
        ],
    ),
    ("frame", &["event"]),
    ("hub", &["event", "frame", "metrics"]),
    ("auth", &["event", "metrics", "outbound"]),
    (
        "transport",
        &[
            "auth",
            "event",
            "frame",
            "hub",
            "lifecycle",
            "metrics",
            "problem",
        ],
    ),
    (
        "publish",
        &[
            "amqp", "auth", "body", "embedded", "event", "faults", "metrics", "problem", "traces",
        ],
    ),
    (
        "revoke",
        &[
            "amqp",
            "auth",
            "body",
            "event",
            "lifecycle",
            "metrics",
            "problem",
        ],
    ),
    (
        "watch",
        &[
            "auth",
            "event",
            "frame",
            "hub",
            "lifecycle",
            "metrics",
            "problem",
            "tail",
            "transport",
        ],
    ),
    ("problem", &["auth"]),
    ("body", &["problem"]),
    (
        "http",
        &[
            "auth",
            "faults",
            "lifecycle",
            "metrics",
            "problem",
            "publish",
            "revoke",
            "traces",
            "transport",
            "watch",
        ],
    ),
    (
        "config",
        &[
            "amqp",
            "auth",
            "event",
            "http",
            "hub",
            "traces",
            "transport",
        ],
    ),
    ("telemetry", &["config"]),
    ("app", ALL),
    ("cli", ALL),
];

/// What `event` is not to touch, as it is pure: the outside, time, chance, tasks.
const IMPURE: &[&str] = &[
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "std::time",
    "tokio",
    "fastrand",
    "tracing",
    "SystemTime",
    "Instant",
    "println",
    "eprintln",
];

/// The first names of the paths that begin at the crate's root, with their lines: `crate::hub::x`, `crate::{hub, http}`,
/// and `super::hub` where `super` is the root. `depth` is how deep the file's own module is.
fn imports(code: &str, depth: usize, is_house: impl Fn(&str) -> bool) -> Vec<(usize, String)> {
    let tokens = tokens(code);
    let text = |index: usize| tokens.get(index).map_or("", |(_, text)| text.as_str());
    let mut found = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let from_crate = text(index) == "crate";
        let mut supers = 0;
        if from_crate {
            index += 1;
        } else {
            while text(index) == "super" {
                supers += 1;
                index += 1;
                if text(index) == ":" && text(index + 1) == ":" && text(index + 2) == "super" {
                    index += 2;
                }
            }
        }
        if !(from_crate || supers >= depth && supers > 0)
            || (text(index), text(index + 1)) != (":", ":")
        {
            index += usize::from(!from_crate && supers == 0);
            continue;
        }
        index += 2;
        let mut names = Vec::new();
        if text(index) == "{" {
            // Names at the first level of the braces only.
            let mut level = 0;
            loop {
                match text(index) {
                    "{" => level += 1,
                    "}" => level -= 1,
                    name if level == 1 && matches!(text(index - 1), "{" | ",") => {
                        names.push((tokens[index].0, name.to_owned()));
                    }
                    _ => {}
                }
                index += 1;
                if level == 0 || index >= tokens.len() {
                    break;
                }
            }
        } else {
            names.extend(tokens.get(index).cloned());
        }
        // Where `super` may be a module of the file itself, only names of the top count.
        found.extend(
            names
                .into_iter()
                .filter(|(_, name)| from_crate || is_house(name)),
        );
    }
    found
}

fn is_house(name: &str) -> bool {
    IMPORTS.iter().any(|(house, _)| *house == name)
}

#[test]
fn the_reader_of_code_sees_code_and_nothing_else() {
    let text = r####"
        use crate::a::{x, y}; // use crate::comment
        use crate::{b, c::{inner, other}, d}; /* crate::e /* nested */ crate::e */
        let s = "crate::string \" crate::string"; let r = r#"crate::raw " crate::raw"#;
        let q = '"'; let b = crate::f::g('\'', b'"', br"crate::bytes"); fn l<'a>(x: &'a crate::h::I) {}
        let r#type = crate::j::K; pub(crate) fn m() {} use super::n::O; use super::super::o::P;
    "####;
    let found = |depth| -> Vec<String> {
        imports(&code(text), depth, |name| ["n", "o"].contains(&name))
            .into_iter()
            .map(|(_, name)| name)
            .collect()
    };
    assert_eq!(found(1), ["a", "b", "c", "d", "f", "h", "j", "n", "o"]);
    assert_eq!(found(2), ["a", "b", "c", "d", "f", "h", "j", "o"]);
    let lines: Vec<usize> = imports(&code(text), 3, |_| true)
        .iter()
        .map(|(line, _)| *line)
        .collect();
    assert_eq!(lines, [2, 3, 3, 3, 5, 5, 6]);
}

#[test]
fn imports_point_one_way() {
    let mut counted = 0;
    let mut houses = BTreeSet::new();
    for source in sources("src", 40) {
        let house = source.house();
        if ["main", "lib"].contains(&house.as_str()) {
            continue;
        }
        let (_, allowed) = IMPORTS
            .iter()
            .find(|(name, _)| *name == house)
            .unwrap_or_else(|| panic!("{}: what may {house} import?", source.path.display()));
        for (line, name) in imports(&code(&source.text), source.module().len(), is_house) {
            assert!(
                name == house || allowed == &ALL || allowed.contains(&name.as_str()),
                "{}:{line}: {house} imports {name}, but may only import {allowed:?}",
                source.path.display()
            );
            counted += usize::from(name != house);
        }
        houses.insert(house);
    }
    assert!(counted >= 60, "only {counted} imports were found");
    let ruled: BTreeSet<String> = IMPORTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(houses, ruled);
}

#[test]
fn modules_are_declared_in_the_order_of_the_way_of_an_event() {
    let declared: Vec<String> = read("src/lib.rs")
        .lines()
        .filter_map(|line| {
            line.strip_prefix("pub mod ")?
                .strip_suffix(';')
                .map(str::to_owned)
        })
        .collect();
    let ruled: Vec<&str> = IMPORTS.iter().map(|(name, _)| *name).collect();
    assert_eq!(declared, ruled);
}

#[test]
fn only_amqp_names_lapin() {
    let mut named = 0;
    for source in sources("src", 40) {
        for (line, token) in tokens(&code(&source.text)) {
            if token == "lapin" || token == "deadpool_lapin" {
                assert_eq!(source.house(), "amqp", "{}:{line}", source.path.display());
                named += 1;
            }
        }
    }
    assert!(named >= 5, "lapin is named only {named} times");
}

#[test]
fn event_touches_neither_the_outside_nor_the_clock() {
    let files: Vec<Source> = sources("src", 40)
        .into_iter()
        .filter(|source| source.house() == "event")
        .collect();
    assert!(files.len() >= 7, "only {} files", files.len());
    for source in files {
        let tokens = tokens(&code(&source.text));
        for (index, (line, _)) in tokens.iter().enumerate() {
            for impure in IMPURE {
                let words: Vec<&str> = impure.split("::").collect();
                let path = words.join(" : : ");
                let here: Vec<&str> = tokens[index..]
                    .iter()
                    .take(words.len() * 3 - 2)
                    .map(|(_, token)| token.as_str())
                    .collect();
                assert!(
                    here.join(" ") != path,
                    "{}:{line}: {impure}",
                    source.path.display()
                );
            }
        }
    }
}
