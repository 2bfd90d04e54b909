//! A copy of a data directory is cut short, at its beginning, in its middle and at its end, on either side: nothing half made is
//! trusted, the copy is made anew, and nothing is lost. The same for a node that joins.

use std::path::Path;
use std::time::Duration;

use tests::{Cluster, Ledger, Node, requests, session_at, wait_closely, wait_for};

/// A copy of a hundred megabytes on a machine that runs other tests, twice, and a takeover.
const COPY_TIMEOUT: Duration = Duration::from_secs(90);
/// What makes a copy long enough to be met in its middle: some 100 MB that no compression shortens.
const FILLER: &str = "CREATE TABLE filler (i int, text text)";
/// A tenth of it: on a loaded machine the whole takes longer than one statement of a test may.
const PIECES: u32 = 10;
const PIECE: &str = "INSERT INTO filler \
    SELECT i, (SELECT string_agg(md5(i::text || j::text), '') FROM generate_series(1, 60) j) \
    FROM generate_series(1, 5000) i";
const MIDDLE_BYTES: u64 = 30 << 20;

#[derive(Clone, Copy, Debug)]
enum Moment {
    Begun,
    Middle,
    /// `pg_control` comes last.
    Last,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    Agent,
    Node,
    Source,
}

fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => bytes_below(&entry.path()),
            Ok(found) => found.len(),
            // It was moved or removed meanwhile.
            Err(_) => 0,
        })
        .sum()
}

fn wait_for_moment(node: &Node, moment: Moment) {
    let fresh = node.dir.join("data.new");
    wait_closely(&format!("{moment:?} of the copy"), COPY_TIMEOUT, || {
        let met = match moment {
            Moment::Begun => fresh.join("PG_VERSION").exists() || fresh.join("backup_label").exists(),
            Moment::Middle => bytes_below(&fresh) > MIDDLE_BYTES,
            Moment::Last => fresh.join("global/pg_control").exists(),
        };
        met.then_some(())
    });
}

/// Kills; true when the copy was cut short, and not over already.
fn kill(cluster: &mut Cluster, name: &str, source: &str, victim: Victim) -> bool {
    match victim {
        Victim::Agent => cluster.kill_agent(name),
        Victim::Node => cluster.kill_node(name),
        Victim::Source => cluster.kill_node(source),
    }
    cluster.node(name).dir.join("data.new").exists()
}

fn start_again(cluster: &mut Cluster, name: &str, source: &str, victim: Victim) {
    cluster.start_agent(if victim == Victim::Source { source } else { name });
}

fn reinit_interrupted(victim: Victim) {
    let mut cluster = Cluster::start(3);
    let mut met = 0;
    for (round, moment) in [Moment::Begun, Moment::Middle, Moment::Last].into_iter().enumerate() {
        let primary = cluster.wait_until_whole().primary.unwrap();
        if round == 0 {
            fill(cluster.node(&primary));
        }
        let ledger = Ledger::start(&cluster);
        ledger.wait_until_flowing();
        let name = cluster.names().into_iter().find(|name| *name != primary).unwrap();
        let node = cluster.node(&name).clone();
        let mark = node.data().join("of_the_old_copy");
        std::fs::write(&mark, "").unwrap();
        let id = cluster
            .nodes()
            .iter()
            .filter_map(|n| requests(n.http))
            .flatten()
            .map(|r| r.id)
            .max()
            .unwrap_or(0)
            + 1;
        cluster.pgherd_ok(&["reinit", &name, "--no-wait"]);
        wait_for_moment(&node, moment);
        met += usize::from(kill(&mut cluster, &name, &primary, victim));
        ledger.wait_until_flowing();
        start_again(&mut cluster, &name, &primary, victim);
        wait_for("the end of the request", COPY_TIMEOUT, || {
            let known = cluster.nodes().iter().filter_map(|node| requests(node.http)).flatten();
            known.into_iter().find(|request| request.id == id && request.has_ended())
        });
        cluster.wait_until_whole();
        assert!(!mark.exists(), "{moment:?}: the old copy is still there");
        assert!(!node.dir.join("data.new").exists(), "{moment:?}: half a copy is left");
        ledger.finish_and_check(&cluster);
    }
    assert!(met >= 2, "only {met} of 3 kills met a copy");
}

fn fill(node: &Node) {
    let mut session = session_at(node.postgres);
    session.execute(FILLER).unwrap();
    for _ in 0..PIECES {
        session.execute(PIECE).unwrap();
    }
}

#[test]
fn the_agent_dies_while_it_copies() {
    reinit_interrupted(Victim::Agent);
}

#[test]
fn the_node_dies_while_it_copies() {
    reinit_interrupted(Victim::Node);
}

#[test]
fn the_source_dies_while_it_is_copied() {
    reinit_interrupted(Victim::Source);
}

fn join_interrupted(victim: Victim) {
    let mut cluster = Cluster::start_with_room(3, 4);
    let primary = cluster.wait_until_whole().primary.unwrap();
    fill(cluster.node(&primary));
    let ledger = Ledger::start(&cluster);
    ledger.wait_until_flowing();
    let mut met = false;
    let name = cluster.add_node_meanwhile(|cluster, name| {
        wait_for_moment(&cluster.node(name).clone(), Moment::Middle);
        met = kill(cluster, name, &primary, victim);
        ledger.wait_until_flowing();
        start_again(cluster, name, &primary, victim);
    });
    assert!(met, "the kill came after the copy");
    cluster.wait_until_whole();
    assert!(!cluster.node(&name).dir.join("data.new").exists(), "half a copy is left");
    ledger.finish_and_check(&cluster);
}

#[test]
fn a_newcomer_dies_while_it_copies() {
    join_interrupted(Victim::Node);
}

#[test]
fn the_primary_dies_while_a_newcomer_copies() {
    join_interrupted(Victim::Source);
}
