//! What the proxy knows of the cluster: the agent publishes it, sessions watch it.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// One PostgreSQL server that sessions may be sent to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backend {
    pub node: String,
    /// `host:port` of its PostgreSQL.
    pub address: String,
}

/// A planned switchover is under way: sessions of the primary wait at their next transaction boundary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    /// Of the operation that asked for it.
    pub id: u64,
    /// It ends then, whether or not anybody takes it back.
    pub until: Instant,
}

/// The cluster as this node sees it now.
///
/// Invariants: `term` never falls. A server connection to a primary that is not the one of `timeline` is cut at once.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Topology {
    pub term: u64,
    /// The timeline that the primary of `term` was promoted on: a takeover always takes an unused one, and a primary
    /// that renews its term keeps its own. So it is what tells one primaryship from another.
    pub timeline: u32,
    /// The open primary of `term`; `None` while there is none that may serve.
    pub primary: Option<Backend>,
    /// Replicas that stream and are healthy, in a stable order.
    pub replicas: Vec<Backend>,
    /// Why there is no primary, in words for the client's error; empty when there is one.
    pub reason: String,
    /// A standby cluster: no primary is coming, and nobody waits for one.
    pub is_standby: bool,
    /// Bound to this process's clock, so it is not written.
    #[serde(skip)]
    pub hold: Option<Hold>,
}

impl Topology {
    /// Until when sessions of the primary are parked; `None` when they are not.
    pub fn held_until(&self) -> Option<Instant> {
        self.hold.map(|hold| hold.until).filter(|until| Instant::now() < *until)
    }
}
