//! What is set once for all nodes: applied by one node after another under load, also by one that was away, and taken back when one
//! cannot.

use std::process::Output;
use std::time::Duration;

use tests::ledger::{session_at, value_at};
use tests::{Cluster, Ledger, Node, wait_for};

const APPLIED_TIMEOUT: Duration = Duration::from_secs(60);

fn setting(node: &Node, name: &str) -> Option<String> {
    value_at(node.postgres, &format!("SELECT current_setting('{name}')")).ok()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn settings_are_applied_by_one_node_after_another_and_no_session_ends() {
    // A process replaces another within a fraction of a second; on a busy machine it may take longer, and this is not about that.
    let cluster = Cluster::start_configured(3, |_| "[failover]\nfailure_timeout = \"20s\"".to_owned());
    let before = cluster.wait_until_whole();
    let ledger = Ledger::start(&cluster);
    let primary = before.primary.clone().unwrap();
    let mut idle = session_at(cluster.node(&primary).read_write);

    // What pgherd itself reads, what PostgreSQL reads while it runs, and what it takes at its start.
    let settings = [
        "sync.maximum_lag_on_failover=12345",
        "postgres.parameters.work_mem=9MB",
        "postgres.parameters.max_connections=130",
    ];
    let agents: Vec<_> = cluster.nodes().iter().map(Node::agent_pid).collect();
    let told = cluster.pgherd_ok(&[&["config", "set", "--yes"], &settings[..]].concat());
    assert!(told.contains("PostgreSQL restarts") && told.contains("Configuration 1 is in force"), "{told}");
    for node in cluster.nodes() {
        assert_eq!(setting(node, "work_mem").as_deref(), Some("9MB"), "{}", node.name);
        assert_eq!(setting(node, "max_connections").as_deref(), Some("130"), "{}", node.name);
    }
    let relaunched: Vec<_> = cluster.nodes().iter().map(Node::agent_pid).collect();
    assert!(agents.iter().zip(&relaunched).all(|(old, new)| old != new), "each node's process is a new one");
    assert_eq!(cluster.wait_until_whole().primary.as_ref(), Some(&primary), "it handed over to itself");
    idle.execute("SELECT 1").expect("a session between two transactions goes on");
    ledger.wait_until_flowing();

    let shown = cluster.pgherd_ok(&["config", "show"]);
    assert!(
        shown.contains("Applied by every node") && shown.contains("maximum_lag_on_failover = 12345"),
        "{shown}"
    );
    let shown = cluster.pgherd_ok(&["config", "show", "--all"]);
    assert!(
        shown.lines().any(|line| line.contains("work_mem") && line.contains("set for all nodes")),
        "{shown}"
    );

    // PostgreSQL only reloads: the process stays.
    cluster.pgherd_ok(&["config", "set", "--yes", "--unset", "postgres.parameters.work_mem"]);
    assert_eq!(setting(cluster.node(&primary), "work_mem").as_deref(), Some("4MB"));
    assert_eq!(cluster.nodes().iter().map(Node::agent_pid).collect::<Vec<_>>(), relaunched);

    cluster.pgherd_ok(&["config", "rollback", "--yes"]);
    for node in cluster.nodes() {
        assert_eq!(setting(node, "work_mem").as_deref(), Some("9MB"), "{}", node.name);
    }
    ledger.finish_and_check(&cluster);
}

#[test]
fn what_is_wrong_is_refused_and_what_one_node_cannot_apply_is_taken_back() {
    let cluster = Cluster::start(3);
    let primary = cluster.wait_until_whole().primary.unwrap();
    for (setting, words) in [
        ("sync.standbyss=1", "did you mean sync.standbys?"),
        ("node.name=n9", "is a node's own"),
        ("postgres.parameters.work_mem=banana", "invalid value for parameter \"work_mem\""),
        ("postgres.parameters.wrok_mem=1MB", "unrecognized configuration parameter"),
        ("failover.heartbeat=9s", "at least twice failover.heartbeat"),
    ] {
        let output = cluster.pgherd(&["config", "set", "--yes", setting]);
        assert!(!output.status.success() && said(&output).contains(words), "{setting}: {}", said(&output));
    }
    let unconfirmed = cluster.pgherd(&["config", "set", "sync.standbys=0"]);
    assert!(said(&unconfirmed).contains("add --yes"), "{}", said(&unconfirmed));
    assert!(cluster.pgherd_ok(&["config", "show"]).contains("Nothing is set"));

    // Right everywhere but on one replica, whose own file says what does not go together with it.
    let replica = cluster.names().into_iter().rfind(|name| *name != primary).unwrap();
    tests::configure(cluster.node(&replica), "[postgres.parameters]\nhot_standby_feedback = \"off\"");
    let text = "[postgres.parameters]\nwork_mem = \"7MB\"\n[slots.feed]\ntype = \"logical\"\ndatabase = \"postgres\"\nowner = \"test\"\n";
    let file = cluster.dir().join("all.toml");
    std::fs::write(&file, text).unwrap();
    let output = cluster.pgherd(&["config", "apply", "--yes", &file.to_string_lossy()]);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(6), "{told}");
    assert!(
        told.contains("every node has what it had before") && told.contains("hot_standby_feedback"),
        "{told}"
    );
    for node in cluster.nodes() {
        assert_eq!(setting(node, "work_mem").as_deref(), Some("4MB"), "{}", node.name);
    }
    // Who was to come after it never had it, not for a moment.
    let events = cluster.pgherd_ok(&["events", "--json"]);
    assert!(!events.contains("applied the cluster's configuration 1"), "{events}");
    // What only PostgreSQL reads is taken back just so.
    let output =
        cluster.pgherd(&["config", "set", "--yes", "postgres.hba=[\"host all all 127.0.0.1/32 trsut\"]"]);
    assert!(!output.status.success() && said(&output).contains("trsut"), "{}", said(&output));
    assert!(value_at(cluster.node(&primary).read_write, "SELECT 1").is_ok(), "nobody is locked out");
    let shown = cluster.pgherd_ok(&["config", "show", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&report["number"], &report["text"]), (&2.into(), &"".into()), "{shown}");
}

#[test]
fn a_value_with_which_postgresql_does_not_start_is_taken_back_before_the_primary_has_it() {
    // A process replaces another within a fraction of a second; on a busy machine it may take longer, and this is not about that.
    let cluster = Cluster::start_configured(3, |_| "[failover]\nfailure_timeout = \"20s\"".to_owned());
    let before = cluster.wait_until_whole();
    let ledger = Ledger::start(&cluster);
    // More than there is anywhere; PostgreSQL sees it when it asks for it.
    let huge = "postgres.parameters.shared_buffers=4000GB";
    let output = cluster.pgherd(&["config", "set", "--yes", "--wait", "15s", huge]);
    let told = said(&output);
    assert_eq!(output.status.code(), Some(6), "{told}");
    assert!(told.contains("every node has what it had before"), "{told}");
    let after = cluster.wait_until_whole();
    assert_eq!((&after.primary, after.term), (&before.primary, before.term), "the primary was not touched");
    ledger.wait_until_flowing();
    ledger.finish_and_check(&cluster);
}

#[test]
fn who_was_away_applies_it_when_he_is_back() {
    let mut cluster = Cluster::start(3);
    let primary = cluster.wait_until_whole().primary.unwrap();
    let replica = cluster.names().into_iter().find(|name| *name != primary).unwrap();
    cluster.kill_agent(&replica);
    wait_for("it to be missed", APPLIED_TIMEOUT, || {
        let status = cluster.status()?;
        status.node(&replica).filter(|node| node.state == "unreachable").map(drop)
    });
    let told = cluster.pgherd_ok(&[
        "config",
        "set",
        "--yes",
        "postgres.parameters.work_mem=9MB",
        "proxy.pool_size=7",
    ]);
    assert!(told.contains(&format!("{replica} is away")), "{told}");
    assert_eq!(setting(cluster.node(&replica), "work_mem").as_deref(), Some("4MB"));
    cluster.start_agent(&replica);
    wait_for("it to have what was set meanwhile", APPLIED_TIMEOUT, || {
        setting(cluster.node(&replica), "work_mem").filter(|value| value == "9MB")
    });
    wait_for("it to say so", APPLIED_TIMEOUT, || {
        let shown = cluster.pgherd_ok(&["config", "diff"]);
        shown.contains("Number 1. Applied by every node").then_some(())
    });
}
