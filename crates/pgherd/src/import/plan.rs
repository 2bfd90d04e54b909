//! What has been gathered from all sources so far.
//!
//! Invariant: the first to give a setting keeps it. Sources are read in the order in which they stand between the clients and
//! PostgreSQL, so what clients see goes first; a later one that says something else is told so.

use std::collections::{BTreeMap, BTreeSet};

use super::report::{Chosen, Fate};
use crate::config;

/// One key of a source, with its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// As the user named it.
    pub file: String,
    /// One-based.
    pub line: usize,
    /// Segments; `[]` is an item of a list.
    pub path: Vec<String>,
    /// Empty for one that is not set.
    pub value: String,
    /// The section that it stands in, where it is not part of the path (HAProxy).
    pub section: String,
}

impl Entry {
    /// The path as one would write it.
    pub fn key(&self) -> String {
        self.path.join(".").replace(".[]", "[]")
    }

    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.line)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Given {
    pub text: String,
    /// `file:line`, a flag, or empty for what was chosen.
    pub from: String,
}

/// A node that a source names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// What the source calls it; it may be no name that pgherd can have.
    pub called: String,
    pub host: String,
    /// PostgreSQL's; `None` where only a pooler's is known.
    pub port: Option<u16>,
    pub from: String,
}

/// What is known of a listener of HAProxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    ReadWrite,
    ReadOnly,
    /// PostgreSQL, by a check that names no role.
    Unclear,
    /// Statistics, HTTP: not PostgreSQL.
    Foreign,
}

#[derive(Default)]
pub struct Plan {
    /// By key, values as in environment variables.
    pub settings: BTreeMap<String, Given>,
    pub parameters: BTreeMap<String, Given>,
    pub hba: Vec<Given>,
    pub proxy_hba: Vec<Given>,
    pub replica_functions: Vec<Given>,
    pub primary_functions: Vec<Given>,
    pub nodes: Vec<Found>,
    /// Where this node's PostgreSQL is reached, if a source says so.
    pub own: Option<(String, u16)>,
    /// The line that says it.
    pub own_from: String,
    /// Facts of one source that only count together, by names of that source.
    pub facts: BTreeMap<String, Given>,
    pub roles: BTreeMap<String, Role>,
    /// Files of the source that is read now; within a tool one place goes first by its own rules.
    pub reading: BTreeSet<String>,
    pub chosen: Vec<Chosen>,
    pub notes: Vec<String>,
    /// Slots that somebody has to name an owner for.
    pub slots: Vec<String>,
}

impl Plan {
    pub fn set(&mut self, key: &str, text: String, entry: &Entry) -> Fate {
        if let Err(why) = config::check_setting(key, &text) {
            return Fate::Refused(format!("{key}: {why}"));
        }
        let written = shown(key, &text);
        match self.settings.get(key) {
            Some(given) if given.text == text => Fate::Taken(written),
            Some(given) => self.lost(&written, &shown(key, &given.text), &given.from),
            None => {
                self.settings.insert(key.to_owned(), Given { text, from: entry.place() });
                Fate::Taken(written)
            }
        }
    }

    /// Writes a setting that no line gives; one that is given already stays.
    pub fn choose(&mut self, key: &str, text: &str, why: &str) {
        if !self.settings.contains_key(key) {
            self.settings.insert(key.to_owned(), Given { text: text.to_owned(), from: String::new() });
            self.chosen.push(Chosen {
                setting: key.to_owned(),
                value: config::write_setting(key, text),
                why: why.to_owned(),
            });
        }
    }

    /// One of PostgreSQL's own parameters.
    pub fn parameter(&mut self, name: &str, value: &str, entry: &Entry) -> Fate {
        let name = name.to_lowercase();
        if let Some(instead) = config::parameter_owner(&name) {
            return Fate::Needless(format!("pgherd sees to it: {instead}"));
        }
        if !config::is_parameter_name(&name) || value.chars().any(char::is_control) {
            return Fate::Refused("PostgreSQL has no parameter of this name and value".to_owned());
        }
        if holds_secret(value) {
            let why = format!(
                "a secret stands in its value, which is neither written nor shown: give the password by a file \
                 (a .pgpass of the user postgres, for instance) and set {name} in [postgres.parameters]"
            );
            return Fate::Absent(why);
        }
        let written = format!("[postgres.parameters] {name} = {}", config::quote(value));
        match self.parameters.get(&name) {
            Some(given) if given.text == value => Fate::Taken(written),
            Some(given) => self.lost(&written, &config::quote(&given.text), &given.from),
            None => {
                self.parameters.insert(name, Given { text: value.to_owned(), from: entry.place() });
                Fate::Taken(written)
            }
        }
    }

    fn lost(&self, wanted: &str, kept: &str, from: &str) -> Fate {
        let from = if from.is_empty() { "what was chosen" } else { from };
        match from.rsplit_once(':').is_some_and(|(file, _)| self.reading.contains(file)) {
            true => Fate::Overridden(format!("{from} goes first: {kept}")),
            false => Fate::Conflict(format!("{from} has {kept}; this would be {wanted}")),
        }
    }

    /// A fact that is looked at when all of its source has been read; the first one counts.
    pub fn fact(&mut self, name: &str, entry: &Entry) {
        let given = Given { text: entry.value.clone(), from: entry.place() };
        self.facts.entry(name.to_owned()).or_insert(given);
    }

    pub fn known(&self, name: &str) -> Option<&str> {
        self.facts.get(name).map(|given| given.text.as_str())
    }

    pub fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// `[proxy] pool_size = 20`.
pub fn shown(key: &str, text: &str) -> String {
    let written = config::write_setting(key, text);
    match key.rsplit_once('.') {
        Some((section, name)) => format!("[{section}] {name} = {written}"),
        None => format!("{key} = {written}"),
    }
}

/// Whether a password may stand in a text that would be written elsewhere: in doubt it does.
pub fn holds_secret(text: &str) -> bool {
    let lower = text.to_lowercase();
    let named =
        ["password=", "password =", "passwd=", "pgpassword", "secret=", "token=", "access_key", "--pass"];
    let in_url = lower.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', ' ', '?', '\'', '"']).next().unwrap_or_default();
        authority.split_once('@').is_some_and(|(user, _)| user.contains(':'))
    });
    in_url || named.iter().any(|word| lower.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_in_commands_and_addresses() {
        for text in ["PGPASSWORD=x psql", "host=a password=b", "curl https://ann:pw@h/x", "aws --secret=1"] {
            assert!(holds_secret(text), "{text}");
        }
        for text in ["pgbackrest --stanza=main archive-push %p", "rsync %p ann@h:/wal/%f", "https://h/x"] {
            assert!(!holds_secret(text), "{text}");
        }
    }
}
