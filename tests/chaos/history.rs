//! What clients did and saw, as a list-append history in the sense of Elle (Kingsbury, Alvaro 2020).
//!
//! In memory for the checker, and as JSON lines for whoever wants to look: a transaction is an `invoke` and at most one
//! of `ok`, `fail` and `info`. Invariant: `fail` means that nothing of it can ever be visible; whatever is not sure is
//! `info`.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Microseconds since the start of the run, on the one monotonic clock of the test.
pub type Moment = u64;
pub type Key = i32;
/// Never used twice.
pub type Value = i64;
/// Each list of a table, as one server has it.
pub type Lists = BTreeMap<Key, Vec<Value>>;

/// The isolation of writers. Each level has a table of its own: PostgreSQL promises serializability only among
/// transactions that all are serializable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    ReadCommitted,
    Serializable,
}

impl Level {
    pub const ALL: [Level; 2] = [Level::ReadCommitted, Level::Serializable];

    pub fn table(self) -> &'static str {
        match self {
            Level::ReadCommitted => "lists_read_committed",
            Level::Serializable => "lists_serializable",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Port {
    ReadWrite,
    ReadOnly,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    Append(Key, Value),
    /// `None`: asked, never answered.
    Read(Key, Option<Vec<Value>>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Ok,
    Fail,
    Info,
}

/// Who did a transaction, and where.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Origin {
    pub level: Level,
    pub port: Port,
    /// The node whose proxy it went through.
    pub through: String,
    /// One connection: its transactions follow each other.
    pub session: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transaction {
    pub origin: Origin,
    pub invoked: Moment,
    /// `Moment::MAX` for one that never ended.
    pub ended: Moment,
    pub outcome: Outcome,
    pub ops: Vec<Op>,
    /// The node whose server has answered, of a read-only one that has ended well.
    pub answered_by: Option<String>,
}

/// A row that a server accepted and acknowledged when it was asked directly, past every proxy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub node: String,
    pub id: i64,
    pub timeline: u32,
    pub invoked: Moment,
    pub ended: Moment,
}

/// What one node holds when everything is over.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Holding {
    pub node: String,
    pub primary: bool,
    #[serde(deserialize_with = "lists")]
    pub read_committed: Lists,
    #[serde(deserialize_with = "lists")]
    pub serializable: Lists,
    pub samples: Vec<i64>,
}

/// JSON's keys are texts, and inside a tagged enum serde does not read them as numbers.
fn lists<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Lists, D::Error> {
    let texts = BTreeMap::<String, Vec<Value>>::deserialize(from)?;
    let number = |key: String| key.parse::<Key>().map_err(serde::de::Error::custom);
    texts.into_iter().map(|(key, values)| Ok((number(key)?, values))).collect()
}

impl Holding {
    pub fn lists(&self, level: Level) -> &Lists {
        match level {
            Level::ReadCommitted => &self.read_committed,
            Level::Serializable => &self.serializable,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Event {
    Invoke {
        txn: u64,
        at: Moment,
        origin: Origin,
        ops: Vec<Op>,
    },
    Ok {
        txn: u64,
        at: Moment,
        ops: Vec<Op>,
        #[serde(default)]
        answered_by: Option<String>,
    },
    Fail {
        txn: u64,
        at: Moment,
        ops: Vec<Op>,
        error: String,
    },
    Info {
        txn: u64,
        at: Moment,
        ops: Vec<Op>,
        error: String,
    },
    Sample(Sample),
    Fault {
        at: Moment,
        until: Moment,
        what: String,
    },
    Final(Holding),
}

/// Everything that is checked.
#[derive(Default, Debug)]
pub struct History {
    pub transactions: Vec<Transaction>,
    pub samples: Vec<Sample>,
    pub finals: Vec<Holding>,
    pub faults: Vec<(Moment, Moment, String)>,
    /// Why transactions did not end well, with how often.
    pub errors: BTreeMap<String, u64>,
}

impl History {
    pub fn of(events: &[Event]) -> History {
        let mut history = History::default();
        let mut places: HashMap<u64, usize> = HashMap::new();
        for event in events {
            history.take(event.clone(), &mut places);
        }
        history
    }

    pub fn read(path: &Path) -> Result<History> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let mut events = Vec::new();
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let event = serde_json::from_str(&line?)
                .with_context(|| format!("line {} of {}", number + 1, path.display()))?;
            events.push(event);
        }
        Ok(History::of(&events))
    }

    fn take(&mut self, event: Event, places: &mut HashMap<u64, usize>) {
        let mut by = None;
        let (txn, at, ops, outcome, error) = match event {
            Event::Invoke { txn, at, origin, ops } => {
                places.insert(txn, self.transactions.len());
                let (ended, outcome) = (Moment::MAX, Outcome::Info);
                let answered_by = None;
                self.transactions.push(Transaction { origin, invoked: at, ended, outcome, ops, answered_by });
                return;
            }
            Event::Sample(sample) => return self.samples.push(sample),
            Event::Final(holding) => return self.finals.push(holding),
            Event::Fault { at, until, what } => return self.faults.push((at, until, what)),
            Event::Ok { txn, at, ops, answered_by } => {
                by = answered_by;
                (txn, at, ops, Outcome::Ok, None)
            }
            Event::Fail { txn, at, ops, error } => (txn, at, ops, Outcome::Fail, Some(error)),
            Event::Info { txn, at, ops, error } => (txn, at, ops, Outcome::Info, Some(error)),
        };
        if let Some(error) = error {
            *self.errors.entry(error).or_default() += 1;
        }
        if let Some(transaction) = places.get(&txn).map(|&place| &mut self.transactions[place]) {
            (transaction.ops, transaction.ended, transaction.outcome) = (ops, at, outcome);
            transaction.answered_by = by;
        }
    }
}

/// Where clients write what they do; the same for all, in the order of arrival.
#[derive(Clone)]
pub struct Recorder {
    started: Instant,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    events: Vec<Event>,
    file: BufWriter<File>,
    next: u64,
}

impl Recorder {
    pub fn new(path: &Path) -> Result<Recorder> {
        let file = File::create(path).with_context(|| format!("write {}", path.display()))?;
        let inner = Inner { events: Vec::new(), file: BufWriter::new(file), next: 1 };
        Ok(Recorder { started: Instant::now(), inner: Arc::new(Mutex::new(inner)) })
    }

    pub fn now(&self) -> Moment {
        self.started.elapsed().as_micros() as Moment
    }

    /// Begins a transaction; its number.
    pub fn invoke(&self, origin: Origin, ops: Vec<Op>) -> u64 {
        let at = self.now();
        let mut inner = self.lock();
        let txn = inner.next;
        inner.next += 1;
        inner.write(Event::Invoke { txn, at, origin, ops });
        txn
    }

    pub fn note(&self, event: Event) {
        self.lock().write(event);
    }

    /// The whole history so far.
    pub fn history(&self) -> Result<History> {
        let mut inner = self.lock();
        inner.file.flush().context("write the history")?;
        Ok(History::of(&inner.events))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // What a client that panicked has written is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn write(&mut self, event: Event) {
        // A disk that is full shows at the flush; the history in memory is what is checked.
        let _ = serde_json::to_writer(&mut self.file, &event).map(|()| self.file.write_all(b"\n"));
        self.events.push(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_history_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let recorder = Recorder::new(&path).unwrap();
        let origin =
            Origin { level: Level::Serializable, port: Port::ReadWrite, through: "n1".into(), session: 7 };
        let txn = recorder.invoke(origin, vec![Op::Append(1, 10), Op::Read(1, None)]);
        let ops = vec![Op::Append(1, 10), Op::Read(1, Some(vec![10]))];
        recorder.note(Event::Ok { txn, at: recorder.now(), ops, answered_by: None });
        recorder.note(Event::Sample(Sample { node: "n1".into(), id: 3, timeline: 2, invoked: 1, ended: 2 }));
        recorder.note(Event::Fault { at: 1, until: 2, what: "cut of primary".into() });
        let held = Lists::from([(1, vec![10])]);
        let holding = Holding { node: "n1".into(), primary: true, serializable: held, ..Holding::default() };
        recorder.note(Event::Final(holding));
        let written = recorder.history().unwrap();
        assert_eq!(format!("{:?}", History::read(&path).unwrap()), format!("{written:?}"));
    }
}
