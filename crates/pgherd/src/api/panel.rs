//! The agent's panel as the API's view of the cluster.

use std::collections::BTreeMap;
use std::sync::Arc;

use brain::{
    Condition, Fencer, FencerState, NodeKind, Operation, Postgres, SlotReport, SlotState, View, is_open,
};
use tokio::sync::watch;
use wire::Lsn;

use super::configuration::{ConfigChange, ConfigReport, ConfigValue, NewConfig, PastConfig};
use super::report::{
    EventRecord, Explanation, FencerReport, MemberReport, MembersReport, NodeReport, OriginStatus,
    RequestReport, Role, SlotLine, SlotsReport, StatusReport, SyncMode, SyncReport, wall_text,
};
use super::{BoxFuture, ClusterView, MemberChange, OwnReport, PastTimeline, own};
use crate::agent::{
    Addresses, Command, Event, FailoverReport, News, Panel, Refusal, Reload, change_members, kept_failovers,
    submit, topology,
};
use crate::cluster_config::{Applier, Revision};
use crate::config::values_of_cluster;
use crate::doctor::{DoctorReport, Examiner};
use crate::store::{SeatReport, Store};

/// Joins the panel with what the configuration knows of the nodes.
pub struct NodeView {
    pub cluster: String,
    pub name: String,
    pub panel: Arc<Panel>,
    pub store: Arc<dyn Store>,
    pub addresses: Arc<Addresses>,
    pub metrics: proxy::Metrics,
    pub seats: watch::Receiver<Arc<SeatReport>>,
    /// When this process began, boot milliseconds.
    pub started_ms: u64,
    pub news: Arc<News>,
    pub applier: Arc<Applier>,
    pub examiner: Arc<Examiner>,
}

/// One node's part of a view: its own or a peer's last status.
struct Part<'a> {
    name: &'a str,
    postgres: &'a Postgres,
    busy: Option<Operation>,
    member: Option<&'a brain::MemberId>,
    contact_ms: Option<u64>,
    rule: &'a str,
    why: Vec<String>,
    condition: &'a Condition,
    slots: &'a SlotReport,
    fencer: &'a Fencer,
    tags: &'a brain::Tags,
    configuration: u64,
    why_not_source: &'a str,
    paused: bool,
}

/// The view of the last decision at the time of the question: a loop that hangs must not go on naming a primary whose
/// lease has run out meanwhile, nor peers that have not been heard since.
fn at_present(seen: &View) -> View {
    View { now: seen.now.max(brain::Millis(crate::clock::boot_millis())), ..seen.clone() }
}

fn record(event: Event) -> EventRecord {
    EventRecord {
        id: event.id,
        at: event.at,
        node: event.node,
        term: event.term,
        rule: event.rule,
        what: event.what,
        why: event.why.join("; "),
    }
}

fn paused_until(view: &View) -> Option<String> {
    view.store.requests.as_ref()?.value.paused_until.map(wall_text)
}

impl ClusterView for NodeView {
    fn metrics(&self) -> BoxFuture<'_, String> {
        Box::pin(self.metrics.text())
    }

    fn status(&self) -> StatusReport {
        let empty = SyncReport { members: Vec::new(), k: 0, mode: SyncMode::Quorum };
        let Some(seen) = self.panel.seen() else {
            return StatusReport {
                cluster: self.cluster.clone(),
                from: self.name.clone(),
                term: 0,
                primary: None,
                sync: empty,
                nodes: Vec::new(),
                reason: "the agent is starting".to_owned(),
                paused_until: None,
                requests: Vec::new(),
                origin: None,
                configuration: 0,
            };
        };
        let view = &at_present(&seen.view);
        let topology = topology(view, &self.addresses.load(), None);
        let primary = topology.primary.as_ref().map(|backend| backend.node.clone());
        let end = primary_end(view);
        let parts = parts(view, seen.decision.rule, &seen.decision.why);
        let nodes = view.settings.voters.iter().map(|voter| {
            self.node(view, parts.iter().find(|part| part.name == voter.0), &voter.0, end, primary.as_deref())
        });
        let nodes: Vec<NodeReport> = nodes.collect();
        StatusReport {
            cluster: self.cluster.clone(),
            from: self.name.clone(),
            term: view.record().map_or(0, |record| record.term.0),
            primary,
            sync: view.sync().map_or(empty, |sync| SyncReport {
                members: sync.set.members.iter().map(|member| member.node().0).collect(),
                k: sync.set.k as u32,
                mode: match sync.set.k {
                    _ if view.head().is_some() => SyncMode::Standby,
                    0 if view.k_wanted() > 0 => SyncMode::Degraded,
                    0 => SyncMode::Async,
                    _ => SyncMode::Quorum,
                },
            }),
            nodes,
            reason: topology.reason,
            paused_until: view.paused().then(|| paused_until(view)).flatten(),
            requests: view.requests().map(RequestReport::from).collect(),
            origin: origin(view),
            configuration: self.applier.record().map_or(0, |record| record.newest.config.number),
        }
    }

    fn own(&self) -> OwnReport {
        own::report(self)
    }

    fn history(&self) -> Vec<PastTimeline> {
        self.panel.seen().map_or_else(Vec::new, |seen| own::history(&seen.view))
    }

    fn failovers(&self) -> Result<Vec<FailoverReport>, Refusal> {
        let snapshot = self.store.watch().borrow().clone();
        kept_failovers(&snapshot).map_err(|error| Refusal::Unavailable(format!("{error:#}")))
    }

    fn requests(&self) -> Vec<RequestReport> {
        let Some(seen) = self.panel.seen() else { return Vec::new() };
        let requests = seen.view.store.requests.as_ref();
        requests.map_or_else(Vec::new, |requests| requests.value.list.iter().map(Into::into).collect())
    }

    fn command(&self, command: Command) -> BoxFuture<'_, Result<Option<u64>, Refusal>> {
        Box::pin(async move {
            let seen = self.panel.seen();
            let seen = seen.ok_or_else(|| Refusal::Unavailable("the agent is starting".to_owned()))?;
            submit(&self.store, &seen.view, &command).await
        })
    }

    fn events(&self, after: u64, limit: usize) -> Vec<EventRecord> {
        self.panel.events(after, limit).into_iter().map(record).collect()
    }

    fn events_of_all(&self, after: &BTreeMap<String, u64>, limit: usize) -> Vec<EventRecord> {
        let told = |node: &str| after.get(node).copied().unwrap_or(0);
        // A node that has lost its log counts from the beginning again.
        let own = Some(told(&self.name)).filter(|&id| id <= self.panel.latest()).unwrap_or(0);
        let mut events = self.panel.events(own, limit);
        events.extend(self.news.events(told, limit));
        events.sort_by(|left, right| (&left.at, left.id).cmp(&(&right.at, right.id)));
        events.into_iter().map(record).collect()
    }

    fn explain(&self, node: Option<&str>) -> Vec<Explanation> {
        let known = |node: &str| self.addresses.load().contains_key(node);
        if node.is_some_and(|node| !known(node)) {
            return Vec::new();
        }
        let explanation = |explanation: brain::Explanation| Explanation {
            node: explanation.node.0,
            takes_over: explanation.takes_over.map(|node| node.0),
            rule: explanation.rule,
            why: explanation.why,
            blockers: explanation.blockers,
        };
        self.panel.explain(node).into_iter().map(explanation).collect()
    }

    fn configuration(&self) -> Result<ConfigReport, Refusal> {
        let unreadable = |error: anyhow::Error| Refusal::Unavailable(format!("{error:#}"));
        let record = self.applier.record().map_err(unreadable)?;
        let newest = &record.newest;
        let config = self.applier.under(&newest.config).map_err(unreadable)?;
        let set = newest.config.settings();
        let seen = self.panel.seen();
        let heard = |name: &brain::NodeName| {
            let seen = seen.as_ref()?;
            Some(seen.view.memory.peers.get(name)?.status.configuration)
        };
        let nodes = seen.as_ref().into_iter().flat_map(|seen| &seen.view.settings.voters);
        let applied = |name: &brain::NodeName| match name.0 == self.name {
            true => self.applier.applied(),
            false => heard(name).unwrap_or_default(),
        };
        let past = |revision: &Revision| PastConfig {
            number: revision.config.number,
            at: wall_text(revision.at),
            by: revision.by.clone(),
            text: revision.config.text.clone(),
        };
        Ok(ConfigReport {
            cluster: self.cluster.clone(),
            number: newest.config.number,
            text: newest.config.text.clone(),
            changed_at: (newest.config.number > 0).then(|| wall_text(newest.at)),
            changed_by: newest.by.clone(),
            applied: nodes.map(|name| (name.0.clone(), applied(name))).collect(),
            values: values_of_cluster(&config)
                .into_iter()
                .map(|(key, value)| ConfigValue { of_cluster: set.contains_key(&key), key, value })
                .collect(),
            previous: record.previous.iter().map(past).collect(),
        })
    }

    fn configure(&self, new: NewConfig, by: String) -> BoxFuture<'_, Result<ConfigChange, Refusal>> {
        Box::pin(async move {
            let seen = self.panel.seen();
            let seen = seen.ok_or_else(|| Refusal::Unavailable("the agent is starting".to_owned()))?;
            if new.dry_run {
                let plan = self.applier.plan(&seen.view, &new.text).await?;
                return Ok(ConfigChange { plan, requests: Vec::new() });
            }
            let (plan, requests) = self.applier.change(&seen.view, &new.text, new.number, &by).await?;
            Ok(ConfigChange { plan, requests })
        })
    }

    fn examine(&self) -> BoxFuture<'_, DoctorReport> {
        Box::pin(self.examiner.examine())
    }

    fn change_members(&self, change: MemberChange) -> BoxFuture<'_, Result<u64, Refusal>> {
        Box::pin(async move {
            let seen =
                self.panel.seen().ok_or_else(|| Refusal::Unavailable("the agent is starting".to_owned()))?;
            change_members(&self.store, &seen.view, &change).await
        })
    }

    fn members(&self) -> MembersReport {
        let seats = self.seats.borrow().clone();
        let seen = self.panel.seen();
        let record =
            seen.as_ref().and_then(|seen| seen.view.store.members.as_ref()).map(|members| &members.value);
        let member = |(name, member): (&brain::NodeName, &brain::MemberRecord)| {
            let votes = seats.voters.contains(&name.0);
            let state = match (member.leaving, votes) {
                (true, _) => "leaving",
                (false, true) => "member",
                (false, false) => "joining",
            };
            let store = match votes {
                true => "voter",
                false if seats.learners.contains(&name.0) => "learner",
                false => "none",
            };
            let kind = if member.kind == NodeKind::Full { "full" } else { "witness" };
            MemberReport {
                name: name.0.clone(),
                kind: kind.to_owned(),
                peer: member.peer.clone(),
                postgres: member.postgres.clone(),
                state: state.to_owned(),
                store: store.to_owned(),
            }
        };
        MembersReport {
            cluster: self.cluster.clone(),
            from: self.name.clone(),
            members: record.into_iter().flat_map(|record| record.nodes.iter().map(member)).collect(),
            removed: record
                .into_iter()
                .flat_map(|record| record.removed.keys().map(|n| n.0.clone()))
                .collect(),
            store_trouble: seats.trouble.clone(),
        }
    }
}

impl NodeView {
    fn node(
        &self,
        view: &View,
        part: Option<&Part<'_>>,
        name: &str,
        end: Option<Lsn>,
        primary: Option<&str>,
    ) -> NodeReport {
        let full = view.settings.full.contains(&brain::NodeName::from(name));
        let postgres = part.map_or(&Postgres::Unknown, |part| part.postgres);
        let (timeline, lsn) = position(postgres);
        let is_primary = matches!(postgres, Postgres::Primary(_));
        let streaming = postgres.standby().is_some_and(|standby| standby.streaming && !standby.quarantined);
        let fresh =
            part.is_some_and(|part| part.contact_ms.is_none_or(|ms| ms <= view.settings.failure_timeout_ms));
        let sync = view
            .sync()
            .zip(part.and_then(|part| part.member))
            .is_some_and(|(sync, member)| sync.set.members.contains(member));
        NodeReport {
            name: name.to_owned(),
            role: match postgres {
                _ if !full => Role::Witness,
                Postgres::Primary(_) => Role::Primary,
                Postgres::Standby(_) if view.head().is_some_and(|record| record.node.0 == name) => Role::Head,
                Postgres::Standby(_) => Role::Replica,
                _ => Role::Unknown,
            },
            state: if !fresh {
                "unreachable".to_owned()
            } else {
                state(full, postgres, part.and_then(|part| part.busy))
            },
            timeline,
            lsn,
            lag_bytes: if is_primary { None } else { end.zip(lsn).map(|(end, lsn)| end.bytes_since(lsn)) },
            sync,
            healthy: fresh && (!full || primary == Some(name) || streaming),
            last_contact_ms: part.and_then(|part| part.contact_ms),
            postgres: full.then(|| self.addresses.load().get(name).cloned()).flatten(),
            tags: part.map_or_else(Default::default, |part| part.tags.clone()),
            upstream: if fresh { upstream(postgres) } else { None },
            receiver_note: if fresh { receiver_note(postgres) } else { String::new() },
            upstream_note: part.map_or_else(String::new, |part| part.why_not_source.to_owned()),
            paused: part.is_some_and(|part| part.paused),
            rule: part.map_or_else(String::new, |part| part.rule.to_owned()),
            why: part.map_or_else(Vec::new, |part| part.why.clone()),
            condition: part.map_or_else(Condition::default, |part| part.condition.clone()),
            slots: part.filter(|_| full && fresh).map_or_else(SlotsReport::default, |part| slots(part.slots)),
            fencer: part.and_then(|part| fencer(part.fencer)),
            replay_lsn: postgres.standby().map(|standby| standby.replay).filter(|lsn| *lsn > Lsn::ZERO),
            quarantined: is_quarantined(postgres),
            configuration: part.map_or(0, |part| part.configuration),
            doors: if name == self.name { Some(self.news.own().clone()) } else { self.news.doors_of(name) },
        }
    }
}

fn parts<'a>(view: &'a View, rule: &'a str, why: &[String]) -> Vec<Part<'a>> {
    let own = Part {
        name: &view.me.0,
        postgres: &view.postgres,
        busy: view.busy,
        member: view.durable.member.as_ref(),
        contact_ms: None,
        rule,
        why: why.to_vec(),
        condition: &view.condition,
        slots: &view.slots,
        fencer: &view.fencer,
        tags: &view.tags,
        configuration: view.configuration,
        why_not_source: &view.memory.cascade.why_not,
        paused: view.paused(),
    };
    let peers = view.memory.peers.values().map(|heard| Part {
        name: &heard.status.node.0,
        postgres: &heard.status.postgres,
        busy: heard.status.busy,
        member: heard.status.member.as_ref(),
        contact_ms: Some(view.now.since(heard.at)),
        rule: &heard.status.rule,
        why: Vec::new(),
        condition: &heard.status.condition,
        slots: &heard.status.slots,
        fencer: &heard.status.fencer,
        tags: &heard.status.tags,
        configuration: heard.status.configuration,
        why_not_source: &heard.status.why_not_source,
        paused: heard.status.paused,
    });
    std::iter::once(own).chain(peers).collect()
}

/// Empty is a pointer that an earlier agent set and this one knows only the term of.
fn upstream(postgres: &Postgres) -> Option<String> {
    let upstream = postgres.standby()?.upstream.as_ref()?;
    Some(upstream.node.0.clone()).filter(|node| !node.is_empty())
}

fn is_quarantined(postgres: &Postgres) -> bool {
    match postgres {
        Postgres::Primary(primary) => primary.quarantined,
        Postgres::Standby(standby) => standby.quarantined,
        _ => false,
    }
}

fn receiver_note(postgres: &Postgres) -> String {
    let complaint = postgres.standby().and_then(|standby| standby.complaint.as_ref());
    complaint.map_or_else(String::new, |complaint| complaint.words.clone())
}

fn slots(report: &SlotReport) -> SlotsReport {
    let line = |slot: &SlotState| SlotLine {
        name: slot.name.clone(),
        kind: if slot.database.is_some() { "logical" } else { "physical" }.to_owned(),
        database: slot.database.clone(),
        kept: slot.kept,
        active: slot.active,
        restart_lsn: slot.restart,
        confirmed_flush_lsn: slot.confirmed,
        held_bytes: slot.held_bytes,
        budget_bytes: slot.budget_bytes,
        owner: slot.owner.clone(),
        holds_back_vacuum: slot.holds_back_vacuum(),
        lost: slot.lost.clone(),
    };
    SlotsReport {
        ready: report.ready(),
        missing: report.missing.clone(),
        slots: report.slots.iter().map(line).collect(),
    }
}

fn fencer(fencer: &Fencer) -> Option<FencerReport> {
    (fencer.state != FencerState::Unknown).then(|| FencerReport {
        state: fencer.state.word().to_owned(),
        left_ms: fencer.left_ms,
        obstacle: fencer.obstacle.clone(),
    })
}

fn position(postgres: &Postgres) -> (Option<u32>, Option<Lsn>) {
    match postgres {
        Postgres::Primary(primary) => (Some(primary.timeline().0), Some(primary.flush)),
        Postgres::Standby(standby) => (Some(standby.position.timeline.0), Some(standby.position.lsn)),
        _ => (None, None),
    }
}

/// The cluster that is followed, as its follower sees it.
fn origin(view: &View) -> Option<OriginStatus> {
    let record = view.origin_record()?;
    let head = view.head();
    let heard = head.and_then(|head| view.memory.peers.get(&head.node)).map(|heard| &heard.status);
    let (report, postgres) = match heard.filter(|_| !view.is_head()) {
        Some(status) => (&status.origin, &status.postgres),
        None => (&view.origin, &view.postgres),
    };
    let lsn = head.and_then(|_| postgres.standby()).map(|standby| standby.position.lsn);
    let primary = report.primary();
    Some(OriginStatus {
        hosts: record.hosts.clone(),
        head: head.map(|head| head.node.0.clone()),
        sender: report.sender.clone().filter(|_| postgres.standby().is_some_and(|s| s.streaming)),
        primary: primary.map(|(address, _)| address.to_owned()),
        lsn,
        lag_bytes: primary.zip(lsn).map(|((_, primary), lsn)| primary.flush.bytes_since(lsn)),
        streamed_at: report.streamed_at.map(wall_text),
        last_commit: report.last_commit.clone(),
        seen: report.words(),
    })
}

/// The recorded primary's end of WAL, or that of the one that is followed, as far as known here.
fn primary_end(view: &View) -> Option<Lsn> {
    let record = view.record()?;
    if record.head {
        let heads = view.fresh_peers().map(|status| &status.origin).chain([&view.origin]);
        return heads.filter_map(|origin| Some(origin.primary()?.1.flush)).max();
    }
    if is_open(view) {
        return view.postgres.primary().map(|primary| primary.flush);
    }
    let peer = view.memory.peers.get(&record.node)?;
    peer.status.postgres.primary().map(|primary| primary.flush)
}

fn state(full: bool, postgres: &Postgres, busy: Option<Operation>) -> String {
    let word = match busy {
        _ if !full => "voting",
        Some(Operation::Initdb) => "creating",
        Some(Operation::Start) => "starting",
        Some(Operation::Stop) => "stopping",
        Some(Operation::Clone) => "cloning",
        Some(Operation::Rewind) => "rewinding",
        Some(Operation::Promote) => "promoting",
        Some(Operation::TakeSlots) => "restarting",
        _ => postgres.word(),
    };
    word.to_owned()
}
