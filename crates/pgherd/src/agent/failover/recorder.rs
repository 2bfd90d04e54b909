//! Watches the view and the decisions of this node, and makes a report of each primaryship that it wins.
//!
//! What it is: a state machine without effects: the same sights give the same report. What it is not: a judge; what it takes for a
//! suspicion, an answer or a loss is what the brain says. Invariant: it reports only what it has seen since before it began, so a new
//! run of the agent, or a node that had not read of the old primary, reports nothing.

use brain::{
    Action, Ask, Decision, Health, MemberId, Millis, NodeName, Operation, Outcome, PrimaryRecord, Request,
    Stage, SyncRecord, View,
};
use jiff::{SignedDuration, Timestamp};
use wire::Lsn;

use super::ballot::Votes;
use super::moments::{Moment, Moments};
use super::{FailoverKind, FailoverReport, Loss, NODES_MAX, ProxyReport, Side, brief};

/// How long an open primary waits for what other nodes' proxies counted: they count on for a second, and tell within one more.
const SETTLE_MS_MAX: u64 = 5_000;

#[derive(Default)]
pub struct Recorder {
    /// The primaryship that is recorded; `None` before the first look.
    known: Option<Known>,
    draft: Draft,
    won: Option<Won>,
}

/// A primaryship, as last seen.
struct Known {
    record: PrimaryRecord,
    opened: bool,
    /// The end of its WAL.
    end: Option<Lsn>,
}

/// What is seen before a new term is recorded.
#[derive(Default)]
struct Draft {
    moments: Moments,
    reason: String,
    request: Option<Request>,
    forced: bool,
    votes: Votes,
}

/// A primaryship that this node has won and has not reported yet.
struct Won {
    member: MemberId,
    moments: Moments,
    report: FailoverReport,
    holds: bool,
}

impl Recorder {
    /// After each decision. `wall` is read only when a term is recorded: it dates the report, and measures nothing.
    pub fn look(&mut self, view: &View, decision: &Decision, wall: Timestamp) {
        let Some(record) = view.record() else { return };
        match &mut self.known {
            Some(known) if known.is(record) => {
                known.record = record.clone();
                known.look(view);
            }
            Some(_) => self.turn(view, record, wall),
            None => self.known = Some(Known::of(record, view)),
        }
        match &mut self.won {
            Some(won) if won.moments.get(Moment::Opened).is_none() => won.look(view, decision),
            Some(won) => won.look_open(view),
            None => {}
        }
        // A new primary that has not opened is not left before it is suspect itself.
        if self.won.is_none() {
            self.draft.look(view, decision);
        }
    }

    /// The timeline of a primaryship that is open and not reported.
    pub fn opened(&self) -> Option<u32> {
        let won = self.won.as_ref()?;
        won.moments.get(Moment::Opened).map(|_| won.report.to.timeline)
    }

    /// The report and whose it is, once, when all has been told that it waits for: the end of the hold, and the counts of every proxy that is heard.
    pub fn finish(&mut self, view: &View, proxies: Vec<ProxyReport>) -> Option<(MemberId, FailoverReport)> {
        let won = self.won.as_ref()?;
        let opened = won.moments.get(Moment::Opened)?;
        let told = |node: &NodeName| proxies.iter().any(|proxy| proxy.node == node.0);
        let heard = view.fresh_peers().map(|status| &status.node).chain([&view.me]);
        let released = !won.holds || won.moments.get(Moment::Released).is_some();
        let complete = released && heard.into_iter().all(told);
        if !complete && view.now.since(opened) < SETTLE_MS_MAX {
            return None;
        }
        let Won { member, moments, mut report, .. } = self.won.take()?;
        report.phases = moments.phases(report.kind.is_hand_over());
        report.total_ms = report.phases.iter().map(|phase| phase.ms).sum();
        report.writes_paused_ms = paused_ms(&moments);
        let silent = view.settings.voters.iter().filter(|node| !told(node));
        report.silent_proxies = silent.map(|node| node.0.clone()).take(NODES_MAX).collect();
        report.proxies = proxies.into_iter().take(NODES_MAX).collect();
        Some((member, report))
    }

    /// Another primaryship is recorded: a report is begun when it is this node's, and given up when it was.
    fn turn(&mut self, view: &View, record: &PrimaryRecord, wall: Timestamp) {
        if let Some(won) = self.won.take() {
            tracing::debug!(term = won.report.term, "another takeover came before this one was reported");
        }
        let draft = std::mem::take(&mut self.draft);
        let Some(old) = self.known.replace(Known::of(record, view)) else { return };
        let is_own = view.durable.member.as_ref() == Some(&record.member) && !record.head;
        if is_own && old.precedes(record, view) {
            self.won = view.sync().map(|sync| draft.won(view, &old, record, sync, wall));
        }
    }
}

impl Known {
    fn of(record: &PrimaryRecord, view: &View) -> Known {
        let mut known = Known { record: record.clone(), opened: false, end: None };
        known.look(view);
        known
    }

    /// The same primaryship, whatever its term: one that renews keeps its timeline.
    fn is(&self, record: &PrimaryRecord) -> bool {
        let known = &self.record;
        (&known.member, known.timeline, known.head) == (&record.member, record.timeline, record.head)
    }

    /// No other primaryship was recorded in between that this node has not seen.
    fn precedes(&self, record: &PrimaryRecord, view: &View) -> bool {
        let mut timelines = view.store.timelines.iter().flat_map(|timelines| &timelines.value);
        let before = timelines.rfind(|entry| entry.timeline != record.timeline);
        self.record.head || before.is_none_or(|entry| entry.timeline == self.record.timeline)
    }

    fn look(&mut self, view: &View) {
        self.opened |= view.opened();
        let own = view.serving().map(|(_, primary)| primary.flush);
        let heard = view.memory.peers.get(&self.record.node).and_then(|heard| heard.last_flush);
        self.end = own.or(heard.filter(|_| self.record.node != view.me)).or(self.end);
    }
}

impl Draft {
    fn look(&mut self, view: &View, decision: &Decision) {
        let now = view.now;
        self.look_at_request(view);
        if view.memory.suspect_since.is_none() {
            let fine = match view.recorded_me() {
                Some(_) => (brain::health_of(view) == Health::Fine).then_some(now),
                None => view.memory.fine_age_ms(now).map(|age_ms| Millis(now.0.saturating_sub(age_ms))),
            };
            // The last one counts.
            self.moments.forget(|moment| moment == Moment::Fine);
            fine.into_iter().for_each(|at| self.moments.note(Moment::Fine, at));
        }
        let campaigns = campaigns(view, decision);
        match view.memory.suspect_since {
            Some(at) => {
                self.moments.note(Moment::Suspected, at);
                if self.reason.is_empty() {
                    self.reason = brain::suspect(view).unwrap_or_default();
                }
            }
            // It was a false alarm, and others' campaigns came to nothing.
            None if campaigns.is_empty() => {
                self.moments.forget(|moment| !moment.is_of_request() && moment != Moment::Fine);
                self.reason.clear();
                self.votes = Votes::default();
            }
            None => {}
        }
        if let Some(term) = campaigns.iter().map(|(term, _)| *term).max() {
            let asking = campaigns.into_iter().filter(|(asked, _)| *asked == term);
            self.votes.campaign(term, asking.map(|(_, node)| node).collect());
            self.moments.note(Moment::Campaign, now);
            if let Some(sync) = view.sync() {
                let tally = brain::tally(view, sync, term);
                let suffices = !matches!(brain::outcome(view, sync, &tally), Outcome::Missing(_));
                self.votes.take_in(view, tally);
                if suffices {
                    self.moments.note(Moment::Answered, now);
                }
            }
        }
        if decision.rule == "takeover.forced" {
            self.forced = true;
            self.reason = decision.why.join("; ");
        }
    }

    /// What hands the primaryship over, and how far it has come.
    fn look_at_request(&mut self, view: &View) {
        let primary = view.record().map(|record| &record.node);
        let hands_over = |request: &&Request| match &request.ask {
            Ask::Switchover { at, .. } => at.is_none_or(|at| at <= view.wall_s),
            Ask::Restart { node, .. } => Some(node) == primary,
            Ask::Failover { .. } | Ask::Promote { .. } => true,
            Ask::Reload { .. } | Ask::Reinit { .. } | Ask::Demote { .. } => false,
        };
        let Some(request) = view.requests().find(hands_over) else {
            if self.request.take().is_some() {
                self.moments.forget(Moment::is_of_request);
            }
            return;
        };
        if self.request.as_ref().is_none_or(|known| known.id != request.id) {
            self.moments.forget(Moment::is_of_request);
        }
        self.request = Some(request.clone());
        let moments = match request.stage {
            Stage::Waiting => &[Moment::Asked][..],
            Stage::Preparing => &[Moment::Asked, Moment::Checkpointing],
            Stage::Holding => &[Moment::Asked, Moment::Holding],
            Stage::Stopping => &[Moment::Asked, Moment::Drained],
            Stage::Running | Stage::Done | Stage::Failed => &[],
        };
        moments.iter().for_each(|moment| self.moments.note(*moment, view.now));
    }

    fn kind(&self, old: &PrimaryRecord, new: &PrimaryRecord) -> FailoverKind {
        // Before the stop is recorded the old primary has ended by itself.
        let stops = |request: &&Request| request.stage == Stage::Stopping;
        match self.request.as_ref().filter(stops).map(|request| &request.ask) {
            _ if self.forced => FailoverKind::Forced,
            Some(Ask::Switchover { .. }) => FailoverKind::Switchover,
            Some(Ask::Restart { .. }) if old.node == new.node => FailoverKind::Restart,
            _ if old.head => FailoverKind::Promotion,
            _ => FailoverKind::Takeover,
        }
    }

    fn won(
        mut self,
        view: &View,
        old: &Known,
        new: &PrimaryRecord,
        sync: &SyncRecord,
        wall: Timestamp,
    ) -> Won {
        // Whoever recorded the term may have heard more than this node until now.
        let asking = campaigns_of_peers(view).filter(|(term, _)| *term == new.term);
        self.votes.campaign(new.term, asking.map(|(_, node)| node).collect());
        self.votes.take_in(view, brain::tally(view, sync, new.term));
        self.moments.note(Moment::Recorded, view.now);
        let kind = self.kind(&old.record, new);
        let holds = self.moments.get(Moment::Holding).is_some() && kind.is_hand_over();
        // A hand-over begins with the asking; of a takeover no request is a part.
        let is_foreign = |moment: Moment| match kind.is_hand_over() {
            true => moment == Moment::Fine,
            false => moment.is_of_request(),
        };
        self.moments.forget(is_foreign);
        let beginning = self.moments.in_order().first().map_or(view.now, |(_, at)| *at);
        let before = SignedDuration::from_millis(view.now.since(beginning) as i64);
        let at = wall.checked_sub(before).unwrap_or(wall);
        let position = self.votes.answer_of(&new.node).map_or(new.from, |answer| answer.position);
        let lacks = old.end.map_or(0, |end| brain::missing_bytes(&old.record, end, position));
        let side = |record: &PrimaryRecord, opened| Side {
            node: record.node.0.clone(),
            term: record.term.0,
            timeline: record.timeline.0,
            opened,
        };
        let report = FailoverReport {
            term: new.term.0,
            kind,
            at: at.to_string(),
            from: side(&old.record, old.opened),
            to: side(new, true),
            reason: brief(&self.reason(kind)),
            request: self
                .request
                .as_ref()
                .filter(|_| kind != FailoverKind::Takeover)
                .map(|request| request.id),
            total_ms: 0,
            writes_paused_ms: None,
            phases: Vec::new(),
            ballot: self.votes.ballot(new.term, sync, beginning),
            loss: loss(kind, sync, &self.votes, lacks),
            proxies: Vec::new(),
            silent_proxies: Vec::new(),
        };
        Won { member: new.member.clone(), moments: self.moments, report, holds }
    }

    fn reason(&self, kind: FailoverKind) -> String {
        let asked = self.request.as_ref().filter(|_| kind.is_hand_over()).map(|request| {
            let what = match &request.ask {
                Ask::Switchover { to: Some(to), .. } => format!("a switchover to {to}"),
                Ask::Switchover { .. } => "a switchover".to_owned(),
                Ask::Restart { node, .. } => format!("a restart of {node}"),
                _ => "a promotion".to_owned(),
            };
            format!("request {} asked for {what}", request.id)
        });
        asked.unwrap_or_else(|| match self.reason.is_empty() {
            true => "others asked for promises before this node suspected anything".to_owned(),
            false => self.reason.clone(),
        })
    }
}

/// Terms for which promises are asked, and by whom.
fn campaigns(view: &View, decision: &Decision) -> Vec<(brain::Term, NodeName)> {
    let own = decision.actions.iter().find_map(|action| match action {
        Action::Revoke { term } => Some((*term, view.me.clone())),
        _ => None,
    });
    campaigns_of_peers(view)
        .chain(own)
        .filter(|(term, _)| view.record().is_some_and(|r| *term > r.term))
        .collect()
}

fn campaigns_of_peers(view: &View) -> impl Iterator<Item = (brain::Term, NodeName)> {
    view.fresh_peers().filter_map(|status| Some((status.revoking?, status.node.clone())))
}

fn loss(kind: FailoverKind, sync: &SyncRecord, votes: &Votes, lacks: u64) -> Loss {
    let (bytes, why) = match () {
        () if kind == FailoverKind::Forced => (
            lacks,
            "forced: too few had answered, and what those who did not had acknowledged is unknown".to_owned(),
        ),
        () if sync.idle => (0, "a standby cluster acknowledges nothing itself".to_owned()),
        () if sync.is_async() => (
            lacks,
            "asynchronous: as far as the old primary's WAL was known; it may have written more since"
                .to_owned(),
        ),
        () if sync.set.k == 0 => {
            (0, "the old primary acknowledged alone, and is among those who answered".to_owned())
        }
        () => (
            0,
            format!(
                "each acknowledged commit was on {} of {} members, {} of whom answered or the old primary itself did",
                sync.set.k,
                sync.set.members.len(),
                votes.counted()
            ),
        ),
    };
    Loss { bytes, why }
}

impl Won {
    fn look(&mut self, view: &View, decision: &Decision) {
        if view.recorded_me().is_none_or(|record| record.value.member != self.member) {
            return;
        }
        let mut note = |is_so: bool, moment: Moment| {
            if is_so {
                self.moments.note(moment, view.now);
            }
        };
        note(view.busy == Some(Operation::Promote), Moment::Promoting);
        note(view.serving().is_some(), Moment::Promoted);
        note(decision.rule == "open.record", Moment::Flushed);
        note(brain::stays_open(view), Moment::Opened);
        self.look_open(view);
    }

    /// The hold ends on each node once it has read that the request has ended.
    fn look_open(&mut self, view: &View) {
        let held = view.hold().is_some() || view.fresh_peers().any(|status| status.holding.is_some());
        if self.holds && !held && self.moments.get(Moment::Opened).is_some() {
            self.moments.note(Moment::Released, view.now);
        }
    }
}

fn paused_ms(moments: &Moments) -> Option<u64> {
    let moments = moments.in_order();
    let at =
        |wanted: &[Moment]| moments.iter().find(|(moment, _)| wanted.contains(moment)).map(|(_, at)| *at);
    let begin = at(&[Moment::Holding]).or_else(|| at(&[Moment::Fine, Moment::Suspected]))?;
    let end = at(&[Moment::Released]).or_else(|| at(&[Moment::Opened]))?;
    Some(end.since(begin))
}

#[cfg(test)]
mod tests;
