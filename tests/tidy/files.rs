//! How files begin, end and are named.

use crate::source::{code, sources, tokens};

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "types", "manager", "managers", "misc", "mod",
];

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
