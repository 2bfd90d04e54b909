//! The primary's agent, or its PostgreSQL, is frozen: another node takes over, and what was frozen acknowledges nothing
//! of its own and comes back by itself once it thaws.

use std::time::Duration;

use rustix::process::Signal;
use tests::cluster::Node;
use tests::ledger::value_at;
use tests::{Cluster, Ledger, processes, wait_for};

/// Ten times the bound for the p99: this is about safety, the bench measures speed.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn a_frozen_agent_is_taken_over_from_and_its_server_acknowledges_nothing() {
    let cluster = Cluster::start(3);
    let old = cluster.wait_until_whole().primary.unwrap();
    let node = cluster.node(&old).clone();
    let ledger = Ledger::start(&cluster);
    ledger.wait_until_flowing();

    let agent = node.agent_pid().expect("the primary's agent");
    processes::signal(agent, Signal::STOP);
    cluster.wait_for_primary_other_than(&old, TAKEOVER_TIMEOUT);
    ledger.wait_until_flowing();
    // Its PostgreSQL is up and knows of nothing, but no standby flushes for it any more.
    let lonely = "INSERT INTO ledger VALUES (-1) RETURNING id";
    let port = node.postgres;
    let attempt = std::thread::spawn(move || value_at(port, lonely));
    processes::signal(agent, Signal::CONT);
    cluster.wait_until_whole();
    let outcome = attempt.join().expect("the attempt ends");
    let kept = || value_at(port, "SELECT count(*) FROM ledger WHERE id = -1").ok();
    let rows = wait_for("the old primary to answer as a replica", TAKEOVER_TIMEOUT, kept);
    assert!(outcome.is_err() || rows == "1", "acknowledged by a deposed primary and lost: {outcome:?}");
    ledger.finish_and_check(&cluster);
}

#[test]
fn a_frozen_postgres_is_taken_over_from() {
    let cluster = Cluster::start(3);
    let old = cluster.wait_until_whole().primary.unwrap();
    let node = cluster.node(&old).clone();
    let ledger = Ledger::start(&cluster);
    ledger.wait_until_flowing();

    freeze_postgres(&node);
    cluster.wait_for_primary_other_than(&old, TAKEOVER_TIMEOUT);
    ledger.wait_until_flowing();
    // The agent ends the frozen server by itself, which needs no thaw.
    cluster.wait_until_whole();
    ledger.finish_and_check(&cluster);
}

/// The postmaster first, so that no new process escapes.
fn freeze_postgres(node: &Node) {
    let postmaster = node.postmaster_pid().expect("the primary's PostgreSQL");
    processes::signal(postmaster, Signal::STOP);
    let servers = processes::belonging_to(&node.data());
    servers.iter().filter(|process| process.program() == "postgres").for_each(|process| {
        processes::signal(process.pid, Signal::STOP);
    });
}
