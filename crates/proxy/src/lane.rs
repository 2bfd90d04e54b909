//! One direction of a session: from bytes as they are read to bytes as they are passed on.
//!
//! What it is: the writing of what waits, and `Cut`, which takes a piece of the stream apart where something is to be
//! changed. What it is not: a reason to change anything. Invariants: no byte is passed on before the header and the
//! wanted head of its frame were looked at; what nobody changes is not copied unless the receiver is slow.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;
use wire::message::Framer;

/// Bytes on their way in one direction.
#[derive(Debug)]
pub struct Lane {
    pub frames: Framer,
    /// Read, but not looked at: the beginning of a frame, or what came while the session is parked.
    pub unread: Vec<u8>,
    /// Looked at, but not yet taken by the receiver.
    pub waiting: Vec<u8>,
    written: usize,
    unflushed: bool,
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
            unflushed: false,
            drops_rest: false,
            broken: false,
        }
    }

    /// Writes what waits, then flushes.
    pub fn poll_write_out<W>(&mut self, receiver: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        W: AsyncWrite + Unpin,
    {
        while self.written < self.waiting.len() {
            let wrote = ready!(Pin::new(&mut *receiver).poll_write(cx, &self.waiting[self.written..]))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += wrote;
            self.unflushed = true;
        }
        if self.written > 0 {
            (self.waiting, self.written) = (Vec::new(), 0);
        }
        if self.unflushed {
            ready!(Pin::new(receiver).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Offers `bytes` to the receiver and keeps what it does not take at once.
    pub fn pass<W>(&mut self, mut bytes: &[u8], receiver: &mut W, cx: &mut Context<'_>)
    where
        W: AsyncWrite + Unpin,
    {
        self.unflushed = true;
        while !bytes.is_empty() && self.waiting.is_empty() {
            match Pin::new(&mut *receiver).poll_write(cx, bytes) {
                Poll::Ready(Ok(wrote @ 1..)) => bytes = &bytes[wrote..],
                // An error comes again when the rest is written.
                Poll::Ready(_) | Poll::Pending => break,
            }
        }
        self.waiting.extend_from_slice(bytes);
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
