//! What the fencer beside the agent is told, and what it says of itself.
//!
//! The fencer takes PostgreSQL out of service when the agent that should do so does not live to see its lease end. It
//! decides nothing but that: here is what it may rest on. Invariant: it is at rest only when something positive says
//! that this server serves nobody; not knowing keeps the last deadline.

use serde::{Deserialize, Serialize};

use crate::{Millis, Operation, Postgres, View, health};

/// What a view asks of the fencer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fence {
    /// Nobody is served here as by a primary, or nobody else could ever take over: there is nothing to fence.
    Rest,
    /// Nothing new is known: what was said last stands.
    Keep,
    /// Clients may be served until then, and not a moment longer without a newer word.
    Until(Millis),
}

/// The fencer as its agent sees it; part of every status.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Fencer {
    pub state: FencerState,
    /// Milliseconds until it acts without a newer word; only while armed.
    pub left_ms: Option<u64>,
    /// Why clients must not be admitted by this node at present, such as a watchdog that is required and not there.
    pub obstacle: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FencerState {
    /// Not known here: a witness, or a node that does not say.
    #[default]
    Unknown,
    /// None runs, or it gives no sign of life; the agent starts another.
    Missing,
    /// It runs and has nothing to fence.
    Idle,
    Armed,
    /// The deadline has passed: it takes PostgreSQL out of service, or has.
    Fencing,
}

impl FencerState {
    /// One word for people.
    pub fn word(self) -> &'static str {
        match self {
            FencerState::Unknown => "unknown",
            FencerState::Missing => "missing",
            FencerState::Idle => "idle",
            FencerState::Armed => "armed",
            FencerState::Fencing => "fencing",
        }
    }
}

/// What the fencer may rest on, by this view. It is armed before clients are admitted, never after.
pub fn fence(view: &View) -> Fence {
    if view.settings.full.len() < 2 {
        return Fence::Rest;
    }
    match &view.postgres {
        Postgres::Standby(_) | Postgres::Stopped | Postgres::Empty | Postgres::Unusable(_) => Fence::Rest,
        // Shutting down looks like starting, and sessions may live on in it.
        Postgres::Unknown | Postgres::Starting => Fence::Keep,
        Postgres::Primary(primary) => {
            // While the gate moves it may be open already, whatever the last look showed.
            let closed = primary.quarantined && view.busy != Some(Operation::Gate);
            if closed && !health::may_serve(view) {
                return Fence::Rest;
            }
            health::lease_until(view).map_or(Fence::Keep, Fence::Until)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Grant, MemberId, Memory, Settings, Status, SyncSet};

    fn settings() -> Settings {
        let nodes = ["n1", "n2", "n3"].map(Into::into);
        Settings {
            cluster: "t".into(),
            full: nodes.clone().into(),
            voters: nodes.into(),
            heartbeat_ms: 250,
            failure_timeout_ms: 2_000,
            drift_percent: 5,
            standbys: 1,
            drain_timeout_ms: 1_000,
            slot_gate: crate::SlotGate::Warn,
            on_last_standby_lost: crate::OnLastStandbyLost::Block,
            maximum_lag_bytes: 1 << 20,
            origin: None,
        }
    }

    fn view(postgres: Postgres) -> View {
        View { postgres, ..View::new("n1".into(), settings(), crate::Durable::default(), Millis(10_000)) }
    }

    #[test]
    fn only_what_is_known_to_serve_nobody_is_at_rest() {
        for postgres in [Postgres::Stopped, Postgres::Empty, Postgres::Unusable("x".into())] {
            assert_eq!(fence(&view(postgres)), Fence::Rest);
        }
        for postgres in [Postgres::Unknown, Postgres::Starting] {
            assert_eq!(fence(&view(postgres.clone())), Fence::Keep);
            let mut alone = view(postgres);
            alone.settings.full = [crate::NodeName::from("n1")].into();
            assert_eq!(fence(&alone), Fence::Rest, "nobody could take over from the only full node");
        }
    }

    #[test]
    fn the_kth_youngest_question_counts() {
        let set = |k| SyncSet::new(["n2_1", "n3_1", "n4_1"].map(|id| MemberId(id.into())), k);
        let mut memory = Memory::new(Millis(0));
        let asking = |sequence| Status {
            wants_lease: true,
            ..Status::of(&view(Postgres::Unknown), 1, sequence, None, "")
        };
        for (sequence, sent, member) in [(1, 1_000, "n2_1"), (2, 1_250, "n3_1")] {
            memory.on_sent(Millis(sent), &asking(sequence));
            let grant = Grant { boot: 1, sequence, term: crate::Term(1), member: MemberId(member.into()) };
            memory.on_grant(1, Some(crate::Term(1)), grant);
        }
        let until = |k| memory.lease_until(&set(k), &settings());
        assert_eq!(until(1), Some(Millis(1_250 + 1_900)));
        assert_eq!(until(2), Some(Millis(1_000 + 1_900)));
        assert_eq!(until(3), None, "two have answered");
        for k in 1..=3 {
            let end = until(k).unwrap_or(Millis(3_200));
            assert!(memory.leases_held(end, &set(k), &settings()) < k, "k = {k}: it has ended then");
            let held = memory.leases_held(Millis(end.0 - 1), &set(k), &settings()) >= k;
            assert_eq!(held, until(k).is_some(), "k = {k}: and not a moment earlier");
        }
    }

    /// A look may show the closed door before the last session has gone: the peers that answered promise nobody until then.
    #[test]
    fn nothing_is_given_back_while_the_gate_moves() {
        let member = MemberId("n1_1".into());
        let from = crate::Position { timeline: wire::Timeline(1), lsn: wire::Lsn(1) };
        let record = crate::PrimaryRecord {
            term: crate::Term(1),
            node: "n1".into(),
            member: member.clone(),
            timeline: wire::Timeline(2),
            from,
            head: false,
        };
        let mut view = view(Postgres::Starting);
        view.durable.member = Some(member);
        view.store.primary = Some(crate::Versioned { value: record, version: 1 });
        assert!(!health::keeps_lease(&view));
        view.busy = Some(Operation::Gate);
        assert!(health::keeps_lease(&view));
        let status = Status::of(&view, 1, 1, None, "");
        assert!(status.keeps_lease && !status.wants_lease);
    }
}
