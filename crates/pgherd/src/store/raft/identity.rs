//! Who a store belongs to, and who may talk to it.
//!
//! A node's Raft id is a hash of its name, so that it does not change when others come and go. Every frame carries
//! the fingerprint of cluster and voters: two clusters that share a network, or nodes that were configured with
//! different voters, must never count each other's votes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use protobuf::Message as _;
use raft::eraftpb::{EntryType, Message, MessageType};
use serde::{Deserialize, Serialize};

/// First byte of each frame. A node that reads another one drops the frame.
const FRAME_VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 8;

/// The record inside the store file that says whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub cluster: String,
    pub name: String,
    pub voters: BTreeSet<String>,
}

impl Identity {
    pub fn check(&self) -> Result<()> {
        ensure!(!self.cluster.is_empty(), "the cluster has no name; set one");
        ensure!(
            (1..=5).contains(&self.voters.len()),
            "the store has {} voters; it takes 1 to 5, best 3 or 5",
            self.voters.len()
        );
        ensure!(
            self.voters.contains(&self.name),
            "node {:?} is not among the store's voters {:?}; add it there or correct the name",
            self.name,
            self.voters
        );
        self.ids().map(drop)
    }

    /// Refuses to open what belongs to another node, cluster or set of voters.
    pub fn check_same(&self, found: &Identity) -> Result<()> {
        let differs = |what, found: &dyn std::fmt::Debug, asked: &dyn std::fmt::Debug| {
            format!(
                "this store belongs to {what} {found:?}, but the configuration says {asked:?}; correct the \
                 configuration, or point the node at its own directory (nothing was touched)"
            )
        };
        ensure!(self.cluster == found.cluster, differs("cluster", &found.cluster, &self.cluster));
        ensure!(self.name == found.name, differs("node", &found.name, &self.name));
        ensure!(self.voters == found.voters, differs("the voters", &found.voters, &self.voters));
        Ok(())
    }

    /// Raft id → name.
    pub fn ids(&self) -> Result<BTreeMap<u64, String>> {
        let mut ids = BTreeMap::new();
        for voter in &self.voters {
            ensure!(!voter.is_empty(), "a voter of the store has no name");
            if let Some(other) = ids.insert(node_id(voter), voter.clone()) {
                bail!("the names {voter:?} and {other:?} hash to the same Raft id; rename one of the nodes");
            }
        }
        Ok(ids)
    }

    pub fn fingerprint(&self) -> u64 {
        let mut text = self.cluster.clone();
        for voter in &self.voters {
            // NUL cannot be in a name that came from a file or an argument, so lists cannot run into each other.
            text.push('\0');
            text.push_str(voter);
        }
        hash(text.as_bytes())
    }
}

/// Never 0, which Raft uses for "nobody".
pub(super) fn node_id(name: &str) -> u64 {
    hash(name.as_bytes()).max(1)
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

pub(super) fn encode_frame(fingerprint: u64, message: &Message) -> Result<Vec<u8>> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + message.compute_size() as usize);
    frame.push(FRAME_VERSION);
    frame.extend_from_slice(&fingerprint.to_be_bytes());
    message.write_to_vec(&mut frame).context("encode a Raft message")?;
    Ok(frame)
}

/// Opens a frame and checks all that raft-rs takes for granted: it panics on some malformed messages.
pub(super) fn decode_frame(fingerprint: u64, from: &str, own: u64, frame: &[u8]) -> Result<Message> {
    ensure!(frame.len() >= HEADER_BYTES, "a frame of {} bytes is too short", frame.len());
    let (header, body) = frame.split_at(HEADER_BYTES);
    ensure!(header[0] == FRAME_VERSION, "frame version {}, expected {FRAME_VERSION}", header[0]);
    ensure!(
        header[1..] == fingerprint.to_be_bytes(),
        "{from} is configured for another cluster or with other voters; compare the two configurations"
    );
    let message = Message::parse_from_bytes(body).context("decode a Raft message")?;
    ensure!(message.from == node_id(from), "{from} sent a message in the name of another node");
    ensure!(message.to == own, "{from} sent a message that is for another node");
    let normal = message.entries.iter().all(|entry| entry.get_entry_type() == EntryType::EntryNormal);
    ensure!(normal, "{from} sent a change of membership, which this version does not know");
    match message.get_msg_type() {
        MessageType::MsgPropose => ensure!(!message.entries.is_empty(), "{from} proposed nothing"),
        MessageType::MsgReadIndex => ensure!(message.entries.len() == 1, "{from} sent a malformed read"),
        MessageType::MsgSnapshot => {
            let index = message.get_snapshot().get_metadata().index;
            ensure!(index > 0, "{from} sent an empty snapshot");
        }
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum => bail!("{from} sent a message that is only for inside a node"),
        _ => {}
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(cluster: &str, name: &str, voters: &[&str]) -> Identity {
        let voters = voters.iter().map(|voter| (*voter).to_owned()).collect();
        Identity { cluster: cluster.to_owned(), name: name.to_owned(), voters }
    }

    #[test]
    fn ids_never_change() {
        // These numbers are in the log of every running cluster.
        assert_eq!(node_id("n1"), identity("c", "n1", &["n1"]).ids().unwrap().into_keys().next().unwrap());
        assert_eq!([node_id("n1"), node_id("n2")], [EXPECTED_N1, EXPECTED_N2]);
    }
    const EXPECTED_N1: u64 = 4_262_943_080_754_552_416;
    const EXPECTED_N2: u64 = 5_772_168_330_102_118_137;

    #[test]
    fn a_node_outside_the_voters_is_refused() {
        assert!(identity("c", "n4", &["n1", "n2", "n3"]).check().is_err());
        assert!(identity("c", "n1", &["n1", "n2", "n3", "n4", "n5", "n6"]).check().is_err());
        assert!(identity("", "n1", &["n1"]).check().is_err());
        assert!(identity("c", "n1", &["n1", "n2"]).check().is_ok());
    }

    #[test]
    fn frames_of_strangers_are_refused() {
        let ours = identity("c", "n1", &["n1", "n2"]);
        let mut message = Message { from: node_id("n2"), to: node_id("n1"), ..Message::default() };
        message.set_msg_type(MessageType::MsgHeartbeat);
        let frame = encode_frame(ours.fingerprint(), &message).unwrap();
        let open = |from: &str, own, frame: &[u8]| decode_frame(ours.fingerprint(), from, own, frame);
        assert_eq!(open("n2", node_id("n1"), &frame).unwrap(), message);
        assert!(open("n1", node_id("n1"), &frame).is_err(), "in another's name");
        assert!(open("n2", node_id("n2"), &frame).is_err(), "for somebody else");
        assert!(open("n2", node_id("n1"), &frame[..5]).is_err(), "cut short");
        let other = identity("c", "n1", &["n1", "n3"]).fingerprint();
        assert!(decode_frame(other, "n2", node_id("n1"), &frame).is_err(), "other voters");
        for kind in [MessageType::MsgHup, MessageType::MsgPropose, MessageType::MsgReadIndex] {
            message.set_msg_type(kind);
            let frame = encode_frame(ours.fingerprint(), &message).unwrap();
            assert!(open("n2", node_id("n1"), &frame).is_err(), "{kind:?}");
        }
    }
}
