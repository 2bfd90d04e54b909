//! The file and its directory: made, named, marked, put aside.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use redb::Database;

use super::Disk;
use crate::store::raft::identity::Identity;

pub(super) const FILE: &str = "store.redb";
/// Where the file grows up: it gets its name when it is whole.
const FILE_NEW: &str = "store.redb.new";
/// Says that a store file was here, so that its loss is not taken for a first start.
pub(super) const MARKER: &str = "store.id";
/// Files put aside; each is a directory that lost its memory, which an operator should look at.
const ASIDE_MAX: usize = 100;
/// Pages that redb caches. The log is read once, at start; the rest is a few pages per commit.
const CACHE_BYTES: usize = 8 << 20;

impl Disk {
    /// Puts the file aside, whole, so that the next open makes a new one. Returns where it is.
    pub fn set_aside(dir: &Path) -> Result<PathBuf> {
        for number in 1..=ASIDE_MAX {
            let aside = dir.join(format!("{FILE}.aside-{number}"));
            if !aside.exists() {
                fs::rename(dir.join(FILE), &aside).with_context(|| format!("move to {}", aside.display()))?;
                sync_dir(dir)?;
                return Ok(aside);
            }
        }
        bail!("{ASIDE_MAX} files are put aside in {} already; remove those that nobody needs", dir.display())
    }
}

/// Builds the file under another name, so that a crash on the way leaves nothing that looks like a store.
pub(super) fn create(dir: &Path, identity: &Identity, first_start: bool) -> Result<()> {
    let new = dir.join(FILE_NEW);
    let create = || -> Result<()> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            // A leftover of an interrupted first start was never used.
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        let handle = file.try_clone()?;
        let database = builder().create_file(file)?;
        Disk::init(&database, identity, first_start)?;
        drop(database);
        handle.sync_all()?;
        fs::rename(&new, dir.join(FILE))?;
        sync_dir(dir)
    };
    create().with_context(|| {
        format!("create the store in {}; is there room, and may this user write?", dir.display())
    })
}

pub(super) fn write_marker(dir: &Path, identity: &Identity) -> Result<()> {
    let path = dir.join(MARKER);
    let write = || -> Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        std::io::Write::write_all(&mut file, &serde_json::to_vec(identity)?)?;
        file.sync_all()?;
        sync_dir(dir)
    };
    write().with_context(|| format!("write {}", path.display()))
}

pub(super) fn make_private_dir(dir: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .and_then(|()| fs::set_permissions(dir, Permissions::from_mode(0o700)))
        .with_context(|| format!("make the private directory {}", dir.display()))
}

fn sync_dir(dir: &Path) -> Result<()> {
    Ok(File::open(dir)?.sync_all()?)
}

#[cfg(not(test))]
pub(super) fn open_database(path: &Path) -> Result<Database> {
    Ok(builder().open(path)?)
}

/// In tests the disk can be made full or slow.
#[cfg(test)]
pub(super) fn open_database(path: &Path) -> Result<Database> {
    Ok(builder().create_with_backend(crate::store::raft::tests::faults::FaultyFile::open(path)?)?)
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}
