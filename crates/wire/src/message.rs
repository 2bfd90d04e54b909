//! Frames after the start-up: a type byte, a length, a body.
//!
//! What it is: `Framer` follows a stream of frames across reads of any size and shows each with the beginning of its
//! body that its user asked for; the few bodies that a relay must understand. What it is not: a buffer; it is shown
//! again what was too short, and a body of a gigabyte passes without being kept. Invariant: `at_boundary` is true
//! exactly when every byte shown so far belongs to a whole frame.

use std::ffi::CStr;
use std::fmt;

/// Type bytes that clients send.
pub mod frontend {
    pub const QUERY: u8 = b'Q';
    pub const PARSE: u8 = b'P';
    pub const BIND: u8 = b'B';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const CLOSE: u8 = b'C';
    pub const FLUSH: u8 = b'H';
    pub const SYNC: u8 = b'S';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const TERMINATE: u8 = b'X';
    /// Password, SASL and GSS answers share it.
    pub const PASSWORD: u8 = b'p';
}

/// Type bytes that servers send.
pub mod backend {
    pub const AUTHENTICATION: u8 = b'R';
    pub const KEY_DATA: u8 = b'K';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION: u8 = b'A';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const NO_DATA: u8 = b'n';
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const ROW_DESCRIPTION: u8 = b'T';
    pub const DATA_ROW: u8 = b'D';
}

/// What ReadyForQuery says of the session's transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    Idle,
    InTransaction,
    Failed,
}

impl Status {
    /// The body of ReadyForQuery.
    pub fn parse(body: &[u8]) -> Option<Status> {
        match body {
            b"I" => Some(Status::Idle),
            b"T" => Some(Status::InTransaction),
            b"E" => Some(Status::Failed),
            _ => None,
        }
    }
}

/// A frame of which the header and the wanted beginning of the body are there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    pub tag: u8,
    /// Bytes of the body.
    pub length: u32,
    /// The body's beginning, as many bytes as were asked for.
    pub head: &'a [u8],
    /// What is there of it, header included.
    pub bytes: &'a [u8],
}

impl Frame<'_> {
    /// True when `head` is not the whole body.
    pub fn is_cut(&self) -> bool {
        self.head.len() < self.length as usize
    }

    /// True when `bytes` is the whole frame.
    pub fn is_whole(&self) -> bool {
        self.bytes.len() == self.length as usize + HEADER
    }
}

/// What the next bytes of a stream are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece<'a> {
    /// A frame begins.
    Frame(Frame<'a>),
    /// More of the body that began before.
    Rest(&'a [u8]),
}

/// A length word below 4 or above `i32::MAX`: the stream has lost its framing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameError {
    pub tag: u8,
    pub length: u32,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid message length {} after type {:?}", self.length, char::from(self.tag))
    }
}

impl std::error::Error for FrameError {}

/// Type byte and length word.
const HEADER: usize = 5;

/// Follows one direction of a connection.
#[derive(Debug)]
pub struct Framer {
    /// How many bytes of a body with this type byte are of interest.
    wanted: fn(u8) -> usize,
    /// Bytes of the present body that have not come yet.
    body_left: usize,
}

impl Framer {
    pub fn new(wanted: fn(u8) -> usize) -> Framer {
        Framer { wanted, body_left: 0 }
    }

    /// True when every byte shown so far belongs to a whole frame.
    pub fn at_boundary(&self) -> bool {
        self.body_left == 0
    }

    /// The first piece of `bytes`; `None` when they are too few to tell, and must be shown again with more.
    pub fn next<'b>(&mut self, bytes: &'b [u8]) -> Result<Option<Piece<'b>>, FrameError> {
        if self.body_left > 0 && !bytes.is_empty() {
            let rest = &bytes[..self.body_left.min(bytes.len())];
            self.body_left -= rest.len();
            return Ok(Some(Piece::Rest(rest)));
        }
        let Some((prefix, body)) = bytes.split_first_chunk::<HEADER>() else { return Ok(None) };
        let (tag, length) = (prefix[0], body_length(*prefix)?);
        let Some(head) = body.get(..(self.wanted)(tag).min(length)) else { return Ok(None) };
        let here = length.min(body.len());
        self.body_left = length - here;
        Ok(Some(Piece::Frame(Frame { tag, length: length as u32, head, bytes: &bytes[..HEADER + here] })))
    }
}

fn body_length(prefix: [u8; HEADER]) -> Result<usize, FrameError> {
    let [tag, word @ ..] = prefix;
    let length = u32::from_be_bytes(word);
    if (4..=i32::MAX as u32).contains(&length) {
        Ok(length as usize - 4)
    } else {
        Err(FrameError { tag, length })
    }
}

/// Appends a frame to `out`.
pub fn put_frame(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    out.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(body);
}

/// Splits a text that ends in NUL off the front of a body.
pub fn split_text(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = CStr::from_bytes_until_nul(body).ok()?.to_bytes();
    Some((text, &body[text.len() + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    /// Shows `part` after what was left over before; keeps what is left over again.
    fn frames(framer: &mut Framer, left: &mut Vec<u8>, part: &[u8], seen: &mut Vec<(u8, u32, Vec<u8>)>) {
        left.extend_from_slice(part);
        let mut at = 0;
        while let Some(piece) = framer.next(&left[at..]).unwrap() {
            at += match piece {
                Piece::Frame(frame) => {
                    seen.push((frame.tag, frame.length, frame.head.to_vec()));
                    frame.bytes.len()
                }
                Piece::Rest(rest) => rest.len(),
            };
        }
        left.drain(..at);
    }

    #[test]
    fn frames_are_the_same_however_the_stream_is_cut() {
        let mut chance = Chance::new(7);
        for _ in 0..500 {
            let mut stream = Vec::new();
            let mut expected = Vec::new();
            for _ in 0..chance.below(8) {
                let (tag, body) = (b'A' + chance.below(26) as u8, chance.bytes(40));
                put_frame(&mut stream, tag, &body);
                expected.push((tag, body.len() as u32, body[..body.len().min(6)].to_vec()));
            }
            let (mut framer, mut left) = (Framer::new(|_| 6), Vec::new());
            let mut seen = Vec::new();
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let (part, after) = rest.split_at(1 + chance.below(rest.len() as u64) as usize);
                frames(&mut framer, &mut left, part, &mut seen);
                assert!(left.len() < HEADER + 6, "no more is kept than is wanted");
                rest = after;
            }
            assert_eq!(seen, expected);
            assert!(framer.at_boundary() && left.is_empty());
        }
    }

    #[test]
    fn a_long_body_is_not_kept() {
        let (mut framer, mut left) = (Framer::new(|_| 4), Vec::new());
        let mut stream = Vec::new();
        put_frame(&mut stream, b'd', &[9; 100_000]);
        for part in stream.chunks(1000) {
            frames(&mut framer, &mut left, part, &mut Vec::new());
            assert!(left.is_empty());
        }
        assert!(framer.at_boundary());
    }

    #[test]
    fn impossible_lengths_are_errors_and_nothing_panics() {
        for length in [0u32, 3, 0x8000_0000, u32::MAX] {
            let mut bytes = vec![b'Q'];
            bytes.extend_from_slice(&length.to_be_bytes());
            let error = Framer::new(|_| 9).next(&bytes).unwrap_err();
            assert_eq!(error, FrameError { tag: b'Q', length });
        }
        let mut chance = Chance::new(3);
        for _ in 0..20_000 {
            let bytes = chance.bytes(40);
            let (mut framer, mut at) = (Framer::new(usize::from), 0);
            while let Ok(Some(piece)) = framer.next(&bytes[at..]) {
                at += match piece {
                    Piece::Frame(frame) => {
                        let _ = (Status::parse(frame.head), split_text(frame.head));
                        frame.bytes.len()
                    }
                    Piece::Rest(rest) => rest.len(),
                };
            }
        }
    }
}
