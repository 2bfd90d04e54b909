//! Reads TOML into a [`Draft`]; every key must be known.

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::draft::Draft;
use super::error::Place;
use super::parameters;
use super::settings::{self, SECTIONS};
use super::value;

pub(super) fn read(text: &str, draft: &mut Draft) {
    match DeTable::parse(text) {
        Ok(table) => Reader { text, draft }.top(table.get_ref()),
        Err(error) => {
            let place = error.span().map_or(Place::File, |span| place(text, span.start));
            draft.problem(place, format!("not TOML: {}", error.message()));
            draft.broken = true;
        }
    }
}

type Key<'i> = Spanned<DeString<'i>>;
type Item<'i> = Spanned<DeValue<'i>>;

struct Reader<'a> {
    text: &'a str,
    draft: &'a mut Draft,
}

impl Reader<'_> {
    fn top(&mut self, table: &DeTable<'_>) {
        for (key, item) in table {
            let name: &str = key.get_ref();
            if !SECTIONS.iter().any(|section| section.name == name) {
                self.setting(name, key, item);
                continue;
            }
            let Some(table) = item.get_ref().as_table() else {
                self.problem(item, format!("{name} is a table: write [{name}] and its settings below"));
                continue;
            };
            match name {
                "peers" => self.peers(table),
                "slots" => self.slots(table),
                _ => self.section(name, table),
            }
        }
    }

    fn section(&mut self, section: &str, table: &DeTable<'_>) {
        for (key, item) in table {
            let full = format!("{section}.{}", key.get_ref());
            match (full.as_str(), item.get_ref().as_table()) {
                ("postgres.parameters", Some(table)) => self.parameters("", table),
                ("postgres.parameters", None) => {
                    self.problem(item, "postgres.parameters is a table: write [postgres.parameters]".into());
                }
                _ => self.setting(&full, key, item),
            }
        }
    }

    fn peers(&mut self, table: &DeTable<'_>) {
        for (key, item) in table {
            let name: &str = key.get_ref();
            if let Err(text) = value::name(name) {
                self.problem(key, format!("peers: {text}"));
                continue;
            }
            let Some(table) = item.get_ref().as_table() else {
                let text =
                    format!("peers.{name} is a table: write [peers.{name}] and peer = \"host:port\" below");
                self.problem(item, text);
                continue;
            };
            let place = self.place(key);
            self.draft.peers.insert(name.to_owned(), place);
            self.section(&format!("peers.{name}"), table);
        }
    }

    /// A table in it is a slot's, anything else a setting for all of them.
    fn slots(&mut self, table: &DeTable<'_>) {
        for (key, item) in table {
            let name: &str = key.get_ref();
            let Some(table) = item.get_ref().as_table() else {
                self.setting(&format!("slots.{name}"), key, item);
                continue;
            };
            if let Err(text) = value::slot_name(name) {
                self.problem(key, format!("slots: {text}"));
                continue;
            }
            let place = self.place(key);
            self.draft.slots.insert(name.to_owned(), place);
            self.section(&format!("slots.{name}"), table);
        }
    }

    /// A table in it is the first part of a name with a dot, `pg_stat_statements.max`.
    fn parameters(&mut self, prefix: &str, table: &DeTable<'_>) {
        for (key, item) in table {
            // PostgreSQL's names know no upper case.
            let name = format!("{prefix}{}", key.get_ref()).to_lowercase();
            let text = match item.get_ref() {
                DeValue::Table(table) => {
                    self.parameters(&format!("{name}."), table);
                    continue;
                }
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
                DeValue::Float(number) => number.as_str().to_owned(),
                DeValue::Boolean(truth) => if *truth { "on" } else { "off" }.to_owned(),
                other => {
                    let found = other.type_str();
                    let text = format!("expected a string, decimal number or boolean, found {found}");
                    self.problem(item, format!("postgres.parameters.{name}: {text}"));
                    continue;
                }
            };
            self.parameter(key, item, name, text);
        }
    }

    fn parameter(&mut self, key: &Key<'_>, item: &Item<'_>, name: String, text: String) {
        if !parameters::is_name(&name) {
            self.problem(key, format!("postgres.parameters: {name:?} is no name of a parameter"));
        } else if let Some(instead) = parameters::owner(&name) {
            self.problem(key, format!("postgres.parameters.{name} belongs to pgherd: {instead}"));
        } else if text.chars().any(char::is_control) {
            self.problem(item, format!("postgres.parameters.{name}: control characters are not allowed"));
        } else {
            let place = self.place(key);
            if self.draft.parameters.insert(name.clone(), (text, place)).is_some() {
                self.problem(
                    key,
                    format!("postgres.parameters.{name} is set twice (upper and lower case are the same)"),
                );
            }
        }
    }

    fn setting(&mut self, full: &str, key: &Key<'_>, item: &Item<'_>) {
        match settings::find(full) {
            Some(setting) => {
                let place = self.place(item);
                self.draft.put(full, setting.kind.read_toml(item.get_ref()), place);
            }
            None => {
                let hint = settings::suggest(full).map(|near| format!("; did you mean {near}?"));
                self.problem(key, format!("unknown setting {full}{}", hint.unwrap_or_default()));
            }
        }
    }

    fn problem<T>(&mut self, at: &Spanned<T>, text: String) {
        let place = self.place(at);
        self.draft.problem(place, text);
    }

    fn place<T>(&self, at: &Spanned<T>) -> Place {
        place(self.text, at.span().start)
    }
}

fn place(text: &str, offset: usize) -> Place {
    // Offsets are the parser's and lie on character boundaries; an end of file may lie one past the last.
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Place::Line { line, column }
}
