//! Who a store directory belongs to.
//!
//! A directory is founded once, under a random incarnation, and votes under the id of its [`Seat`]: name and
//! incarnation. A directory that was lost comes back under another id, so what it has forgotten it can never contradict.
//! Invariant: an id is used by one directory, and no directory is opened for another node or cluster.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::store::state::Seat;

/// The record inside the store file that says whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub cluster: String,
    pub name: String,
}

impl Identity {
    pub fn check(&self) -> Result<()> {
        ensure!(!self.cluster.is_empty(), "the cluster has no name; set one");
        ensure!(!self.name.is_empty(), "the node has no name; set one");
        Ok(())
    }

    /// Refuses to open what belongs to another node or cluster.
    pub fn check_same(&self, found: &Identity) -> Result<()> {
        let differs = |what, found: &str, asked: &str| {
            format!(
                "this store belongs to {what} {found:?}, but the configuration says {asked:?}; correct the \
                 configuration, or point the node at its own directory (nothing was touched)"
            )
        };
        ensure!(self.cluster == found.cluster, differs("cluster", &found.cluster, &self.cluster));
        ensure!(self.name == found.name, differs("node", &found.name, &self.name));
        Ok(())
    }
}

impl Seat {
    /// A seat for a directory that has never been used.
    pub fn fresh(name: &str) -> Seat {
        Seat { name: name.to_owned(), incarnation: rand::random() }
    }

    /// The Raft id; never 0, which Raft uses for "nobody".
    pub fn id(&self) -> u64 {
        let mut text = self.name.clone().into_bytes();
        // NUL cannot be in a name that came from a file or an argument.
        text.push(0);
        text.extend_from_slice(&self.incarnation.to_be_bytes());
        hash(&text).max(1)
    }
}

/// FNV-1a with a final mix: stable across releases and machines, which std's hasher does not promise.
fn hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_never_change() {
        // Ids of this making are in the log of every running cluster.
        let seat = Seat { name: "n1".into(), incarnation: 7 };
        assert_eq!(seat.id(), EXPECTED);
        assert_ne!(seat.id(), Seat { incarnation: 8, ..seat.clone() }.id());
        assert_ne!(seat.id(), Seat { name: "n2".into(), ..seat }.id());
    }
    const EXPECTED: u64 = 905_649_509_050_119_069;
}
