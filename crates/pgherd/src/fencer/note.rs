//! What the fencer has done, left for the next agent to tell.
//!
//! A file of JSON lines beside the node's words. The agent moves it aside, puts its lines among the events and removes it:
//! one that dies in between tells them twice, never not at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Notes of one fencer that wait for room on a full disk: two or three a fencing.
pub(super) const NOTES_MAX: usize = 64;

const FILE: &str = "fencer-notes.jsonl";
const TAKEN: &str = "fencer-notes.taken";

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Note {
    /// Wall clock, RFC 3339: for people.
    pub at: String,
    pub term: u64,
    /// `fencer.cut`, `fencer.stop`, `fencer.vip`.
    pub rule: String,
    pub what: String,
    pub why: Vec<String>,
}

pub(super) fn append(dir: &Path, note: &Note) -> io::Result<()> {
    let mut line = serde_json::to_string(note)?;
    line.push('\n');
    OpenOptions::new().create(true).append(true).open(dir.join(FILE))?.write_all(line.as_bytes())
}

/// The notes that are there, oldest first; `done` once they are told.
pub fn take(dir: &Path) -> Vec<Note> {
    let taken = dir.join(TAKEN);
    // What an agent took before it died comes first; the rest is there at the next look.
    if !taken.exists() && fs::rename(dir.join(FILE), &taken).is_err() {
        return Vec::new();
    }
    let text = fs::read_to_string(&taken).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

pub fn done(dir: &Path) {
    // One that stays is told again.
    let _ = fs::remove_file(dir.join(TAKEN));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_told_until_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let note = |rule: &str| Note {
            at: "2026-11-21T08:00:00Z".into(),
            term: 7,
            rule: rule.into(),
            what: "x".into(),
            why: Vec::new(),
        };
        assert_eq!(take(dir.path()), []);
        append(dir.path(), &note("fencer.cut")).unwrap();
        assert_eq!(take(dir.path()), [note("fencer.cut")]);
        append(dir.path(), &note("fencer.stop")).unwrap();
        assert_eq!(take(dir.path()), [note("fencer.cut")], "the agent died before it was done");
        done(dir.path());
        assert_eq!(take(dir.path()), [note("fencer.stop")]);
        done(dir.path());
        assert_eq!(take(dir.path()), []);
    }
}
