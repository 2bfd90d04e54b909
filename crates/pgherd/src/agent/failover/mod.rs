//! The report of a failover: what it consisted of, measured by who won it, kept in the store for people.
//!
//! ```text
//!  view, decision ──► Recorder ──(open for clients)──► FailoverReport ──► shelf: /failovers in the store
//!  proxy's counts ──► SessionWatch ──(news)──────────────────┘
//! ```
//!
//! What it is: a watcher of what passes through the agent's loop (`recorder`), of what its proxy counts meanwhile (`sessions`), and
//! the list in the store (`shelf`). What it is not: a part of the takeover. No decision sees it, nothing waits for it, and nothing is
//! written before the new primary is open. Without an agent that has seen it all there is no report, never a wrong one.
//! Invariant: every time in a report is of one clock, the new primary's CLOCK_BOOTTIME, and phases follow upon each other: none is
//! below 0, and their sum is the whole.

mod ballot;
mod moments;
mod recorder;
mod report;
mod sessions;
mod shelf;

pub use ballot::Ballot;
pub use moments::{Phase, Witness};
pub use recorder::Recorder;
pub use report::{FailoverKind, FailoverReport, Loss, Side};
pub use sessions::{ProxyReport, SessionWatch};
pub use shelf::{Shelf, kept};

/// Members and nodes in a report at most: more than a cluster has.
const NODES_MAX: usize = 16;

/// Characters of a sentence in a report at most.
const WORDS_MAX: usize = 400;

/// Cut to `WORDS_MAX`.
fn brief(words: &str) -> String {
    words.chars().take(WORDS_MAX).collect()
}
