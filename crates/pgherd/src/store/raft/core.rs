//! Raft without input and output: messages, ticks and proposals in; what to persist, send and apply out.
//!
//! It wraps raft-rs, keeps its rules about the order of things, and knows no clock, socket or file. The caller must
//! make each [`Turn`] durable before it calls [`Core::persisted`], and has done nothing else with the core in between.
//!
//! Invariant: a message that speaks of a vote, a term or an entry leaves only after that is durable. (A leader's own
//! appends may overtake its own fsync; its own copy then does not count until it is durable.)

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use raft::eraftpb::{ConfChange, ConfState, Entry, HardState, Message, MessageType, Snapshot};
use raft::{Config, RawNode, ReadOnlyOption, ReadState, Ready, SnapshotStatus, StateRole};

use super::log::Log;

/// One append carries at most about this much, so that a lagging follower does not stall heartbeats.
const APPEND_BYTES_MAX: u64 = 256 << 10;
/// Appends in flight to one follower. 64 × 256 KiB = 16 MiB is the most that the peer link must buffer.
const APPENDS_IN_FLIGHT_MAX: usize = 64;
/// What a leader without a majority may pile up before it drops proposals: 16 transactions of the greatest size.
const UNCOMMITTED_BYTES_MAX: u64 = 16 << 20;

/// How long things take, in ticks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// A follower that hears nothing stands for election after this many ticks up to twice as many.
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    /// A caller has an answer by then, if only that none can be given.
    pub deadline: Duration,
}

pub(super) struct Core {
    node: RawNode<Log>,
}

/// What must be done, in this order: send `first`, make the rest durable, call [`Core::persisted`].
pub(super) struct Turn {
    pub first: Vec<Message>,
    pub snapshot: Option<Snapshot>,
    pub entries: Vec<Entry>,
    pub hard_state: Option<HardState>,
    /// False: nothing but the commit index changed, which may be written with the next turn.
    pub must_sync: bool,
    ready: Ready,
}

/// What a durable turn allows, in this order.
#[derive(Default)]
pub(super) struct Done {
    pub send: Vec<Message>,
    pub install: Option<Snapshot>,
    pub apply: Vec<Entry>,
    pub reads: Vec<ReadState>,
}

/// Whom this node takes for the leader; 0 is nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub term: u64,
    pub leader: u64,
    pub leads: bool,
}

/// A leader counts on entries that this directory does not have: it has lost them. It may also have forgotten a vote.
#[derive(Debug, thiserror::Error)]
#[error(
    "the store directory ends at entry {last}, but it had confirmed entry {confirmed}: it was replaced, restored or damaged"
)]
pub(super) struct Forgotten {
    last: u64,
    confirmed: u64,
}

impl Core {
    /// The state machine must stand at the log's snapshot (index 0 without one).
    pub fn new(id: u64, log: Log, timing: Timing) -> Result<Self> {
        let config = Config {
            id,
            applied: log.snapshot.get_metadata().index,
            election_tick: timing.election_ticks,
            heartbeat_tick: timing.heartbeat_ticks,
            max_size_per_msg: APPEND_BYTES_MAX,
            max_inflight_msgs: APPENDS_IN_FLIGHT_MAX,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            ..Config::default()
        };
        let alone = log.conf_state().voters == [id];
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let mut node = RawNode::new(&config, log, &logger).context("start Raft")?;
        if alone {
            // Nobody else could win, so waiting out the election timeout would serve nothing.
            node.campaign().context("stand for election alone")?;
        }
        Ok(Self { node })
    }

    pub fn tick(&mut self) {
        self.node.tick();
    }

    /// Takes a message that has passed `frame::decode`. An error means that this directory must not go on.
    pub fn step(&mut self, message: Message) -> Result<()> {
        // A leader tells a follower to commit only what that follower has confirmed (raft-rs would panic).
        let last = self.node.raft.raft_log.last_index();
        if message.get_msg_type() == MessageType::MsgHeartbeat
            && message.term >= self.node.raft.term
            && message.commit > last
        {
            return Err(Forgotten { last, confirmed: message.commit }.into());
        }
        // What raft-rs refuses (unknown peer, dropped proposal) is like a lost message.
        let _ = self.node.step(message);
        Ok(())
    }

    /// False: it was dropped here, for sure.
    pub fn propose(&mut self, data: Vec<u8>) -> bool {
        self.node.propose(Vec::new(), data).is_ok()
    }

    /// Proposes a change of one seat; false: dropped here. Raft drops it, too, while an earlier one is not applied.
    pub fn propose_change(&mut self, change: ConfChange) -> bool {
        !self.node.raft.has_pending_conf() && self.node.propose_conf_change(Vec::new(), change).is_ok()
    }

    /// Lets a committed change count from now on. The caller makes it durable before anything else leaves this node.
    pub fn apply_change(&mut self, change: &ConfChange) -> Result<()> {
        self.node.apply_conf_change(change).context("apply a change of seats").map(drop)
    }

    /// Who votes and who learns, as applied.
    pub fn conf_state(&self) -> ConfState {
        self.node.raft.prs().conf().to_conf_state()
    }

    pub fn voters(&self) -> BTreeSet<u64> {
        self.conf_state().voters.into_iter().collect()
    }

    /// Up to where each seat is known to have the log; of use on the leader only.
    pub fn matched(&self) -> BTreeMap<u64, u64> {
        self.node.raft.prs().iter().map(|(id, progress)| (*id, progress.matched)).collect()
    }

    pub fn committed(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    pub fn transfer_leader(&mut self, to: u64) {
        self.node.transfer_leader(to);
    }

    /// May be lost without notice, so the caller asks again under a new context.
    pub fn read_index(&mut self, context: Vec<u8>) {
        self.node.read_index(context);
    }

    /// The link to the node failed to take a message.
    pub fn report_unreachable(&mut self, id: u64) {
        self.node.report_unreachable(id);
    }

    /// Without this report the leader would never send anything again to a follower whose snapshot was lost.
    pub fn report_snapshot(&mut self, id: u64, sent: bool) {
        self.node.report_snapshot(id, if sent { SnapshotStatus::Finish } else { SnapshotStatus::Failure });
    }

    pub fn standing(&self) -> Standing {
        let raft = &self.node.raft;
        Standing { term: raft.term, leader: raft.leader_id, leads: raft.state == StateRole::Leader }
    }

    pub fn log(&self) -> &Log {
        self.node.store()
    }

    /// Follows a compaction that is already durable.
    pub fn compacted(&mut self, index: u64, snapshot: Snapshot) {
        self.node.mut_store().compact(index, snapshot);
    }

    pub fn hard_state(&self) -> HardState {
        self.node.raft.hard_state()
    }

    pub fn turn(&mut self) -> Option<Turn> {
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        let snapshot = Some(ready.snapshot()).filter(|snapshot| !snapshot.is_empty()).cloned();
        Some(Turn {
            first: ready.take_messages(),
            snapshot,
            entries: ready.take_entries(),
            hard_state: ready.hs().cloned(),
            must_sync: ready.must_sync(),
            ready,
        })
    }

    pub fn persisted(&mut self, turn: Turn) -> Done {
        let Turn { snapshot, entries, hard_state, mut ready, .. } = turn;
        let log = self.node.mut_store();
        if let Some(snapshot) = &snapshot {
            log.install(snapshot.clone());
        }
        log.append(&entries);
        if let Some(hard_state) = hard_state {
            log.hard_state = hard_state;
        }
        let mut done = Done {
            send: ready.take_persisted_messages(),
            install: snapshot,
            apply: ready.take_committed_entries(),
            reads: ready.take_read_states(),
        };
        let mut more = self.node.advance(ready);
        if let Some(commit) = more.commit_index() {
            self.node.mut_store().hard_state.commit = commit;
        }
        done.send.extend(more.take_messages());
        done.apply.extend(more.take_committed_entries());
        // The caller applies at once and in order, so Raft may count it as applied.
        self.node.advance_apply();
        done
    }
}
