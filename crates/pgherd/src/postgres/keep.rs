//! The WAL that a rewind takes out of the history, copied: its pages, and not the room around them.
//!
//! `pg_wal` holds more than WAL: segments that were renamed for later use, and the rest of the last one. Every page says
//! in its header where it belongs, so WAL ends at the first page that says something else. What is left out becomes a
//! hole: the copy has the size of a segment, as `pg_waldump` wants it, and takes no more room than its records.
//! Invariant: every page from the fork to the end of the WAL is copied, durably, before the rewind begins (I7).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use wire::Lsn;

use super::error::{Error, Result};
use super::files;
use super::rewind::segment_start;
use super::server::Server;
use super::wal::PAGE;

/// Where `xlp_pageaddr` lies in `XLogPageHeaderData`, in the byte order of the machine.
const PAGE_ADDRESS: u64 = 8;

impl Server {
    /// Copies the WAL from `fork` on, and the history files, to `kept/<moment>/`.
    pub(super) async fn keep_wal(&self, fork: Lsn, segment_bytes: u32) -> Result<PathBuf> {
        let (wal, kept) = (self.layout.wal(), self.new_keep());
        let account = self.account.clone();
        files::blocking(move || {
            files::private_dir(&kept, &account)?;
            for entry in fs::read_dir(&wal).map_err(Error::at("list", &wal))?.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let (from, to) = (entry.path(), kept.join(&name));
                if name.ends_with(".history") {
                    files::copy(&from, &to, &account)?;
                    continue;
                }
                // What ends before the fork, a gigabyte by default, is not even opened.
                let beyond = |start: &Lsn| start.0 + u64::from(segment_bytes) > fork.0;
                let Some(start) = segment_start(&name, segment_bytes).filter(beyond) else { continue };
                let pages =
                    pages_of(&from, start, u64::from(segment_bytes)).map_err(Error::at("read", &from))?;
                if start.0 + pages * PAGE > fork.0 {
                    files::create_for(&to, &account, |copy| copy_pages(&from, copy, start, fork, pages))?;
                }
            }
            Ok(kept)
        })
        .await
    }
}

/// How many pages of WAL the segment begins with.
fn pages_of(path: &Path, start: Lsn, segment_bytes: u64) -> io::Result<u64> {
    let file = File::open(path)?;
    let all = file.metadata()?.len().min(segment_bytes) / PAGE;
    for page in 0..all {
        let mut address = [0; 8];
        file.read_exact_at(&mut address, page * PAGE + PAGE_ADDRESS)?;
        if u64::from_ne_bytes(address) != start.0 + page * PAGE {
            return Ok(page);
        }
    }
    Ok(all)
}

/// The first page, which describes the segment, and those from the fork on.
fn copy_pages(from: &Path, to: &File, start: Lsn, fork: Lsn, pages: u64) -> io::Result<()> {
    let from = File::open(from)?;
    to.set_len(from.metadata()?.len())?;
    let first = fork.bytes_since(start) / PAGE;
    let mut bytes = vec![0; PAGE as usize];
    for page in std::iter::once(0).chain(first.max(1)..pages) {
        from.read_exact_at(&mut bytes, page * PAGE)?;
        to.write_all_at(&bytes, page * PAGE)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const SEGMENT: u64 = 1 << 20;

    /// A segment whose first `pages` pages belong to it; the rest is of an earlier one.
    fn segment(path: &Path, start: Lsn, pages: u64) {
        let file = File::create(path).unwrap();
        for page in 0..SEGMENT / PAGE {
            let place = if page < pages { start.0 } else { start.0 - 4 * SEGMENT };
            let mut bytes = vec![0xab; PAGE as usize];
            bytes[8..16].copy_from_slice(&(place + page * PAGE).to_ne_bytes());
            file.write_all_at(&bytes, page * PAGE).unwrap();
        }
    }

    #[test]
    fn what_was_renamed_for_later_use_is_no_wal_and_takes_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let (path, copied) = (dir.path().join("segment"), dir.path().join("copied"));
        let start = Lsn(8 * SEGMENT);
        segment(&path, start, 0);
        assert_eq!(pages_of(&path, start, SEGMENT).unwrap(), 0);
        segment(&path, start, SEGMENT / PAGE);
        assert_eq!(pages_of(&path, start, SEGMENT).unwrap(), SEGMENT / PAGE);

        segment(&path, start, 20);
        assert_eq!(pages_of(&path, start, SEGMENT).unwrap(), 20);
        let fork = Lsn(start.0 + 17 * PAGE + 300);
        copy_pages(&path, &File::create(&copied).unwrap(), start, fork, 20).unwrap();
        let (whole, copy) = (fs::read(&path).unwrap(), fs::read(&copied).unwrap());
        let page = PAGE as usize;
        assert_eq!(copy.len(), whole.len());
        assert_eq!(copy[..page], whole[..page]);
        assert_eq!(copy[17 * page..20 * page], whole[17 * page..20 * page]);
        assert!(copy[page..17 * page].iter().chain(&copy[20 * page..]).all(|byte| *byte == 0));
        assert!(fs::metadata(&copied).unwrap().blocks() * 512 <= 8 * PAGE, "the rest are holes");
    }
}
