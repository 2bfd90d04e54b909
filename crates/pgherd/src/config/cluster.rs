//! What is set once for all nodes: text of the same form as a node's file. The store has it; a copy lies beside the data directory,
//! for a node that starts while the store gives no answer.
//!
//! What it sets counts on every node instead of what the node's own file says; the environment counts before both.
//! Invariant: it sets nothing that is a node's own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::draft::Draft;
use super::error::Place;
use super::file;
use super::model::{Config, quote};
use super::render::default_text;
use super::settings::{SETTINGS, Setting};

/// Far more than anybody writes by hand; several revisions of it must fit a transaction of the store.
pub const CLUSTER_CONFIG_BYTES_MAX: usize = 48 << 10;

const FILE: &str = "cluster.json";

/// What begins so may be set for all nodes.
const OF_CLUSTER: &[&str] =
    &["postgres.hba", "postgres.parameters", "proxy.", "failover.", "sync.", "slots."];

/// Of those, what depends on a node's machine.
const OF_NODE: &[&str] = &[
    "proxy.listen",
    "proxy.read_write_port",
    "proxy.read_only_port",
    "proxy.auto_port",
    "proxy.socket_dir",
    "proxy.local_socket",
    "proxy.threads",
];

/// The cluster's configuration. `Default` is that of a cluster that has none.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClusterConfig {
    /// Grows by one with each change.
    pub number: u64,
    /// TOML.
    pub text: String,
}

impl ClusterConfig {
    /// The copy in a node's folder, as it was applied there last.
    pub fn read(dir: &Path) -> io::Result<ClusterConfig> {
        match fs::read(dir.join(FILE)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ClusterConfig::default()),
            Err(error) => Err(error),
        }
    }

    /// What the text sets, by key, in words that are the same for the same value: a slot, declared by a table of its own, is one.
    pub fn settings(&self) -> BTreeMap<String, String> {
        let mut draft = Draft::default();
        file::read(&self.text, &mut draft);
        let slot_of = |key: &str| {
            let name = key.strip_prefix("slots.")?.split_once('.')?.0;
            draft.slots.contains_key(name).then(|| format!("slots.{name}"))
        };
        let mut settings: BTreeMap<String, String> =
            draft.slots.keys().map(|name| (format!("slots.{name}"), String::new())).collect();
        for (key, (value, _)) in &draft.values {
            let words = format!("{value:?}");
            match slot_of(key) {
                Some(slot) => settings.entry(slot).or_default().push_str(&format!("{key}={words} ")),
                None => drop(settings.insert(key.clone(), words)),
            }
        }
        for (name, (value, _)) in &draft.parameters {
            settings.insert(format!("postgres.parameters.{name}"), value.clone());
        }
        settings
    }

    /// The keys of which another text says something else, or one says nothing.
    pub fn keys_unlike(&self, other: &ClusterConfig) -> BTreeSet<String> {
        let (own, others) = (self.settings(), other.settings());
        let all: BTreeSet<String> = own.keys().chain(others.keys()).cloned().collect();
        all.into_iter().filter(|key| own.get(key) != others.get(key)).collect()
    }

    /// Replaces the copy.
    pub fn keep(&self, dir: &Path) -> io::Result<()> {
        let part = dir.join(format!("{FILE}.new"));
        let bytes = serde_json::to_vec(self).map_err(io::Error::from)?;
        let mut open = fs::OpenOptions::new();
        let mut written = open.write(true).create(true).truncate(true).mode(0o640).open(&part)?;
        io::Write::write_all(&mut written, &bytes)?;
        written.sync_all()?;
        fs::rename(&part, dir.join(FILE))
    }
}

/// Whether `key` may be set for all nodes.
pub fn is_of_cluster(key: &str) -> bool {
    OF_CLUSTER.iter().any(|prefix| key.starts_with(prefix)) && !OF_NODE.contains(&key)
}

/// For the reference page.
pub(super) fn own_of_nodes() -> impl Iterator<Item = &'static str> {
    OF_NODE.iter().copied()
}

impl Draft {
    /// Puts what the cluster's configuration sets in the place of what the file says.
    pub(super) fn overlay(&mut self, cluster: &ClusterConfig) {
        let mut theirs = Draft::default();
        file::read(&cluster.text, &mut theirs);
        self.broken |= theirs.broken;
        for problem in theirs.problems {
            self.problem(problem.place.of_cluster(), problem.text);
        }
        for (name, place) in theirs.peers {
            let text = format!(
                "peers.{name}: who belongs to the cluster is changed by pgherd member add and remove"
            );
            self.problem(place.of_cluster(), text);
        }
        for (name, place) in theirs.slots {
            let table = format!("slots.{name}.");
            self.values.retain(|key, _| !key.starts_with(&table));
            self.slots.insert(name, place.of_cluster());
        }
        for (key, (value, place)) in theirs.values {
            if is_of_cluster(&key) {
                self.values.insert(key, (value, place.of_cluster()));
            } else if !key.starts_with("peers.") {
                let text =
                    format!("{key} is a node's own; set it in the node's file, then: pgherd reload NODE");
                self.problem(place.of_cluster(), text);
            }
        }
        for (name, (value, place)) in theirs.parameters {
            self.parameters.insert(name, (value, place.of_cluster()));
        }
    }
}

impl Place {
    fn of_cluster(self) -> Place {
        match self {
            Place::Line { line, column } => Place::Cluster { line, column },
            _ => Place::Cluster { line: 1, column: 1 },
        }
    }
}

/// A setting that is not the same in two configurations of a node, each value as it is written in TOML; `None`: not set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Difference {
    pub key: String,
    pub from: Option<String>,
    pub to: Option<String>,
}

/// All that may be set for all nodes, with its value: settings in the order of their table, then parameters and slots.
pub fn values_of_cluster(config: &Config) -> Vec<(String, Option<String>)> {
    let plain = |setting: &&Setting| is_of_cluster(setting.key) && !setting.key.contains('*');
    let value = |setting: &Setting| {
        (setting.key.to_owned(), config.written(setting.key).or_else(|| default_text(setting)))
    };
    let mut values: Vec<_> = SETTINGS.iter().filter(plain).map(value).collect();
    let parameters = config.postgres.parameters.iter();
    values
        .extend(parameters.map(|(name, value)| (format!("postgres.parameters.{name}"), Some(quote(value)))));
    let slots = config.slots.declared.keys();
    values.extend(slots.map(|name| (format!("slots.{name}"), Some(config.slots.inline(name)))));
    values
}

/// Of these keys, in the order of `values_of_cluster`, those that `new` alone has at the end. A value may be the same on this node, whose
/// own file says it, and another one elsewhere.
pub fn differences(old: &Config, new: &Config, keys: &BTreeSet<String>) -> Vec<Difference> {
    let (old, new) = (values_of_cluster(old), values_of_cluster(new));
    let value = |values: &[(String, Option<String>)], key: &str| {
        values.iter().find(|(other, _)| other == key).and_then(|(_, value)| value.clone())
    };
    let added = new.iter().map(|(key, _)| key).filter(|key| !old.iter().any(|(other, _)| other == *key));
    old.iter()
        .map(|(key, _)| key)
        .chain(added)
        .filter(|key| keys.contains(*key))
        .map(|key| Difference { key: key.clone(), from: value(&old, key), to: value(&new, key) })
        .collect()
}

impl super::Slots {
    /// A declared slot as an inline table.
    fn inline(&self, name: &str) -> String {
        let lines = self.table(name);
        format!("{{ {} }}", lines.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE_TEXT: &str = "cluster = \"shop\"\nnode = { name = \"n1\", dir = \"/d\" }\n[sync]\nstandbys = 0\n\
        [postgres.parameters]\nwork_mem = \"1MB\"\njit = false\n[peers.n1]\npeer = \"127.0.0.1:7432\"\npostgres = \"127.0.0.1:5432\"\n\
        [slots.old]\ntype = \"physical\"\nowner = \"x\"\n";

    fn with(text: &str) -> Result<Config, String> {
        let cluster = ClusterConfig { number: 1, text: text.to_owned() };
        super::super::parse_with(FILE_TEXT, "n1.toml", &cluster, &Default::default())
            .map_err(|error| error.to_string())
    }

    fn keys(text: &str) -> BTreeSet<String> {
        ClusterConfig { number: 1, text: text.to_owned() }.keys_unlike(&ClusterConfig::default())
    }

    #[test]
    fn what_two_texts_say_differently_is_told_by_key_and_comments_are_not() {
        let of = |text: &str| ClusterConfig { number: 1, text: text.to_owned() };
        let old = of(
            "[sync]\nstandbys = 1\n[postgres.parameters]\njit = false\n[slots.a]\ntype = \"physical\"\nowner = \"x\"",
        );
        let new = of(
            "# why\n[sync]\nstandbys = 1\nmethod = \"quorum\"\n[postgres.parameters]\njit = \"off\"\n[slots.a]\ntype = \"physical\"\nowner = \"y\"",
        );
        assert_eq!(new.keys_unlike(&old).into_iter().collect::<Vec<_>>(), ["slots.a", "sync.method"]);
        assert!(old.keys_unlike(&of(&format!("# a remark\n{}", old.text))).is_empty());
    }

    #[test]
    fn what_is_set_for_all_counts_and_the_rest_is_the_files() {
        let config = with("[sync]\nstandbys = 1\n[postgres.parameters]\nwork_mem = \"64MB\"\n").unwrap();
        assert_eq!(config.sync.standbys, 1);
        let parameters: Vec<_> = config.postgres.parameters.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(parameters, ["jit=off", "work_mem=64MB"]);
    }

    #[test]
    fn the_environment_counts_before_both() {
        let cluster = ClusterConfig { number: 1, text: "[sync]\nstandbys = 1".to_owned() };
        let environment = [("PGHERD_SYNC_STANDBYS".to_owned(), "2".to_owned())].into();
        let config = super::super::parse_with(FILE_TEXT, "n1.toml", &cluster, &environment).unwrap();
        assert_eq!(config.sync.standbys, 2);
    }

    #[test]
    fn problems_name_the_line_of_the_clusters_configuration() {
        for (text, words) in [
            (
                "[sync]\nstandbyss = 1",
                "the cluster's configuration:2:1: unknown setting sync.standbyss; did you mean sync.standbys?",
            ),
            ("[sync]\nstandbys = \"x\"", "the cluster's configuration:2:12: sync.standbys: expected"),
            ("[node]\nname = \"n2\"", "node.name is a node's own"),
            ("[proxy]\nlisten = \"0.0.0.0\"", "proxy.listen is a node's own"),
            ("[peers.n2]\npeer = \"a:1\"", "pgherd member add"),
            ("[sync", "the cluster's configuration:1:"),
            ("[failover]\nheartbeat = \"5s\"", "at least twice failover.heartbeat"),
            ("[postgres.parameters]\nfsync = false", "belongs to pgherd"),
        ] {
            let error = with(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_slot_is_replaced_as_a_whole() {
        let text = "[slots.old]\ntype = \"logical\"\ndatabase = \"shop\"\nowner = \"x\"\n[slots.new]\ntype = \"physical\"\nowner = \"x\"\n";
        let (before, after) = (with("").unwrap(), with(text).unwrap());
        let changed: Vec<_> = differences(&before, &after, &keys(text)).into_iter().map(|d| d.key).collect();
        assert_eq!(changed, ["slots.old", "slots.new"]);
    }

    #[test]
    fn differences_are_told_in_toml() {
        let (before, after) = (
            with("").unwrap(),
            with("[sync]\nstandbys = 1\n[postgres.parameters]\nmax_connections = 200").unwrap(),
        );
        let told: Vec<_> = differences(
            &before,
            &after,
            &keys("[sync]\nstandbys = 1\n[postgres.parameters]\nmax_connections = 200"),
        )
        .into_iter()
        .map(|d| format!("{} {:?} {:?}", d.key, d.from, d.to))
        .collect();
        assert_eq!(
            told,
            [
                "sync.standbys Some(\"0\") Some(\"1\")",
                "postgres.parameters.max_connections None Some(\"\\\"200\\\"\")"
            ]
        );
    }

    #[test]
    fn the_copy_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ClusterConfig::read(dir.path()).unwrap(), ClusterConfig::default());
        let config = ClusterConfig { number: 3, text: "[sync]\n".to_owned() };
        config.keep(dir.path()).unwrap();
        assert_eq!(ClusterConfig::read(dir.path()).unwrap(), config);
    }

    #[test]
    fn every_exception_is_a_setting() {
        for key in OF_NODE {
            assert!(SETTINGS.iter().any(|setting| setting.key == *key), "{key}");
        }
    }
}
