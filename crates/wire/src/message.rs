//! Frames after the start-up: a type byte, a length, a body.
//!
//! What it is: `Framer` follows a stream of frames across reads of any size and shows the beginning of those
//! bodies that its user asked for; the few bodies that a relay must understand. What it is not: a buffer; a body of
//! a gigabyte passes without being kept. Invariant: `at_boundary` is true exactly when every byte seen so far
//! belongs to a whole frame.

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
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const COMMAND_COMPLETE: u8 = b'C';
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

/// One whole frame that has passed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    pub tag: u8,
    /// Bytes of the body.
    pub length: u32,
    /// The body's beginning, as many bytes as were asked for.
    pub head: &'a [u8],
}

impl Frame<'_> {
    /// True when `head` is not the whole body.
    pub fn is_cut(&self) -> bool {
        self.head.len() < self.length as usize
    }
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

/// Follows one direction of a connection.
#[derive(Debug)]
pub struct Framer {
    /// How many bytes of a body with this type byte are of interest.
    wanted: fn(u8) -> usize,
    prefix: [u8; 5],
    prefix_have: usize,
    /// Bytes of the present body that have not come yet.
    body_left: usize,
    /// The beginning of a body that spans reads; no allocation otherwise.
    kept: Vec<u8>,
}

impl Framer {
    pub fn new(wanted: fn(u8) -> usize) -> Framer {
        Framer { wanted, prefix: [0; 5], prefix_have: 0, body_left: 0, kept: Vec::new() }
    }

    /// True when no frame is under way.
    pub fn at_boundary(&self) -> bool {
        self.prefix_have == 0
    }

    /// Reads on to the end of the next frame, or takes all of `bytes` and answers `None`.
    pub fn next<'s, 'b: 's>(&'s mut self, bytes: &mut &'b [u8]) -> Option<Result<Frame<'s>, FrameError>> {
        if self.prefix_have < self.prefix.len() {
            if self.prefix_have == 0 {
                self.kept = Vec::new();
            }
            let part = take(bytes, self.prefix.len() - self.prefix_have);
            self.prefix[self.prefix_have..][..part.len()].copy_from_slice(part);
            self.prefix_have += part.len();
            if self.prefix_have < self.prefix.len() {
                return None;
            }
            match body_length(self.prefix) {
                Ok(length) => self.body_left = length,
                Err(error) => return Some(Err(error)),
            }
        }
        let [tag, word @ ..] = self.prefix;
        let length = u32::from_be_bytes(word) - 4;
        let wanted = (self.wanted)(tag).min(length as usize);
        let part = take(bytes, self.body_left);
        let came_whole = part.len() == length as usize;
        self.body_left -= part.len();
        if !came_whole {
            let missing = wanted.saturating_sub(self.kept.len()).min(part.len());
            self.kept.extend_from_slice(&part[..missing]);
        }
        if self.body_left > 0 {
            return None;
        }
        self.prefix_have = 0;
        let head = if came_whole { &part[..wanted] } else { &self.kept[..] };
        Some(Ok(Frame { tag, length, head }))
    }
}

fn take<'b>(bytes: &mut &'b [u8], count_max: usize) -> &'b [u8] {
    let (part, rest) = bytes.split_at(count_max.min(bytes.len()));
    *bytes = rest;
    part
}

fn body_length(prefix: [u8; 5]) -> Result<usize, FrameError> {
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
    let end = body.iter().position(|byte| *byte == 0)?;
    Some((&body[..end], &body[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    fn frames(framer: &mut Framer, mut bytes: &[u8], seen: &mut Vec<(u8, u32, Vec<u8>)>) {
        while let Some(frame) = framer.next(&mut bytes) {
            let frame = frame.unwrap();
            seen.push((frame.tag, frame.length, frame.head.to_vec()));
        }
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
            let mut framer = Framer::new(|_| 6);
            let mut seen = Vec::new();
            let mut rest = &stream[..];
            while !rest.is_empty() {
                let (part, after) = rest.split_at(1 + chance.below(rest.len() as u64) as usize);
                frames(&mut framer, part, &mut seen);
                rest = after;
            }
            assert_eq!(seen, expected);
            assert!(framer.at_boundary());
        }
    }

    #[test]
    fn a_boundary_is_known_at_every_byte() {
        let mut stream = Vec::new();
        put_frame(&mut stream, b'Z', b"I");
        put_frame(&mut stream, b'H', b"");
        let mut framer = Framer::new(|_| 0);
        let boundaries: Vec<usize> = (0..stream.len())
            .filter(|at| {
                frames(&mut framer, &stream[*at..=*at], &mut Vec::new());
                framer.at_boundary()
            })
            .collect();
        assert_eq!(boundaries, [5, 10]);
    }

    #[test]
    fn a_long_body_is_not_kept() {
        let mut framer = Framer::new(|_| 4);
        let mut stream = Vec::new();
        put_frame(&mut stream, b'd', &[9; 100_000]);
        for part in stream.chunks(1000) {
            frames(&mut framer, part, &mut Vec::new());
        }
        assert!(framer.kept.capacity() <= 64, "{}", framer.kept.capacity());
    }

    #[test]
    fn impossible_lengths_are_errors_and_nothing_panics() {
        for length in [0u32, 3, 0x8000_0000, u32::MAX] {
            let mut bytes = vec![b'Q'];
            bytes.extend_from_slice(&length.to_be_bytes());
            let mut rest = &bytes[..];
            let error = Framer::new(|_| 9).next(&mut rest).unwrap().unwrap_err();
            assert_eq!(error, FrameError { tag: b'Q', length });
        }
        let mut chance = Chance::new(3);
        for _ in 0..20_000 {
            let bytes = chance.bytes(40);
            let mut rest = &bytes[..];
            let mut framer = Framer::new(usize::from);
            while let Some(Ok(frame)) = framer.next(&mut rest) {
                let _ = (Status::parse(frame.head), split_text(frame.head));
            }
        }
    }
}
