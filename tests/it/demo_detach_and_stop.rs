//! The demo as its user meets it: detached and stopped, in the foreground and interrupted, resumed, refused.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use tests::cluster::{WHOLE_TIMEOUT, command, folder, pgherd};
use tests::ledger::value_at;
use tests::processes::{self, belonging_to};
use tests::{Ports, wait::wait_at_most, wait_for};

/// Agents, then the primary, then the replicas, each with its patience.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// A demo's folder; whatever way the test ends, nothing in it is left running.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(folder())
    }

    fn demo(&self) -> String {
        self.0.path().join("demo").to_str().unwrap().to_owned()
    }

    fn running(&self) -> usize {
        belonging_to(self.0.path()).len()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        wait_at_most(STOP_TIMEOUT, || {
            let left = belonging_to(self.0.path());
            left.iter().for_each(|process| processes::signal(process.pid, Signal::KILL));
            left.is_empty().then_some(())
        });
    }
}

#[test]
fn a_detached_demo_serves_until_it_is_stopped_and_resumes_with_its_data() {
    // Claimed before the folder, so released after everything in it has ended.
    let ports = Ports::claim(3);
    let folder = Folder::new();
    let dir = folder.demo();
    let (base, read_write) = (ports.base.to_string(), ports.base + 1);

    let started = pgherd(&["demo", "--detach", "--dir", &dir, "--base-port", &base]);
    let said = String::from_utf8(started.stdout).unwrap();
    assert!(started.status.success(), "{said}{}", String::from_utf8_lossy(&started.stderr));
    assert!(said.contains(&format!("psql -h 127.0.0.1 -p {read_write} -U postgres postgres")), "{said}");
    value_at(read_write, "CREATE TABLE kept AS SELECT 42 AS answer; SELECT 1").unwrap();

    let again = pgherd(&["demo", "--detach", "--dir", &dir]);
    assert_eq!(again.status.code(), Some(5), "it is running already");
    let stopped = pgherd(&["demo", "--stop", "--dir", &dir]);
    assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    assert_eq!(folder.running(), 0, "{:?}", belonging_to(folder.0.path()));
    assert!(pgherd(&["demo", "--stop", "--dir", &dir]).status.success(), "stopping twice is no error");
    assert_eq!(pgherd(&["status", "--dir", &dir]).status.code(), Some(4), "no node answers");

    let resumed = pgherd(&["demo", "--detach", "--dir", &dir]);
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    assert_eq!(value_at(read_write, "SELECT answer FROM kept").unwrap(), "42");
    assert!(pgherd(&["demo", "--stop", "--dir", &dir]).status.success());
    assert_eq!(folder.running(), 0);
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let ports = Ports::claim(3);
    let folder = Folder::new();
    let dir = folder.demo();
    let base = ports.base.to_string();
    let said = folder.0.path().join("said");
    let mut demo = command(&["demo", "--dir", &dir, "--base-port", &base])
        .stdout(File::create(&said).unwrap())
        .spawn()
        .unwrap();
    wait_for("the demo to be up", WHOLE_TIMEOUT, || {
        assert_eq!(demo.try_wait().unwrap(), None, "the demo ended by itself");
        std::fs::read_to_string(&said).unwrap().contains("The cluster is up").then_some(())
    });
    processes::signal(demo.id() as i32, Signal::INT);
    let status = wait_for("the demo to end", STOP_TIMEOUT, || demo.try_wait().unwrap());
    assert!(status.success(), "an end that was asked for is a success");
    assert_eq!(folder.running(), 0, "{:?}", belonging_to(folder.0.path()));
}

#[test]
fn a_demo_interrupted_while_it_starts_leaves_nothing_behind_either() {
    let ports = Ports::claim(3);
    let folder = Folder::new();
    let dir = folder.demo();
    let base = ports.base.to_string();
    let mut demo = command(&["demo", "--dir", &dir, "--base-port", &base])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("a first PostgreSQL or initdb", WHOLE_TIMEOUT, || {
        let all = belonging_to(folder.0.path());
        all.iter().any(|process| matches!(process.program(), "postgres" | "initdb")).then_some(())
    });
    processes::signal(demo.id() as i32, Signal::TERM);
    wait_for("the demo to end", STOP_TIMEOUT, || demo.try_wait().unwrap());
    assert_eq!(folder.running(), 0, "{:?}", belonging_to(folder.0.path()));
}
