//! What must hold in every state.
//!
//! I2 in its strong form: every acknowledged or read prefix is in the log of every primary of a later term, opened or
//! not, also when the acknowledgement comes after the promotion. That is I1 too: what a lower term acknowledges once a
//! term is open lies in that term's history.

use super::state::{Log, Set, State};

/// A law that a state breaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// An acknowledged record is not in a later primary's log.
    Lost { acknowledged: u8, missing_in: u8 },
    /// A standby wrote records over others of the same place and timeline.
    Overwritten { node: u8 },
    /// The store's set does not describe what the open primary may acknowledge by.
    NotCovered { primary: u8 },
}

/// Looks at every law that a state alone can break.
pub fn broken(state: &State) -> Option<Broken> {
    lost(state).or_else(|| not_covered(state))
}

fn lost(state: &State) -> Option<Broken> {
    for (index, branch) in state.branches().iter().enumerate().filter(|(_, branch)| branch.acked > 0) {
        let acknowledged = Log { branch: index as u8, len: branch.acked };
        for (later, primary) in state.branches().iter().enumerate() {
            let whole = Log { branch: later as u8, len: u8::MAX };
            if primary.term > branch.term && !state.begins(acknowledged, whole) {
                return Some(Broken::Lost { acknowledged: index as u8, missing_in: later as u8 });
            }
        }
    }
    None
}

/// `brain::quorum::covers` on bits.
pub fn covers(store: Set, postgres: Set) -> bool {
    let strangers = (postgres.members & !store.members).count_ones();
    let size = |set: Set| set.members.count_ones();
    let met = store.k == 0
        || u32::from(store.k) <= size(store) && u32::from(postgres.k) >= u32::from(store.k) + strangers;
    u32::from(postgres.k) <= size(postgres) && met
}

/// What an open, still recorded primary may acknowledge by: what it has been told, and what any walsender that may
/// release still reads.
fn not_covered(state: &State) -> Option<Broken> {
    let primary = state.serving()?;
    let (era, node) = (state.era(), &state.nodes[primary]);
    if era.sync_term != era.term || !node.admitted {
        return None;
    }
    let mut may = node.names.set;
    for sender in node.senders.iter().filter(|sender| sender.counts(false)) {
        may.members |= sender.names.set.members;
        may.k = may.k.min(sender.names.set.k);
    }
    (!covers(era.set, may)).then_some(Broken::NotCovered { primary: primary as u8 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use brain::{MemberId, SyncSet};

    #[test]
    fn covers_is_the_brain_s_in_every_world_of_five() {
        let sets = || {
            (0..32u16).flat_map(|members| (0..=members.count_ones() as u8).map(move |k| Set { members, k }))
        };
        let named = |set: Set| {
            let members = (0..5).filter(|id| set.has(*id)).map(|id| MemberId(format!("m{id}")));
            SyncSet::new(members, usize::from(set.k))
        };
        for store in sets() {
            for postgres in sets() {
                let brains = brain::quorum::covers(&named(store), &named(postgres));
                assert_eq!(covers(store, postgres), brains, "{store:?} {postgres:?}");
            }
        }
    }
}
