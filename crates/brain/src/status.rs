//! What agents tell each other: the heartbeat, and the answer to a primary's.
//!
//! Invariant: a status is everything; each replaces the one before, and a lost one costs time only.

use serde::{Deserialize, Serialize};
use wire::Lsn;

use crate::fetch;
use crate::{
    Condition, Fencer, Health, MemberId, NodeName, Operation, OriginReport, Postgres, SlotReport, Tags, Term,
    View, health,
};

/// A heartbeat: all that an agent tells its peers. Each replaces the one before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    pub node: NodeName,
    /// Which run of the agent speaks; a new one starts its sequence anew.
    pub boot: u64,
    pub sequence: u64,
    pub member: Option<MemberId>,
    pub promise: Term,
    /// The highest recorded term that the speaker knows.
    pub record_term: Term,
    /// The version of `/members` that the speaker has read; 0 when none.
    #[serde(default)]
    pub members: u64,
    /// The term for which the speaker asks promises.
    pub revoking: Option<Term>,
    /// The speaker holds the primary of `record_term` to be fine.
    pub sees_fine: bool,
    /// Of the speaker itself, as the primary of `record_term`.
    pub health: Health,
    /// The speaker serves, or would serve, by the answers to this heartbeat. False gives every earlier answer back, unless
    /// they are kept.
    pub wants_lease: bool,
    /// The speaker's server hangs: earlier answers are neither asked for anew nor given back.
    #[serde(default)]
    pub keeps_lease: bool,
    /// The speaker may serve now: opened, not quarantined, its lease held.
    pub open: bool,
    pub postgres: Postgres,
    pub busy: Option<Operation>,
    #[serde(default)]
    pub condition: Condition,
    pub slots: SlotReport,
    /// See [`View::served`].
    pub served: Option<Term>,
    /// The rule that the speaker follows now.
    pub rule: String,
    #[serde(default)]
    pub fencer: Fencer,
    #[serde(default)]
    pub tags: Tags,
    /// The request for which the speaker's proxy holds sessions.
    #[serde(default)]
    pub holding: Option<u64>,
    /// The speaker knows of the maintenance: it starts, takes over and rebuilds nothing by itself.
    #[serde(default)]
    pub paused: bool,
    /// The replica that the speaker takes its WAL from, or is about to.
    #[serde(default)]
    pub source: Option<NodeName>,
    /// Why the speaker does not, although its tag `replicatefrom` says so.
    #[serde(default)]
    pub why_not_source: String,
    /// Whose WAL the speaker tried to fetch for a takeover a moment ago, and could not.
    #[serde(default)]
    pub unfetched: Option<NodeName>,
    /// What the speaker last saw of the cluster that this one follows.
    #[serde(default)]
    pub origin: OriginReport,
    /// See [`View::configuration`].
    #[serde(default)]
    pub configuration: u64,
}

impl Status {
    /// What `view`'s node tells its peers. `revoking` is the campaign of the last decision.
    pub fn of(view: &View, boot: u64, sequence: u64, revoking: Option<Term>, rule: &str) -> Status {
        Status {
            node: view.me.clone(),
            boot,
            sequence,
            member: view.durable.member.clone(),
            promise: view.durable.promise,
            record_term: view.record().map(|record| record.term).unwrap_or_default(),
            members: view.store.members.as_ref().map_or(0, |members| members.version),
            revoking,
            sees_fine: health::sees_fine(view),
            health: health::own(view),
            wants_lease: health::wants_lease(view),
            keeps_lease: health::keeps_lease(view),
            open: health::stays_open(view),
            postgres: view.postgres.clone(),
            busy: view.busy,
            condition: view.condition.clone(),
            slots: view.slots.clone(),
            served: view.served,
            rule: rule.to_owned(),
            fencer: view.fencer.clone(),
            tags: view.tags.clone(),
            holding: view.hold().map(|hold| hold.request),
            paused: view.paused(),
            source: view.source().cloned(),
            why_not_source: view.memory.cascade.why_not.clone(),
            unfetched: view.memory.unfetched(view.now, fetch::AGAIN_MS).cloned(),
            origin: view.origin.clone(),
            configuration: view.configuration,
        }
    }

    /// True when peers learn nothing new but progress: LSNs and ages. What differs in more is sent at once.
    pub fn differs_in_progress_only(&self, other: &Status) -> bool {
        self.outline() == other.outline()
    }

    fn outline(&self) -> Status {
        let (condition, slots) = (self.condition.outline(), self.slots.outline());
        let mut outline = Status { sequence: 0, condition, slots, ..self.clone() };
        outline.fencer.left_ms = None;
        outline.origin = self.origin.outline();
        match &mut outline.postgres {
            Postgres::Standby(standby) => {
                standby.position.lsn = Lsn::ZERO;
                standby.replay = Lsn::ZERO;
                standby.stalled_ms = 0;
            }
            Postgres::Primary(primary) => {
                primary.flush = Lsn::ZERO;
                (primary.write_age_ms, primary.probe_age_ms) = (None, None);
                primary.activity = Default::default();
                primary.walsenders.iter_mut().for_each(|w| (w.flush, w.replay) = (Lsn::ZERO, Lsn::ZERO));
            }
            _ => {}
        }
        outline
    }
}

/// The answer to a primary's heartbeat: until my clock has advanced by `failure_timeout` I promise nobody else.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    pub boot: u64,
    pub sequence: u64,
    pub term: Term,
    pub member: MemberId,
}
