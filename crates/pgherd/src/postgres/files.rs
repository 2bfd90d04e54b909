//! Files that are whole or not there: written beside, fsynced, renamed, and the directory fsynced too.
//!
//! The agent may be root while the directories belong to the PostgreSQL user, who could plant a symbolic link; new
//! files are therefore created exclusively under an unguessable name, which follows no link.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::account::Account;
use super::error::{Error, Result};

pub(super) const PRIVATE_DIR: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// Replaces `path` by a file with these bytes, owned by the PostgreSQL user, mode 0600.
pub(super) fn write(path: &Path, bytes: &[u8], account: &Account) -> Result<()> {
    let temporary = path.with_extension(format!("tmp-{:016x}", rand::random::<u64>()));
    let result = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(&temporary)?;
        file.write_all(bytes)?;
        own(&file, account)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        sync_parent(path)
    })();
    if result.is_err() {
        // The error that counts is the first one; a left-over temporary file does no harm.
        let _ = fs::remove_file(&temporary);
    }
    result.map_err(Error::at("write", path))
}

/// Like [`write`], but leaves a file alone that already holds these bytes.
pub(super) fn write_if_changed(path: &Path, bytes: &[u8], account: &Account) -> Result<()> {
    match fs::read(path) {
        Ok(present) if present == bytes => Ok(()),
        _ => write(path, bytes, account),
    }
}

/// Removes a file durably; one that is not there is no error.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path).map_err(Error::at("sync the directory of", path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::at("remove", path)(error)),
    }
}

/// Creates a directory of the PostgreSQL user that nobody else may enter.
pub(super) fn private_dir(path: &Path, account: &Account) -> Result<()> {
    let result = (|| {
        fs::create_dir_all(path)?;
        let directory = File::open(path)?;
        own(&directory, account)?;
        directory.set_permissions(fs::Permissions::from_mode(PRIVATE_DIR))
    })();
    result.map_err(Error::at("create", path))
}

/// Copies a file for the PostgreSQL user, durably.
pub(super) fn copy(from: &Path, to: &Path, account: &Account) -> Result<()> {
    let result = (|| {
        fs::copy(from, to)?;
        hand_over(&File::open(to)?, to, account)
    })();
    result.map_err(Error::io(format!("copy {} to {}", from.display(), to.display())))
}

/// Makes a file for the PostgreSQL user, durably, with what `fill` writes.
pub(super) fn create_for(
    path: &Path,
    account: &Account,
    fill: impl FnOnce(&File) -> io::Result<()>,
) -> Result<()> {
    let result = (|| {
        let file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(path)?;
        fill(&file)?;
        hand_over(&file, path, account)
    })();
    result.map_err(Error::at("write", path))
}

/// Renames durably: both directory entries are on disk when it returns.
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to)
        .and_then(|()| sync_parent(from))
        .and_then(|()| sync_parent(to))
        .map_err(Error::io(format!("rename {} to {}", from.display(), to.display())))
}

/// The file at `path` belongs to the PostgreSQL user and is on disk.
fn hand_over(file: &File, path: &Path, account: &Account) -> io::Result<()> {
    own(file, account)?;
    file.sync_all()?;
    sync_parent(path)
}

fn own(file: &File, account: &Account) -> io::Result<()> {
    if account.switch {
        std::os::unix::fs::fchown(file, Some(account.uid), Some(account.gid))?;
    }
    Ok(())
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Runs file work off the async threads: an fsync may take as long as the disk likes.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Io { what: "file work".into(), source: io::Error::other(error) }),
    }
}

/// A file-name-safe moment, for things kept aside: `20261121T054552.123Z`.
pub(super) fn moment() -> String {
    jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S.%3fZ").to_string()
}
