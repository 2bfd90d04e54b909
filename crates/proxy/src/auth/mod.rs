//! Authentication by the proxy itself: the pure pieces.
//!
//! ```text
//! start-up packet ─► hba       the first rule that matches: what must this client prove?
//!                ├─► attempt   asks for it, message by message, against what `roles` knows ─► Granted, with the means
//!                │               (scram, md5, messages)                                       to log in at a server
//!                └─► denial    what the client is told, and what the log
//! ```
//!
//! What it is: what must be proven, whether it was, and what a server may be shown for it. What it is not: a connection;
//! nothing here reads a socket, a file, a clock or dice, they are arguments. TLS, certificates and catalogs are others'.
//!
//! Invariants: nobody is granted anything by a message that is malformed, cut, or meant for another exchange; in doubt
//! the server decides (`Outcome::Elsewhere`). From outside, a role that does not exist, one without a password,
//! one of which the password has expired and a wrong password look the same. No secret is shown by `Debug`, written to a log or to
//! a disk; plain passwords live as long as the message they came in. docs/decisions/0009-authentication.md says against
//! whom this helps.

pub mod attempt;
pub mod denial;
pub mod hba;
pub mod md5;
pub mod messages;
pub mod roles;
pub mod scram;
