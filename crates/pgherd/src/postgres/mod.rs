//! Control of one local PostgreSQL server (15 to 18): every effect, no decision.
//!
//! What it is: the hands of the agent. It starts, stops, observes, detaches, points, promotes, clones and rewinds the
//! server of this node. What it is not: it never decides whether to; it holds no term, no promise and no lease.
//!
//! Invariants
//! - **PostgreSQL is only ever started as a standby**, following nobody, admitting nobody, acknowledging nothing; it becomes
//!   writable by promotion alone. So no start, however it came about, can make a second writer.
//! - **PostgreSQL outlives the agent**: it is no child of ours, and a new agent adopts it by `postmaster.pid`.
//! - The configuration on disk is the whole truth; nothing that matters is remembered in this process only.
//! - Every wait has a deadline, every file is whole or absent, no secret is on a command line or in a log.
//!
//! The caller performs one change at a time (`detach`, `follow`, `promote`, `apply_sync`, …); `observe` and the probes
//! may run beside them, each on connections of its own.

mod about;
mod account;
mod basebackup;
pub mod binaries;
mod catalog;
mod confirm;
pub mod control;
mod disk;
mod error;
mod examination;
pub mod fenced;
mod files;
mod floors;
mod hba;
mod identity;
mod keep;
mod layout;
mod lifecycle;
mod log;
mod lost;
mod lowered;
mod observe;
mod origin;
mod pending;
mod positions;
mod probe;
mod process;
mod promote;
mod receiver;
mod recovery;
mod remote;
mod rewind;
mod roles;
mod secrets;
mod server;
mod session;
mod settings;
mod slot_copies;
mod slot_settings;
mod slots;
mod sync;
mod timelines;
mod trial;
mod waits;
mod wal;

#[cfg(test)]
pub(crate) mod tests;

pub use about::About;
pub use account::Account;
pub use basebackup::Progress;
pub use binaries::Installation;
pub use control::{ControlFile, DbState};
pub use disk::{Disk, Room};
pub use error::{Error, Result};
pub use examination::{Archiver, Examination, ExaminedSlot};
pub use floors::is_bound;
pub use hba::{Admission, REPLICATION_ROLE, REWIND_ROLE, SUPERUSER};
pub use layout::Layout;
pub use lifecycle::{Ended, StopMode};
pub use log::ReceiverSays;
pub use lost::Lost;
pub use observe::{Observation, Position, Primary, Slot, Standby, Walsender};
pub use origin::{OriginServer, Received, ask as ask_origin};
pub use pending::{PendingRestart, SettingsState};
pub use positions::PositionQuestion;
pub use probe::Answered;
pub use process::Postmaster;
pub use promote::Promoted;
pub use receiver::Upstream;
pub use rewind::RewindOutcome;
pub use roles::Passwords;
pub use server::{DataState, Server, ServerConfig, Source, Tunable};
pub use settings::{NOBODY, check_parameters};
pub use slot_copies::{COPIES_UNTIL, SlotCopy};
pub use slot_settings::SlotSettings;
pub use slots::{FAILOVER_SLOTS, SlotRow, SlotsSeen};
pub use sync::{Applied, Method, standby_names};
pub use waits::SyncRepQuestion;
