//! The agent: one per node. It observes, asks the brain, and acts.
//!
//! ```text
//!  server ──observer──┐
//!  peers ──messages───┤            ┌── promise, commit, heartbeat (here)
//!  store ──watch──────┼──► View ──► decide ──► actions ──┤
//!  clock ──tick───────┘            └── work on the server (one task at a time)
//! ```
//!
//! The loop (`core`) owns the view and is the only writer of the durable words; everything else reaches it as a
//! `Note`. It makes no choice of its own: what to do is in the crate `brain`.
//! Invariant: while work on the server is under way the view says so (`busy`), and it ends with a fresh observation.

mod act;
mod core;
mod durable;
mod events;
mod guard;
mod look;
mod message;
mod note;
mod observer;
mod panel;
mod publish;
mod records;
mod requests;
mod retry;
mod work;

pub use core::{Agent, Parts};
pub use durable::{Words, WordsFile};
pub use events::{Event, EventLog};
pub use message::Message;
pub use panel::Panel;
pub use publish::topology;
pub use requests::{Command, PAUSE_SECONDS_MAX, Refusal, submit};
pub use work::Worker;
