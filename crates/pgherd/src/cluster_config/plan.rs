//! What a change would do, before it is made.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::config::{Config, Difference, differences};

/// How a changed setting comes into force.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// PostgreSQL reads it while it runs.
    Reload,
    /// A new process of pgherd takes over on each node; no session ends.
    Relaunch,
    /// PostgreSQL takes it at its next start.
    Restart,
}

impl Effect {
    pub fn words(self) -> &'static str {
        match self {
            Effect::Reload => "PostgreSQL reloads",
            Effect::Relaunch => "pgherd relaunches, no session ends",
            Effect::Restart => "PostgreSQL restarts",
        }
    }
}

/// One changed setting; values as they are written in TOML.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Change {
    #[serde(flatten)]
    pub difference: Difference,
    pub effect: Effect,
}

/// What a text would change.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Plan {
    /// Of the configuration in force.
    pub number: u64,
    pub changes: Vec<Change>,
    /// The nodes in the order in which they apply it: who is primary is last.
    pub order: Vec<String>,
    /// Nodes that are not heard: they apply it when they are back.
    #[serde(default)]
    pub away: Vec<String>,
}

const PARAMETERS: &str = "postgres.parameters.";

/// PostgreSQL's word for a parameter that it reads at its start.
const AT_START: &str = "postmaster";

/// The changes from `old` to `new` of these keys; `contexts` is `pg_settings.context` of parameters, as far as it is known.
pub fn changes(
    old: &Config,
    new: &Config,
    keys: &BTreeSet<String>,
    contexts: &BTreeMap<String, String>,
) -> Vec<Change> {
    let effect = |key: &str| match key.strip_prefix(PARAMETERS) {
        Some(name) if contexts.get(name).is_some_and(|context| context == AT_START) => Effect::Restart,
        Some(_) => Effect::Reload,
        None if key == "postgres.hba" => Effect::Reload,
        None => Effect::Relaunch,
    };
    let differences = differences(old, new, keys).into_iter();
    differences.map(|difference| Change { effect: effect(&difference.key), difference }).collect()
}

/// Parameters of PostgreSQL among these keys, with the value that they would have; `None`: PostgreSQL's own.
pub fn parameters(new: &Config, keys: &BTreeSet<String>) -> BTreeMap<String, Option<String>> {
    let names = keys.iter().filter_map(|key| key.strip_prefix(PARAMETERS));
    names.map(|name| (name.to_owned(), new.postgres.parameters.get(name).cloned())).collect()
}

/// What of a node needs another process when it changes: all but what PostgreSQL itself reads.
pub fn of_process(config: &Config) -> Config {
    let mut config = config.clone();
    config.postgres.parameters.clear();
    config.postgres.hba.clear();
    config
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn each_change_has_its_effect() {
        let old = Config::alone("shop", "n1", Path::new("/d"));
        let mut new = old.clone();
        new.sync.standbys = 2;
        new.postgres.hba.clear();
        for (name, value) in
            [("work_mem", "1MB"), ("shared_buffers", "1GB"), ("pg_stat_statements.max", "100")]
        {
            new.postgres.parameters.insert(name.to_owned(), value.to_owned());
        }
        let contexts = [("shared_buffers", "postmaster"), ("work_mem", "user")];
        let contexts = contexts.map(|(name, context)| (name.to_owned(), context.to_owned())).into();
        let keys = ["postgres.hba", "sync.standbys"].map(str::to_owned).into_iter();
        let parameters = new.postgres.parameters.keys().map(|name| format!("{PARAMETERS}{name}"));
        let keys: BTreeSet<String> = keys.chain(parameters).collect();
        let told: Vec<_> =
            changes(&old, &new, &keys, &contexts).into_iter().map(|c| (c.difference.key, c.effect)).collect();
        let expected = [
            ("postgres.hba", Effect::Reload),
            ("sync.standbys", Effect::Relaunch),
            ("postgres.parameters.pg_stat_statements.max", Effect::Reload),
            ("postgres.parameters.shared_buffers", Effect::Restart),
            ("postgres.parameters.work_mem", Effect::Reload),
        ];
        assert_eq!(told, expected.map(|(key, effect)| (key.to_owned(), effect)));
        assert_eq!(super::parameters(&new, &keys)["work_mem"], Some("1MB".to_owned()));
        assert_ne!(of_process(&old), of_process(&new));
        new.sync.standbys = old.sync.standbys;
        assert_eq!(of_process(&old), of_process(&new));
    }
}
