//! The binary's parts, as a library so that tests and benchmarks can reach them.
//!
//! `node` composes everything; nothing imports `node`, `cli` or `api`. The crate `proxy` learns the topology only from
//! the watch that `agent` publishes. Decisions are made in the crate `brain`, never here.

pub mod agent;
pub mod api;
pub mod cli;
pub mod clock;
pub mod cluster_config;
pub mod config;
pub mod dashboard;
pub mod doctor;
pub mod fencer;
pub mod hooks;
pub mod import;
pub mod node;
pub mod peer;
pub mod postgres;
pub mod store;
pub mod systemd;
pub mod telemetry;
pub mod vip;
