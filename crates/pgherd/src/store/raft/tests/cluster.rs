//! Nodes that die, are cut off, lag and come back.

use super::*;
use crate::store::contract::{commit, read};
use crate::store::{StoreError, Transaction};

fn put(key: &str, value: u64) -> Transaction {
    Transaction::new().put(key, value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_alone_leads_at_once_and_remembers() {
    let net = Net::new(1);
    let store = net.start("n1");
    let revision = commit(store.as_ref(), put("k", 1)).await.unwrap();
    net.kill("n1").await;
    assert!(matches!(store.commit(put("k", 2)).await, Err(StoreError::Unavailable(_))));
    let again = net.start("n1");
    assert_eq!(read(again.as_ref(), "k").await.unwrap().version, revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leaders_death_elects_another_and_loses_nothing() {
    let net = Net::new(3);
    net.start_whole().await;
    let first = net.leader().await;
    for value in 0..20 {
        commit(net.get(&first).as_ref(), put(&format!("k{value}"), value)).await.unwrap();
    }
    net.kill(&first).await;
    let second = net.leader().await;
    assert_ne!(first, second);
    commit(net.get(&second).as_ref(), put("after", 1)).await.unwrap();
    let back = net.start(&first);
    for value in 0..20 {
        assert_eq!(read(back.as_ref(), &format!("k{value}")).await.unwrap().value, value);
    }
    assert!(read(back.as_ref(), "after").await.is_some());
}

/// A caller on a follower need not know that the leader died meanwhile: its command is proposed to the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_under_way_survives_the_leaders_death() {
    let net = Net::new(3);
    net.start_whole().await;
    let leader = net.leader().await;
    let follower = net.voters.iter().find(|name| **name != leader).unwrap();
    commit(net.get(follower).as_ref(), put("n", 0)).await.unwrap();
    let version = read(net.get(follower).as_ref(), "n").await.unwrap().version;
    net.isolate(&leader, true);
    // A condition on the version: were it applied twice, the copy would answer a conflict.
    let answer = net.get(follower).commit(put("n", 1).require("n", version)).await;
    assert_eq!(answer, Ok(version + 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_killed_at_once_come_back_with_everything() {
    let net = Net::new(3);
    net.start_whole().await;
    let leader = net.leader().await;
    let mut revision = 0;
    for value in 0..30 {
        revision = commit(net.get(&leader).as_ref(), put("k", value)).await.unwrap();
    }
    for name in &net.voters {
        net.kill(name).await;
    }
    let stores = net.start_all();
    for store in &stores {
        let entry = read(store.as_ref(), "k").await.unwrap();
        assert_eq!((entry.value, entry.version), (29.into(), revision));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_commits_nothing_and_reads_nothing_stale() {
    let net = Net::new(3);
    let stores = net.start_whole().await;
    let old = net.leader().await;
    commit(net.get(&old).as_ref(), put("k", 1)).await.unwrap();
    net.isolate(&old, true);
    let cut = net.get(&old);
    let (write, stale) = tokio::join!(cut.commit(put("k", 666)), cut.read("k"));
    assert!(matches!(write, Err(StoreError::Unknown(_))), "{write:?}");
    assert!(matches!(stale, Err(StoreError::Unavailable(_))), "{stale:?}");
    seen(cut.as_ref(), |snapshot| !snapshot.connected && snapshot.leader.is_none()).await;
    // Now the cut node knows that it leads nobody, so a refusal is certain.
    let refused = cut.commit(put("k", 667)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");

    let new = net.leader().await;
    assert_ne!(new, old);
    commit(net.get(&new).as_ref(), put("k", 2)).await.unwrap();
    net.isolate(&old, false);
    all_see(&stores, |snapshot| snapshot.get("k").is_some_and(|entry| entry.value == 2)).await;
    assert_eq!(read(cut.as_ref(), "k").await.unwrap().value, 2);
}

/// Pre-vote: a node that was alone must not depose a leader that serves the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_cut_off_does_not_disturb() {
    let net = Net::new(3);
    net.start_whole().await;
    let leader = net.leader().await;
    let lonely = net.voters.iter().find(|name| **name != leader).unwrap();
    net.isolate(lonely, true);
    seen(net.get(lonely).as_ref(), |snapshot| !snapshot.connected).await;
    let mut others = net.get(&leader).watch();
    others.borrow_and_update();
    net.isolate(lonely, false);
    seen(net.get(lonely).as_ref(), |snapshot| snapshot.leader.as_ref() == Some(&leader)).await;
    assert!(!others.has_changed().unwrap(), "the leader was disturbed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lagging_node_catches_up_by_snapshot() {
    let mut net = Net::new(3);
    net.snapshot_entries = 20;
    net.start_whole().await;
    let leader = net.leader().await;
    let lagging = net.voters.iter().find(|name| **name != leader).unwrap();
    commit(net.get(&leader).as_ref(), put("k", 0)).await.unwrap();
    // One that is cut off and runs, and one that is down, take different paths.
    for down in [false, true] {
        if down {
            net.kill(lagging).await;
        } else {
            net.isolate(lagging, true);
        }
        let mut revision = 0;
        for value in 1..=100 {
            revision = commit(net.get(&leader).as_ref(), put("k", value)).await.unwrap();
        }
        if down {
            net.start(lagging);
        } else {
            net.isolate(lagging, false);
        }
        let behind = net.get(lagging);
        let caught = seen(behind.as_ref(), |snapshot| snapshot.revision >= revision).await;
        assert_eq!(caught.get("k").unwrap().value, 100);
        assert_eq!(behind.failure(), None);
    }
    // What it got by snapshot it has on disk.
    for name in &net.voters {
        net.kill(name).await;
    }
    let stores = net.start_all();
    assert_eq!(read(stores[0].as_ref(), "k").await.unwrap().value, 100);
    all_see(&stores, |snapshot| snapshot.get("k").is_some_and(|entry| entry.value == 100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_outlives_its_leader() {
    let net = Net::new(3);
    net.start_whole().await;
    let leader = net.leader().await;
    let follower = net.voters.iter().find(|name| **name != leader).unwrap();
    let store = net.get(follower);
    commit(store.as_ref(), put("warm", 1)).await.unwrap();
    let lease = store.grant_lease(Duration::from_millis(1500)).await.unwrap();
    commit(store.as_ref(), put("k", 1).with_lease(lease)).await.unwrap();
    net.kill(&leader).await;
    net.leader().await;
    store.keep_alive(lease).await.expect("held across the change");
    assert!(read(store.as_ref(), "k").await.is_some());
    seen(store.as_ref(), |snapshot| snapshot.get("k").is_none()).await;
}

/// Frames vanish, come twice and come late, and leaders are cut off in turn: no increment that was answered is lost, and
/// none counts twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_network_neither_loses_nor_repeats() {
    let mut net = Net::new(3);
    net.snapshot_entries = 30;
    let stores = net.start_whole().await;
    commit(stores[0].as_ref(), put("n", 0)).await.unwrap();
    net.bad.store(8, Ordering::SeqCst);
    let mut racers = Vec::new();
    for store in stores.clone() {
        racers.push(tokio::spawn(async move {
            let (mut sure, mut unsure) = (0_u64, 0_u64);
            while sure < 40 {
                let entry = read(store.as_ref(), "n").await.unwrap();
                let next = entry.value.as_u64().unwrap() + 1;
                match store.commit(put("n", next).require("n", entry.version)).await {
                    Ok(_) => sure += 1,
                    Err(StoreError::Unknown(_)) => unsure += 1,
                    Err(StoreError::Conflict { .. } | StoreError::Unavailable(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            (sure, unsure)
        }));
    }
    for _ in 0..2 {
        let leader = net.leader().await;
        net.isolate(&leader, true);
        seen(net.get(&leader).as_ref(), |snapshot| snapshot.leader.is_none()).await;
        net.isolate(&leader, false);
    }
    let (mut sure, mut unsure) = (0, 0);
    for racer in racers {
        let counted = racer.await.unwrap();
        sure += counted.0;
        unsure += counted.1;
    }
    net.bad.store(0, Ordering::SeqCst);
    let total = read(stores[1].as_ref(), "n").await.unwrap().value.as_u64().unwrap();
    assert!(total >= sure && total <= sure + unsure, "{sure} sure, {unsure} unsure, but {total} counted");
    assert!(stores.iter().all(|store| store.failure().is_none()));
    all_see(&stores, |snapshot| snapshot.get("n").is_some_and(|entry| entry.value == total)).await;
}

/// Five voters bear the loss of any two, the leader among them; with three lost nothing is promised any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_voters_bear_the_loss_of_two() {
    let net = Net::new(5);
    net.start_whole().await;
    let leader = net.leader().await;
    commit(net.get(&leader).as_ref(), put("before", 1)).await.unwrap();
    let others: Vec<&String> = net.voters.iter().filter(|name| **name != leader).collect();
    net.kill(&leader).await;
    net.kill(others[0]).await;
    let second = net.leader().await;
    commit(net.get(&second).as_ref(), put("after", 2)).await.unwrap();
    assert_eq!(read(net.get(others[1]).as_ref(), "before").await.unwrap().value, 1);

    let third = others[1..].iter().find(|name| ***name != second).unwrap();
    net.kill(third).await;
    assert!(net.get(&second).commit(put("beyond", 3)).await.is_err(), "two of five are no majority");
    let back = net.start(&leader);
    commit(back.as_ref(), put("again", 4)).await.unwrap();
    assert_eq!(read(back.as_ref(), "after").await.unwrap().value, 2);
}
