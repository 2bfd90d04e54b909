//! Every scenario of real processes in one binary; a file per scenario, whose name says what happens.
//!
//! Each test has a cluster, a folder and ports of its own. Each keeps a ledger while faults happen: no acknowledged
//! row may ever be missing.

mod agent_killed_and_adopted;
mod all_nodes_killed_and_started;
mod archive_hangs;
mod asynchronous;
mod backend_killed;
mod bad_input;
mod bootstrap_and_replicate;
mod cascading;
mod causal_reads;
mod cluster_config;
mod copy_interrupted;
mod copy_tool_killed;
mod dashboard;
mod degraded;
mod demo_detach_and_stop;
mod disk_full;
mod disk_stalled;
mod fencer;
mod fencer_and_watchdog;
mod haproxy_as_for_patroni;
mod idle_clients;
mod idle_sessions_notice_nothing;
mod instructions;
mod log_disk_full;
mod members_grow_and_shrink;
mod nofailover;
mod old_primary_rejoins_by_rewind;
mod package;
mod paused;
mod postgres_woken;
mod postmaster_hung;
mod primary_frozen;
mod primary_node_killed;
mod primary_postgres_killed;
mod recovery_in_place;
mod relaunch;
mod replica_not_let_in;
mod restart_and_reinit;
mod rewind_interrupted;
mod settings_lowered;
mod settings_raised;
mod slots_exhausted;
mod slots_gate_waits;
mod slots_over_budget;
mod slots_survive_takeovers;
mod standby_cluster;
mod switchover;
mod switchover_interrupted;
mod switchover_under_load;
mod system_calls;
mod takeover_interrupted;
mod virtual_ip;
mod wal_fetched_from_a_peer;
