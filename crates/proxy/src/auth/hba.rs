//! Rules in the syntax of `pg_hba.conf`: who must prove what.
//!
//! What it is: PostgreSQL's rules (15 to 18) for lines and fields, and the first rule that matches. What it is not: a proof;
//! `attempt` asks for it. Invariant: where this proxy cannot tell what PostgreSQL would decide, the outcome is
//! `Elsewhere` and the server authenticates; it is never `Trust`.
//!
//! What it cannot tell: regular expressions (a name in 15, an expression from 16 on), files (`@file`, `include`), host names
//! (no look-ups here), user maps, methods that ask another program. Such a rule decides nothing when another of its fields
//! does not match anyway.

mod rule;
#[cfg(test)]
mod tests;
mod tokens;

use std::fmt;
use std::net::IpAddr;

use super::roles::Roles;
use rule::{Match, Rule};

/// Lines together with their comments; more than any file that people keep.
const LINES_MAX: usize = 100_000;

/// PostgreSQL cuts longer names of users and databases before it looks at its rules (`NAMEDATALEN` − 1).
const NAME_BYTES_MAX: usize = 63;

/// A line that PostgreSQL would not load, or has no business in a rule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct HbaError {
    /// From 1.
    pub line: usize,
    pub message: String,
}

/// Where a client comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A Unix socket.
    Local,
    Host {
        address: IpAddr,
        /// Is the connection encrypted by TLS?
        tls: bool,
    },
}

/// What the start-up packet says of replication.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replication {
    No,
    /// `replication=true`: matches `replication` in the field of databases and nothing else.
    Physical,
    /// `replication=database`: is connected to a database like any other session.
    Logical,
}

/// A client that has sent its start-up packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request<'a> {
    /// The user's name, when the client named none.
    pub database: &'a str,
    pub user: &'a str,
    pub origin: Origin,
    pub replication: Replication,
}

/// An address of this machine and its net, for `samehost` and `samenet`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interface {
    pub address: IpAddr,
    pub prefix: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Password {
    ScramSha256,
    /// Or SCRAM, for a role that has such a secret.
    Md5,
    /// In clear text.
    Password,
}

/// What is asked of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Trust,
    /// A rule says so.
    Reject,
    /// No rule matches.
    NoEntry,
    Password(Password),
    /// A certificate that a trusted authority has signed and of which the common name is the user's.
    Cert,
    /// The operating system's name of the client, on a Unix socket, is the user's.
    Peer,
    /// Not for this proxy to decide; the reason ends a sentence like "the server authenticates, because of …".
    Elsewhere(String),
}

/// The outcome, and which line it is from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    pub outcome: Outcome,
    /// From 1; none when no rule matched or none was asked.
    pub line: Option<usize>,
}

/// All rules, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
}

impl Rules {
    /// One bad line makes all of them bad: a rule left out could have been the one that rejects.
    pub fn parse(lines: &[String]) -> Result<Rules, HbaError> {
        if lines.len() > LINES_MAX {
            let message = format!("more than {LINES_MAX} lines");
            return Err(HbaError { line: LINES_MAX + 1, message });
        }
        let mut rules = Vec::new();
        for (line, text) in tokens::joined(lines) {
            let error = |message| HbaError { line, message };
            let fields = tokens::fields(&text).map_err(error)?;
            if !fields.is_empty() {
                rules.push(Rule::parse(line, &fields).map_err(error)?);
            }
        }
        Ok(Rules { rules })
    }

    /// `interfaces`: what this machine has, when it is known.
    pub fn decide(&self, request: &Request<'_>, roles: &Roles, interfaces: Option<&[Interface]>) -> Decision {
        let longest = request.user.len().max(request.database.len());
        if longest > NAME_BYTES_MAX {
            return Decision {
                outcome: Outcome::Elsewhere("a name of more than 63 bytes".to_owned()),
                line: None,
            };
        }
        for rule in &self.rules {
            let outcome = match rule.matches(request, roles, interfaces) {
                Match::No => continue,
                Match::Yes => rule.outcome(),
                Match::Unknown(why) => Outcome::Elsewhere(why),
            };
            return Decision { outcome, line: Some(rule.line()) };
        }
        Decision { outcome: Outcome::NoEntry, line: None }
    }

    /// The first rule of which this proxy cannot tell for certain whom it means or what it asks, and because of what.
    pub fn undecidable(&self) -> Option<(usize, String)> {
        self.rules.iter().find_map(|rule| Some((rule.line(), rule.undecidable()?)))
    }

    /// Some rule has the method `peer`.
    pub fn ask_for_peers(&self) -> bool {
        self.rules.iter().any(|rule| rule.outcome() == Outcome::Peer)
    }

    pub fn len(&self) -> usize {
        self.rules.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

/// As PostgreSQL's refusals call it: `host "192.0.2.1"`, of which this is the part in quotes.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Local => f.write_str("[local]"),
            Origin::Host { address, .. } => write!(f, "{}", address.to_canonical()),
        }
    }
}
