//! The pure crates stay pure: no runtime, no dice, no logging, and nothing else without a decision.

use super::Source;

/// What a pure crate may depend on. Growing a list is a decision that a reviewer sees.
const ALLOWED: [(&str, &[&str]); 5] = [
    ("crates/wire/Cargo.toml", &["schemars", "serde", "bytes", "thiserror", "proptest"]),
    ("crates/brain/Cargo.toml", &["wire", "schemars", "serde", "serde_json", "thiserror"]),
    ("crates/routing/Cargo.toml", &["foldhash", "hashbrown", "pg_raw_parse", "tempfile", "wire"]),
    ("crates/shard/Cargo.toml", &["wire", "serde", "thiserror"]),
    ("sim/Cargo.toml", &["brain", "wire", "serde", "serde_json"]),
];

pub fn check(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, allowed) in ALLOWED {
        let Some(source) = sources.iter().find(|source| source.path == path) else { continue };
        let strangers = dependencies(&source.text).filter(|name| !allowed.contains(name));
        found.extend(strangers.map(|name| format!("{path}: a pure crate may not depend on {name}")));
    }
    found
}

/// Names in the tables of dependencies, those of tests and build scripts too.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    manifest.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            inside = table.ends_with("dependencies");
            // `[dependencies.tokio]` names one itself.
            return table.split_once("dependencies.").map(|(_, name)| name);
        }
        let is_entry = inside && !line.is_empty() && !line.starts_with('#');
        is_entry.then(|| line.split(['=', '.', ' ']).next()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_found_in_every_table() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\nserde = { workspace = true }\nrand.workspace = true\n\
                        # tokio\n[dev-dependencies]\nproptest = \"1\"\n[dependencies.tokio]\nversion = \"1\"\n[lints]\nworkspace = true\n";
        assert_eq!(dependencies(manifest).collect::<Vec<_>>(), ["serde", "rand", "proptest", "tokio"]);
        let source = Source { path: "crates/brain/Cargo.toml".into(), text: manifest.into() };
        assert_eq!(check(&[source]).len(), 3);
    }
}
