//! All that a node knows at one moment: the only input of a decision.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::mutation::{Mutation, is_on};
use crate::{
    Condition, Fencer, MemberId, MembersRecord, Memory, Millis, NodeKind, NodeName, Operation, OriginRecord,
    OriginReport, Postgres, Primary, PrimaryRecord, SlotGate, SlotReport, Status, StoreView, SyncRecord,
    Tags, Term, Versioned,
};

/// The cluster's settings, as far as decisions depend on them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Settings {
    pub cluster: String,
    /// Nodes with PostgreSQL that are to stay.
    pub full: BTreeSet<NodeName>,
    /// All nodes with a vote, witnesses included.
    pub voters: BTreeSet<NodeName>,
    pub heartbeat_ms: u64,
    pub failure_timeout_ms: u64,
    /// How far two clocks may drift apart, percent of the time that passes.
    pub drift_percent: u64,
    /// k: how many standbys must flush a commit before it is acknowledged.
    pub standbys: usize,
    /// How much the readiness of slots may delay a takeover.
    #[serde(default)]
    pub slot_gate: SlotGate,
    /// What becomes of k when too few standbys are left.
    pub on_last_standby_lost: OnLastStandbyLost,
    /// Without synchronous replication: how far a successor may be behind what was last known of the primary, bytes.
    pub maximum_lag_bytes: u64,
    /// How long a planned switchover lets running transactions end.
    pub drain_timeout_ms: u64,
    /// Whom a cluster follows that is made with these settings; later the store says.
    #[serde(default)]
    pub origin: Option<OriginRecord>,
}

/// What the loss of the last standby that k needs does to commits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLastStandbyLost {
    /// They wait until a standby is back.
    #[default]
    Block,
    /// k falls, to 0 at last: the primary acknowledges alone, and only it may go on until a standby is back.
    Degrade,
}

impl Settings {
    /// Takes over who belongs to the cluster.
    pub fn follow(&mut self, members: &MembersRecord) {
        let full = members.nodes.iter().filter(|(_, m)| m.kind == NodeKind::Full && !m.leaving);
        self.full = full.map(|(name, _)| name.clone()).collect();
        self.voters = members.nodes.keys().cloned().collect();
    }

    /// Chosen by the operator: the primary acknowledges alone although there are others. The store's lease decides
    /// who may serve, and a takeover may lose what was acknowledged last.
    pub fn is_async(&self) -> bool {
        self.standbys == 0 && self.full.len() > 1
    }

    /// How long an answered lease may be used, from the moment the question was sent: the drift margin taken off.
    pub fn lease_usable_ms(&self) -> u64 {
        let margin = if is_on(Mutation::LeaseMarginless) { 0 } else { self.drift_percent.min(100) };
        self.failure_timeout_ms * (100 - margin) / 100
    }
}

/// The node's durable words; they lie beside the data directory, never in it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Durable {
    /// The data directory's id; `None` while there is none.
    pub member: Option<MemberId>,
    /// No WAL is taken from a primary of a lower term.
    pub promise: Term,
    /// The last term for which a promotion was begun here: a recorded timeline is entered once.
    pub promoted: Term,
    /// A rewind has begun, and the server has not accepted a connection since: it may lack WAL that only its source
    /// has, so it is not started without one.
    pub rewound: bool,
    /// A rewind failed or cannot help: the data directory has to be cloned anew.
    pub needs_clone: bool,
    /// The last request for which this server was stopped, or this data directory given up: each is obeyed once.
    #[serde(default)]
    pub obeyed: u64,
    /// The data directory that was given up last because somebody asked for a new copy.
    #[serde(default)]
    pub given_up: Option<MemberId>,
}

impl Durable {
    /// Somebody asked for a new copy: the data directory that is here is given up for it.
    pub fn give_up(&mut self, request: u64) {
        (self.obeyed, self.needs_clone) = (request, true);
        self.given_up = self.member.clone();
    }

    /// It is promoted. What has answered and won is whole, also when somebody had asked for a new copy of it.
    pub fn win(&mut self, term: Term) {
        (self.promoted, self.needs_clone) = (term, false);
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct View {
    pub now: Millis,
    pub me: NodeName,
    pub settings: Settings,
    pub durable: Durable,
    pub postgres: Postgres,
    /// When the look began that `postgres` shows; `None` when it is known from the end of a piece of work.
    pub looked_at: Option<Millis>,
    /// Work under way; no rule starts other work on the server meanwhile.
    pub busy: Option<Operation>,
    pub store: StoreView,
    pub memory: Memory,
    /// Room on the disks, connection slots, the way back.
    pub condition: Condition,
    /// The slots of the local server, as last looked at.
    pub slots: SlotReport,
    /// The highest term under which this process itself saw its server open; lost with the process.
    pub served: Option<Term>,
    pub fencer: Fencer,
    /// What the operator says of this node.
    pub tags: Tags,
    /// The wall clock in seconds. Only what people asked for by the clock is decided by it: the time of a switchover,
    /// the end of a pause.
    pub wall_s: u64,
    /// What this process has done for requests.
    pub errands: Errands,
    /// Copies of another's data directory that failed here, in a row.
    pub copies_failed: u32,
    /// Without synchronous replication: the term for which this node holds the store's lease, and until when it may be
    /// used, counted from when it was asked for, the drift margin taken off.
    pub store_lease: Option<(Term, Millis)>,
    /// The cluster that this one follows, as last looked at.
    pub origin: OriginReport,
    /// Number of the cluster's configuration that this node has applied; 0: none.
    #[serde(default)]
    pub configuration: u64,
}

/// The last request for which each of these was done; lost with the process, and then done again.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Errands {
    pub checkpointed: u64,
    /// When that checkpoint, and the switch to a new WAL file with it, was done here.
    #[serde(default)]
    pub checkpointed_at: Option<Millis>,
    pub reloaded: u64,
    /// The last request for a reload that could not be obeyed, and why.
    #[serde(default)]
    pub not_reloaded: Option<(u64, String)>,
}

impl View {
    /// Of a node whose agent starts at `now` and has seen nothing yet.
    pub fn new(me: NodeName, settings: Settings, durable: Durable, now: Millis) -> View {
        View {
            now,
            me,
            settings,
            durable,
            postgres: Postgres::Unknown,
            looked_at: None,
            busy: None,
            store: StoreView::default(),
            memory: Memory::new(now),
            condition: Condition::default(),
            slots: SlotReport::default(),
            served: None,
            fencer: Fencer::default(),
            tags: Tags::default(),
            wall_s: 0,
            errands: Errands::default(),
            copies_failed: 0,
            store_lease: None,
            origin: OriginReport::default(),
            configuration: 0,
        }
    }

    pub fn record(&self) -> Option<&PrimaryRecord> {
        self.store.primary.as_ref().map(|versioned| &versioned.value)
    }

    /// The second that a record made now is dated with; `None` where nobody has told the time.
    pub(crate) fn recorded_at(&self) -> Option<u64> {
        (self.wall_s > 0).then_some(self.wall_s)
    }

    pub fn sync(&self) -> Option<&SyncRecord> {
        self.store.sync.as_ref().map(|versioned| &versioned.value)
    }

    /// This node has PostgreSQL. One that is to leave still has it, and still answers.
    pub fn is_full(&self) -> bool {
        let recorded = self.store.members.as_ref().and_then(|members| members.value.nodes.get(&self.me));
        recorded.map_or_else(|| self.settings.full.contains(&self.me), |own| own.kind == NodeKind::Full)
    }

    /// This node is no member any more.
    pub fn is_removed(&self) -> bool {
        let unlisted = |members: &Versioned<MembersRecord>| !members.value.nodes.contains_key(&self.me);
        self.store.removed || self.store.members.as_ref().is_some_and(unlisted)
    }

    /// `/primary` names this very data directory.
    pub fn recorded_me(&self) -> Option<&Versioned<PrimaryRecord>> {
        self.store.primary.as_ref().filter(|p| self.durable.member.as_ref() == Some(&p.value.member))
    }

    /// The local server, when it is the primary that `/primary` names: this data directory on the recorded timeline.
    pub fn serving(&self) -> Option<(&Versioned<PrimaryRecord>, &Primary)> {
        let record = self.recorded_me().filter(|record| !record.value.head)?;
        let primary = self.postgres.primary()?;
        (primary.timeline() == record.value.timeline).then_some((record, primary))
    }

    /// The recorded primary has opened: takeovers count by its own set.
    pub fn opened(&self) -> bool {
        matches!((self.record(), self.sync()), (Some(record), Some(sync)) if sync.term == record.term)
    }

    /// k in force once enough nodes exist: never more than there are other full nodes.
    pub fn k_wanted(&self) -> usize {
        self.k_wanted_of(&self.me)
    }

    /// The same for `primary`, which may be about to leave and is then none of those who stay.
    pub fn k_wanted_of(&self, primary: &NodeName) -> usize {
        let others = self.settings.full.iter().filter(|node| *node != primary).count();
        self.settings.standbys.min(others)
    }

    /// k with which a primary opens. One that has been acknowledging alone may go on alone while nobody follows it: a node
    /// that was added and has never come must not stop it.
    pub fn k_to_open(&self) -> usize {
        let alone = self.sync().is_some_and(|sync| {
            sync.set.k == 0
                && !sync.idle
                && Some(&sync.primary) == self.durable.member.as_ref()
                && sync.term > Term(0)
        });
        let followed = self.serving().is_some_and(|(r, primary)| !primary.streaming(r.value.term).is_empty());
        if alone && !followed { 0 } else { self.k_wanted() }
    }

    /// Peers heard within `failure_timeout`.
    pub fn fresh_peers(&self) -> impl Iterator<Item = &Status> {
        self.memory.fresh(self.now, self.settings.failure_timeout_ms)
    }

    /// Brings everything that depends on time up to `now`; called before each decision.
    pub fn tick(&mut self, now: Millis) {
        self.now = now;
        let record =
            self.store.primary.as_ref().map(|versioned| (versioned.value.term, &versioned.value.node));
        self.memory.note_record(now, record);
        self.memory.note_server(now, &self.postgres, self.busy);
        let origin = self.origin.primary().map(|(_, primary)| primary.history.current);
        self.memory.note_origin(origin);
        let record = self.store.primary.as_ref().map(|versioned| &versioned.value);
        self.memory.note_fetch(now, &self.postgres, record);
        if let Some(sync) = &self.store.sync {
            self.memory.note_sync(sync.version);
        }
        self.memory.note_requests(now, self.store.requests.as_ref().map(|requests| &requests.value));
        if let Some((record, primary)) = self.serving() {
            let term = record.value.term;
            let streaming = primary.streaming(term);
            let opened = self.opened() && !primary.quarantined;
            self.memory.note_streaming(now, streaming);
            for member in self.store.sync.iter().flat_map(|sync| &sync.value.set.members) {
                self.memory.note_wanted(now, member);
            }
            if opened {
                self.served = self.served.max(Some(term));
            }
        }
        self.memory.note_slots(now, self.slots.restart);
        let suspect = crate::health::suspect(self).is_some();
        self.memory.note_suspicion(now, suspect);
        self.memory.cascade = crate::cascade::look(self);
    }
}
