//! The judging of a configuration: single values, and the words for what is wrong with them.

use std::collections::HashSet;

use super::Command;
use super::raw::Raw;
use super::settings::Setting;

/// The judging of a configuration, and what was found so far.
pub(super) struct Reader<'a> {
    pub(super) raw: &'a Raw,
    pub(super) command: Command,
    pub(super) problems: Vec<String>,
    /// Settings whose value is not legal: no use in comparing it with others.
    pub(super) faulty: HashSet<&'static str>,
    pub(super) warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    /// With what was found wrong with the sources, and the settings that this makes no use of.
    pub(super) fn new(
        raw: &'a Raw,
        command: Command,
        problems: Vec<String>,
        faulty: HashSet<&'static str>,
    ) -> Self {
        Self {
            raw,
            command,
            problems,
            faulty,
            warnings: Vec::new(),
        }
    }

    /// What is given for a setting or, where nothing is, its default.
    pub(super) fn value<T>(
        &mut self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.value_or(setting, setting.default, parse)
    }

    pub(super) fn value_or<T>(
        &mut self,
        setting: &Setting,
        default: Option<&str>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        if let Some(value) = self.optional(setting, &parse) {
            return Some(value);
        }
        match default.map(parse) {
            Some(Ok(value)) => Some(value),
            Some(Err(legal)) => {
                self.problem(setting, &legal);
                None
            }
            None => {
                self.missing(setting, "a value");
                None
            }
        }
    }

    /// What is given for a setting.
    pub(super) fn optional<T>(
        &mut self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let given = self.raw.given(setting)?;
        match parse(&given.text) {
            Ok(value) => Some(value),
            Err(legal) => {
                self.problem(setting, &legal);
                None
            }
        }
    }

    pub(super) fn problem(&mut self, setting: &Setting, legal: &str) {
        if self.faulty.insert(setting.name) {
            let problem = format!("{}: {legal}", self.said(setting));
            self.problems.push(problem);
        }
    }

    pub(super) fn missing(&mut self, setting: &Setting, what: &str) {
        if self.faulty.insert(setting.name) {
            self.problems
                .push(format!("{} is not set: set it to {what}", setting.name));
        }
    }

    pub(super) fn contradiction(&mut self, settings: [&Setting; 2], what: &str) {
        if settings
            .iter()
            .any(|setting| self.faulty.contains(setting.name))
        {
            return;
        }
        let [first, second] = settings.map(|setting| self.said(setting));
        self.problems
            .push(format!("{first} contradicts {second}: {what}"));
    }

    /// A setting with its value and where that is from, for people: never with a secret.
    pub(super) fn said(&self, setting: &Setting) -> String {
        match (self.raw.given(setting), setting.default) {
            (Some(given), _) => {
                format!(
                    "{}={} ({})",
                    setting.name,
                    setting.secrecy.shown(&given.text),
                    given.origin
                )
            }
            (None, Some(default)) => format!("{}={default} (the default)", setting.name),
            (None, None) => setting.name.to_owned(),
        }
    }

    pub(super) fn same(&self, one: &Setting, other: &Setting) -> bool {
        self.raw.given(one).map(|given| &given.text)
            == self.raw.given(other).map(|given| &given.text)
    }
}
