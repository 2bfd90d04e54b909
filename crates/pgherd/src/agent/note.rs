//! What the agent's tasks tell its loop.

use std::time::Duration;

use anyhow::Result;
use brain::{Millis, Operation, OriginReport, Postgres, SlotReport};

/// What reaches the loop from its tasks.
pub enum Note {
    Observed(Box<Observed>),
    Done(Box<Done>),
    /// The server's slots, and the worker's generation before the look.
    Slots {
        generation: u64,
        report: Box<SlotReport>,
    },
    /// The end of an errand.
    Errand {
        errand: Errand,
        request: u64,
        result: Result<()>,
    },
    /// A look at the cluster that this one follows.
    Origin(Box<OriginReport>),
    /// The revision that the change made.
    Committed(Result<u64, String>),
}

/// What is done beside the work on the server, for a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Errand {
    Checkpoint,
    Reload,
}

/// A look at the server.
pub struct Observed {
    /// The worker's generation before the look.
    pub generation: u64,
    /// By [`crate::clock::boot_millis`], before the look.
    pub began: Millis,
    pub postgres: Postgres,
}

/// The end of a piece of work.
pub struct Done {
    pub operation: Operation,
    pub result: Result<()>,
    pub postgres: Postgres,
    pub took: Duration,
}
