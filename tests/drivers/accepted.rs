//! Differences that belong to what a transaction pooler is, each with its reason: `tests/drivers/accepted.toml`.
//!
//! Invariant: an entry accepts the tests that it names, where they say what it names.

use anyhow::{Context, Result};
use serde::Deserialize;

const LIST: &str = include_str!("accepted.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    difference: Vec<Difference>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    driver: String,
    tests: Vec<String>,
    pub reason: String,
    /// The failure's message has one of these texts.
    says: Vec<String>,
    /// Which server a session gets decides, so it may pass as well.
    #[serde(default)]
    pub by_chance: bool,
}

impl Difference {
    pub fn is_of(&self, driver: &str, test: &str) -> bool {
        self.driver == driver && self.tests.iter().any(|name| name == test)
    }

    pub fn covers(&self, said: &str) -> bool {
        self.says.iter().any(|text| said.contains(text))
    }
}

pub fn list() -> Result<Vec<Difference>> {
    let list: List = toml::from_str(LIST).context("tests/drivers/accepted.toml")?;
    Ok(list.difference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_has_a_reason_and_says_what_is_accepted() {
        let whole = |entry: &Difference| {
            entry.reason.len() > 20 && entry.says.iter().all(|text| text.len() > 2) && !entry.says.is_empty()
        };
        assert!(list().unwrap().iter().all(whole));
    }

    #[test]
    fn a_test_that_fails_in_another_way_is_not_accepted() {
        let text = "[[difference]]\ndriver = \"d\"\ntests = [\"t\"]\nreason = \"r\"\nsays = [\"pid\"]\n";
        let list: List = toml::from_str(text).unwrap();
        let [one] = &list.difference[..] else { panic!("{text}") };
        assert!(one.is_of("d", "t") && !one.is_of("d", "u") && !one.is_of("e", "t"));
        assert!(one.covers("the pid is 5") && !one.covers("connection lost"));
    }
}
