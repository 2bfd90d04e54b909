//! (stub)
pub mod topology;
