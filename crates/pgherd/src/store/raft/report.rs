//! What a node's store says of its own part in it.

use std::collections::BTreeSet;

use serde_json::Value;

/// The part that this node's directory has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Standing {
    /// It has no seat, or is not sure yet that it remembers all that it said.
    #[default]
    Newcomer,
    /// It follows and does not vote yet.
    Learner,
    Voter,
    /// Its seat was removed and its node is no member: it takes no part any more.
    Removed,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SeatReport {
    pub standing: Standing,
    /// Names of those who vote, and of those who learn.
    pub voters: BTreeSet<String>,
    pub learners: BTreeSet<String>,
    /// The record of members as others told it, before this node can read it itself.
    pub told: Option<Value>,
    /// Why the store takes no part at present.
    pub trouble: Option<String>,
}
