//! The disks: room, and how long a commit waits for them.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Subject;
use super::finding::{Finding, size};

/// Below this share of room and this much of it a disk is nearly full: neither a small disk that is mostly free nor a large
/// one with terabytes left is.
const NEARLY_FULL_PERCENT: u64 = 10;
const NEARLY_FULL_BYTES: u64 = 10 << 30;
/// Sixteen WAL files of the usual size: minutes of a busy server.
const FULL_BYTES: u64 = 256 << 20;
/// Of a file system that counts its inodes.
const INODES_PERCENT_MIN: u64 = 5;

/// A page of WAL.
const WRITTEN_BYTES: usize = 8192;
/// Enough to tell a stall from the usual, and over in half a second on a disk.
const ROUNDS: u32 = 16;
const ROUNDS_TIME_MAX: Duration = Duration::from_secs(1);
/// A commit waits for two of them, the primary's and a standby's: at this 100 ms.
const SLOW: Duration = Duration::from_millis(50);

/// What lies where: name for people, and the folder.
fn places(subject: &Subject) -> Vec<(&'static str, PathBuf)> {
    let config = &subject.config;
    let mut places = vec![("node.dir", config.node.dir.clone()), ("store", config.store_dir())];
    if subject.worker.is_some() {
        places.extend([("data", config.data_dir()), ("WAL", config.data_dir().join("pg_wal"))]);
    }
    places.into_iter().filter(|(_, path)| path.exists()).collect()
}

/// Places on the same device together, with one folder of it that is ours to write to.
fn disks(places: Vec<(&'static str, PathBuf)>) -> io::Result<Vec<(String, PathBuf)>> {
    let mut disks: Vec<(u64, Vec<&str>, PathBuf)> = Vec::new();
    for (name, path) in places {
        let device = fs::metadata(&path)?.dev();
        match disks.iter_mut().find(|(known, ..)| *known == device) {
            Some((_, names, _)) => names.push(name),
            None => disks.push((device, vec![name], path)),
        }
    }
    Ok(disks.into_iter().map(|(_, names, path)| (names.join(", "), path)).collect())
}

fn of_each_disk(subject: &Subject, look: impl Fn(&str, &Path) -> io::Result<Finding>) -> Vec<Finding> {
    let disks = match disks(places(subject)) {
        Ok(disks) => disks,
        Err(error) => return vec![Finding::unknown(format!("the disks cannot be looked at: {error}"))],
    };
    let one = |(names, path): (String, PathBuf)| {
        look(&names, &path).unwrap_or_else(|error| {
            Finding::unknown(format!("disk of {names}: cannot be looked at: {error}"))
        })
    };
    disks.into_iter().map(one).collect()
}

pub(super) fn space(subject: &Subject) -> Vec<Finding> {
    of_each_disk(subject, |names, path| {
        let fs = rustix::fs::statvfs(path)?;
        let percent = |part: u64, whole: u64| (whole > 0).then(|| part.saturating_mul(100) / whole);
        let seen = Space {
            free_bytes: fs.f_bavail * fs.f_frsize,
            free_percent: percent(fs.f_bavail, fs.f_blocks).unwrap_or(100),
            inodes_percent: percent(fs.f_favail, fs.f_files),
        };
        Ok(judge_space(names, path, &seen))
    })
}

struct Space {
    free_bytes: u64,
    free_percent: u64,
    /// `None`: the file system has no fixed number.
    inodes_percent: Option<u64>,
}

fn judge_space(names: &str, path: &Path, seen: &Space) -> Finding {
    let Space { free_bytes, free_percent, inodes_percent } = *seen;
    let what = format!("disk of {names}: {} free ({free_percent} %)", size(free_bytes));
    let next = format!("make room (du -xsh {}/*), or move it to a larger disk", path.display());
    let why = "a server whose WAL finds no room ends; a standby on a full disk cannot take over";
    match inodes_percent {
        _ if free_bytes < FULL_BYTES => Finding::error(what, why, next),
        Some(inodes) if inodes < INODES_PERCENT_MIN => {
            Finding::warning(format!("{what}, {inodes} % of its inodes"), why, next)
        }
        _ if free_percent < NEARLY_FULL_PERCENT && free_bytes < NEARLY_FULL_BYTES => {
            Finding::warning(what, why, next)
        }
        _ => Finding::ok(what),
    }
}

pub(super) fn sync(subject: &Subject) -> Vec<Finding> {
    let timeout = subject.config.failover.failure_timeout;
    of_each_disk(subject, |names, path| Ok(judge_sync(names, &measure_sync(path)?, timeout)))
}

/// Writes a page and waits for the disk, again and again, in a file of its own that is taken away; at least once.
fn measure_sync(folder: &Path) -> io::Result<Vec<Duration>> {
    let mut file = tempfile::Builder::new().prefix("doctor-").tempfile_in(folder)?;
    let page = [0; WRITTEN_BYTES];
    let begun = Instant::now();
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let round = Instant::now();
        file.write_all(&page)?;
        file.as_file().sync_data()?;
        rounds.push(round.elapsed());
        if begun.elapsed() > ROUNDS_TIME_MAX {
            break;
        }
    }
    Ok(rounds)
}

/// Promises and commits are fsynced before they are answered: one that takes `failure_timeout` makes its node look dead.
fn judge_sync(names: &str, rounds: &[Duration], failure_timeout: Duration) -> Finding {
    let mut sorted = rounds.to_vec();
    sorted.sort_unstable();
    let (Some(median), Some(worst)) = (sorted.get(sorted.len() / 2), sorted.last()) else {
        return Finding::unknown(format!("disk of {names}: how long an fsync takes"));
    };
    let ms = |time: &Duration| time.as_secs_f64() * 1_000.0;
    let what = format!("disk of {names}: fsync takes {:.1} ms, at worst {:.1} ms", ms(median), ms(worst));
    let next = "see who else writes there (iostat -x 1), and put [node] dir on a disk of its own";
    if *worst >= failure_timeout {
        let why = "the node cannot answer within failover.failure_timeout: others take it for dead";
        Finding::error(what, why, next)
    } else if *median >= SLOW || *worst >= failure_timeout / 2 {
        Finding::warning(
            what,
            "each commit waits for an fsync here and one on a standby; a takeover for several",
            next,
        )
    } else {
        Finding::ok(what)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mark;
    use super::*;

    #[test]
    fn a_disk_is_nearly_full_by_share_and_by_bytes() {
        let mark = |free_bytes, free_percent, inodes_percent| {
            let seen = Space { free_bytes, free_percent, inodes_percent };
            judge_space("WAL", Path::new("/d"), &seen).mark
        };
        assert_eq!(mark(500 << 30, 5, None), Mark::Ok);
        assert_eq!(mark(5 << 30, 50, Some(90)), Mark::Ok);
        assert_eq!(mark(5 << 30, 9, Some(90)), Mark::Warning);
        assert_eq!(mark(5 << 30, 50, Some(4)), Mark::Warning);
        assert_eq!(mark(100 << 20, 50, None), Mark::Error);
    }

    #[test]
    fn a_slow_disk_is_told_by_its_median_a_stall_by_its_worst() {
        let timeout = Duration::from_secs(2);
        let mark = |rounds: &[u64]| {
            let rounds: Vec<Duration> = rounds.iter().map(|ms| Duration::from_millis(*ms)).collect();
            judge_sync("WAL", &rounds, timeout).mark
        };
        assert_eq!(mark(&[1, 2, 3]), Mark::Ok);
        assert_eq!(mark(&[1, 2, 300]), Mark::Ok);
        assert_eq!(mark(&[60, 70, 80]), Mark::Warning);
        assert_eq!(mark(&[1, 1, 1_200]), Mark::Warning);
        assert_eq!(mark(&[1, 1, 2_000]), Mark::Error);
        assert_eq!(mark(&[]), Mark::Unknown);
    }

    #[test]
    fn what_is_measured_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!measure_sync(dir.path()).unwrap().is_empty());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let places = vec![("a", dir.path().to_owned()), ("b", dir.path().to_owned())];
        assert_eq!(disks(places).unwrap(), [("a, b".to_owned(), dir.path().to_owned())]);
    }
}
