//! Moves the bytes of one session between its client and its server.
//!
//! What it is: two lanes in one task, each read into a buffer on the stack, looked at frame by frame, and passed on;
//! a lane owns memory only while its receiver is slower than its sender, or the session is parked. What it is not: a
//! judge; it ends and says why, the session decides what the client hears. Invariants: a frame is in the books
//! (`ledger`, `ties`, `answers`) before it is passed on, so they never know less than the other side; no more is read
//! while something waits to be written. Nothing is changed but what `policy` and `answers` say.
//!
//! Written over `AsyncRead + AsyncWrite`, so that a TLS stream fits in either place.

mod frames;

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wire::ErrorFields;
use wire::message::{FrameError, Piece};
use wire::startup::CancelKey;

use super::Counters;
use super::books::{Books, Parking};
use super::cancel::{CancelMap, Commit, Gate, Registered};
use super::lane::{Cut, Lane};
use super::ledger::{backend_wanted, frontend_wanted};

/// One read. Linux hands out loopback data in pieces of up to 64 KiB, but four reads cost little beside the copying,
/// and the stack of a worker thread stays small.
const READ_MAX: usize = 16 * 1024;

/// Bytes of the client that are kept while it is parked: one read, and the beginning of a message before it.
pub const UNREAD_MAX: usize = 2 * READ_MAX;

/// Why the relay has ended.
#[derive(Debug)]
pub enum End {
    ClientLeft,
    ServerLeft,
    /// The client's bytes are no messages.
    ClientGarbled(FrameError),
    ServerGarbled(FrameError),
    /// The server waits for data of a statement that the client takes to have failed.
    Stuck,
    /// The session is to end when idle, and is idle.
    Drained,
}

/// One session between its client and its server.
#[derive(Debug)]
pub struct Relay<C, S> {
    pub client: C,
    pub server: S,
    pub books: Books,
    pub up: Lane,
    pub down: Lane,
    gate: Arc<Gate>,
    /// What the gate was told last.
    commit: Commit,
    cancels: Arc<CancelMap>,
    counters: Arc<Counters>,
    address: Arc<str>,
    key: Option<Registered>,
    parking: Parking,
    /// `up.unread` may hold whole messages.
    backlog: bool,
    /// End as soon as the session is idle.
    pub draining: bool,
    /// Pass nothing more of the client once the server needs nothing more.
    pub hold: bool,
}

/// What sessions share as far as a relay is concerned.
#[derive(Clone, Debug)]
pub struct Surroundings {
    pub cancels: Arc<CancelMap>,
    pub counters: Arc<Counters>,
}

impl<C, S> Relay<C, S>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub fn new(client: C, server: S, books: Books, around: Surroundings, address: Arc<str>) -> Self {
        Relay {
            client,
            server,
            books,
            up: Lane::new(frontend_wanted),
            down: Lane::new(backend_wanted),
            gate: Arc::new(Gate::default()),
            commit: Commit::None,
            cancels: around.cancels,
            parking: Parking::new(&around.counters),
            counters: around.counters,
            address,
            key: None,
            backlog: false,
            draining: false,
            hold: false,
        }
    }

    /// Takes over bytes that were read before the relay began.
    pub fn preload(&mut self, from_client: &[u8], from_server: &[u8]) -> Result<(), End> {
        self.take_from_server(from_server, None)?;
        self.take_from_client(from_client, None)
    }

    /// Moves bytes until a side ends. May be dropped and called again at any time.
    pub async fn run(&mut self) -> End {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// Writes what the client has not taken yet. To be called only when `client_at_boundary`.
    pub async fn flush_client(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.down.poll_write_out(&mut self.client, cx)).await
    }

    /// Puts `server` in the place of the server, which is given back. What the old one had not said to its end is gone.
    pub fn replace_server<T>(self, server: T, address: Arc<str>) -> (Relay<C, T>, S) {
        let (mut up, mut down) = (self.up, self.down);
        up.broken = false;
        down.unread = Vec::new();
        let relay = Relay {
            client: self.client,
            server,
            books: self.books,
            up,
            down,
            gate: self.gate,
            commit: self.commit,
            cancels: self.cancels,
            counters: self.counters,
            address,
            key: self.key,
            parking: self.parking,
            backlog: self.backlog,
            draining: self.draining,
            hold: self.hold,
        };
        (relay, self.server)
    }

    /// The session's key means the process of this key from now on.
    pub fn point_key_to(&self, key: CancelKey<'_>) {
        if let Some(registered) = &self.key {
            registered.point_to(key, &self.address);
        }
    }

    /// True when a message may follow what the client was sent, and what still waits for it.
    pub fn client_at_boundary(&self) -> bool {
        self.down.frames.at_boundary()
    }

    /// Nothing of the client is under way, and no transaction is open: the session is between two.
    pub fn at_boundary(&self) -> bool {
        self.books.ledger.idle() && self.up.waiting.is_empty() && self.up.frames.at_boundary()
    }

    /// The session can go on with another server, without the client's help and without losing anything.
    pub fn is_movable(&self) -> bool {
        let ended = self.books.ledger.end_is_explained();
        self.at_boundary() && self.client_at_boundary() && !ended && self.books.ties.bound().is_none()
    }

    /// The server has said that this session ends by somebody's will, its own or another's.
    pub fn was_terminated(&self) -> bool {
        let body = self.books.last_words.get(5..).unwrap_or_default();
        ErrorFields::new(body).sqlstate() == Some(b"57P01")
    }

    /// Held, and at a boundary.
    pub fn is_parked(&self) -> bool {
        self.hold && self.at_boundary()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        // The server's side first: what it has said may end what the client has asked.
        if let Poll::Ready(end) = self.poll_down(cx) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(end) = self.poll_up(cx) {
            return Poll::Ready(end);
        }
        if self.draining && self.down.waiting.is_empty() && self.at_boundary() && self.up.unread.is_empty() {
            return Poll::Ready(End::Drained);
        }
        self.parking.set(self.is_parked());
        Poll::Pending
    }

    // Both loops end by tokio's budget: after some reads it answers "pending" and wakes the task again, so one busy
    // session does not starve the others.

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut stack = [const { MaybeUninit::uninit() }; READ_MAX];
        loop {
            if ready!(self.down.poll_write_out(&mut self.client, cx)).is_err() {
                return Poll::Ready(End::ClientLeft);
            }
            let mut buffer = ReadBuf::uninit(&mut stack);
            let read = ready!(Pin::new(&mut self.server).poll_read(cx, &mut buffer));
            let bytes = buffer.filled();
            if read.is_err() || bytes.is_empty() {
                return Poll::Ready(End::ServerLeft);
            }
            if let Err(end) = self.take_from_server(bytes, Some(cx)) {
                return Poll::Ready(end);
            }
        }
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut stack = [const { MaybeUninit::uninit() }; READ_MAX];
        loop {
            if self.up.broken {
                return Poll::Pending;
            }
            if self.commit == Commit::Asked && !self.up.waiting.is_empty() {
                ready!(self.gate.poll_quiet(cx));
            }
            if ready!(self.up.poll_write_out(&mut self.server, cx)).is_err() {
                // Its last words may still be on their way down.
                self.up.broken = true;
                return Poll::Pending;
            }
            if self.backlog && !self.pauses() {
                self.backlog = false;
                if let Err(end) = self.take_from_client(&[], Some(cx)) {
                    return Poll::Ready(end);
                }
                continue;
            }
            if self.up.unread.len() >= UNREAD_MAX {
                return Poll::Pending;
            }
            let mut buffer = ReadBuf::uninit(&mut stack);
            let read = ready!(Pin::new(&mut self.client).poll_read(cx, &mut buffer));
            let bytes = buffer.filled();
            if read.is_err() || bytes.is_empty() {
                return Poll::Ready(End::ClientLeft);
            }
            if self.pauses() {
                self.keep_for_later(bytes);
            } else if let Err(end) = self.take_from_client(bytes, Some(cx)) {
                return Poll::Ready(end);
            }
        }
    }

    /// True while what the client sends has to wait.
    fn pauses(&self) -> bool {
        // A server that has said its last word would never answer.
        let is_held = self.hold && self.books.ledger.may_pause();
        (is_held || !self.books.last_words.is_empty()) && self.up.frames.at_boundary()
    }

    /// Bytes of the client that came while there was no server to send them to.
    pub fn keep_for_later(&mut self, bytes: &[u8]) {
        self.up.unread.extend_from_slice(bytes);
        self.backlog = true;
    }

    /// Looks at `bytes` and what was left over, and passes on what may be: at once with a context, else later.
    fn take_from_client(&mut self, bytes: &[u8], cx: Option<&mut Context<'_>>) -> Result<(), End> {
        let mut held = std::mem::take(&mut self.up.unread);
        let mut cut = Cut::new(join(&mut held, bytes));
        while !self.pauses() {
            match self.up.frames.next(cut.rest()).map_err(End::ClientGarbled)? {
                None => break,
                Some(Piece::Rest(rest)) if self.up.drops_rest => cut.drop(rest.len()),
                Some(Piece::Rest(rest)) => cut.keep(rest.len()),
                Some(Piece::Frame(frame)) => self.client_frame(&frame, &mut cut),
            }
        }
        let (edited, kept, unread) = cut.finish();
        self.up.unread = unread.to_vec();
        self.backlog = !unread.is_empty() && self.pauses();
        self.tell_gate();
        self.up.waiting.extend_from_slice(&edited);
        match cx {
            Some(cx) if self.commit != Commit::Asked => self.up.pass(kept, &mut self.server, cx),
            _ => self.up.waiting.extend_from_slice(kept),
        }
        Ok(())
    }

    fn take_from_server(&mut self, bytes: &[u8], cx: Option<&mut Context<'_>>) -> Result<(), End> {
        let mut held = std::mem::take(&mut self.down.unread);
        let mut cut = Cut::new(join(&mut held, bytes));
        loop {
            match self.down.frames.next(cut.rest()).map_err(End::ServerGarbled)? {
                None => break,
                Some(Piece::Rest(rest)) if self.down.drops_rest => cut.drop(rest.len()),
                Some(Piece::Rest(rest)) => cut.keep(rest.len()),
                Some(Piece::Frame(frame)) => self.server_frame(&frame, &mut cut)?,
            }
        }
        let (edited, kept, unread) = cut.finish();
        self.down.unread = unread.to_vec();
        self.tell_gate();
        self.down.waiting.extend_from_slice(&edited);
        match cx {
            Some(cx) => self.down.pass(kept, &mut self.client, cx),
            None => self.down.waiting.extend_from_slice(kept),
        }
        Ok(())
    }

    fn tell_gate(&mut self) {
        if self.commit != self.books.ledger.commit() {
            self.commit = self.books.ledger.commit();
            self.gate.set(self.commit);
        }
    }
}

/// `held` and what has come after it, as one.
fn join<'a>(held: &'a mut Vec<u8>, bytes: &'a [u8]) -> &'a [u8] {
    if held.is_empty() {
        return bytes;
    }
    held.extend_from_slice(bytes);
    held
}

#[cfg(test)]
mod tests;
