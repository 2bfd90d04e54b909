//! What is known of one session, apart from its bytes.
//!
//! What it is: the books that the relay keeps while frames pass, and the session reads when it must decide. What it is
//! not: any of their rules.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use wire::Effects;
use wire::message::Frame;

use super::Counters;
use super::answers::Answers;
use super::ledger::Ledger;
use super::policy::{Leaks, LoweredCommit};
use super::shares::{Registry, Shares, State};
use super::ties::{Reads, Ties};

#[derive(Debug)]
pub struct Books {
    pub ledger: Ledger,
    pub ties: Ties,
    pub answers: Answers,
    /// Of a session that gives its server back.
    pub shares: Option<Box<Shares>>,
    pub policy: LoweredCommit,
    pub leaks: Leaks,
    /// The client may open transaction blocks.
    pub blocks: bool,
    /// For the client, before the next message of the server.
    pub news: Vec<u8>,
    /// The server has ended an idle session that can be moved, with this message, which the client has not seen.
    pub last_words: Vec<u8>,
}

impl Books {
    pub fn new(replication: bool, hides_warnings: bool, policy: LoweredCommit) -> Books {
        Books {
            ledger: Ledger::new(replication),
            ties: Ties::new(replication),
            answers: Answers::new(hides_warnings),
            shares: None,
            policy,
            leaks: Leaks::Pin,
            blocks: true,
            news: Vec::new(),
            last_words: Vec::new(),
        }
    }

    /// A message of the client, before the ledger knows of it: what goes to the server in its place, when that is something
    /// else.
    pub fn share_message(&mut self, frame: &Frame<'_>, effects: Option<&Effects>) -> Option<Vec<u8>> {
        let Books { shares, ties, ledger, .. } = self;
        let shares = shares.as_mut().filter(|_| ledger.logged_in())?;
        let reads = if shares.is_read(frame) { ties.reads() } else { Reads::default() };
        let state = State {
            request: ledger.next(),
            reads,
            may_have_failed: ledger.has_failed() || ledger.running() < ledger.next(),
            unnamed: ties.unnamed(),
            keeps_server: ties.bound().is_some(),
        };
        let instead = shares.client_sent(frame, effects, &state);
        if std::mem::take(&mut shares.names_on_server) {
            ties.bind_by_name();
        }
        instead
    }

    /// Nobody knows which statements the server has.
    pub fn forget_statements(&mut self) {
        if let Some(shares) = &mut self.shares {
            shares.forget();
        }
    }

    /// A message of the server, after the ledger and the statements know of it.
    pub fn tie(&mut self, frame: &Frame<'_>, request: u64) {
        self.ties.server_sent(frame, request);
        let has_names = self.shares.as_ref().is_some_and(|shares| shares.has_names());
        if self.ties.take_read_anew() && has_names {
            self.ties.bind_by_reading();
        }
    }

    /// From now on named statements are those that all sessions share; for what cannot be carried along there is a policy.
    pub fn share(&mut self, registry: &Arc<Registry>, leaks: Leaks, blocks: bool) {
        (self.leaks, self.blocks) = (leaks, blocks);
        self.shares = Some(Box::new(Shares::new(registry)));
        self.ties.leave_statements();
    }
}

/// Counts a session while it is parked.
#[derive(Debug)]
pub struct Parking {
    counters: Arc<Counters>,
    parked: bool,
}

impl Parking {
    pub fn new(counters: &Arc<Counters>) -> Parking {
        Parking { counters: Arc::clone(counters), parked: false }
    }

    pub fn set(&mut self, parked: bool) {
        match (self.parked, parked) {
            (false, true) => self.counters.parked.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.counters.parked.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
        self.parked = parked;
    }
}

impl Drop for Parking {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// Counts a session for as long as a server is looked for on its behalf.
#[derive(Debug)]
pub struct Seeking {
    counters: Arc<Counters>,
}

impl Seeking {
    pub fn new(counters: &Arc<Counters>) -> Seeking {
        counters.seeking.fetch_add(1, Ordering::Relaxed);
        Seeking { counters: Arc::clone(counters) }
    }
}

impl Drop for Seeking {
    fn drop(&mut self) {
        self.counters.seeking.fetch_sub(1, Ordering::Relaxed);
    }
}
