//! What happened on this node: a bounded log in memory and a file of JSON lines.
//!
//! Every automatic action leaves an event with its rule, its reason and its term (I7).

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Kept in memory and served by the API.
const EVENTS_MAX: usize = 1_000;

/// The file is begun anew at this size; one older file is kept beside it.
const FILE_BYTES_MAX: u64 = 4 << 20;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one with each event of this node.
    pub id: u64,
    /// RFC 3339, wall clock: for people; nothing is decided by it.
    pub at: String,
    pub node: String,
    pub term: u64,
    pub rule: String,
    pub what: String,
    pub why: Vec<String>,
}

pub struct EventLog {
    node: String,
    path: PathBuf,
    inner: Mutex<Inner>,
    /// The id of the last event.
    news: watch::Sender<u64>,
}

struct Inner {
    events: VecDeque<Event>,
    file: Option<File>,
    next: u64,
}

impl EventLog {
    /// Goes on with `dir/events.jsonl`; lines that cannot be read are left out.
    pub fn open(dir: &Path, node: &str) -> std::io::Result<EventLog> {
        let path = dir.join("events.jsonl");
        let mut events = VecDeque::new();
        if let Ok(file) = File::open(&path) {
            for line in BufReader::new(file).lines().map_while(Result::ok) {
                let Ok(event) = serde_json::from_str::<Event>(&line) else { continue };
                if events.len() == EVENTS_MAX {
                    events.pop_front();
                }
                events.push_back(event);
            }
        }
        let next = events.back().map_or(1, |event| event.id + 1);
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        Ok(EventLog {
            node: node.to_owned(),
            path,
            inner: Mutex::new(Inner { events, file: Some(file), next }),
            news: watch::Sender::new(next - 1),
        })
    }

    /// Notes an event. A full disk loses the line in the file, never the agent.
    pub fn note(&self, term: u64, rule: &str, what: impl Into<String>, why: Vec<String>) {
        let what = what.into();
        tracing::info!(term, rule, why = why.join("; "), "{what}");
        let Ok(mut inner) = self.inner.lock() else { return };
        let at = crate::clock::wall().to_string();
        let event =
            Event { id: inner.next, at, node: self.node.clone(), term, rule: rule.to_owned(), what, why };
        inner.next += 1;
        if let Ok(mut line) = serde_json::to_string(&event) {
            line.push('\n');
            inner.write(&self.path, line.as_bytes());
        }
        if inner.events.len() == EVENTS_MAX {
            inner.events.pop_front();
        }
        inner.events.push_back(event);
        self.news.send_replace(inner.next - 1);
    }

    /// Says with each event its id, from the last one on.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// The id of the latest event; 0 before the first.
    pub fn latest(&self) -> u64 {
        *self.news.borrow()
    }

    /// Events with an id above `after`, oldest first, the newest `limit` of them.
    pub fn after(&self, after: u64, limit: usize) -> Vec<Event> {
        let Ok(inner) = self.inner.lock() else { return Vec::new() };
        let newer: Vec<Event> = inner.events.iter().filter(|event| event.id > after).cloned().collect();
        newer[newer.len().saturating_sub(limit)..].to_vec()
    }
}

impl Inner {
    fn write(&mut self, path: &Path, line: &[u8]) {
        let full = self
            .file
            .as_ref()
            .and_then(|file| file.metadata().ok())
            .is_some_and(|m| m.len() > FILE_BYTES_MAX);
        if full {
            let _ = std::fs::rename(path, path.with_extension("jsonl.old"));
            self.file = OpenOptions::new().create(true).append(true).open(path).ok();
        }
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(line)
        {
            tracing::warn!(%error, "an event could not be written to {}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_go_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        EventLog::open(dir.path(), "n1").unwrap().note(1, "promote", "promoted", vec!["chosen".into()]);
        let log = EventLog::open(dir.path(), "n1").unwrap();
        log.note(1, "admit", "admitted", Vec::new());
        let ids: Vec<u64> = log.after(0, 10).iter().map(|event| event.id).collect();
        assert_eq!(ids, [1, 2]);
        assert_eq!(log.after(1, 10).len(), 1);
    }
}
