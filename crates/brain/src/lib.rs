//! What should this node do next?
//!
//! An agent keeps one [`View`]: its settings, its durable words, its server, the store as it last saw it and what
//! its peers said. [`decide`] walks the rule table and answers with the first rule that matches. The agent executes
//! and may make no choice; the simulator executes the same decisions over modelled servers.
//!
//! What this crate does not do: read a clock, a file, a socket or a die. Time is [`View::now`].
//! Invariant: the same view gives the same decision.

mod action;
mod answer;
mod cascade;
mod condition;
mod election;
mod explain;
mod fencer;
mod fetch;
mod health;
mod memory;
pub mod mutation;
mod names;
mod origin;
mod postgres;
pub mod quorum;
mod record;
mod request;
mod rules;
pub mod slots;
mod status;
mod sync_set;
mod tags;
mod view;

pub use action::{Action, Commit, Decision, Key, Put, RuleId};
pub use answer::{Answer, Tally, tally};
pub use cascade::Cascade;
pub use condition::{Condition, LostWrites, Pending, Progress};
pub use election::{Outcome, missing_bytes, outcome};
pub use explain::{Explanation, explain};
pub use fencer::{Fence, Fencer, FencerState, fence};
pub use health::{
    Health, open as is_open, own as health_of, releases_store_lease, stays_open, suspect, wants_store_lease,
};
pub use memory::{Heard, Memory};
pub use names::{MemberId, Millis, NodeName, Term};
pub use origin::{OriginAnswer, OriginHost, OriginPrimary, OriginRecord, OriginReport, Place};
pub use postgres::{
    Activity, Applied, Complaint, Operation, Position, Postgres, Primary, Standby, Upstream, Walsender,
};
pub use quorum::SyncSet;
pub use record::{
    ClusterRecord, LeaseRecord, MemberRecord, MembersRecord, NodeKind, PrimaryRecord, StoreView, SyncRecord,
    TimelineRecord, Versioned,
};
pub use request::{Ask, Hold, Request, Requests, Stage, TAKEOVER_MS_MAX};
pub use rules::{RULES, Rule, decide, dump_rules};
pub use slots::{SlotGate, SlotReport, SlotState};
pub use status::{Grant, Status};
pub use tags::Tags;
pub use view::{Durable, Errands, OnLastStandbyLost, Settings, View};
