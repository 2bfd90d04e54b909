//! Power loss at every single write: a disk that keeps only what was synced, and of the rest a torn, random part.

use std::io;
use std::sync::{Arc, Mutex};

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use redb::{Database, StorageBackend};

use crate::store::raft::disk::{Disk, Loaded};
use crate::store::raft::identity::Identity;

#[derive(Clone, Debug)]
enum Write {
    Data(u64, Vec<u8>),
    Length(u64),
}

#[derive(Debug, Default)]
struct Platter {
    /// As the process sees it.
    seen: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Write>,
    /// Writes and syncs so far, and after how many the power goes.
    steps: usize,
    dies_at: Option<usize>,
}

/// xorshift: which unsynced writes survive is chance, and the same chance each time.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

impl Platter {
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        match self.dies_at {
            Some(last) if self.steps > last => Err(io::Error::other("the power is gone")),
            _ => Ok(()),
        }
    }

    /// What the next boot finds: each unsynced write is there, is not, or is torn, in any combination.
    fn after_crash(&self, chance: &mut Chance) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for write in &self.unsynced {
            match (chance.next() % 3, write) {
                (0, _) => {}
                (1, Write::Data(offset, data)) => apply(&mut bytes, &Write::Data(*offset, data.clone())),
                (_, Write::Data(offset, data)) => {
                    let kept = chance.next() as usize % (data.len() + 1);
                    apply(&mut bytes, &Write::Data(*offset, data[..kept].to_vec()));
                }
                (_, length) => apply(&mut bytes, length),
            }
        }
        bytes
    }
}

fn apply(bytes: &mut Vec<u8>, write: &Write) {
    match write {
        Write::Length(length) => bytes.resize(*length as usize, 0),
        Write::Data(offset, data) => {
            let end = *offset as usize + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset as usize..end].copy_from_slice(data);
        }
    }
}

#[derive(Clone, Debug)]
struct FaultyDisk(Arc<Mutex<Platter>>);

impl FaultyDisk {
    fn new(content: Vec<u8>, dies_at: Option<usize>) -> Self {
        let platter = Platter { seen: content.clone(), synced: content, dies_at, ..Platter::default() };
        Self(Arc::new(Mutex::new(platter)))
    }
}

impl StorageBackend for FaultyDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = self.0.lock().unwrap();
        let range = offset as usize..offset as usize + out.len();
        out.copy_from_slice(platter.seen.get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut platter = self.0.lock().unwrap();
        platter.step()?;
        platter.unsynced.push(Write::Length(len));
        platter.seen.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.0.lock().unwrap();
        platter.step()?;
        platter.synced = platter.seen.clone();
        platter.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platter = self.0.lock().unwrap();
        let write = Write::Data(offset, data.to_vec());
        // The write during which the power goes may still reach the platter, in part.
        platter.unsynced.push(write.clone());
        platter.step()?;
        apply(&mut platter.seen, &write);
        Ok(())
    }
}

fn identity() -> Identity {
    Identity { cluster: "test".to_owned(), name: "n1".to_owned() }
}

fn open(disk: &FaultyDisk) -> anyhow::Result<Loaded> {
    Disk::load(Database::builder().set_cache_size(1 << 20).create_with_backend(disk.clone())?, &identity())
}

fn entry(index: u64, term: u64) -> Entry {
    let data = format!("entry {index} of term {term} {}", "x".repeat(index as usize * 37 % 900)).into_bytes();
    Entry { index, term, data: data.into(), ..Entry::default() }
}

fn hard_state(term: u64, commit: u64) -> HardState {
    HardState { term, vote: 2, commit, ..HardState::default() }
}

/// What has been acknowledged, and what was under way.
#[derive(Clone, Default, PartialEq, Debug)]
struct Book {
    entries: Vec<Entry>,
    compacted: u64,
    hard_state: HardState,
    /// Who votes, by the snapshot.
    voters: Vec<u64>,
    /// How many writes were acknowledged; what others have heard of is never more.
    generation: u64,
}

/// Appends, overwrites by a new term, compactions and changes of seats; stops at the first error.
/// Returns the book as of the last acknowledged step and as of the step under way.
fn work(disk: &FaultyDisk) -> (Book, Book) {
    let mut book = Book::default();
    let Ok(mut loaded) = open(disk) else { return (book.clone(), book) };
    book.generation = loaded.disk.generation();
    for round in 1..=30_u64 {
        let term = 1 + round / 7;
        let mut next = book.clone();
        // Each seventh round a new leader replaces the last, uncommitted entry.
        let from = next.entries.last().map_or(1, |last| last.index + 1) - u64::from(round % 7 == 0);
        next.entries.retain(|entry| entry.index < from);
        let new: Vec<Entry> = (from..from + 1 + round % 3).map(|index| entry(index, term)).collect();
        next.entries.extend(new.iter().cloned());
        next.hard_state = hard_state(term, from - 1);
        next.generation += 1;
        if loaded.disk.persist(None, &new, Some(&next.hard_state)).is_err() {
            return (book, next);
        }
        book = next.clone();
        // Every fifth round a seat comes or goes, which is a snapshot with other voters.
        if round % 5 == 0 {
            let index = from - 1;
            let covered = next.entries.iter().find(|entry| entry.index == index).unwrap().clone();
            let mut snapshot = Snapshot { data: b"state".to_vec().into(), ..Snapshot::default() };
            snapshot.mut_metadata().index = index;
            snapshot.mut_metadata().term = covered.term;
            next.voters = (1..=1 + round / 5 % 5).collect();
            let conf_state = ConfState { voters: next.voters.clone(), ..ConfState::default() };
            snapshot.mut_metadata().set_conf_state(conf_state);
            next.generation += 1;
            next.entries.retain(|entry| entry.index > index);
            next.compacted = index;
            if loaded.disk.compact((index, covered.term), &snapshot, &next.hard_state).is_err() {
                return (book, next);
            }
            book = next;
        }
    }
    (book.clone(), book)
}

fn founded() -> Vec<u8> {
    let disk = FaultyDisk::new(Vec::new(), None);
    let database = Database::builder().create_with_backend(disk.clone()).unwrap();
    Disk::init(&database, &identity(), true).unwrap();
    drop(database);
    let platter = disk.0.lock().unwrap();
    assert!(platter.unsynced.is_empty());
    platter.synced.clone()
}

#[test]
fn what_was_acknowledged_survives_a_power_loss_at_any_write() {
    let start = founded();
    let whole = FaultyDisk::new(start.clone(), None);
    work(&whole);
    let steps = whole.0.lock().unwrap().steps;
    assert!(steps > 300, "the work is too little to prove anything: {steps} steps");
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let mut reached = 0;
    let mut shapes = std::collections::BTreeSet::new();
    for dies_at in 0..steps {
        let disk = FaultyDisk::new(start.clone(), Some(dies_at));
        let (acknowledged, under_way) = work(&disk);
        for _ in 0..2 {
            let image = disk.0.lock().unwrap().after_crash(&mut chance);
            let loaded = open(&FaultyDisk::new(image, None))
                .unwrap_or_else(|error| panic!("step {dies_at} of {steps}: {error:#}"));
            let found = Book {
                entries: loaded.log.entries.iter().cloned().collect(),
                compacted: loaded.log.compacted.0,
                hard_state: loaded.log.hard_state.clone(),
                voters: loaded.log.conf_state().voters,
                generation: loaded.start,
            };
            // The write of the boot may be the one under way.
            let (mut acknowledged, mut under_way) = (acknowledged.clone(), under_way.clone());
            if found.generation <= 1 {
                (acknowledged.generation, under_way.generation) = (found.generation, found.generation);
            }
            assert!(found == acknowledged || found == under_way, "step {dies_at} of {steps}: {found:?}");
            reached = reached.max(found.hard_state.term);
            shapes.insert(found.voters);
        }
    }
    assert_eq!(reached, 5, "the crashes did not cover all of the work");
    assert_eq!(shapes.len(), 6, "nor all changes of seats: {shapes:?}");
}

/// The second crash hits the repair after the first.
#[test]
fn a_power_loss_during_recovery_loses_nothing_either() {
    let start = founded();
    let whole = FaultyDisk::new(start.clone(), None);
    work(&whole);
    let steps = whole.0.lock().unwrap().steps;
    let mut chance = Chance(7);
    for dies_at in (0..steps).step_by(23) {
        let disk = FaultyDisk::new(start.clone(), Some(dies_at));
        let (acknowledged, under_way) = work(&disk);
        let mut image = disk.0.lock().unwrap().after_crash(&mut chance);
        for again in 0..12 {
            let disk = FaultyDisk::new(image, Some(again * 2));
            drop(open(&disk));
            image = disk.0.lock().unwrap().after_crash(&mut chance);
        }
        let log = open(&FaultyDisk::new(image, None)).unwrap().log;
        let found: Vec<Entry> = log.entries.into_iter().collect();
        assert!(found == acknowledged.entries || found == under_way.entries, "step {dies_at}");
    }
}
