//! The choice of a server for a session, and when that choice has become wrong.
//!
//! What it is: pure rules over a `Topology`. What it is not: a connection or a count; both are `servers`.
//! Invariant: a choice of a primary is bound to its timeline; one that another promotion has followed is never right
//! again. A higher term on the same timeline is the same primary, which has renewed.

use tokio::sync::watch;

use super::Port;
use super::refusal::CutCause;
use super::topology::{Backend, Topology};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Primary,
    Replica,
}

/// A server that a session was sent to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    pub backend: Backend,
    pub role: Role,
    pub term: u64,
    /// See [`Topology::timeline`].
    pub timeline: u32,
}

impl Choice {
    /// The servers that `port` may use now, best class first: the first list is balanced over before the next is used.
    pub fn candidates(port: Port, topology: &Topology) -> [Vec<Choice>; 2] {
        let choice = |role| {
            move |backend: &Backend| Choice {
                backend: backend.clone(),
                role,
                term: topology.term,
                timeline: topology.timeline,
            }
        };
        let primary = topology.primary.iter().map(choice(Role::Primary)).collect();
        match port {
            Port::ReadOnly => [topology.replicas.iter().map(choice(Role::Replica)).collect(), primary],
            Port::ReadWrite | Port::Auto => [primary, Vec::new()],
        }
    }

    /// A session may be on this server.
    pub fn is_right(&self, topology: &Topology) -> bool {
        match self.role {
            Role::Replica => topology.replicas.contains(&self.backend),
            Role::Primary => {
                topology.timeline == self.timeline && topology.primary.as_ref() == Some(&self.backend)
            }
        }
    }

    /// Why a session may not stay on this server; `None` while it may.
    pub fn cut(&self, topology: &Topology) -> Option<CutCause> {
        if self.is_right(topology) {
            return None;
        }
        let node = self.backend.node.clone();
        Some(match self.role {
            Role::Replica => CutCause::ReplicaGone { node },
            Role::Primary if topology.timeline != self.timeline => {
                CutCause::Takeover { node, term_was: self.term, term: topology.term }
            }
            Role::Primary => CutCause::PrimaryClosed { node, reason: topology.reason.clone() },
        })
    }

    /// True for the same server in the same primaryship.
    pub fn is_same_server(&self, other: &Choice) -> bool {
        self.backend == other.backend && self.timeline == other.timeline
    }

    /// Waits until the session may not stay.
    pub async fn until_cut(&self, topology: &mut watch::Receiver<Topology>) -> CutCause {
        loop {
            if let Some(cause) = self.cut(&topology.borrow_and_update()) {
                return cause;
            }
            // Without a publisher nobody would say that the term has passed: the careful end is now.
            if topology.changed().await.is_err() {
                return CutCause::AgentGone;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(node: &str) -> Backend {
        Backend { node: node.to_owned(), address: format!("{node}:5432") }
    }

    fn topology(term: u64, primary: Option<&str>, replicas: &[&str]) -> Topology {
        Topology {
            term,
            timeline: term as u32,
            primary: primary.map(backend),
            replicas: replicas.iter().map(|node| backend(node)).collect(),
            ..Topology::default()
        }
    }

    #[test]
    fn reads_prefer_replicas_and_writes_know_only_the_primary() {
        let now = topology(1, Some("n1"), &["n2", "n3"]);
        let nodes = |port| {
            Choice::candidates(port, &now)
                .map(|class| class.iter().map(|choice| choice.backend.node.clone()).collect::<Vec<_>>())
        };
        assert_eq!(nodes(Port::ReadOnly), [vec!["n2", "n3"], vec!["n1"]]);
        assert_eq!(nodes(Port::ReadWrite), [vec!["n1"], vec![]]);
        assert_eq!(nodes(Port::Auto), nodes(Port::ReadWrite));
    }

    #[test]
    fn a_choice_ends_with_its_primaryship_or_its_server() {
        let now = topology(1, Some("n1"), &["n2"]);
        let [replicas, primary] = Choice::candidates(Port::ReadOnly, &now);
        let (replica, primary) = (&replicas[0], &primary[0]);
        assert_eq!((replica.cut(&now), primary.cut(&now)), (None, None));
        let renewed = Topology { timeline: 1, ..topology(2, Some("n1"), &["n2"]) };
        assert_eq!(primary.cut(&renewed), None, "the same primary under a higher term");
        let again = topology(3, Some("n1"), &["n2"]);
        assert!(matches!(primary.cut(&again), Some(CutCause::Takeover { term_was: 1, term: 3, .. })));
        assert_eq!(replica.cut(&again), None, "a replica that is still listed stays");
        let closed = topology(1, None, &["n2"]);
        assert!(matches!(primary.cut(&closed), Some(CutCause::PrimaryClosed { .. })));
        let promoted = topology(2, Some("n2"), &[]);
        assert!(matches!(replica.cut(&promoted), Some(CutCause::ReplicaGone { .. })));
    }
}
