//! `pgherd doctor`: nothing to say of a cluster that is well, and each fault that is made is told with what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use tests::ledger::value_at;
use tests::{Cluster, Node, Prepared, wait_for};

/// The archiver tries three times, a second between them; a slot, a file and a port show at the next look.
const TOLD: Duration = Duration::from_secs(60);

/// What `pgherd --help` says of an error that the doctor found.
const UNSOUND: i32 = 7;

fn cluster() -> Cluster {
    let prepared = Prepared::new(3);
    for node in &prepared.nodes {
        tests::cluster::configure(
            node,
            "[postgres.parameters]\narchive_mode = \"on\"\narchive_command = \"true\"\n",
        );
    }
    Cluster::start_prepared(prepared)
}

fn exit(output: &Output) -> i32 {
    output.status.code().expect("it ended by itself")
}

/// The findings of this check that are worse than ok: of a node, or (`None`) between the nodes.
fn told(cluster: &Cluster, node: Option<&str>, check: &str) -> (i32, Vec<Value>) {
    let output = cluster.pgherd(&["doctor", "--json"]);
    let examined: Value = serde_json::from_slice(&output.stdout).expect("JSON, whatever was found");
    let findings = match node {
        None => examined["between"].clone(),
        Some(node) => {
            let nodes = examined["nodes"].as_array().expect("nodes");
            nodes
                .iter()
                .find(|report| report["node"] == node)
                .map_or(Value::Null, |report| report["findings"].clone())
        }
    };
    let found = findings.as_array().cloned().unwrap_or_default();
    (
        exit(&output),
        found.into_iter().filter(|finding| finding["check"] == check && finding["mark"] != "ok").collect(),
    )
}

/// Waits until a finding of this check is told as `mark` with `words`; it must say why it matters and what to type. Returns
/// the exit code with which it was told.
#[track_caller]
fn wait_until_told(cluster: &Cluster, node: Option<&str>, check: &str, mark: &str, words: &str) -> i32 {
    let (exit, finding) = wait_for(&format!("{check} to be told: {words}"), TOLD, || {
        let (exit, findings) = told(cluster, node, check);
        let is_it = |finding: &Value| {
            finding["mark"] == mark && finding["what"].as_str().unwrap_or_default().contains(words)
        };
        Some((exit, findings.into_iter().find(is_it)?))
    });
    assert!(finding["why"].is_string() && finding["next"].is_string(), "{finding}");
    exit
}

/// Puts a certificate in the place of the node's own that ends in so many days. Only a start would ask who signed it.
fn shorten(node: &Node, days: i64) {
    let end = jiff::Zoned::now().date().saturating_add(jiff::Span::new().days(days));
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec![node.name.clone()]).expect("a name");
    params.not_after = rcgen::date_time_ymd(end.year().into(), end.month() as u8, end.day() as u8);
    let made = params.self_signed(&key).expect("a certificate");
    fs::write(node.dir.join("tls/node.crt"), made.pem()).expect("its place");
}

#[test]
fn a_cluster_that_is_well_and_each_fault_that_is_made() {
    let mut cluster = cluster();
    // The machine under the test may be slow or nearly full; nothing else is to be told, once the sync set has grown.
    let is_loud = |line: &&str| {
        line.starts_with("  warning") && !line.contains("  fsync  ") && !line.contains("  space  ")
    };
    let shown = wait_for("a doctor who has nothing to say", TOLD, || {
        let well = cluster.pgherd(&["doctor"]);
        let shown = String::from_utf8_lossy(&well.stdout).into_owned();
        eprintln!("{shown}");
        (exit(&well) == 0 && !shown.lines().any(|line| is_loud(&line))).then_some(shown)
    });
    assert!(shown.contains("3 nodes"), "{shown}");
    let all = cluster.pgherd_ok(&["doctor", "--all"]);
    for expected in ["certificates", "from row to column", "sync_set", "one_way", "archive"] {
        assert!(all.contains(expected), "{expected} is missing in\n{all}");
    }
    assert_eq!(exit(&cluster.pgherd(&["doctor", "--node", "n9"])), 2);

    let primary = cluster.primary().expect("a primary");
    let others: Vec<String> = cluster.names().into_iter().filter(|name| *name != primary).collect();
    let node = cluster.node(&primary).clone();

    // A slot that nobody reads: a warning, which counts only when that is asked for.
    value_at(node.postgres, "SELECT pg_create_physical_replication_slot('forgotten', true)").unwrap();
    for _ in 0..5 {
        value_at(node.postgres, "SELECT pg_logical_emit_message(true, 'x', '')").unwrap();
        value_at(node.postgres, "SELECT pg_switch_wal()").unwrap();
    }
    assert_eq!(wait_until_told(&cluster, Some(&primary), "slots", "warning", "slot forgotten"), 0);
    assert_eq!(exit(&cluster.pgherd(&["doctor", "--strict"])), UNSOUND);
    value_at(node.postgres, "SELECT pg_drop_replication_slot('forgotten')").unwrap();

    // Keys that others can read, on one node of three.
    let exposed = cluster.node(&others[0]).dir.join("tls/node.key");
    fs::set_permissions(&exposed, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        wait_until_told(&cluster, Some(&others[0]), "secrets", "error", "may be read by others"),
        UNSOUND
    );
    let whole = cluster.pgherd(&["doctor", "--node", &others[1]]);
    assert_eq!(exit(&whole), 0, "{}", String::from_utf8_lossy(&whole.stdout));
    let text = String::from_utf8_lossy(&cluster.pgherd(&["doctor"]).stdout).into_owned();
    assert!(text.contains(&format!("chmod 600 {}", exposed.display())), "{text}");
    fs::set_permissions(&exposed, fs::Permissions::from_mode(0o600)).unwrap();

    // Certificates near their end.
    let certificate = cluster.node(&others[1]).dir.join("tls/node.crt");
    let own = fs::read(&certificate).expect("its certificate");
    shorten(cluster.node(&others[1]), 20);
    wait_until_told(&cluster, Some(&others[1]), "certificates", "warning", "expires in");
    shorten(cluster.node(&others[1]), 5);
    assert_eq!(wait_until_told(&cluster, Some(&others[1]), "certificates", "error", "expires in"), UNSOUND);
    fs::write(&certificate, own).expect("its place");

    // An archive that takes nothing.
    cluster.pgherd_ok(&["config", "set", "postgres.parameters.archive_command=/bin/false", "--yes"]);
    value_at(node.postgres, "SELECT pg_logical_emit_message(true, 'x', '')").unwrap();
    value_at(node.postgres, "SELECT pg_switch_wal()").unwrap();
    assert_eq!(wait_until_told(&cluster, Some(&primary), "archive", "error", "archiving fails"), UNSOUND);
    cluster.pgherd_ok(&["config", "set", "postgres.parameters.archive_command=/bin/true", "--yes"]);
    wait_for("the archive to be well again", TOLD, || {
        told(&cluster, Some(&primary), "archive").1.is_empty().then_some(())
    });

    // A node that is gone: unexamined, and not reached from the others.
    cluster.kill_node(&others[1]);
    assert_eq!(wait_until_told(&cluster, None, "examined", "error", &others[1]), UNSOUND);
    wait_until_told(&cluster, Some(&primary), "network", "error", &format!("peer port of {}", others[1]));
    wait_until_told(&cluster, Some(&primary), "sync_set", "warning", "members of the sync set");
    let text = String::from_utf8_lossy(&cluster.pgherd(&["doctor"]).stdout).into_owned();
    assert!(text.contains("cut / cut / cut"), "{text}");
}
