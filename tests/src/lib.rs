//! The harness for tests of real processes: a cluster per test, faults for it, and a writer that keeps the ledger.
//!
//! It knows pgherd only as its users do: the binary, its files, its HTTP answers and its ports. The types here mirror
//! the contract by hand, so a change of the contract breaks tests, not users.
//! Invariants: a test waits for conditions, never for times; whatever way a test ends, no process of it is left.

pub mod bench;
pub mod booted;
pub mod browser;
pub mod callgrind;
pub mod cluster;
pub mod consumer;
pub mod idle;
pub mod ledger;
pub mod machine;
pub mod network;
pub mod placement;
pub mod ports;
pub mod processes;
pub mod sandbox;
pub mod shared_memory;
pub mod status;
pub mod strace;
pub mod wait;

pub use cluster::{Cluster, Node, Prepared, configure, pgherd};
pub use ledger::{Account, Ledger, Session, connect, rows_of, session_at, value_at};
pub use ports::Ports;
pub use status::{page_at, requests};
pub use wait::{wait_closely, wait_for};
