//! Keys, certificates and at last the authority of a running cluster are replaced, and nobody notices.

use std::fs;
use std::path::Path;

use tests::{Cluster, Ledger, Node};

fn pgherd(arguments: &[&str]) -> String {
    let output = tests::pgherd(arguments);
    let said =
        [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said).into_owned()).concat();
    assert!(output.status.success(), "pgherd {arguments:?}: {said}");
    said
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of a test is text")
}

fn renew(node: &Node, authority: &Path) {
    let before = fs::read(node.dir.join("tls/node.crt")).unwrap();
    let said = pgherd(&["certs", "renew", "--authority", text(authority), "--config", text(&node.config())]);
    assert!(said.contains("new key and certificate") && said.contains("relaunched"), "{said}");
    assert_ne!(fs::read(node.dir.join("tls/node.crt")).unwrap(), before);
}

#[test]
fn certificates_and_then_the_authority_are_replaced_while_the_cluster_runs() {
    // A process replaces another within a fraction of a second; on a busy machine it may take longer, and this is not about that.
    let cluster = Cluster::start_configured(3, |_| "[failover]\nfailure_timeout = \"20s\"".to_owned());
    let before = cluster.wait_until_whole();
    let ledger = Ledger::start(&cluster);
    let old = cluster.dir().join("authority");
    for node in cluster.nodes() {
        renew(node, &old);
        cluster.wait_until_whole();
    }
    ledger.wait_until_flowing();

    // Whoever is signed by an authority that the node does not know is refused before anything is written.
    let new = cluster.dir().join("authority2");
    pgherd(&["certs", "authority", "--cluster", "demo", "--out", text(&new)]);
    let first = &cluster.nodes()[0];
    let early =
        tests::pgherd(&["certs", "renew", "--authority", text(&new), "--config", text(&first.config())]);
    let said = String::from_utf8_lossy(&early.stderr).into_owned();
    assert!(!early.status.success() && said.contains("does not have the authority"), "{said}");

    let trust = |certificates: &[&Path]| {
        let both: String =
            certificates.iter().map(|dir| fs::read_to_string(dir.join("ca.crt")).unwrap()).collect();
        for node in cluster.nodes() {
            fs::write(node.dir.join("tls/ca.crt"), &both).unwrap();
        }
        cluster.pgherd_ok(&["relaunch"]);
        cluster.wait_until_whole();
    };
    trust(&[&old, &new]);
    for node in cluster.nodes() {
        renew(node, &new);
        cluster.wait_until_whole();
    }
    trust(&[&new]);
    let shown = pgherd(&["certs", "show", "--config", text(&first.config()), "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown.as_array().map(Vec::len), Some(2), "one authority and the node's own: {shown}");
    let after = cluster.wait_until_whole();
    assert_eq!((&after.primary, after.term), (&before.primary, before.term));
    ledger.wait_until_flowing();
    ledger.finish_and_check(&cluster);
}
