//! PostgreSQL's own formats: bytes in, values out.
//!
//! What it is: the value types that every part of pgherd shares (`Lsn`, `Timeline`) and the frames of the
//! client/server protocol. What it is not: a connection; nothing here reads a socket, a clock or a file.
//! Invariant: every function is total over its input; a malformed frame is an error, never a panic.

#[cfg(test)]
mod chance;
mod command;
mod effect;
mod error;
mod lsn;
pub mod message;
mod plain;
#[cfg(test)]
mod properties;
pub mod startup;
mod timeline;
pub mod token;

pub use command::Commands;
pub use effect::{Assignment, Effects, OnSession, Watched, changes_reading};
pub use error::{ErrorFields, ErrorResponse, Severity};
pub use lsn::{Lsn, ParseLsnError};
pub use timeline::{Branch, History, HistoryError, Timeline};
