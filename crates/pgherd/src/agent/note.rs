//! What the agent's tasks tell its loop.

use std::time::Duration;

use anyhow::Result;
use brain::{Operation, Postgres, SlotReport};

/// What reaches the loop from its tasks.
pub enum Note {
    Observed(Observed),
    Done(Box<Done>),
    /// The server's slots, and the worker's generation before the look.
    Slots {
        generation: u64,
        report: Box<SlotReport>,
    },
    /// The revision that the change made.
    Committed(Result<u64, String>),
}

/// A look at the server.
pub struct Observed {
    /// The worker's generation before the look.
    pub generation: u64,
    pub postgres: Postgres,
}

/// The end of a piece of work.
pub struct Done {
    pub operation: Operation,
    pub result: Result<()>,
    pub postgres: Postgres,
    pub took: Duration,
}
