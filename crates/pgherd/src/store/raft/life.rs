//! One life of a store directory: inputs and ticks in, fsync, messages and answers out.
//!
//! It drives the replica and asks the door who takes part; it decides nothing itself.
//! Invariant: a turn is durable before its messages leave and before its answers are given.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use raft::eraftpb::{ConfState, HardState, Message, MessageType, Snapshot as RaftSnapshot};
use serde_json::Value;
use tokio::sync::oneshot;

use super::core::{Standing as Leadership, Turn};
use super::disk::{Disk, Loaded};
use super::door::{Door, Place, judge};
use super::frame::{self, Answer as Reply, Body, Header, Hello, Verdict, Word};
use super::node::{Input, Node, SeatLost};
use super::pace::Pace;
use super::replica::{Answer, Replica, Ticket};
use super::report::{SeatReport, Standing};
use super::seats::names_in;
use crate::store::state::{Outcome, Seat, State};
use crate::store::{Entry, Snapshot, StoreError};

/// Inputs taken before the next write: more would only delay messages, fewer would waste fsyncs.
const BATCH_MAX: usize = 256;

/// A hello is a small frame to at most four peers.
const HELLO_EVERY: Duration = Duration::from_millis(200);

/// A node that was removed asks now and then whether it is wanted again.
const REMOVED_HELLO_EVERY: Duration = Duration::from_secs(5);

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

    /// Why a seat of this store may not take part.
    fn reproach(&self, id: u64, name: &str, header: &Header) -> Option<Verdict> {
        if self.replica.state().has_departed(id) {
            let wanted = self.replica.members().is_some_and(|members| members.contains(name));
            return Some(Verdict::Departed { wanted });
        }
        judge(self.door.marks.get(&id), header).err().map(|why| Verdict::Forgot { why })
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

    fn take_hello(&mut self, from: &str, header: Header, hello: Hello) -> Result<()> {
        let seat = header.seat(from);
        let id = seat.id();
        if header.store == 0 {
            self.door.knock(self.replica.now(), seat, hello);
            // Who has no seat itself has nothing to say about others'.
            let seated = matches!(self.door.place, Place::Unproven | Place::Seated);
            return if seated { self.reply(from, &header, Verdict::Fine) } else { Ok(()) };
        }
        if header.store != self.header.store || self.door.place == Place::Removed {
            return Ok(());
        }
        let verdict = self.reproach(id, from, &header);
        if verdict.is_none() {
            self.hear(id, from, &header)?;
        }
        self.reply(from, &header, verdict.unwrap_or(Verdict::Fine))
    }

    fn reply(&mut self, to: &str, header: &Header, verdict: Verdict) -> Result<()> {
        if verdict != Verdict::Fine {
            tracing::debug!(to, ?verdict, "refused a seat");
        }
        let answer = Reply { run: header.run, verdict, members: self.replica.members_record() };
        self.say(to, &Word::Answer(answer))
    }

    fn take_answer(&mut self, from: &str, header: Header, answer: Reply) -> Result<()> {
        let foreign = header.store == 0 || (self.header.store != 0 && header.store != self.header.store);
        if foreign || answer.run != self.header.run {
            return Ok(());
        }
        let Reply { verdict, members, .. } = answer;
        self.door.answered(header.seat(from).id(), &verdict);
        self.told = members.or(self.told.take());
        match verdict {
            Verdict::Forgot { why } => {
                bail!(SeatLost(format!("{from} remembers more than this node: {why}")))
            }
            Verdict::Departed { wanted: true } => bail!(SeatLost(format!(
                "{from} says that the seat of this directory was given up, while this node is still a member"
            ))),
            Verdict::Departed { wanted: false } => self.depart(),
            Verdict::Fine => Ok(()),
        }
    }

    fn depart(&mut self) -> Result<()> {
        if self.door.place != Place::Removed {
            self.disk.note_removed().context("note that this node was removed")?;
            self.door.place = Place::Removed;
            tracing::warn!("this node was removed from the cluster; its store takes no part any more");
        }
        Ok(())
    }

    /// Moves on when the time has come: founds the store, is let in, or finds itself removed.
    fn take_place(&mut self) -> Result<()> {
        if self.door.founds(self.replica.now(), &self.seat.name) {
            return self.found();
        }
        match self.door.place {
            Place::Unproven if self.door.proven(self.replica.id(), &self.replica.core().voters()) => {
                self.door.place = Place::Seated;
                Ok(())
            }
            Place::Seated | Place::Unproven if self.replica.state().has_departed(self.replica.id()) => {
                if self.replica.members().is_some_and(|members| members.contains(&self.seat.name)) {
                    bail!(SeatLost("the seat of this directory was given up".to_owned()));
                }
                self.depart()
            }
            _ => Ok(()),
        }
    }

    /// A store of one: the others are let in by the same way as everybody who comes later.
    fn found(&mut self) -> Result<()> {
        let id = self.replica.id();
        let store = rand::random::<u64>().max(1);
        let state = State::founded(id, self.seat.clone(), self.node.founding.clone());
        let mut snapshot = RaftSnapshot {
            data: serde_json::to_vec(&state).context("encode the first state")?.into(),
            ..RaftSnapshot::default()
        };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (1, 1);
        metadata.set_conf_state(ConfState { voters: vec![id], ..ConfState::default() });
        let hard_state = HardState { term: 1, commit: 1, ..HardState::default() };
        self.disk.found(store, &snapshot, &hard_state).context("write the first state of the store")?;
        tracing::info!(seeds = ?self.door.seeds, "founded the store");
        let mut log = super::log::Log { hard_state, ..super::log::Log::default() };
        log.install(snapshot);
        let node = self.node;
        let boot = self.header.boot;
        let now = self.replica.now();
        self.replica.answer_all("the store has just been founded");
        self.answer();
        self.replica = Replica::new(id, boot, log, node.timing, node.tick, node.snapshot_entries)?;
        self.replica.tick(now, false);
        self.header.store = store;
        self.door.place = Place::Seated;
        Ok(())
    }

    fn say_hello(&mut self) -> Result<()> {
        let every = match self.door.place {
            Place::Seated => return Ok(()),
            Place::Removed => REMOVED_HELLO_EVERY,
            Place::Newborn | Place::Unproven => HELLO_EVERY,
        };
        let now = self.replica.now();
        if now < self.next_hello {
            return Ok(());
        }
        self.next_hello = now + every;
        let others = self.door.disagreeing();
        if self.door.place == Place::Newborn && others != self.complained {
            tracing::warn!(nodes = ?others, own = ?self.door.seeds, "these nodes are configured with other [peers]: no store is founded with them");
            self.complained = others;
        }
        let word = Word::Hello(self.door.hello());
        for peer in self.peers() {
            self.say(&peer, &word)?;
        }
        Ok(())
    }

    /// Everybody who may know something of this node's seat.
    fn peers(&self) -> BTreeSet<String> {
        let told = self.told.as_ref().and_then(names_in).unwrap_or_default();
        let mut peers: BTreeSet<String> = self.replica.members().unwrap_or_default();
        peers.extend(told);
        peers.extend(self.door.seeds.iter().cloned());
        peers.remove(&self.seat.name);
        peers
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

    fn publish(&mut self) {
        let leadership = self.replica.standing();
        let leader = self.name_of(leadership.leader).cloned();
        if self.leadership != Some(leadership) {
            tracing::info!(
                store_term = leadership.term,
                store_leader = leader.as_deref().unwrap_or("none"),
                leads = leadership.leads,
                "the store's leadership changed"
            );
            self.leadership = Some(leadership);
        }
        if leader.is_some() {
            self.leader_seen = Some(Instant::now());
        }
        self.publish_seats();
        // A newcomer that has heard a leader, but not got the state yet, knows nothing.
        let state = self.replica.state();
        let connected = !state.seats().is_empty()
            && self.leader_seen.is_some_and(|seen| seen.elapsed() < self.node.grace);
        self.node.shared.watch.send_if_modified(|snapshot| {
            let entries = match snapshot.revision == state.revision() {
                true if snapshot.leader == leader && snapshot.connected == connected => return false,
                true => snapshot.entries.clone(),
                false if state.revision() < snapshot.revision => return false,
                false => state.entries(),
            };
            *snapshot = Arc::new(Snapshot { entries, revision: state.revision(), leader, connected });
            true
        });
    }

    fn publish_seats(&mut self) {
        let conf = self.replica.core().conf_state();
        let names = |ids: &[u64]| -> BTreeSet<String> {
            ids.iter().filter_map(|id| self.name_of(*id).cloned()).collect()
        };
        let id = self.replica.id();
        let standing = match self.door.place {
            Place::Removed => Standing::Removed,
            Place::Seated if conf.voters.contains(&id) => Standing::Voter,
            Place::Seated if conf.learners.contains(&id) => Standing::Learner,
            _ => Standing::Newcomer,
        };
        let (voters, learners) = (names(&conf.voters), names(&conf.learners));
        // Whoever takes part reads the record itself.
        let reads = self.door.place == Place::Seated && self.replica.members().is_some();
        let told = self.told.clone().filter(|_| !reads);
        self.node.shared.seats.send_if_modified(|report| {
            let now = SeatReport { standing, voters, learners, told, trouble: None };
            let changed = **report != now;
            if changed {
                *report = Arc::new(now);
            }
            changed
        });
    }
}
