//! The cluster under test: its nodes placed in the network and on disks of their own, before anything runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::machine::SmallDisk;
use tests::placement::{self, section};
use tests::status::page_at;
use tests::{Cluster, Prepared};
use toml::{Table, Value};

use crate::disks;

/// initdb's 40 MB, WAL within the limits below, a second copy while one is made anew, and logs.
const DISK: &str = "512m";
/// A few megabytes of the store, and the 8 MiB that it wants free before it takes part again after a full disk.
const STORE_DISK: &str = "32m";
/// Small beside [`DISK`]: what fills it must be the ballast.
const PARAMETERS: [(&str, &str); 4] = [
    ("min_wal_size", "64MB"),
    ("max_wal_size", "96MB"),
    ("wal_keep_size", "64MB"),
    ("max_slot_wal_keep_size", "128MB"),
];

/// A cluster that runs, on disks that outlive it.
pub struct Arranged {
    // Dropped first: nothing runs on the disks any more.
    pub cluster: Cluster,
    pub disks: Vec<SmallDisk>,
}

/// Starts `nodes` nodes with `k` confirming standbys; each in a namespace and on a disk of its own when `networked`.
pub fn start(nodes: u16, k: u16, networked: bool) -> Result<Arranged> {
    let mut prepared = Prepared::new(nodes);
    let mut disks = Vec::new();
    if networked {
        placement::place(&mut prepared);
        for node in &prepared.nodes {
            disks.extend(disk(&node.dir, DISK)?);
            let store = disks::store_of(node);
            fs::create_dir_all(&store)?;
            disks.extend(disk(&store, STORE_DISK)?);
        }
    }
    for node in &prepared.nodes {
        node.edit_config(|config| {
            section(config, "sync").insert("standbys".into(), Value::Integer(k.into()));
            let parameters = Table::from_iter(PARAMETERS.map(|(name, value)| (name.into(), value.into())));
            section(config, "postgres").insert("parameters".into(), parameters.into());
            section(config, "proxy").insert("local_socket".into(), Value::Boolean(true));
        });
    }
    // A store's disk lies on its node's: it goes first.
    disks.reverse();
    Ok(Arranged { cluster: Cluster::start_prepared(prepared), disks })
}

/// Puts a small file system in the place of a directory, with the same files.
fn disk(dir: &Path, size: &str) -> Result<Option<SmallDisk>> {
    let aside = dir.with_extension("files");
    fs::rename(dir, &aside).context("move the files aside")?;
    fs::create_dir(dir)?;
    let disk = SmallDisk::mount(dir, size);
    let copied = Command::new("cp").arg("--archive").arg(aside.join(".")).arg(dir).status()?;
    ensure!(copied.success(), "the files cannot be copied");
    fs::remove_dir_all(&aside)?;
    Ok(disk)
}

/// Copies what a person wants to read from each node's directory.
pub fn keep_logs(cluster: &Cluster, to: &Path) -> Result<()> {
    for node in cluster.nodes() {
        let kept = to.join(&node.name);
        for folder in ["", "log", "conf"] {
            copy_files(&node.dir.join(folder), &kept.join(folder))?;
        }
        // The file of events may be what a full disk has cut short.
        for page in ["status", "explain", "events"] {
            let answer = page_at(&node.host, node.http, &format!("/api/v1/{page}"));
            fs::write(kept.join(format!("{page}.json")), answer.as_deref().unwrap_or("no answer"))?;
        }
    }
    Ok(())
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
    fs::create_dir_all(to)?;
    let readable = |path: &PathBuf| {
        let end = path.extension().and_then(|end| end.to_str()).unwrap_or_default();
        ["log", "json", "jsonl", "toml", "conf"].contains(&end)
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(readable) {
        let name = path.file_name().context("a file has a name")?;
        // A node that still runs may take one away meanwhile.
        let _ = fs::copy(&path, to.join(name));
    }
    Ok(())
}
