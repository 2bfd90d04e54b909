//! A planned hand-over, to another node or to the same one: preflight, checkpoint, hold, stop. The open primary drives it.
//!
//! Invariant: until the stop is recorded nothing has happened that the end of the hold would not undo.

use super::request::{fail, move_on};
use super::{Want, act, archive, wait};
use crate::mutation::{Mutation, is_on};
use crate::request::{PREPARE_MS_MAX, STOP_MS_MAX, changed};
use crate::{
    Action, Ask, NodeName, Primary, PrimaryRecord, Request, SlotGate, Stage, Status, Versioned, View, health,
};

/// A candidate further behind would keep the clients waiting: 16 MiB are replayed in about 0.1 s.
const LAG_BYTES_MAX: u64 = 16 << 20;

/// A replica that has just come back streams, is a member again and has its slots looked at within this.
const PREFLIGHT_MS_MAX: u64 = 5_000;

/// The request hands the primaryship over, to another node or to the same.
fn hands_over(request: &Request, record: &PrimaryRecord) -> bool {
    match &request.ask {
        Ask::Switchover { .. } => true,
        Ask::Restart { node, .. } => *node == record.node && request.stage != Stage::Running,
        _ => false,
    }
}

/// The one hand-over that the open primary is at: the oldest that is due.
fn hand_over(view: &View, stage: Stage) -> Option<(&Request, &Versioned<PrimaryRecord>, &Primary)> {
    let (record, primary) = view.serving()?;
    let due = |request: &&Request| match request.ask {
        Ask::Switchover { at: Some(at), .. } => view.wall_s >= at,
        _ => true,
    };
    let mine = |request: &&Request| hands_over(request, &record.value) && due(request);
    let request = view.requests().filter(mine).max_by_key(|r| (r.stage, std::cmp::Reverse(r.id)))?;
    (request.stage == stage && view.opened() && health::open(view)).then_some((request, record, primary))
}

/// Where to, or why not.
fn successor(
    view: &View,
    request: &Request,
    record: &PrimaryRecord,
    primary: &Primary,
) -> Result<NodeName, String> {
    let candidates = view.fresh_peers().map(|status| (status, unfit(view, request, record, primary, status)));
    match &request.ask {
        Ask::Restart { .. } => Ok(record.node.clone()),
        Ask::Switchover { to: Some(to), .. } if *to == record.node => {
            Err(format!("{to} is the primary already"))
        }
        Ask::Switchover { to: Some(to), .. } => {
            let mut candidates = candidates;
            match candidates.find(|(status, _)| status.node == *to) {
                None => Err(format!("{to} is not heard")),
                Some((_, Some(reason))) => Err(format!("{to} {reason}")),
                Some((_, None)) => Ok(to.clone()),
            }
        }
        _ => {
            let (fit, unfit): (Vec<_>, Vec<_>) = candidates.partition(|(_, reason)| reason.is_none());
            let best = fit.iter().map(|(status, _)| status).max_by(|a, b| {
                a.tags.failover_priority.cmp(&b.tags.failover_priority).then_with(|| b.node.cmp(&a.node))
            });
            best.map(|status| status.node.clone()).ok_or_else(|| {
                let reasons: Vec<String> = unfit
                    .iter()
                    .flat_map(|(s, reason)| Some(format!("{} {}", s.node, reason.as_ref()?)))
                    .collect();
                format!("no replica can take over: {}", reasons.join("; "))
            })
        }
    }
}

/// Why a peer cannot be handed the primaryship now; `None` when it can.
fn unfit(
    view: &View,
    request: &Request,
    record: &PrimaryRecord,
    primary: &Primary,
    status: &Status,
) -> Option<String> {
    let Some(member) = status.member.as_ref().filter(|_| view.settings.full.contains(&status.node)) else {
        return Some("has no data directory".to_owned());
    };
    if status.tags.nofailover || status.tags.failover_priority == 0 {
        return Some("is tagged nofailover".to_owned());
    }
    if let Some(source) = &status.source {
        return Some(format!("takes its WAL from {source}; first take its tag replicatefrom away"));
    }
    let sync = view.sync()?;
    if sync.set.k > 0 && !sync.set.members.contains(member) {
        return Some("is not in the sync set".to_owned());
    }
    let sender = primary.walsenders.iter().find(|w| w.member == *member && w.term == record.term);
    let Some(sender) = sender.filter(|w| w.streaming) else {
        return Some("does not stream".to_owned());
    };
    let behind = primary.flush.bytes_since(sender.flush.min(sender.replay));
    if behind > LAG_BYTES_MAX {
        return Some(format!("is {} MB behind", behind >> 20));
    }
    if let Some(operation) = status.busy {
        return Some(format!("is busy ({operation:?})"));
    }
    unready_slots(view, request, status)
}

/// A planned hand-over costs nobody a slot, unless its author says so.
fn unready_slots(view: &View, request: &Request, status: &Status) -> Option<String> {
    let gated = view.settings.slot_gate != SlotGate::Off && !request.is_forced();
    let missing = Some(&status.slots.missing).filter(|missing| gated && !missing.is_empty())?;
    Some(format!("would not keep every slot ({}); wait, or add --force to go on without", missing.join(", ")))
}

/// What hinders may pass by itself: a replica that has just come back is a member and ready in a moment. What an operator
/// would have to change does not.
fn passes(view: &View, request: &Request, record: &PrimaryRecord) -> bool {
    let Ask::Switchover { to, .. } = &request.ask else { return false };
    let barred = |status: &Status| status.tags.nofailover || status.tags.failover_priority == 0;
    let never = to.as_ref().is_some_and(|to| {
        *to == record.node || view.fresh_peers().any(|status| status.node == *to && barred(status))
    });
    !never && view.memory.stage_age_ms(view.now, request.id) < PREFLIGHT_MS_MAX
}

/// What would make the clients wait longer than they should.
fn hindered(view: &View, request: &Request, primary: &Primary) -> Option<String> {
    let activity = primary.activity;
    let seconds = view.settings.drain_timeout_ms / 1_000;
    if let Some(reason) = archive::lags(request, primary) {
        return Some(reason);
    }
    if !request.is_forced() && activity.oldest_transaction_ms > view.settings.drain_timeout_ms {
        let age = activity.oldest_transaction_ms / 1_000;
        return Some(format!(
            "a transaction has been open for {age} s, and one is waited for {seconds} s only; end it, or add --force to cut it"
        ));
    }
    None
}

/// Preflight: who, and is it a good moment?
pub(super) fn check(view: &View) -> Option<Want> {
    let (request, record, primary) = hand_over(view, Stage::Waiting)?;
    let successor = match successor(view, request, &record.value, primary) {
        Ok(successor) => successor,
        Err(reason) if passes(view, request, &record.value) => return wait(reason),
        Err(reason) => return fail(view, request, reason),
    };
    if let Some(reason) = hindered(view, request, primary) {
        return fail(view, request, reason);
    }
    let node = &record.value.node;
    let note = match *node == successor {
        true => format!("{node} restarts: checkpoint ahead"),
        false => format!("{node} hands over to {successor}: checkpoint ahead"),
    };
    let action = changed(view, request.id, |request| {
        (request.stage, request.note) = (Stage::Preparing, note.clone());
        if let Ask::Switchover { to, .. } = &mut request.ask {
            *to = Some(successor);
        }
    })?;
    act(action, note)
}

/// The checkpoint ahead makes the one at the stop short.
pub(super) fn checkpoint(view: &View) -> Option<Want> {
    let (request, record, primary) = hand_over(view, Stage::Preparing)?;
    if view.memory.stage_age_ms(view.now, request.id) > PREPARE_MS_MAX {
        return fail(view, request, format!("the checkpoint took longer than {} s", PREPARE_MS_MAX / 1_000));
    }
    if view.errands.checkpointed < request.id {
        return act(Action::Checkpoint { request: request.id }, "a checkpoint now makes the stop short");
    }
    if let Some(reason) = archive::hangs(request, primary) {
        return fail(view, request, reason);
    }
    if !archive::is_proven(view, request, primary) {
        return wait("archive_command has to take the last WAL file");
    }
    // Things may have changed meanwhile; nobody waits yet, so this is the moment to give up.
    if let Err(reason) = successor(view, request, &record.value, primary) {
        return fail(view, request, reason);
    }
    move_on(view, request, Stage::Holding, "new transactions are held; running ones end")
}

/// Proxies hold; running transactions end, or the request does.
pub(super) fn drain(view: &View) -> Option<Want> {
    let (request, record, primary) = hand_over(view, Stage::Holding)?;
    let waited_ms = view.memory.stage_age_ms(view.now, request.id);
    let not_holding: Vec<&str> = view
        .fresh_peers()
        .filter(|status| status.holding != Some(request.id))
        .map(|status| status.node.0.as_str())
        .collect();
    let unasked = is_on(Mutation::DrainSkipped);
    let busy = if unasked { 0 } else { primary.activity.busy_sessions };
    let over = waited_ms > view.settings.drain_timeout_ms;
    if let Err(reason) = successor(view, request, &record.value, primary) {
        return fail(view, request, format!("{reason}; the hold was released"));
    }
    if over && !request.is_forced() {
        let seconds = view.settings.drain_timeout_ms / 1_000;
        return fail(
            view,
            request,
            format!("{busy} session(s) were still in a transaction after {seconds} s; the hold was released"),
        );
    }
    // Activity from before every proxy held tells nothing.
    let quiet = busy == 0 && not_holding.is_empty() && waited_ms >= view.settings.heartbeat_ms.min(100);
    if quiet || over {
        let node = &record.value.node;
        let note = match request.successor() {
            Some(to) if to != node => format!("{node} stops and hands over to {to}"),
            _ => format!("{node} stops and starts again"),
        };
        return move_on(view, request, Stage::Stopping, note);
    }
    match not_holding.as_slice() {
        [] => wait(format!("{busy} session(s) are in a transaction")),
        nodes => wait(format!("{} not holding yet", nodes.join(", "))),
    }
}

/// The step that cannot be taken back: from here on a takeover decides, with the successor preferred.
pub(super) fn stop(view: &View) -> Option<Want> {
    view.serving()?;
    let request = view.handing()?;
    if view.busy.is_some() || view.memory.stage_age_ms(view.now, request.id) > STOP_MS_MAX {
        return None;
    }
    act(Action::Stop, request.note.clone())
}
