//! The house rules, as tests over the text of the house itself: who may import whom, how files begin and are named,
//! and that what is written down in several places is written the same in each.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use sse_bridge::config::raw::SETTINGS;
use sse_bridge::event::Reason;
use sse_bridge::hub::GapReason;
use sse_bridge::metrics::{DEAD_LETTER_REASONS, GAP_REASONS, Metrics, RESUME_OUTCOMES};

const ALL: &[&str] = &["*"];

/// Which modules of ours each module may know, in reading order. The ends know the middle, the middle knows neither
/// end; only `app` and the commands know all.
const IMPORTS: &[(&str, &[&str])] = &[
    ("lifecycle", &[]),
    ("metrics", &[]),
    ("event", &[]),
    ("outbound", &[]),
    ("traces", &["event", "lifecycle", "metrics", "outbound"]),
    ("amqp", &["event", "lifecycle", "metrics"]),
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
            "amqp", "auth", "body", "embedded", "event", "metrics", "problem", "traces",
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

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "types", "manager", "managers", "misc", "mod",
];

/// A Rust file: where it is, from the root of the repository, and what it says.
struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// The module's path, without `crate`: `src/hub/channel.rs` is `["hub", "channel"]`.
    fn module(&self) -> Vec<String> {
        let path = self
            .path
            .strip_prefix("src")
            .expect("of src")
            .with_extension("");
        path.iter()
            .map(|part| part.to_str().unwrap().to_owned())
            .collect()
    }

    /// The module at the top that it belongs to.
    fn house(&self) -> String {
        self.module()[0].clone()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    let path = root().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file below a folder, which must hold at least so many.
fn sources(folder: &str, at_least: usize) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(Source {
                    text: fs::read_to_string(&path).unwrap(),
                    path: path.strip_prefix(root()).unwrap().to_owned(),
                });
            }
        }
    }
    assert!(
        found.len() >= at_least,
        "only {} files in {folder}",
        found.len()
    );
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// The code alone: comments and the insides of literals are blanked, so that only what compiles is judged.
fn code(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let at = |index: usize| characters.get(index).copied().unwrap_or('\0');
    let mut code = String::with_capacity(text.len());
    let mut index = 0;
    while index < characters.len() {
        let start = index;
        match at(index) {
            '/' if at(index + 1) == '/' => {
                while index < characters.len() && at(index) != '\n' {
                    index += 1;
                }
            }
            '/' if at(index + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(index), at(index + 1)) {
                        ('/', '*') => (depth, index) = (depth + 1, index + 2),
                        ('*', '/') => (depth, index) = (depth - 1, index + 2),
                        _ => index += 1,
                    }
                    if depth == 0 || index >= characters.len() {
                        break;
                    }
                }
            }
            'r' if matches!(at(index + 1), '"' | '#') && !is_word(&code) => {
                let mut hashes = 0;
                while at(index + 1 + hashes) == '#' {
                    hashes += 1;
                }
                if at(index + 1 + hashes) == '"' {
                    index += 2 + hashes;
                    let ends = |index: usize| {
                        at(index) == '"' && (1..=hashes).all(|hash| at(index + hash) == '#')
                    };
                    while index < characters.len() && !ends(index) {
                        index += 1;
                    }
                    index += 1 + hashes;
                } else {
                    // A raw identifier.
                    index += 2;
                    code.push_str("r#");
                    continue;
                }
            }
            '"' => {
                index += 1;
                while index < characters.len() && at(index) != '"' {
                    index += if at(index) == '\\' { 2 } else { 1 };
                }
                index += 1;
            }
            // A character; otherwise the quote begins a lifetime.
            '\'' if at(index + 1) == '\\' => {
                index += 3;
                while index < characters.len() && at(index) != '\'' {
                    index += 1;
                }
                index += 1;
            }
            '\'' if at(index + 2) == '\'' => index += 3,
            other => {
                code.push(other);
                index += 1;
                continue;
            }
        }
        // Lines keep their numbers.
        let blanked = &characters[start..index.min(characters.len())];
        code.push(' ');
        code.extend(blanked.iter().filter(|character| **character == '\n'));
    }
    code
}

/// Whether the text ends inside a word, whose next letter is then no beginning of a literal (`br"…"` excepted).
fn is_word(text: &str) -> bool {
    let word = text
        .rsplit(|c: char| !(c.is_alphanumeric() || c == '_'))
        .next();
    !matches!(word, Some("" | "b" | "c") | None)
}

/// Words and signs, each with its line.
fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut tokens: Vec<(usize, String)> = Vec::new();
    let mut within = false;
    for (number, line) in code.lines().enumerate() {
        for character in line.chars() {
            let word = character.is_alphanumeric() || character == '_';
            if word && within {
                tokens.last_mut().unwrap().1.push(character);
            } else if !character.is_whitespace() {
                tokens.push((number + 1, character.to_string()));
            }
            within = word;
        }
        within = false;
    }
    tokens
}

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

#[test]
fn every_file_says_first_what_it_is_for() {
    for source in sources("src", 40)
        .into_iter()
        .chain(sources("tests", 15))
        .chain(sources("benches", 25))
    {
        let first = source.text.lines().next().unwrap_or_default();
        assert!(
            first
                .strip_prefix("//! ")
                .is_some_and(|rest| rest.len() > 10),
            "{} begins with {first:?}",
            source.path.display()
        );
    }
}

#[test]
fn a_module_is_named_after_what_it_holds() {
    for source in sources("src", 40)
        .into_iter()
        .chain(sources("tests", 15))
        .chain(sources("benches", 25))
    {
        for part in source.path.with_extension("").iter() {
            let part = part.to_str().unwrap();
            assert!(!EMPTY_NAMES.contains(&part), "{}", source.path.display());
        }
        let tokens = tokens(&code(&source.text));
        for pair in tokens.windows(2).filter(|pair| pair[0].1 == "mod") {
            let (line, name) = &pair[1];
            assert!(
                !EMPTY_NAMES.contains(&name.as_str()),
                "{}:{line}: mod {name}",
                source.path.display()
            );
        }
    }
}

#[test]
fn there_are_no_tabs_no_blanks_at_ends_of_lines_and_one_newline_at_the_end() {
    for source in sources("src", 40)
        .into_iter()
        .chain(sources("tests", 15))
        .chain(sources("benches", 25))
    {
        let path = source.path.display();
        for (number, line) in source.text.lines().enumerate() {
            assert!(!line.contains('\t'), "{path}:{}: a tab", number + 1);
            assert_eq!(
                line,
                line.trim_end(),
                "{path}:{}: a blank at its end",
                number + 1
            );
        }
        assert!(
            source.text.ends_with('\n') && !source.text.ends_with("\n\n"),
            "{path}: how it ends"
        );
    }
}

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

/// The text below a heading of the second level, to the next.
fn section(document: &str, heading: &str) -> String {
    let start = format!("\n## {heading}\n");
    let (_, rest) = document
        .split_once(&start)
        .unwrap_or_else(|| panic!("no section {heading:?}"));
    rest.split("\n## ").next().unwrap().to_owned()
}

/// The rows of all tables of a text, as cells.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter_map(|line| {
        let row = line.strip_prefix('|')?.strip_suffix('|')?;
        Some(row.split('|').map(str::trim).collect())
    })
}

/// What stands in backquotes.
fn code_spans(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The one thing that a cell holds, if it is one in backquotes.
fn sole_code_span(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?
        .strip_suffix('`')
        .filter(|inner| !inner.contains('`'))
}

/// A setting's name and, where it has one that is a plain value, its default.
type Defaults = Vec<(String, Option<String>)>;

fn settings_of_the_readme() -> Defaults {
    let readme = read("README.md");
    let section = section(&readme, "Settings");
    let found: Defaults = rows(&section)
        .filter_map(|cells| {
            let name = sole_code_span(cells[0])?;
            let default = cells.get(1).copied().unwrap_or_default();
            let default = match sole_code_span(default) {
                Some(value) => Some(value.to_owned()),
                // The one that is too long for a table stands where templates are explained.
                None if default.starts_with("see [above]") => section_default(&readme),
                None => None,
            };
            Some((name.to_owned(), default))
        })
        .collect();
    assert!(
        found.len() >= 40,
        "only {} settings were found",
        found.len()
    );
    found
}

/// The default of the routing-key templates: what stands behind the only `Default:` before the settings.
fn section_default(readme: &str) -> Option<String> {
    let (before, _) = readme.split_once("\n## Settings\n")?;
    let (_, rest) = before.split_once(" Default:\n")?;
    code_spans(rest).first().map(|text| (*text).to_owned())
}

fn settings_of_the_example() -> Defaults {
    let example = read(".env.example");
    let found: Defaults = example
        .lines()
        .filter_map(|line| {
            let (text, commented_out) = line
                .strip_prefix("# ")
                .map_or((line, false), |text| (text, true));
            let (name, value) = text.split_once('=')?;
            let legal = name
                .bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte == b'_');
            // What is not commented out has to be set, and is no default.
            let default = Some(value).filter(|value| commented_out && !value.is_empty());
            legal.then(|| (name.to_owned(), default.map(str::to_owned)))
        })
        .collect();
    assert!(
        found.len() >= 40,
        "only {} settings were found",
        found.len()
    );
    found
}

#[test]
fn readme_example_and_code_name_the_same_settings_in_one_order_with_the_same_defaults() {
    let code: Defaults = SETTINGS
        .iter()
        .map(|setting| (setting.name.to_owned(), setting.default.map(str::to_owned)))
        .collect();
    assert!(code.len() >= 40, "only {} settings were found", code.len());
    assert_eq!(settings_of_the_example(), code, ".env.example and the code");
    assert_eq!(settings_of_the_readme(), code, "README.md and the code");
}

#[test]
fn whatever_looks_like_a_setting_in_the_readme_is_one() {
    let houses: BTreeSet<&str> = SETTINGS
        .iter()
        .filter_map(|setting| setting.name.split('_').next())
        .collect();
    let mut found = BTreeSet::new();
    for file in [
        "README.md",
        "CHANGELOG.md",
        "deploy/RUNBOOK.md",
        "deploy/TUNING.md",
    ] {
        let text = read(file);
        for word in
            text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        {
            let Some((house, _)) = word.split_once('_') else {
                continue;
            };
            if !houses.contains(house) || word == "SSE_BRIDGE_CONFIG" {
                continue;
            }
            // `HISTORY_MAX_*` stands for all that begin so.
            let is_setting = SETTINGS.iter().any(|setting| {
                let names = [Some(setting.name), setting.file()];
                names.contains(&Some(word))
                    || (word.ends_with('_') && setting.name.starts_with(word))
            });
            assert!(is_setting, "{file}: {word}");
            found.insert(word.to_owned());
        }
    }
    assert!(
        found.len() >= 40,
        "only {} settings were found",
        found.len()
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
        let link = format!("runbook: deploy/RUNBOOK.md#{}\n", name.to_lowercase());
        assert!(alert.contains(&link), "{name}: where it leads");
        assert!(named.insert(name.to_owned()), "{name} stands twice");
    }
    assert!(named.len() > 30, "only {named:?}");
    assert_eq!(paragraphs, named, "the runbook, and the alerts");
}

/// The headings of a page as its links name them.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let letters = heading
                .chars()
                .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            letters.collect::<String>().replace(' ', "-")
        })
        .collect()
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

/// The names of the fields of all lines that the code logs: `tracing::info!(target: T, name, %name, name = value, "…")`.
fn fields_of_the_code() -> BTreeSet<String> {
    let mut found = BTreeSet::from(["message".to_owned()]);
    let mut lines = 0;
    for source in sources("src", 40) {
        // A test may log what it likes.
        let text = source.text.split("#[cfg(test)]\nmod tests").next();
        let code = code(text.unwrap());
        for (start, _) in code.match_indices("tracing::") {
            let rest = &code[start + "tracing::".len()..];
            let Some((name, rest)) = rest.split_once("!(") else {
                continue;
            };
            if !["error", "warn", "info", "debug", "trace", "info_span"].contains(&name) {
                continue;
            }
            lines += 1;
            for argument in arguments(rest) {
                // Behind the message there is nothing more, and literals are blanked.
                let argument = argument.trim();
                if argument.is_empty() && name != "info_span" {
                    break;
                }
                if argument.is_empty() || argument.starts_with("target:") {
                    continue;
                }
                let field = argument.split('=').next().unwrap();
                let field = field.trim().trim_start_matches(['%', '?']);
                let legal = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
                assert!(
                    field.bytes().all(legal),
                    "{}: what is the field of `{argument}`?",
                    source.path.display()
                );
                found.insert(field.to_owned());
            }
        }
    }
    assert!(lines >= 50, "only {lines} lines were found");
    found
}

/// The arguments of a call, from behind its parenthesis.
fn arguments(code: &str) -> Vec<String> {
    let (mut depth, mut arguments) = (0, vec![String::new()]);
    for character in code.chars() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(String::new());
                continue;
            }
            _ => {}
        }
        arguments.last_mut().unwrap().push(character);
    }
    arguments
}

#[test]
fn readme_and_code_name_the_same_fields_of_log_lines() {
    let readme = read("README.md");
    let logs = section(&readme, "Logs");
    let (_, table) = logs
        .split_once("| field | what it is |\n|---|---|\n")
        .expect("that table");
    let mut told = BTreeSet::new();
    for cells in rows(table.split("\n\n").next().unwrap()) {
        for field in code_spans(cells[0]) {
            assert!(told.insert(field.to_owned()), "{field} stands twice");
        }
    }
    assert_eq!(told, fields_of_the_code(), "README.md and the code");
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
