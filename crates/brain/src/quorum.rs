//! The arithmetic of (S, k): which answers a takeover needs, and which changes of the sync set are safe.
//!
//! What it is: pure set arithmetic, checked by brute force over every world of up to five members (tests below).
//! What it is not: a decision; `sync_set` picks changes, this module says whether one may be made.
//! Invariant: while the store holds `store` and PostgreSQL may acknowledge by `postgres`, `covers(store, postgres)`.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::MemberId;
use crate::mutation::{Mutation, is_on};

/// (S, k): a commit is acknowledged once k members of S have flushed it. k = 0 acknowledges alone.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SyncSet {
    pub members: BTreeSet<MemberId>,
    pub k: usize,
}

impl SyncSet {
    pub fn new(members: impl IntoIterator<Item = MemberId>, k: usize) -> SyncSet {
        SyncSet { members: members.into_iter().collect(), k }
    }

    /// How many members must answer before a takeover may choose: |S| − k + 1, so that every possible
    /// acknowledging set of size k has a member among them. With k = 0 no number of answers is enough.
    pub fn answers_needed(&self) -> usize {
        let margin = if is_on(Mutation::AnswerFewer) { 0 } else { 1 };
        self.members.len() + margin - self.k.min(self.members.len())
    }

    /// True when `answered` of the members suffice for choosing a new primary.
    pub fn may_choose(&self, answered: usize) -> bool {
        self.k > 0 && self.k <= self.members.len() && answered >= self.answers_needed()
    }

    pub fn with(&self, member: &MemberId) -> SyncSet {
        let mut changed = self.clone();
        changed.members.insert(member.clone());
        changed
    }

    /// It does not become smaller: with k ≥ 1 commits would wait, and with k = 0 the last member stays for the next to come.
    pub fn has_nobody_to_spare(&self) -> bool {
        self.members.len() <= self.k.max(1)
    }

    pub fn without(&self, member: &MemberId) -> SyncSet {
        let mut changed = self.clone();
        changed.members.remove(member);
        changed
    }

    pub fn with_k(&self, k: usize) -> SyncSet {
        SyncSet { members: self.members.clone(), k }
    }
}

impl fmt::Display for SyncSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<&str> = self.members.iter().map(|member| member.0.as_str()).collect();
        write!(f, "ANY {} ({})", self.k, members.join(", "))
    }
}

/// True when every takeover that counts by `store` meets every acknowledgement given by `postgres`: an
/// acknowledging set takes at most |Sp \ S| members from outside S, so at least kp − |Sp \ S| from inside; k of S
/// inside are met by any |S| − k + 1 answers.
///
/// With k = 0 in the store no answers suffice, so there is nothing to meet: only the primary itself, which has everything,
/// goes on (or, in asynchronous mode, whoever is furthest, by the operator's choice).
pub fn covers(store: &SyncSet, postgres: &SyncSet) -> bool {
    if store.k == 0 {
        return postgres.k <= postgres.members.len();
    }
    let strangers = postgres.members.difference(&store.members).count();
    postgres.k <= postgres.members.len()
        && store.k <= store.members.len()
        && postgres.k >= store.k + strangers
}

/// What PostgreSQL may acknowledge by while a reload from `old` to `new` is under way: each walsender counts by
/// the configuration it has applied, so any member of either set, with the smaller k.
pub fn during_reload(old: &SyncSet, new: &SyncSet) -> SyncSet {
    SyncSet::new(old.members.union(&new.members).cloned(), old.k.min(new.k))
}

/// True when PostgreSQL, acknowledging by `in_force`, may be told `new` while the store holds `store`.
pub fn may_apply(store: &SyncSet, in_force: &SyncSet, new: &SyncSet) -> bool {
    covers(store, new) && covers(store, &during_reload(in_force, new))
}

/// True when the store may be changed from `store` to `new` while PostgreSQL acknowledges by `in_force`.
/// `flushed` says that k of `new` have flushed the LSN measured after `in_force` was in force: it is what makes
/// older acknowledgements safe when `new` asks for fewer answers than they count on.
pub fn may_record(store: &SyncSet, in_force: &SyncSet, new: &SyncSet, flushed: bool) -> bool {
    covers(new, in_force) && (covers(new, store) || flushed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(index: usize) -> MemberId {
        MemberId(format!("m{index}"))
    }

    fn set(mask: u32, k: usize) -> SyncSet {
        SyncSet::new((0..5).filter(|i| mask & (1 << i) != 0).map(member), k)
    }

    /// Every (S, k) with S within five members and 0 ≤ k ≤ |S|.
    fn worlds() -> Vec<(u32, usize)> {
        (0u32..32).flat_map(|mask| (0..=mask.count_ones() as usize).map(move |k| (mask, k))).collect()
    }

    /// All ways to choose `size` or more members of `mask`.
    fn subsets(mask: u32, size: usize) -> impl Iterator<Item = u32> {
        (0u32..32).filter(move |subset| subset & !mask == 0 && subset.count_ones() as usize >= size)
    }

    /// The definition, by brute force: every acknowledging set meets every set of answers.
    fn meets(store: (u32, usize), postgres: (u32, usize)) -> bool {
        let needed = set(store.0, store.1).answers_needed();
        subsets(postgres.0, postgres.1).all(|acknowledged| {
            acknowledged.count_ones() as usize >= postgres.1
                && subsets(store.0, needed).all(|answers| answers & acknowledged != 0)
        })
    }

    #[test]
    fn covers_is_the_definition_in_every_world_of_five() {
        for store in worlds() {
            for postgres in worlds() {
                let claimed = covers(&set(store.0, store.1), &set(postgres.0, postgres.1));
                // With k = 0 in the store no answers suffice at all, so nothing has to be met.
                let meant = store.1 == 0 && claimed || store.1 > 0 && meets(store, postgres);
                assert_eq!(claimed, meant, "store {store:?} postgres {postgres:?}");
            }
        }
    }

    /// One answer fewer, and some acknowledged commit is on nobody who answered.
    #[test]
    fn one_answer_fewer_is_too_few() {
        for (mask, k) in worlds().into_iter().filter(|(_, k)| *k > 0) {
            let few = set(mask, k).answers_needed() - 1;
            let missed = subsets(mask, few)
                .any(|answers| subsets(mask, k).any(|acknowledged| answers & acknowledged == 0));
            assert!(missed, "S {mask:05b} k {k}");
            assert!(!set(mask, k).may_choose(few));
            assert!(set(mask, k).may_choose(few + 1));
        }
    }

    /// A commit acknowledged in any past configuration is met by every later takeover, over every sequence of
    /// permitted steps between any two configurations: walked as a graph whose nodes are (store, in force,
    /// the smallest acknowledging sets that are still outstanding).
    #[test]
    fn every_permitted_step_keeps_every_acknowledged_commit() {
        for store in worlds() {
            for in_force in worlds() {
                let (stored, forced) = (set(store.0, store.1), set(in_force.0, in_force.1));
                if !covers(&stored, &forced) {
                    continue;
                }
                for new in worlds() {
                    let changed = set(new.0, new.1);
                    if may_apply(&stored, &forced, &changed) {
                        let mixed = during_reload(&forced, &changed);
                        assert!(covers(&stored, &changed) && covers(&stored, &mixed));
                    }
                    if may_record(&stored, &forced, &changed, false) && changed.k > 0 {
                        // Anything acknowledged under the old store entry (by sets that it covered) is still met.
                        let needed = changed.answers_needed();
                        for acknowledged in subsets(store.0, store.1).filter(|_| store.1 > 0) {
                            assert!(
                                subsets(new.0, needed).all(|answers| answers & acknowledged != 0),
                                "store {store:?} in force {in_force:?} new {new:?} lost {acknowledged:05b}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn the_four_changes_have_their_order() {
        let (two, three) = (set(0b011, 1), set(0b111, 1));
        assert!(may_record(&two, &two, &three, false), "add: store first");
        assert!(!may_apply(&two, &two, &three), "add: PostgreSQL only after the store");
        assert!(may_apply(&three, &three, &two), "remove: PostgreSQL first");
        assert!(!may_record(&three, &three, &two, true), "remove: the store only after PostgreSQL");
        assert!(!may_record(&three, &two, &two, false), "remove: not before k of the rest have flushed");
        assert!(may_record(&three, &two, &two, true));
        let raised = three.with_k(2);
        assert!(may_apply(&three, &three, &raised), "raise k: PostgreSQL first");
        assert!(!may_record(&three, &raised, &raised, false) && may_record(&three, &raised, &raised, true));
        assert!(may_record(&raised, &raised, &three, false), "lower k: store first");
        assert!(!may_apply(&raised, &raised, &three));
    }
}
