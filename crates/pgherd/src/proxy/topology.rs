//! What the proxy knows of the cluster: the agent publishes it, sessions watch it.

/// One PostgreSQL server that sessions may be sent to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    pub node: String,
    /// `host:port` of its PostgreSQL.
    pub address: String,
}

/// The cluster as this node sees it now.
///
/// Invariant: `term` never falls. A server connection opened under a lower term than the present one is cut at
/// once, unless it goes to a replica that is still listed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Topology {
    pub term: u64,
    /// The open primary of `term`; `None` while there is none that may serve.
    pub primary: Option<Backend>,
    /// Replicas that stream and are healthy, in a stable order.
    pub replicas: Vec<Backend>,
    /// Why there is no primary, in words for the client's error; empty when there is one.
    pub reason: String,
}
