//! How a session loses its server, and what its client hears of that.
//!
//! Invariant: the connection to the server is closed before anything else is done; the client is told at a message boundary
//! or not at all.

use std::time::{Duration, Instant};

use super::{Around, FAREWELL_TIMEOUT, Phase, Session};
use crate::backend::Role;
use crate::lane::Lane;
use crate::ledger::{Loss, backend_wanted};
use crate::refusal::{CutCause, Refusal};
use crate::relay::End;
use crate::{Counters, Shared, Stage};

/// For a server to finish what a client asked and did not wait for, as it would without a proxy.
const LINGER: Duration = Duration::from_secs(10);

/// Servers in a row that could not be made ready.
const VAIN_MAX: u8 = 3;

impl Session {
    pub(super) fn ended(&mut self, end: End, around: &mut Around<'_>) -> bool {
        let node = match &self.phase {
            Phase::Relaying { server, .. } => server.choice.backend.node.clone(),
            _ => String::new(),
        };
        let cause = match end {
            End::ClientLeft => return self.linger(around),
            End::ClientGarbled(error) => {
                self.lose_server(around);
                return self.leave(
                    Vec::new(),
                    &Refusal::Protocol(error.to_string()).response().encode(),
                    around,
                );
            }
            End::NotNow(reason) if self.vain < VAIN_MAX && self.pool.is_some() => {
                tracing::debug!(
                    node,
                    reason,
                    "a server could not be made ready for a session; another one is taken"
                );
                self.vain += 1;
                self.lose_server(around);
                self.phase = Phase::Resting;
                return self.rest(around);
            }
            End::NotLaid(reason) | End::NotNow(reason) => {
                self.lose_server(around);
                return self.strand(&Refusal::cut(CutCause::NotTaken { node, reason }), around);
            }
            End::ServerGarbled(error) => CutCause::ServerGarbled { node, error: error.to_string() },
            End::ServerLeft => CutCause::ServerClosed { node },
            End::Stuck => CutCause::Stuck,
            End::Drained => CutCause::Shutdown,
        };
        self.cut(cause, around)
    }

    /// The server is closed; then the session goes on without it, or is told why not.
    pub(super) fn cut(&mut self, cause: CutCause, around: &mut Around<'_>) -> bool {
        let Phase::Relaying { server, .. } = &self.phase else { return true };
        let running = *around.shared.stage.borrow() < Stage::Draining;
        let goes_on = cause.leaves_room() && running;
        let was = server.choice.clone();
        let has_room = goes_on && (was.role == Role::Primary || self.pool.is_some());
        let movable = has_room && self.relay.is_movable();
        let asks_again = goes_on && self.pool.is_some() && self.relay.loses_read();
        self.lose_server(around);
        if asks_again {
            self.relay.forgive();
            self.relay.books.last_words.clear();
            self.ask_again(around);
            self.phase = Phase::Resting;
            return self.rest(around);
        }
        if movable && self.pool.is_some() {
            self.relay.books.last_words.clear();
            self.phase = Phase::Resting;
            return self.rest(around);
        }
        if movable {
            self.search(Some(was), None, around);
            return self.keep_early(around);
        }
        let books = &self.relay.books;
        let between = self.relay.at_boundary() && books.ledger.logged_in();
        let cause = match books.ties.bound().filter(|_| has_room && between) {
            Some(why) => CutCause::Bound { cause: Box::new(cause), why },
            None => cause,
        };
        count_cut(around.shared, &cause);
        // What ran on a replica has committed nothing.
        let loss = match self.relay.loss() {
            Loss::Unknown if was.role == Role::Replica => Loss::OpenTransaction,
            loss => loss,
        };
        self.part(&Refusal::Cut { cause, loss }, around)
    }

    /// Closes the connection to the server.
    pub(super) fn lose_server(&mut self, around: &mut Around<'_>) {
        self.relay.lose_server();
        // Whatever comes next takes its place.
        let last = Phase::Leaving { last: Lane::new(backend_wanted), until: Instant::now() };
        if let Phase::Relaying { server, .. } = std::mem::replace(&mut self.phase, last) {
            self.end_turn(server.choice.role, around.shared);
            around.pools.end(server, around.again);
        }
    }

    /// Tells the client, whose server is closed, what that means for it.
    pub(super) fn part(&mut self, refusal: &Refusal, around: &mut Around<'_>) -> bool {
        self.part_with(&refusal.response().encode(), around)
    }

    pub(super) fn part_with(&mut self, last: &[u8], around: &mut Around<'_>) -> bool {
        if !self.relay.client_hears_whole() || self.relay.books.ledger.end_is_explained() {
            return false;
        }
        let waiting = self.relay.down.take_waiting();
        self.leave(waiting, last, around)
    }

    pub(super) fn leave(&mut self, before: Vec<u8>, last: &[u8], around: &mut Around<'_>) -> bool {
        let mut lane = Lane::new(backend_wanted);
        lane.put(&before);
        lane.put(last);
        self.phase = Phase::Leaving { last: lane, until: Instant::now() + FAREWELL_TIMEOUT };
        self.step(around)
    }

    pub(super) fn linger(&mut self, around: &mut Around<'_>) -> bool {
        let ended = Phase::Leaving { last: Lane::new(backend_wanted), until: Instant::now() };
        let Phase::Relaying { mut server, .. } = std::mem::replace(&mut self.phase, ended) else {
            return false;
        };
        server.socket.close_writing();
        self.phase = Phase::Lingering { server, until: Instant::now() + LINGER };
        self.step(around)
    }
}

fn count_cut(shared: &Shared, cause: &CutCause) {
    let by_server =
        matches!(cause, CutCause::ServerClosed { .. } | CutCause::ServerGarbled { .. } | CutCause::Shutdown);
    if !by_server {
        Counters::add(&shared.counters.cuts);
    }
}
