//! The rule table: the first rule that matches decides. Read it from top to bottom.
//!
//! Order is meaning: what makes the node safe stands above what makes it useful. Each rule's `when` is total over
//! every view and touches nothing. `rules.txt` beside this crate is the dumped table; a test keeps it true.

mod archive;
mod bootstrap;
mod cascade;
mod fence;
mod head;
mod leaving;
mod outgrown;
mod primary;
mod rejoin;
mod request;
mod slots;
mod standby;
mod switchover;
mod takeover;
mod turn;

use crate::{Action, Decision, RuleId, View};

/// What a matching rule wants: actions (none: wait) and reasons.
pub(crate) struct Want {
    pub actions: Vec<Action>,
    pub why: Vec<String>,
}

/// Wait, for this reason.
pub(crate) fn wait(why: impl Into<String>) -> Option<Want> {
    Some(Want { actions: Vec::new(), why: vec![why.into()] })
}

/// Do this, for this reason.
pub(crate) fn act(action: Action, why: impl Into<String>) -> Option<Want> {
    Some(Want { actions: vec![action], why: vec![why.into()] })
}

/// The recorded primary is heard, is promoted, and may be followed by this node.
pub(crate) fn may_follow(view: &View) -> bool {
    rejoin::upstream(view).is_ok()
}

/// One row of the table.
pub struct Rule {
    /// Stable for ever: events, tests and people name it.
    pub id: RuleId,
    /// Why the rule stands, in one sentence.
    pub reason: &'static str,
    when: fn(&View) -> Option<Want>,
}

macro_rules! rules {
    ($($id:literal $reason:literal $when:path;)*) => {
        &[$(Rule { id: $id, reason: $reason, when: $when }),*]
    };
}

pub const RULES: &[Rule] = rules! {
    "store.wait" "Nothing is decided before the store has been read once." fence::unread_store;
    "halt.unusable" "A data directory that is not this cluster's is never touched." fence::unusable;
    "request.reload.witness" "Somebody asked this witness to read its configuration anew." request::reload_witness;
    "witness" "A witness has no PostgreSQL; it only votes." fence::witness;
    "fence.deposed" "A server that writes without being the recorded primary is stopped at once." fence::deposed;
    "fence.promised" "A primary that has promised a higher term serves no more." fence::promised;
    "fence.unanswering" "A primary that gives its agent no answer and has no lease is stopped." fence::unanswering;
    "switchover.stop" "The hand-over is recorded: the primary stops, and tells its peers once it has." switchover::stop;
    "promise.requested" "A candidate asks for a promise that this node is free to give." takeover::promise;
    "busy" "Work on the server ends before the next begins." fence::busy;
    "removed" "A node that was removed follows nobody and touches nothing." fence::removed;
    "request.reload.stopped" "A server that is stopped may start with what its configuration says by now." request::reload_stopped;
    "start.paused" "Maintenance: a stopped server stays stopped." rejoin::start_paused;
    "start" "A stopped server starts as a standby of nobody, quarantined; only a takeover makes it writable." rejoin::start;

    "bootstrap.claim" "An empty store: one node claims the right to create the cluster." bootstrap::claim;
    "bootstrap.initdb" "The claimant creates the first data directory." bootstrap::initdb;
    "bootstrap.record" "The first server exists: it becomes the primary of term 1." bootstrap::record;
    "bootstrap.wait" "Others wait until there is a cluster to join." bootstrap::wait_for_cluster;

    "promote.promise" "Being recorded for a term is a promise of it, made durable first." primary::promise_own;
    "promote.detach" "A winner takes WAL from nobody before it is promoted." primary::detach_first;
    "promote" "The recorded winner is promoted once, onto the recorded timeline, quarantined." primary::promote;
    "fence.lease" "A primary that fewer than k members hold a lease for serves nobody." primary::fence_lease;
    "renew" "A promise above the term without a takeover: the primary renews under that term." primary::renew;
    "admit" "Open, and the lease is held: clients are admitted." primary::admit;
    "open.prepare" "A new primary needs its roles for replication and rewind." primary::prepare;
    "open.slots" "Each member has its slot." primary::missing_slots;
    "open.sync" "Before opening, the set in force is one that can flush." primary::choose_set;
    "open.record" "k of the new set have flushed the end of recovery: takeovers count by it from now on." primary::open;
    "request.reload.unopened" "A primary that waits for its members may open with what its configuration says by now." request::reload_unopened;
    "open.wait" "A primary that is not open waits for its members." primary::wait_to_open;
    "request.close" "The open primary says how a request ended." request::close;
    "sync.change" "The sync set follows the members that stream, one safe step at a time." primary::change_set;
    "members.stay" "A node that was to leave has become the primary: it stays, and the removal is undone." leaving::primary_stays;
    "members.remove" "No commit counts on a node that is to leave: the record lets it go." leaving::by_primary;
    "primary.prepare" "A new agent makes sure of the roles." primary::prepare_again;
    "primary.slots" "The slot of a copy that is no more is dropped." primary::superfluous_slots;
    "switchover.check" "A hand-over begins only when it can end well: the candidate streams, nothing would hold up the stop." switchover::check;
    "switchover.checkpoint" "A checkpoint ahead makes the stop short; nobody waits for it." switchover::checkpoint;
    "switchover.drain" "The proxies hold new transactions until the running ones have ended; in time, or not at all." switchover::drain;
    "demote.check" "A cluster is demoted only when there is a primary of the same history to follow." turn::demote;
    "request.reload" "Somebody asked this node to read its configuration anew." request::reload;
    "primary" "The primary serves." primary::steady;

    "detach" "A promise above the upstream's term ends replication from it." rejoin::detach;
    "takeover.fetched" "The WAL that the winner had is here: take no more, and answer." takeover::fetched;
    "promote.close" "Nobody could take over although a promotion was asked for: the request ends." turn::close;
    "head.close" "The head says how a request ended." request::close_by_head;
    "head.rescue" "Nobody is left who could be head: what cannot run here is made good from the origin." head::rescue;
    "takeover.paused" "Maintenance: nobody takes over by itself." takeover::paused;
    "takeover.forced" "An operator named the new primary, and too few members answer to choose by themselves." takeover::forced;
    "takeover.vouched" "A majority sees the primary fine: this node alone has lost it." takeover::vouched;
    "takeover.full" "Every disk is full: the next primary would end as this one did, so nobody takes over." takeover::full;
    "takeover.defer" "Another candidate comes first; this node waits its turn." takeover::defer;
    "takeover.record" "Enough members have answered: the best of them is recorded as primary." takeover::record;
    "takeover.fetch" "The member with the most WAL may not be primary: one that may fetches that WAL first." takeover::fetch;
    "takeover.revoke" "The primary is suspect: its members are asked to promise a higher term." takeover::revoke;

    "head.promise" "The head and who follows it promise its term first." head::promise;
    "promote.check" "A standby cluster is promoted when its origin gives no sign of life, or by force." turn::promote;
    "head.stay" "A node that was to leave has become the head: it stays, and the removal is undone." leaving::head_stays;
    "head.remove" "Nobody writes: a node that is to leave a standby cluster leaves at once." leaving::by_head;
    "standby.admit" "In a standby cluster every server that streams admits readers." head::admit;
    "head.clone" "The head has no data directory that can be used: it copies the origin's." head::clone;
    "head.again" "A rewind to the origin that was interrupted is done again." head::rewind_again;
    "head.wait" "The head follows once its server runs and its term stands." head::wait_for_server;
    "standby.restart" "Somebody asked this server to restart." standby::restart;
    "standby.reload" "Somebody asked this server to read its configuration anew." standby::reload;
    "head.unread" "The end of the own WAL must be known before it is compared." head::unread;
    "head.rewind" "The origin lacks WAL that is here: it is kept, listed and rewound." head::rewind;
    "head.follow" "The head follows the origin's primary, through the origin's takeovers." head::follow;
    "head.stalled" "The origin has no more of the WAL that the head needs: copy it anew." head::stalled;
    "head.slots" "Who follows the head has a slot there." head::slots;
    "standby.clone" "There is no data directory, or it cannot be repaired: copy the head's." standby::clone;
    "standby.reinit" "Somebody asked for a new copy of this data directory." standby::reinit;
    "standby.wait" "The head is not ready to be followed." standby::wait_for_head;
    "standby.follow" "The others follow the head." standby::follow;
    "standby.stalled" "The head has no more of the WAL that is needed: copy it anew." standby::stalled;
    "standby.outgrown" "The origin's settings are larger: one after the other is started anew with settings as large, the head after the others." outgrown::standby_cluster;
    "standby" "The head follows the origin, the others follow the head." head::steady;

    "request.reinit" "Somebody asked for a new copy of this data directory." request::reinit;
    "rejoin.paused" "Maintenance: no data directory is rebuilt." rejoin::paused;
    "rejoin.full" "A full disk takes no WAL: the node follows once there is room." rejoin::full;

    "rejoin.clone" "There is no data directory, or it cannot be repaired: copy the primary's, or that of a replica tagged clonefrom." rejoin::clone;
    "rejoin.again" "A rewind that was interrupted is done again." rejoin::rewind_again;
    "rejoin.wait" "The primary is not ready to be followed." rejoin::wait_for_primary;
    "rejoin.promise" "Following a primary of a term is a promise of that term, made durable first." rejoin::promise;
    "rejoin.fetching" "WAL that the primary no longer has comes from a peer." rejoin::fetch_goes_on;
    "rejoin.unread" "The end of the own WAL must be known before it is compared." rejoin::unread;
    "rejoin.ahead" "This node is ahead of the primary it should follow; nothing is overwritten." rejoin::ahead;
    "rejoin.guard" "The takeover may still need this data directory: it is not rewound yet." rejoin::guard;
    "rejoin.rewind" "The own WAL has left the recorded history: rewind to the primary's." rejoin::rewind;
    "cascade.follow" "The own WAL is a beginning of that of the replica which replicatefrom names: follow it." cascade::follow;
    "follow" "The own WAL is a beginning of the primary's: follow it." rejoin::follow;
    "replica.admit" "A replica that streams from the recorded primary, or from one that does, admits readers." rejoin::admit;
    "replica.outgrown" "The primary's settings are larger: the standby is started anew with settings as large." outgrown::replica;
    "replica.slots" "A replica takes in logical slots by a restart, never the last sync standby, one at a time." slots::take_in;
    "cascade.slots" "A replica has a slot for each node that takes its WAL from it." cascade::slots;
    "cascade.turn" "The replica which replicatefrom names is fit, and no commit counts on this node: turn to it." cascade::turn;
    "rejoin.fetch" "The primary no longer has the WAL this node needs, but a peer has: take it from there." rejoin::fetch;
    "rejoin.stalled" "The upstream no longer has the WAL this node needs: copy it anew." rejoin::stalled;
    "request.restart" "Somebody asked this replica to restart." request::restart;
    "request.reload.replica" "Somebody asked this replica to read its configuration anew." request::reload;
    "replica" "The replica follows the recorded primary." rejoin::steady;
};

/// The first rule that matches decides.
pub fn decide(view: &View) -> Decision {
    for rule in RULES {
        if let Some(Want { actions, why }) = (rule.when)(view) {
            return Decision { rule: rule.id, actions, why };
        }
    }
    // `rejoin::steady` matches every view, so the table is never exhausted.
    Decision { rule: "replica", actions: Vec::new(), why: Vec::new() }
}

/// The table as text, for review.
pub fn dump_rules() -> String {
    RULES.iter().map(|rule| format!("{:<22} {}\n", rule.id, rule.reason)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test may leave a file for review")]
    fn rules_txt_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/rules.txt");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        if committed != dump_rules() {
            std::fs::write(std::path::Path::new(path).with_extension("txt.new"), dump_rules()).unwrap();
            panic!("crates/brain/rules.txt differs from the table; review rules.txt.new and move it there");
        }
    }

    #[test]
    fn ids_are_unique() {
        let ids: std::collections::BTreeSet<_> = RULES.iter().map(|rule| rule.id).collect();
        assert_eq!(ids.len(), RULES.len());
    }
}
