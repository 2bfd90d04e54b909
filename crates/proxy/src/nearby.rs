//! The server of this node, reached by its Unix socket: a transaction costs the proxy and PostgreSQL less there than over loopback TCP.
//!
//! What it is: when a connection goes that way. What it is not: a way in; who has not been let in by PostgreSQL before, by its lines
//! for hosts, is judged by these. Invariants: a client that is to prove to the server itself who it is never comes to it by the
//! socket, where PostgreSQL would see the proxy; nor does the role for which the node has lines of its own there. Where the lines for
//! `local` do not let somebody in, TCP is used.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::tally::Owner;
use super::topology::Backend;

/// Then PostgreSQL is asked again whether it lets somebody in: its lines may have changed, and its log tells of each attempt.
const ASK_AGAIN: Duration = Duration::from_secs(600);
/// Start-up packets that are remembered as refused; with more all are asked again.
const REFUSED_MAX: usize = 1_000;

/// The server of this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnServer {
    /// The node's name in the topology.
    pub node: String,
    pub socket: PathBuf,
    /// The role that the node lets in there by rules of its own.
    pub reserved_for: String,
}

#[derive(Debug)]
pub struct Nearby {
    own: Option<OwnServer>,
    /// By start-up packet: since when.
    refused: Mutex<HashMap<Box<[u8]>, Instant>>,
}

impl Nearby {
    pub fn new(own: Option<OwnServer>) -> Nearby {
        Nearby { own, refused: Mutex::default() }
    }

    /// The socket by which a client with this start-up packet, which has been let in, may have a connection to `backend`.
    pub fn socket_to(&self, backend: &Backend, startup: &[u8]) -> Option<&Path> {
        let own = self.own.as_ref().filter(|own| own.node == backend.node)?;
        if Owner::of(startup).user == own.reserved_for {
            return None;
        }
        let mut refused = self.refused();
        if refused.get(startup).is_some_and(|since| since.elapsed() < ASK_AGAIN) {
            return None;
        }
        refused.remove(startup);
        Some(&own.socket)
    }

    /// PostgreSQL does not let such a client in there, and did by TCP.
    pub fn refuses(&self, startup: &[u8]) {
        let mut refused = self.refused();
        if refused.len() >= REFUSED_MAX {
            refused.clear();
        }
        refused.insert(startup.into(), Instant::now());
    }

    fn refused(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Instant>> {
        // Who holds it only reads, inserts or removes.
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use wire::startup::startup_packet;

    use super::*;

    fn of(user: &str) -> Vec<u8> {
        startup_packet(0, &[("user", user)])
    }

    #[test]
    fn the_socket_is_for_the_own_node_and_for_who_is_let_in_there() {
        let own = OwnServer { node: "n1".into(), socket: "/run/x".into(), reserved_for: "postgres".into() };
        let nearby = Nearby::new(Some(own));
        let (here, there) = (
            Backend { node: "n1".into(), address: "a:1".into() },
            Backend { node: "n2".into(), address: "a:2".into() },
        );
        assert_eq!(nearby.socket_to(&here, &of("ann")), Some(Path::new("/run/x")));
        assert_eq!(nearby.socket_to(&there, &of("ann")), None);
        assert_eq!(nearby.socket_to(&here, &of("postgres")), None);
        nearby.refuses(&of("ann"));
        assert_eq!(nearby.socket_to(&here, &of("ann")), None);
        assert!(nearby.socket_to(&here, &of("bob")).is_some());
        assert_eq!(Nearby::new(None).socket_to(&here, &of("ann")), None);
    }
}
