//! What would happen if a node died now, and what holds it back.

use serde::{Deserialize, Serialize};

use crate::{
    MemberId, NodeName, Position, Postgres, PrimaryRecord, SlotReport, SyncRecord, SyncSet, Tags, View,
    health, sync_set,
};

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    pub node: NodeName,
    /// Who would become primary; `None` when nobody would, or when `node` is not the primary.
    pub takes_over: Option<NodeName>,
    /// The rule that would decide.
    pub rule: String,
    pub why: Vec<String>,
    /// What stands in the way of writes going on.
    pub blockers: Vec<String>,
}

/// As seen from `view`'s node now.
pub fn explain(view: &View, node: &NodeName) -> Explanation {
    let mut explanation = Explanation {
        node: node.clone(),
        takes_over: None,
        rule: String::new(),
        why: Vec::new(),
        blockers: Vec::new(),
    };
    store_majority(view, &mut explanation);
    match (view.record(), view.sync()) {
        (Some(record), Some(_)) if record.head => standby_cluster(view, record, &mut explanation),
        (Some(record), Some(sync)) if record.node == *node => primary_dies(view, sync, &mut explanation),
        (Some(_), Some(sync)) => replica_dies(view, sync, &mut explanation),
        _ => explanation.blockers.push("the cluster has no primary yet".to_owned()),
    }
    explanation
}

fn store_majority(view: &View, explanation: &mut Explanation) {
    let heard = view.fresh_peers().map(|status| &status.node).chain([&view.me]);
    let left = heard.filter(|name| **name != explanation.node && view.settings.voters.contains(name)).count();
    let majority = view.settings.voters.len() / 2 + 1;
    if left < majority {
        let voters = view.settings.voters.len();
        explanation
            .blockers
            .push(format!("{left} of {voters} voters would be left, the store needs {majority}"));
    }
}

type Survivor = (NodeName, MemberId, Position);

/// Members alive besides `lost`, and where their WAL ends.
fn survivors(view: &View, lost: &NodeName) -> Vec<Survivor> {
    let own = view.durable.member.clone().map(|member| (view.me.clone(), member, &view.postgres));
    let peers = view.fresh_peers().filter_map(|s| Some((s.node.clone(), s.member.clone()?, &s.postgres)));
    let standby = |(node, member, postgres): (NodeName, MemberId, &Postgres)| {
        Some((node, member, postgres.standby()?.position))
    };
    own.into_iter().chain(peers).filter(|(node, ..)| node != lost).filter_map(standby).collect()
}

/// Nobody writes here: who has the most WAL is head next, and follows the origin.
fn standby_cluster(view: &View, record: &PrimaryRecord, explanation: &mut Explanation) {
    if record.node != explanation.node {
        explanation.rule = "standby".to_owned();
        explanation
            .why
            .push("nobody writes in a standby cluster; the head and who follows it go on".to_owned());
        return;
    }
    explanation.rule = "takeover.record".to_owned();
    let survivors = survivors(view, &explanation.node);
    let further = |a: &&Survivor, b: &&Survivor| a.2.cmp(&b.2).then_with(|| b.0.cmp(&a.0));
    let able = |s: &&Survivor| may(view, &s.0) && !full(view, &s.0);
    let best = survivors.iter().max_by(further);
    let next = survivors.iter().filter(able).max_by(further);
    match (best, next) {
        (Some((best, _, end)), Some((next, _, own))) => {
            explanation.takes_over = Some(next.clone());
            let fetches = if own < end { format!("; {next} fetches it first") } else { String::new() };
            explanation.why.push(format!("{best} has the most WAL, to {}{fetches}", end.lsn));
            explanation.why.push(format!("{next} would be head: nothing is promoted"));
        }
        (Some(_), None) => explanation
            .blockers
            .push("nobody else may be head: take a nofailover away, or make room on a disk".to_owned()),
        (None, _) => explanation.blockers.push("no other node has a data directory".to_owned()),
    }
    if view.origin.primary().is_none() {
        explanation.blockers.push(format!("the cluster that is followed: {}", view.origin.words()));
    }
}

fn primary_dies(view: &View, sync: &SyncRecord, explanation: &mut Explanation) {
    explanation.rule = "takeover.record".to_owned();
    let survivors = survivors(view, &explanation.node);
    let answering: Vec<_> =
        survivors.iter().filter(|(_, member, _)| sync.set.members.contains(member)).collect();
    let needed = sync.set.answers_needed();
    let counted = format!("{} of {} would answer, {needed} are needed", answering.len(), sync.set);
    if sync.set.k == 0 {
        explanation
            .blockers
            .push("k = 0: no standby holds what was acknowledged, nobody may take over".to_owned());
        return;
    }
    if !sync.set.may_choose(answering.len()) {
        explanation.blockers.push(counted);
        return;
    }
    explanation.why.push(counted);
    heir(view, &answering, &survivors, explanation);
    let timeout_ms = view.settings.failure_timeout_ms;
    explanation.why.push(format!(
        "PostgreSQL's death is announced at once; a silent node is given {timeout_ms} ms; no acknowledged commit is at risk"
    ));
    if survivors.iter().all(|(node, ..)| full(view, node)) {
        explanation.takes_over = None;
        explanation.blockers.push("no room is left on the disk of any other node".to_owned());
    }
    let others = survivors.len().saturating_sub(1);
    if others < view.k_wanted() {
        explanation
            .blockers
            .push(format!("{others} standby would be left, {} must confirm each commit", view.k_wanted()));
    }
}

/// Who would be chosen among those who answer; whoever may not be primary is fetched from.
fn heir(view: &View, answering: &[&Survivor], survivors: &[Survivor], explanation: &mut Explanation) {
    let rank = |s: &Survivor| {
        (s.2, may(view, &s.0) && !full(view, &s.0), report_of(view, &s.0).is_some_and(SlotReport::ready))
    };
    let by_rank = |a: &&Survivor, b: &&Survivor| rank(a).cmp(&rank(b)).then_with(|| b.0.cmp(&a.0));
    if let Some((best, _, position)) = answering.iter().copied().max_by(by_rank) {
        let able = |s: &&Survivor| may(view, &s.0) && !full(view, &s.0);
        let heir = answering.iter().copied().filter(able).max_by(by_rank);
        let heir = heir.or_else(|| survivors.iter().filter(able).max_by(by_rank));
        let end = position.lsn;
        match heir {
            Some((winner, ..)) if winner == best => {
                explanation.why.push(format!("{winner} has the most WAL, to {end}"));
            }
            Some((winner, ..)) => explanation
                .why
                .push(format!("{best} has the most WAL, to {end}, and may not be primary: {winner} fetches it first")),
            None => explanation.blockers.push(format!(
                "{best} has the most WAL, to {end}, and may not be primary; nor may anybody else who would answer"
            )),
        }
        explanation.takes_over = heir.map(|(winner, ..)| winner.clone());
        explanation.why.extend(heir.iter().flat_map(|(winner, ..)| slots_at(view, winner)));
    }
}

/// Too little room is left on the disk of `node`.
fn full(view: &View, node: &NodeName) -> bool {
    let own = *node == view.me && view.condition.disk_full;
    own || view.fresh_peers().any(|status| status.node == *node && status.condition.disk_full)
}

/// No tag keeps `node` from being primary.
fn may(view: &View, node: &NodeName) -> bool {
    let of = |tags: &Tags| !tags.nofailover && tags.failover_priority > 0;
    let heard = || view.fresh_peers().find(|status| status.node == *node).map(|status| of(&status.tags));
    if *node == view.me { of(&view.tags) } else { heard().unwrap_or(false) }
}

fn report_of<'a>(view: &'a View, node: &NodeName) -> Option<&'a SlotReport> {
    let heard = view.fresh_peers().find(|status| status.node == *node).map(|status| &status.slots);
    (view.me == *node).then_some(&view.slots).or(heard)
}

/// What becomes of the replication slots at `winner`; nothing is said where there are none.
fn slots_at(view: &View, winner: &NodeName) -> Vec<String> {
    let Some(report) = report_of(view, winner) else { return Vec::new() };
    if report.ready() && report.slots.iter().any(|slot| slot.kept) {
        return vec![format!("every slot that a takeover keeps is ready on {winner}")];
    }
    report.missing.iter().map(|reason| format!("slot not ready on {winner}: {reason}")).collect()
}

fn replica_dies(view: &View, sync: &SyncRecord, explanation: &mut Explanation) {
    explanation.rule = "sync.change".to_owned();
    let survivors = survivors(view, &explanation.node);
    let left: Vec<_> =
        survivors.iter().filter(|(_, m, _)| sync.set.members.contains(m)).map(|s| s.1.clone()).collect();
    let is_member = sync.set.members.iter().any(|member| member.node() == explanation.node);
    if !is_member {
        explanation.why.push("it is not in the sync set: writes go on".to_owned());
    } else if left.len() >= sync.set.k {
        let missing_ms = sync_set::MISSING_MS_MAX;
        let rest = SyncSet::new(left, sync.set.k);
        explanation.why.push(format!("writes go on with {rest}; it leaves the set after {missing_ms} ms"));
    } else {
        explanation.blockers.push(format!(
            "{} standby left for k = {}: writes wait until one is back",
            left.len(),
            sync.set.k
        ));
    }
    if !health::sees_fine(view) {
        explanation.blockers.push("the primary is not fine now".to_owned());
    }
}
