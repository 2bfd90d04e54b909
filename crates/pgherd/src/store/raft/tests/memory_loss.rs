//! Directories that were emptied or went back to an older copy, and disks that are full or slow.

use super::faults::{self, Fault};
use super::*;
use crate::store::contract::{commit, read};
use crate::store::{StoreError, Transaction};

fn put(key: &str, value: u64) -> Transaction {
    Transaction::new().put(key, value)
}

async fn report(store: &RaftStore, what: &str, wanted: impl FnMut(&Arc<SeatReport>) -> bool) {
    let mut seats = store.seats();
    let seen = tokio::time::timeout(PATIENCE, seats.wait_for(wanted)).await.map(drop);
    assert!(seen.is_ok(), "{what}: {:?}", store.seats().borrow());
}

impl Net {
    async fn follower(&self) -> String {
        let leader = self.leader().await;
        self.voters.iter().find(|name| **name != leader).unwrap().clone()
    }

    fn copy_store(&self, name: &str, to: &std::path::Path) {
        std::fs::copy(self.dir_of(name).join("store.redb"), to).unwrap();
    }

    fn asides(&self, name: &str) -> usize {
        let files = std::fs::read_dir(self.dir_of(name)).unwrap();
        files.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().contains("aside")).count()
    }
}

/// A voter whose directory was emptied could vote twice under its old seat; it gets another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_directory_comes_back_under_another_seat() {
    let net = Net::new(3);
    net.start_whole().await;
    let victim = net.follower().await;
    let leader = net.leader().await;
    commit(net.get(&leader).as_ref(), put("k", 1)).await.unwrap();
    net.kill(&victim).await;
    std::fs::remove_dir_all(net.dir_of(&victim)).unwrap();
    let back = net.start(&victim);
    report(&back, "it votes again", |report| report.standing == Standing::Voter).await;
    net.settle(&net.voters).await;
    assert_eq!(read(back.as_ref(), "k").await.unwrap().value, 1);
}

/// A follower of three that runs, and a copy of its store from before five more writes.
async fn follower_with_an_older_copy(net: &Net) -> (String, PathBuf) {
    net.start_whole().await;
    let victim = net.follower().await;
    net.kill(&victim).await;
    let copy = net.dir.path().join("copy");
    net.copy_store(&victim, &copy);
    net.start(&victim);
    net.settle(&net.voters).await;
    let leader = net.leader().await;
    for value in 0..5 {
        commit(net.get(&leader).as_ref(), put("k", value)).await.unwrap();
    }
    (victim, copy)
}

/// The copy was made while the node was down, so the file is sound and only its age gives it away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_does_not_vote_under_its_old_seat() {
    let net = Net::new(3);
    let (victim, copy) = follower_with_an_older_copy(&net).await;
    net.kill(&victim).await;
    std::fs::copy(&copy, net.dir_of(&victim).join("store.redb")).unwrap();
    let back = net.start(&victim);
    report(&back, "it votes again", |report| report.standing == Standing::Voter).await;
    assert_eq!(net.asides(&victim), 1, "the old copy was put aside, not destroyed");
    net.settle(&net.voters).await;
    assert_eq!(read(back.as_ref(), "k").await.unwrap().value, 4);
}

/// All the others were restarted meanwhile: what they had heard is on their disks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_is_recognized_by_nodes_that_were_restarted() {
    let net = Net::new(3);
    let (victim, copy) = follower_with_an_older_copy(&net).await;
    for name in &net.voters {
        net.kill(name).await;
    }
    std::fs::copy(&copy, net.dir_of(&victim).join("store.redb")).unwrap();
    net.start_all();
    net.settle(&net.voters).await;
    assert_eq!(net.asides(&victim), 1);
}

/// The one node left cannot vouch for a majority of five, so the restarted one neither votes nor acknowledges.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_is_silent_until_enough_have_vouched() {
    let net = Net::new(5);
    net.start_whole().await;
    let names: Vec<String> = net.voters.iter().cloned().collect();
    for name in &names[1..] {
        net.kill(name).await;
    }
    let back = net.start(&names[1]);
    let refused = back.commit(put("k", 1)).await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(back.seats().borrow().standing, Standing::Newcomer);
    net.start(&names[2]);
    report(&back, "two vouch", |report| report.standing == Standing::Voter).await;
    commit(back.as_ref(), put("k", 2)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_a_vote_until_there_is_room() {
    let net = Net::new(3);
    net.start_whole().await;
    let victim = net.leader().await;
    let store = net.get(&victim);
    commit(store.as_ref(), put("before", 1)).await.unwrap();
    faults::set(&net.dir_of(&victim), Fault { full: true, ..Fault::default() });
    // Its own change is what it fails on.
    let refused = store.commit(put("k", 1)).await;
    assert!(refused.is_err(), "{refused:?}");
    report(&store, "it says so", |report| report.trouble.as_ref().is_some_and(|why| why.contains("room")))
        .await;
    let others: Vec<String> = net.voters.iter().filter(|name| **name != victim).cloned().collect();
    commit(net.get(&others[0]).as_ref(), put("meanwhile", 2)).await.unwrap();
    let refused = store.commit(put("k", 1)).await;
    assert!(matches!(&refused, Err(StoreError::Unavailable(why)) if why.contains("room")), "{refused:?}");

    faults::set(&net.dir_of(&victim), Fault::default());
    report(&store, "it is back", |report| report.trouble.is_none() && report.standing == Standing::Voter)
        .await;
    assert_eq!(read(store.as_ref(), "meanwhile").await.unwrap().value, 2);
    assert_eq!(net.asides(&victim), 0, "nothing was forgotten");
    // The two others are not needed both any more.
    net.kill(&others[1]).await;
    commit(net.get(&others[0]).as_ref(), put("after", 3)).await.unwrap();
}

/// Every fsync takes 300 ms, and a write is two of them: many times the election timeout of this test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_disks_elect_a_leader_that_stays() {
    let net = Net::new(3);
    net.start_whole().await;
    for name in &net.voters {
        faults::set(&net.dir_of(name), Fault { slow: Duration::from_millis(300), ..Fault::default() });
    }
    // Enough writes for all to learn how slow they are.
    let store = net.get("n1");
    let mut done = 0;
    while done < 10 {
        match store.commit(put("k", done)).await {
            Ok(_) => done += 1,
            Err(StoreError::Unknown(_) | StoreError::Unavailable(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    let leader = net.leader().await;
    let mut watch = net.get(&leader).watch();
    for value in 0..5 {
        // A caller's patience may end before two slow disks have written; the leader's does not.
        let _ = store.commit(put("k", value)).await;
        assert_eq!(watch.borrow_and_update().leader.as_ref(), Some(&leader), "the leader was deposed");
    }
    assert!(net.voters.iter().all(|name| net.get(name).failure().is_none()));
}

/// One slow disk of three: the others lead, and at their own pace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_slow_disk_slows_nobody_down() {
    let net = Net::new(3);
    net.start_whole().await;
    let slow = net.leader().await;
    faults::set(&net.dir_of(&slow), Fault { slow: Duration::from_millis(400), ..Fault::default() });
    let other = net.voters.iter().find(|name| **name != slow).unwrap();
    let store = net.get(other);
    // The slow one is deposed by its own silence as soon as there is something to write.
    seen_leader_other_than(&net, store.as_ref(), &slow).await;
    let begun = std::time::Instant::now();
    for value in 0..20 {
        commit(store.as_ref(), put("k", value)).await.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "20 writes took {:?}", begun.elapsed());
}

async fn seen_leader_other_than(net: &Net, store: &RaftStore, slow: &str) {
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let _ = store.commit(put("warm", 1)).await;
        let leader = net.leader().await;
        if leader != slow {
            return;
        }
        assert!(std::time::Instant::now() < until, "the slow disk's node still leads");
    }
}
