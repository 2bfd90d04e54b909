//! pgbench through a proxy notices nothing of planned switchovers: no error, in any query mode.

use std::process::{Command, Stdio};
use std::time::Duration;

use tests::{Cluster, machine, wait_for};

/// Long enough for a switchover on a busy machine; it ends by itself.
const SECONDS: &str = "10";
const CLIENTS: &str = "4";
const MOMENT: Duration = Duration::from_secs(60);

#[test]
fn clients_without_a_password_notice_nothing() {
    let cluster = Cluster::start(3);
    let primary = cluster.wait_until_whole().primary.unwrap();
    let pgbench = |arguments: &[&str]| {
        let mut command = Command::new(machine::bin().join("pgbench"));
        // Not through the primary's own proxy: every byte takes the way that most take.
        let other = cluster.nodes().iter().find(|node| node.name != primary).unwrap();
        let port = other.read_write.to_string();
        command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port]).args(arguments).arg("postgres");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("pgbench starts")
    };
    assert!(pgbench(&["-i", "-s", "1"]).wait_with_output().unwrap().status.success());
    for mode in ["simple", "extended", "prepared"] {
        let load = pgbench(&["-c", CLIENTS, "-T", SECONDS, "-n", "-M", mode]);
        let rows = || -> Option<u64> {
            let port = cluster.node(&cluster.primary()?).postgres;
            tests::value_at(port, "SELECT count(*) FROM pgbench_history").ok()?.parse().ok()
        };
        let before = rows();
        wait_for("transactions to flow", MOMENT, || (rows()? > before?).then_some(()));
        cluster.pgherd_ok(&["switchover"]);
        let after = rows();
        wait_for("transactions to flow again", MOMENT, || (rows()? > after?).then_some(()));
        let output = load.wait_with_output().unwrap();
        let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success(), "{mode}: {told:?}");
        assert!(told[0].contains("number of failed transactions: 0 "), "{mode}: {told:?}");
        assert!(!told[1].contains("error"), "{mode}: {told:?}");
        cluster.wait_until_whole();
    }
}
