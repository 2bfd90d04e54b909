//! The peer link: one encrypted, mutually authenticated connection between each two agents.
//!
//! It carries what the agents tell each other (heartbeats and their answers, promises, LSNs) and the store's Raft
//! messages. It promises little on purpose: a message arrives whole, unaltered, from the node it says it is from,
//! at most once; or not at all. Nothing is repeated, nothing kept for a peer that is away, and a connection
//! is no proof of life: the agents judge by what arrives, and when.
//!
//! - *Who*: TLS 1.3 only, both sides with a certificate of the cluster's own authority that names one node
//!   ([`identity`], [`certificates`]). The dialler insists on the name it dialled, the other side on a hello that
//!   claims the name in the certificate.
//! - *One connection*: of two nodes the one with the smaller name dials; both send over it. A new connection from a
//!   peer replaces the old one, because the peer knows better than we do that the old one is dead.
//! - *A stranger gets nothing* and costs little: handshakes in progress are limited in number, time and bytes,
//!   and before a hello is accepted not a byte of ours is sent but TLS's own ([`accept`]).
//! - *Sending never waits* ([`outbox`]).
//!
//! Invariant: [`Incoming::from`] is the name in the certificate with which the connection was opened, and it is
//! one of the peers of that moment.

mod accept;
pub mod certificates;
mod connection;
mod dial;
mod frame;
pub mod identity;
mod link;
mod outbox;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeMap;

use bytes::Bytes;

pub use frame::PAYLOAD_BYTES_MAX;
pub use identity::{CertificateFacts, Identity, IdentityError, certificate_facts};
pub use link::Link;

/// What a message is for; it decides what happens when messages pile up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Channel {
    /// Small messages about how things stand; when they pile up, only the newest few are kept.
    Agent,
    /// Ordered, best effort; when they pile up, new ones are refused.
    Raft,
    /// Cancel requests for sessions of somebody else's proxy; when they pile up, new ones are refused.
    Cancel,
    /// What is for people alone; each message replaces the one before.
    News,
}

/// A message from a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Incoming {
    /// The node that sent it, proven by its certificate.
    pub from: String,
    pub channel: Channel,
    pub payload: Bytes,
}

/// Where a peer is, and how eagerly it is sought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAddress {
    /// `host:port`.
    pub address: String,
    /// It was removed from the cluster and is sought only now and then, to be told.
    pub removed: bool,
}

impl PeerAddress {
    pub fn of(address: impl Into<String>) -> PeerAddress {
        PeerAddress { address: address.into(), removed: false }
    }
}

/// What a [`Link`] needs to know.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// A node of another cluster is refused even with a certificate of this one's authority.
    pub cluster: String,
    /// This node; the name that its certificate bears.
    pub name: String,
    /// `host:port` to listen on.
    pub listen: String,
    /// The nodes to talk to at first, by name; this node's own may be among them. See [`Link::set_peers`].
    pub peers: BTreeMap<String, PeerAddress>,
    pub identity: Identity,
}
