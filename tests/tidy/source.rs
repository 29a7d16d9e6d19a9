//! The Rust files of the house, and what of their text is code.

use std::fs;
use std::path::{Path, PathBuf};

/// A Rust file: where it is, from the root of the repository, and what it says.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
}

impl Source {
    /// The module's path, without `crate`: `src/hub/channel.rs` is `["hub", "channel"]`.
    pub(crate) fn module(&self) -> Vec<String> {
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
    pub(crate) fn house(&self) -> String {
        self.module()[0].clone()
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(name: &str) -> String {
    let path = root().join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Rust file below a folder, which must hold at least so many.
pub(crate) fn sources(folder: &str, at_least: usize) -> Vec<Source> {
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
pub(crate) fn code(text: &str) -> String {
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
pub(crate) fn tokens(code: &str) -> Vec<(usize, String)> {
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
