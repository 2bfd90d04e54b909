//! The agent is expendable: it gets SIGKILL, PostgreSQL goes on, a new agent adopts the running server.

use std::time::Duration;

use tests::ledger::value_at;
use tests::{Cluster, Ledger, wait_for};

const ADOPTION_TIMEOUT: Duration = Duration::from_secs(30);

const STARTED_AT: &str = "SELECT pg_postmaster_start_time()";

#[test]
fn a_replicas_server_survives_its_agent() {
    let mut cluster = Cluster::start(3);
    let status = cluster.wait_until_whole();
    let primary = status.primary.clone().unwrap();
    let replica = status.nodes.iter().find(|node| node.name != primary).unwrap().name.clone();
    let ledger = Ledger::start(&cluster);
    let server = cluster.node(&replica).postmaster_pid().unwrap();
    let started = value_at(cluster.node(&replica).postgres, STARTED_AT).unwrap();

    cluster.kill_agent(&replica);
    assert_eq!(cluster.node(&replica).postmaster_pid(), Some(server), "PostgreSQL outlives its agent");
    ledger.wait_until_flowing();
    cluster.start_agent(&replica);
    cluster.wait_until_whole();

    assert_eq!(cluster.node(&replica).postmaster_pid(), Some(server), "adopted, not started again");
    assert_eq!(value_at(cluster.node(&replica).postgres, STARTED_AT).unwrap(), started);
    assert_eq!(cluster.primary(), Some(primary), "nobody took over");
    ledger.finish_and_check(&cluster);
}

#[test]
fn the_primarys_server_survives_its_agent() {
    let mut cluster = Cluster::start(3);
    let primary = cluster.wait_until_whole().primary.unwrap();
    let ledger = Ledger::start(&cluster);
    let server = cluster.node(&primary).postmaster_pid().unwrap();

    cluster.kill_agent(&primary);
    cluster.start_agent(&primary);
    wait_for("the agent to answer again", ADOPTION_TIMEOUT, || {
        tests::status::ask(cluster.node(&primary).http)
    });
    // Whether the cluster waited or another took over is a matter of time; that no restart was needed is not,
    // as long as the same node is still primary.
    ledger.wait_until_flowing();
    let status = cluster.wait_until_whole();
    if status.primary.as_deref() == Some(primary.as_str()) {
        assert_eq!(cluster.node(&primary).postmaster_pid(), Some(server), "adopted, not started again");
    }
    ledger.finish_and_check(&cluster);
}
