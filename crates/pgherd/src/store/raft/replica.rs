//! One node's copy of the store: Raft, the state machine, and what callers on this node wait for.
//!
//! No clock, socket or disk of its own: time is an argument, tickets stand for callers, turns go to the caller to be
//! made durable. `node.rs` drives it.
//!
//! Invariants: each ticket gets exactly one answer, by its deadline at the latest (a tick late); a command takes effect
//! at most once although it is proposed again when leaders change (see `state.rs`).

mod reads;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use raft::eraftpb::{Entry as LogEntry, EntryType, Message, Snapshot as RaftSnapshot};

use self::reads::Reading;
use super::core::{Core, Done, Standing, Timing, Turn};
use super::log::Log;
use crate::store::state::{Command, CommandId, Outcome, Proposal, State};
use crate::store::{Entry, LeaseId, StoreError};

/// A caller waits this long at most. It covers an election (1 s at most at the default tick) and a lost message.
pub(super) const DEADLINE: Duration = Duration::from_secs(2);
/// A command is proposed again after this long without an effect: the message to the leader may have been lost.
const PROPOSE_AGAIN: Duration = Duration::from_millis(500);
/// A lease whose expiry did not come through is expired again after this long.
const EXPIRE_AGAIN: Duration = Duration::from_secs(1);
/// Commands and reads of this node that may wait at once; more are refused at the door.
const WAITING_MAX: usize = 256;
/// How far the newest command may run ahead of the oldest that waits; it bounds the sessions in the state.
const WINDOW_MAX: u64 = 1024;

/// Stands for a caller.
pub(super) type Ticket = u64;

#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    Executed(Result<Outcome, StoreError>),
    Read(Result<Option<Entry>, StoreError>),
}

struct Waiting {
    ticket: Ticket,
    command: Command,
    deadline: Duration,
    /// Give up if there has been no leader to propose to until then.
    leaderless_until: Duration,
    /// To whom and when it was last proposed; `None`: it has certainly not left this node.
    proposed: Option<(Standing, Duration)>,
}

pub(super) struct Replica {
    id: u64,
    incarnation: u64,
    core: Core,
    state: State,
    applied: u64,
    now: Duration,
    /// How long callers wait for a leader: the longest election timeout.
    patience: Duration,
    deadline: Duration,
    next_sequence: u64,
    waiting: BTreeMap<u64, Waiting>,
    next_read: u64,
    readings: BTreeMap<u64, Reading>,
    /// Leases as the leader times them: renewals seen, and when they end. Empty elsewhere, so that a new leader gives
    /// every lease its whole length again.
    leases: BTreeMap<LeaseId, (u64, Duration)>,
    answers: Vec<(Ticket, Answer)>,
    snapshot_entries: u64,
    since_snapshot_bytes: usize,
    /// When a message of each seat last came.
    pub(super) heard: BTreeMap<u64, Duration>,
    /// A change of seats has been applied and no snapshot has it: nothing may leave this node before one is durable.
    pub(super) seats_changed: bool,
    /// Until then the last change of seats has its time to take effect.
    pub(super) step_again: Duration,
}

impl Replica {
    /// `snapshot_entries`: applied entries after which a snapshot is due.
    pub fn new(
        id: u64,
        incarnation: u64,
        log: Log,
        timing: Timing,
        tick: Duration,
        snapshot_entries: u64,
    ) -> Result<Self> {
        let state = decode_state(&log.snapshot)?;
        let applied = log.snapshot.get_metadata().index;
        Ok(Self {
            id,
            incarnation,
            core: Core::new(id, log, timing)?,
            state,
            applied,
            now: Duration::ZERO,
            patience: tick * timing.election_ticks as u32 * 2,
            deadline: timing.deadline,
            next_sequence: 1,
            waiting: BTreeMap::new(),
            next_read: 1,
            readings: BTreeMap::new(),
            leases: BTreeMap::new(),
            answers: Vec::new(),
            snapshot_entries,
            since_snapshot_bytes: 0,
            heard: BTreeMap::new(),
            seats_changed: false,
            step_again: Duration::ZERO,
        })
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn now(&self) -> Duration {
        self.now
    }

    /// The longest election timeout.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Slow disks make elections long.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    pub(super) fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    pub fn execute(&mut self, ticket: Ticket, command: Command) {
        let sequence = self.next_sequence;
        let floor = self.waiting.keys().next().copied().unwrap_or(sequence);
        if self.waiting.len() >= WAITING_MAX || sequence - floor >= WINDOW_MAX {
            let busy =
                StoreError::Unavailable(format!("{} changes of this node are under way", self.waiting.len()));
            self.answers.push((ticket, Answer::Executed(Err(busy))));
            return;
        }
        self.next_sequence += 1;
        let waiting = Waiting {
            ticket,
            command,
            deadline: self.now + self.deadline,
            leaderless_until: self.now + self.patience.min(self.deadline),
            proposed: None,
        };
        self.waiting.insert(sequence, waiting);
        self.propose(sequence);
    }

    pub fn step(&mut self, message: Message) -> Result<()> {
        self.core.step(message)
    }

    /// `now` is any monotonic clock that never goes back, the same in every call. Who has not been let in (`seated`)
    /// waits for its callers' sake only.
    pub fn tick(&mut self, now: Duration, seated: bool) {
        self.now = now;
        if seated {
            self.core.tick();
        }
        self.propose_again();
        self.read_again();
        self.expire_leases();
    }

    pub fn turn(&mut self) -> Option<Turn> {
        self.core.turn()
    }

    /// Applies what the durable turn allows and answers the messages to send.
    pub fn persisted(&mut self, turn: Turn) -> Result<Vec<Message>> {
        let Done { send, install, apply, reads } = self.core.persisted(turn);
        if let Some(snapshot) = install {
            self.state = decode_state(&snapshot)?;
            self.applied = snapshot.get_metadata().index;
            self.since_snapshot_bytes = 0;
            self.answer_skipped();
        }
        for entry in apply {
            self.apply(entry)?;
        }
        for read in reads {
            if let Some(reading) = self.own_read(&read.request_ctx) {
                reading.index = Some(read.index);
            }
        }
        self.answer_reads();
        Ok(send)
    }

    /// Nobody who waits now will be answered by this replica.
    pub fn answer_all(&mut self, why: &str) {
        let sequences: Vec<u64> = self.waiting.keys().copied().collect();
        for sequence in sequences {
            self.finish(sequence, Err(StoreError::Unavailable(why.to_owned())));
        }
        let readings = std::mem::take(&mut self.readings);
        for (ticket, _, _) in readings.into_values().flat_map(|reading| reading.tickets) {
            self.answers.push((ticket, Answer::Read(Err(StoreError::Unavailable(why.to_owned())))));
        }
    }

    pub fn take_answers(&mut self) -> Vec<(Ticket, Answer)> {
        std::mem::take(&mut self.answers)
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn standing(&self) -> Standing {
        self.core.standing()
    }

    pub fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    /// A snapshot of the applied state and the last entry it makes superfluous, when one is due. Followers that lag
    /// by less than half the interval are still served from the log.
    pub fn due_snapshot(&self) -> Result<Option<((u64, u64), RaftSnapshot)>> {
        let log = self.core.log();
        let taken = log.snapshot.get_metadata().index;
        let due = self.seats_changed
            || self.applied >= taken + self.snapshot_entries
            || (self.since_snapshot_bytes > super::LOG_BYTES_MAX && self.applied > taken);
        if !due {
            return Ok(None);
        }
        let keep =
            if self.since_snapshot_bytes > super::LOG_BYTES_MAX { 0 } else { self.snapshot_entries / 2 };
        let index = self.applied.saturating_sub(keep).max(log.compacted.0);
        let term =
            |index| log.term_at(index).with_context(|| format!("entry {index} is missing from the log"));
        let data = serde_json::to_vec(&self.state).context("encode the state")?;
        let mut snapshot = RaftSnapshot { data: data.into(), ..RaftSnapshot::default() };
        let metadata = snapshot.mut_metadata();
        metadata.index = self.applied;
        metadata.term = term(self.applied)?;
        metadata.set_conf_state(self.core.conf_state());
        Ok(Some(((index, term(index)?), snapshot)))
    }

    /// The snapshot is durable.
    pub fn compacted(&mut self, index: u64, snapshot: RaftSnapshot) {
        self.core.compacted(index, snapshot);
        self.since_snapshot_bytes = 0;
        self.seats_changed = false;
    }

    fn propose(&mut self, sequence: u64) {
        let standing = self.core.standing();
        if standing.leader == 0 {
            return;
        }
        let Some(floor) = self.waiting.keys().next().copied() else { return };
        let Some(waiting) = self.waiting.get_mut(&sequence) else { return };
        let id = CommandId { node: self.id, incarnation: self.incarnation, sequence, floor };
        let proposal = Proposal { id: Some(id), command: waiting.command.clone() };
        match serde_json::to_vec(&proposal) {
            Ok(data) => {
                if self.core.propose(data) {
                    waiting.proposed = Some((standing, self.now));
                }
            }
            Err(error) => self.finish(sequence, Err(StoreError::Invalid(error.to_string()))),
        }
    }

    fn propose_again(&mut self) {
        let standing = self.core.standing();
        let sequences: Vec<u64> = self.waiting.keys().copied().collect();
        for sequence in sequences {
            let Some(waiting) = self.waiting.get(&sequence) else { continue };
            match waiting.proposed {
                None if self.now >= waiting.leaderless_until => {
                    let alone = format!("no leader for {:?}; is a majority of the voters up?", self.patience);
                    self.finish(sequence, Err(StoreError::Unavailable(alone)));
                }
                _ if self.now >= waiting.deadline => {
                    let late = format!("a majority did not confirm it within {:?}", self.deadline);
                    self.finish(sequence, Err(StoreError::Unknown(late)));
                }
                Some((to, at)) if to == standing && self.now < at + PROPOSE_AGAIN => {}
                _ => self.propose(sequence),
            }
        }
    }

    fn finish(&mut self, sequence: u64, result: Result<Outcome, StoreError>) {
        if let Some(waiting) = self.waiting.remove(&sequence) {
            self.answers.push((waiting.ticket, Answer::Executed(result)));
        }
    }

    fn apply(&mut self, entry: LogEntry) -> Result<()> {
        self.applied = entry.index;
        self.since_snapshot_bytes += entry.data.len();
        // A new leader's first entry is empty.
        if entry.data.is_empty() {
            return Ok(());
        }
        if entry.get_entry_type() == EntryType::EntryConfChange {
            return self.apply_change(&entry);
        }
        let proposal: Proposal = serde_json::from_slice(&entry.data).with_context(|| {
            format!("entry {} of the store is not understood; upgrade this node", entry.index)
        })?;
        let own = proposal
            .id
            .filter(|id| id.node == self.id && id.incarnation == self.incarnation)
            .map(|id| id.sequence);
        if let Some(outcome) = self.state.apply(proposal)
            && let Some(sequence) = own
        {
            self.finish(sequence, outcome);
        }
        Ok(())
    }

    /// A snapshot from the leader may contain effects of commands whose outcome this node has thus never seen.
    fn answer_skipped(&mut self) {
        let settled: Vec<u64> = self
            .waiting
            .keys()
            .copied()
            .filter(|sequence| self.state.is_settled(self.id, self.incarnation, *sequence))
            .collect();
        for sequence in settled {
            let skipped = "this node lagged and got the state without the outcome".to_owned();
            self.finish(sequence, Err(StoreError::Unknown(skipped)));
        }
    }

    fn expire_leases(&mut self) {
        if !self.core.standing().leads {
            self.leases.clear();
            return;
        }
        let now = self.now;
        self.leases.retain(|lease, _| self.state.leases().contains_key(lease));
        let mut ended = Vec::new();
        for (lease, held) in self.state.leases() {
            let fresh = (held.renewals, now + Duration::from_millis(held.ttl_ms));
            let timed = self.leases.entry(*lease).or_insert(fresh);
            if timed.0 != held.renewals {
                *timed = fresh;
            }
            if now >= timed.1 {
                timed.1 = now + EXPIRE_AGAIN;
                ended.push(Command::Expire { lease: *lease, renewals: held.renewals });
            }
        }
        for command in ended {
            // Encoding a command without values cannot fail; if Raft drops it, it comes again.
            if let Ok(data) = serde_json::to_vec(&Proposal { id: None, command }) {
                self.core.propose(data);
            }
        }
    }
}

fn decode_state(snapshot: &RaftSnapshot) -> Result<State> {
    if snapshot.is_empty() {
        return Ok(State::default());
    }
    serde_json::from_slice(&snapshot.data)
        .context("the snapshot of the store is not understood; upgrade this node")
}
