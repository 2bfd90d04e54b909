//! Differences that belong to what a proxy is, each with its reason: `tests/regress/accepted.toml`.
//!
//! Invariant: a test's entry accepts the lines that it names and no others; only an entry without lines accepts all.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::pass::Mode;

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
    pub test: String,
    /// Of the pools; both when it is left out.
    mode: Option<String>,
    pub reason: String,
    /// As a diff from the direct run shows them, each after its `-` or `+`; not all of them need occur.
    #[serde(default)]
    lines: Option<String>,
}

impl Difference {
    pub fn is_of(&self, mode: Mode) -> bool {
        self.mode.as_ref().is_none_or(|name| name == mode.pool_mode())
    }

    /// True when these changed lines are all among the accepted ones.
    pub fn covers(&self, changed: &BTreeSet<String>) -> bool {
        let Some(lines) = &self.lines else { return true };
        let known: BTreeSet<&str> = lines.lines().map(str::trim_end).collect();
        changed.iter().all(|line| known.contains(line.trim_end()))
    }
}

pub fn list() -> Result<Vec<Difference>> {
    let list: List = toml::from_str(LIST).context("tests/regress/accepted.toml")?;
    Ok(list.difference)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read_and_every_entry_has_a_reason() {
        assert!(list().unwrap().iter().all(|difference| difference.reason.len() > 20));
    }

    #[test]
    fn only_lines_that_are_named_are_accepted() {
        let text =
            "[[difference]]\ntest = \"x\"\nmode = \"session\"\nreason = \"r\"\nlines = '''\n- a \n+ b\n'''\n";
        let list: List = toml::from_str(text).unwrap();
        let [one] = &list.difference[..] else { panic!("{text}") };
        assert!(one.is_of(Mode::Session) && !one.is_of(Mode::Transaction));
        let changed = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect();
        assert!(one.covers(&changed(&["- a", "+ b"])) && one.covers(&changed(&["+ b"])));
        assert!(!one.covers(&changed(&["+ b", "+ c"])));
    }
}
