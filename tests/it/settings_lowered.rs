//! A setting that standbys need as large as their primary's is lowered: on the primary first, at a restart that somebody
//! asks for. A takeover in between puts it off and breaks nothing.

use std::time::Duration;

use tests::ledger::value_at;
use tests::{Cluster, Ledger, Node, wait_for};

const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);
/// The settings are looked at every two seconds.
const NOTICED_TIMEOUT: Duration = Duration::from_secs(30);

fn max_connections(node: &Node) -> Option<String> {
    value_at(node.postgres, "SELECT current_setting('max_connections')").ok()
}

/// What the node's status says of the setting: both values, and what a restart lacks.
fn pending(cluster: &Cluster, name: &str) -> Option<(String, String, Option<String>)> {
    let status = cluster.status()?;
    let pending = &status.node(name)?.condition.pending;
    let setting = pending.iter().find(|setting| setting.name == "max_connections")?;
    Some((setting.old.clone(), setting.new.clone(), setting.note.clone()))
}

#[track_caller]
fn wait_for_pending(cluster: &Cluster, name: &str, primary_first: bool) {
    wait_for(&format!("{name} to show the pending restart"), NOTICED_TIMEOUT, || {
        let (old, new, note) = pending(cluster, name)?;
        let waits = note.is_some_and(|note| note.contains("primary has to be restarted"));
        (old == "100" && new == "60" && waits == primary_first).then_some(())
    });
}

#[track_caller]
fn restart(cluster: &Cluster, name: &str) {
    cluster.pgherd_ok(&["restart", name]);
    cluster.wait_until_whole();
}

#[test]
fn the_primary_comes_first_and_a_takeover_in_between_puts_it_off() {
    let cluster = Cluster::start(3);
    let before = cluster.wait_until_whole();
    let ledger = Ledger::start(&cluster);
    let first = before.primary.clone().unwrap();
    for node in cluster.nodes() {
        tests::configure(node, "[postgres.parameters]\nmax_connections = \"60\"");
        cluster.pgherd_ok(&["reload", &node.name]);
    }
    for name in cluster.names() {
        wait_for_pending(&cluster, &name, name != first);
    }
    // A replica that is restarted before its primary keeps what it has, and goes on streaming.
    let replica = cluster.names().into_iter().find(|name| *name != first).unwrap();
    restart(&cluster, &replica);
    assert_eq!(max_connections(cluster.node(&replica)).as_deref(), Some("100"));

    restart(&cluster, &first);
    assert_eq!(cluster.primary().as_ref(), Some(&first));
    assert_eq!(max_connections(cluster.node(&first)).as_deref(), Some("60"));
    wait_for_pending(&cluster, &replica, false);
    ledger.wait_until_flowing();

    // The successor runs with the larger value still; who was lowered already follows it.
    cluster.kill_postgres(&first);
    let second = cluster.wait_for_primary_other_than(&first, TAKEOVER_TIMEOUT);
    cluster.wait_until_whole();
    assert_eq!(max_connections(cluster.node(&second)).as_deref(), Some("100"));
    wait_for("the old primary to have settings as large", TAKEOVER_TIMEOUT, || {
        max_connections(cluster.node(&first)).filter(|value| value == "100")
    });
    cluster.wait_until_whole();
    wait_for_pending(&cluster, &second, false);
    wait_for_pending(&cluster, &first, true);

    restart(&cluster, &second);
    assert_eq!(max_connections(cluster.node(&second)).as_deref(), Some("60"));
    for name in cluster.names().into_iter().filter(|name| *name != second) {
        wait_for_pending(&cluster, &name, false);
        restart(&cluster, &name);
    }
    for node in cluster.nodes() {
        assert_eq!(max_connections(node).as_deref(), Some("60"), "{}", node.name);
        wait_for("nothing to be pending", NOTICED_TIMEOUT, || {
            cluster.status()?.node(&node.name)?.condition.pending.is_empty().then_some(())
        });
    }
    ledger.wait_until_flowing();
    ledger.finish_and_check(&cluster);
}
