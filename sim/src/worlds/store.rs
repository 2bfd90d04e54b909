//! The store: transactions that leave, arrive at any later moment or never, and what nodes read of it.
//!
//! Invariant: a transaction is applied only while the versions that it names are the present ones.

use super::moves::Rules;
use super::state::{ERAS, Role, State, WRITES, Write};

impl Rules {
    /// It leaves, and its sender hears nothing of it.
    pub(super) fn send_late(&self, state: &State, at: usize, write: Write) -> Option<State> {
        let mut next = self.send(state, at, write)?;
        next.left.late = state.left.late.checked_sub(1)?;
        Some(next)
    }

    /// A transaction leaves for the store. It is dropped when a condition of it has failed for ever.
    pub(super) fn send(&self, state: &State, at: usize, write: Write) -> Option<State> {
        let mut next = *state;
        let era = &state.eras[usize::from(state.nodes[at].era)];
        let last = state.nodes[at].era + 1 == state.era_count;
        let dead = write.if_primary && !last || write.if_sync && !last && !era.sync_is_current;
        let takes = write.puts_primary && state.left.takeovers == 0;
        let changes = write.puts_sync && !write.puts_primary && write.sync_term == era.sync_term;
        let changes = changes && write.set != era.set && state.left.changes == 0;
        let full = next.write_count as usize == WRITES && !state.writes().contains(&write);
        if dead || takes || changes || full {
            return None;
        }
        next.nodes[at].doubt |= write.if_sync;
        if !state.writes().contains(&write) {
            next.writes[next.write_count as usize] = write;
            next.write_count += 1;
            next.writes[..next.write_count as usize].sort_unstable();
        }
        Some(next)
    }

    pub(super) fn arrive(&self, state: &State, index: usize) -> Option<State> {
        let write = state.writes[index];
        let mut next = *state;
        let mut kept: Vec<Write> = state.writes().to_vec();
        kept.remove(index);
        kept.retain(|w| !(w.if_primary && write.puts_primary || w.if_sync && write.puts_sync));
        next.write_count = kept.len() as u8;
        next.writes[..kept.len()].copy_from_slice(&kept);
        let last = state.era_count as usize - 1;
        if write.puts_primary {
            next.left.takeovers = state.left.takeovers.checked_sub(1)?;
            if last + 1 == ERAS {
                return None;
            }
            let mut era = state.eras[last];
            (era.term, era.node, era.member) = (write.term, write.node, write.member);
            (era.timeline, era.from_timeline, era.from_len) =
                (write.timeline, write.from_timeline, write.from_len);
            next.eras[last].sync_is_current = true;
            next.eras[last + 1] = era;
            next.era_count += 1;
        }
        if write.puts_sync {
            let era = &mut next.eras[next.era_count as usize - 1];
            if !write.puts_primary && era.sync_term == write.sync_term && era.set != write.set {
                next.left.changes = state.left.changes.checked_sub(1)?;
            }
            (era.sync_term, era.sync_primary, era.set) = (write.sync_term, write.sync_primary, write.set);
            let newest = next.era_count as usize - 1;
            next.eras[..newest].iter_mut().for_each(|era| era.sync_is_current = false);
            for node in next.nodes.iter_mut().filter(|node| usize::from(node.era) == newest) {
                node.doubt = false;
            }
        }
        for at in state.nodes() {
            let sees_old = self.stale || state.nodes[at].role == Role::Primary;
            let own =
                write.puts_primary && usize::from(write.node) == at && next.nodes[at].role == Role::Primary;
            if !sees_old || own {
                read_store(&mut next, at);
            }
        }
        Some(next)
    }
}

pub(super) fn read_store(state: &mut State, at: usize) {
    let newest = state.era_count - 1;
    let old = state.nodes[at].era;
    if old < newest {
        let node = &mut state.nodes[at];
        node.doubt &= state.eras[usize::from(old)].sync_is_current;
        node.era = newest;
    }
}
