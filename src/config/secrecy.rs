//! How much of a setting's value people may see: in problems, in `check`, in logs.

/// How much of a value may be shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// All of it.
    Open,
    /// A URL, or a comma list of them, whose passwords are hidden.
    Password,
    /// Nothing.
    Secret,
}

impl Secrecy {
    /// What of a value may be shown: on one line, of bounded length.
    #[must_use]
    pub fn shown(self, text: &str) -> String {
        match self {
            Self::Open => one_line(text),
            Self::Password => one_line(&without_passwords(text)),
            Self::Secret => "***".to_owned(),
        }
    }
}

/// A value on one line, of bounded length.
pub(super) fn one_line(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut line = String::new();
    for character in text.chars().take(LONGEST) {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

/// A comma list of URLs with `***` for their passwords. What does not look like such a list is hidden whole, as it may
/// be a password with a comma in it.
fn without_passwords(text: &str) -> String {
    let urls: Option<Vec<String>> = text.split(',').map(without_password).collect();
    urls.map_or_else(|| "***".to_owned(), |urls| urls.join(","))
}

fn without_password(url: &str) -> Option<String> {
    let (scheme, rest) = url.trim().split_once("://")?;
    let rest = match rest.rsplit_once('@') {
        Some((user, host)) => {
            let user = user.split_once(':').map_or(user, |(user, _)| user);
            format!("{user}:***@{host}")
        }
        // No host after it: this may be a user and the first half of a password.
        None => {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let port = authority
                .rsplit_once(':')
                .map_or("", |(_, port)| port.trim_end_matches(']'));
            if port.chars().all(|character| character.is_ascii_hexdigit()) {
                rest.to_owned()
            } else {
                "***".to_owned()
            }
        }
    };
    let rest = rest.split('?').next().unwrap_or_default();
    Some(format!("{scheme}://{rest}"))
}
