//! The thread that drives a replica: inputs and ticks in, fsync, messages and answers out.
//!
//! It is a thread of its own because it waits for the disk. It decides nothing. When the disk or the protocol fails it
//! stops for good and says why; a store that went on after a failed write could break its word.
//!
//! Invariant: a turn is durable before its messages leave and before its answers are given.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use raft::eraftpb::{Message, MessageType};
use tokio::sync::{mpsc, oneshot, watch};

use super::core::{Standing, Turn};
use super::disk::{Disk, guarded};
use super::identity::encode_frame;
use super::replica::{Answer, Replica, Ticket};
use crate::store::state::{Command, Outcome};
use crate::store::{Entry, Snapshot, StoreError};

/// Inputs taken before the next write: more would only delay messages, fewer would waste fsyncs.
const BATCH_MAX: usize = 256;

pub(super) enum Input {
    Message(Box<Message>),
    Execute(Command, oneshot::Sender<Result<Outcome, StoreError>>),
    Read(String, oneshot::Sender<Result<Option<Entry>, StoreError>>),
}

enum Reply {
    Execute(oneshot::Sender<Result<Outcome, StoreError>>),
    Read(oneshot::Sender<Result<Option<Entry>, StoreError>>),
}

/// What the thread and the handle share.
pub(super) struct Shared {
    pub stop: AtomicBool,
    /// Why the thread ended by itself.
    pub failure: OnceLock<String>,
    pub watch: watch::Sender<Arc<Snapshot>>,
}

pub(super) struct Node {
    pub replica: Replica,
    pub disk: Disk,
    pub shared: Arc<Shared>,
    pub fingerprint: u64,
    /// Raft id → name, of all voters.
    pub names: BTreeMap<u64, String>,
    pub tick: Duration,
    /// For this long after a leader was last known the node calls itself connected.
    pub grace: Duration,
    pub outgoing: mpsc::Sender<(String, Vec<u8>)>,
}

/// What changes while the thread runs.
struct Run {
    started: Instant,
    next_tick: Instant,
    replies: HashMap<Ticket, Reply>,
    next_ticket: Ticket,
    standing: Option<Standing>,
    leader_seen: Option<Instant>,
}

impl Node {
    /// Runs until told to stop, or until it must.
    pub fn run(mut self, inputs: Receiver<Input>) {
        let shared = self.shared.clone();
        if let Err(error) = guarded(|| self.drive(&inputs)) {
            let reason = format!("{error:#}");
            tracing::error!(%reason, "the store of this node has stopped");
            // Only this thread sets it, and only here.
            let _ = shared.failure.set(reason);
        }
        shared.watch.send_modify(|snapshot| {
            *snapshot = Arc::new(Snapshot { leader: None, connected: false, ..(**snapshot).clone() });
        });
    }

    fn drive(&mut self, inputs: &Receiver<Input>) -> Result<()> {
        let started = Instant::now();
        let mut run = Run {
            started,
            next_tick: started + self.tick,
            replies: HashMap::new(),
            next_ticket: 0,
            standing: None,
            leader_seen: None,
        };
        loop {
            self.take_turns()?;
            self.answer(&mut run);
            self.publish(&mut run);
            if self.shared.stop.load(Ordering::SeqCst) {
                return Ok(());
            }
            let wait = run.next_tick.saturating_duration_since(Instant::now());
            match inputs.recv_timeout(wait) {
                Ok(input) => {
                    self.take(input, &mut run)?;
                    for input in inputs.try_iter().take(BATCH_MAX - 1) {
                        self.take(input, &mut run)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.tick(&mut run);
        }
    }

    /// After the inputs, so that a node that was frozen first hears what it missed; and never twice for lost time,
    /// because a burst of ticks would look like silence of the leader.
    fn tick(&mut self, run: &mut Run) {
        let now = Instant::now();
        if now >= run.next_tick {
            run.next_tick = (run.next_tick + self.tick).max(now);
            self.replica.tick(now - run.started);
        }
    }

    fn take(&mut self, input: Input, run: &mut Run) -> Result<()> {
        run.next_ticket += 1;
        let ticket = run.next_ticket;
        match input {
            Input::Message(message) => self.replica.step(*message)?,
            Input::Execute(command, reply) => {
                run.replies.insert(ticket, Reply::Execute(reply));
                self.replica.execute(ticket, command);
            }
            Input::Read(key, reply) => {
                run.replies.insert(ticket, Reply::Read(reply));
                self.replica.read(ticket, key);
            }
        }
        Ok(())
    }

    fn take_turns(&mut self) -> Result<()> {
        while let Some(mut turn) = self.replica.turn() {
            let mut lost = Vec::new();
            let first = std::mem::take(&mut turn.first);
            self.send(first, &mut lost)?;
            self.persist(&turn)?;
            let then = self.replica.persisted(turn)?;
            self.send(then, &mut lost)?;
            self.report(lost);
        }
        if let Some(((index, term), snapshot)) = self.replica.due_snapshot()? {
            let hard_state = self.replica.core().hard_state();
            self.disk
                .compact((index, term), &snapshot, &hard_state)
                .context("keep a snapshot of the store")?;
            self.replica.compacted(index, snapshot);
        }
        Ok(())
    }

    fn persist(&self, turn: &Turn) -> Result<()> {
        if !turn.must_sync {
            return Ok(());
        }
        self.disk
            .persist(turn.snapshot.as_ref(), &turn.entries, turn.hard_state.as_ref())
            .context("write the store's log (is the disk full?)")
    }

    /// Messages that the link does not take at once are lost, which Raft tolerates, but must be told of.
    fn send(&self, messages: Vec<Message>, sent: &mut Vec<(u64, MessageType, bool)>) -> Result<()> {
        for message in messages {
            let Some(name) = self.names.get(&message.to) else { continue };
            let frame = encode_frame(self.fingerprint, &message)?;
            let taken = self.outgoing.try_send((name.clone(), frame)).is_ok();
            sent.push((message.to, message.get_msg_type(), taken));
        }
        Ok(())
    }

    fn report(&mut self, sent: Vec<(u64, MessageType, bool)>) {
        let core = self.replica.core();
        for (to, kind, taken) in sent {
            if kind == MessageType::MsgSnapshot {
                core.report_snapshot(to, taken);
            } else if !taken {
                core.report_unreachable(to);
            }
        }
    }

    fn answer(&mut self, run: &mut Run) {
        for (ticket, answer) in self.replica.take_answers() {
            // A caller that went away wants no answer.
            match (run.replies.remove(&ticket), answer) {
                (Some(Reply::Execute(reply)), Answer::Executed(result)) => drop(reply.send(result)),
                (Some(Reply::Read(reply)), Answer::Read(result)) => drop(reply.send(result)),
                _ => {}
            }
        }
    }

    fn publish(&mut self, run: &mut Run) {
        let standing = self.replica.standing();
        let leader = self.names.get(&standing.leader).cloned();
        if run.standing != Some(standing) {
            tracing::info!(
                store_term = standing.term,
                store_leader = leader.as_deref().unwrap_or("none"),
                leads = standing.leads,
                "the store's leadership changed"
            );
            run.standing = Some(standing);
        }
        if leader.is_some() {
            run.leader_seen = Some(Instant::now());
        }
        let connected = run.leader_seen.is_some_and(|seen| seen.elapsed() < self.grace);
        let state = self.replica.state();
        self.shared.watch.send_if_modified(|snapshot| {
            let entries = match snapshot.revision == state.revision() {
                true if snapshot.leader == leader && snapshot.connected == connected => return false,
                true => snapshot.entries.clone(),
                false => state.entries(),
            };
            *snapshot = Arc::new(Snapshot { entries, revision: state.revision(), leader, connected });
            true
        });
    }
}
