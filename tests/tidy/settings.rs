//! Settings: the same in the code, in `.env.example`, and on the pages.

use std::collections::BTreeSet;

use sse_bridge::config::settings::SETTINGS;

use crate::page::{code_spans, rows, section, sole_code_span};
use crate::source::read;

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
