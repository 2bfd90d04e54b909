//! Clients hold every connection slot of the primary, those reserved for superusers too: it lives, and nobody takes
//! over, whether its agent goes on or starts anew.

use std::time::Duration;

use tests::cluster::Node;
use tests::{Cluster, Ledger, wait_for};
use tokio_postgres::{Client, NoTls};

/// A flag is raised by the second probe of new connections, one a second.
const NOTICED_TIMEOUT: Duration = Duration::from_secs(30);
/// Long enough for an agent to be started anew on a busy machine.
const FAILURE_TIMEOUT: &str = "[failover]\nfailure_timeout = \"5s\"";
/// Twice that: a primary taken for dead would be replaced.
const STEADY: Duration = Duration::from_secs(10);

#[test]
fn a_primary_without_a_free_slot_is_alive() {
    let mut cluster = Cluster::start_configured(3, |_| FAILURE_TIMEOUT.to_owned());
    let before = cluster.wait_until_whole();
    let primary = before.primary.clone().unwrap();
    let node = cluster.node(&primary).clone();
    // One writer goes on through the proxy, on a connection that it has.
    let ledger = Ledger::start(&cluster);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut clients = runtime.block_on(take_every_slot(&node));

    wait_for("the status to say so", NOTICED_TIMEOUT, || crowded(&node).filter(|crowded| *crowded));
    let acknowledged = ledger.account().acknowledged.len();
    stays(&cluster, &primary, before.term);
    assert!(ledger.account().acknowledged.len() > acknowledged, "who is in goes on writing");
    assert!(cluster.status().unwrap().node(&primary).unwrap().healthy);

    // A new agent has no connection of before, and gets in all the same.
    cluster.kill_agent(&primary);
    cluster.start_agent(&primary);
    wait_for("the new agent to see it", NOTICED_TIMEOUT, || crowded(&node).filter(|crowded| *crowded));
    let taken = runtime.block_on(take_every_slot(&node));
    clients.extend(taken);
    let now = cluster.wait_until_whole();
    assert_eq!((now.term, now.primary), (before.term, Some(primary.clone())), "nobody took over");
    stays(&cluster, &primary, before.term);

    drop(clients);
    wait_for("the status to be as before", NOTICED_TIMEOUT, || crowded(&node).filter(|crowded| !crowded));
    ledger.finish_and_check(&cluster);
}

/// Superusers all, straight to the server.
async fn take_every_slot(node: &Node) -> Vec<Client> {
    let address = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", node.postgres);
    let mut clients = Vec::new();
    // A client that was refused a moment ago may have left its slot: three refusals in a row are the end.
    let mut refused = 0;
    while refused < 3 {
        match tokio_postgres::connect(&address, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                clients.push(client);
                refused = 0;
            }
            Err(error) => {
                let text = error.as_db_error().map(|error| error.code().code().to_owned());
                assert_eq!(text.as_deref(), Some("53300"), "{error}");
                refused += 1;
            }
        }
    }
    clients
}

fn crowded(node: &Node) -> Option<bool> {
    let status = tests::status::ask(node.http)?;
    Some(status.node(&node.name)?.condition.crowded)
}

/// Nothing changes for a while: the condition is looked at all the time, and its end is the passing of the time.
#[track_caller]
fn stays(cluster: &Cluster, primary: &str, term: u64) {
    let changed = tests::wait::wait_at_most(STEADY, || {
        cluster.status().filter(|status| status.term != term || status.primary.as_deref() != Some(primary))
    });
    assert!(changed.is_none(), "{changed:?}");
}
