//! Who is there, and who votes in the store: `/members` as people change it, and the seats that follow it.
//!
//! What it is not: Raft. A newcomer is given its seat when its agent first reads the store that lists it; who is listed no
//! more has lost it. Invariant: without `/members` every node has a seat, as the plan says.

use brain::{Commit, Key, MemberRecord, MembersRecord, NodeKind, Put, View};

use crate::world::World;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seat {
    /// There is no machine of this name yet.
    Absent,
    /// It learns and has no vote.
    Learner,
    Voter,
    /// It was removed.
    Gone,
}

pub struct Seats(Vec<Seat>);

impl Seats {
    pub fn of(count: usize) -> Seats {
        Seats(vec![Seat::Voter; count])
    }

    pub fn voters(&self) -> impl Iterator<Item = usize> {
        (0..self.0.len()).filter(|node| self.0[*node] == Seat::Voter)
    }

    pub fn is_absent(&self, node: usize) -> bool {
        self.0[node] == Seat::Absent
    }

    /// It belongs to the cluster and votes.
    pub fn is_voter(&self, node: usize) -> bool {
        self.0[node] == Seat::Voter
    }

    /// There is no such machine, until it joins.
    pub fn set_absent(&mut self, node: usize) {
        self.0[node] = Seat::Absent;
    }
}

impl World {
    /// Somebody adds this node: the record first, then its process.
    pub fn join(&mut self, node: usize) {
        self.change_members(
            |members, name| {
                members.removed.remove(name);
                members.nodes.insert(name.clone(), member(name));
            },
            node,
        );
        self.seats.0[node] = Seat::Learner;
        self.start_agent(node);
    }

    /// Somebody removes this node: it is marked, and the primary lets it go.
    pub fn leave(&mut self, node: usize) {
        self.change_members(
            |members, name| {
                members.nodes.entry(name.clone()).and_modify(|record| record.leaving = true);
            },
            node,
        );
    }

    fn change_members(&mut self, change: impl Fn(&mut MembersRecord, &brain::NodeName), node: usize) {
        let stored = self.store.newest().members.clone();
        let present = |node: &usize| self.seats.is_voter(*node);
        let listed = (0..self.nodes.len()).filter(present).map(|node| {
            let host = &self.nodes[node];
            let kind = if host.full { NodeKind::Full } else { NodeKind::Witness };
            (host.name.clone(), MemberRecord { kind, ..member(&host.name) })
        });
        let (mut members, version) = match stored {
            Some(stored) => (stored.value, stored.version),
            None => (MembersRecord { nodes: listed.collect(), ..MembersRecord::default() }, 0),
        };
        let name = self.nodes[node].name.clone();
        change(&mut members, &name);
        let commit = Commit { conditions: vec![(Key::Members, version)], puts: vec![Put::Members(members)] };
        if self.store.commit(&commit) {
            self.store_changed(node);
        }
    }

    /// What an agent has read says who belongs to the cluster; a newcomer that finds itself there is given its seat.
    pub fn follow_members(&mut self, node: usize) {
        let Some(agent) = self.nodes[node].agent.as_mut() else { return };
        let View { settings, memory, store, me, .. } = &mut agent.view;
        let Some(members) = &store.members else { return };
        settings.follow(&members.value);
        memory.peers.retain(|peer, _| settings.voters.contains(peer));
        let name = me.clone();
        let listed = members.value.nodes.contains_key(&name);
        let seat = &mut self.seats.0[node];
        match (*seat, listed) {
            (Seat::Learner, true) => *seat = Seat::Voter,
            _ => return,
        }
        self.stepped(node, "seated");
    }

    /// The record has let nodes go: they have no vote any more.
    pub fn unseat(&mut self) {
        let Some(members) = &self.store.newest().members else { return };
        for (node, seat) in self.seats.0.iter_mut().enumerate() {
            let listed = members.value.nodes.contains_key(&self.nodes[node].name);
            if *seat == Seat::Voter && !listed {
                *seat = Seat::Gone;
            }
        }
    }

    /// It belongs to the cluster and is to stay.
    pub fn stays(&self, node: usize) -> bool {
        let members = self.store.newest().members.as_ref();
        let listed = |members: &brain::Versioned<MembersRecord>| {
            members.value.nodes.get(&self.nodes[node].name).is_some_and(|record| !record.leaving)
        };
        members.map_or(self.seats.is_voter(node), listed)
    }
}

fn member(name: &brain::NodeName) -> MemberRecord {
    let address = |port: u16| format!("{name}:{port}");
    MemberRecord { kind: NodeKind::Full, peer: address(7432), postgres: Some(address(5432)), leaving: false }
}
