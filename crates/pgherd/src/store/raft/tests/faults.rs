//! A store file whose disk can be made full or slow, by the directory it lies in.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redb::StorageBackend;
use redb::backends::FileBackend;

/// What is wrong with a disk.
#[derive(Clone, Copy, Default, Debug)]
pub struct Fault {
    pub full: bool,
    /// Each fsync takes so much longer.
    pub slow: Duration,
}

static FAULTS: Mutex<BTreeMap<PathBuf, Fault>> = Mutex::new(BTreeMap::new());

pub fn set(dir: &Path, fault: Fault) {
    FAULTS.lock().unwrap_or_else(PoisonError::into_inner).insert(dir.to_owned(), fault);
}

fn of(dir: &Path) -> Fault {
    FAULTS.lock().unwrap_or_else(PoisonError::into_inner).get(dir).copied().unwrap_or_default()
}

#[derive(Debug)]
pub struct FaultyFile {
    file: FileBackend,
    // redb locks files that it opens itself; this one it is handed.
    _lock: File,
    dir: PathBuf,
}

impl FaultyFile {
    pub fn open(path: &Path) -> anyhow::Result<FaultyFile> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let dir = path.parent().unwrap_or(Path::new(".")).to_owned();
        let lock = file.try_clone()?;
        lock.try_lock()?;
        Ok(FaultyFile { file: FileBackend::new(file)?, _lock: lock, dir })
    }

    fn room(&self) -> io::Result<()> {
        if of(&self.dir).full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.room()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        std::thread::sleep(of(&self.dir).slow);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
