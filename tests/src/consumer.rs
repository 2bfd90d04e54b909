//! A consumer of changes: it reads the ledger's inserts from a logical slot, through whatever node is primary.
//!
//! It peeks, keeps what it saw, and only then advances the slot: what a cut connection took with it is read again. So
//! every insert is seen at least once, unless the slot itself has a gap.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::cluster::Cluster;
use crate::ledger::{connect, runtime};

/// Longer than a takeover within its bounds.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(50);
/// Changes a round: a few thousand inserts lie between two rounds at most.
const CHANGES: u32 = 5_000;

/// What the consumer has read, and why attempts failed.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub ids: BTreeSet<i64>,
    pub errors: BTreeSet<String>,
}

/// The running consumer. Dropped, it ends.
pub struct Consumer {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Consumer {
    pub fn start(cluster: &Cluster, slot: &str) -> Consumer {
        let hosts: Vec<u16> = cluster.nodes().iter().map(|node| node.read_write).collect();
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        let reader = Reader { hosts, slot: slot.to_owned(), seen: seen.clone(), stop: stop.clone() };
        let reader = std::thread::spawn(move || runtime().block_on(reader.run()));
        Consumer { seen, stop, reader: Some(reader) }
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().expect("the reader did not panic").clone()
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

struct Reader {
    hosts: Vec<u16>,
    slot: String,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
}

impl Reader {
    async fn run(self) {
        let mut tick = tokio::time::interval(PAUSE);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for &host in self.hosts.iter().cycle() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if let Err(error) = self.read_from(host, &mut tick).await {
                self.seen.lock().expect("nobody panics").errors.insert(format!("{error:#}"));
            }
            tick.tick().await;
        }
    }

    async fn read_from(&self, host: u16, tick: &mut tokio::time::Interval) -> Result<()> {
        let client = connect(host).await?;
        while !self.stop.load(Ordering::Relaxed) {
            let peek = format!(
                "SELECT lsn, data FROM pg_logical_slot_peek_changes('{}', NULL, {CHANGES})",
                self.slot
            );
            let changes = rows(&client, &peek).await?;
            let id = |data: &str| data.split_once("ledger: INSERT: id[bigint]:")?.1.parse::<i64>().ok();
            let ids = changes.iter().filter_map(|(_, data)| id(data));
            self.seen.lock().expect("nobody panics").ids.extend(ids);
            if let Some((lsn, _)) = changes.last() {
                let advance =
                    format!("SELECT end_lsn, '' FROM pg_replication_slot_advance('{}', '{lsn}')", self.slot);
                rows(&client, &advance).await?;
            }
            tick.tick().await;
        }
        Ok(())
    }
}

async fn rows(client: &Client, sql: &str) -> Result<Vec<(String, String)>> {
    let answer = tokio::time::timeout(STATEMENT_TIMEOUT, client.simple_query(sql)).await;
    let messages = answer.context("no answer")?.map_err(|error| {
        let words = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
        anyhow::anyhow!("{words}")
    })?;
    let text =
        |row: &tokio_postgres::SimpleQueryRow, index: usize| row.get(index).unwrap_or_default().to_owned();
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some((text(&row, 0), text(&row, 1))),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}
