//! The bytes of one session between its client and its server.
//!
//! What it is: two lanes, each shown what was read, looked at frame by frame, and passed on; a lane owns memory only while
//! its receiver is slower than its sender, or the session is parked. What it is not: a reader of sockets (the worker is),
//! nor a judge; it ends and says why, the session decides what the client hears. Invariants: a frame is in the books
//! (`ledger`, `ties`, `answers`) before it is passed on, so they never know less than the other side; nothing more is to be
//! shown while something waits to be written. Nothing is changed but what `policy` and `answers` say.

mod frames;
mod lent;
mod repeat;

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use wire::ErrorFields;
use wire::message::{FrameError, Framer, Piece, backend, frontend, put_frame};

use super::Counters;
use super::books::{Books, Parking};
use super::cancel::{CancelMap, Commit, Gate, Registered};
use super::lane::{Cut, Lane, Receiver};
use super::ledger::{Loss, backend_wanted, frontend_wanted};
use super::policy::{self, Leaks};
use super::routes::{Known, Request};
use super::shares::{Registry, Shares};
use super::tally::Bytes;
use super::ties::Prelude;
pub use lent::Wants;
pub use repeat::Failed;
use repeat::{Repeat, Turn};

/// Bytes of the client that are kept while it is parked: one read, and the beginning of a message before it.
pub const UNREAD_MAX: usize = 32 * 1024;

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
    /// The server did not take what the session needs there.
    NotLaid(String),
    /// It could not at this moment; another may, or this one later.
    NotNow(String),
}

/// What lies between a client and its server.
#[derive(Debug)]
pub struct Relay {
    pub books: Books,
    pub bytes: Bytes,
    pub up: Lane,
    pub down: Lane,
    gate: Arc<Gate>,
    /// What the gate was told last.
    commit: Commit,
    cancels: Arc<CancelMap>,
    counters: Arc<Counters>,
    address: Arc<str>,
    key: Option<Registered>,
    /// The body of the key that the log-in's server process gave.
    server_key: Vec<u8>,
    /// Its server is not for good: the client is not told that server's key.
    hides_key: bool,
    /// The server is made ready for this session, which waits.
    prelude: Option<Box<Prelude>>,
    parking: Parking,
    turn: Turn,
    /// Of a session whose requests go to different servers.
    repeat: Option<Box<Repeat>>,
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
    /// For a session that gives its server back.
    pub statements: Option<Arc<Registry>>,
    pub leaks: Leaks,
    /// Such a session may open transaction blocks.
    pub blocks: bool,
}

impl Relay {
    pub fn new(mut books: Books, around: Surroundings, address: Arc<str>) -> Self {
        if let Some(statements) = &around.statements {
            books.share(statements, around.leaks, around.blocks);
        }
        Relay {
            books,
            bytes: Bytes::default(),
            up: Lane::new(frontend_wanted),
            down: Lane::new(backend_wanted),
            gate: Arc::new(Gate::default()),
            commit: Commit::None,
            cancels: around.cancels,
            parking: Parking::new(&around.counters),
            counters: around.counters,
            address,
            key: None,
            server_key: Vec::new(),
            hides_key: around.statements.is_some(),
            prelude: None,
            turn: Turn::Any,
            repeat: None,
            backlog: false,
            draining: false,
            hold: false,
        }
    }

    /// The way to cancel what runs.
    pub fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// True when a message may follow what the client was sent, and what still waits for it.
    pub fn client_at_boundary(&self) -> bool {
        self.down.frames.at_boundary()
    }

    /// As before, or nothing of the message under way was passed on: a last message may follow.
    pub fn client_hears_whole(&self) -> bool {
        self.client_at_boundary() || self.down.drops_rest
    }

    /// What the client loses when its server is gone now.
    pub fn loss(&self) -> Loss {
        self.books.ledger.loss(self.up.frames.at_boundary())
    }

    /// Nothing of the client is under way, and no transaction is open: the session is between two.
    pub fn at_boundary(&self) -> bool {
        self.books.ledger.idle() && self.up.is_clear() && self.up.frames.at_boundary()
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

    /// Holds the client's messages back at the next boundary, or no more.
    pub fn hold_back(&mut self, held: bool) {
        self.hold = held;
        self.count_parking();
    }

    /// Counts the session among the parked, or not, as it is now.
    pub fn count_parking(&mut self) {
        let parked = self.is_parked();
        self.parking.set(parked);
    }

    /// To end, and with nothing left to say or to hear.
    pub fn is_drained(&self) -> bool {
        let is_idle = self.down.is_clear() && self.at_boundary() && self.up.unread.is_empty();
        self.draining && is_idle && !self.has_failed_read()
    }

    /// Writes to the server what waits for it; true when nothing does. A commit waits for a cancel that is under way, whose
    /// end wakes `waker`.
    pub fn write_up(&mut self, server: &mut impl Receiver, waker: &Waker) -> io::Result<bool> {
        if self.commit == Commit::Asked
            && !self.up.is_clear()
            && let Poll::Pending = self.gate.poll_quiet(&mut Context::from_waker(waker))
        {
            return Ok(false);
        }
        self.up.write_out(server)
    }

    /// True while what the client sends has to wait.
    pub fn pauses(&self) -> bool {
        // A server that has said its last word would never answer.
        let is_held = self.hold && self.books.ledger.may_pause();
        let waits =
            is_held || !self.books.last_words.is_empty() || self.prelude.is_some() || self.turn == Turn::Over;
        waits && self.up.frames.at_boundary()
    }

    /// What the client's first request is; `is_read` is asked for each text of it.
    pub fn request(&self, is_read: impl FnMut(&[u8]) -> bool) -> Request {
        let Books { shares, ties, .. } = &self.books;
        let shares = shares.as_deref();
        let known = Known {
            text: |name: &[u8]| shares.and_then(|shares| shares.text(name)),
            unnamed: ties.unnamed(),
            room: shares.map_or(0, Shares::room),
        };
        known.first(&self.up.unread, is_read)
    }

    /// Takes the client's first request out of what it has sent, and answers it as one that was cancelled. False when its end has not
    /// come, or something else is to be said first.
    pub fn cancel_request(&mut self) -> bool {
        if !self.at_boundary() || !self.client_at_boundary() {
            return false;
        }
        let Some(end) = request_end(&self.up.unread) else { return false };
        self.up.unread.drain(..end);
        self.backlog = !self.up.unread.is_empty();
        let mut answer = policy::cancelled().encode();
        put_frame(&mut answer, backend::READY_FOR_QUERY, b"I");
        self.down.put(&answer);
        true
    }

    /// No more of the client can be kept.
    pub fn is_full(&self) -> bool {
        self.up.unread.len() >= UNREAD_MAX
    }

    /// Bytes of the client that came while there was no server to send them to.
    pub fn keep_for_later(&mut self, bytes: &[u8]) {
        self.bytes.received += bytes.len() as u64;
        self.up.unread.extend_from_slice(bytes);
        self.backlog = true;
    }

    /// What the client sent before it may be passed on now.
    pub fn has_backlog(&self) -> bool {
        self.backlog && !self.pauses()
    }

    /// Looks at `bytes` and what was left over, and passes on what may be.
    pub fn hear_client(&mut self, bytes: &[u8], server: &mut impl Receiver) -> Result<(), End> {
        self.bytes.received += bytes.len() as u64;
        let mut held = std::mem::take(&mut self.up.unread);
        let mut cut = Cut::new(join(&mut held, bytes));
        // What came before the end is in the books, and passed on.
        let mut ended = Ok(());
        while !self.pauses() {
            match self.up.frames.next(cut.rest()) {
                Ok(None) => break,
                Ok(Some(Piece::Rest(rest))) if self.up.drops_rest => cut.drop(rest.len()),
                Ok(Some(Piece::Rest(rest))) => cut.keep(rest.len()),
                Ok(Some(Piece::Frame(frame))) => self.client_frame(&frame, &mut cut),
                Err(error) => {
                    ended = Err(End::ClientGarbled(error));
                    break;
                }
            }
        }
        let (edited, kept, unread) = cut.finish();
        self.up.unread = unread.to_vec();
        self.backlog = !unread.is_empty() && self.pauses();
        self.tell_gate();
        if self.commit == Commit::Asked {
            // `write_up` asks the gate first.
            self.up.put(&edited);
            self.up.put(kept);
        } else {
            self.up.pass([&edited, kept], server);
        }
        ended
    }

    /// Looks at `bytes` and what was left over, and passes on what may be.
    pub fn hear_server(&mut self, bytes: &[u8], client: &mut impl Receiver) -> Result<(), End> {
        self.bytes.sent += bytes.len() as u64;
        let mut held = std::mem::take(&mut self.down.unread);
        let mut cut = Cut::new(join(&mut held, bytes));
        // What came before the end is in the books, and passed on.
        let mut ended = Ok(());
        while ended.is_ok() {
            ended = match self.down.frames.next(cut.rest()) {
                Ok(None) => break,
                Ok(Some(Piece::Rest(rest))) => {
                    match self.down.drops_rest {
                        true => cut.drop(rest.len()),
                        false => cut.keep(rest.len()),
                    }
                    Ok(())
                }
                Ok(Some(Piece::Frame(frame))) if self.prelude.is_some() => {
                    self.prelude_frame(&frame, &mut cut)
                }
                Ok(Some(Piece::Frame(frame))) => self.server_frame(&frame, &mut cut),
                Err(error) => Err(End::ServerGarbled(error)),
            }
        }
        // The frame at which it ends goes nowhere.
        self.down.drops_rest |= ended.is_err();
        let (edited, kept, unread) = cut.finish();
        self.down.unread = unread.to_vec();
        self.tell_gate();
        self.down.pass([&edited, kept], client);
        ended
    }

    fn tell_gate(&mut self) {
        if self.commit != self.books.ledger.commit() {
            self.commit = self.books.ledger.commit();
            self.gate.set(self.commit);
        }
    }
}

/// Where the first request in `bytes` ends, which begin with a message.
fn request_end(bytes: &[u8]) -> Option<usize> {
    let mut framer = Framer::new(|_| 0);
    let (mut at, mut asked) = (0, false);
    while !asked || !framer.at_boundary() {
        match framer.next(&bytes[at..]).ok()?? {
            Piece::Frame(frame) if frame.tag == frontend::TERMINATE => return None,
            Piece::Frame(frame) => {
                asked = frames::asks(frame.tag);
                at += frame.bytes.len();
            }
            Piece::Rest(rest) => at += rest.len(),
        }
    }
    Some(at)
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
mod properties;
#[cfg(test)]
mod tests;
