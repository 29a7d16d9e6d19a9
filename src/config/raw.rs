//! Settings as text, and the sources they are read from.
//!
//! The environment goes before `.env`, and that before the TOML file. What a value means is no concern of this file,
//! only whether its name is one: a name that is nearly right stops the start, because the default that would stand in
//! for it is not what was asked for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use config::{FileFormat, Source, Value, ValueKind};

use super::secrecy::one_line;
use super::settings::{SETTINGS, Setting};

/// The TOML file. No setting of its own, as it cannot stand in that file.
const CONFIG_FILE: &str = "SSE_BRIDGE_CONFIG";

/// Variables of other programs that happen to be spelt almost like ours.
const OF_OTHERS: &[&str] = &[
    "OAUTH_TOKEN",
    "AUTH_CODE",
    "OTEL_BLRP_SCHEDULE_DELAY",
    "OTEL_BLRP_MAX_QUEUE_SIZE",
];

/// What settings of a broker, of identity and of the admin listener begin with: `dev` has none of these.
const NOT_FOR_DEV: &[&str] = &["RABBITMQ_", "REPLICA_", "AUTH_", "ADMIN_"];

/// A name as far as this from a known one, in letters added, left out, changed or swapped, is taken for a slip of it.
const NEAR: usize = 2;
/// Shorter names are not judged: at two letters, too many are near.
const SHORTEST_JUDGED: usize = 8;

/// Where settings are read from. No `Debug`: it holds secrets.
pub struct Sources {
    /// The variables of the environment: the strongest source.
    pub environment: Vec<(String, String)>,
    /// A file of `NAME=value` lines.
    pub env_file: Option<PathBuf>,
    /// A TOML file of flat names: the weakest source. `SSE_BRIDGE_CONFIG` names it where this is `None`.
    pub config_file: Option<PathBuf>,
}

impl Sources {
    /// The sources of this process: its environment, and the files that its arguments name. Without `env_file` it is
    /// `.env` in the current directory, if there is one.
    #[must_use]
    pub fn from_process(env_file: Option<PathBuf>, config_file: Option<PathBuf>) -> Self {
        // Not `vars`, which panics where one is not UTF-8.
        let environment = std::env::vars_os()
            .map(|(name, value)| {
                (
                    name.to_string_lossy().into_owned(),
                    value.to_string_lossy().into_owned(),
                )
            })
            .collect();
        let usual = || Some(PathBuf::from(".env")).filter(|path| path.is_file());
        Self {
            environment,
            env_file: env_file.or_else(usual),
            config_file,
        }
    }
}

/// What the sources gave, as text.
#[derive(Default)]
pub struct Raw {
    given: HashMap<&'static str, Given>,
    /// By the names of their settings, the files that hold values: their paths as text.
    files: HashMap<&'static str, Given>,
}

/// One value and where it is from.
#[derive(Clone, PartialEq, Eq)]
pub struct Given {
    /// The value, without blanks around it; never empty.
    pub text: String,
    /// The source, in words.
    pub origin: String,
}

impl Raw {
    /// Reads the sources, and puts what is wrong with names and files into `problems`. An empty value hides that of a
    /// weaker source and stands for the default.
    #[must_use]
    pub fn read(sources: &Sources, problems: &mut Vec<String>) -> Self {
        let mut reading = Reading { problems };
        let environment = reading.environment(&sources.environment);
        let env_file = sources
            .env_file
            .as_deref()
            .and_then(|path| reading.env_file(path));
        let named = [Some(&environment), env_file.as_ref()]
            .into_iter()
            .flatten()
            .find_map(|layer| layer.texts.get(CONFIG_FILE))
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        let config_file = sources
            .config_file
            .clone()
            .or(named)
            .and_then(|path| reading.toml(&path));

        let layers = [Some(environment), env_file, config_file];
        let given = |name: &str| {
            let (text, origin) = layers
                .iter()
                .flatten()
                .find_map(|layer| Some((layer.texts.get(name)?, &layer.origin)))?;
            (!text.is_empty()).then(|| Given {
                text: text.clone(),
                origin: origin.clone(),
            })
        };
        Self {
            given: SETTINGS
                .iter()
                .filter_map(|setting| Some((setting.name, given(setting.name)?)))
                .collect(),
            files: SETTINGS
                .iter()
                .filter_map(|setting| Some((setting.name, given(setting.file()?)?)))
                .collect(),
        }
    }

    /// Puts in what the files hold that the sources name. A step of its own, so that whoever has no use for a secret needs
    /// no file. The names of settings whose file is of no use go into `faulty`.
    #[must_use]
    pub fn with_files(
        mut self,
        problems: &mut Vec<String>,
        faulty: &mut HashSet<&'static str>,
    ) -> Self {
        for setting in SETTINGS {
            let (Some(name), Some(file)) = (setting.file(), self.files.remove(setting.name)) else {
                continue;
            };
            let wrong = match std::fs::read_to_string(&file.text) {
                Ok(text) if text.trim().is_empty() => "holds nothing".to_owned(),
                Ok(text) => {
                    let text = text.trim().to_owned();
                    let origin = one_line(&file.text);
                    self.given.insert(setting.name, Given { text, origin });
                    continue;
                }
                Err(error) => format!("cannot be read: {error}"),
            };
            let (path, origin) = (one_line(&file.text), file.origin);
            problems.push(format!("{name}={path} ({origin}): {wrong}"));
            faulty.insert(setting.name);
        }
        self
    }

    /// What the sources gave for a setting.
    #[must_use]
    pub fn given(&self, setting: &Setting) -> Option<&Given> {
        self.given.get(setting.name)
    }

    /// The same without what `dev` has no use for, so that it starts beside a `.env` that was written for `serve`.
    #[must_use]
    pub fn for_dev(mut self) -> Self {
        let is_for_dev = |name: &str| !NOT_FOR_DEV.iter().any(|prefix| name.starts_with(prefix));
        self.given.retain(|name, _| is_for_dev(name));
        self.files.retain(|name, _| is_for_dev(name));
        self
    }
}

/// One source's values under known names.
struct Layer {
    origin: String,
    texts: BTreeMap<&'static str, String>,
}

/// The reading of sources, and what was found wrong with them.
struct Reading<'a> {
    problems: &'a mut Vec<String>,
}

impl Reading<'_> {
    fn environment(&mut self, variables: &[(String, String)]) -> Layer {
        let variables = variables
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()));
        self.layer("the environment".to_owned(), variables)
    }

    fn env_file(&mut self, path: &Path) -> Option<Layer> {
        let origin = path.display().to_string();
        let text = self.contents(path, "name another with --env-file, or leave it out")?;
        // The parser wants neither a byte order mark nor blanks before the end of the file.
        let text = format!("{}\n", text.trim_start_matches('\u{feff}'));
        let mut variables = Vec::new();
        for line in dotenvy::from_read_iter(text.as_bytes()) {
            match line {
                Ok(variable) => variables.push(variable),
                Err(error) => self.problems.push(format!(
                    "{origin}: {} is not NAME=value: put a value with blanks or quotes in single quotes",
                    place(&text, &error)
                )),
            }
        }
        let variables = variables
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()));
        Some(self.layer(origin, variables))
    }

    fn toml(&mut self, path: &Path) -> Option<Layer> {
        let origin = path.display().to_string();
        let text = self.contents(path, "name another with --config, or leave it out")?;
        let table = match config::File::from_str(&text, FileFormat::Toml).collect() {
            Ok(table) => table,
            Err(error) => {
                // Its other lines quote the file, which may hold a secret.
                let error = error.to_string();
                let place = error.lines().next().unwrap_or_default();
                self.problems.push(format!(
                    "{origin}: {place}: write NAME = \"value\", strings in quotes, every name once"
                ));
                return None;
            }
        };
        let mut layer = Layer {
            origin,
            texts: BTreeMap::new(),
        };
        let table: BTreeMap<String, Value> = table.into_iter().collect();
        for (written, value) in table {
            let name = written.to_ascii_uppercase();
            match (known(&name), text_of(&value.kind)) {
                (Some(known), Some(text)) => self.keep(&mut layer, known, &text),
                (Some(known), None) => self.problems.push(format!(
                    "{known} ({}): is a table: write text, a number, true, false, or a list of texts",
                    layer.origin
                )),
                (None, _) => self.problems.push(unknown(&written, &name, &layer.origin)),
            }
        }
        Some(self.values_or_their_files(layer))
    }

    fn layer<'a>(
        &mut self,
        origin: String,
        variables: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Layer {
        let mut layer = Layer {
            origin,
            texts: BTreeMap::new(),
        };
        for (name, text) in variables {
            if let Some(known) = known(name) {
                self.keep(&mut layer, known, text);
            } else if let Some(meant) = meant(name) {
                self.problems.push(misspelt(name, meant, &layer.origin));
            }
        }
        self.values_or_their_files(layer)
    }

    /// A value and the file that it may be read from are two ways to say one thing: a source that says either hides both
    /// of a weaker source, and one that says both contradicts itself.
    fn values_or_their_files(&mut self, mut layer: Layer) -> Layer {
        for setting in SETTINGS {
            let (name, Some(file)) = (setting.name, setting.file()) else {
                continue;
            };
            let given = |name| layer.texts.get(name).map(|text| !text.is_empty());
            match (given(name), given(file)) {
                (None, None) => continue,
                (Some(true), Some(true)) => self.problems.push(format!(
                    "{name} and {file} ({}): are both there: take one out",
                    layer.origin
                )),
                _ => {}
            }
            layer.texts.entry(name).or_default();
            layer.texts.entry(file).or_default();
        }
        layer
    }

    fn keep(&mut self, layer: &mut Layer, name: &'static str, text: &str) {
        let text = text.trim();
        if text.contains(char::REPLACEMENT_CHARACTER) {
            self.problems
                .push(format!("{name} ({}): is not UTF-8", layer.origin));
            return;
        }
        let before = layer.texts.insert(name, text.to_owned());
        if before.is_some_and(|before| before != text) {
            self.problems.push(format!(
                "{name} ({}): is there twice, with different values: take one out",
                layer.origin
            ));
        }
    }

    fn contents(&mut self, path: &Path, instead: &str) -> Option<String> {
        std::fs::read_to_string(path)
            .map_err(|error| {
                self.problems.push(format!(
                    "{}: cannot be read: {error}: {instead}",
                    path.display()
                ));
            })
            .ok()
    }
}

/// Every name that is no mistake.
fn names() -> impl Iterator<Item = &'static str> {
    SETTINGS
        .iter()
        .flat_map(|setting| std::iter::once(setting.name).chain(setting.file()))
        .chain(std::iter::once(CONFIG_FILE))
}

fn known(name: &str) -> Option<&'static str> {
    names().find(|known| *known == name)
}

/// The known name that an unknown one is a slip of.
fn meant(name: &str) -> Option<&'static str> {
    if name.len() < SHORTEST_JUDGED || OF_OTHERS.contains(&name) {
        return None;
    }
    let name = name.to_ascii_uppercase();
    names()
        .map(|known| (strsim::damerau_levenshtein(&name, known), known))
        .filter(|(distance, _)| *distance <= NEAR)
        .min()
        .map(|(_, known)| known)
}

fn misspelt(name: &str, meant: &str, origin: &str) -> String {
    format!("{name} ({origin}): is no setting: write {meant}, or take it out")
}

fn unknown(written: &str, name: &str, origin: &str) -> String {
    meant(name).map_or_else(
        || {
            format!(
                "{} ({origin}): is no setting: take it out (.env.example lists all there are)",
                one_line(written)
            )
        },
        |meant| misspelt(written, meant, origin),
    )
}

/// A TOML value as the environment would have it. Of a list, its members joined by commas, and of an empty one the word
/// that stands for nothing, as an empty value is the default.
fn text_of(kind: &ValueKind) -> Option<String> {
    match kind {
        ValueKind::Array(members) if members.is_empty() => Some(NOTHING.to_owned()),
        ValueKind::Array(members) => {
            let members: Option<Vec<String>> = members
                .iter()
                .map(|member| {
                    Some(&member.kind)
                        .filter(|kind| !matches!(kind, ValueKind::Array(_)))
                        .and_then(text_of)
                })
                .collect();
            members.map(|members| members.join(","))
        }
        ValueKind::Table(_) | ValueKind::Nil => None,
        scalar => Some(scalar.to_string()),
    }
}

/// What stands for an empty list.
pub const NOTHING: &str = "none";

/// Where in a `.env` file an error is, without quoting the file.
fn place(text: &str, error: &dotenvy::Error) -> String {
    match error {
        dotenvy::Error::LineParse(line, _) => text
            .find(line.trim_end())
            .and_then(|start| text.get(..start))
            .map_or_else(
                || "a line".to_owned(),
                |before| format!("line {}", before.matches('\n').count() + 1),
            ),
        _ => "a line".to_owned(),
    }
}
