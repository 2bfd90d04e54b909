//! The reports in the store, under one key, the newest last.
//!
//! Invariant: a report is written on the condition that `/primary` is as it was read, and still this node's: who has been replaced
//! writes nothing. The list is bounded in number and in bytes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use brain::{Key, MemberId, PrimaryRecord};
use tokio::sync::mpsc;

use super::FailoverReport;
use crate::agent::EventLog;
use crate::store::{Snapshot, Store, StoreError, Transaction};

const FAILOVERS: &str = "/failovers";

/// More than anybody compares; older ones are in the nodes' events.
const REPORTS_MAX: usize = 20;

/// A report has some 2 kB. Far below what a transaction may have (1 MiB) and the store as a whole (8 MiB).
const BYTES_MAX: usize = 256 << 10;

/// Reports that wait to be written: there is one at a time, and a second when the store was away meanwhile.
const WAITING_MAX: usize = 4;

/// Between two attempts.
const AGAIN: Duration = Duration::from_secs(1);

/// After ten minutes without a store nobody asks any more what a takeover took.
const ATTEMPTS_MAX: usize = 600;

/// Where the loop lays down what is to be kept. The task behind it ends with the loop.
pub struct Shelf {
    lay: mpsc::Sender<(MemberId, FailoverReport)>,
}

impl Shelf {
    pub fn start(store: Arc<dyn Store>, events: Arc<EventLog>) -> Shelf {
        let (lay, mut laid) = mpsc::channel::<(MemberId, FailoverReport)>(WAITING_MAX);
        tokio::spawn(async move {
            while let Some((member, report)) = laid.recv().await {
                match keep(&store, &member, &report).await {
                    Ok(true) => {
                        events.note(report.term, "failover.report", headline(&report), phases(&report))
                    }
                    Ok(false) => {
                        tracing::info!(
                            term = report.term,
                            "another primary came before the report was written"
                        );
                    }
                    Err(error) => {
                        let what = "the report of the failover could not be written";
                        events.note(report.term, "failed", what, vec![format!("{error:#}")]);
                    }
                }
            }
        });
        Shelf { lay }
    }

    /// Never waits: a report for which there is no room is dropped.
    pub fn lay(&self, member: MemberId, report: FailoverReport) {
        if self.lay.try_send((member, report)).is_err() {
            tracing::warn!("a report of a failover was dropped: earlier ones wait for the store");
        }
    }
}

/// What is kept in the store as this node has it, oldest first. An error: it is of a later version.
pub fn kept(snapshot: &Snapshot) -> Result<Vec<FailoverReport>> {
    let Some(entry) = snapshot.get(FAILOVERS) else { return Ok(Vec::new()) };
    serde_json::from_value(entry.value.clone())
        .with_context(|| format!("the store's {FAILOVERS} is not readable"))
}

/// Adds the report as long as `member` is the primary that it tells of; false when it is not any more.
async fn keep(store: &Arc<dyn Store>, member: &MemberId, report: &FailoverReport) -> Result<bool> {
    let mut attempts = 0;
    loop {
        let snapshot = store.watch().borrow().clone();
        match transaction(&snapshot, member, report)? {
            Next::Write(transaction) => match store.commit(transaction).await {
                Ok(_) => return Ok(true),
                Err(error @ (StoreError::TooLarge { .. } | StoreError::Invalid(_))) => {
                    return Err(error.into());
                }
                // Whether it was applied after all, the next snapshot tells.
                Err(error) if attempts >= ATTEMPTS_MAX => return Err(error.into()),
                Err(error) => tracing::debug!(%error, "the report of the failover is written again"),
            },
            Next::Written => return Ok(true),
            Next::Replaced => return Ok(false),
        }
        attempts += 1;
        tokio::time::sleep(AGAIN).await;
    }
}

enum Next {
    Write(Transaction),
    /// An earlier attempt was applied.
    Written,
    Replaced,
}

fn transaction(snapshot: &Snapshot, member: &MemberId, report: &FailoverReport) -> Result<Next> {
    let primary = snapshot.get(Key::Primary.path());
    let record = primary.and_then(|entry| serde_json::from_value::<PrimaryRecord>(entry.value.clone()).ok());
    // One that renews keeps its timeline.
    let own = |record: &PrimaryRecord| record.member == *member && record.timeline.0 == report.to.timeline;
    if !record.as_ref().is_some_and(own) {
        return Ok(Next::Replaced);
    }
    let mut reports = kept(snapshot)?;
    if reports.iter().any(|known| known.term == report.term) {
        return Ok(Next::Written);
    }
    reports.push(report.clone());
    let bytes = |reports: &[FailoverReport]| serde_json::to_vec(reports).map_or(0, |text| text.len());
    while reports.len() > REPORTS_MAX || reports.len() > 1 && bytes(&reports) > BYTES_MAX {
        reports.remove(0);
    }
    let value = serde_json::to_value(&reports)?;
    let transaction = Transaction::new()
        .require(Key::Primary.path(), snapshot.version(Key::Primary.path()))
        .require(FAILOVERS, snapshot.version(FAILOVERS))
        .put(FAILOVERS, value);
    Ok(Next::Write(transaction))
}

fn headline(report: &FailoverReport) -> String {
    let (kind, from, to) = (report.kind.word(), &report.from.node, &report.to.node);
    let paused =
        report.writes_paused_ms.map_or(String::new(), |ms| format!(", writes paused for {ms} ms at most"));
    format!("{kind} from {from} to {to} took {} ms{paused}", report.total_ms)
}

fn phases(report: &FailoverReport) -> Vec<String> {
    report.phases.iter().map(|phase| format!("{} {} ms", phase.name, phase.ms)).collect()
}

#[cfg(test)]
mod tests;
