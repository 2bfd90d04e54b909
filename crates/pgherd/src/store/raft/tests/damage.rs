//! Files that were cut, overwritten, mixed up or lost: refused in words, never silently emptied.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use raft::eraftpb::{Entry, HardState};

use crate::store::raft::disk::Disk;
use crate::store::raft::identity::Identity;

const ENTRIES: u64 = 50;

fn identity(cluster: &str, name: &str) -> Identity {
    Identity { cluster: cluster.to_owned(), name: name.to_owned() }
}

fn ours() -> Identity {
    identity("test", "n1")
}

fn fill(dir: &Path) {
    let mut disk = Disk::open(dir, &ours()).unwrap().disk;
    for index in 1..=ENTRIES {
        let data = format!("entry {index} ").repeat(20).into_bytes();
        let entry = Entry { index, term: 1, data: data.into(), ..Entry::default() };
        let hard_state = HardState { term: 1, commit: index, ..HardState::default() };
        disk.persist(None, &[entry], Some(&hard_state)).unwrap();
    }
}

fn refusal(dir: &Path, identity: &Identity) -> String {
    match Disk::open(dir, identity) {
        Ok(_) => panic!("it was opened"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn files_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("deep/store");
    fill(&store);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&store), 0o700);
    assert_eq!(mode(&store.join("store.redb")), 0o600);
    assert_eq!(mode(&store.join("store.id")), 0o600);
}

#[test]
fn another_owner_is_refused_and_nothing_touched() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    for (other, named) in
        [(identity("other", "n1"), "cluster \"test\""), (identity("test", "n2"), "node \"n1\"")]
    {
        let error = refusal(dir.path(), &other);
        assert!(error.contains(named) && error.contains("correct the configuration"), "{error}");
    }
    assert_eq!(Disk::open(dir.path(), &ours()).unwrap().log.last(), ENTRIES);
}

#[test]
fn two_processes_cannot_share_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let first = Disk::open(dir.path(), &ours()).unwrap();
    assert!(refusal(dir.path(), &ours()).contains("open the store"));
    drop(first);
    assert_eq!(Disk::open(dir.path(), &ours()).unwrap().boot, 2);
}

#[test]
fn a_lost_file_comes_back_under_another_seat_and_is_no_first_start() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let seat = Disk::open(dir.path(), &ours()).unwrap().seat;
    fs::remove_file(dir.path().join("store.redb")).unwrap();
    let again = Disk::open(dir.path(), &ours()).unwrap();
    assert_ne!(again.seat, seat);
    assert!(!again.first_start && again.store.is_none() && again.log.last() == 0);
    drop(again);
    fs::write(dir.path().join("store.redb"), b"").unwrap();
    refusal(dir.path(), &ours());
}

#[test]
fn a_file_put_aside_stays_and_the_next_has_another_seat() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let bytes = fs::read(dir.path().join("store.redb")).unwrap();
    for number in 1..=2 {
        let aside = Disk::set_aside(dir.path()).unwrap();
        assert!(aside.ends_with(format!("store.redb.aside-{number}")));
        let next = Disk::open(dir.path(), &ours()).unwrap();
        assert!(!next.first_start && next.log.last() == 0);
    }
    assert_eq!(fs::read(dir.path().join("store.redb.aside-1")).unwrap(), bytes);
}

#[test]
fn a_first_start_that_was_interrupted_starts_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("store.redb.new"), b"half a file").unwrap();
    assert_eq!(Disk::open(dir.path(), &ours()).unwrap().log.last(), 0);
}

#[test]
fn a_cut_or_overwritten_file_is_whole_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let path = dir.path().join("store.redb");
    let whole = fs::read(&path).unwrap();
    let mut refused = 0;
    let mut check = |bytes: &[u8], what: String| {
        fs::write(&path, bytes).unwrap();
        match Disk::open(dir.path(), &ours()) {
            Err(_) => refused += 1,
            Ok(loaded) => assert_eq!(loaded.log.last(), ENTRIES, "{what} lost entries silently"),
        }
    };
    for part in 0..16 {
        check(&whole[..whole.len() * part / 16], format!("cut to {part}/16"));
    }
    for (number, offset) in (0..whole.len()).step_by(whole.len() / 150).enumerate() {
        let mut bytes = whole.clone();
        let end = (offset + 64).min(bytes.len());
        bytes[offset..end].iter_mut().for_each(|byte| *byte ^= 0x55);
        check(&bytes, format!("scratch {number} at {offset}"));
    }
    assert!(refused > 10, "only {refused} of the damages were noticed at all");
}
