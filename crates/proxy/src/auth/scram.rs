//! SCRAM-SHA-256, with and without channel binding (RFC 5802, 5929, 7677), as PostgreSQL's `auth-scram.c` has it.
//!
//! What it is: what is stored (`keys`), and two machines over message bodies, for those who ask for a proof (`server`) and
//! for those who give one (`client`). What it is not: framing, nor dice; nonces are arguments.
//!
//! Whoever checks a proof recovers the **ClientKey** from it: with that, and without a password, it can log in wherever the
//! same verifier is stored. `Keys` are the means to log in at a server.
//!
//! Invariants: no `Debug` shows a key, a proof or a password; comparisons of those take the same time whatever differs;
//! every length and every count that another one chooses has a limit; a machine is used up by its last step.
//!
//! The crates are those that tokio-postgres brings already (`hmac`, `sha2`, `stringprep`, `base64`), so nothing more is built;
//! they are pure Rust, use the processor's SHA instructions, and take no lock. Verifiers are checked where
//! thousands of clients log in at once, and `aws-lc-rs` has nothing to add to two short HMACs and a hash.

mod client;
mod keys;
mod server;
#[cfg(test)]
mod tests;
mod text;

pub use client::{Answered, Binding, ClientError, ClientSecret, Opening};
pub use keys::{Keys, Mock, Verifier};
pub use server::{Challenge, Mechanism, Offer, Proof, Violation};

/// The name of the mechanism without channel binding.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The name of the mechanism that binds to the channel.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// Random bytes of a nonce, as many as PostgreSQL takes; as text they are 24.
pub const NONCE_BYTES: usize = 18;

/// Iterations of PBKDF2 that are done for another's demand: 100,000 are 11 ms of a core with SHA instructions and 28 without. A server chooses the
/// count for a client that has a password (RUSTSEC-2026-0179), and `password` of pg_hba.conf does them for anybody who asks.
/// Who has `Keys`, or checks a proof, does none, and takes any count.
pub const ITERATIONS_MAX: u32 = 100_000;

/// What PostgreSQL stores by default, and what a role that does not exist pretends to have.
pub const ITERATIONS_DEFAULT: u32 = 4096;
