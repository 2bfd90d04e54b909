//! A crashed primary that nobody can take over from recovers in place: on a cluster of one, and on one whose standby is
//! dead. How far it is shows meanwhile, and nobody is admitted before what it shows is safe.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rustix::process::Signal;
use tests::ledger::{session_at, value_at};
use tests::{Cluster, Ledger, processes, status, wait_for};

const RECOVERED_TIMEOUT: Duration = Duration::from_secs(60);

#[test]
fn a_single_node_recovers_and_shows_how_far_it_is() {
    let cluster = Cluster::start(1);
    let node = cluster.nodes()[0].clone();
    let ledger = Ledger::start(&cluster);
    ledger.wait_until_flowing();
    // Some WAL since the last checkpoint, so that there is something to replay.
    let mut session = session_at(node.postgres);
    session.execute("CHECKPOINT").unwrap();
    session
        .execute("CREATE TABLE filler AS SELECT i, repeat('x', 500) FROM generate_series(1, 100000) i")
        .unwrap();
    cluster.kill_postgres(&node.name);
    // It is held in the middle of its replay, for as long as it takes to look.
    let startup = wait_for("its startup process to replay", RECOVERED_TIMEOUT, || {
        let servers = processes::belonging_to(&node.data());
        let replays = |command: &[String]| command.iter().any(|word| word.contains("startup recovering"));
        servers.into_iter().find(|process| replays(&process.command))
    });
    processes::signal(startup.pid, Signal::STOP);
    let progress = wait_for("the progress to be shown", RECOVERED_TIMEOUT, || {
        status::ask(node.http)?.node(&node.name)?.condition.progress.clone()
    });
    assert_eq!(progress.what, "recovering");
    assert!(cluster.pgherd_ok(&["status"]).contains("recovering"));
    processes::signal(startup.pid, Signal::CONT);
    ledger.wait_until_flowing();
    let after = cluster.wait_until_whole();
    assert_eq!(after.primary.as_ref(), Some(&node.name));
    wait_for("nothing to be under way", RECOVERED_TIMEOUT, || {
        status::ask(node.http)?.node(&node.name)?.condition.progress.is_none().then_some(())
    });
    ledger.finish_and_check(&cluster);
}

#[test]
fn with_its_only_standby_out_of_order_it_recovers_and_waits_for_it() {
    let cluster = Cluster::start(2);
    let primary = cluster.wait_until_whole().primary.unwrap();
    let standby = cluster.names().into_iter().find(|name| *name != primary).unwrap();
    let ledger = Ledger::start(&cluster);
    ledger.wait_until_flowing();

    // A data directory that others may enter is not started; the node's agent lives, and with it the store's majority.
    let data = cluster.node(&standby).data();
    let mode = |mode| fs::set_permissions(&data, fs::Permissions::from_mode(mode)).expect("its mode");
    mode(0o777);
    cluster.kill_postgres(&standby);
    cluster.kill_postgres(&primary);
    let node = cluster.node(&primary).clone();
    // It is a primary again, in a later term, and admits nobody: what it shows is on no other disk.
    wait_for("it to be a primary again", RECOVERED_TIMEOUT, || {
        let status = status::ask(node.http)?;
        status.node(&primary).filter(|node| node.state == "quarantined").map(drop)
    });
    assert!(value_at(node.postgres, "SELECT 1").is_err(), "nobody is admitted");
    mode(0o700);
    ledger.wait_until_flowing();
    let after = cluster.wait_until_whole();
    assert_eq!(after.primary, Some(primary));
    ledger.finish_and_check(&cluster);
}
