//! The cluster's configuration: what is set once for all nodes, how it is changed, and how a node comes to have it.
//!
//! ```text
//!  pgherd config set ──► plan: read it as a node would, ask PostgreSQL ──► /config and a reload request for each node, one
//!                                                                           transaction of the store
//!  each node, one after another: reload ──► reads its file under it ──► PostgreSQL reloads; where pgherd itself is concerned,
//!                                           a new process of this node takes over and no session ends
//! ```
//!
//! What it is not: a restart of PostgreSQL; who asks for a change asks for these, too, when he has seen what waits for one.
//! Invariants: what is in the store was read without a mistake by the node that put it there; a node applies the newest that its
//! store has, and keeps a copy for a start without the store.

mod apply;
mod edit;
mod plan;
mod record;

pub use apply::{Applier, follow};
pub use edit::{Edit, edited};
pub use plan::{Change, Effect, Plan};
pub use record::{CONFIG, ConfigRecord, Revision, read as read_record};
