//! One node grows to five and shrinks to one again, while a writer writes; a dead node is replaced; two nodes and a witness.

use std::fs;
use std::time::Duration;

use tests::cluster::Prepared;
use tests::ledger::{lost_on, value_at};
use tests::{Cluster, Ledger, wait_for};

/// A copy of the data directory, on a machine that runs other tests.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);

fn k(cluster: &Cluster) -> Option<u32> {
    Some(cluster.status()?.sync.k)
}

fn members(cluster: &Cluster) -> Vec<String> {
    let text = cluster.client(&["member", "list", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let members = report["members"].as_array().expect("members");
    members
        .iter()
        .filter(|member| member["state"] == "member")
        .map(|member| member["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[test]
fn one_grows_to_five_and_shrinks_to_one_under_a_writer() {
    let mut cluster = Cluster::start_with_room(1, 5);
    let first = cluster.nodes()[0].clone();
    let ledger = Ledger::start_through(vec![first.read_write]);
    for count in 2..=5 {
        cluster.add_node();
        cluster.wait_until_whole();
        wait_for("all to vote", CHANGE_TIMEOUT, || (members(&cluster).len() == count).then_some(()));
        wait_for("a standby to confirm commits", CHANGE_TIMEOUT, || k(&cluster).filter(|k| *k == 1));
        ledger.wait_until_flowing();
    }
    for name in ["n5", "n3", "n4", "n2"] {
        cluster.remove_node(name);
        ledger.wait_until_flowing();
    }
    assert_eq!(members(&cluster), ["n1"]);
    assert_eq!(k(&cluster), Some(0), "who is alone acknowledges alone");
    let slots = value_at(first.postgres, "SELECT count(*) FROM pg_replication_slots").unwrap();
    assert_eq!(slots, "0", "slots of nodes that were removed");
    let account = ledger.finish();
    assert_eq!(lost_on(&account, &first).unwrap(), 0);
}

#[test]
fn a_dead_node_is_removed_and_comes_back_with_nothing() {
    let mut cluster = Cluster::start(3);
    let primary = cluster.wait_until_whole().primary.unwrap();
    let ledger = Ledger::start(&cluster);
    let dead = cluster.names().into_iter().rfind(|name| *name != primary).unwrap();
    let node = cluster.node(&dead).clone();
    cluster.kill_node(&dead);
    cluster.client(&["member", "remove", &dead, "--wait"]);
    ledger.wait_until_flowing();
    // A new machine under the old name: the configuration and the certificate are there, nothing else.
    for entry in fs::read_dir(&node.dir).unwrap() {
        let path = entry.unwrap().path();
        match path.file_name().and_then(|name| name.to_str()) {
            Some("tls" | "pgherd.toml" | "pgherd.log") => {}
            _ if path.is_dir() => fs::remove_dir_all(path).unwrap(),
            _ => fs::remove_file(path).unwrap(),
        }
    }
    let (peer, postgres) = (format!("127.0.0.1:{}", node.peer), format!("127.0.0.1:{}", node.postgres));
    cluster.client(&["member", "add", &dead, "--peer", &peer, "--postgres", &postgres]);
    cluster.start_agent(&dead);
    wait_for("it to vote", CHANGE_TIMEOUT, || members(&cluster).contains(&dead).then_some(()));
    ledger.finish_and_check(&cluster);
}

/// Rewrites the files of three nodes so that the third has a vote and no PostgreSQL.
fn make_witness(prepared: &Prepared) {
    let witness = &prepared.nodes[2];
    let address = format!("postgres = \"127.0.0.1:{}\"\n", witness.postgres);
    for node in &prepared.nodes {
        let text = fs::read_to_string(node.config()).unwrap();
        assert!(text.contains(&address));
        let mut text = text.replace(&address, "kind = \"witness\"\n");
        if node.name == witness.name {
            text = text.replace("kind = \"full\"", "kind = \"witness\"");
        }
        fs::write(node.config(), text).unwrap();
    }
}

#[test]
fn two_nodes_and_a_witness_lose_nothing() {
    let prepared = Prepared::new(3);
    make_witness(&prepared);
    let mut cluster = Cluster::start_prepared(prepared);
    let old = cluster.wait_until_whole().primary.unwrap();
    let new = if old == "n1" { "n2" } else { "n1" };
    let hosts = ["n1", "n2"].map(|name| cluster.node(name).read_write).to_vec();
    let ledger = Ledger::start_through(hosts);

    cluster.kill_node(&old);
    // Nobody is left to confirm commits: the new primary is recorded, and opens when the old one follows it.
    wait_for("a takeover", CHANGE_TIMEOUT, || cluster.status().filter(|status| status.term > 1).map(drop));
    cluster.start_agent(&old);
    wait_for("the other node to be the primary", CHANGE_TIMEOUT, || {
        cluster.primary().filter(|primary| primary == new)
    });
    ledger.wait_until_flowing();

    // The standby dies: commits wait for it, and go on once it is back.
    cluster.kill_node(&old);
    cluster.start_agent(&old);
    ledger.wait_until_flowing();
    let account = ledger.finish();
    cluster.wait_until_whole();
    for name in ["n1", "n2"] {
        let node = cluster.node(name);
        wait_for("every row", CHANGE_TIMEOUT, || (lost_on(&account, node).ok()? == 0).then_some(()));
    }
}
