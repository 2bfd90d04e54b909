//! What a client is told when its session cannot begin or cannot go on.
//!
//! What it is: the one place that chooses SQLSTATEs and words: what happened, why, what to type next.
//! Invariant: 40001 is said only when nothing can have been committed; drivers retry on it by themselves.

use std::time::Duration;

use wire::{ErrorResponse, Severity};

use super::Port;
use super::auth::denial::Denial;
use super::ceilings::Crowd;
use super::ledger::Loss;
use super::policy;
use super::time_limits::Overdue;

/// Why there is no primary while sessions are parked.
pub const HELD: &str = "A switchover is under way.";
const STATUS_HINT: &str = "Run \"pgherd status\" to see the cluster.";

/// Why there is no session, or none any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    TooManySessions {
        sessions_max: usize,
    },
    QueueFull {
        port: Port,
        queue_max: usize,
        reason: String,
    },
    QueueTimeout {
        port: Port,
        waited: Duration,
        reason: String,
        last_error: Option<String>,
    },
    /// All servers of its pool were others'.
    PoolTimeout {
        waited: Duration,
        pool_size: usize,
    },
    /// A user, a database or all together have as many as they may.
    Crowded {
        /// Server connections or sessions.
        what: &'static str,
        crowd: Crowd,
        limit: usize,
    },
    /// Writes go to another cluster.
    StandbyCluster {
        port: Port,
        reason: String,
    },
    Protocol(String),
    /// The client has not proven to be who it says.
    Denied(Denial),
    /// The session is in clear, and this proxy takes none.
    Unencrypted(Denial),
    /// SCRAM with the server could be bound to its TLS connection, which is not the client's.
    Unbindable,
    /// The start-up packet lowers `synchronous_commit`, and the cluster forbids it.
    LoweredCommit,
    /// It has taken longer than it may.
    Overdue {
        overdue: Overdue,
        limit: Duration,
        loss: Loss,
    },
    Cut {
        cause: CutCause,
        loss: Loss,
    },
}

/// Why a server connection was taken away from its session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CutCause {
    /// The cluster has a primary of a higher term, or is choosing one.
    Takeover {
        node: String,
        term_was: u64,
        term: u64,
    },
    /// The primary of this term may not serve at present.
    PrimaryClosed {
        node: String,
        reason: String,
    },
    ReplicaGone {
        node: String,
    },
    /// The server closed the connection without a word.
    ServerClosed {
        node: String,
    },
    /// The server's bytes are no PostgreSQL messages.
    ServerGarbled {
        node: String,
        error: String,
    },
    /// The session was between two transactions, but has what only its old server had.
    Bound {
        /// What took the old server away.
        cause: Box<CutCause>,
        why: &'static str,
    },
    /// The session was to go on with this server, which did not take it.
    NotTaken {
        node: String,
        reason: String,
    },
    /// The server ended the log-in half way.
    LoginBroken {
        node: String,
        why: &'static str,
    },
    /// No primary came for a session that was to be moved.
    Stranded {
        waited: Duration,
        reason: String,
    },
    /// A statement of which the outcome is unknown is followed by one that wants data.
    Stuck,
    /// Nobody publishes the topology any more.
    AgentGone,
    /// By the console.
    Killed,
    Shutdown,
}

impl Refusal {
    /// Of a session that loses nothing by it.
    pub fn cut(cause: CutCause) -> Refusal {
        Refusal::Cut { cause, loss: Loss::Nothing }
    }

    pub fn response(&self) -> ErrorResponse {
        let (sqlstate, message, detail, hint) = match self {
            Refusal::TooManySessions { sessions_max } => (
                "53300",
                "too many sessions on this proxy".to_owned(),
                format!("All {sessions_max} sessions are in use."),
                "Close sessions, connect to another node, or raise the proxy's limit \"sessions_max\"."
                    .to_owned(),
            ),
            Refusal::PoolTimeout { waited, pool_size } => (
                "53300",
                format!("no server connection became free within {} s", waited.as_secs()),
                format!(
                    "All {pool_size} that this user may have in this database are in use by transactions, or kept by sessions \
                     that need one of their own."
                ),
                "Shorten the transactions, or raise [proxy] pool_size; LISTEN, temporary tables and PREPARE in SQL keep a \
                 server until DISCARD ALL."
                    .to_owned(),
            ),
            Refusal::Crowded { what, crowd, limit } => {
                let whose = match crowd {
                    Crowd::User(user) => format!("user \"{user}\""),
                    Crowd::Database(database) => format!("database \"{database}\""),
                    Crowd::All => "all users together".to_owned(),
                };
                (
                    "53300",
                    format!("too many {what} for {whose}"),
                    format!("All {limit} that the proxy of this node allows are in use."),
                    "Close sessions, connect to another node, or raise the limit ([proxy] user_servers_max, database_servers_max, \
                     servers_max, user_sessions_max, database_sessions_max)."
                        .to_owned(),
                )
            }
            Refusal::QueueFull { port, queue_max, reason } => (
                "53300",
                format!("{}, and the queue that waits for it is full", port.lack()),
                why(reason, format!("{queue_max} connections are waiting already.")),
                format!("Try again later. {STATUS_HINT}"),
            ),
            Refusal::QueueTimeout { port, waited, reason, last_error } => (
                "57P03",
                format!("{} within {:.1} s", port.lack(), waited.as_secs_f64()),
                why(reason, last_error.clone().unwrap_or_default()),
                STATUS_HINT.to_owned(),
            ),
            // With this SQLSTATE libpq goes on to the next host of its list.
            Refusal::StandbyCluster { port, reason } => {
                ("57P03", port.lack().to_owned(), reason.clone(), STATUS_HINT.to_owned())
            }
            Refusal::LoweredCommit => return policy::forbidden(),
            Refusal::Denied(denial) => return denial.response(),
            Refusal::Unencrypted(denial) => (
                denial.sqlstate,
                denial.message.clone(),
                "This proxy takes encrypted sessions only ([proxy_tls] mode).".to_owned(),
                "Connect with sslmode=require, or verify-full and sslrootcert.".to_owned(),
            ),
            Refusal::Unbindable => (
                "28000",
                "SCRAM channel binding negotiation error".to_owned(),
                "The server can bind SCRAM to its own TLS connection, which ends at this proxy, and the proxy does not know this \
                 role's verifier, with which it would ask for the password itself."
                    .to_owned(),
                "Connect with channel_binding=disable, or through the proxy of a node with PostgreSQL.".to_owned(),
            ),
            Refusal::Protocol(error) => ("08P01", error.clone(), String::new(), String::new()),
            Refusal::Overdue { overdue, limit, loss } => {
                let unknown = *loss == Loss::Unknown;
                let sqlstate = if unknown { "08007" } else { overdue.sqlstate() };
                let outcome = match loss {
                    Loss::Nothing => "No transaction was open.",
                    Loss::OpenTransaction => "Its transaction is rolled back.",
                    Loss::Unknown => "Whether what it asked last took effect is not known.",
                };
                (
                    sqlstate,
                    overdue.message().to_owned(),
                    format!("This proxy allows {:?} (setting [proxy] {}). {outcome}", limit, overdue.setting()),
                    "Connect again; if it needs longer, ask the cluster's operator to raise the limit.".to_owned(),
                )
            }
            Refusal::Cut { cause, loss } => cut(cause, *loss),
        };
        ErrorResponse { severity: Severity::Fatal, sqlstate, message, detail, hint }
    }
}

fn cut(cause: &CutCause, loss: Loss) -> (&'static str, String, String, String) {
    let cause = cause.sentence();
    match loss {
        Loss::Nothing => (
            "57P01",
            format!("terminating connection: {cause}"),
            "No transaction was open.".to_owned(),
            format!("Connect again. {STATUS_HINT}"),
        ),
        Loss::OpenTransaction => (
            "40001",
            format!("transaction rolled back: {cause}"),
            "Its COMMIT had not been sent, so nothing of it was committed.".to_owned(),
            "Connect again and retry the transaction.".to_owned(),
        ),
        Loss::Unknown => (
            "08007",
            format!("transaction outcome unknown: {cause}"),
            "A statement that may have committed was sent and its answer did not arrive.".to_owned(),
            "Connect again and look whether it took effect before you repeat it.".to_owned(),
        ),
    }
}

fn why(reason: &str, more: String) -> String {
    [reason, &more].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ")
}

impl CutCause {
    /// True when the session could go on with another server.
    pub fn leaves_room(&self) -> bool {
        match self {
            CutCause::Takeover { .. }
            | CutCause::PrimaryClosed { .. }
            | CutCause::ReplicaGone { .. }
            | CutCause::ServerClosed { .. } => true,
            CutCause::ServerGarbled { .. }
            | CutCause::Bound { .. }
            | CutCause::NotTaken { .. }
            | CutCause::LoginBroken { .. }
            | CutCause::Stranded { .. }
            | CutCause::Stuck
            | CutCause::AgentGone
            | CutCause::Killed
            | CutCause::Shutdown => false,
        }
    }

    fn sentence(&self) -> String {
        match self {
            CutCause::Takeover { node, term_was, term } => {
                format!("takeover: node {node} was primary of term {term_was}, the cluster is at term {term}")
            }
            CutCause::PrimaryClosed { node, reason } if reason.is_empty() => {
                format!("node {node} is no open primary any more")
            }
            CutCause::PrimaryClosed { node, reason } => {
                format!("node {node} is no open primary any more ({reason})")
            }
            CutCause::ReplicaGone { node } => format!("node {node} is no healthy replica any more"),
            CutCause::ServerClosed { node } => format!("PostgreSQL of node {node} closed the connection"),
            CutCause::ServerGarbled { node, error } => {
                format!("PostgreSQL of node {node} sent what is no message ({error})")
            }
            CutCause::Bound { cause, why } => {
                format!("{}; the session could not be moved because of {why}", cause.sentence())
            }
            CutCause::NotTaken { node, reason } => {
                format!("PostgreSQL of node {node} did not take the session: {reason}")
            }
            CutCause::LoginBroken { node, why } => {
                format!("the log-in at PostgreSQL of node {node} was not completed: {why}")
            }
            CutCause::Stranded { waited, reason } => {
                format!("no primary took the session within {:.1} s ({reason})", waited.as_secs_f64())
            }
            CutCause::Stuck => {
                "a wait for synchronous replication was cancelled, and a COPY follows in the same text"
                    .to_owned()
            }
            CutCause::AgentGone => "the agent of this node has stopped".to_owned(),
            CutCause::Killed => "an administrator has ended it in the proxy's console".to_owned(),
            CutCause::Shutdown => "the proxy of this node is shutting down".to_owned(),
        }
    }
}
