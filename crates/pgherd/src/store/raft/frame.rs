//! The bytes that stores send each other, below them the peer link.
//!
//! ```text
//! frame = version: u8; kind: u8; store, incarnation, boot, run, start, generation, pace: u64 big-endian; body
//! ```
//! The header says which directory speaks, in which of its lives, and how far its disk is: that is what the others
//! remember it by (`door.rs`). The body is a Raft message, or a word about belonging as JSON.
//! Invariant: a decoded Raft message comes from the seat that its header names, and raft-rs does not panic on it.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use protobuf::Message as _;
use raft::eraftpb::{EntryType, Message, MessageType};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::store::state::Seat;

/// First byte of each frame. A node that reads another one drops the frame.
const FRAME_VERSION: u8 = 2;
const KIND_RAFT: u8 = 1;
const KIND_WORD: u8 = 2;
const NUMBERS: usize = 7;
const HEADER_BYTES: usize = 2 + 8 * NUMBERS;

/// Which directory speaks, and what its disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Which store the speaker belongs to; 0: to none yet.
    pub store: u64,
    pub incarnation: u64,
    /// How often the directory has been opened.
    pub boot: u64,
    /// Drawn at each opening: two copies of a directory that count the same boots differ in it.
    pub run: u64,
    /// Writes that the directory held when it was opened.
    pub start: u64,
    /// Writes that are durable now.
    pub generation: u64,
    /// What a write to its disk takes, in milliseconds.
    pub pace: u64,
}

impl Header {
    pub fn seat(&self, name: &str) -> Seat {
        Seat { name: name.to_owned(), incarnation: self.incarnation }
    }

    fn numbers(&self) -> [u64; NUMBERS] {
        [self.store, self.incarnation, self.boot, self.run, self.start, self.generation, self.pace]
    }
}

/// What nodes say about belonging.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Word {
    Hello(Hello),
    Answer(Answer),
}

/// Said again and again by who is not sure of its seat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// This directory has never been anything, and neither has the node: it may take part in founding a store.
    pub first_start: bool,
    /// With whom it would found one.
    pub seeds: BTreeSet<String>,
}

/// By who has a seat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// The run that is answered: an answer to an earlier life is none.
    pub run: u64,
    pub verdict: Verdict,
    /// `/members`, so that a newcomer learns whom to talk to.
    pub members: Option<Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Verdict {
    /// Nothing that the speaker has said is missing from its directory, as far as is known here.
    Fine,
    /// The directory lacks writes on which it has given its word.
    Forgot { why: String },
    /// The seat is no more; `wanted`: its node is still a member, and may come under a new one.
    Departed { wanted: bool },
}

pub(super) enum Body {
    Raft(Box<Message>),
    Word(Word),
}

pub(super) fn encode_raft(header: &Header, message: &Message) -> Result<Vec<u8>> {
    let mut frame = start(header, KIND_RAFT, message.compute_size() as usize);
    message.write_to_vec(&mut frame).context("encode a Raft message")?;
    Ok(frame)
}

pub(super) fn encode_word(header: &Header, word: &Word) -> Result<Vec<u8>> {
    let mut frame = start(header, KIND_WORD, 256);
    serde_json::to_writer(&mut frame, word).context("encode a word about belonging")?;
    Ok(frame)
}

fn start(header: &Header, kind: u8, body: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES + body);
    frame.extend([FRAME_VERSION, kind]);
    header.numbers().iter().for_each(|number| frame.extend_from_slice(&number.to_be_bytes()));
    frame
}

/// Opens a frame of `from` to the seat `own` and checks all that raft-rs takes for granted.
pub(super) fn decode(from: &str, own: u64, frame: &[u8]) -> Result<(Header, Body)> {
    ensure!(frame.len() >= HEADER_BYTES, "a frame of {} bytes is too short", frame.len());
    let (head, body) = frame.split_at(HEADER_BYTES);
    ensure!(head[0] == FRAME_VERSION, "frame version {}, expected {FRAME_VERSION}", head[0]);
    let number = |index: usize| {
        let at = 2 + 8 * index;
        head[at..at + 8].try_into().map(u64::from_be_bytes).context("cut a number out of a header")
    };
    let header = Header {
        store: number(0)?,
        incarnation: number(1)?,
        boot: number(2)?,
        run: number(3)?,
        start: number(4)?,
        generation: number(5)?,
        pace: number(6)?,
    };
    let body = match head[1] {
        KIND_RAFT => Body::Raft(Box::new(decode_raft(from, &header, own, body)?)),
        KIND_WORD => Body::Word(serde_json::from_slice(body).context("decode a word about belonging")?),
        kind => bail!("a frame of unknown kind {kind}"),
    };
    Ok((header, body))
}

fn decode_raft(from: &str, header: &Header, own: u64, body: &[u8]) -> Result<Message> {
    let message = Message::parse_from_bytes(body).context("decode a Raft message")?;
    ensure!(message.from == header.seat(from).id(), "{from} sent a message in the name of another seat");
    ensure!(message.to == own, "{from} sent a message that is for another seat");
    let proposes = message.get_msg_type() == MessageType::MsgPropose;
    for entry in &message.entries {
        match entry.get_entry_type() {
            EntryType::EntryNormal => {}
            // Seats are changed by the leader alone, one at a time.
            EntryType::EntryConfChange if !proposes => {}
            other => bail!("{from} sent an entry of kind {other:?}"),
        }
    }
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
    use raft::eraftpb::Entry;

    use super::*;

    const HEADER: Header =
        Header { store: 1, incarnation: 2, boot: 3, run: 4, start: 5, generation: 6, pace: 7 };

    fn message(kind: MessageType) -> Message {
        let mut message = Message { from: HEADER.seat("n2").id(), to: 9, ..Message::default() };
        message.set_msg_type(kind);
        message
    }

    fn opens(from: &str, own: u64, message: &Message) -> bool {
        decode(from, own, &encode_raft(&HEADER, message).unwrap()).is_ok()
    }

    #[test]
    fn frames_come_back_as_they_went() {
        let sent = message(MessageType::MsgHeartbeat);
        let frame = encode_raft(&HEADER, &sent).unwrap();
        let (header, Body::Raft(body)) = decode("n2", 9, &frame).unwrap() else { panic!("no Raft message") };
        assert_eq!((header, *body), (HEADER, sent));
        let word = Word::Hello(Hello { first_start: true, seeds: ["n1".to_owned()].into() });
        let frame = encode_word(&HEADER, &word).unwrap();
        let (_, Body::Word(body)) = decode("n2", 9, &frame).unwrap() else { panic!("no word") };
        assert_eq!(body, word);
        for end in 0..frame.len() {
            assert!(decode("n2", 9, &frame[..end]).is_err(), "cut to {end}");
        }
    }

    #[test]
    fn what_raft_would_not_bear_is_refused() {
        let heartbeat = message(MessageType::MsgHeartbeat);
        assert!(opens("n2", 9, &heartbeat));
        assert!(!opens("n3", 9, &heartbeat), "in another's name");
        assert!(!opens("n2", 8, &heartbeat), "for another seat");
        for kind in [MessageType::MsgHup, MessageType::MsgPropose, MessageType::MsgReadIndex] {
            assert!(!opens("n2", 9, &message(kind)), "{kind:?}");
        }
        let mut change = Entry::default();
        change.set_entry_type(EntryType::EntryConfChange);
        let mut append = message(MessageType::MsgAppend);
        append.entries.push(change.clone());
        assert!(opens("n2", 9, &append));
        let mut propose = message(MessageType::MsgPropose);
        propose.entries.push(change);
        assert!(!opens("n2", 9, &propose), "only the leader changes seats");
    }
}
