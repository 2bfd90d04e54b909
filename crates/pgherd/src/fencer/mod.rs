//! The fencer: a small process beside the agent that takes PostgreSQL out of service when the agent cannot.
//!
//! The agent writes into the cell how long its primary may serve, each time its lease is renewed. The fencer holds the
//! time against it. A deadline that passes means that the agent is stopped, killed, hung or starved: the clients are
//! cut (no new one is let in, present ones are ended), and when the agent stays away PostgreSQL is stopped. It outlives its
//! agent on purpose; the next agent finds it and goes on, or replaces it by one of its own build.
//!
//! What it is not: a decider. It knows no peers, no store and no SQL, and fences no server but the one that it was told
//! of, by process, before that server served anybody. The one thing beside PostgreSQL that it takes out of service is the
//! virtual IP (`crate::vip`), at the same deadline.
//!
//! Invariants
//! - Its clock is CLOCK_BOOTTIME, and the deadline counts from when the heartbeat was sent that the lease answers.
//! - No disk and no other process can make it miss the deadline: what may hang is done by a second thread, and when that
//!   hangs, signals to the postmaster need neither.
//! - It signals nothing but processes that it holds by pidfd and knows by start time.
//! - It writes no configuration but `pg_hba.conf`.

mod address;
mod cell;
mod client;
mod hand;
mod note;
mod plan;
mod process;
mod watch;
mod watchdog;

use std::ffi::CStr;
use std::os::unix::fs::MetadataExt;

pub use cell::{Armed, Cell, Order, Side, VipOrder, WatchdogOrder, WatchdogWord, Word};
pub use note::{Note, done, take};
pub use plan::GRACE_TIMEOUTS;
pub use process::{Identity, Process, command, pids};
pub use watch::{is_fencer, run};

/// How the process calls itself in `comm`; what it runs is /proc/self/exe, whose name would be `exe`.
const NAME: &CStr = c"pgherd-fencer";

/// Which program this process runs: a fencer of another build is replaced.
pub fn build() -> String {
    let file = std::fs::metadata("/proc/self/exe").ok();
    let file = file.map(|file| (file.ino(), file.len(), file.mtime())).unwrap_or_default();
    format!("{} {} {} {}", env!("CARGO_PKG_VERSION"), file.0, file.1, file.2)
}
