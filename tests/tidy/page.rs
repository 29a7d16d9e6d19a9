//! A page of Markdown: its sections, tables and headings.

use std::collections::BTreeSet;

/// The text below a heading of the second level, to the next.
pub(crate) fn section(document: &str, heading: &str) -> String {
    let start = format!("\n## {heading}\n");
    let (_, rest) = document
        .split_once(&start)
        .unwrap_or_else(|| panic!("no section {heading:?}"));
    rest.split("\n## ").next().unwrap().to_owned()
}

/// The rows of all tables of a text, as cells.
pub(crate) fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter_map(|line| {
        let row = line.strip_prefix('|')?.strip_suffix('|')?;
        Some(row.split('|').map(str::trim).collect())
    })
}

/// What stands in backquotes.
pub(crate) fn code_spans(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The one thing that a cell holds, if it is one in backquotes.
pub(crate) fn sole_code_span(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?
        .strip_suffix('`')
        .filter(|inner| !inner.contains('`'))
}

/// The headings of a page as its links name them.
pub(crate) fn anchors(page: &str) -> BTreeSet<String> {
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
