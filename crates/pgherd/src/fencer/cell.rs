//! What agent and fencer tell each other: a page of memory that both have open.
//!
//! A memory file without a name, handed down as the fencer's standard input; the next agent finds it by the fencer's
//! entry in /proc, the next fencer inherits it. It lives as long as one of the two does. No disk can stall it or be
//! too full for it, nobody waits for anybody, and the last word is always there: a queue could lose the newest.
//!
//! Each side has two slots and writes them in turn, so a write that is under way never hides the word before it. Words
//! are JSON with a checksum: a version that knows more fields can talk to one that knows fewer.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::process::Identity;
use crate::vip::VirtualIp;

const SLOT_BYTES: usize = 1024;
const SLOTS: usize = 4;
/// Checksum, length, sequence.
const HEAD_BYTES: usize = 16;
/// Both slots of a side can be caught in a write only by two writes during one read.
const READS_MAX: usize = 3;

/// What the agent wants.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Order {
    pub agent: Option<Identity>,
    /// The agent's sign of life, boot milliseconds.
    pub beat_ms: u64,
    /// `None`: there is nothing to fence.
    pub armed: Option<Armed>,
    #[serde(default)]
    pub watchdog: WatchdogOrder,
    #[serde(default)]
    pub vip: Option<VipOrder>,
}

/// Whom to fence, and when.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Armed {
    /// Boot milliseconds.
    pub until_ms: u64,
    /// From the cut of the clients to the stop of the server.
    pub grace_ms: u64,
    pub term: u64,
    pub postmaster: Identity,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WatchdogOrder {
    /// `None`: no watchdog.
    pub device: Option<String>,
}

/// The address that may be on this node's interface for as long as its primary may serve.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VipOrder {
    pub vip: VirtualIp,
    /// Boot milliseconds; `None`: it may stay, as nobody else could take over.
    pub until_ms: Option<u64>,
}

/// What the fencer says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Word {
    pub fencer: Identity,
    /// Which program it is; another one replaces it.
    pub build: String,
    pub beat_ms: u64,
    /// The deadline has passed, and it acts or has acted.
    pub fencing: bool,
    /// Notes that it has left for the agent.
    pub notes: u64,
    #[serde(default)]
    pub watchdog: WatchdogWord,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum WatchdogWord {
    #[default]
    Closed,
    Open,
    Failed(String),
}

/// Whose words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Agent,
    Fencer,
}

#[derive(Debug)]
pub struct Cell {
    file: File,
    side: Side,
    sequence: u64,
}

impl Cell {
    /// A new one, written by the agent.
    pub fn create() -> io::Result<Cell> {
        let fd = memfd_create("pgherd-fencer", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, (SLOT_BYTES * SLOTS) as u64)?;
        Ok(Cell { file: fd.into(), side: Side::Agent, sequence: 0 })
    }

    /// The one behind a descriptor of a process, `/proc/PID/fd/0`. An open file of its own, so that locks are its own.
    pub fn open(path: &str, side: Side) -> io::Result<Cell> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        if !file.metadata()?.is_file() || file.metadata()?.len() < (SLOT_BYTES * SLOTS) as u64 {
            return Err(io::Error::other("this is no cell"));
        }
        let mut cell = Cell { file, side, sequence: 0 };
        cell.sequence = cell.newest(side).map_or(0, |(sequence, _)| sequence);
        Ok(cell)
    }

    /// Where this process can open it again.
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }

    /// For the fencer's standard input.
    pub fn as_stdio(&self) -> io::Result<Stdio> {
        Ok(self.file.try_clone()?.into())
    }

    /// One fencer at a time acts on a cell; the lock ends with its process.
    pub fn try_lock(&self) -> bool {
        self.file.try_lock().is_ok()
    }

    pub fn write<T: Serialize>(&mut self, word: &T) -> io::Result<()> {
        let json = serde_json::to_vec(word)?;
        if json.len() > SLOT_BYTES - HEAD_BYTES {
            return Err(io::Error::other("a word is longer than its slot"));
        }
        self.sequence += 1;
        let mut bytes = Vec::with_capacity(HEAD_BYTES + json.len());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(json.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&json);
        let sum = crc32c::crc32c(&bytes[4..]);
        bytes[..4].copy_from_slice(&sum.to_le_bytes());
        let slot = offset(self.side) + (self.sequence % 2) as usize;
        self.file.write_all_at(&bytes, (slot * SLOT_BYTES) as u64)
    }

    /// The last whole word of that side.
    pub fn read<T: DeserializeOwned>(&self, side: Side) -> Option<T> {
        serde_json::from_slice(&self.newest(side)?.1).ok()
    }

    fn newest(&self, side: Side) -> Option<(u64, Vec<u8>)> {
        let mut newest = None;
        for _ in 0..READS_MAX {
            let slots = [0, 1].map(|index| self.slot(offset(side) + index));
            let is_whole = slots.iter().all(Option::is_some);
            let word = slots.into_iter().flatten().max_by_key(|(sequence, _)| *sequence);
            newest = newest.max(word);
            // One of them is being written: the word in the other may be older than what was there when this read began. Or it was
            // never written, or not to its end.
            if is_whole {
                break;
            }
        }
        newest
    }

    fn slot(&self, slot: usize) -> Option<(u64, Vec<u8>)> {
        let mut bytes = [0; SLOT_BYTES];
        self.file.read_exact_at(&mut bytes, (slot * SLOT_BYTES) as u64).ok()?;
        let length = u32::from_le_bytes(bytes[4..8].try_into().ok()?) as usize;
        let sequence = u64::from_le_bytes(bytes[8..16].try_into().ok()?);
        let whole = bytes.get(4..HEAD_BYTES.checked_add(length)?)?;
        let right = length > 0 && crc32c::crc32c(whole).to_le_bytes() == bytes[..4];
        right.then(|| (sequence, bytes[HEAD_BYTES..HEAD_BYTES + length].to_vec()))
    }
}

fn offset(side: Side) -> usize {
    match side {
        Side::Agent => 0,
        Side::Fencer => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(beat_ms: u64) -> Order {
        Order { agent: Identity::own(), beat_ms, armed: None, watchdog: WatchdogOrder::default(), vip: None }
    }

    fn beat(cell: &Cell) -> Option<u64> {
        cell.read::<Order>(Side::Agent).map(|order| order.beat_ms)
    }

    #[test]
    fn the_last_word_is_there_for_whoever_opens_the_cell_later() {
        let mut cell = Cell::create().unwrap();
        assert_eq!(beat(&cell), None);
        for number in 1..=5 {
            cell.write(&order(number)).unwrap();
        }
        let mut next = Cell::open(&cell.path(), Side::Agent).unwrap();
        assert_eq!(beat(&next), Some(5));
        next.write(&order(6)).unwrap();
        assert_eq!(beat(&cell), Some(6), "the next agent goes on in the sequence");
        assert!(cell.try_lock());
        assert!(!next.try_lock(), "one fencer at a time");
    }

    #[test]
    fn a_write_that_is_half_done_hides_nothing() {
        let mut cell = Cell::create().unwrap();
        cell.write(&order(1)).unwrap();
        cell.write(&order(2)).unwrap();
        // The third lies in the slot of the first; a byte of it is missing.
        cell.write(&order(3)).unwrap();
        cell.file.write_all_at(b"?", (SLOT_BYTES + HEAD_BYTES) as u64).unwrap();
        assert_eq!(beat(&cell), Some(2));
    }

    #[test]
    fn readers_and_a_writer_at_once() {
        let mut cell = Cell::create().unwrap();
        cell.write(&order(0)).unwrap();
        let reader = Cell::open(&cell.path(), Side::Fencer).unwrap();
        let reading = std::thread::spawn(move || {
            let mut last = 0;
            while last < 20_000 {
                let seen = beat(&reader).expect("a word is always there");
                assert!(seen >= last, "{seen} after {last}");
                last = seen;
            }
        });
        for number in 1..=20_000 {
            cell.write(&order(number)).unwrap();
        }
        reading.join().unwrap();
    }
}
