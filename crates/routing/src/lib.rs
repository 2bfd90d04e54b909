//! Which statements may run on a replica.
//!
//! What it is: a query text, read with PostgreSQL's own grammar and against what the catalog says of the functions,
//! operators and relations it names, becomes a `Verdict`: a replica may run it, or the primary must, and why.
//! What it is not: a router. It knows no server, no lag, no open transaction, no session; the caller asks only where
//! `standard_conforming_strings` is on and `client_encoding` keeps bytes below 0x80 for ASCII, and sends a session
//! that is bound to the primary (it may have a temporary table that hides a common one) there without asking.
//! Invariant: in doubt the primary. No text makes it panic, recurse without end or take more time than its length allows.
//!
//! What stays unseen, because no text and no catalog says it:
//! - a function that is declared STABLE or IMMUTABLE and writes, or reads an unlogged table, all the same;
//! - what casts, domain checks and sampling methods of users call;
//! - what was created since the catalog was read. Only names are compared, in any schema, so a new overload of a known
//!   name may be missed until then; a name that is new altogether is unknown and goes to the primary.
//!
//! PostgreSQL then refuses on the replica: 25006 (`read_only_sql_transaction`) for a write, 0A000
//! (`feature_not_supported`) for an unlogged relation or a serializable transaction. Nothing has happened; outside a
//! block, and before a row was passed on, the caller may send the same to the primary, and that text ever after.

mod catalog;
mod classify;
mod hint;
mod shape;
mod statement;
mod tree;
mod verdict;
mod verdicts;

pub use catalog::{BadRow, Catalog, HARMLESS_FUNCTIONS, Overrides, Query, Rows};
pub use classify::{TEXT_BYTES_MAX, classify};
pub use verdict::{Access, Block, Hazard, Reason, Route, Verdict};
pub use verdicts::{Limits, Verdicts};
