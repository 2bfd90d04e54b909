//! I7: no data directory is given up while it is needed, WAL that a rewind discards is kept, a copy takes a new id, and every
//! action has a rule and a reason.

use std::collections::BTreeSet;

use brain::{Decision, MemberId, RULES};

use crate::wal::Wal;
use crate::world::World;

/// A data directory is about to be rewound or replaced: what it holds of acknowledged commits, k others must hold too.
pub fn given_up(world: &World, node: usize) -> Option<String> {
    if world.disk_was_lost() {
        return None;
    }
    let own = world.nodes[node].server.wal.as_ref()?;
    let last = world.checkers.ledger.iter().rev().find(|commit| own.holds(commit.index, commit.id))?;
    let k = world.store.newest().sync.as_ref()?.value.set.k;
    let holders = world.holders(node, last).count();
    (holders < k).then(|| {
        format!(
            "its data directory is given up while it holds acknowledged commit #{} and only {holders} other(s) do",
            last.id
        )
    })
}

/// A data directory has been made: its id has stood for none before.
pub fn id_used_again(ids: &mut BTreeSet<MemberId>, member: &MemberId) -> Option<String> {
    (!ids.insert(member.clone())).then(|| format!("{member} stands for a second data directory"))
}

/// A copy leaves the old data directory aside; a rewind keeps what `old` holds and `new` does not.
pub fn replaced(old: &Wal, new: &Wal, kept: &[u64], aside: Option<bool>) -> Option<String> {
    match aside {
        Some(true) => return None,
        Some(false) => return Some("a copy has destroyed the data directory that it replaces".to_owned()),
        None => {}
    }
    let lost = old.beyond(new).iter().filter(|id| !kept.contains(id)).count();
    (lost > 0).then(|| format!("{lost} record(s) of WAL are discarded and kept nowhere"))
}

/// A decision to act names its rule and says why.
pub fn unexplained(decision: &Decision) -> Option<String> {
    let known = RULES.iter().any(|rule| rule.id == decision.rule);
    let said = decision.why.iter().any(|why| !why.is_empty());
    let explained = decision.actions.is_empty() || known && said;
    (!explained).then(|| format!("acts by rule \"{}\" without a reason", decision.rule))
}
