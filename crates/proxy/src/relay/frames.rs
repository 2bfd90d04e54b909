//! One frame on its way: into the books, then kept, changed or left out.

use rand::random;
use wire::message::{Frame, Status, backend, frontend, put_frame};
use wire::startup::CancelKey;
use wire::{Commands, Effects, ErrorFields, OnSession};

use super::super::Counters;
use super::super::answers::Verdict;
use super::super::cancel::Target;
use super::super::lane::Cut;
use super::super::policy::{self, Change, Leaks};
use super::super::shares::Fate;
use super::repeat::{Heard, Turn, note_turn};
use super::{End, Relay};

/// Before a message's body: its type byte and its length.
const HEADER: usize = 5;

impl Relay {
    pub(super) fn client_frame(&mut self, frame: &Frame<'_>, cut: &mut Cut<'_>) {
        if let Some(repeat) = &mut self.repeat {
            repeat.client_sent(frame);
        }
        if self.turn == Turn::One && asks(frame.tag) {
            self.turn = Turn::Over;
        }
        let on_replica = self.is_on_replica();
        let text = policy::sql(frame).filter(|_| self.books.ledger.logged_in());
        let Some((start, sql, is_whole)) = text else {
            self.note_what_it_does(frame.tag, None);
            let books = &mut self.books;
            books.ties.client_sent(frame, None, &books.ledger);
            let shared = books.share_message(frame, None);
            books.ledger.client_sent(frame);
            self.up.drops_rest = false;
            return put(cut, frame, shared);
        };
        let mut effects = Effects::read(sql, !is_whole);
        self.note_what_it_does(frame.tag, Some(&effects.on_session));
        let books = &mut self.books;
        let refused = match (&effects.on_session, books.leaks) {
            (OnSession::Binds(why), _) if on_replica => Some(policy::refused_by_replica(frame, start, why)),
            (OnSession::Binds(why), Leaks::Refuse) if is_whole => {
                Some(policy::refused_as_leak(frame, start, why))
            }
            _ if !books.blocks && (!is_whole || Commands::read(sql, false).opens_anywhere) => {
                Some(policy::refused_as_block(frame, start))
            }
            _ => None,
        };
        let is_leak = matches!(effects.on_session, OnSession::Binds(_)) && is_whole;
        let is_allowed = is_leak && refused.is_none() && books.leaks == Leaks::Allow;
        if refused.is_some() || is_allowed {
            effects.on_session = OnSession::Nothing;
        }
        let leaves_nothing = effects.on_session == OnSession::Nothing;
        let (change, warns) = match refused {
            Some(bytes) => (Change::Refused(bytes), false),
            None => policy::change(books.policy, frame, start, &effects),
        };
        books.answers.client_asks(&effects);
        if warns {
            Counters::add(&self.counters.lowered_commits);
            if !books.answers.hides_warnings() {
                books.news.extend_from_slice(&policy::warning().encode());
            }
        }
        self.up.drops_rest = matches!(change, Change::Refused(_));
        match change {
            Change::None => {
                books.ties.client_sent(frame, Some(&effects), &books.ledger);
                let shared = books.share_message(frame, Some(&effects));
                if is_allowed && (frame.tag == frontend::QUERY || start == 1) {
                    // What it does to statements is not known.
                    books.forget_statements();
                }
                put(cut, frame, shared);
            }
            Change::Edited(bytes) | Change::Refused(bytes) => {
                // As it will be found in the books of the server: with the rest of what was edited, which is to come.
                let (length, head) = match self.up.drops_rest {
                    true => (bytes.len() - HEADER, bytes.len() - HEADER),
                    false => {
                        let longer = |old: usize| old + bytes.len() - frame.bytes.len();
                        (longer(frame.length as usize), longer(frame.head.len()))
                    }
                };
                let head = &bytes[HEADER..HEADER + head];
                let as_sent = Frame { length: length as u32, head, bytes: &bytes, ..*frame };
                books.ties.client_sent(&as_sent, Some(&effects), &books.ledger);
                // A SET is not shared, though its answer is awaited; what says why something else is refused may be.
                let shared = books.share_message(&as_sent, Some(&effects).filter(|_| leaves_nothing));
                cut.drop(frame.bytes.len());
                cut.insert(shared.as_deref().unwrap_or(&bytes));
            }
        }
        books.ledger.client_sent(frame);
    }

    pub(super) fn server_frame(&mut self, frame: &Frame<'_>, cut: &mut Cut<'_>) -> Result<(), End> {
        if frame.tag == backend::KEY_DATA
            && let Some(key) = CancelKey::parse(frame.head)
        {
            self.gate.point_to(Target::new(&self.address, frame.head));
            self.server_key = frame.head.to_vec();
            if self.hides_key && !frame.is_cut() {
                let body = own_key(key);
                if let Some(own) = CancelKey::parse(&body) {
                    self.key = Some(self.cancels.register(own, &self.gate));
                }
                cut.drop(frame.bytes.len());
                let mut message = Vec::new();
                put_frame(&mut message, frame.tag, &body);
                cut.insert(&message);
                return Ok(());
            }
            self.key = Some(self.cancels.register(key, &self.gate));
        }
        // At a switchover also who cannot be moved hears why from the proxy.
        let hears_why = self.hold || self.books.ties.bound().is_none();
        if is_end_by_shutdown(frame) && self.at_boundary() && hears_why {
            self.books.last_words = frame.bytes.to_vec();
            cut.drop(frame.bytes.len());
            return Ok(());
        }
        let books = &mut self.books;
        if frame.tag == backend::PARSE_COMPLETE {
            books.ledger.server_parsed();
        }
        let request = books.ledger.running();
        let told = match &books.shares {
            Some(shares) if frame.tag == backend::ERROR_RESPONSE => shares.in_own_words(frame),
            _ => None,
        };
        let fate = books.shares.as_mut().map_or(Fate::Keep, |shares| shares.server_sent(frame, request));
        let bytes;
        let frame = match fate {
            Fate::Keep => frame,
            Fate::Drop => {
                self.down.drops_rest = true;
                cut.drop(frame.bytes.len());
                return Ok(());
            }
            Fate::Becomes(tag) => {
                bytes = [&[tag], &frame.bytes[1..]].concat();
                &Frame { tag, bytes: &bytes, ..*frame }
            }
        };
        books.ledger.server_sent(frame);
        if frame.tag == backend::READY_FOR_QUERY {
            note_turn(&mut self.turn, Status::parse(frame.head));
        }
        books.tie(frame, request);
        if !books.news.is_empty() && books.ledger.logged_in() {
            cut.insert(&std::mem::take(&mut books.news));
        }
        let mut verdict = books.answers.server_sent(frame);
        match self.repeat.as_mut().map_or(Heard::Pass, |repeat| repeat.server_sent(frame)) {
            Heard::Pass => {}
            Heard::Hide => verdict = Verdict::Drop,
            Heard::Differs => return Err(End::NotLaid("what it reads has changed meanwhile".to_owned())),
        }
        self.down.drops_rest = matches!(verdict, Verdict::Drop | Verdict::Unacknowledged(_));
        match verdict {
            Verdict::Pass => {
                put(cut, frame, told.or(matches!(fate, Fate::Becomes(_)).then(|| frame.bytes.to_vec())))
            }
            Verdict::Drop => cut.drop(frame.bytes.len()),
            Verdict::Unacknowledged(error) => {
                Counters::add(&self.counters.unacknowledged);
                tracing::warn!(
                    address = %self.address,
                    "a wait for synchronous replication was cancelled; the client is told that the outcome is unknown (08007)"
                );
                cut.drop(frame.bytes.len());
                cut.insert(&error);
            }
            Verdict::Terminated => {
                books.ledger.doubt();
                cut.keep(frame.bytes.len());
            }
            Verdict::Stuck => return Err(End::Stuck),
        }
        Ok(())
    }
}

/// The message asks for an answer up to ReadyForQuery.
pub fn asks(tag: u8) -> bool {
    matches!(tag, frontend::QUERY | frontend::SYNC | frontend::FUNCTION_CALL)
}

/// Passes the frame on, or `instead`.
fn put(cut: &mut Cut<'_>, frame: &Frame<'_>, instead: Option<Vec<u8>>) {
    match instead {
        None => cut.keep(frame.bytes.len()),
        Some(bytes) => {
            cut.drop(frame.bytes.len());
            cut.insert(&bytes);
        }
    }
}

/// The body of a key that only this proxy knows: as long as the server's, so that a driver that takes no long one is given none.
fn own_key(key: CancelKey<'_>) -> Vec<u8> {
    let secret = key.secret.iter().map(|_| random::<u8>());
    key.pid.to_be_bytes().into_iter().chain(secret).collect()
}

/// What PostgreSQL says when it ends a session of its own accord: it shuts down, another process of it has crashed,
/// or somebody has called `pg_terminate_backend`.
fn is_end_by_shutdown(frame: &Frame<'_>) -> bool {
    if frame.tag != backend::ERROR_RESPONSE || frame.is_cut() {
        return false;
    }
    let fields = ErrorFields::new(frame.head);
    fields.is_fatal() && matches!(fields.sqlstate(), Some(b"57P01" | b"57P02" | b"57P03"))
}
