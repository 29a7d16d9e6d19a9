//! Fields of log lines: the same in the code and in README.

use std::collections::BTreeSet;

use crate::page::{code_spans, rows, section};
use crate::source::{code, read, sources};

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
