//! Names and numbers that mean one thing each.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds on the node's CLOCK_BOOTTIME; only differences on one node mean anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// Milliseconds from `earlier` to `self`; 0 when `earlier` is later.
    pub fn since(self, earlier: Millis) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    pub fn plus(self, milliseconds: u64) -> Millis {
        Millis(self.0.saturating_add(milliseconds))
    }
}

/// Number of a primaryship; grows with each takeover.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub u64);

impl Term {
    pub fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One `pgherd run` process and what it looks after.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct NodeName(pub String);

impl From<&str> for NodeName {
    fn from(name: &str) -> Self {
        NodeName(name.to_owned())
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Tells the cluster's slots from the user's.
const SLOT_PREFIX: &str = "pgherd_";

/// One data directory: node name, underscore, incarnation (new at each clone), as in `n2_7f3a`.
///
/// The sync set counts data directories, not nodes: a node that was cloned anew has lost what it acknowledged.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemberId(pub String);

impl MemberId {
    pub fn new(node: &NodeName, incarnation: &str) -> MemberId {
        MemberId(format!("{node}_{incarnation}"))
    }

    /// The node it lives on.
    pub fn node(&self) -> NodeName {
        NodeName(self.0.rsplit_once('_').map_or(self.0.as_str(), |(node, _)| node).to_owned())
    }

    /// Its `application_name` while it follows the primary of `term`, as in `n2_7f3a_t3`: a member counts only for
    /// the term it was pointed at, never because a host it once followed is primary again.
    pub fn standby_name(&self, term: Term) -> String {
        format!("{}_t{}", self.0, term.0)
    }

    /// The inverse of [`MemberId::standby_name`].
    pub fn parse_standby_name(name: &str) -> Option<(MemberId, Term)> {
        let (member, term) = name.rsplit_once("_t")?;
        Some((MemberId(member.to_owned()), Term(term.parse().ok()?)))
    }

    /// Its replication slot; a slot admits one walsender, so no member counts twice. Slot names admit
    /// only `[a-z0-9_]`.
    pub fn slot_name(&self) -> String {
        format!("{SLOT_PREFIX}{}", self.0.replace('-', "_"))
    }

    /// The member that a slot of ours is for, spelled with underscores only; `None` for a slot of the user's.
    pub fn of_slot(slot: &str) -> Option<MemberId> {
        slot.strip_prefix(SLOT_PREFIX).map(|member| MemberId(member.to_owned()))
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_name_carries_member_and_term() {
        let member = MemberId::new(&"n_t2".into(), "7f3a");
        assert_eq!(member.node(), "n_t2".into());
        assert_eq!(member.standby_name(Term(3)), "n_t2_7f3a_t3");
        assert_eq!(MemberId::parse_standby_name("n_t2_7f3a_t3"), Some((member, Term(3))));
        assert_eq!(MemberId::parse_standby_name("walreceiver"), None);
    }
}
