//! One life of a store directory: inputs and ticks in, fsync, messages and answers out.
//!
//! It drives the replica and asks the door who takes part; it decides nothing itself.
//! Invariant: a turn is durable before its messages leave and before its answers are given.

mod place;
mod publish;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use raft::eraftpb::{Message, MessageType};
use serde_json::Value;
use tokio::sync::oneshot;

use super::core::{Standing as Leadership, Turn};
use super::disk::{Disk, Loaded};
use super::door::{Door, Place};
use super::frame::{self, Body, Header, Word};
use super::node::{Input, Node};
use super::pace::Pace;
use super::replica::{Answer, Replica, Ticket};
use crate::store::state::{Outcome, Seat};
use crate::store::{Entry, StoreError};

/// Inputs taken before the next write: more would only delay messages, fewer would waste fsyncs.
const BATCH_MAX: usize = 256;

/// Ids whose names are remembered beside those of the seats: some lives of a few nodes.
const NAMES_MAX: usize = 64;

enum Caller {
    Execute(oneshot::Sender<Result<Outcome, StoreError>>),
    Read(oneshot::Sender<Result<Option<Entry>, StoreError>>),
}

pub(super) struct Life<'a> {
    node: &'a Node,
    replica: Replica,
    disk: Disk,
    door: Door,
    seat: Seat,
    header: Header,
    /// Raft id → name, as heard; seats that this node has not applied yet are among them.
    names: BTreeMap<u64, String>,
    pace: Pace,
    told: Option<Value>,
    /// Nodes of which it was said that they name other seeds.
    complained: Vec<String>,
    started: Instant,
    next_tick: Instant,
    next_hello: Duration,
    callers: HashMap<Ticket, Caller>,
    next_ticket: Ticket,
    leadership: Option<Leadership>,
    leader_seen: Option<Instant>,
}

impl<'a> Life<'a> {
    pub fn new(node: &'a Node, loaded: Loaded) -> Result<Life<'a>> {
        let Loaded { disk, log, seat, store, first_start, removed, boot, start, marks } = loaded;
        let id = seat.id();
        let place = match store {
            _ if removed => Place::Removed,
            None => Place::Newborn,
            Some(_) if log.conf_state().voters == [id] => Place::Seated,
            Some(_) => Place::Unproven,
        };
        let header = Header {
            store: store.unwrap_or(0),
            incarnation: seat.incarnation,
            boot,
            run: rand::random(),
            start,
            generation: disk.generation(),
            pace: 0,
        };
        let first_start = first_start && node.first_start;
        let replica = Replica::new(id, boot, log, node.timing, node.tick, node.snapshot_entries)
            .with_context(|| format!("start the store in {}", node.dir.display()))?;
        let now = Instant::now();
        Ok(Life {
            node,
            replica,
            disk,
            door: Door::new(place, first_start, node.seeds.clone(), marks),
            seat,
            header,
            names: BTreeMap::new(),
            pace: Pace::default(),
            told: None,
            complained: Vec::new(),
            started: now,
            next_tick: now + node.tick,
            next_hello: Duration::ZERO,
            callers: HashMap::new(),
            next_ticket: 0,
            leadership: None,
            leader_seen: None,
        })
    }

    pub fn drive(&mut self, inputs: &Receiver<Input>) -> Result<()> {
        loop {
            self.take_place()?;
            self.take_turns()?;
            self.answer();
            self.publish();
            if self.node.shared.stop.load(Ordering::SeqCst) {
                return Ok(());
            }
            match inputs.recv_timeout(self.next_tick.saturating_duration_since(Instant::now())) {
                Ok(input) => {
                    self.take(input)?;
                    for input in inputs.try_iter().take(BATCH_MAX - 1) {
                        self.take(input)?;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.node.shared.stop.store(true, Ordering::SeqCst);
                    return Ok(());
                }
            }
            self.tick()?;
        }
    }

    /// After the inputs, so that a node that was frozen first hears what it missed; and never twice for lost time,
    /// because a burst of ticks would look like silence of the leader.
    fn tick(&mut self) -> Result<()> {
        let now = Instant::now();
        if now < self.next_tick {
            return Ok(());
        }
        let (id, voters) = (self.replica.id(), self.replica.core().voters());
        let tick = self.pace.tick(self.node.tick, self.node.timing.election_ticks, id, &voters);
        self.replica.set_patience(tick * self.node.timing.election_ticks as u32 * 2);
        self.next_tick = (self.next_tick + tick).max(now);
        self.replica.tick(now - self.started, self.door.place == Place::Seated);
        self.door.forget_old(self.replica.now());
        let applicants = self.door.applicants.values().map(|applicant| applicant.seat.clone()).collect();
        if let Some(step) = self.replica.move_seats(applicants) {
            tracing::info!(?step, "the store's leader changes the seats");
        }
        self.say_hello()
    }

    fn take(&mut self, input: Input) -> Result<()> {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        match input {
            Input::Frame(from, bytes) => match frame::decode(&from, self.replica.id(), &bytes) {
                Ok((header, Body::Raft(message))) => self.take_message(&from, header, *message)?,
                Ok((header, Body::Word(Word::Hello(hello)))) => self.take_hello(&from, header, hello)?,
                Ok((header, Body::Word(Word::Answer(answer)))) => self.take_answer(&from, header, answer)?,
                Err(error) => {
                    tracing::debug!(from, error = format!("{error:#}"), "dropped a frame of the store")
                }
            },
            Input::Execute(command, reply) => {
                self.callers.insert(ticket, Caller::Execute(reply));
                self.replica.execute(ticket, command);
            }
            Input::Read(key, reply) => {
                self.callers.insert(ticket, Caller::Read(reply));
                self.replica.read(ticket, key);
            }
        }
        Ok(())
    }

    fn take_message(&mut self, from: &str, header: Header, message: Message) -> Result<()> {
        if self.door.place == Place::Newborn && header.store != 0 {
            // Only a store whose leader has given this seat its place knows the seat's id.
            self.disk.join(header.store).context("note which store this node belongs to")?;
            self.header.store = header.store;
            self.door.place = Place::Seated;
        }
        if header.store != self.header.store {
            tracing::debug!(from, "dropped a message of another store");
            return Ok(());
        }
        if let Some(verdict) = self.reproach(message.from, from, &header) {
            return self.reply(from, &header, verdict);
        }
        self.hear(message.from, from, &header)?;
        if self.door.place == Place::Seated {
            self.replica.heard_of(message.from);
            self.replica.step(message)?;
        }
        Ok(())
    }

    /// Keeps what a frame tells of its sender.
    fn hear(&mut self, id: u64, name: &str, header: &Header) -> Result<()> {
        if self.names.len() < NAMES_MAX || self.names.contains_key(&id) {
            self.names.insert(id, name.to_owned());
        }
        let new_life = self.door.heard(id, header);
        self.pace.heard(id, header.pace);
        let seats = self.replica.state().seats();
        if self.door.marks.len() > NAMES_MAX {
            self.door.marks.retain(|id, _| seats.contains_key(id));
        }
        self.disk.keep_marks(&self.door.marks);
        if new_life {
            self.disk.touch().context("note that a peer has started anew")?;
        }
        Ok(())
    }

    fn now_header(&self) -> Header {
        Header { generation: self.disk.generation(), pace: self.pace.own_ms(), ..self.header }
    }

    /// A word that the link does not take is said again, or asked for again.
    fn say(&self, to: &str, word: &Word) -> Result<()> {
        let frame = frame::encode_word(&self.now_header(), word)?;
        let _ = self.node.outgoing.try_send((to.to_owned(), frame));
        Ok(())
    }

    fn take_turns(&mut self) -> Result<()> {
        while let Some(mut turn) = self.replica.turn() {
            let mut lost = Vec::new();
            let first = std::mem::take(&mut turn.first);
            self.send(first, &mut lost)?;
            self.persist(&turn)?;
            let then = self.replica.persisted(turn)?;
            if self.replica.seats_changed {
                self.compact()?;
            }
            self.send(then, &mut lost)?;
            self.report(lost);
        }
        self.compact()
    }

    fn compact(&mut self) -> Result<()> {
        if let Some((upto, snapshot)) = self.replica.due_snapshot()? {
            let hard_state = self.replica.core().hard_state();
            self.disk.compact(upto, &snapshot, &hard_state).context("keep a snapshot of the store")?;
            self.replica.compacted(upto.0, snapshot);
        }
        Ok(())
    }

    fn persist(&mut self, turn: &Turn) -> Result<()> {
        if !turn.must_sync {
            return Ok(());
        }
        let begun = Instant::now();
        self.disk
            .persist(turn.snapshot.as_ref(), &turn.entries, turn.hard_state.as_ref())
            .context("write the store's log")?;
        self.pace.wrote(begun.elapsed());
        Ok(())
    }

    fn name_of(&self, id: u64) -> Option<&String> {
        self.replica.state().seats().get(&id).map(|seat| &seat.name).or_else(|| self.names.get(&id))
    }

    /// Messages that the link does not take at once are lost, which Raft tolerates, but must be told of.
    fn send(&self, messages: Vec<Message>, sent: &mut Vec<(u64, MessageType, bool)>) -> Result<()> {
        let header = self.now_header();
        for message in messages {
            let Some(name) = self.name_of(message.to) else { continue };
            let frame = frame::encode_raft(&header, &message)?;
            let taken = self.node.outgoing.try_send((name.clone(), frame)).is_ok();
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

    fn answer(&mut self) {
        for (ticket, answer) in self.replica.take_answers() {
            // A caller that went away wants no answer.
            match (self.callers.remove(&ticket), answer) {
                (Some(Caller::Execute(reply)), Answer::Executed(result)) => drop(reply.send(result)),
                (Some(Caller::Read(reply)), Answer::Read(result)) => drop(reply.send(result)),
                _ => {}
            }
        }
    }
}
