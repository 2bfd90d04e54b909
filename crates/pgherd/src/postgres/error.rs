//! What can go wrong with one PostgreSQL server, as far as a caller may branch on it.
//!
//! Every sentence says what happened and, where a person can do something about it, what to type next.

use std::path::{Path, PathBuf};
use std::time::Duration;

use wire::Timeline;

/// SQLSTATE too_many_connections: every slot is taken. A server that says so lives.
pub(super) const TOO_MANY_CONNECTIONS: &str = "53300";

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    /// A PostgreSQL tool ended with an error; `tail` holds the last lines it wrote.
    #[error("{tool} failed ({status}): {tail}")]
    Tool { tool: String, status: String, tail: String },
    #[error("{what} was not done within {deadline:?}")]
    Deadline { what: String, deadline: Duration },
    /// The server answered a statement with an error, or the connection broke.
    #[error("{what}: {message}")]
    Sql {
        what: String,
        message: String,
        sqlstate: Option<String>,
        /// The connection is gone with it.
        closed: bool,
    },
    #[error("PostgreSQL in {data} is not running")]
    NotRunning { data: PathBuf },
    #[error("PostgreSQL in {data} is running (process {pid}); it must be stopped first")]
    Running { data: PathBuf, pid: i32 },
    #[error("the data directory {data} cannot be used: {reason}")]
    Unusable { data: PathBuf, reason: String },
    #[error("PostgreSQL in {data} did not start: {tail}")]
    StartFailed { data: PathBuf, tail: String },
    /// Somebody set what only pgherd may set, so the server does not do what it was told.
    #[error(
        "\"{setting}\" is '{found}' instead of '{wanted}' because {origin} overrides pgherd's value; \
         connect as a superuser and run: ALTER SYSTEM RESET {setting}; (or remove that line)"
    )]
    Overridden { setting: String, wanted: String, found: String, origin: String },
    #[error("the server did not take the new configuration: {reason}")]
    Configuration { reason: String },
    #[error("the parameter \"{name}\" cannot be set: {reason}")]
    Parameter { name: String, reason: String },
    #[error("the server would have to be a {wanted} for this, but it is not")]
    Role { wanted: &'static str },
    /// The promotion could not take, or did not take, the timeline that the store had recorded for it.
    #[error("the promotion was to take timeline {wanted}: {reason}")]
    Timeline { wanted: Timeline, reason: String },
    /// Walsenders that still may count acknowledgements by the old rule.
    #[error("the sync set is not in force: walsenders {pids:?} have not applied it and do not end")]
    NotInForce { pids: Vec<i32> },
}

impl Error {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }

    /// For an operation on `path`: "write /x/y: No space left on device".
    pub(super) fn at(verb: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
        Error::io(format!("{verb} {}", path.display()))
    }

    /// Of a client library's connection, which is given up with it.
    pub(super) fn sql(what: &str) -> impl FnOnce(tokio_postgres::Error) -> Error + use<> {
        let what = what.to_owned();
        move |error| {
            let sqlstate = error.code().map(|code| code.code().to_owned());
            let message = match error.as_db_error() {
                Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
                None => with_causes(&error),
            };
            Error::Sql { what, message, sqlstate, closed: true }
        }
    }

    /// The same error from a server that closed the connection with it.
    pub(super) fn closing(self) -> Error {
        match self {
            Error::Sql { what, message, sqlstate, .. } => {
                Error::Sql { what, message, sqlstate, closed: true }
            }
            other => other,
        }
    }

    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Error::Sql { sqlstate, .. } => sqlstate.as_deref(),
            _ => None,
        }
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// Waits for `work` no longer than `deadline`, naming it in the error.
pub(super) async fn within<T>(
    what: &str,
    deadline: Duration,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(deadline, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::Deadline { what: what.to_owned(), deadline }),
    }
}
