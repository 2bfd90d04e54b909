//! Looks at the cluster that this one follows, or is asked to follow: all of its hosts, again and again.
//!
//! What it is: questions and a report. What it is not: a decision; who follows whom, and when, is the brain's.
//! Invariant: a report is of the hosts that were wanted when it was begun, and says when that was.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use brain::{Millis, OriginAnswer, OriginHost, OriginPrimary, OriginRecord, OriginReport, View};
use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::core::Agent;
use super::note::Note;
use super::records::{self, Credentials};
use super::work::{Worker, split};
use crate::postgres::{OriginServer, Source, Upstream as Pointer, ask_origin};
use crate::store::Store;

/// By the head, and by whoever waits for an answer: a takeover there is seen soon.
const INTERVAL: Duration = Duration::from_millis(500);

/// By everybody else, who needs it only for a rewind and for who asks.
const INTERVAL_IDLE: Duration = Duration::from_secs(3);

/// What is to be looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Wanted {
    hosts: Vec<String>,
    eagerly: bool,
}

/// The loop's side of the task that looks.
pub(super) struct OriginWatch {
    wanted: watch::Sender<Wanted>,
    task: AbortHandle,
}

impl Drop for OriginWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl OriginWatch {
    pub(super) fn start(worker: Arc<Worker>, notes: mpsc::Sender<Note>) -> OriginWatch {
        let (wanted, wish) = watch::channel(Wanted::default());
        let task = tokio::spawn(look(worker, wish, notes)).abort_handle();
        OriginWatch { wanted, task }
    }

    fn want(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|old| {
            *old != wanted && {
                *old = wanted;
                true
            }
        });
    }
}

async fn look(worker: Arc<Worker>, mut wanted: watch::Receiver<Wanted>, notes: mpsc::Sender<Note>) {
    while let Ok(now) = wanted.wait_for(|wanted| !wanted.hosts.is_empty()).await.map(|wanted| wanted.clone())
    {
        let begun = Millis(crate::clock::boot_millis());
        let hosts = join_all(now.hosts.iter().map(|address| ask(&worker, address))).await;
        let received = worker.server.received().await.unwrap_or_default();
        let report = OriginReport {
            hosts,
            begun,
            sender: received.sender,
            streamed_at: None,
            last_commit: received.last_commit,
        };
        if notes.send(Note::Origin(Box::new(report))).await.is_err() {
            return;
        }
        let pause = if now.eagerly { INTERVAL } else { INTERVAL_IDLE };
        // Either the time has passed or something else is wanted; both mean: look again.
        let _ = tokio::time::timeout(pause, wanted.changed()).await;
    }
}

async fn ask(worker: &Worker, address: &str) -> OriginHost {
    let asked = async {
        let source = worker.origin_source(address, |credentials| credentials.rewind.clone())?;
        anyhow::Ok(ask_origin(&source).await?)
    };
    let own = worker.known().system_id;
    let foreign = |id: u64| {
        own.filter(|own| *own != id).map(|own| format!("it has system identifier {id}, this cluster {own}"))
    };
    let answer = match asked.await {
        Err(error) => OriginAnswer::Silent(format!("{error:#}")),
        Ok(OriginServer::Standby { system_id }) => {
            foreign(system_id).map_or(OriginAnswer::Standby, OriginAnswer::Silent)
        }
        Ok(OriginServer::Primary { system_id, history, flush }) => match foreign(system_id) {
            Some(reason) => OriginAnswer::Silent(reason),
            None => OriginAnswer::Primary(OriginPrimary { system_id, history, flush }),
        },
    };
    OriginHost { address: address.to_owned(), answer }
}

/// Somebody waits for what is seen there.
fn is_awaited(view: &View) -> bool {
    let turning = |request: &brain::Request| {
        matches!(request.ask, brain::Ask::Promote { .. } | brain::Ask::Demote { .. })
    };
    view.record().is_none() || view.is_head() || view.requests().any(turning)
}

/// Whom this node would follow as head. The origin has one slot for this cluster, which is the head's: another node that is
/// rewound to the origin takes what WAL it needs without one.
fn origin_to_follow(view: &View) -> Option<OriginRecord> {
    let is_head = view.head().is_some_and(|record| record.node == view.me);
    let origin = view.origin_record()?;
    Some(OriginRecord { slot: origin.slot.clone().filter(|_| is_head), ..origin.clone() })
}

impl Agent {
    /// Before each decision: what there is to look at changes with the store.
    pub(super) fn watch_origin(&mut self) {
        let hosts = self.view.origin_hosts();
        if hosts.is_empty() && !self.view.origin.hosts.is_empty() {
            self.view.origin = OriginReport::default();
        }
        let eagerly = is_awaited(&self.view);
        if let Some(origin) = &self.origin {
            origin.want(Wanted { hosts, eagerly });
        }
        if let Some(worker) = &self.parts.worker {
            worker.set_origin(origin_to_follow(&self.view));
        }
    }

    pub(super) fn on_origin(&mut self, mut report: OriginReport) {
        let hosts = self.view.origin_hosts();
        if report.hosts.iter().any(|host| !hosts.contains(&host.address)) {
            return;
        }
        let streams = self.view.is_head() && self.view.streams_as_recorded();
        report.streamed_at =
            if streams { Some(crate::clock::wall_seconds()) } else { self.view.origin.streamed_at };
        report.last_commit = report.last_commit.or(self.view.origin.last_commit.take());
        if let Some(worker) = &self.parts.worker {
            worker.set_origin_primary(report.primary().map(|(address, _)| address.to_owned()));
        }
        let was = self
            .view
            .origin
            .primary()
            .map(|(address, primary)| (address.to_owned(), primary.history.current));
        let is = report.primary().map(|(address, primary)| (address.to_owned(), primary.history.current));
        if was != is && is.is_some() && self.has_given_up() {
            self.begin_again();
        }
        if was != is && self.view.is_head() {
            let what = match &is {
                Some((address, timeline)) => {
                    format!("the origin's primary is {address}, on timeline {timeline}")
                }
                None => "the origin has no primary".to_owned(),
            };
            self.parts.events.note(self.term(), "observed", what, vec![report.words()]);
        }
        self.view.origin = report;
    }
}

impl Worker {
    /// The same for the origin, whose every host may be its primary next. The other cluster must not take this name for one
    /// of its own members'.
    pub(super) fn at_origin(&self, pointer: Pointer) -> Result<Pointer> {
        let origin = self.known().origin.clone().context("this cluster follows no other")?;
        let first = (pointer.host.clone(), pointer.port);
        let hosts = origin.hosts.iter().map(|address| split(address)).collect::<Result<Vec<_>>>()?;
        // At least one: with it goes the demand that the server be a primary.
        let mut others: Vec<(String, u16)> = hosts.into_iter().filter(|host| *host != first).collect();
        if others.is_empty() {
            others.push(first);
        }
        let application_name = format!("{}@{}", pointer.application_name, self.followed.cluster);
        Ok(Pointer { application_name, slot_name: origin.slot, others, ..pointer })
    }

    /// The passwords of the copied cluster are this one's, too: its roles come with the copy.
    pub(super) async fn take_credentials(&self, store: &dyn Store) -> Result<()> {
        if self.known().credentials.is_some() {
            return Ok(());
        }
        let credentials = self.followed.credentials.as_ref().context(
            "the passwords of the cluster to be followed are not known; set [standby_cluster] credentials",
        )?;
        store
            .commit(records::first_credentials(credentials)?)
            .await
            .context("record the passwords of the cluster that is followed")?;
        Ok(())
    }

    /// A server of the cluster that is followed, or is to be.
    pub(super) fn origin_source(
        &self,
        address: &str,
        password: impl Fn(&Credentials) -> String,
    ) -> Result<Source> {
        let (host, port) = split(address)?;
        let known = self.known();
        let credentials = known.credentials.as_ref().or(self.followed.credentials.as_ref());
        let credentials = credentials.context(
            "the passwords of the cluster to be followed are not known; set [standby_cluster] credentials",
        )?;
        Ok(Source { host, port, password: password(credentials) })
    }
}

#[cfg(test)]
mod tests {
    use brain::{Durable, MemberId, Position, PrimaryRecord, Settings, Term, Versioned};
    use wire::{Lsn, Timeline};

    use super::*;

    #[test]
    fn the_slot_is_the_heads_alone() {
        let settings = Settings {
            cluster: "west".to_owned(),
            full: ["n1".into(), "n2".into()].into(),
            voters: ["n1".into(), "n2".into()].into(),
            heartbeat_ms: 250,
            failure_timeout_ms: 2_000,
            drift_percent: 5,
            standbys: 1,
            slot_gate: Default::default(),
            on_last_standby_lost: Default::default(),
            drain_timeout_ms: 5_000,
            maximum_lag_bytes: 0,
            origin: None,
        };
        let mut view = View::new("n1".into(), settings, Durable::default(), Millis(0));
        let hosts = vec!["10.0.0.1:5432".to_owned()];
        let value = OriginRecord { hosts, slot: Some("west".to_owned()), left: None };
        view.store.origin = Some(Versioned { value, version: 1 });
        let from = Position { timeline: Timeline(1), lsn: Lsn(0) };
        for (node, slot) in [("n1", Some("west".to_owned())), ("n2", None)] {
            let member = MemberId::new(&node.into(), "1");
            let timeline = from.timeline;
            let value =
                PrimaryRecord { term: Term(1), node: node.into(), member, timeline, from, head: true };
            view.store.primary = Some(Versioned { value, version: 1 });
            assert_eq!(origin_to_follow(&view).and_then(|origin| origin.slot), slot, "{node} is head");
        }
    }
}
