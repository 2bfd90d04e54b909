//! Room on the disks that the server writes to, and the reserve that is given up when it has run out.
//!
//! A server that found no room for WAL ends with a PANIC, and needs room to recover. The reserve is a file of
//! allocated blocks on the disk of `pg_wal`: emptied, it lets recovery finish. An emptied reserve counts as used, so
//! that the room which it made is for recovery and not for the next commits. It is filled again once there is room.
//!
//! What it does not do: decide. Invariant: the reserve is only ever made out of room that is left over.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::control;
use super::error::{Error, Result};
use super::layout::Layout;

/// Room for fewer than two segments is none: the next segment of WAL would fit, the checkpoint behind it hardly. And a
/// server that has just failed to write a segment leaves up to one free, of which nothing follows.
const SEGMENTS_FULL: u64 = 2;
/// A disk that was full has room again with this many; between the two it stays as it was.
const SEGMENTS_ROOM: u64 = 3;
/// PostgreSQL's default, where there is no data directory to ask.
const SEGMENT_BYTES: u64 = 16 << 20;
const NAME: &str = "reserve";

/// What a look at the disks shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// Bytes free for the server on the fullest of its disks; what an emptied reserve will take again is not free.
    pub free_bytes: u64,
    pub full: bool,
    /// The reserve is allocated.
    pub reserved: bool,
}

/// The disks of one node.
#[derive(Clone, Debug)]
pub struct Disk {
    dir: PathBuf,
    data: PathBuf,
    wal: PathBuf,
    reserve_bytes: u64,
}

impl Disk {
    /// `reserve_bytes` of 0: no reserve.
    pub fn new(layout: &Layout, reserve_bytes: u64) -> Disk {
        Disk { dir: layout.dir.clone(), data: layout.data.clone(), wal: layout.wal(), reserve_bytes }
    }

    /// Looks, and fills the reserve where there is room for it. It may hang as long as the disk does.
    pub fn look(&self, was_full: bool) -> Result<Room> {
        let segment = control::read(&self.data).map_or(SEGMENT_BYTES, |c| u64::from(c.wal_segment_bytes));
        let (full_below, room_from) = (segment * SEGMENTS_FULL, segment * SEGMENTS_ROOM);
        let reserve = self.reserve()?;
        let mut state = state_of(&reserve)?;
        let wal = free(&self.wal_dir())?;
        if self.reserve_bytes > 0 && state != State::Filled && wal >= self.reserve_bytes + room_from {
            fill(&reserve, self.reserve_bytes)?;
            state = State::Filled;
        }
        let owed = if state == State::Emptied { self.reserve_bytes } else { 0 };
        let mut free_bytes = free(&self.wal_dir())?.saturating_sub(owed);
        for other in [&self.dir, &self.data] {
            if other.exists() && device(other)? != device(&self.wal_dir())? {
                free_bytes = free_bytes.min(free(other)?);
            }
        }
        let full = free_bytes < if was_full { room_from } else { full_below };
        Ok(Room { free_bytes, full, reserved: state == State::Filled })
    }

    /// Gives the reserve's blocks back to the disk. True when there were any.
    pub fn release(&self) -> Result<bool> {
        let reserve = self.reserve()?;
        if state_of(&reserve)? != State::Filled {
            return Ok(false);
        }
        let emptied = || File::options().write(true).open(&reserve)?.set_len(0);
        emptied().map_err(Error::at("empty", &reserve))?;
        Ok(true)
    }

    /// `pg_wal`, or where it will be.
    fn wal_dir(&self) -> PathBuf {
        let places = [&self.wal, &self.data, &self.dir];
        places.into_iter().find(|place| place.is_dir()).unwrap_or(&self.dir).clone()
    }

    /// Where the reserve lies: beside what tools copy and rewrite, if that is the same disk.
    fn reserve(&self) -> Result<PathBuf> {
        let wal = self.wal_dir();
        let real = fs::canonicalize(&wal).map_err(Error::at("find", &wal))?;
        let device_wanted = device(&real)?;
        let places = [Some(self.dir.as_path()), real.parent(), Some(real.as_path())];
        let here = |place: &&Path| device(place).is_ok_and(|found| found == device_wanted);
        let place = places.into_iter().flatten().find(here).unwrap_or(&real);
        Ok(place.join(if place == self.dir { NAME } else { "pgherd.reserve" }))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Absent,
    Emptied,
    Filled,
}

fn state_of(reserve: &Path) -> Result<State> {
    match fs::metadata(reserve) {
        Ok(metadata) if metadata.len() > 0 => Ok(State::Filled),
        Ok(_) => Ok(State::Emptied),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(State::Absent),
        Err(error) => Err(Error::at("look at", reserve)(error)),
    }
}

/// Allocates the blocks. What cannot be allocated whole is given back.
fn fill(reserve: &Path, bytes: u64) -> Result<()> {
    let allocate = || -> io::Result<()> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(reserve)?;
        let allocated = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes);
        if let Err(error) = allocated {
            file.set_len(0)?;
            return Err(error.into());
        }
        file.sync_all()
    };
    allocate().map_err(Error::at("allocate", reserve))
}

fn device(path: &Path) -> Result<u64> {
    fs::metadata(path).map(|metadata| metadata.dev()).map_err(Error::at("look at", path))
}

/// What a user without privileges may still write.
fn free(path: &Path) -> Result<u64> {
    let found =
        rustix::fs::statvfs(path).map_err(|error| Error::at("look at the disk of", path)(error.into()))?;
    Ok(found.f_bavail * found.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_filled_given_up_and_filled_again() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path()).unwrap();
        let disk = Disk::new(&layout, 1 << 20);
        let room = disk.look(false).unwrap();
        assert!(
            room.reserved && !room.full,
            "{room:?}; this test needs some 100 MB in {}",
            dir.path().display()
        );
        let blocks = || fs::metadata(dir.path().join(NAME)).unwrap().blocks() * 512;
        assert!(blocks() >= 1 << 20, "allocated, not only long");
        assert!(disk.release().unwrap());
        assert!(!disk.release().unwrap(), "it is empty already");
        assert_eq!(blocks(), 0);
        assert!(disk.look(false).unwrap().reserved);
        assert!(blocks() >= 1 << 20);
    }

    #[test]
    fn without_a_reserve_there_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::new(&Layout::new(dir.path()).unwrap(), 0);
        assert!(!disk.look(false).unwrap().reserved);
        assert!(!disk.release().unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
