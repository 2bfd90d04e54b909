//! What people asked for: restart, reload, reinit, and the end of each request.
//!
//! The open primary closes what is over; a node drives what concerns its own server only.

use super::{Want, act, may_follow, standby};
use crate::request::{
    ANSWER_MS_MAX, REINIT_MS_MAX, RELOAD_MS_MAX, RELOAD_WAIT_MS_MAX, RESTART_MS_MAX, START_MS_MIN,
    STOP_MS_MAX, moved, no_more,
};
use crate::{Action, Ask, Health, Postgres, PrimaryRecord, Request, Stage, View, health};

pub(super) fn move_on(view: &View, request: &Request, stage: Stage, note: impl Into<String>) -> Option<Want> {
    let note = note.into();
    act(moved(view, request.id, stage, note.clone())?, note)
}

pub(super) fn fail(view: &View, request: &Request, note: impl Into<String>) -> Option<Want> {
    move_on(view, request, Stage::Failed, note)
}

/// The open primary says how a request ended that nobody else can end.
pub(super) fn close(view: &View) -> Option<Want> {
    let (record, _) = view.serving().filter(|_| health::open(view))?;
    view.requests().find_map(|request| end_of(view, &record.value, request))
}

/// The same by the head of a standby cluster, which has no primary.
pub(super) fn close_by_head(view: &View) -> Option<Want> {
    let record = view.head().filter(|_| view.is_head())?;
    view.requests().find_map(|request| end_of(view, record, request))
}

fn end_of(view: &View, record: &PrimaryRecord, request: &Request) -> Option<Want> {
    let age_ms = view.memory.stage_age_ms(view.now, request.id);
    let (node, term) = (&record.node, record.term);
    let later = request.term < term;
    // Asked just when it was let go: the removal ends all that was asked of it before.
    if let Some(asked) = request.ask.node().filter(|asked| !view.settings.voters.contains(asked)) {
        return fail(view, request, no_more(asked));
    }
    match (&request.ask, request.stage) {
        (Ask::Promote { .. }, Stage::Stopping) if record.head => None,
        (Ask::Promote { .. }, _) if !record.head => {
            let note = format!("{node} is the primary of term {term}, on timeline {}", record.timeline);
            move_on(view, request, Stage::Done, note)
        }
        (Ask::Demote { .. }, Stage::Stopping) if record.head && view.streams_as_recorded() => {
            let sender = view.origin.sender.as_deref().unwrap_or("the origin");
            move_on(
                view,
                request,
                Stage::Done,
                format!("{node} is head of term {term} and streams from {sender}"),
            )
        }
        // Writes have ended, and others may be asked for: whether its origin lets it in is no part of the request.
        (Ask::Demote { .. }, Stage::Stopping) if record.head && age_ms <= STOP_MS_MAX => None,
        (Ask::Demote { .. }, Stage::Stopping) if record.head => {
            let seen = view.origin.words();
            let note = format!("{node} is head of term {term}, but does not stream yet: {seen}");
            move_on(view, request, Stage::Done, note)
        }
        (Ask::Switchover { .. } | Ask::Failover { .. }, _) if record.head => {
            fail(view, request, "this is a standby cluster by now: it has no primary")
        }
        (Ask::Demote { .. }, Stage::Waiting) if record.head => {
            fail(view, request, "this is a standby cluster already")
        }
        (_, Stage::Stopping) if later && request.successor() == Some(node) => {
            move_on(view, request, Stage::Done, format!("{node} is the primary of term {term}"))
        }
        (_, Stage::Stopping) if later => {
            fail(view, request, format!("{node} had the most WAL and is the primary of term {term}"))
        }
        (_, Stage::Preparing | Stage::Holding) if later => {
            fail(view, request, format!("a takeover came in between: {node} is the primary of term {term}"))
        }
        (_, Stage::Stopping) if age_ms > STOP_MS_MAX => {
            fail(view, request, format!("PostgreSQL of {node} did not stop; {node} goes on as primary"))
        }
        (Ask::Failover { to }, _) if to == node => {
            move_on(view, request, Stage::Done, format!("{node} is the primary of term {term}"))
        }
        (Ask::Failover { .. }, _) if later => fail(view, request, format!("{node} took over first")),
        (Ask::Failover { to }, _) if health::own(view) == Health::Fine => {
            let next = format!("pgherd switchover --to {to}");
            fail(view, request, format!("{node} is primary and takes writes; nothing need be lost: {next}"))
        }
        (Ask::Restart { node, .. } | Ask::Reload { node, .. } | Ask::Reinit { node }, Stage::Waiting)
            if *node != view.me && age_ms > ANSWER_MS_MAX && !view.fresh_peers().any(|s| s.node == *node) =>
        {
            fail(view, request, format!("{node} has not answered for {} s", ANSWER_MS_MAX / 1_000))
        }
        // Behind work on its server that takes hours, or a rule that waits for somebody: it is told later what to apply.
        (Ask::Reload { node, .. }, Stage::Waiting) if age_ms > RELOAD_WAIT_MS_MAX => {
            fail(view, request, format!("{node} has not come to it; see pgherd status"))
        }
        (Ask::Reload { node, .. }, Stage::Running) if age_ms > RELOAD_MS_MAX => {
            fail(view, request, format!("{node} has not said that it has applied its configuration"))
        }
        (Ask::Reinit { node }, _) if *node == view.me => {
            fail(view, request, format!("{node} is the primary; first: pgherd switchover"))
        }
        // It was to restart as a replica, and a takeover chose it meanwhile: nobody else would end this.
        (Ask::Restart { node: asked, .. }, Stage::Running) if asked == node && !record.head => {
            let note = format!("{node} became the primary of term {term} meanwhile");
            let stage = if view.durable.obeyed >= request.id { Stage::Done } else { Stage::Failed };
            move_on(view, request, stage, note)
        }
        (Ask::Restart { node, .. }, Stage::Running) if age_ms > RESTART_MS_MAX => {
            fail(view, request, format!("{node} has not come back; see pgherd status"))
        }
        (Ask::Reinit { node }, _) if age_ms > REINIT_MS_MAX => {
            fail(view, request, format!("{node} has not come back; see pgherd status"))
        }
        _ => None,
    }
}

/// A replica is restarted when commits can do without it.
pub(super) fn restart(view: &View) -> Option<Want> {
    let request = view.asked_here(|ask| matches!(ask, Ask::Restart { .. }))?;
    let record = view.record()?;
    if record.node == view.me && !record.head {
        return None;
    }
    let obeyed = view.durable.obeyed >= request.id;
    match (request.stage, view.postgres.standby()) {
        (Stage::Waiting, Some(_)) if copies_before(view, request) => None,
        (Stage::Waiting, Some(_)) if !obeyed => {
            if let Some(reason) = indispensable(view).filter(|_| !request.is_forced()) {
                return fail(view, request, format!("{reason}; add --force to restart it all the same"));
            }
            move_on(view, request, Stage::Running, format!("{} restarts", view.me))
        }
        (Stage::Running, Some(_)) if !obeyed => {
            act(Action::Restart { request: request.id }, format!("request {} asks for it", request.id))
        }
        // Waiting, and obeyed: a later request for a new copy has started this server anew already.
        (Stage::Waiting | Stage::Running, Some(_)) if view.streams_as_recorded() => {
            move_on(view, request, Stage::Done, format!("{} runs and streams again", view.me))
        }
        // Its origin may be gone, and a promotion waits for the end of this request.
        (Stage::Waiting | Stage::Running, Some(_))
            if record.head && obeyed && view.memory.stage_age_ms(view.now, request.id) > STOP_MS_MAX =>
        {
            move_on(view, request, Stage::Done, format!("{} runs again, but does not stream yet", view.me))
        }
        _ => None,
    }
}

/// An earlier request for a new copy of this node is still to be obeyed. What is obeyed is known by the highest number, so
/// requests are obeyed in their order; and the copy starts the server anew.
fn copies_before(view: &View, request: &Request) -> bool {
    let copies = |r: &Request| matches!(&r.ask, Ask::Reinit { node } if *node == view.me);
    view.requests().any(|r| copies(r) && view.durable.obeyed < r.id && r.id < request.id)
}

/// Without this member commits wait.
fn indispensable(view: &View) -> Option<String> {
    let (sync, own) = (view.sync()?, view.durable.member.as_ref()?);
    let needed = sync.set.k > 0 && sync.set.members.contains(own) && sync.set.members.len() <= sync.set.k;
    needed.then(|| format!("writes would wait: {} has nobody to spare", sync.set))
}

/// One node after another, in the order of the asking: what does harm is to do it to one.
pub(super) fn reload(view: &View) -> Option<Want> {
    let request = view.asked_here(|ask| matches!(ask, Ask::Reload { .. }))?;
    view.record()?;
    let before = |other: &Request| matches!(other.ask, Ask::Reload { .. }) && other.id < request.id;
    if view.requests().any(before) {
        return None;
    }
    if let Ask::Reload { after: Some(id), .. } = request.ask
        && view.failed_request(id)
    {
        return fail(view, request, format!("request {id} failed, and this one was to come after it"));
    }
    match &view.errands.not_reloaded {
        _ if request.stage == Stage::Waiting => {
            move_on(view, request, Stage::Running, format!("{} reads its configuration anew", view.me))
        }
        _ if view.errands.reloaded >= request.id => {
            move_on(view, request, Stage::Done, format!("{} has applied its configuration", view.me))
        }
        Some((id, why)) if *id == request.id => fail(view, request, why),
        _ => act(Action::Reload { request: request.id }, format!("request {} asks for it", request.id)),
    }
}

/// What keeps the server from starting may be in its settings. A start that has not been tried comes first.
pub(super) fn reload_stopped(view: &View) -> Option<Want> {
    let is_stopped = matches!(view.postgres, Postgres::Stopped | Postgres::Empty);
    if is_stopped && view.memory.down_ms(view.now) > START_MS_MIN { reload(view) } else { None }
}

/// What keeps a primary from opening may be in its settings, too.
pub(super) fn reload_unopened(view: &View) -> Option<Want> {
    super::primary::wait_to_open(view).and_then(|_| reload(view))
}

/// A witness has settings, too.
pub(super) fn reload_witness(view: &View) -> Option<Want> {
    if view.is_full() { None } else { reload(view) }
}

/// The copy is given up once the primary has taken it out of the sync set; `rejoin.clone` does the rest.
pub(super) fn reinit(view: &View) -> Option<Want> {
    let request = view.asked_here(|ask| matches!(ask, Ask::Reinit { .. }))?;
    let (record, sync) = (view.record()?, view.sync()?);
    if record.node == view.me {
        return None;
    }
    if view.durable.obeyed < request.id {
        // A primary that has not opened may need this very member, and takes nobody out of a set before.
        if !view.opened() && !sync.idle {
            return None;
        }
        // While nobody is there to copy, what is here may be all that is left.
        let source = match record.head {
            true => standby::head_streams(view, record),
            false => may_follow(view),
        };
        if !source {
            return None;
        }
        let counts = view.durable.member.as_ref().is_some_and(|member| sync.set.members.contains(member));
        // The last member of a set on which no commit counts is not let go, and need not be.
        let last = sync.set.k == 0 && sync.set.has_nobody_to_spare();
        if counts && !last {
            // Until the primary has let it go it follows as any other: the removal of another may wait for its flush.
            return match sync.set.has_nobody_to_spare() {
                false => None,
                true => fail(view, request, format!("writes would wait: {} has nobody to spare", sync.set)),
            };
        }
        return act(Action::GiveUp { request: request.id }, format!("request {} asks for it", request.id));
    }
    // It won a takeover before it was copied, and has followed again since.
    if !view.durable.needs_clone
        && view.durable.given_up.is_some()
        && view.durable.given_up == view.durable.member
    {
        let next = format!("pgherd reinit {}", view.me);
        return fail(
            view,
            request,
            format!("{} became primary before it was copied; again: {next}", view.me),
        );
    }
    let streams = view.streams_as_recorded();
    match request.stage {
        Stage::Waiting => {
            move_on(view, request, Stage::Running, format!("{} copies the data directory", view.me))
        }
        _ if streams && !view.durable.needs_clone => {
            move_on(view, request, Stage::Done, format!("{} has a new copy and streams", view.me))
        }
        // The origin may be gone, and what it sends is no part of the request.
        _ if record.head && !view.durable.needs_clone && view.postgres.standby().is_some() => {
            let late = view.memory.stage_age_ms(view.now, request.id) > STOP_MS_MAX;
            let dry = late && !standby::head_streams(view, record);
            dry.then(|| {
                let note = format!("{} has a new copy; {} does not stream yet", view.me, record.node);
                move_on(view, request, Stage::Done, note)
            })?
        }
        _ => None,
    }
}
