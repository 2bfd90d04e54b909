//! What the operator says of a node's fitness; each node tells its own, with its status.

use serde::{Deserialize, Serialize};

use crate::NodeName;

/// The tags of a node. The defaults mean: fit for everything.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Tags {
    /// It never becomes primary.
    pub nofailover: bool,
    /// It gets no read-only sessions.
    pub noloadbalance: bool,
    /// Others copy their data directory from it by preference.
    pub clonefrom: bool,
    /// It is never a member of the sync set.
    pub nosync: bool,
    /// It takes its WAL from this replica, not from the primary, while that replica is fit.
    pub replicatefrom: Option<NodeName>,
    /// Among candidates that have the same WAL, the higher one wins.
    pub failover_priority: u32,
    /// Among equals of the same priority, one in the old primary's zone wins.
    pub zone: String,
}

impl Default for Tags {
    fn default() -> Tags {
        Tags {
            nofailover: false,
            noloadbalance: false,
            clonefrom: false,
            nosync: false,
            replicatefrom: None,
            failover_priority: 1,
            zone: String::new(),
        }
    }
}
