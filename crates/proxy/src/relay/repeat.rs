//! A read that is asked once more, of another server, when its own fails it before the answer has begun.
//!
//! What it is: a copy of the request while nothing of its answer has reached the client but what comes again, and those
//! messages counted. What it is not: a second try of anything that may have done something: the session begins it for requests
//! that are reads by every text in them, outside of a transaction block. Invariant: what the client sees of two answers is one.

use std::hash::{DefaultHasher, Hasher};

use wire::message::{Frame, Status, backend, frontend};
use wire::{ErrorFields, OnSession};

use super::Relay;
use crate::routes::names;

/// Servers that are asked one request.
const TRIES_MAX: u8 = 3;

/// Why the same is to be asked again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failed {
    /// The replica does not run such a thing.
    Refused,
    /// It did not run it this time, and another might not either.
    NotThere,
    /// The server is gone.
    Lost,
}

/// How much of the client may follow on the server that the session has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Turn {
    #[default]
    Any,
    /// One request: the next may be another server's.
    One,
    /// None any more.
    Over,
}

/// The request under way, of a session whose reads go elsewhere than its writes.
#[derive(Debug, Default)]
pub struct Repeat {
    /// Its answer has not begun.
    open: bool,
    /// The turn has held nothing so far but SET and RESET.
    sets_only: bool,
    on_replica: bool,
    request: Vec<u8>,
    /// Messages that the client has got and that a second answer begins with again.
    passed: Vec<Again>,
    /// How many of these this answer has begun with.
    skipped: usize,
    failed: Option<Failed>,
    tries: u8,
}

/// Such a message: by a replica's own bytes, which those of another are the same as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Again {
    tag: u8,
    digest: u64,
}

/// What becomes of a message of the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    Pass,
    Hide,
    /// The second answer is another one than that of which the client has the beginning.
    Differs,
}

impl Repeat {
    /// A read is about to be asked, of a replica or not.
    pub fn begin(&mut self, on_replica: bool) {
        (self.open, self.on_replica, self.skipped, self.failed) = (true, on_replica, 0, None);
        self.request.clear();
    }

    /// Something that is not asked twice.
    pub fn end(&mut self) {
        *self = Repeat { on_replica: self.on_replica, ..Repeat::default() };
    }

    pub fn client_sent(&mut self, frame: &Frame<'_>) {
        if self.open && self.on_replica {
            self.request.extend_from_slice(frame.bytes);
        }
    }

    pub fn server_sent(&mut self, frame: &Frame<'_>) -> Heard {
        if !self.open {
            return Heard::Pass;
        }
        match frame.tag {
            backend::NOTICE_RESPONSE | backend::PARAMETER_STATUS | backend::NOTIFICATION => Heard::Pass,
            _ if self.failed.is_some() => Heard::Hide,
            tag if comes_again(tag) => self.comes(frame),
            backend::ERROR_RESPONSE => {
                let error = ErrorFields::new(frame.head);
                self.failed = failed(&error).filter(|_| self.may_fail());
                if self.failed.is_some() {
                    return Heard::Hide;
                }
                self.end();
                Heard::Pass
            }
            _ if self.skipped < self.passed.len() => Heard::Differs,
            _ => {
                self.end();
                Heard::Pass
            }
        }
    }

    fn comes(&mut self, frame: &Frame<'_>) -> Heard {
        let again = Again { tag: frame.tag, digest: digest(frame.bytes) };
        if let Some(passed) = self.passed.get(self.skipped) {
            self.skipped += 1;
            return if *passed == again { Heard::Hide } else { Heard::Differs };
        }
        if frame.is_cut() {
            // It cannot be compared with a second one.
            self.end();
            return Heard::Pass;
        }
        self.passed.push(again);
        self.skipped += 1;
        Heard::Pass
    }

    /// Only a replica is sure to have done nothing.
    fn may_fail(&self) -> bool {
        self.on_replica && self.tries + 1 < TRIES_MAX
    }

    /// Why the request is to be asked again, if it is.
    pub fn failed(&self) -> Option<Failed> {
        self.failed.filter(|_| self.open && !self.request.is_empty())
    }

    /// The server is gone; `true` when the request may be asked again.
    pub fn lose(&mut self) -> bool {
        if self.open && self.failed.is_none() && self.may_fail() {
            self.failed = Some(Failed::Lost);
        }
        self.failed().is_some()
    }

    fn parsed(&self) -> usize {
        self.passed.iter().filter(|passed| passed.tag == backend::PARSE_COMPLETE).count()
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// What PostgreSQL sends before the answer proper, for each message of the client.
fn comes_again(tag: u8) -> bool {
    matches!(
        tag,
        backend::PARSE_COMPLETE
            | backend::BIND_COMPLETE
            | backend::CLOSE_COMPLETE
            | backend::PARAMETER_DESCRIPTION
            | backend::NO_DATA
            | backend::ROW_DESCRIPTION
    )
}

/// What a replica's error says.
fn failed(error: &ErrorFields<'_>) -> Option<Failed> {
    match error.sqlstate()? {
        // It has crashed, or ends the session for the sake of replay. 57P01 may be `pg_terminate_backend`: somebody wants an end.
        b"57P02" | b"57P03" | b"40001" if error.is_fatal() => Some(Failed::Lost),
        _ if error.is_fatal() => None,
        // A statement that was prepared before its table changed.
        b"0A000" if error.get(b'R') == Some(b"RevalidateCachedQuery") => Some(Failed::NotThere),
        // It writes after all, or reads what no replica has.
        b"25006" | b"0A000" => Some(Failed::Refused),
        // A conflict with what is replayed.
        b"40001" | b"40P01" => Some(Failed::NotThere),
        // What was made a moment ago may not have come there: schema, table, column, function, object.
        b"3F000" | b"42P01" | b"42703" | b"42883" | b"42704" => Some(Failed::NotThere),
        _ => None,
    }
}

impl Relay {
    /// The session's requests may go to different servers, one at a time.
    pub fn take_turns(&mut self) {
        self.repeat = Some(Box::default());
        self.books.ties.hide_standby();
    }

    /// The server that the session is given now is for its next request only, which is a read, or for whatever comes.
    pub fn begin_turn(&mut self, reads: bool, on_replica: bool) {
        let Some(repeat) = &mut self.repeat else { return };
        match reads {
            true => repeat.begin(on_replica),
            false => repeat.end(),
        }
        (repeat.on_replica, repeat.sets_only) = (on_replica, true);
        self.turn = if reads { Turn::One } else { Turn::Any };
    }

    /// Nothing can have been written since the turn began.
    pub fn has_only_set(&self) -> bool {
        self.repeat.as_ref().is_some_and(|repeat| repeat.sets_only)
    }

    pub(super) fn note_what_it_does(&mut self, tag: u8, on_session: Option<&OnSession>) {
        let Some(repeat) = &mut self.repeat else { return };
        let sets = tag == frontend::QUERY && matches!(on_session, Some(OnSession::Sets { .. }));
        repeat.sets_only &= sets || tag == frontend::SYNC;
    }

    pub(super) fn is_on_replica(&self) -> bool {
        self.repeat.as_ref().is_some_and(|repeat| repeat.on_replica)
    }

    /// The turn is over, but something keeps the session with its server. With a primary it may stay; `true` when it does so from
    /// now on.
    pub fn stays_with_primary(&mut self) -> bool {
        let stays = self.is_kept() && !self.is_on_replica();
        if stays {
            self.turn = Turn::Any;
        }
        stays
    }

    /// As before, and the server is a replica, which its next request may not go to.
    pub fn is_kept_in_vain(&self) -> bool {
        self.is_kept() && self.is_on_replica()
    }

    fn is_kept(&self) -> bool {
        self.turn == Turn::Over && self.at_boundary() && self.books.ties.bound().is_some()
    }

    /// A read is to be asked again once the session has left its server.
    pub fn has_failed_read(&self) -> bool {
        self.repeat.as_ref().is_some_and(|repeat| repeat.failed().is_some())
    }

    /// The session has lost its server under a request that may be asked again.
    pub fn loses_read(&mut self) -> bool {
        self.client_at_boundary() && self.repeat.as_mut().is_some_and(|repeat| repeat.lose())
    }

    /// What the lost server was asked counts as failed.
    pub fn forgive(&mut self) {
        let books = &mut self.books;
        let request = books.ledger.running();
        let error = Frame { tag: backend::ERROR_RESPONSE, length: 1, head: &[0], bytes: b"E\0\0\0\x05\0" };
        let ready = Frame { tag: backend::READY_FOR_QUERY, length: 1, head: b"I", bytes: b"Z\0\0\0\x05I" };
        for frame in [error, ready] {
            books.ledger.server_sent(&frame);
            books.ties.server_sent(&frame, request);
            books.answers.server_sent(&frame);
        }
        self.up.take_waiting();
        self.tell_gate();
    }

    /// Puts the request before whatever the client has sent since; why it failed. `None`: there is none to be asked again.
    pub fn ask_again(&mut self) -> Option<Failed> {
        let repeat = self.repeat.as_mut()?;
        let failed = repeat.failed()?;
        let request = std::mem::take(&mut repeat.request);
        (repeat.open, repeat.failed) = (false, None);
        repeat.tries = if failed == Failed::Refused { TRIES_MAX } else { repeat.tries + 1 };
        if let Some(shares) = &mut self.books.shares {
            let given = names(&request).into_iter().take(repeat.parsed());
            given.flatten().for_each(|name| shares.forget_name(&name));
        }
        let later = std::mem::replace(&mut self.up.unread, request);
        self.up.unread.extend_from_slice(&later);
        self.backlog = true;
        Some(failed)
    }
}

/// The server has answered: within a block the session stays, request by request.
pub(super) fn note_turn(turn: &mut Turn, status: Option<Status>) {
    if *turn == Turn::Over && status != Some(Status::Idle) {
        *turn = Turn::One;
    }
}
