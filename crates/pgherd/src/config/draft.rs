//! Values on their way to a [`Config`]: with the place each comes from, so that every problem can name it.

use std::collections::BTreeMap;

use super::error::{ConfigError, Place, Problem};
use super::model::Config;
use super::settings::{self, Default as SettingDefault, SECTIONS, SETTINGS};
use super::value::Value;

#[derive(Default)]
pub(super) struct Draft {
    /// By full key, `peers.n1.peer` for a peer's.
    pub values: BTreeMap<String, (Value, Place)>,
    pub parameters: BTreeMap<String, (String, Place)>,
    /// Names that have a table in `[peers]`.
    pub peers: BTreeMap<String, Place>,
    pub problems: Vec<Problem>,
    /// Keys that were set to something wrong; they are not missing.
    pub refused: Vec<String>,
    /// The file is no TOML.
    pub broken: bool,
}

impl Draft {
    pub fn problem(&mut self, place: Place, text: impl Into<String>) {
        self.problems.push(Problem { place, text: text.into() });
    }

    /// A problem with the value of `key`, at the place that set it.
    pub fn problem_with(&mut self, key: &str, text: impl Into<String>) {
        let place = self.place(key);
        self.problem(place, text);
    }

    pub fn place(&self, key: &str) -> Place {
        self.values.get(key).map_or(Place::File, |(_, place)| place.clone())
    }

    pub fn put(&mut self, key: &str, value: Result<Value, String>, place: Place) {
        match value {
            Ok(value) => {
                self.values.insert(key.to_owned(), (value, place));
            }
            Err(text) => {
                self.refused.push(key.to_owned());
                self.problem(place, format!("{key}: {text}"));
            }
        }
    }

    /// Every variable `PGHERD_<SECTION>_…` must be a setting; others (PGHERD_LOG, PGHERD_URL) are not ours.
    pub fn read_environment(&mut self, environment: &BTreeMap<String, String>) {
        for (variable, text) in environment {
            let Some(rest) = variable.strip_prefix("PGHERD_") else { continue };
            let setting = SETTINGS.iter().find(|setting| setting.variable().as_ref() == Some(variable));
            let place = Place::Environment(variable.clone());
            if let Some(setting) = setting {
                self.refused.retain(|key| key != setting.key);
                self.put(setting.key, setting.kind.read_text(text), place);
                continue;
            }
            let section = SECTIONS.iter().map(|section| section.name).find(|section| {
                let tail = rest.strip_prefix(&section.to_uppercase());
                !section.is_empty() && tail.is_some_and(|tail| tail.starts_with('_'))
            });
            let Some(section) = section else { continue };
            let name = rest[section.len() + 1..].to_lowercase();
            if !is_kubernetes(&name) {
                let text = match settings::suggest(&format!("{section}.{name}"))
                    .and_then(|key| settings::find(&key))
                    .and_then(|setting| setting.variable())
                {
                    Some(near) => format!("no such setting; did you mean {near}?"),
                    None => "no such setting, or one that can be set in the file only".to_owned(),
                };
                self.problem(place, text);
            }
        }
    }

    /// Fills in what has a fixed default and complains about what must be set. Derived ones are [`Config`]'s.
    pub fn apply_defaults(&mut self) {
        for setting in SETTINGS {
            let keys: Vec<String> = match setting.key.strip_prefix("peers.*.") {
                Some(name) => self.peers.keys().map(|peer| format!("peers.{peer}.{name}")).collect(),
                None => vec![setting.key.to_owned()],
            };
            for key in keys {
                if self.values.contains_key(&key) || self.refused.contains(&key) {
                    continue;
                }
                match setting.default {
                    SettingDefault::Required => {
                        let table = key
                            .rsplit_once('.')
                            .map_or("at the top".to_owned(), |(table, _)| format!("under [{table}]"));
                        let variable =
                            setting.variable().map(|name| format!(", or set {name}")).unwrap_or_default();
                        let text = format!(
                            "{key} is missing; add {} = {} {table}{variable}",
                            setting.name(),
                            setting.example
                        );
                        self.problem(Place::File, text);
                    }
                    SettingDefault::Value(text) => self.put(&key, setting.kind.read_text(text), Place::File),
                    SettingDefault::List(lines) => {
                        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
                        self.put(&key, Ok(Value::List(lines)), Place::File);
                    }
                    SettingDefault::Derived(_) => {}
                }
            }
        }
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        match self.values.get(key) {
            Some((Value::Text(text), _)) => Some(text),
            _ => None,
        }
    }

    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.values.get(key) {
            Some((Value::Flag(truth), _)) => Some(*truth),
            _ => None,
        }
    }

    pub fn integer(&self, key: &str) -> Option<i64> {
        match self.values.get(key) {
            Some((Value::Integer(number), _)) => Some(*number),
            _ => None,
        }
    }

    pub fn duration(&self, key: &str) -> Option<std::time::Duration> {
        match self.values.get(key) {
            Some((Value::Duration(duration), _)) => Some(*duration),
            _ => None,
        }
    }

    pub fn finish(mut self, file: &str) -> Result<Config, ConfigError> {
        if self.problems.is_empty() {
            match Config::from_draft(&self) {
                Ok(config) => return Ok(config),
                // The table and the model disagree: a mistake in pgherd, which the tests of both would show.
                Err(key) => {
                    self.problem(Place::File, format!("{key} has no value (this is a bug in pgherd)"))
                }
            }
        }
        self.problems.sort_by(|a, b| a.place.cmp(&b.place));
        Err(ConfigError::Invalid { file: file.to_owned(), problems: self.problems })
    }
}

/// Kubernetes sets these for each service; one called `pgherd-proxy` looks like our section.
fn is_kubernetes(name: &str) -> bool {
    name.starts_with("service_")
        || name.contains("_service_")
        || name.strip_prefix("port_").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}
