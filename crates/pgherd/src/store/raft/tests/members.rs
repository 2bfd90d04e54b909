//! Nodes come, go and are replaced while others write.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::store::contract::{commit, read};
use crate::store::{MEMBERS, StoreError, Transaction};

fn names(numbers: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
    numbers.into_iter().map(|number| format!("n{number}")).collect()
}

impl Net {
    /// Makes the record name exactly these, through `through`.
    async fn write_members(&self, through: &str, names: &BTreeSet<String>) {
        commit(self.get(through).as_ref(), Transaction::new().put(MEMBERS, record(names))).await.unwrap();
    }
}

/// Counts up a key by compare-and-set through whoever runs, until told to stop. Answers how often it was sure.
struct Counter {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(u64, u64)>,
}

impl Counter {
    fn start(net: &Net) -> Counter {
        let stop = Arc::new(AtomicBool::new(false));
        let (links, stopped) = (net.links.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let (mut sure, mut unsure, mut turn) = (0, 0, 0_usize);
            while !stopped.load(Ordering::SeqCst) {
                turn += 1;
                let mut stores: Vec<_> = links.lock().unwrap().stores.values().cloned().collect();
                stores.retain(|store| store.seats().borrow().standing == Standing::Voter);
                let Some(store) = stores.get(turn % stores.len().max(1)) else { continue };
                let Ok(entry) = store.read("n").await else { continue };
                let (count, version) =
                    entry.map_or((0, 0), |entry| (entry.value.as_u64().unwrap(), entry.version));
                match store.commit(Transaction::new().put("n", count + 1).require("n", version)).await {
                    Ok(_) => sure += 1,
                    Err(StoreError::Unknown(_)) => unsure += 1,
                    Err(StoreError::Conflict { .. } | StoreError::Unavailable(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            (sure, unsure)
        });
        Counter { stop, task }
    }

    async fn check(self, through: &RaftStore) {
        self.stop.store(true, Ordering::SeqCst);
        let (sure, unsure) = self.task.await.unwrap();
        let total = read(through, "n").await.unwrap().value.as_u64().unwrap();
        assert!(sure > 0, "it wrote nothing");
        assert!(total >= sure && total <= sure + unsure, "{sure} sure, {unsure} unsure, but {total} counted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_grows_to_five_and_shrinks_to_one_under_load() {
    let mut net = Net::new(1);
    net.snapshot_entries = 50;
    net.start_whole().await;
    let counter = Counter::start(&net);
    for count in 2..=5 {
        net.write_members("n1", &names(1..=count)).await;
        net.start(&format!("n{count}"));
        net.settle(&names(1..=count)).await;
    }
    // The first goes first, so that the leader is among those who leave.
    for first in 2..=5 {
        net.write_members(&format!("n{first}"), &names(first..=5)).await;
        net.settle(&names(first..=5)).await;
        let gone = net.get(&format!("n{}", first - 1));
        let removed = |report: &Arc<SeatReport>| report.standing == Standing::Removed;
        tokio::time::timeout(PATIENCE, gone.seats().wait_for(removed)).await.expect("it is told").unwrap();
        net.kill(&format!("n{}", first - 1)).await;
    }
    counter.check(net.get("n5").as_ref()).await;
    // What was learned and left is on disk.
    net.kill("n5").await;
    let alone = net.start("n5");
    net.settle(&names([5])).await;
    assert!(read(alone.as_ref(), "n").await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_disturbs_nobody_and_comes_back_when_it_is_wanted() {
    let net = Net::new(3);
    net.start_whole().await;
    let leader = net.leader().await;
    let victim = net.voters.iter().find(|name| **name != leader).unwrap().clone();
    // It is away while it is removed, and learns of it when it comes back.
    net.kill(&victim).await;
    let rest: BTreeSet<String> = net.voters.iter().filter(|name| **name != victim).cloned().collect();
    net.write_members(&leader, &rest).await;
    net.settle(&rest).await;
    let mut others = net.get(&leader).watch();
    others.borrow_and_update();
    let back = net.start(&victim);
    let removed = |report: &Arc<SeatReport>| report.standing == Standing::Removed;
    tokio::time::timeout(PATIENCE, back.seats().wait_for(removed)).await.expect("it is told").unwrap();
    assert!(!others.has_changed().unwrap(), "the others were disturbed");
    assert!(matches!(back.commit(Transaction::new().put("k", 1)).await, Err(StoreError::Unavailable(_))));
    // It stays removed over a restart, also when nobody can be asked.
    net.kill(&victim).await;
    net.isolate(&victim, true);
    let again = net.start(&victim);
    tokio::time::timeout(PATIENCE, again.seats().wait_for(removed)).await.expect("it remembers").unwrap();
    net.isolate(&victim, false);
    net.write_members(&leader, &net.voters).await;
    net.settle(&net.voters).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_removed_and_another_takes_its_place() {
    let net = Net::new(3);
    net.start_whole().await;
    let leader = net.leader().await;
    let dead = net.voters.iter().find(|name| **name != leader).unwrap().clone();
    net.kill(&dead).await;
    let mut wanted: BTreeSet<String> = net.voters.iter().filter(|name| **name != dead).cloned().collect();
    wanted.insert("n4".to_owned());
    net.write_members(&leader, &wanted).await;
    net.start("n4");
    net.settle(&wanted).await;
}

/// A newcomer that is not in the record knocks in vain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_comes_in_uninvited() {
    let net = Net::new(1);
    net.start_whole().await;
    let stranger = net.start("n0");
    let told = |report: &Arc<SeatReport>| report.told.is_some();
    tokio::time::timeout(PATIENCE, stranger.seats().wait_for(told)).await.expect("an answer").unwrap();
    assert_eq!(stranger.seats().borrow().standing, Standing::Newcomer);
    assert_eq!(net.get("n1").seats().borrow().voters, names([1]));
    assert!(!stranger.watch().borrow().connected);
}
