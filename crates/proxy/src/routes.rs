//! Which of its servers each statement of the auto port goes to.
//!
//! ```text
//! request   ─► judge (catalogs)      is it a read that a replica may run?
//! freshness ─► has a replica replayed what this session must see?
//! ```
//!
//! What it is: the knowledge behind that choice: a database's catalog as routing needs it, kept new by questions to the node's
//! own server, and how far each replica is, as sampled. What it is not: the choice, which each session makes (`worker::session`),
//! nor the meaning of a text (crate `routing`). Invariant: what is not known is the primary's.

mod catalogs;
mod freshness;
mod judge;
mod request;

pub use catalogs::{CatalogNews, Catalogs, Cell, Databases};
pub use freshness::{Freshness, LagMax, Moment, Position, Positions, Reader, Seen};
pub use judge::{Judges, Trust};
pub use request::{Known, Request, names};

/// What a read on a replica must see.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Consistency {
    /// Whatever its own session has written.
    #[default]
    Session,
    /// Whatever anybody's commit was acknowledged before it began.
    Cluster,
    /// What the replica has.
    Eventual,
}

impl Consistency {
    pub fn as_str(self) -> &'static str {
        match self {
            Consistency::Session => "session",
            Consistency::Cluster => "cluster",
            Consistency::Eventual => "eventual",
        }
    }

    /// Of one of the words above, which the table of settings has checked.
    pub fn of(text: &str) -> Consistency {
        match text {
            "cluster" => Consistency::Cluster,
            "eventual" => Consistency::Eventual,
            _ => Consistency::Session,
        }
    }
}
