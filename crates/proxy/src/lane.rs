//! One direction of a session: from bytes as they are read to bytes as they are passed on.
//!
//! What it is: the bytes that wait for their receiver, and `Cut`, which takes a piece of the stream apart where something
//! is to be changed. What it is not: a reason to change anything. Invariants: no byte is passed on before the header and the
//! wanted head of its frame were looked at; what nobody changes is not copied unless the receiver is slow.

use std::io::{self, IoSlice};

use wire::message::Framer;

/// Where a lane leads. It never waits.
pub trait Receiver {
    /// Takes what it can of `parts`, one after the other: how many bytes, 0 when there is no room at present.
    fn take(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize>;
}

/// Bytes on their way in one direction.
#[derive(Debug)]
pub struct Lane {
    pub frames: Framer,
    /// Read, but not looked at: the beginning of a frame, or what came while the session is parked.
    pub unread: Vec<u8>,
    /// Looked at, but not yet taken by the receiver.
    waiting: Vec<u8>,
    written: usize,
    /// The rest of the frame under way goes nowhere.
    pub drops_rest: bool,
    /// The receiver takes no more. The other lane finds out why.
    pub broken: bool,
}

impl Lane {
    pub fn new(wanted: fn(u8) -> usize) -> Lane {
        Lane {
            frames: Framer::new(wanted),
            unread: Vec::new(),
            waiting: Vec::new(),
            written: 0,
            drops_rest: false,
            broken: false,
        }
    }

    /// Nothing waits for the receiver.
    pub fn is_clear(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What waits for the receiver, given away.
    pub fn take_waiting(&mut self) -> Vec<u8> {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.drain(..std::mem::take(&mut self.written));
        waiting
    }

    /// Keeps `bytes` for the receiver.
    pub fn put(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// Offers what waits; true when nothing waits any more.
    pub fn write_out(&mut self, receiver: &mut impl Receiver) -> io::Result<bool> {
        while self.written < self.waiting.len() {
            match receiver.take(&[IoSlice::new(&self.waiting[self.written..])])? {
                0 => return Ok(false),
                taken => self.written += taken,
            }
        }
        if self.written > 0 {
            (self.waiting, self.written) = (Vec::new(), 0);
        }
        Ok(true)
    }

    /// Offers `parts`, in one piece, and keeps what is not taken at once. An error comes again when that is written.
    pub fn pass(&mut self, parts: [&[u8]; 2], receiver: &mut impl Receiver) {
        let mut taken = 0;
        if self.waiting.is_empty() {
            let [first, second] = parts;
            let offered = match (first.is_empty(), second.is_empty()) {
                (true, true) => return,
                (true, false) => receiver.take(&[IoSlice::new(second)]),
                (false, true) => receiver.take(&[IoSlice::new(first)]),
                (false, false) => receiver.take(&[IoSlice::new(first), IoSlice::new(second)]),
            };
            taken = offered.unwrap_or(0);
        }
        for part in parts {
            let done = taken.min(part.len());
            taken -= done;
            self.waiting.extend_from_slice(&part[done..]);
        }
    }
}

/// A piece of the stream while it is looked at, frame by frame.
pub struct Cut<'b> {
    bytes: &'b [u8],
    /// Bytes before `kept_from` are done with: in `edited`, or dropped.
    kept_from: usize,
    /// Where the next frame begins.
    at: usize,
    edited: Vec<u8>,
}

impl<'b> Cut<'b> {
    pub fn new(bytes: &'b [u8]) -> Cut<'b> {
        Cut { bytes, kept_from: 0, at: 0, edited: Vec::new() }
    }

    pub fn rest(&self) -> &'b [u8] {
        &self.bytes[self.at..]
    }

    pub fn keep(&mut self, count: usize) {
        self.at += count;
    }

    /// Leaves out the next `count` bytes.
    pub fn drop(&mut self, count: usize) {
        self.insert(&[]);
        self.at += count;
        self.kept_from = self.at;
    }

    /// Puts `bytes` before the next frame.
    pub fn insert(&mut self, bytes: &[u8]) {
        self.edited.extend_from_slice(&self.bytes[self.kept_from..self.at]);
        self.edited.extend_from_slice(bytes);
        self.kept_from = self.at;
    }

    /// What is to be passed on, in two parts, and what has not been looked at.
    pub fn finish(self) -> (Vec<u8>, &'b [u8], &'b [u8]) {
        (self.edited, &self.bytes[self.kept_from..self.at], &self.bytes[self.at..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes and no more.
    struct Narrow {
        room: usize,
        got: Vec<u8>,
    }

    impl Receiver for Narrow {
        fn take(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
            let all: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
            let taken = self.room.min(all.len());
            self.room -= taken;
            self.got.extend_from_slice(&all[..taken]);
            Ok(taken)
        }
    }

    #[test]
    fn what_is_not_taken_at_once_comes_later_and_in_order() {
        for room in 0..8 {
            let mut lane = Lane::new(|_| 0);
            let mut receiver = Narrow { room, got: Vec::new() };
            lane.pass([b"abc", b"de"], &mut receiver);
            lane.pass([b"", b"fg"], &mut receiver);
            assert_eq!(lane.is_clear(), room >= 7, "{room}");
            receiver.room = 7;
            assert!(lane.write_out(&mut receiver).unwrap() && lane.is_clear());
            assert_eq!(receiver.got, b"abcdefg");
        }
    }

    #[test]
    fn a_cut_changes_what_it_is_told_and_nothing_else() {
        let mut cut = Cut::new(b"aabbccddee");
        cut.keep(2);
        cut.drop(2);
        cut.keep(2);
        cut.insert(b"X");
        cut.keep(2);
        assert_eq!(cut.finish(), (b"aaccX".to_vec(), &b"dd"[..], &b"ee"[..]));
        let mut cut = Cut::new(b"aabb");
        cut.keep(4);
        assert_eq!(cut.finish(), (Vec::new(), &b"aabb"[..], &b""[..]), "nothing is copied");
    }
}
