//! Debian's package on a machine with systemd: installed, configured, started, killed, upgraded beneath a session, removed,
//! installed again, stopped as the machine stops it, purged. One server process all the way, and no data lost.

use std::path::{Path, PathBuf};
use std::process::Command;

use tests::booted::{Booted, Psql};
use tests::machine::skipped;

const PGHERD: &str = "systemctl show pgherd --value --property";
const POSTMASTER: &str = "head -n 1 /var/lib/pgherd/n1/data/postmaster.pid";
const READ_WRITE: &str = "-h 127.0.0.1 -p 6432 -U postgres postgres";

#[test]
fn a_package_is_installed_upgraded_beneath_a_session_and_removed() {
    if tests::machine::bin_under_test().is_some() {
        // The service finds PostgreSQL where Debian keeps it.
        return;
    }
    let machine = match Booted::boot() {
        Ok(machine) => machine,
        Err(why) => return skipped(why),
    };
    for version in ["1.0-1", "1.0-2"] {
        machine.bring(&package(&machine.folder(), version), &format!("/root/pgherd-{version}.deb"));
    }

    // Installed: whole, and not started before it is configured.
    let said = machine.said("dpkg -i /root/pgherd-1.0-1.deb");
    assert!(said.contains("pgherd config init"), "{said}");
    machine.said("test -s /usr/share/man/man1/pgherd-switchover.1.gz && test -s /usr/share/bash-completion/completions/pgherd");
    machine.said("systemctl is-enabled pgherd && systemctl start pgherd");
    assert_eq!(machine.said(&format!("{PGHERD} ActiveState")), "inactive");
    let units = "/usr/lib/systemd/system/pgherd.service /usr/lib/systemd/system/pgherd-postgresql.service";
    assert_eq!(machine.said(&format!("systemd-analyze verify {units}")), "");
    machine.said(
        "systemd-analyze security --offline=true --threshold=65 /usr/lib/systemd/system/pgherd.service",
    );

    // Configured as the package says, and started.
    machine.said("cd /root && pgherd config init --cluster shop --node n1=127.0.0.1 --out shop");
    machine.said("sed -i s/scram-sha-256/trust/g /root/shop/n1/pgherd.toml");
    machine.said("cp -rp /root/shop/n1 /var/lib/pgherd/n1 && mv /var/lib/pgherd/n1/pgherd.toml /etc/pgherd/");
    machine.said("chown -R postgres: /var/lib/pgherd/n1 && chown root:postgres /etc/pgherd/pgherd.toml");
    machine.said("systemctl start pgherd");
    let writable = format!("psql -XqAtc 'select not pg_is_in_recovery()' {READ_WRITE}");
    machine.wait_until("a primary", &writable, "t");
    let node = machine.said(&format!("{PGHERD} MainPID"));
    assert_eq!(machine.said("cat /var/lib/pgherd/n1/pgherd.pid"), node);
    assert_eq!(machine.said(&format!("stat -c %U /proc/{node}")), "postgres");
    assert!(machine.said("systemctl status pgherd").contains("node n1 of cluster shop"));
    assert!(machine.said("pgherd status --config /etc/pgherd/pgherd.toml").contains("n1"));
    let postmaster = machine.said(POSTMASTER);
    let same_postmaster = |when: &str| {
        let seen = machine.said(&format!("{POSTMASTER}; kill -0 {postmaster}"));
        assert_eq!(seen, postmaster, "another PostgreSQL {when}\n{}", machine.journal());
    };

    // The agent is restarted, and killed: PostgreSQL goes on.
    machine.said("systemctl restart pgherd");
    machine.wait_until("a primary after a restart", &writable, "t");
    same_postmaster("after a restart");

    // Upgraded while a session is in the middle of something.
    let mut session = Psql::open(&machine, READ_WRITE);
    session
        .ask("create temp table kept (n int); insert into kept values (7); begin; select pg_backend_pid()");
    let before = session.ask("select pg_backend_pid()");
    let old = machine.said(&format!("{PGHERD} MainPID"));
    let said = machine.said("dpkg -i /root/pgherd-1.0-2.deb");
    assert!(said.contains("has taken over"), "{said}");
    assert_eq!(machine.said("dpkg-query -W -f '${Version}' pgherd"), "1.0-2");
    same_postmaster("after the upgrade");
    assert_eq!(session.ask("select n from kept"), "7");
    assert_eq!(session.ask("select pg_backend_pid()"), before);
    let new = machine.said(&format!("{PGHERD} MainPID"));
    assert_ne!(new, old);
    assert_eq!(machine.said("cat /var/lib/pgherd/n1/pgherd.pid"), new);
    assert_eq!(machine.said(&format!("readlink /proc/{new}/exe")), "/usr/bin/pgherd");
    assert_eq!(machine.said(&format!("readlink /proc/{old}/exe")), "/usr/bin/pgherd (deleted)");
    assert_eq!(session.ask("commit; select 'done'"), "done");
    machine.wait_until("a primary after the upgrade", &writable, "t");

    // The new process is killed while the one before it still has a session, whose child it is: systemd starts the node anew.
    machine.said(&format!("kill -KILL {new}"));
    machine.wait_until(
        "another agent",
        &format!("{PGHERD} MainPID | grep -qvx -e {new} -e {old} -e 0 && {writable}"),
        "t",
    );
    assert_eq!(machine.said(&format!("{PGHERD} ActiveState")), "active");
    same_postmaster("after the agent was killed");
    drop(session);

    // Removed: the agent is gone, PostgreSQL, its data and the configuration are not.
    machine.said(&format!("psql -qc 'create table kept as select 8 as n' {READ_WRITE}"));
    let said = machine.said("dpkg -r pgherd");
    assert!(said.contains(&format!("kill -INT {postmaster}")), "{said}");
    assert_eq!(machine.run("pgrep -f 'pgherd [r]un'").stdout, b"");
    same_postmaster("after the removal");
    machine.said("test -s /etc/pgherd/pgherd.toml");
    let local =
        "runuser -u postgres -- psql -XqAt -h /var/lib/pgherd/n1/run -c 'select n from kept' postgres";
    assert_eq!(machine.said(local), "8");

    // Installed again it adopts that server; then both are stopped as the machine stops them.
    machine.said("dpkg -i /root/pgherd-1.0-2.deb && systemctl start pgherd");
    machine.wait_until("a primary once more", &writable, "t");
    same_postmaster("after another installation");
    machine.said("systemctl stop pgherd-postgresql");
    assert_eq!(machine.said(&format!("{PGHERD} ActiveState")), "inactive");
    let control = "/usr/lib/postgresql/*/bin/pg_controldata /var/lib/pgherd/n1/data | grep 'cluster state'";
    let state = machine.said(control);
    assert!(state.ends_with("shut down"), "{state}\n{}", machine.journal());

    // Purged: the configuration is gone, and the data is not.
    machine.said("dpkg -P pgherd && test ! -e /etc/pgherd && test -s /var/lib/pgherd/n1/data/PG_VERSION");
    machine.said("getent passwd postgres");
}

/// The package of the debug build, with this version.
fn package(out: &Path, version: &str) -> PathBuf {
    let mut xtask = Command::new(env!("CARGO"));
    xtask.args(["run", "--quiet", "--package", "xtask", "--", "package", "--debug", "--version", version]);
    let output = xtask.arg("--out").arg(out).output().expect("cargo starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).expect("text");
    PathBuf::from(said.lines().last().expect("the package's path"))
}
