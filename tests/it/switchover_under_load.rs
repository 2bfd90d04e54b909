//! pgbench through a proxy notices nothing of planned switchovers: no error, in any query mode, with a password or without.

use std::process::{Command, Stdio};
use std::time::Duration;

use tests::{Cluster, machine, wait_for};

/// Long enough for a switchover on a busy machine; it ends by itself.
const SECONDS: &str = "10";
const CLIENTS: &str = "4";
const MOMENT: Duration = Duration::from_secs(60);
const PASSWORD: &str = "a secret";
/// The harness itself comes without a password.
const HBA: &str = r#"
[postgres]
hba = ["host all postgres 127.0.0.1/32 trust", "host all ann 127.0.0.1/32 scram-sha-256"]
"#;

#[test]
fn clients_without_a_password_notice_nothing() {
    notice_nothing(&Cluster::start(3), "postgres", &["simple", "extended", "prepared"]);
}

#[test]
fn clients_with_a_password_notice_nothing() {
    let cluster = Cluster::start_configured(3, |_| HBA.to_owned());
    let primary = cluster.wait_until_whole().primary.unwrap();
    let role = format!(
        "CREATE ROLE ann LOGIN PASSWORD '{PASSWORD}'; GRANT CREATE ON SCHEMA public TO ann; SELECT 1"
    );
    tests::value_at(cluster.node(&primary).postgres, &role).unwrap();
    notice_nothing(&cluster, "ann", &["prepared"]);
}

fn notice_nothing(cluster: &Cluster, user: &str, modes: &[&str]) {
    let primary = cluster.wait_until_whole().primary.unwrap();
    let pgbench = |arguments: &[&str]| {
        let mut command = Command::new(machine::bin().join("pgbench"));
        // Not through the primary's own proxy: every byte takes the way that most take.
        let other = cluster.nodes().iter().find(|node| node.name != primary).unwrap();
        let port = other.read_write.to_string();
        command.args(["-h", "127.0.0.1", "-U", user, "-p", &port]).args(arguments).arg("postgres");
        command.env("PGPASSWORD", PASSWORD);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("pgbench starts")
    };
    assert!(pgbench(&["-i", "-s", "1"]).wait_with_output().unwrap().status.success());
    for mode in modes {
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
