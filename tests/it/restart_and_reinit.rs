//! Servers are restarted and copied anew on request, under load, and nothing is lost.

use tests::{Cluster, Ledger};

#[test]
fn every_node_restarts_one_after_the_other() {
    let cluster = Cluster::start(3);
    let before = cluster.wait_until_whole();
    let ledger = Ledger::start(&cluster);
    for name in cluster.names() {
        let pid = cluster.node(&name).postmaster_pid();
        cluster.pgherd_ok(&["restart", &name]);
        assert_ne!(cluster.node(&name).postmaster_pid(), pid, "{name} has a new postmaster");
        cluster.wait_until_whole();
        ledger.wait_until_flowing();
    }
    // The primary handed over to itself.
    assert_eq!(cluster.primary(), before.primary);
    ledger.finish_and_check(&cluster);
}

#[test]
fn a_replica_is_copied_anew() {
    let cluster = Cluster::start(3);
    let primary = cluster.wait_until_whole().primary.unwrap();
    let replica = cluster.names().into_iter().find(|name| *name != primary).unwrap();
    let ledger = Ledger::start(&cluster);
    let mark = cluster.node(&replica).data().join("of_the_old_copy");
    std::fs::write(&mark, "").unwrap();
    let told = cluster.pgherd_ok(&["reinit", &replica]);
    assert!(told.contains("has a new copy and streams"), "{told}");
    assert!(!mark.exists(), "the old copy is gone");
    cluster.wait_until_whole();
    ledger.finish_and_check(&cluster);
}

#[test]
fn a_reload_applies_what_the_file_says_now() {
    let cluster = Cluster::start(3);
    let primary = cluster.wait_until_whole().primary.unwrap();
    let node = cluster.node(&primary);
    tests::configure(node, "[postgres.parameters]\nwork_mem = \"5MB\"");
    cluster.pgherd_ok(&["reload", &primary]);
    assert_eq!(tests::value_at(node.postgres, "SHOW work_mem").unwrap(), "5MB");
}

#[test]
fn a_line_of_pg_hba_that_postgresql_cannot_read_fails_the_reload_and_changes_nothing() {
    let cluster = Cluster::start(1);
    let node = cluster.node("n1");
    let rules = || std::fs::read_to_string(node.dir.join("conf/pg_hba.conf")).unwrap();
    cluster.wait_until_whole();
    let before = rules();
    node.edit_config(|config| {
        let lines = vec!["host all all 127.0.0.1/32 trsut".into()];
        config["postgres"].as_table_mut().unwrap().insert("hba".into(), toml::Value::Array(lines));
    });
    let output = cluster.pgherd(&["reload", "n1"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("trsut"), "{said}");
    assert_eq!(rules(), before);
    assert_eq!(tests::value_at(node.read_write, "SELECT 1").unwrap(), "1");
}
