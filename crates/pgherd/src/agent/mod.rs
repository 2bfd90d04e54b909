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
mod burden;
mod changes;
mod core;
mod credentials;
mod durable;
mod events;
mod facts;
mod failover;
mod fencing;
mod guard;
mod known;
mod learn;
mod lease;
mod look;
mod members;
mod message;
mod names;
mod news;
mod note;
mod observer;
mod origin;
mod panel;
mod probing;
mod publish;
mod questions;
mod records;
mod requests;
mod retry;
mod slots;
mod stream;
mod tidings;
mod work;

pub use changes::change_members;
pub use core::{Agent, Parts};
pub use credentials::CredentialsFile;
pub use durable::{Words, WordsFile};
pub use events::{Event, EventLog};
pub use facts::Facts;
pub use failover::{FailoverReport, ProxyReport, Witness, kept as kept_failovers};
pub use fencing::{Fencing, FencingConfig};
pub use members::{Addresses, MembersFile, addresses, follow as follow_members, peers};
pub use message::Message;
pub use news::{Doors, News, tell as tell_news};
pub use note::Reload;
pub use panel::{Panel, Seen};
pub use publish::topology;
pub use questions::questions;
pub use records::{Credentials, store_view};
pub use requests::{Command, PAUSE_SECONDS_MAX, Refusal, submit};
pub use slots::SlotPolicy;
pub use work::{Followed, Worker};
