//! Every operation, killed after each of its steps, and resumed or undone.
//!
//! What it is: an undisturbed run counts the steps; then, for each step and each victim, the same world is run again, somebody
//! is killed right after that step and started again, and the run must come to its end, all checkers at work. What it is not:
//! chance; a seed draws the delays, the sweep does the rest. Invariant: a step that the undisturbed run takes is met.

mod operation;
mod rest;
mod run;
mod sweep;
mod trip;

pub use operation::{OPERATIONS, Operation, Outcome};
pub use run::{Back, Crash, Played, play};
pub use sweep::{Failure, Row, Table, first_broken, sweep};
pub use trip::{Step, Trip, Victim};
