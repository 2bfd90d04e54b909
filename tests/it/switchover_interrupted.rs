//! A switchover is killed after each of its steps, on either side: it ends, nothing is lost, nobody is held.

use std::time::Duration;

use tests::{Cluster, Ledger, requests, wait_for};

/// The step is over in some milliseconds; it may be missed, and then the kill comes a step later.
const STEP_TIMEOUT: Duration = Duration::from_secs(20);
/// A takeover after the loss of a node, and the closing of the request by whoever is primary then.
const END_TIMEOUT: Duration = Duration::from_secs(90);

#[derive(Clone, Copy, Debug)]
enum Victim {
    OldAgent,
    OldNode,
    NewNode,
}

/// The furthest stage that any node knows of request `id`.
fn stage(cluster: &Cluster, id: u64) -> Option<String> {
    const ORDER: [&str; 6] = ["waiting", "preparing", "holding", "stopping", "done", "failed"];
    let known = cluster.nodes().iter().filter_map(|node| requests(node.http)).flatten();
    let stages = known.filter(|request| request.id == id).map(|request| request.stage);
    stages.max_by_key(|stage| ORDER.iter().position(|known| known == stage))
}

fn interrupted_at(step: &str, victim: Victim) {
    let mut cluster = Cluster::start(3);
    let old = cluster.wait_until_whole().primary.unwrap();
    let new = cluster.names().into_iter().find(|name| *name != old).unwrap();
    let ledger = Ledger::start(&cluster);
    ledger.wait_until_flowing();
    cluster.pgherd_ok(&["switchover", "--to", &new, "--no-wait"]);
    wait_for(&format!("the step {step}"), STEP_TIMEOUT, || {
        stage(&cluster, 1).filter(|seen| seen == step || seen == "stopping" || seen == "done")
    });
    let killed = match victim {
        Victim::OldAgent => {
            cluster.kill_agent(&old);
            &old
        }
        Victim::OldNode => {
            cluster.kill_node(&old);
            &old
        }
        Victim::NewNode => {
            cluster.kill_node(&new);
            &new
        }
    };
    // Two of three are left: that is enough for everything, the request's end included.
    ledger.wait_until_flowing();
    wait_for("the end of the request", END_TIMEOUT, || {
        let known = cluster.nodes().iter().filter_map(|node| requests(node.http)).flatten();
        known.into_iter().find(|request| request.id == 1 && request.has_ended())
    });
    cluster.start_agent(killed);
    cluster.wait_until_whole();
    ledger.finish_and_check(&cluster);
}

#[test]
fn the_old_primary_loses_its_agent() {
    for step in ["preparing", "holding", "stopping"] {
        interrupted_at(step, Victim::OldAgent);
    }
}

#[test]
fn the_old_primary_is_lost() {
    for step in ["preparing", "holding", "stopping"] {
        interrupted_at(step, Victim::OldNode);
    }
}

#[test]
fn the_successor_is_lost() {
    for step in ["preparing", "holding", "stopping"] {
        interrupted_at(step, Victim::NewNode);
    }
}
