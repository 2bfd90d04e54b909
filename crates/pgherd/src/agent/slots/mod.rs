//! The keeper of replication slots: a task beside the loop that looks at the server's slots and tends them.
//!
//! On a primary it makes what is declared and watches budgets (`primary`), on a replica it keeps copies where the
//! primary's slots stand (`replica`). Whether a replica is restarted for a copy, and who wins a takeover, the brain decides by
//! the report that this task sends to the loop.
//! Invariants: a copy is advanced to what the primary told of, so never beyond its consumer; a logical slot is never
//! made anew in silence where its consumer expects the old one; nothing declared is ever dropped from a primary.

mod budget;
mod primary;
mod replica;
mod take;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use brain::{NodeName, Operation, Postgres, SlotReport, SlotState, Status, Term};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use wire::Lsn;

use super::core::Agent;
use super::events::EventLog;
use super::note::Note;
use super::work::Worker;
use crate::config::Slots;
use crate::postgres::{SlotRow, SlotsSeen};
use words::SlotWords;

/// A copy is behind its slot by this and a heartbeat; the look is one statement over shared memory.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A heartbeat tells of so many slots, some 200 bytes each; those that a takeover keeps come first.
const TOLD_MAX: usize = 64;

/// A copy that is not ready for a moment, as after each restart, is no event.
const UNREADY_TOLD_AFTER: Duration = Duration::from_secs(15);

/// What the keeper needs to be told.
#[derive(Clone)]
pub struct SlotPolicy {
    pub slots: Slots,
    /// Its own durable notes.
    pub file: PathBuf,
}

/// What keeper, worker and loop share.
#[derive(Default)]
pub(super) struct SlotKnown {
    /// The recorded primary's slots as it told of them last.
    pub original: Option<Original>,
    /// Logical copies that a promotion must not turn into slots: a consumer would read wrong or miss changes.
    pub unready: BTreeSet<String>,
    /// Unready copies that a promotion has dropped; the keeper tells.
    pub dropped: Vec<String>,
    /// By slot: how often a restart was to bring it, and when last.
    pub taken: BTreeMap<String, (u32, Instant)>,
    /// By slot: how far its standby is, which takes its WAL from another standby.
    pub below: BTreeMap<String, Lsn>,
}

#[derive(Clone)]
pub(super) struct Original {
    pub node: NodeName,
    pub term: Term,
    pub report: SlotReport,
}

impl Original {
    pub fn slot(&self, name: &str) -> Option<&SlotState> {
        self.report.slots.iter().find(|slot| slot.name == name)
    }
}

impl Agent {
    /// What the recorded primary tells of its slots, for the keeper of the copies here.
    pub(super) fn learn_slots(&self, status: &Status) {
        let recorded =
            self.view.record().is_some_and(|r| r.node == status.node && r.term == status.record_term);
        self.learn_position(status);
        let told = status.slots.looked && status.postgres.primary().is_some();
        if let Some(worker) = self.parts.worker.as_ref().filter(|_| recorded && told) {
            worker.known().slots.original = Some(Original {
                node: status.node.clone(),
                term: status.record_term,
                report: status.slots.clone(),
            });
        }
    }

    /// Where a standby is that takes its WAL from another one: the primary's slot for it is to follow.
    fn learn_position(&self, status: &Status) {
        let (Some(worker), Some(member)) = (&self.parts.worker, &status.member) else { return };
        let below = status.postgres.standby().filter(|standby| {
            let upstream = standby.upstream.as_ref().map(|upstream| &upstream.node);
            status.source.is_some()
                && upstream == status.source.as_ref()
                && status.record_term.0 == self.term()
        });
        let slots = &mut worker.known().slots.below;
        match below {
            Some(standby) => slots.insert(member.slot_name(), standby.position.lsn),
            None => slots.remove(&member.slot_name()),
        };
    }

    /// A server that has been started or copied anew has the slots that are found there, not those of before. What detached
    /// or follows another is the same server: in a takeover its report counts.
    pub(super) fn forget_slots(&mut self, done: Operation) {
        match done {
            Operation::Initdb | Operation::Start | Operation::Stop | Operation::Clone => {}
            Operation::Rewind | Operation::Promote | Operation::TakeSlots => {}
            Operation::Detach | Operation::Follow | Operation::Prepare => return,
            Operation::ApplySync | Operation::Gate | Operation::Slots => return,
        }
        if self.parts.worker.is_some() {
            self.view.slots = unlooked();
        }
    }

    /// A look from before the last piece of work says nothing of what a restart would bring.
    pub(super) fn on_slots(&mut self, generation: u64, mut report: SlotReport) {
        let current = self.parts.worker.as_ref().is_some_and(|worker| worker.generation() == generation);
        if !current && !self.view.slots.looked {
            return;
        }
        report.restart &= current && self.view.busy.is_none();
        self.view.slots = report;
    }
}

/// Before the first look at a server: nothing is known to be kept.
pub(super) fn unlooked() -> SlotReport {
    SlotReport { missing: vec!["the slots have not been looked at yet".to_owned()], ..SlotReport::default() }
}

/// Ends the task when dropped.
pub(super) struct KeeperTask(AbortHandle);

impl Drop for KeeperTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) fn start(
    worker: Arc<Worker>,
    policy: SlotPolicy,
    events: Arc<EventLog>,
    notes: mpsc::Sender<Note>,
) -> Result<KeeperTask> {
    let keeper = Keeper {
        words: SlotWords::open(&policy.file)?,
        worker,
        policy: policy.slots,
        events,
        levels: BTreeMap::new(),
        floors: BTreeMap::new(),
        floors_of: Term(0),
        rest_until: Instant::now(),
        unready: BTreeMap::new(),
        was_standby: false,
        silent: false,
    };
    Ok(KeeperTask(tokio::spawn(keeper.run(notes)).abort_handle()))
}

struct Keeper {
    worker: Arc<Worker>,
    policy: Slots,
    events: Arc<EventLog>,
    words: SlotWords,
    /// How each slot stood to its budget when that was last told.
    levels: BTreeMap<String, brain::slots::Budget>,
    /// By logical copy: the oldest catalog rows that the primary of `floors_of` surely keeps for it.
    floors: BTreeMap<String, u32>,
    floors_of: Term,
    /// No copy is advanced before.
    rest_until: Instant,
    /// Copies that are not ready: since when, and whether it was told.
    unready: BTreeMap<String, (Instant, bool)>,
    was_standby: bool,
    /// The last look failed, which has been logged.
    silent: bool,
}

/// What the server is at a look.
enum Role {
    Primary { fork: Option<Lsn> },
    Standby,
}

impl Keeper {
    async fn run(mut self, notes: mpsc::Sender<Note>) {
        let mut tick = tokio::time::interval(LOOK_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let generation = self.worker.generation();
            let Some(role) = self.role() else { continue };
            match self.look(role).await {
                Ok(report) => {
                    self.silent = false;
                    if notes.send(Note::Slots { generation, report: Box::new(report) }).await.is_err() {
                        return;
                    }
                }
                Err(error) if !self.silent => {
                    self.silent = true;
                    tracing::warn!(error = format!("{error:#}"), "the slots could not be looked at");
                }
                Err(_) => {}
            }
        }
    }

    /// `None` while the server is neither, or is being worked on.
    fn role(&self) -> Option<Role> {
        match &self.worker.known().answer {
            Some((_, Postgres::Primary(primary))) => {
                Some(Role::Primary { fork: primary.history.ancestors.last().map(|branch| branch.end) })
            }
            Some((_, Postgres::Standby(_))) => Some(Role::Standby),
            _ => None,
        }
    }

    async fn look(&mut self, role: Role) -> Result<SlotReport> {
        let seen = self.worker.server.slots().await?;
        self.tell_dropped();
        let report = match role {
            Role::Primary { fork } => {
                anyhow::ensure!(!seen.in_recovery, "the server is not promoted yet");
                if std::mem::take(&mut self.was_standby) {
                    self.tell_promoted(fork);
                }
                self.on_primary(&seen).await
            }
            Role::Standby => {
                anyhow::ensure!(seen.in_recovery, "the server is no standby any more");
                self.was_standby = true;
                self.on_replica(&seen).await
            }
        };
        self.watch_budgets(&report).await;
        Ok(report)
    }

    fn major(&self) -> u32 {
        self.worker.server.installation.major
    }

    fn event(&self, rule: &str, what: impl Into<String>, why: Vec<String>) {
        self.events.note(self.worker.recorded_term().0, rule, what, why);
    }

    /// The slots of `seen` as the others hear of them.
    fn states(&self, seen: &SlotsSeen) -> Vec<SlotState> {
        let mut states: Vec<SlotState> =
            seen.slots.iter().filter(|row| !row.temporary).map(|row| self.state(row, seen)).collect();
        states.sort_by_key(|slot| (!slot.kept, slot.owner.is_none()));
        states.truncate(TOLD_MAX);
        states
    }

    fn state(&self, row: &SlotRow, seen: &SlotsSeen) -> SlotState {
        let declared = self.policy.declared.get(&row.slot_name);
        let end = seen.lsn.unwrap_or_default();
        SlotState {
            name: row.slot_name.clone(),
            database: row.database.clone().filter(|_| row.is_logical()),
            kept: declared.is_some() || (row.is_logical() && row.failover),
            active: row.active,
            restart: row.restart_lsn,
            confirmed: row.confirmed_flush_lsn,
            catalog_xmin: row.catalog_xmin,
            xmin: row.xmin,
            held_bytes: row.restart_lsn.map_or(0, |restart| end.bytes_since(restart)),
            budget_bytes: budget::bytes(&self.policy, declared, seen.keep_bytes),
            owner: match (declared, brain::MemberId::of_slot(&row.slot_name)) {
                (Some(declared), _) => Some(declared.owner.clone()),
                (None, Some(member)) => Some(format!("pgherd: replica {}", member.node())),
                (None, None) => None,
            },
            lost: row.lost(),
        }
    }
}
