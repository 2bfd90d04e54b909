//! The store file: log, hard state, snapshot and identity in one redb database.
//!
//! Every write is one transaction, committed in two phases and fsynced before it returns, so a crash (also in the
//! middle of a sector) leaves the state before or after it. Every record carries its own checksum besides redb's, and
//! what is read at start must add up; a file that does not is refused, never repaired by forgetting.
//!
//! Invariant: what [`Disk::persist`] has answered is there at every later open, or the open fails.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use protobuf::Message as _;
use raft::eraftpb::{Entry, HardState, Snapshot};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::identity::Identity;
use super::log::Log;

const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// Meaning of tables and records; a file with another number is refused.
const FORMAT: u64 = 1;
const FILE: &str = "store.redb";
/// Where the file grows up: it gets its name when it is whole.
const FILE_NEW: &str = "store.redb.new";
/// Says that a store file was here, so that its loss is not taken for a first start.
const MARKER: &str = "store.id";
/// Pages that redb caches. The log is read once, at start; the rest is a few pages per commit.
const CACHE_BYTES: usize = 8 << 20;

pub(super) struct Disk {
    database: Database,
}

/// What the file held at start.
pub(super) struct Loaded {
    pub disk: Disk,
    pub log: Log,
    /// Grows by one with each open: it tells this process's commands from those of earlier ones.
    pub incarnation: u64,
}

impl Disk {
    /// Opens the node's store, or founds it in a directory that has never held one.
    pub fn open(dir: &Path, identity: &Identity) -> Result<Loaded> {
        make_private_dir(dir)?;
        let path = dir.join(FILE);
        let marker = dir.join(MARKER);
        if !path.try_exists().with_context(|| format!("look for {}", path.display()))? {
            ensure!(
                !marker.exists(),
                "{} is gone, but {} says that this node has voted with it; put the file back, or give the node a \
                 new name and directory (starting empty could undo what the cluster agreed on)",
                path.display(),
                marker.display()
            );
            found(dir, identity)?;
        }
        let loaded = guarded(|| {
            let database = builder().open(&path)?;
            Self::load(database, identity)
        })
        .with_context(|| format!("open the store {}", path.display()))?;
        if !marker.exists() {
            write_marker(dir, identity)?;
        }
        Ok(loaded)
    }

    /// Writes the first records into an empty database.
    pub fn init(database: &Database, identity: &Identity) -> Result<()> {
        let transaction = begin(database)?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert("format", seal(&FORMAT.to_be_bytes()).as_slice())?;
            meta.insert("identity", seal(&serde_json::to_vec(identity)?).as_slice())?;
            meta.insert("incarnation", seal(&0_u64.to_be_bytes()).as_slice())?;
            transaction.open_table(LOG)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Reads everything, checks that it adds up, and counts the incarnation.
    pub fn load(mut database: Database, identity: &Identity) -> Result<Loaded> {
        ensure!(
            database.check_integrity()?,
            "the file is damaged; put back a copy of it made while the node was stopped, or give the node a new name"
        );
        let (log, incarnation) = {
            let transaction = database.begin_read()?;
            let meta = transaction.open_table(META)?;
            let get = |key: &str| -> Result<Option<Vec<u8>>> {
                meta.get(key)?.map(|record| unseal(key, record.value()).map(<[u8]>::to_vec)).transpose()
            };
            let must = |key: &str| get(key)?.ok_or_else(|| anyhow!("the record {key:?} is missing"));
            let format = number(&must("format")?)?;
            ensure!(
                format == FORMAT,
                "the file has format {format}, this pgherd reads {FORMAT}; use the pgherd that wrote it"
            );
            identity.check_same(&serde_json::from_slice(&must("identity")?).context("read the identity")?)?;
            let mut log = Log { voters: identity.ids()?.into_keys().collect(), ..Log::default() };
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
            (log, number(&must("incarnation")?)? + 1)
        };
        check_log(&log)?;
        let disk = Self { database };
        disk.write(|transaction| put(transaction, "incarnation", &incarnation.to_be_bytes()))?;
        Ok(Loaded { disk, log, incarnation })
    }

    /// Makes one turn of Raft durable, as one whole.
    pub fn persist(
        &self,
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
        &self,
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

    fn write(&self, fill: impl FnOnce(&WriteTransaction) -> Result<()>) -> Result<()> {
        let transaction = begin(&self.database)?;
        fill(&transaction)?;
        transaction.commit().context("write to the store file")
    }
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

/// Builds the file under another name, so that a crash on the way leaves nothing that looks like a store.
fn found(dir: &Path, identity: &Identity) -> Result<()> {
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
        Disk::init(&database, identity)?;
        drop(database);
        handle.sync_all()?;
        fs::rename(&new, dir.join(FILE))?;
        sync_dir(dir)
    };
    create().with_context(|| {
        format!("create the store in {}; is there room, and may this user write?", dir.display())
    })
}

fn write_marker(dir: &Path, identity: &Identity) -> Result<()> {
    let path = dir.join(MARKER);
    let write = || -> Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        std::io::Write::write_all(&mut file, &serde_json::to_vec(identity)?)?;
        file.sync_all()?;
        sync_dir(dir)
    };
    write().with_context(|| format!("write {}", path.display()))
}

fn make_private_dir(dir: &Path) -> Result<()> {
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

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
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
