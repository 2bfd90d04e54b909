//! A session's servers, one after the other: taking one up, making it ready, and giving it back.
//!
//! Invariants: a server is given back only when nothing of the session is under way there, no cancel can still hit it, and what
//! the session has laid on it is known. Nothing of a session reaches a server that is not yet as the session left its last one.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use wire::message::{Frame, Framer, backend, frontend};
use wire::{ErrorFields, ErrorResponse, Severity};

use super::super::cancel::{Released, Target};
use super::super::lane::Cut;
use super::super::ledger::backend_wanted;
use super::super::shares::Prepared;
use super::super::ties::{Laid, Parameters, Prelude, note_parameter, reported};
use super::{End, Relay, UNREAD_MAX};

/// What a session without a server makes of its client's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wants {
    /// There is no whole message yet.
    More,
    Server,
    /// The client says good-bye.
    Nothing,
    /// This is no message.
    Garbage,
}

/// Before a message's body: its type byte and its length.
const HEADER: usize = 5;

impl Relay {
    /// The session's server is gone. What it had not said to its end is, too.
    pub fn lose_server(&mut self) {
        self.gate.forget();
        self.up.broken = false;
        self.down.unread = Vec::new();
        self.down.drops_rest = false;
        if self.prelude.take().is_some() {
            // What was to make it ready is for no other, and the rest of its answer will not come.
            self.up.take_waiting();
            self.down.frames = Framer::new(backend_wanted);
        }
        if let Some(shares) = &mut self.books.shares {
            shares.lose_server();
        }
    }

    /// The unnamed statement that is on the server, if any, is this session's.
    pub fn leaves_its_unnamed(&self) -> bool {
        self.books.shares.as_ref().is_some_and(|shares| shares.unnamed_is_own)
    }

    /// Goes on with a server that is as the old one was.
    pub fn take_up(&mut self, target: Target, parameters: Arc<Parameters>) {
        self.point_to(target);
        let news = self.books.ties.adopt_parameters(parameters);
        self.down.put(&news);
        self.books.last_words.clear();
    }

    fn point_to(&mut self, target: Target) {
        self.server_key.clear();
        self.address = Arc::clone(target.address());
        self.gate.point_to(target);
    }

    /// The statements of the server that the session has, put in or taken out with it.
    pub fn prepared(&mut self) -> Option<&mut Prepared> {
        self.books.shares.as_mut().map(|shares| &mut shares.prepared)
    }

    /// Goes on with a server on which `found` lies; `is_own`: nobody else has used it since this session did. What the server
    /// needs first is put into the lane, and the client's messages wait until it is answered.
    pub fn borrow(&mut self, target: Target, parameters: Arc<Parameters>, found: &Laid, is_own: bool) {
        if let Some(shares) = &mut self.books.shares {
            shares.find_unnamed(is_own);
        }
        let replay = self.books.ties.transition(found);
        if replay.answers == 0 {
            return self.take_up(target, parameters);
        }
        self.point_to(target);
        self.up.put(&replay.bytes);
        // A text that is run makes the server forget its unnamed statement, and this session's is to be prepared there anew.
        if let Some(shares) = &mut self.books.shares {
            shares.find_unnamed(false);
        }
        self.prelude = Some(Box::new(Prelude {
            answers_due: replay.answers,
            before_settings: usize::from(!found.is_empty()),
            answered: 0,
            refused: Vec::new(),
            parameters,
        }));
    }

    /// Of what the client has sent and no server has got: what waits, and `bytes` behind it.
    fn byte(&self, bytes: &[u8], at: usize) -> Option<u8> {
        let unread = &self.up.unread;
        unread.get(at).or_else(|| bytes.get(at.checked_sub(unread.len())?)).copied()
    }

    pub(super) fn prelude_frame(&mut self, frame: &Frame<'_>, cut: &mut Cut<'_>) -> Result<(), End> {
        cut.drop(frame.bytes.len());
        self.down.drops_rest = true;
        let Some(prelude) = &mut self.prelude else { return Ok(()) };
        match frame.tag {
            backend::ERROR_RESPONSE => {
                let fields = ErrorFields::new(frame.head);
                if fields.is_fatal() {
                    return Err(End::ServerLeft);
                }
                let message = String::from_utf8_lossy(fields.message().unwrap_or_default());
                // A limit that somebody has left there, a cancel, a lack of memory: none of the setting's doing.
                if !matches!(fields.sqlstate(), Some([b'2', b'2', ..] | [b'4', b'2', ..])) {
                    return Err(End::NotNow(message.into_owned()));
                }
                let place = prelude.answered.checked_sub(prelude.before_settings);
                let Some(place) = place.filter(|_| !self.books.ties.is_somebody_else()) else {
                    return Err(End::NotLaid(message.into_owned()));
                };
                prelude.refused.push(place);
                self.books.news.extend_from_slice(&not_carried(&message));
            }
            backend::PARAMETER_STATUS => {
                if let Some((name, value)) = reported(frame.head) {
                    note_parameter(&mut prelude.parameters, name, value);
                }
            }
            backend::READY_FOR_QUERY => {
                prelude.answers_due -= 1;
                prelude.answered += 1;
                if prelude.answers_due == 0
                    && let Some(prelude) = self.prelude.take()
                {
                    self.down.drops_rest = false;
                    self.books.ties.forget_settings(&prelude.refused);
                    let news = self.books.ties.adopt_parameters(prelude.parameters);
                    cut.insert(&news);
                    self.books.last_words.clear();
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What the client wants that has sent `bytes`, behind what waits.
    pub fn wants(&self, bytes: &[u8]) -> Wants {
        let header: [Option<u8>; HEADER] = std::array::from_fn(|at| self.byte(bytes, at));
        let [Some(tag), Some(a), Some(b), Some(c), Some(d)] = header else { return Wants::More };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let there = self.up.unread.len() + bytes.len();
        match tag {
            _ if !(4..=i32::MAX as usize).contains(&length) => Wants::Garbage,
            frontend::TERMINATE => Wants::Nothing,
            // What is too long to be kept goes on as it comes.
            _ if there > length || length >= UNREAD_MAX => Wants::Server,
            _ => Wants::More,
        }
    }

    /// True when nothing keeps the session with its server: it may have another for what comes next.
    pub fn may_part(&self) -> bool {
        self.is_movable()
            && self.prelude.is_none()
            && self.down.unread.is_empty()
            && self.books.last_words.is_empty()
            && !self.up.broken
    }

    /// Parts from the server: how clean it is. A cancel that is under way is waited for; its end wakes `waker`.
    pub fn poll_part(&self, waker: &Waker) -> Poll<Released> {
        self.gate.poll_release(&mut Context::from_waker(waker))
    }

    /// The key of the server process that let the client in; once.
    pub fn take_server_key(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.server_key)
    }
}

/// What the setting named is no more, for instance.
fn not_carried(why: &str) -> Vec<u8> {
    let warning = ErrorResponse {
        severity: Severity::Warning,
        sqlstate: "01000",
        message: "a setting of this session could not be carried to its next server".to_owned(),
        detail: format!("PostgreSQL says: {why}."),
        hint: "Set it anew.".to_owned(),
    };
    warning.encode()
}
