//! How a command fails: what happened, why, what to type next, and the exit code.
//!
//! The codes are a contract, printed by `pgherd --help`: scripts branch on them.

use std::fmt;
use std::io;

use crate::api::access::UsersError;
use crate::node::Precondition;
use crate::postgres::{self, binaries};
use proxy::ProxyError;
use proxy::tls::TlsError;

/// What a shell sees; 0 only on success.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Something went wrong that no other code names.
    General = 1,
    /// The command line itself is wrong (clap's own code for the same).
    Usage = 2,
    /// A configuration file is missing, unreadable or wrong.
    Configuration = 3,
    /// No node of the cluster answered.
    Unreachable = 4,
    /// The machine is not as the command needs it: a port in use, PostgreSQL missing, a data directory of another
    /// cluster, a full disk.
    Precondition = 5,
    /// What was asked for is still under way, or was asked for and failed.
    Unfinished = 6,
    /// A doctor has found an error, or a warning where those were to count.
    Unsound = 7,
}

pub const EXIT_CODES_HELP: &str = "Exit codes:
  0  success
  1  failed
  2  wrong usage
  3  configuration missing or wrong
  4  no node of the cluster answered
  5  a precondition does not hold (port in use, PostgreSQL missing, foreign data directory, full disk, another
     request under way)
  6  the request was taken, and failed or has not ended within --wait
  7  pgherd doctor found an error; with --strict, or a warning";

/// An error as its user reads it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    pub exit: Exit,
    pub what: String,
    pub why: Option<String>,
    /// The next command, or the next thing to do.
    pub next: Option<String>,
}

impl Failure {
    pub fn new(exit: Exit, what: impl Into<String>) -> Failure {
        Failure { exit, what: what.into(), why: None, next: None }
    }

    pub fn why(mut self, why: impl fmt::Display) -> Failure {
        self.why = Some(why.to_string());
        self
    }

    pub fn next(mut self, next: impl Into<String>) -> Failure {
        self.next = Some(next.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if let Some(why) = &self.why {
            write!(f, "\n  why:  {why}")?;
        }
        if let Some(next) = &self.next {
            write!(f, "\n  next: {next}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// A reader that went away (`pgherd events | head`) is no failure of ours.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::new(exit_of_io(&error), error.to_string())
    }
}

impl From<UsersError> for Failure {
    fn from(error: UsersError) -> Failure {
        let exit = if let UsersError::Unfit(_) = error { Exit::Usage } else { Exit::Configuration };
        Failure::new(exit, error.to_string())
    }
}

/// From the daemon, whose errors carry context: the first cause in the chain that says more than "failed" decides.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        let error = match error.downcast::<Failure>() {
            Ok(failure) => return failure,
            Err(error) => error,
        };
        let exit = error.chain().find_map(exit_of).unwrap_or(Exit::General);
        let causes: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
        let failure = Failure::new(exit, error.to_string());
        if causes.is_empty() { failure } else { failure.why(causes.join(": ")) }
    }
}

/// What the daemon found amiss before it touched anything has types of its own.
fn exit_of(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if cause.is::<Precondition>() || cause.is::<binaries::NotFound>() || cause.is::<ProxyError>() {
        return Some(Exit::Precondition);
    }
    if cause.is::<UsersError>() || cause.is::<TlsError>() {
        return Some(Exit::Configuration);
    }
    match cause.downcast_ref::<postgres::Error>() {
        Some(postgres::Error::Unusable { .. }) => Some(Exit::Precondition),
        Some(postgres::Error::Parameter { .. }) => Some(Exit::Configuration),
        _ => cause.downcast_ref::<io::Error>().map(exit_of_io),
    }
}

/// What the machine refuses is a precondition; the rest is a plain failure.
fn exit_of_io(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::AddrInUse
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::StorageFull
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::QuotaExceeded => Exit::Precondition,
        _ => Exit::General,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_three_lines_of_an_error() {
        let failure =
            Failure::new(Exit::Precondition, "port 1 is in use").why("by x").next("pgherd demo --stop");
        assert_eq!(failure.to_string(), "error: port 1 is in use\n  why:  by x\n  next: pgherd demo --stop");
    }

    #[test]
    fn the_cause_in_the_chain_gives_the_exit_code() {
        let busy: anyhow::Error = Err::<(), _>(io::Error::from(io::ErrorKind::AddrInUse))
            .context("listen on 127.0.0.1:7432")
            .context("start the peer link")
            .unwrap_err();
        let failure = Failure::from(busy);
        assert_eq!(failure.exit, Exit::Precondition);
        assert_eq!(failure.what, "start the peer link");
        assert!(failure.why.unwrap().starts_with("listen on 127.0.0.1:7432: "));
        assert_eq!(Failure::from(anyhow::anyhow!("no luck")).exit, Exit::General);
    }

    #[test]
    fn a_failure_inside_an_error_keeps_its_code() {
        let inner = Failure::new(Exit::Configuration, "unknown key");
        assert_eq!(Failure::from(anyhow::Error::new(inner.clone())), inner);
    }
}
