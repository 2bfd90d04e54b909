//! The configuration of one node: a TOML file, then the environment, read strictly.
//!
//! [`settings::SETTINGS`] is the one table of what there is; reading, the reference page and the commented file that
//! the demo writes all come from it. Defaults give way to the file, the file to `PGHERD_<SECTION>_<KEY>`. Whatever
//! is wrong is reported together, each with its place and, where one is near, a suggestion; nothing is guessed.
//!
//! What is set for all nodes (`cluster`) stands over the file. Not here: how it is changed (`crate::cluster_config`), and files of
//! PostgreSQL.
//!
//! Invariant: a [`Config`] that [`load`] returns has passed every check in [`check`].

mod check;
mod cluster;
mod draft;
mod error;
mod file;
mod http;
mod model;
mod parameters;
mod proxy_tls;
mod reference;
mod render;
pub mod settings;
mod slots;
#[cfg(test)]
mod tests;
mod value;
mod vip;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

pub use cluster::{CLUSTER_CONFIG_BYTES_MAX, ClusterConfig, Difference, differences, values_of_cluster};
pub use error::{ConfigError, Problem};
pub use http::{Http, HttpTls};
pub use model::{
    Config, Failover, Fencing, Hooks, Node, NodeKind, Peer, PeerListen, Postgres, Proxy, Sync, Tls, Watchdog,
    join_address,
};
pub use parameters::owner as parameter_owner;
pub use reference::page as reference_page;
pub use render::render;
pub use slots::{DeclaredSlot, Logical, Slots};

/// Reads the file at `path` and the environment of this process.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let (text, environment) = read(path)?;
    parse(&text, &path.display().to_string(), &environment)
}

/// As `load`, under what was last set for all nodes, with its number. The file must be right by itself, too; where the two do not go
/// together (any more) the file alone counts, with number 0, so that a node starts and can be told better.
pub fn load_node(path: &Path) -> Result<(Config, u64), ConfigError> {
    let own = load(path)?;
    let copy = ClusterConfig::read(&own.node.dir);
    let cluster =
        copy.map_err(|source| ConfigError::Read { path: own.node.dir.join("cluster.json"), source })?;
    match load_with(path, &cluster) {
        Ok(config) => Ok((config, cluster.number)),
        Err(error) => {
            eprintln!("the cluster's configuration {} is left out: {error}", cluster.number);
            Ok((own, 0))
        }
    }
}

/// As `load`, under what `cluster` sets for all nodes.
pub fn load_with(path: &Path, cluster: &ClusterConfig) -> Result<Config, ConfigError> {
    let (text, environment) = read(path)?;
    parse_with(&text, &path.display().to_string(), cluster, &environment)
}

fn read(path: &Path) -> Result<(String, BTreeMap<String, String>), ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    // A name or value that is not UTF-8 cannot be one of ours.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Ok((text, environment))
}

/// Reads configuration text; `file` is what messages call it.
pub fn parse(text: &str, file: &str, environment: &BTreeMap<String, String>) -> Result<Config, ConfigError> {
    parse_with(text, file, &ClusterConfig::default(), environment)
}

fn parse_with(
    text: &str,
    file: &str,
    cluster: &ClusterConfig,
    environment: &BTreeMap<String, String>,
) -> Result<Config, ConfigError> {
    let mut draft = draft::Draft::default();
    file::read(text, &mut draft);
    draft.overlay(cluster);
    draft.read_environment(environment);
    // After a syntax error half of the file may be missing: what it lacks would only mislead.
    if !draft.broken {
        draft.apply_defaults();
        check::check(&mut draft);
    }
    draft.finish(file)
}

/// Why the setting `key` cannot be `text`, written as in an environment variable. Lists are not settings that one text gives.
pub fn check_setting(key: &str, text: &str) -> Result<(), String> {
    let setting = settings::find(key).ok_or_else(|| format!("{key} is no setting"))?;
    setting.kind.read_text(text).map(drop)
}

/// How the setting `key` is written in the file with the value `text`, which [`check_setting`] takes.
pub fn write_setting(key: &str, text: &str) -> String {
    use value::Kind;
    match settings::find(key).map(|setting| setting.kind) {
        Some(Kind::Port | Kind::Integer { .. } | Kind::Flag) => text.to_owned(),
        _ => model::quote(text),
    }
}

/// The default of a setting that is a list; empty for any other.
pub fn list_default(key: &str) -> Vec<String> {
    match settings::find(key).map(|setting| setting.default) {
        Some(settings::Default::List(items)) => items.iter().map(|item| (*item).to_owned()).collect(),
        _ => Vec::new(),
    }
}

/// As it would be written in the file, such as `10min`.
pub fn format_duration(duration: std::time::Duration) -> String {
    value::format_duration(duration)
}

/// A string of TOML.
pub fn quote(text: &str) -> String {
    model::quote(text)
}

/// Why `line` can be no line of `postgres.hba` or `proxy.hba`.
pub fn check_hba_line(line: &str) -> Result<(), String> {
    value::check_hba_line(line)
}

/// Why `name` can be no slot of `[slots]`.
pub fn check_slot_name(name: &str) -> Result<(), String> {
    value::slot_name(name)
}

/// Whether PostgreSQL can have a parameter of this name.
pub fn is_parameter_name(name: &str) -> bool {
    parameters::is_name(name)
}

/// Host and port of `host:port`.
pub fn split_address(text: &str) -> Result<(String, u16), String> {
    value::split_address(text)
}

/// Why `text` can name no node.
pub fn check_name(text: &str) -> Result<(), String> {
    value::name(text)
}

/// Why `text` is no `host:port`.
pub fn check_address(text: &str) -> Result<(), String> {
    value::split_address(text).map(drop)
}
