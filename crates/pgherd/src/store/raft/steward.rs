//! Which change of seats the leader makes next, so that those who vote are the members of the record.
//!
//! `/members` says who belongs; this module moves one seat at a time towards it. A newcomer first learns, and votes once
//! it has caught up. A node that knocks with another directory than its seat's has lost that one: the seat goes, the
//! directory gets one of its own. It is a function of what the leader sees; it remembers nothing, so a new leader
//! goes on where the last one stopped.
//!
//! Invariant: no change leaves a set of voters of which no majority has been heard of lately.

use std::collections::{BTreeMap, BTreeSet};

use crate::store::state::Seat;

/// More voters are slower and hardly safer; the others stay learners.
pub(super) const VOTERS_MAX: usize = 5;

/// A learner this many entries behind has caught up: what a busy store writes in a blink.
const BEHIND_MAX: u64 = 32;

/// What the leader sees.
#[derive(Clone, Debug, Default)]
pub(super) struct Scene {
    pub own: u64,
    pub voters: BTreeSet<u64>,
    pub learners: BTreeSet<u64>,
    pub seats: BTreeMap<u64, Seat>,
    /// Heard of within the longest election timeout; this node itself included.
    pub alive: BTreeSet<u64>,
    /// Up to where each is known to have the log.
    pub matched: BTreeMap<u64, u64>,
    pub committed: u64,
    /// Names in the record.
    pub members: BTreeSet<String>,
    /// Who knocks without a seat.
    pub applicants: Vec<Seat>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    AddLearner(Seat),
    Promote(u64),
    Remove(u64),
    /// The leader itself has to go: another leads first.
    Transfer(u64),
}

impl Scene {
    pub fn next(&self) -> Option<Step> {
        self.removal().or_else(|| self.arrival()).or_else(|| self.promotion())
    }

    /// Whether a majority of `voters` has been heard of.
    fn would_live(&self, voters: &BTreeSet<u64>) -> bool {
        voters.intersection(&self.alive).count() > voters.len() / 2
    }

    /// Another directory of a node whose seat has fallen silent knocks.
    fn replaced(&self, id: u64) -> bool {
        let Some(seat) = self.seats.get(&id) else { return false };
        let other =
            |applicant: &&Seat| applicant.name == seat.name && applicant.incarnation != seat.incarnation;
        !self.alive.contains(&id) && self.applicants.iter().any(|applicant| other(&applicant))
    }

    fn removal(&self) -> Option<Step> {
        let foreign = |id: &u64| self.seats.get(id).is_none_or(|seat| !self.members.contains(&seat.name));
        let leaving = |id: &&u64| foreign(id) || self.replaced(**id);
        if let Some(id) = self.learners.iter().find(leaving) {
            return Some(Step::Remove(*id));
        }
        // The silent ones first: each of them makes the majority harder to reach.
        let mut candidates: Vec<u64> = self.voters.iter().filter(leaving).copied().collect();
        candidates.sort_by_key(|id| (*id == self.own, self.alive.contains(id)));
        candidates.into_iter().find_map(|id| {
            let mut rest = self.voters.clone();
            rest.remove(&id);
            match id {
                _ if !self.would_live(&rest) => None,
                id if id == self.own => self.heir(&rest).map(Step::Transfer),
                id => Some(Step::Remove(id)),
            }
        })
    }

    /// Who of `voters` leads next: alive, a member, and furthest.
    fn heir(&self, voters: &BTreeSet<u64>) -> Option<u64> {
        let stays = |id: &&u64| self.seats.get(id).is_some_and(|seat| self.members.contains(&seat.name));
        let fit = voters.intersection(&self.alive).filter(stays);
        fit.max_by_key(|id| self.matched.get(id).copied().unwrap_or(0)).copied()
    }

    fn arrival(&self) -> Option<Step> {
        let seated: BTreeSet<&str> = self.seats.values().map(|seat| seat.name.as_str()).collect();
        let new = |seat: &&Seat| self.members.contains(&seat.name) && !seated.contains(seat.name.as_str());
        self.applicants.iter().find(new).cloned().map(Step::AddLearner)
    }

    fn promotion(&self) -> Option<Step> {
        if self.voters.len() >= VOTERS_MAX {
            return None;
        }
        let near = |id: &&u64| {
            self.alive.contains(id)
                && self.matched.get(id).is_some_and(|at| *at > 0 && at + BEHIND_MAX >= self.committed)
        };
        let live = |id: &&u64| {
            let mut voters = self.voters.clone();
            voters.insert(**id);
            self.would_live(&voters)
        };
        self.learners.iter().filter(near).find(live).copied().map(Step::Promote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(name: &str, incarnation: u64) -> Seat {
        Seat { name: name.to_owned(), incarnation }
    }

    /// Node i has the seat i; `voters` vote, node 1 leads, all are alive and have everything.
    fn scene(voters: &[u64], members: &[u64]) -> Scene {
        let voters: BTreeSet<u64> = voters.iter().copied().collect();
        Scene {
            own: 1,
            seats: voters.iter().map(|id| (*id, seat(&format!("n{id}"), 0))).collect(),
            alive: voters.clone(),
            matched: voters.iter().map(|id| (*id, 100)).collect(),
            voters,
            committed: 100,
            members: members.iter().map(|id| format!("n{id}")).collect(),
            ..Scene::default()
        }
    }

    #[test]
    fn a_newcomer_learns_first_and_votes_once_it_has_caught_up() {
        let mut scene = scene(&[1], &[1, 2]);
        assert_eq!(scene.next(), None, "n2 has not been heard of");
        scene.applicants.push(seat("n3", 9));
        assert_eq!(scene.next(), None, "n3 is no member");
        scene.applicants.push(seat("n2", 9));
        assert_eq!(scene.next(), Some(Step::AddLearner(seat("n2", 9))));
        scene.seats.insert(2, seat("n2", 9));
        scene.learners.insert(2);
        scene.alive.insert(2);
        assert_eq!(scene.next(), None, "it has nothing yet");
        scene.matched.insert(2, 60);
        assert_eq!(scene.next(), None, "it is still behind");
        scene.matched.insert(2, 99);
        assert_eq!(scene.next(), Some(Step::Promote(2)));
        scene.alive.remove(&2);
        assert_eq!(scene.next(), None, "a silent learner would stop a store of two");
    }

    #[test]
    fn who_is_no_member_goes_the_silent_first_and_the_leader_last() {
        let mut scene = scene(&[1, 2, 3, 4, 5], &[4, 5]);
        scene.alive.remove(&3);
        assert_eq!(scene.next(), Some(Step::Remove(3)));
        scene.voters.remove(&3);
        assert_eq!(scene.next(), Some(Step::Remove(2)));
        scene.voters.remove(&2);
        assert!(matches!(scene.next(), Some(Step::Transfer(4 | 5))));
    }

    #[test]
    fn no_removal_takes_the_majority_away() {
        let mut scene = scene(&[1, 2, 3], &[1, 3]);
        scene.alive.remove(&3);
        assert_eq!(scene.next(), None, "n1 and a silent n3 would be left");
        scene.alive.insert(3);
        assert_eq!(scene.next(), Some(Step::Remove(2)));
        let mut last = self::scene(&[1], &[2]);
        assert_eq!(last.next(), None, "nobody would be left");
        last.members.clear();
        assert_eq!(last.next(), None);
    }

    #[test]
    fn a_lost_directory_loses_its_seat_before_the_node_gets_another() {
        let mut scene = scene(&[1, 2, 3], &[1, 2, 3]);
        scene.applicants.push(seat("n2", 7));
        assert_eq!(scene.next(), None, "its seat still speaks");
        scene.alive.remove(&2);
        assert_eq!(scene.next(), Some(Step::Remove(2)));
        scene.voters.remove(&2);
        scene.seats.remove(&2);
        assert_eq!(scene.next(), Some(Step::AddLearner(seat("n2", 7))));
    }

    #[test]
    fn a_sixth_stays_a_learner() {
        let mut scene = scene(&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5, 6]);
        scene.seats.insert(6, seat("n6", 0));
        scene.learners.insert(6);
        scene.alive.insert(6);
        scene.matched.insert(6, 100);
        assert_eq!(scene.next(), None);
        scene.members.remove("n2");
        assert_eq!(scene.next(), Some(Step::Remove(2)));
        scene.voters.remove(&2);
        assert_eq!(scene.next(), Some(Step::Promote(6)));
    }
}
