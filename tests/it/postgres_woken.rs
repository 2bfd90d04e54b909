//! The primary's sessions are frozen, and woken when another node has taken over: none answers with what is no longer true.

use std::time::Duration;

use rustix::process::Signal;
use tests::cluster::Node;
use tests::ledger::{session_at, value_at};
use tests::processes::Process;
use tests::{Cluster, Ledger, processes, wait_for};

/// Ten times the bound for the p99: this is about safety, the bench measures speed.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);

/// All but the postmaster.
fn children(node: &Node) -> Vec<Process> {
    let postmaster = node.postmaster_pid();
    let servers = processes::belonging_to(&node.data()).into_iter();
    servers.filter(|p| p.program() == "postgres" && Some(p.pid) != postmaster).collect()
}

#[test]
fn sessions_that_wake_after_a_takeover_answer_nothing() {
    let cluster = Cluster::start(3);
    let old = cluster.node(&cluster.wait_until_whole().primary.unwrap()).clone();
    let ledger = Ledger::start(&cluster);
    ledger.wait_until_flowing();
    value_at(old.read_write, "CREATE TABLE woken AS SELECT 1 AS i").expect_err("no row comes back");
    // Straight at the server, past every proxy; one is asked while it is frozen.
    let mut asked = session_at(old.postgres);
    asked.execute("SELECT i FROM woken").unwrap();
    let mut idle = session_at(old.postgres);
    idle.execute("SELECT i FROM woken").unwrap();

    let frozen = children(&old);
    assert!(frozen.len() > 2, "sessions among them: {frozen:?}");
    frozen.iter().for_each(|process| processes::signal(process.pid, Signal::STOP));
    wait_for("all of them to stand still", TAKEOVER_TIMEOUT, || {
        let mut left = frozen.iter().filter_map(|process| processes::process(process.pid));
        left.all(|process| process.is_frozen()).then_some(())
    });
    // An error for whoever finds no row 1: the answer after the takeover is 2, and the old one is 1.
    let question = "SELECT 1 / (i = 1)::int FROM woken";
    let question = std::thread::spawn(move || asked.execute(question));
    let new = cluster.wait_for_primary_other_than(&old.name, TAKEOVER_TIMEOUT);
    ledger.wait_until_flowing();
    let updated = wait_for("the new primary to take a write", TAKEOVER_TIMEOUT, || {
        value_at(cluster.node(&new).postgres, "UPDATE woken SET i = 2 RETURNING i::text").ok()
    });
    assert_eq!(updated, "2");
    children(&old).iter().for_each(|process| processes::signal(process.pid, Signal::CONT));
    let answer = question.join().expect("the question ends");
    assert!(answer.is_err(), "a session that woke answered with what is no longer true");
    assert!(idle.execute("SELECT 1").is_err(), "the other session has ended as well");
    cluster.wait_until_whole();
    ledger.finish_and_check(&cluster);
}

/// With nobody who could take over the server is waited for, however long it is silent: its sessions are not sent away.
#[test]
fn sessions_of_a_single_node_outlive_its_servers_silence() {
    let cluster = Cluster::start(1);
    let node = cluster.node(&cluster.wait_until_whole().primary.unwrap()).clone();
    let mut session = session_at(node.read_write);
    session.execute("CREATE TEMP TABLE mine AS SELECT 1 AS i").unwrap();
    let frozen = children(&node);
    frozen.iter().for_each(|process| processes::signal(process.pid, Signal::STOP));
    wait_for("the agent to notice", TAKEOVER_TIMEOUT, || {
        let row = cluster.status()?.nodes.into_iter().find(|row| row.name == node.name)?;
        (row.state != "running").then_some(())
    });
    let question = std::thread::spawn(move || session.execute("SELECT i FROM mine"));
    children(&node).iter().for_each(|process| processes::signal(process.pid, Signal::CONT));
    question.join().expect("the question ends").expect("the session is the one of before");
}
