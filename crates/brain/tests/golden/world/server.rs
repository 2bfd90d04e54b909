//! A PostgreSQL server as far as decisions see it, and the WAL that flows between servers.

use std::collections::{BTreeMap, BTreeSet};

use brain::{
    Action, Activity, Applied, Complaint, Durable, MemberId, Millis, NodeName, Position, Postgres, Primary,
    Standby, SyncSet, Term, Upstream, Walsender,
};
use wire::{History, Lsn};

use super::World;
use super::origin::branched;

#[derive(Clone)]
pub(super) struct Server {
    pub running: bool,
    pub writable: bool,
    pub upstream: Option<Upstream>,
    pub history: History,
    pub end: Lsn,
    pub end_of_recovery: Lsn,
    pub quarantined: bool,
    pub prepared: bool,
    pub applied: Option<Applied>,
    pub slots: BTreeSet<String>,
    pub busy_sessions: u32,
    pub stalled_since: Millis,
    pub streaming: bool,
    /// It runs and answers nobody.
    pub hangs: bool,
    /// Its receiver is not let in upstream, and says so.
    pub refused: Option<Complaint>,
}

impl Server {
    pub fn new(history: History, end: Lsn, now: Millis) -> Server {
        Server {
            running: false,
            writable: false,
            upstream: None,
            history,
            end,
            end_of_recovery: Lsn::ZERO,
            quarantined: true,
            prepared: false,
            applied: None,
            slots: BTreeSet::new(),
            busy_sessions: 0,
            stalled_since: now,
            streaming: false,
            hangs: false,
            refused: None,
        }
    }
}

impl World {
    /// Attached standbys take what their upstream has.
    pub(super) fn stream(&mut self) {
        let snapshot: BTreeMap<NodeName, Server> =
            self.nodes.iter().filter_map(|(name, n)| Some((name.clone(), n.server.clone()?))).collect();
        let (now, origin) = (self.now, self.origin.as_ref());
        for (name, node) in &mut self.nodes {
            let Some(server) = node.server.as_mut().filter(|s| s.running && !s.writable) else { continue };
            if server.upstream.as_ref().is_some_and(|upstream| upstream.node.is_origin()) {
                let own = (server.history.timeline_at(server.end), server.end);
                let origin = origin.filter(|o| server.end >= o.kept_from && server.refused.is_none());
                let origin =
                    origin.filter(|o| o.lives && !o.refuses && o.history.contains(own.0, own.1, o.end));
                server.streaming = origin.is_some();
                if let Some(origin) = origin {
                    (server.end, server.history, server.stalled_since) =
                        (origin.end, origin.history.clone(), now);
                }
                continue;
            }
            let both = |peer: &NodeName| {
                !self.cuts.contains(&(name.clone(), peer.clone()))
                    && !self.cuts.contains(&(peer.clone(), name.clone()))
            };
            let source =
                server.upstream.as_ref().filter(|u| both(&u.node)).and_then(|u| snapshot.get(&u.node));
            let withheld = |u: &Upstream| self.withheld.contains(&(u.node.clone(), name.clone()));
            let lacks = server.upstream.as_ref().is_some_and(withheld);
            let passes_on = |s: &&Server| s.writable || s.end >= server.end;
            let source = source.filter(|s| s.running && server.refused.is_none()).filter(passes_on);
            let source = source.filter(|s| !lacks || s.end <= server.end);
            server.streaming = source.is_some();
            if let Some(source) = source {
                server.end = source.end;
                server.history = source.history.clone();
                server.stalled_since = now;
            }
        }
    }

    pub(super) fn observe(&self, name: &NodeName) -> Postgres {
        let Some(server) = &self.nodes[name].server else { return Postgres::Empty };
        if !server.running {
            return Postgres::Stopped;
        }
        if server.hangs {
            return Postgres::Unknown;
        }
        if !server.writable {
            let timeline = server.history.timeline_at(server.end);
            return Postgres::Standby(Standby {
                system_id: 7,
                upstream: server.upstream.clone(),
                receiver: server.upstream.is_some(),
                streaming: server.streaming,
                position: Position { timeline, lsn: server.end },
                replay: server.end,
                quarantined: server.quarantined,
                complete: true,
                complaint: server.refused.clone().filter(|_| !server.streaming),
                stalled_ms: if server.streaming { 0 } else { self.now.since(server.stalled_since) },
                history: Some(server.history.clone()),
                slots: server.slots.iter().map(|slot| (slot.clone(), false)).collect(),
            });
        }
        let followers = self.nodes.values().filter_map(|peer| {
            let standby = peer.server.as_ref().filter(|s| s.running && s.streaming)?;
            let upstream = standby.upstream.as_ref().filter(|u| u.node == *name)?;
            let member = peer.view.durable.member.clone()?;
            let term = upstream.term;
            Some(Walsender { member, term, streaming: true, flush: standby.end, replay: standby.end })
        });
        let walsenders: Vec<Walsender> = followers.collect();
        let mut primary = Primary {
            system_id: 7,
            history: server.history.clone(),
            flush: server.end,
            quarantined: server.quarantined,
            prepared: server.prepared,
            end_of_recovery: server.end_of_recovery,
            applied: server.applied.clone(),
            walsenders,
            slots: server.slots.clone(),
            activity: Activity { busy_sessions: server.busy_sessions, ..Activity::default() },
            write_age_ms: Some(0),
            probe_age_ms: None,
        };
        let flushed = server.applied.as_ref().is_some_and(|a| {
            primary.flushed(&a.set, a.term, server.end) >= a.set.k && a.set.members.len() >= a.set.k
        });
        primary.probe_age_ms = Some(if flushed { 0 } else { 10_000 });
        Postgres::Primary(primary)
    }
}

/// The actions on an existing server.
pub(super) fn apply(server: &mut Server, durable: &mut Durable, action: Action, now: Millis) {
    let in_force = |server: &mut Server, term: Term, set: SyncSet| {
        server.applied = Some(Applied { term, set, lsn: server.end });
    };
    match action {
        Action::StartDetached => {
            (server.running, server.writable, server.upstream) = (true, false, None);
            (server.quarantined, server.applied, server.streaming) = (true, None, false);
        }
        Action::Stop => (server.running, server.hangs) = (false, false),
        Action::Detach { .. } => (server.upstream, server.streaming) = (None, false),
        Action::Follow { term, node } | Action::Fetch { term, node } => {
            assert!(durable.promise <= term);
            durable.promise = term;
            // Of a former primaryship, or for nodes that come anew; a head has those that its followers need.
            if !node.is_origin() {
                server.slots.clear();
            }
            server.upstream = Some(Upstream { node, term });
            server.stalled_since = now;
        }
        Action::Promote { term, timeline, set, .. } => {
            (durable.promoted, durable.needs_clone) = (term, false);
            server.history = branched(&server.history, server.end, timeline);
            (server.writable, server.quarantined) = (true, true);
            server.prepared = durable.promoted > Term(1);
            server.end = Lsn(server.end.0 + 0x100);
            server.end_of_recovery = server.end;
            in_force(server, term, set);
        }
        // Back as it was stopped, with the slots in it.
        Action::TakeSlots { .. } => {
            (server.upstream, server.quarantined, server.streaming) = (None, true, false);
        }
        Action::Prepare { .. } => server.prepared = true,
        Action::ApplySync { term, set } => in_force(server, term, set),
        Action::Quarantine { .. } => server.quarantined = true,
        Action::Admit { .. } => server.quarantined = false,
        Action::Slots { members, .. } => server.slots = members.iter().map(MemberId::slot_name).collect(),
        Action::Commit(_) | Action::Promise { .. } | Action::Revoke { .. } | Action::Initdb => unreachable!(),
        Action::Clone { .. } | Action::Rewind { .. } => unreachable!(),
        Action::Checkpoint { .. } | Action::Reload { .. } => unreachable!(),
        Action::Restart { .. } | Action::GiveUp { .. } => unreachable!(),
    }
}
