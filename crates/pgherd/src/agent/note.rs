//! What the agent's tasks tell its loop.

use std::time::Duration;

use anyhow::Result;
use brain::{Millis, Operation, OriginReport, Postgres, SlotReport};
use futures_util::future::BoxFuture;

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

/// Reads the node's configuration anew; the node implements it.
pub trait Reload: Send + Sync {
    /// Ready once all of it is in force that needs no restart of PostgreSQL. Where that needs another process it takes over, and this
    /// is never ready. An error says what cannot be applied.
    fn reload(&self) -> BoxFuture<'_, Result<()>>;
    /// Number of the cluster's configuration in force; 0: none.
    fn applied(&self) -> u64;
}
