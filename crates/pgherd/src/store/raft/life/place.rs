//! A directory's place in the store: it founds one, is let in, is told that its seat is gone, and says so to others.
//!
//! Who may take part is the door's judgement; this is the conversation around it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use raft::eraftpb::{ConfState, HardState, Snapshot as RaftSnapshot};

use super::Life;
use crate::store::raft::door::{Place, judge};
use crate::store::raft::frame::{Answer as Reply, Header, Hello, Verdict, Word};
use crate::store::raft::log::Log;
use crate::store::raft::node::SeatLost;
use crate::store::raft::replica::Replica;
use crate::store::raft::seats::names_in;
use crate::store::state::State;

/// A hello is a small frame to at most four peers.
const HELLO_EVERY: Duration = Duration::from_millis(200);

/// A node that was removed asks now and then whether it is wanted again.
const REMOVED_HELLO_EVERY: Duration = Duration::from_secs(5);

impl Life<'_> {
    /// Moves on when the time has come: founds the store, is let in, or finds itself removed.
    pub(super) fn take_place(&mut self) -> Result<()> {
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
        let mut log = Log { hard_state, ..Log::default() };
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

    pub(super) fn say_hello(&mut self) -> Result<()> {
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

    pub(super) fn take_hello(&mut self, from: &str, header: Header, hello: Hello) -> Result<()> {
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

    /// Why a seat of this store may not take part.
    pub(super) fn reproach(&self, id: u64, name: &str, header: &Header) -> Option<Verdict> {
        if self.replica.state().has_departed(id) {
            let wanted = self.replica.members().is_some_and(|members| members.contains(name));
            return Some(Verdict::Departed { wanted });
        }
        judge(self.door.marks.get(&id), header).err().map(|why| Verdict::Forgot { why })
    }

    pub(super) fn reply(&mut self, to: &str, header: &Header, verdict: Verdict) -> Result<()> {
        if verdict != Verdict::Fine {
            tracing::debug!(to, ?verdict, "refused a seat");
        }
        let answer = Reply { run: header.run, verdict, members: self.replica.members_record() };
        self.say(to, &Word::Answer(answer))
    }

    pub(super) fn take_answer(&mut self, from: &str, header: Header, answer: Reply) -> Result<()> {
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
}
