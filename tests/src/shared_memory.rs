//! What killed servers leave in the kernel: PostgreSQL takes it away at the next start in the same data directory, which a
//! test's servers do not have.
//!
//! A machine has 4,096 System V segments by default; without this some hundred runs of all tests use them up, and then no
//! server starts any more.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::processes::Process;

/// Segments by their numbers, and files of POSIX shared memory.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Left {
    segments: BTreeSet<u64>,
    files: BTreeSet<PathBuf>,
}

impl Left {
    /// Adds what this process has mapped; nothing when it is gone.
    pub fn note(&mut self, process: &Process) {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", process.pid)).unwrap_or_default();
        maps.lines().for_each(|line| self.note_line(line));
    }

    /// `7f…-7f… rw-s 00000000 00:01 98327   /SYSV0000002b (deleted)`: of a segment the inode is the number.
    fn note_line(&mut self, line: &str) {
        let mut words = line.split_whitespace().skip(4);
        let (Some(inode), Some(path)) = (words.next(), words.next()) else { return };
        if path.starts_with("/SYSV") {
            self.segments.extend(inode.parse::<u64>().ok());
        } else if path.starts_with("/dev/shm/PostgreSQL.") {
            self.files.insert(path.into());
        }
    }

    /// To be called once nobody runs who used it. What is gone already is no error.
    pub fn remove(&self) {
        for segment in &self.segments {
            let mut command = Command::new("ipcrm");
            command.args(["-m", &segment.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
            let _ = command.status();
        }
        for file in &self.files {
            let _ = std::fs::remove_file(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_and_files_are_known_by_their_lines() {
        let mut left = Left::default();
        for line in [
            "7f10-7f11 rw-s 00000000 00:01 98327                      /SYSV0000002b (deleted)",
            "7f12-7f13 rw-s 00000000 00:19 4711                       /dev/shm/PostgreSQL.1804289383",
            "7f14-7f15 r-xp 00000000 fe:00 12                         /usr/lib/postgresql/15/bin/postgres",
            "7f16-7f17 rw-p 00000000 00:00 0",
        ] {
            left.note_line(line);
        }
        let files = ["/dev/shm/PostgreSQL.1804289383".into()].into();
        assert_eq!(left, Left { segments: [98327].into(), files });
    }
}
