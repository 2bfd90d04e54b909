//! What a worker has, told to who asks.
//!
//! What it is: a copy of one moment, made on the worker's own thread. What it is not: cheap enough for each transaction; people and
//! exporters ask a few times a minute.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::tally::{Owner, Tally};

/// One worker at one moment.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub sessions: Vec<SessionReport>,
    pub servers: Vec<ServerReport>,
    pub tallies: Vec<(Owner, Tally)>,
}

/// Ids of one worker begin here, so that those of all differ.
fn first_id(worker: usize) -> u64 {
    (worker as u64) << 48
}

/// Which worker has given this id, and as what.
pub fn split_id(id: u64) -> (usize, u64) {
    ((id >> 48) as usize, id & (first_id(1) - 1))
}

impl Report {
    /// Takes in what the worker of this number has told.
    pub(super) fn add(&mut self, worker: usize, mut more: Report) {
        let first = first_id(worker);
        for session in &mut more.sessions {
            session.id += first;
            session.server = session.server.map(|server| server + first);
        }
        for server in &mut more.servers {
            server.id += first;
            server.session = server.session.map(|session| session + first);
        }
        self.sessions.append(&mut more.sessions);
        self.servers.append(&mut more.servers);
        for (owner, tally) in more.tallies {
            match self.tallies.iter_mut().find(|(known, _)| *known == owner) {
                Some((_, known)) => known.merge(&tally),
                None => self.tallies.push((owner, tally)),
            }
        }
    }
}

/// What a session does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    /// It has a server, or wants none.
    Active,
    /// It wants one and has none.
    Waiting,
    /// It is not logged in yet.
    LoggingIn,
}

#[derive(Clone, Debug)]
pub struct SessionReport {
    /// Names the session on this proxy for as long as it lives.
    pub id: u64,
    pub owner: Owner,
    pub activity: Activity,
    pub replication: bool,
    pub client: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    pub connected: Instant,
    pub waits_since: Option<Instant>,
    /// The id of its server.
    pub server: Option<u64>,
    pub application_name: String,
    pub tls: String,
}

#[derive(Clone, Debug)]
pub struct ServerReport {
    pub id: u64,
    pub owner: Owner,
    /// Some session has it.
    pub session: Option<u64>,
    pub node: String,
    pub address: Arc<str>,
    pub local: Option<SocketAddr>,
    pub opened: Instant,
    /// Of the server's process; 0 when it did not say.
    pub pid: u32,
    pub prepared: usize,
    pub application_name: String,
    pub tls: String,
}
