//! What an agent remembers of its peers, and the leases it gave and holds.
//!
//! Not durable: a restarted agent has heard nobody, holds nothing, and owes an unknown lease for one
//! `failure_timeout` (so it promises nothing meanwhile).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use wire::{Lsn, Timeline};

use crate::fetch::Fetch;
use crate::mutation::{Mutation, is_on};
use crate::{
    Cascade, Commit, Durable, Grant, Health, Key, MemberId, Millis, NodeName, Operation, Postgres, Primary,
    PrimaryRecord, Requests, Settings, Stage, Status, SyncSet, Term,
};

/// A moment and an age, both cut to whole milliseconds, make a moment that may be so much too late.
const ROUNDING_MS: u64 = 2;

/// How many sent heartbeats are remembered: more than one `failure_timeout` of them at any sensible rate.
const SENT_MAX: usize = 256;

/// A peer's last status and when it came.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heard {
    pub status: Status,
    pub at: Millis,
    /// Since when this run of its agent is heard.
    pub since: Millis,
    /// The end of its WAL when it last spoke as a running primary.
    pub last_flush: Option<Lsn>,
    /// Since when its server is neither a standby nor a primary.
    #[serde(default)]
    pub away_since: Option<Millis>,
    /// Since when it neither streams nor writes.
    #[serde(default)]
    pub dry_since: Option<Millis>,
}

/// A request under way, as this node came to know it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Seen {
    stage: Stage,
    since: Millis,
    held_since: Option<Millis>,
}

/// A lease that this node gave.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Owed {
    to: NodeName,
    until: Millis,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// When this agent started.
    pub started: Millis,
    /// Until when the lease lasts that an earlier run of this agent held, as the fencer kept it.
    inherited: Option<Millis>,
    pub peers: BTreeMap<NodeName, Heard>,
    owed: Option<Owed>,
    /// Heartbeats that asked for a lease: sequence and moment of sending.
    sent: VecDeque<(u64, Millis)>,
    /// By member: the moment at which the heartbeat was sent that it answered last.
    held: BTreeMap<MemberId, Millis>,
    /// The recorded term and node, and since when this node knows.
    record_seen: Option<(Term, NodeName, Millis)>,
    /// When the recorded primary was last heard to be fine, in its recorded term.
    fine_heard: Option<Millis>,
    /// Since it was last heard to be fine it has said that it takes no writes.
    down_heard: bool,
    pub suspect_since: Option<Millis>,
    /// The version of `/sync` against which a write of this node may still be on its way: its answer has not come, or
    /// an earlier run of this agent sent it. Nothing but a newer version settles it.
    doubt: Option<u64>,
    /// `/sync` has been read once by this process.
    sync_read: bool,
    /// When the server was last seen to be a primary, since it was seen to be anything else.
    primary_seen: Option<Millis>,
    /// Since when a restart would bring slots, and the peers are told so.
    slots_wanted: Option<Millis>,
    /// The highest timeline that any server was seen on: what somebody promoted by hand took is not used again.
    timeline: Option<Timeline>,
    /// The highest that a primary of an origin was seen on.
    #[serde(default)]
    origin_timeline: Option<Timeline>,
    /// Since when sessions that were ended, here or by an earlier run of this agent, may have left commits behind that are
    /// visible and not on the quorum. `None` while a server of this process's own promotion has admitted nobody.
    exposed: Option<Millis>,
    /// Since when the server does not answer as primary or standby.
    #[serde(default)]
    pub(crate) down_since: Option<Millis>,
    /// When the server was last noted, its gate was being opened or closed.
    #[serde(default)]
    gate_moves: bool,
    /// Requests under way: their stage, since when this node knows it, and since when it holds sessions for them.
    requests: BTreeMap<u64, Seen>,
    /// Members that do not stream, and since when.
    missing: BTreeMap<MemberId, Millis>,
    streaming: BTreeSet<MemberId>,
    #[serde(default)]
    pub cascade: Cascade,
    /// WAL that this node takes from another for a takeover.
    #[serde(default)]
    fetch: Option<Fetch>,
}

impl Memory {
    pub fn new(started: Millis) -> Memory {
        Memory { started, exposed: Some(started), ..Memory::default() }
    }

    /// Of an agent that starts while the fencer still keeps a lease that an earlier run held.
    pub fn inheriting(started: Millis, inherited: Option<Millis>) -> Memory {
        Memory { inherited, ..Memory::new(started) }
    }

    /// Takes in a peer's heartbeat; answers with a grant when the speaker asks for one and may have it.
    pub fn on_status(
        &mut self,
        now: Millis,
        status: Status,
        durable: &Durable,
        settings: &Settings,
    ) -> Option<Grant> {
        let newer =
            |heard: &Heard| heard.status.boot != status.boot || heard.status.sequence < status.sequence;
        if !self.peers.get(&status.node).is_none_or(newer) {
            return None;
        }
        let recorded = self
            .record_seen
            .as_ref()
            .is_some_and(|(term, node, _)| *node == status.node && *term == status.record_term);
        match status.health {
            Health::Fine if recorded => (self.fine_heard, self.down_heard) = (Some(now), false),
            Health::Down | Health::NotPrimary if recorded => self.down_heard = true,
            _ => {}
        }
        let given_back = !status.wants_lease && !status.keeps_lease;
        if given_back && self.owed.as_ref().is_some_and(|owed| owed.to == status.node) {
            self.owed = None;
        }
        self.timeline = self.timeline.max(status.postgres.timeline());
        let grant = self.consider_grant(now, &status, recorded, durable, settings);
        let before = self.peers.get(&status.node);
        let since = before.filter(|heard| heard.status.boot == status.boot).map_or(now, |heard| heard.since);
        let last_flush = before.and_then(|heard| heard.last_flush);
        let last_flush = status.postgres.primary().map(|primary| primary.flush).or(last_flush);
        let away_since = before.and_then(|heard| heard.away_since).or(Some(now));
        let away_since = away_since.filter(|_| status.postgres.timeline().is_none());
        let flows = match &status.postgres {
            Postgres::Standby(standby) => standby.streaming,
            other => other.primary().is_some(),
        };
        let dry_since = before.and_then(|heard| heard.dry_since).or(Some(now)).filter(|_| !flows);
        let heard = Heard { status, at: now, since, last_flush, away_since, dry_since };
        self.peers.insert(heard.status.node.clone(), heard);
        grant
    }

    fn consider_grant(
        &mut self,
        now: Millis,
        status: &Status,
        recorded: bool,
        durable: &Durable,
        settings: &Settings,
    ) -> Option<Grant> {
        let member = durable.member.clone()?;
        let well = matches!(status.health, Health::Fine | Health::Unknown);
        let bound = durable.promise > status.record_term && !is_on(Mutation::GrantAfterPromise);
        let grantable = recorded && well && status.wants_lease && !bound;
        if !grantable {
            return None;
        }
        self.owed = Some(Owed { to: status.node.clone(), until: now.plus(settings.failure_timeout_ms) });
        Some(Grant { boot: status.boot, sequence: status.sequence, term: status.record_term, member })
    }

    /// Remembers that a heartbeat asking for a lease was sent; one that does not ask gives all answers back.
    pub fn on_sent(&mut self, now: Millis, status: &Status) {
        if !status.wants_lease {
            if !status.keeps_lease {
                self.sent.clear();
                self.held.clear();
            }
            return;
        }
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((status.sequence, now));
    }

    /// Takes in an answer; its age counts from the moment the question was sent.
    pub fn on_grant(&mut self, boot: u64, term: Option<Term>, grant: Grant) {
        if grant.boot != boot || Some(grant.term) != term {
            return;
        }
        let asked =
            |(sequence, _): &&(u64, Millis)| *sequence == grant.sequence || is_on(Mutation::LeaseFromAnswer);
        let sent = self.sent.iter().rev().find(asked).map(|(_, at)| *at);
        if let Some(at) = sent {
            let held = self.held.entry(grant.member).or_insert(at);
            *held = (*held).max(at);
        }
    }

    /// How many members of `set` hold nobody else possible at `now`, the drift margin taken off.
    pub fn leases_held(&self, now: Millis, set: &SyncSet, settings: &Settings) -> usize {
        let usable_ms = settings.lease_usable_ms();
        let held = |member: &&MemberId| self.held.get(*member).is_some_and(|at| now.since(*at) < usable_ms);
        set.members.iter().filter(held).count()
    }

    /// When the lease ends that the answers so far give: the k-th youngest answer's question, and the time that it may
    /// be used. `None` while fewer than k have answered.
    pub fn lease_until(&self, set: &SyncSet, settings: &Settings) -> Option<Millis> {
        let mut asked: Vec<Millis> =
            set.members.iter().filter_map(|member| self.held.get(member)).copied().collect();
        asked.sort_unstable_by(|a, b| b.cmp(a));
        let kth = asked.get(set.k.checked_sub(1)?)?;
        Some(kth.plus(settings.lease_usable_ms()))
    }

    /// The lease of an earlier run of this agent has not ended.
    pub fn inherits(&self, now: Millis) -> bool {
        self.inherited.is_some_and(|until| now < until)
    }

    /// This node owes a lease answer, or cannot know because its agent just started.
    pub fn owes(&self, now: Millis, settings: &Settings) -> bool {
        let unknown = now.since(self.started) < settings.failure_timeout_ms;
        (unknown && !is_on(Mutation::RestartForgetsLease))
            || self.owed.as_ref().is_some_and(|owed| now < owed.until)
    }

    pub fn fresh(&self, now: Millis, within_ms: u64) -> impl Iterator<Item = &Status> {
        self.peers.values().filter(move |heard| now.since(heard.at) <= within_ms).map(|heard| &heard.status)
    }

    /// The recorded primary has said that it takes no writes, and not that it is fine since.
    pub fn down_heard(&self) -> bool {
        self.down_heard
    }

    /// Milliseconds since the recorded primary was last heard to be fine; `None` when never.
    pub fn fine_age_ms(&self, now: Millis) -> Option<u64> {
        self.fine_heard.map(|at| now.since(at))
    }

    /// Milliseconds for which the present record has been known here.
    pub fn record_age_ms(&self, now: Millis) -> u64 {
        self.record_seen.as_ref().map_or(0, |(_, _, since)| now.since(*since))
    }

    /// Milliseconds for which `member` has not streamed; 0 while it does.
    pub fn missing_ms(&self, now: Millis, member: &MemberId) -> u64 {
        if self.streaming.contains(member) {
            0
        } else {
            self.missing.get(member).map_or(0, |at| now.since(*at))
        }
    }

    /// Milliseconds for which request `id` has been in its stage, as far as known here.
    pub fn stage_age_ms(&self, now: Millis, id: u64) -> u64 {
        self.requests.get(&id).map_or(0, |seen| now.since(seen.since))
    }

    /// Milliseconds since this node learnt that sessions are held for request `id`.
    pub fn hold_age_ms(&self, now: Millis, id: u64) -> Option<u64> {
        self.requests.get(&id)?.held_since.map(|at| now.since(at))
    }

    pub(crate) fn note_requests(&mut self, now: Millis, requests: Option<&Requests>) {
        let active: BTreeMap<u64, Stage> =
            requests.into_iter().flat_map(Requests::active).map(|r| (r.id, r.stage)).collect();
        self.requests.retain(|id, _| active.contains_key(id));
        for (id, stage) in active {
            let seen = self.requests.entry(id).or_insert(Seen { stage, since: now, held_since: None });
            if seen.stage != stage {
                (seen.stage, seen.since) = (stage, now);
            }
            if matches!(stage, Stage::Holding | Stage::Stopping) {
                seen.held_since = seen.held_since.or(Some(now));
            }
        }
    }

    /// Remembers that a transaction is sent to the store. It may be applied at any later time, whatever its answer.
    pub fn on_commit(&mut self, commit: &Commit) {
        let sync = commit.conditions.iter().find(|(key, _)| *key == Key::Sync).map(|(_, version)| *version);
        self.doubt = self.doubt.max(sync);
    }

    /// A write against this version of `/sync` may still be on its way.
    pub fn in_doubt(&self, version: u64) -> bool {
        self.doubt.is_some_and(|doubt| version <= doubt)
    }

    pub(crate) fn note_sync(&mut self, version: u64) {
        if !self.sync_read {
            self.sync_read = true;
            self.doubt = self.doubt.max(Some(version));
        }
    }

    pub(crate) fn note_record(&mut self, now: Millis, record: Option<(Term, &NodeName)>) {
        let known = self.record_seen.as_ref().map(|(term, node, _)| (*term, node));
        if known != record {
            // An answer is owed to the node, whatever its term: one that renews goes on by the answers it has. Somebody
            // else's term lay in between only if they had run out or were given back, and then none is left.
            let renewed = known.is_some_and(|(_, node)| record.is_some_and(|(_, new)| new == node));
            if !renewed {
                self.held.clear();
            }
            self.record_seen = record.map(|(term, node)| (term, node.clone(), now));
            (self.fine_heard, self.down_heard) = (None, false);
            self.sent.clear();
            self.missing.clear();
            self.streaming.clear();
        }
    }

    pub(crate) fn note_streaming(&mut self, now: Millis, streaming: BTreeSet<MemberId>) {
        for member in self.streaming.difference(&streaming) {
            self.missing.insert(member.clone(), now);
        }
        self.missing.retain(|member, _| !streaming.contains(member));
        self.streaming = streaming;
    }

    /// Starts the clock of a member that has never been seen to stream.
    pub(crate) fn note_wanted(&mut self, now: Millis, member: &MemberId) {
        if !self.streaming.contains(member) {
            self.missing.entry(member.clone()).or_insert(now);
        }
    }

    /// Milliseconds for which a server that was a primary has given no answer; `None` when it was none.
    pub fn unanswered_ms(&self, now: Millis) -> Option<u64> {
        self.primary_seen.map(|at| now.since(at))
    }

    /// A server that gives no answer was a primary and let clients in when it last gave one.
    pub fn was_open(&self) -> bool {
        self.primary_seen.is_some() && self.exposed == self.primary_seen
    }

    pub(crate) fn note_server(&mut self, now: Millis, postgres: &Postgres, busy: Option<Operation>) {
        self.timeline = self.timeline.max(postgres.timeline());
        // Sessions that are being ended may commit to the last moment, which is at most now.
        let gate_moves = busy == Some(Operation::Gate) && !is_on(Mutation::GateForgotten);
        let gate_moved = std::mem::replace(&mut self.gate_moves, gate_moves);
        match postgres {
            Postgres::Primary(_) | Postgres::Standby(_) => self.down_since = None,
            _ => drop(self.down_since.get_or_insert(now)),
        }
        match postgres {
            Postgres::Primary(primary) => {
                self.primary_seen = Some(now);
                if !primary.quarantined || gate_moves || gate_moved {
                    self.exposed = Some(now);
                }
            }
            Postgres::Unknown => {}
            _ => (self.primary_seen, self.exposed) = (None, None),
        }
    }

    pub(crate) fn note_fetch(&mut self, now: Millis, postgres: &Postgres, recorded: Option<&PrimaryRecord>) {
        self.fetch = Fetch::note(self.fetch.take(), now, postgres, recorded, self.cascade.source());
    }

    /// For how long the server does not answer as primary or standby.
    pub(crate) fn down_ms(&self, now: Millis) -> u64 {
        self.down_since.map_or(0, |since| now.since(since))
    }

    /// For how long a fetch has brought nothing; 0 without one.
    pub(crate) fn fetch_stalled_ms(&self, now: Millis) -> u64 {
        self.fetch.as_ref().map_or(0, |fetch| fetch.stalled_ms(now))
    }

    /// Whose WAL this node tried to fetch within this time, and could not.
    pub fn unfetched(&self, now: Millis, within_ms: u64) -> Option<&NodeName> {
        self.fetch.as_ref()?.failed(now, within_ms)
    }

    pub(crate) fn note_slots(&mut self, now: Millis, wanted: bool) {
        self.slots_wanted = wanted.then(|| self.slots_wanted.unwrap_or(now));
    }

    /// Milliseconds for which a restart would have brought slots; 0 when it would not.
    pub fn slots_wanted_ms(&self, now: Millis) -> u64 {
        self.slots_wanted.map_or(0, |at| now.since(at))
    }

    /// What the origin was last seen on may be what it is on when it is back.
    pub(crate) fn note_origin(&mut self, timeline: Option<Timeline>) {
        self.origin_timeline = self.origin_timeline.max(timeline);
    }

    /// The highest timeline that a primary of an origin was seen on.
    pub(crate) fn origin_timeline(&self) -> Option<Timeline> {
        self.origin_timeline
    }

    /// The highest timeline that any server was seen on.
    pub fn timeline_seen(&self) -> Option<Timeline> {
        self.timeline
    }

    /// All that a client could see of `primary` is on the quorum: a probe written after the last session was ended has
    /// been flushed by k, or no session was ever admitted since the promotion, whose opening proved the same (I3).
    ///
    /// `looked_at`: when the look began that shows `primary`; the age of the probe is of that moment, not of now.
    pub fn settled(&self, looked_at: Option<Millis>, primary: &Primary) -> bool {
        let probe = looked_at.zip(primary.probe_age_ms);
        let proven = |ended: Millis| probe.is_some_and(|(at, age_ms)| at.0 >= ended.0 + age_ms + ROUNDING_MS);
        self.exposed.is_none_or(proven)
    }

    pub(crate) fn note_suspicion(&mut self, now: Millis, suspect: bool) {
        self.suspect_since = if suspect { self.suspect_since.or(Some(now)) } else { None };
    }
}
