//! The winner of a takeover is killed on its way, from its promise to its opening: another one finishes it, or itself when it is
//! back, and nothing is lost.

use std::fs;
use std::time::Duration;

use tests::{Cluster, Ledger, Node, wait_closely};

/// Suspicion takes 2 s, a campaign some 100 ms; the machine runs other tests.
const STAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// How far the winner has come, as its files tell.
#[derive(Clone, Copy, Debug)]
enum Reached {
    /// Its promise is on disk: the campaign is under way.
    Promised,
    /// It is recorded, and has noted that it promotes.
    Recorded,
    /// PostgreSQL has begun the new timeline; nobody is let in yet.
    Promoted,
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Agent,
    Postgres,
    Node,
}

fn word(node: &Node, name: &str) -> u64 {
    let text = fs::read_to_string(node.dir.join("member.json")).unwrap_or_default();
    let words: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    words["durable"][name].as_u64().unwrap_or_default()
}

fn timelines(node: &Node) -> usize {
    let entries = fs::read_dir(node.data().join("pg_wal")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".history")).count()
}

fn interrupted(victim: Victim) {
    let mut cluster = Cluster::start(3);
    let mut early = 0;
    for reached in [Reached::Promised, Reached::Recorded, Reached::Promoted] {
        let before = cluster.wait_until_whole();
        let old = before.primary.unwrap();
        let ledger = Ledger::start(&cluster);
        ledger.wait_until_flowing();
        let others: Vec<Node> = cluster.nodes().iter().filter(|node| node.name != old).cloned().collect();
        let known: Vec<usize> = others.iter().map(timelines).collect();
        cluster.kill_node(&old);
        let winner = wait_closely(&format!("{reached:?}"), STAGE_TIMEOUT, || {
            others
                .iter()
                .zip(&known)
                .find(|(node, known)| match reached {
                    Reached::Promised => word(node, "promise") > before.term,
                    Reached::Recorded => word(node, "promoted") > before.term,
                    Reached::Promoted => timelines(node) > **known && word(node, "promoted") > before.term,
                })
                .map(|(node, _)| node.name.clone())
        });
        match victim {
            Victim::Agent => cluster.kill_agent(&winner),
            Victim::Postgres => cluster.kill_postgres(&winner),
            Victim::Node => cluster.kill_node(&winner),
        }
        early += usize::from(cluster.primary().is_none_or(|primary| primary != winner));
        if !matches!(victim, Victim::Postgres) {
            cluster.start_agent(&winner);
        }
        // The old primary stays away: those who are left suffice.
        ledger.wait_until_flowing();
        cluster.start_agent(&old);
        cluster.wait_until_whole();
        ledger.finish_and_check(&cluster);
    }
    assert!(early > 0, "every kill came after the opening");
}

#[test]
fn the_winner_loses_its_agent() {
    interrupted(Victim::Agent);
}

#[test]
fn the_winner_loses_its_server() {
    interrupted(Victim::Postgres);
}

#[test]
fn the_winner_is_lost() {
    interrupted(Victim::Node);
}
