//! A setting is raised on one node: what needs a restart is shown with both values, and a standby that its primary has
//! outgrown is started anew with values as large, by itself.

use std::time::Duration;

use tests::ledger::value_at;
use tests::{Cluster, Ledger, Node, wait_for};

/// Ten times the bound for the p99: this is about safety, the bench measures speed.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);
/// The settings are looked at every two seconds.
const NOTICED_TIMEOUT: Duration = Duration::from_secs(30);
/// Each takeover goes to the raised node or to the other replica; so many to the wrong one are no accident.
const TAKEOVERS_MAX: u32 = 6;

fn setting(node: &Node, name: &str) -> Option<String> {
    value_at(node.postgres, &format!("SELECT current_setting('{name}')")).ok()
}

#[test]
fn a_raised_setting_is_pending_and_outgrown_standbys_follow_it() {
    let mut cluster = Cluster::start(3);
    let before = cluster.wait_until_whole();
    let primary = before.primary.clone().unwrap();
    let raised = before.nodes.iter().find(|node| node.name != primary).unwrap().name.clone();
    let node = cluster.node(&raised).clone();
    let ledger = Ledger::start(&cluster);

    // A new agent with a new configuration adopts the running server.
    cluster.kill_agent(&raised);
    let text = std::fs::read_to_string(node.config()).unwrap();
    let parameters = "[postgres.parameters]\nmax_connections = \"150\"\nwork_mem = \"7MB\"\n";
    std::fs::write(node.config(), format!("{text}\n{parameters}")).unwrap();
    cluster.start_agent(&raised);
    let pending = wait_for("the pending restart to be shown", NOTICED_TIMEOUT, || {
        tests::status::ask(node.http)?.node(&raised)?.condition.pending.first().cloned()
    });
    assert_eq!((pending.name.as_str(), pending.old.as_str()), ("max_connections", "100"));
    assert_eq!(pending.new, "150");
    wait_for("what needs no restart to be in force", NOTICED_TIMEOUT, || {
        setting(&node, "work_mem").filter(|value| value == "7MB")
    });

    cluster.kill_postgres(&raised);
    wait_for("it to run with the new value", TAKEOVER_TIMEOUT, || {
        setting(&node, "max_connections").filter(|value| value == "150")
    });
    cluster.wait_until_whole();
    wait_for("nothing to be pending", NOTICED_TIMEOUT, || {
        tests::status::ask(node.http)?.node(&raised)?.condition.pending.is_empty().then_some(())
    });

    // It becomes primary with larger settings than its standbys run with.
    for _ in 0..TAKEOVERS_MAX {
        let status = cluster.wait_until_whole();
        let primary = status.primary.clone().unwrap();
        if primary == raised {
            break;
        }
        cluster.kill_postgres(&primary);
        wait_for("a primary in a later term", TAKEOVER_TIMEOUT, || {
            cluster.status().filter(|now| now.term > status.term && now.primary.is_some())
        });
    }
    assert_eq!(cluster.wait_until_whole().primary, Some(raised));
    for node in cluster.nodes() {
        let what = format!("{} to have settings as large as the primary's", node.name);
        wait_for(&what, TAKEOVER_TIMEOUT, || setting(node, "max_connections").filter(|value| value == "150"));
    }
    ledger.wait_until_flowing();
    ledger.finish_and_check(&cluster);
}
