//! What turns a standby cluster into one that is written to, and back: the requests to promote and to demote.
//!
//! Both are checked here and then end in an ordinary takeover: with every promise and every answer, and its one
//! transaction also turns `/origin`. Invariant: nothing is stopped or recorded before the last check has passed.

use super::request::{fail, move_on};
use super::{Want, takeover, wait};
use crate::election::{self, Outcome};
use crate::mutation::{Mutation, is_on};
use crate::{Ask, NodeName, OriginReport, Postgres, Request, Stage, Tags, View, health};

/// A look at the origin asks all hosts at once and ends within a few seconds; three of them.
const LOOK_MS_MAX: u64 = 15_000;

/// A takeover takes seconds; one that has to fetch WAL from a peer first goes on as long as WAL comes.
const PROMOTE_MS_MAX: u64 = 60_000;

/// While a server starts or works it may still answer: crash recovery takes minutes.
const PROMOTE_BUSY_MS_MAX: u64 = 300_000;

/// The wanted request that nobody has begun.
fn waiting(view: &View, wanted: impl Fn(&Ask) -> bool) -> Option<&Request> {
    view.requests().find(|request| request.stage == Stage::Waiting && wanted(&request.ask))
}

/// Why a promotion would make a second writer, as far as can be seen.
fn origin_lives(origin: &OriginReport) -> Option<String> {
    if let Some((address, primary)) = origin.primary() {
        return Some(format!(
            "{address} answers as a primary, at {} on timeline {}: two clusters would take writes",
            primary.flush, primary.history.current
        ));
    }
    let standbys: Vec<&str> = origin.standbys().collect();
    (!standbys.is_empty())
        .then(|| format!("{} answers as a standby: a takeover there may be under way", standbys.join(", ")))
}

/// Who could not be promoted before it is started anew.
fn outgrown(view: &View) -> Option<&NodeName> {
    let peer = view.fresh_peers().find(|status| status.condition.outgrown).map(|status| &status.node);
    peer.or(view.condition.outgrown.then_some(&view.me))
}

/// Why no node that is heard may be primary, nor head; `None` when one may. Whoever may and lacks WAL fetches it.
fn nobody_may(view: &View) -> Option<String> {
    let barred = |postgres: &Postgres, tags: &Tags, full: bool| match postgres {
        Postgres::Standby(_) | Postgres::Primary(_) if full => Some("has no room on its disk".to_owned()),
        Postgres::Standby(_) | Postgres::Primary(_) if tags.nofailover => {
            Some("is tagged nofailover".to_owned())
        }
        Postgres::Standby(_) | Postgres::Primary(_) if tags.failover_priority == 0 => {
            Some("has failover_priority 0".to_owned())
        }
        Postgres::Standby(_) | Postgres::Primary(_) => None,
        other => Some(format!("has no server that runs ({})", other.word())),
    };
    let peers = view.fresh_peers().filter(|status| view.settings.full.contains(&status.node));
    let peers = peers.map(|s| (&s.node, barred(&s.postgres, &s.tags, s.condition.disk_full)));
    let own = (&view.me, barred(&view.postgres, &view.tags, view.condition.disk_full));
    let mut reasons = Vec::new();
    for (node, reason) in std::iter::once(own).chain(peers) {
        reasons.push(format!("{node} {}", reason?));
    }
    Some(format!("nobody may take over: {}", reasons.join(", ")))
}

pub(super) fn promote(view: &View) -> Option<Want> {
    let request = waiting(view, |ask| matches!(ask, Ask::Promote { .. })).filter(|_| view.is_head())?;
    let force = matches!(request.ask, Ask::Promote { force: true }) || is_on(Mutation::PromoteUnlooked);
    let late = view.memory.stage_age_ms(view.now, request.id) > LOOK_MS_MAX;
    if let Some(node) = outgrown(view) {
        // PostgreSQL promotes no server whose settings are too small; the rule that starts it anew stands below.
        if !late {
            return None;
        }
        if !force {
            let reason = format!("replay stands on {node}, where the settings of the origin grew");
            return fail(view, request, format!("{reason}; see pgherd status, or add --force"));
        }
    }
    if let Some(reason) = nobody_may(view) {
        let next = "take a nofailover away, or make room on a disk";
        return if late { fail(view, request, format!("{reason}; {next}")) } else { None };
    }
    if !view.looked_since(request) && !force {
        return if late {
            fail(
                view,
                request,
                "nobody could look whether the origin lives; see pgherd status, or add --force",
            )
        } else {
            wait("looking whether the origin lives")
        };
    }
    // A stream that goes on knows better than a look that nobody answered in time.
    if view.streams_as_recorded() && origin_lives(&view.origin).is_none() && !force {
        return if late {
            fail(
                view,
                request,
                "no host of the origin answers, and yet its WAL comes; stop it first, or add --force",
            )
        } else {
            wait("no host of the origin answers, and yet its WAL comes: looking again")
        };
    }
    if let Some(reason) = origin_lives(&view.origin).filter(|_| !force) {
        let next = "stop it first (or let it follow this cluster afterwards: pgherd demote), or add --force";
        return fail(view, request, format!("{reason}; {next}"));
    }
    let end = view.postgres.standby().map(|standby| standby.position);
    let end = end.map_or("unknown".to_owned(), |end| format!("{} on timeline {}", end.lsn, end.timeline));
    let commit = view.origin.last_commit.as_deref().unwrap_or("unknown");
    let seen = view.origin.words();
    move_on(
        view,
        request,
        Stage::Stopping,
        format!("the last WAL of the origin here is {end}, its last commit of {commit}; {seen}"),
    )
}

/// It passed its checks, and no takeover has ended since, or there is no head that could check it: what was to be primary
/// is gone. Nobody promotes later what was asked for now.
pub(super) fn close(view: &View) -> Option<Want> {
    let recorded = view.head()?.term;
    let request = view.requests().find(|request| matches!(request.ask, Ask::Promote { .. }))?;
    let fetches = |postgres: &Postgres| {
        let upstream = postgres.standby().and_then(|standby| standby.upstream.as_ref());
        upstream.is_some_and(|upstream| upstream.term > recorded)
    };
    let works = |postgres: &Postgres, busy: bool| busy || *postgres == Postgres::Starting;
    let peers = || view.fresh_peers().filter(|status| view.settings.full.contains(&status.node));
    let fetching = fetches(&view.postgres) || peers().any(|status| fetches(&status.postgres));
    let working = works(&view.postgres, view.busy.is_some())
        || peers().any(|status| works(&status.postgres, status.busy.is_some()));
    let patience_ms = if working { PROMOTE_BUSY_MS_MAX } else { PROMOTE_MS_MAX };
    if fetching || view.memory.stage_age_ms(view.now, request.id) < patience_ms {
        return None;
    }
    let missing = || match takeover::outcome(view, view.sync()?, election::campaign_term(view)) {
        Outcome::Missing(missing) => Some(missing),
        Outcome::Chosen(_) | Outcome::Fetch { .. } => None,
    };
    let reason = nobody_may(view).or_else(missing).unwrap_or_else(|| "too few nodes answer".to_owned());
    let seconds = patience_ms / 1_000;
    fail(
        view,
        request,
        format!("there was no primary within {seconds} s: {reason}; see pgherd status, then ask again"),
    )
}

pub(super) fn demote(view: &View) -> Option<Want> {
    let request = waiting(view, |ask| matches!(ask, Ask::Demote { .. }))?;
    let (_, own) = view.serving().filter(|_| health::open(view))?;
    let late = view.memory.stage_age_ms(view.now, request.id) > LOOK_MS_MAX;
    let asked = view.origin_hosts();
    let looked =
        view.looked_since(request) && view.origin.hosts.iter().all(|host| asked.contains(&host.address));
    let Some((address, primary)) = view.origin.primary().filter(|_| looked) else {
        let seen = view.origin.words();
        return match late {
            true => fail(view, request, format!("no primary is there to follow: {seen}")),
            false => wait(format!("looking for the primary to follow: {seen}")),
        };
    };
    if primary.system_id != own.system_id {
        return fail(
            view,
            request,
            format!(
                "{address} has system identifier {}, this cluster {}: they have no history in common",
                primary.system_id, own.system_id
            ),
        );
    }
    if let Some(reason) = nobody_may(view) {
        // It stops, and nobody could be head.
        let next = "take a nofailover away, or make room on a disk";
        return if late { fail(view, request, format!("{reason}; {next}")) } else { wait(reason) };
    }
    if primary.history.current < own.timeline() {
        return fail(
            view,
            request,
            format!(
                "{address} is on timeline {}, this cluster on {}, and PostgreSQL follows nobody on a lower one; \
                 each pgherd switchover there raises it: repeat it until it is above {}",
                primary.history.current,
                own.timeline(),
                own.timeline()
            ),
        );
    }
    if primary.history.current == own.timeline() {
        return fail(
            view,
            request,
            format!(
                "{address} is on timeline {} as this cluster is: it is this cluster's own primary, or the two cannot be told apart",
                own.timeline()
            ),
        );
    }
    let fork = primary
        .history
        .ancestors
        .iter()
        .rfind(|branch| own.history.contains(branch.timeline, branch.end, own.flush));
    let fork = fork.map_or("unknown".to_owned(), |branch| branch.end.to_string());
    move_on(
        view,
        request,
        Stage::Stopping,
        format!(
            "writes end here at {}; {address} is followed, whose history left this one at {fork}",
            own.flush
        ),
    )
}
