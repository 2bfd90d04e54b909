//! I8: no acknowledgement that is a lie. When a client is told that its commit is done, k other data directories hold it,
//! or a later primary does.

use super::Acknowledged;
use crate::world::World;

pub fn on_acknowledged(world: &World, node: usize, commit: &Acknowledged) -> Option<String> {
    let sync = world.store.newest().sync.as_ref()?;
    let later = world.checkers.promotions.iter().any(|p| p.term > commit.born && p.holds(commit));
    if later || world.disk_was_lost() {
        return None;
    }
    let (k, holders) = (sync.value.set.k, world.holders(node, commit).count());
    (holders < k).then(|| format!("acknowledged commit #{} that {holders} other(s) hold, of {k}", commit.id))
}
