//! The store file: log, hard state, snapshot and identity in one redb database.
//!
//! Seats are changed with a snapshot: who votes is what the last snapshot says, and a change counts only once the snapshot
//! that has it is durable. Each write is numbered; the number is what others remember the directory by (`door.rs`).
//!
//! Every write is one transaction, committed in two phases and fsynced before it returns, so a crash (also in the
//! middle of a sector) leaves the state before or after it. Every record carries its own checksum besides redb's, and
//! what is read at start must add up; a file that does not is refused, never repaired by forgetting.
//!
//! Invariant: what [`Disk::persist`] has answered is there at every later open, or the open fails.

mod file;
mod full;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState, Snapshot};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use self::file::{FILE, MARKER, create, make_private_dir, open_database, write_marker};
pub(super) use self::full::Full;
use self::full::is_full;
use super::door::Mark;
use super::identity::Identity;
use super::log::Log;
use crate::store::state::Seat;

const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// Meaning of tables and records; a file with another number is refused.
const FORMAT: u64 = 2;

pub(super) struct Disk {
    database: Database,
    generation: u64,
    marks: BTreeMap<u64, Mark>,
}

/// What the file held at start.
pub(super) struct Loaded {
    pub disk: Disk,
    pub log: Log,
    pub seat: Seat,
    /// The store that the seat is in; `None` before there is one.
    pub store: Option<u64>,
    /// Neither this directory nor an earlier one of this node has been part of a store.
    pub first_start: bool,
    /// The seat was removed and its node is no member.
    pub removed: bool,
    /// Grows by one with each open: it tells this process's commands from those of earlier ones.
    pub boot: u64,
    /// Writes that the file held when it was opened.
    pub start: u64,
    pub marks: BTreeMap<u64, Mark>,
}

impl Disk {
    /// Opens the node's store. Where none is, an empty one is made under a new seat, which has never voted.
    pub fn open(dir: &Path, identity: &Identity) -> Result<Loaded> {
        make_private_dir(dir)?;
        let path = dir.join(FILE);
        let marker = dir.join(MARKER);
        if !path.try_exists().with_context(|| format!("look for {}", path.display()))? {
            let first_start = !marker.exists();
            if !first_start {
                tracing::warn!(
                    "{} is gone, though this node had one: it starts empty, under a new seat, and learns from the others",
                    path.display()
                );
            }
            create(dir, identity, first_start)?;
        }
        let loaded = guarded(|| {
            let database = open_database(&path)?;
            Self::load(database, identity)
        })
        .map_err(|error| if is_full(&error) { Full(format!("{error:#}")).into() } else { error })
        .with_context(|| format!("open the store {}", path.display()))?;
        if !marker.exists() {
            write_marker(dir, identity)?;
        }
        Ok(loaded)
    }

    /// Writes the first records into an empty database.
    pub fn init(database: &Database, identity: &Identity, first_start: bool) -> Result<()> {
        let transaction = begin(database)?;
        {
            let mut meta = transaction.open_table(META)?;
            let number = |number: u64| seal(&number.to_be_bytes());
            meta.insert("format", number(FORMAT).as_slice())?;
            meta.insert("identity", seal(&serde_json::to_vec(identity)?).as_slice())?;
            meta.insert("incarnation", number(Seat::fresh(&identity.name).incarnation).as_slice())?;
            meta.insert("first_start", number(first_start.into()).as_slice())?;
            meta.insert("boot", number(0).as_slice())?;
            meta.insert("generation", number(0).as_slice())?;
            transaction.open_table(LOG)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Reads everything, checks that it adds up, and counts the boot.
    pub fn load(mut database: Database, identity: &Identity) -> Result<Loaded> {
        ensure!(
            database.check_integrity()?,
            "the file is damaged; move it out of the way, and the node comes back under a new seat and learns from the \
             others (this needs a majority of them)"
        );
        let mut disk = Self { database, generation: 0, marks: BTreeMap::new() };
        let loaded = {
            let transaction = disk.database.begin_read()?;
            let meta = transaction.open_table(META)?;
            let get = |key: &str| -> Result<Option<Vec<u8>>> {
                meta.get(key)?.map(|record| unseal(key, record.value()).map(<[u8]>::to_vec)).transpose()
            };
            let must = |key: &str| get(key)?.ok_or_else(|| anyhow!("the record {key:?} is missing"));
            let must_number = |key: &str| number(&must(key)?);
            let format = must_number("format")?;
            ensure!(
                format == FORMAT,
                "the file has format {format}, this pgherd reads {FORMAT}; use the pgherd that wrote it"
            );
            identity.check_same(&serde_json::from_slice(&must("identity")?).context("read the identity")?)?;
            let mut log = Log::default();
            if let Some(bytes) = get("hard_state")? {
                log.hard_state = HardState::parse_from_bytes(&bytes).context("read the hard state")?;
            }
            if let Some(bytes) = get("snapshot")? {
                log.snapshot = Snapshot::parse_from_bytes(&bytes).context("read the snapshot")?;
            }
            if let Some(bytes) = get("compacted")? {
                ensure!(bytes.len() == 16, "the record \"compacted\" has {} bytes", bytes.len());
                log.compacted = (number(&bytes[..8])?, number(&bytes[8..])?);
            }
            for record in transaction.open_table(LOG)?.iter()? {
                let (index, bytes) = record?;
                let name = format!("log {}", index.value());
                let entry =
                    Entry::parse_from_bytes(unseal(&name, bytes.value())?).with_context(|| name.clone())?;
                ensure!(
                    entry.index == index.value() && entry.index == log.last() + 1,
                    "{name} follows entry {}; the log has a hole",
                    log.last()
                );
                log.entries.push_back(entry);
            }
            let marks = get("marks")?.map(|bytes| serde_json::from_slice(&bytes)).transpose();
            let (boot, start) = (must_number("boot")? + 1, must_number("generation")?);
            let seat = Seat { name: identity.name.clone(), incarnation: must_number("incarnation")? };
            let store = get("store")?.map(|bytes| number(&bytes)).transpose()?;
            let (first_start, removed) = (must_number("first_start")? == 1, get("removed")?.is_some());
            let marks: BTreeMap<u64, Mark> = marks.context("read the marks")?.unwrap_or_default();
            check_log(&log)?;
            (log, seat, store, first_start, removed, boot, start, marks)
        };
        let (log, seat, store, first_start, removed, boot, start, marks) = loaded;
        (disk.generation, disk.marks) = (start, marks.clone());
        disk.write(|transaction| put(transaction, "boot", &boot.to_be_bytes()))?;
        Ok(Loaded { disk, log, seat, store, first_start, removed, boot, start, marks })
    }

    /// How many writes are durable.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What is heard of others goes to disk with the next write.
    pub fn keep_marks(&mut self, marks: &BTreeMap<u64, Mark>) {
        self.marks.clone_from(marks);
    }

    /// From now on the seat belongs to `store`.
    pub fn join(&mut self, store: u64) -> Result<()> {
        self.write(|transaction| join(transaction, store))
    }

    /// The first records of a new store: its first state, as a snapshot at entry 1 of term 1.
    pub fn found(&mut self, store: u64, snapshot: &Snapshot, hard_state: &HardState) -> Result<()> {
        self.write(|transaction| {
            join(transaction, store)?;
            put(
                transaction,
                "compacted",
                &pair(snapshot.get_metadata().index, snapshot.get_metadata().term),
            )?;
            put(transaction, "snapshot", &snapshot.write_to_bytes()?)?;
            put(transaction, "hard_state", &hard_state.write_to_bytes()?)
        })
    }

    /// The seat is no more, and its node is no member.
    pub fn note_removed(&mut self) -> Result<()> {
        self.write(|transaction| put(transaction, "removed", b"1"))
    }

    /// Writes the marks and nothing else.
    pub fn touch(&mut self) -> Result<()> {
        self.write(|_| Ok(()))
    }

    /// Makes one turn of Raft durable, as one whole.
    pub fn persist(
        &mut self,
        snapshot: Option<&Snapshot>,
        entries: &[Entry],
        hard_state: Option<&HardState>,
    ) -> Result<()> {
        self.write(|transaction| {
            if let Some(snapshot) = snapshot {
                transaction.open_table(LOG)?.retain(|_, _| false)?;
                let metadata = snapshot.get_metadata();
                put(transaction, "compacted", &pair(metadata.index, metadata.term))?;
                put(transaction, "snapshot", &snapshot.write_to_bytes()?)?;
            }
            if let Some(first) = entries.first() {
                let mut log = transaction.open_table(LOG)?;
                log.retain_in(first.index.., |_, _| false)?;
                for entry in entries {
                    log.insert(entry.index, seal(&entry.write_to_bytes()?).as_slice())?;
                }
            }
            match hard_state {
                Some(hard_state) => put(transaction, "hard_state", &hard_state.write_to_bytes()?),
                None => Ok(()),
            }
        })
    }

    /// Keeps a snapshot of the state and drops the entries up to `index` (of `term`), which it covers.
    pub fn compact(
        &mut self,
        (index, term): (u64, u64),
        snapshot: &Snapshot,
        hard_state: &HardState,
    ) -> Result<()> {
        self.write(|transaction| {
            transaction.open_table(LOG)?.retain_in(..=index, |_, _| false)?;
            put(transaction, "compacted", &pair(index, term))?;
            put(transaction, "snapshot", &snapshot.write_to_bytes()?)?;
            put(transaction, "hard_state", &hard_state.write_to_bytes()?)
        })
    }

    fn write(&mut self, fill: impl FnOnce(&WriteTransaction) -> Result<()>) -> Result<()> {
        let next = self.generation + 1;
        let marks = serde_json::to_vec(&self.marks)?;
        let written = (|| {
            let transaction = begin(&self.database)?;
            fill(&transaction)?;
            put(&transaction, "generation", &next.to_be_bytes())?;
            put(&transaction, "marks", &marks)?;
            transaction.commit().context("commit")
        })();
        written.map_err(|error| if is_full(&error) { Full(format!("{error:#}")).into() } else { error })?;
        self.generation = next;
        Ok(())
    }
}

fn join(transaction: &WriteTransaction, store: u64) -> Result<()> {
    put(transaction, "first_start", &0_u64.to_be_bytes())?;
    put(transaction, "store", &store.to_be_bytes())
}

/// The two-phase commit costs a second fsync (0.1 ms on an SSD) and spares us the argument whether a checksum of 128
/// bits can be fooled by a torn write; it also lets redb refuse a damaged root where it would fall back to an older.
fn begin(database: &Database) -> Result<WriteTransaction> {
    let mut transaction = database.begin_write().context("begin a write to the store file")?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_two_phase_commit(true);
    Ok(transaction)
}

fn put(transaction: &WriteTransaction, key: &str, payload: &[u8]) -> Result<()> {
    transaction.open_table(META)?.insert(key, seal(payload).as_slice())?;
    Ok(())
}

/// What Raft takes for granted about its log, or would panic.
fn check_log(log: &Log) -> Result<()> {
    let commit = log.hard_state.commit;
    let snapshot = log.snapshot.get_metadata();
    ensure!(commit <= log.last(), "entry {commit} was committed, but the log ends at {}", log.last());
    ensure!(
        snapshot.index >= log.compacted.0 && snapshot.index <= commit.max(log.compacted.0),
        "the snapshot stands at {}, outside of the log from {} to {commit}",
        snapshot.index,
        log.first()
    );
    let term = log.term_at(log.last()).unwrap_or(0);
    ensure!(term <= log.hard_state.term, "the last entry has term {term}, the node {}", log.hard_state.term);
    Ok(())
}

/// redb and raft-rs panic where a file or a log contradicts itself. For us that is an error like any other; what the
/// work touched must not be used afterwards.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        bail!(
            "the store contradicts itself, it may be damaged: {}",
            text.as_deref().unwrap_or("no reason given")
        )
    })
}

fn seal(payload: &[u8]) -> Vec<u8> {
    let mut record = crc32c::crc32c(payload).to_be_bytes().to_vec();
    record.extend_from_slice(payload);
    record
}

fn unseal<'a>(name: &str, record: &'a [u8]) -> Result<&'a [u8]> {
    let (sum, payload) =
        record.split_at_checked(4).ok_or_else(|| anyhow!("the record {name:?} is cut short"))?;
    ensure!(sum == crc32c::crc32c(payload).to_be_bytes(), "the record {name:?} does not match its checksum");
    Ok(payload)
}

fn pair(index: u64, term: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&index.to_be_bytes());
    bytes[8..].copy_from_slice(&term.to_be_bytes());
    bytes
}

fn number(bytes: &[u8]) -> Result<u64> {
    Ok(u64::from_be_bytes(bytes.try_into().context("a number must have 8 bytes")?))
}
