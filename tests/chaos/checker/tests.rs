//! Small histories, one per anomaly: the good one beside it passes, the bad one is caught under its name.
//!
//! A line is a transaction: `from-until outcome session+port: operations`; `a1=10` appends 10 to list 1, `r1=10,11`
//! reads it, `r1=` reads it empty. `end n1: 1=10,11` is what n1 holds at the end (the first is the primary's), `samples
//! n1 t3 7: 5-8` is a direct write. `Level` is serializable unless the test says otherwise.

use super::*;
use crate::history::{Holding, Lists, Op, Origin, Outcome, Port, Sample, Transaction};

fn history(level: Level, text: &str) -> History {
    let mut history = History::default();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (head, tail) = line.split_once(':').expect("a colon");
        let words: Vec<&str> = head.split_whitespace().collect();
        match words.as_slice() {
            ["end", node] => history.finals.push(Holding {
                node: (*node).to_owned(),
                primary: history.finals.is_empty(),
                serializable: if level == Level::Serializable { lists(tail) } else { Lists::new() },
                read_committed: if level == Level::ReadCommitted { lists(tail) } else { Lists::new() },
                samples: Vec::new(),
            }),
            ["held", ids] => {
                let ids = ids.split(',').map(|id| id.parse::<i64>().unwrap());
                history.finals.last_mut().expect("an end before").samples.extend(ids);
            }
            ["sample", node, timeline, id] => {
                let (invoked, ended) = span(tail.trim());
                let timeline = timeline.trim_start_matches('t').parse().unwrap();
                let (node, id) = ((*node).to_owned(), id.parse().unwrap());
                history.samples.push(Sample { node, id, timeline, invoked, ended });
            }
            [when, outcome, who] => {
                let (invoked, ended) = span(when);
                let (session, port) = who.split_once('+').unwrap();
                let (port, server) = port.split_once('@').unwrap_or((port, ""));
                let answered_by = Some(server.to_owned()).filter(|server| !server.is_empty());
                let origin = Origin {
                    level,
                    port: if port == "rw" { Port::ReadWrite } else { Port::ReadOnly },
                    through: "n1".into(),
                    session: session.parse().unwrap(),
                };
                let outcome = match *outcome {
                    "ok" => Outcome::Ok,
                    "fail" => Outcome::Fail,
                    _ => Outcome::Info,
                };
                let ops = tail.split_whitespace().map(op).collect();
                history.transactions.push(Transaction { origin, invoked, ended, outcome, ops, answered_by });
            }
            _ => panic!("{line}"),
        }
    }
    history
}

fn span(text: &str) -> (u64, u64) {
    let (from, until) = text.split_once('-').unwrap();
    (from.parse().unwrap(), until.parse().unwrap())
}

fn values(text: &str) -> Vec<i64> {
    text.split(',').filter(|value| !value.is_empty()).map(|value| value.parse().unwrap()).collect()
}

fn lists(text: &str) -> Lists {
    let list = |word: &str| {
        let (key, held) = word.split_once('=').unwrap();
        (key.parse().unwrap(), values(held))
    };
    text.split_whitespace().map(list).collect()
}

fn op(word: &str) -> Op {
    let (left, right) = word.split_once('=').unwrap();
    let (kind, key) = left.split_at(1);
    let key = key.parse().unwrap();
    match kind {
        "a" => Op::Append(key, right.parse().unwrap()),
        _ => Op::Read(key, (right != "?").then(|| values(right))),
    }
}

fn classes(level: Level, text: &str) -> Vec<Class> {
    check(&history(level, text)).violations.into_keys().collect()
}

#[track_caller]
fn caught(expected: &[Class], text: &str) {
    assert_eq!(classes(Level::Serializable, text), expected, "{text}");
}

/// Appends, reads, a doubt, a failure, a replica and two terms, and nothing wrong.
const GOOD: &str = "
    0-10 ok 1+rw: a1=10
    5-15 ok 2+rw: r1=10 a1=11 a2=20
    16-20 ok 1+rw: r1=10,11 r2=20 r3=
    16-18 info 3+rw: r2=20 a1=12
    21-22 fail 4+rw: a1=13
    23-99 info 5+rw: a1=14 r2=?
    12-13 ok 9+ro: r1=10
    22-23 ok 9+ro: r1=10,11,12 r2=20
    sample n1 t3 1: 1-2
    sample n2 t4 2: 8-9
    end n1: 1=10,11,12 2=20
    held 1,2:
    end n2: 1=10,11,12 2=20
    held 1,2:
";

#[test]
fn a_good_history_passes() {
    for level in Level::ALL {
        let report = check(&history(level, GOOD));
        assert!(report.violations.is_empty() && report.allowed.is_empty(), "{report:?}");
    }
}

#[test]
fn a_lost_append() {
    caught(
        &[Class::LostAcknowledged],
        "0-1 ok 1+rw: a1=10\n 2-3 ok 1+rw: a1=11\n end n1: 1=10\n end n2: 1=10",
    );
    // The whole list is gone, and only on one node.
    caught(&[Class::LostAcknowledged, Class::NodesDiffer], "0-1 ok 1+rw: a1=10\n end n1: 1=10\n end n2:");
    // A sample that was acknowledged directly.
    caught(&[Class::LostAcknowledged], "sample n1 t1 7: 1-2\n end n1:");
}

#[test]
fn a_read_that_was_lost() {
    let text = "0-1 ok 1+rw: a1=10\n 2-9 info 2+rw: a1=11\n 3-4 ok 1+PORT: r1=10,11\n end n1: 1=10";
    caught(&[Class::LostRead], &text.replace("PORT", "rw"));
    caught(&[Class::ReplicaLostRead], &text.replace("PORT", "ro"));
}

#[test]
fn own_appends_that_were_rolled_back_are_no_lost_read() {
    let text = "0-1 ok 1+rw: a1=10\n 2-9 info 2+rw: a1=11 r1=READ\n end n1: 1=10";
    for level in Level::ALL {
        let report = check(&history(level, &text.replace("READ", "10,11")));
        assert!(report.violations.is_empty(), "{report:?}");
    }
    // Of another's it is one.
    let others = text.replace("\n end", "\n 3-9 info 3+rw: a1=12\n end");
    caught(&[Class::LostRead], &others.replace("READ", "10,12,11"));
}

#[test]
fn a_phantom() {
    caught(&[Class::Phantom], "0-1 ok 1+rw: a1=10\n end n1: 1=10,11");
    // A value in a list that it was not appended to.
    caught(
        &[Class::LostRead, Class::Phantom],
        "0-1 ok 1+rw: a1=10 a2=20\n 2-3 ok 1+rw: r1=10,20\n end n1: 1=10 2=20",
    );
}

#[test]
fn an_aborted_value() {
    caught(&[Class::AbortedVisible], "0-1 fail 1+rw: a1=10\n end n1: 1=10");
    caught(
        &[Class::LostRead, Class::AbortedVisible],
        "0-1 fail 1+rw: a1=10\n 1-2 ok 2+rw: r1=10\n 0-1 ok 3+rw: a2=20\n end n1: 2=20",
    );
}

#[test]
fn a_duplicate() {
    caught(&[Class::Duplicate], "0-1 ok 1+rw: a1=10\n end n1: 1=10,10");
}

#[test]
fn contradicting_orders() {
    let text = "0-9 ok 1+rw: a1=10\n 0-9 ok 2+rw: a1=11\n 2-9 ok 3+rw: r1=11\n";
    caught(&[Class::OrderContradiction], &format!("{text} end n1: 1=10,11"));
    // Without an end the longest read is the order.
    caught(&[Class::OrderContradiction], &format!("{text} 3-9 ok 4+rw: r1=10,11"));
}

#[test]
fn an_intermediate_read() {
    caught(
        &[Class::IntermediateRead, Class::G0, Class::G1c],
        "0-9 ok 1+rw: a1=10 a1=11\n 1-9 ok 2+rw: r1=10 a1=12\n end n1: 1=10,12,11",
    );
    caught(
        &[Class::IntermediateRead, Class::GSingle],
        "0-9 ok 1+rw: a1=10 a1=11\n 1-9 ok 2+rw: r1=10\n end n1: 1=10,11",
    );
}

#[test]
fn an_own_append_that_is_not_seen() {
    caught(&[Class::Internal], "0-9 info 2+rw: a1=9\n 0-9 ok 1+rw: a1=10 r1=9\n end n1: 1=9,10");
}

#[test]
fn a_stale_read() {
    caught(&[Class::StaleRead], "0-1 ok 1+rw: a1=10\n 2-3 ok 2+rw: r1=\n end n1: 1=10");
    // Under way when the read began: it may have missed it.
    caught(&[], "0-3 ok 1+rw: a1=10\n 2-4 ok 2+rw: r1=\n end n1: 1=10");
    // A replica may be late.
    caught(&[], "0-1 ok 1+rw: a1=10\n 2-3 ok 2+ro: r1=\n end n1: 1=10");
}

#[test]
fn each_replica_goes_forward_by_itself() {
    let writes = "0-1 ok 1+rw: a1=10\n 2-3 ok 1+rw: a1=11\n end n1: 1=10,11\n";
    let reads = |first: &str, second: &str| {
        format!("{writes} 4-5 ok 2+ro@{first}: r1=10,11\n 6-7 ok 2+ro@{second}: r1=10")
    };
    caught(&[Class::ReplicaWentBack], &reads("n2", "n2"));
    caught(&[], &reads("n2", "n3"));
}

#[test]
fn an_order_against_real_time() {
    caught(&[Class::AppendOrder], "0-1 ok 1+rw: a1=10\n 2-3 ok 1+rw: a1=11\n end n1: 1=11,10");
    caught(&[], "0-2 ok 1+rw: a1=10\n 1-3 ok 1+rw: a1=11\n end n1: 1=11,10");
}

#[test]
fn a_replica_that_went_back() {
    caught(
        &[Class::ReplicaWentBack],
        "0-1 ok 1+rw: a1=10\n 2-3 ok 9+ro: r1=10\n 4-5 ok 9+ro: r1=\n end n1: 1=10",
    );
    // Another session may be on another replica.
    caught(&[], "0-1 ok 1+rw: a1=10\n 2-3 ok 9+ro: r1=10\n 4-5 ok 8+ro: r1=\n end n1: 1=10");
}

#[test]
fn two_writers() {
    let held = "\n end n1:\n held 1,2,3:";
    caught(
        &[Class::TwoWriters],
        &format!("sample n1 t3 1: 1-2\n sample n2 t4 2: 3-4\n sample n1 t3 3: 5-6{held}"),
    );
    // Asked before the new one had acknowledged anything: it may be in the new one's history.
    caught(&[], &format!("sample n1 t3 1: 1-2\n sample n2 t4 2: 3-4\n sample n1 t3 3: 3-6{held}"));
}

#[test]
fn nodes_that_differ() {
    caught(&[Class::NodesDiffer], "0-9 info 1+rw: a1=10\n end n1: 1=10\n end n2:");
    caught(
        &[Class::NodesDiffer],
        "0-9 ok 1+rw: a1=10\n 0-9 ok 2+rw: a1=11\n end n1: 1=10,11\n end n2: 1=11,10",
    );
}

#[test]
fn a_cycle_of_overwrites() {
    caught(&[Class::G0], "0-9 ok 1+rw: a1=10 a2=20\n 0-9 ok 2+rw: a1=11 a2=21\n end n1: 1=10,11 2=21,20");
}

#[test]
fn a_cycle_of_reads() {
    let text = "0-9 ok 1+rw: a1=10 r2=20\n 0-9 ok 2+rw: a2=20 r1=10\n end n1: 1=10 2=20";
    caught(&[Class::G1c], text);
    assert_eq!(classes(Level::ReadCommitted, text), [Class::G1c], "not even READ COMMITTED allows it");
}

const READ_SKEW: &str = "0-9 ok 1+rw: a1=10 a2=20\n 0-9 ok 2+rw: r1=10 r2=\n end n1: 1=10 2=20";
const WRITE_SKEW: &str = "0-9 ok 1+rw: r1= a2=20\n 0-9 ok 2+rw: r2= a1=10\n end n1: 1=10 2=20";

#[test]
fn a_cycle_with_one_missed_write() {
    caught(&[Class::GSingle], READ_SKEW);
}

#[test]
fn a_cycle_with_two_missed_writes() {
    caught(&[Class::G2], WRITE_SKEW);
    // Three in a ring.
    caught(
        &[Class::G2],
        "0-9 ok 1+rw: r1= a2=20\n 0-9 ok 2+rw: r2= a3=30\n 0-9 ok 3+rw: r3= a1=10\n end n1: 1=10 2=20 3=30",
    );
}

#[test]
fn read_committed_allows_skews_and_they_are_counted() {
    for (text, class) in [(READ_SKEW, Class::GSingle), (WRITE_SKEW, Class::G2)] {
        let report = check(&history(Level::ReadCommitted, text));
        assert!(report.violations.is_empty(), "{report:?}");
        assert_eq!(report.allowed.into_keys().collect::<Vec<_>>(), [(Level::ReadCommitted, class)]);
    }
}

#[test]
fn a_doubt_counts_once_it_was_seen() {
    caught(&[Class::G2], "0-9 info 1+rw: r1= a2=20\n 0-9 ok 2+rw: r2= a1=10\n end n1: 1=10 2=20");
    caught(&[], "0-9 info 1+rw: r1= a2=20\n 0-9 ok 2+rw: r2= a1=10\n end n1: 1=10");
}
