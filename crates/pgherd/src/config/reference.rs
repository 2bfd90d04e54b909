//! The page `docs/reference/config.md`, made from the table of settings.

use super::parameters;
use super::render::default_text;
use super::settings::{Default, SECTIONS, SETTINGS, Setting};

const HEAD: &str = "\
# Configuration

<!-- Made from crates/pgherd/src/config/settings.rs. To renew: UPDATE_DOCS=1 cargo test -p pgherd config:: -->

`pgherd run --config FILE` reads one TOML file. A variable `PGHERD_<SECTION>_<KEY>` in the environment overrides the
file, the file overrides the default. An unknown key, table or variable is an error, and all errors are shown at once.

- **name**: 1 to 40 characters, `a-z`, `0-9`, `_` and `-`, beginning with a letter, ending with a letter or digit.
- **duration**: a string of a whole number and `ms`, `s`, `min` or `h`: `\"250ms\"`.
- **host**: a host name or IP address. In `host:port` an IPv6 address stands in brackets: `\"[::1]:5432\"`.
";

const OF_CLUSTER: &str = "
## For all nodes at once

`pgherd config set`, `edit` and `apply` change settings for all nodes while they run; they count on every node instead of what
its file says ([the cluster's configuration](../concepts/configuration.md)). That are all of `[failover]`, `[sync]` and
`[slots]`, `postgres.hba`, `[postgres.parameters]`, and of `[proxy]` all but ";

const EXAMPLE: &str = r#"
## Example

The first of three nodes:

```toml
cluster = "demo"

[node]
name = "n1"
dir = "/var/lib/pgherd/n1"

[postgres]
listen = "*"
hba = ["host all all 10.0.0.0/24 scram-sha-256"]

[postgres.parameters]
shared_buffers = "4GB"
max_connections = 500
pg_stat_statements.max = 10000

[proxy]
listen = "0.0.0.0"

[peer]
listen = "0.0.0.0"

[peers.n1]
peer = "10.0.0.1:7432"
postgres = "10.0.0.1:5432"

[peers.n2]
peer = "10.0.0.2:7432"
postgres = "10.0.0.2:5432"

[peers.n3]
peer = "10.0.0.3:7432"
kind = "witness"
```
"#;

const COLUMNS: &str = "| setting | type | default | environment | what it is |\n|---|---|---|---|---|\n";

const SLOT: &str = "\
A table for each slot that a takeover keeps. NAME has 1 to 63 characters, `a-z`, `0-9` and `_`, and does not begin with
`pgherd_`. A logical slot brings `wal_level = logical` and `hot_standby_feedback = on`. See
[slots](../concepts/slots.md).

";

/// The whole page.
pub fn page() -> String {
    let own: Vec<String> = super::cluster::own_of_nodes().map(|key| format!("`{key}`")).collect();
    let mut page = format!("{HEAD}{OF_CLUSTER}{}.\n{EXAMPLE}", own.join(", "));
    for section in SECTIONS {
        let title = match section.name {
            "" => "Top level".to_owned(),
            "peers" => "`[peers.NAME]`".to_owned(),
            name => format!("`[{name}]`"),
        };
        page.push_str(&format!("\n## {title}\n\n"));
        if !section.doc.is_empty() {
            page.push_str(&format!("{}\n\n", section.doc));
        }
        let of = |starred: bool| {
            let here = move |s: &&Setting| s.section() == section.name && s.key.contains('*') == starred;
            SETTINGS.iter().filter(here).map(row).collect::<String>()
        };
        let (plain, starred) = (of(false), of(true));
        match section.name {
            "peers" => page.push_str(&format!("{COLUMNS}{starred}")),
            _ => page.push_str(&format!("{COLUMNS}{plain}")),
        }
        match section.name {
            "postgres" => page.push_str(&parameter_section()),
            "slots" => page.push_str(&format!("\n### `[slots.NAME]`\n\n{SLOT}{COLUMNS}{starred}")),
            _ => {}
        }
    }
    page
}

fn row(setting: &Setting) -> String {
    let default = match setting.default {
        Default::Required => format!("**required**, such as `{}`", setting.example),
        Default::Derived(how) => how.to_owned(),
        Default::List(lines) => lines.iter().map(|line| format!("`{line}`")).collect::<Vec<_>>().join("<br>"),
        Default::Value(_) => format!("`{}`", default_text(setting).unwrap_or_default()),
    };
    let variable = setting.variable().map_or("–".to_owned(), |name| format!("`{name}`"));
    format!(
        "| `{}` | {} | {default} | {variable} | {} |\n",
        setting.name(),
        setting.kind.describe(),
        setting.doc
    )
}

fn parameter_section() -> String {
    let mut text = String::from(
        "\n### `[postgres.parameters]`\n\nPostgreSQL's own parameters, as in `postgresql.conf`: strings, numbers and \
         booleans. pgherd does not check their names\nor values. These belong to pgherd and are refused:\n\n\
         | parameter | instead, or why |\n|---|---|\n",
    );
    for (name, instead) in parameters::owned() {
        text.push_str(&format!("| `{name}` | {instead} |\n"));
    }
    let targets = parameters::owner("recovery_target").unwrap_or_default();
    text.push_str(&format!("| `recovery_target…` | {targets} |\n"));
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    #[test]
    fn the_page_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/config.md");
        let page = super::page();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &page).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == page,
            "docs/reference/config.md is not what the table of settings says; \
             type: UPDATE_DOCS=1 cargo test -p pgherd config::"
        );
    }

    #[test]
    fn the_example_on_the_page_is_a_valid_configuration() {
        let text = super::EXAMPLE.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        let config =
            crate::config::parse(text, "example", &BTreeMap::new()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(config.node.advertise, "10.0.0.1");
        assert_eq!(config.postgres.parameters["pg_stat_statements.max"], "10000");
    }
}
