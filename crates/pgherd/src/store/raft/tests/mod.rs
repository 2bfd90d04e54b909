//! Several nodes in one process, joined by channels whose links can be cut.

mod cluster;
mod crash;
mod damage;
pub(super) mod faults;
mod members;
mod memory_loss;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;

use super::replica::DEADLINE;
use super::{RaftConfig, RaftStore, SeatReport, Standing};
use crate::store::contract::{Cluster, PATIENCE, seen, suite};
use crate::store::{Snapshot, Store};

#[derive(Default)]
struct Links {
    stores: BTreeMap<String, Arc<RaftStore>>,
    /// Directed: (from, to).
    cut: BTreeSet<(String, String)>,
}

pub struct Net {
    links: Arc<Mutex<Links>>,
    dir: tempfile::TempDir,
    /// Whose file names each other: they found the store.
    voters: BTreeSet<String>,
    snapshot_entries: u64,
    deadline: Duration,
    /// Of 100 frames so many vanish, and as many come twice, the second time late.
    bad: Arc<AtomicU32>,
}

impl Net {
    fn new(nodes: usize) -> Self {
        Self {
            links: Arc::default(),
            dir: tempfile::tempdir().unwrap(),
            voters: (1..=nodes).map(|node| format!("n{node}")).collect(),
            snapshot_entries: 1000,
            deadline: DEADLINE,
            bad: Arc::default(),
        }
    }

    fn start_all(&self) -> Vec<Arc<RaftStore>> {
        self.voters.iter().map(|name| self.start(name)).collect()
    }

    /// All started, and all of them vote.
    async fn start_whole(&self) -> Vec<Arc<RaftStore>> {
        let stores = self.start_all();
        self.settle(&self.voters).await;
        stores
    }

    /// Waits until exactly these vote, nobody learns, and each of them knows it and a leader.
    async fn settle(&self, names: &BTreeSet<String>) {
        for name in names {
            let store = self.get(name);
            let wanted = |report: &Arc<SeatReport>| {
                report.standing == Standing::Voter && report.voters == *names && report.learners.is_empty()
            };
            let settled = tokio::time::timeout(PATIENCE, store.seats().wait_for(wanted)).await.map(drop);
            assert!(settled.is_ok(), "{name} sees {:?}, not {names:?}", store.seats().borrow());
            seen(store.as_ref(), |snapshot| snapshot.leader.is_some()).await;
        }
    }

    fn dir_of(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn config(&self, name: &str) -> RaftConfig {
        let mut config = RaftConfig::new("test", name, self.dir_of(name), record(&self.voters));
        config.tick = Duration::from_millis(20);
        config.snapshot_entries = self.snapshot_entries;
        config.deadline = self.deadline;
        config
    }

    fn start(&self, name: &str) -> Arc<RaftStore> {
        let (outgoing, mut frames) = mpsc::channel::<(String, Vec<u8>)>(1024);
        let store = RaftStore::start(self.config(name), outgoing).unwrap();
        self.links.lock().unwrap().stores.insert(name.to_owned(), store.clone());
        let links = self.links.clone();
        let from = name.to_owned();
        let bad = self.bad.clone();
        // Ends when the node's thread drops its end.
        tokio::spawn(async move {
            let mut late: VecDeque<(String, Vec<u8>)> = VecDeque::new();
            let mut dice: u32 = 1;
            while let Some((to, frame)) = frames.recv().await {
                dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let (drawn, bad) = ((dice >> 16) % 100, bad.load(Ordering::SeqCst));
                if drawn < bad {
                    continue;
                }
                let mut deliver = vec![(to.clone(), frame.clone())];
                if drawn < 2 * bad {
                    late.push_back((to, frame));
                }
                if late.len() > 8 {
                    deliver.extend(late.pop_front());
                }
                for (to, frame) in deliver {
                    let target = {
                        let links = links.lock().unwrap();
                        let open = !links.cut.contains(&(from.clone(), to.clone()));
                        links.stores.get(&to).filter(|_| open).cloned()
                    };
                    if let Some(target) = target {
                        target.receive(&from, &frame);
                    }
                }
            }
        });
        store
    }

    /// Nothing is flushed at a stop that was not durable before, so to the disk this is a kill.
    async fn kill(&self, name: &str) {
        let store = self.links.lock().unwrap().stores.remove(name);
        store.expect("it runs").stop().await;
    }

    fn get(&self, name: &str) -> Arc<RaftStore> {
        self.links.lock().unwrap().stores[name].clone()
    }

    /// Cuts all links of a node, both ways, or heals them.
    fn isolate(&self, name: &str, cut: bool) {
        let mut links = self.links.lock().unwrap();
        let others: Vec<String> = links.stores.keys().chain(&self.voters).cloned().collect();
        for other in others.iter().filter(|other| *other != name) {
            for link in [(name.to_owned(), other.clone()), (other.clone(), name.to_owned())] {
                if cut {
                    links.cut.insert(link)
                } else {
                    links.cut.remove(&link)
                };
            }
        }
    }

    /// The leader that itself runs and knows it, and on which a majority agrees.
    async fn leader(&self) -> String {
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let stores: Vec<_> = self.links.lock().unwrap().stores.values().cloned().collect();
                let mut votes: BTreeMap<String, usize> = BTreeMap::new();
                for leader in stores.iter().filter_map(|store| store.watch().borrow().leader.clone()) {
                    *votes.entry(leader).or_default() += 1;
                }
                votes.retain(|leader, _| {
                    let links = self.links.lock().unwrap();
                    let own =
                        links.stores.get(leader).and_then(|store| store.watch().borrow().leader.clone());
                    own.as_ref() == Some(leader)
                });
                if let Some((leader, _)) = votes.into_iter().find(|(_, votes)| *votes > self.voters.len() / 2)
                {
                    return leader;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        found.await.expect("a leader in time")
    }
}

/// A record of members with these nodes.
fn record<'a>(names: impl IntoIterator<Item = &'a String>) -> serde_json::Value {
    let nodes: serde_json::Map<String, serde_json::Value> =
        names.into_iter().map(|name| (name.clone(), serde_json::json!({}))).collect();
    serde_json::json!({ "nodes": nodes })
}

async fn all_see(stores: &[Arc<RaftStore>], wanted: impl Fn(&Snapshot) -> bool) {
    for store in stores {
        seen(store.as_ref(), |snapshot| wanted(snapshot)).await;
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // The link tasks hold the links and the links hold the stores; without this the threads would go on.
        self.links.lock().unwrap().stores.clear();
    }
}

/// The contract speaks to a store that is up, so the election comes first. It says what an answer means, not how soon it
/// comes: on a machine that gives the disk no time "unknown" would be the right answer, and no test of the contract.
async fn three_nodes(_: &str) -> Cluster {
    let mut net = Net::new(3);
    net.deadline = PATIENCE;
    let stores = net.start_whole().await;
    let handles = stores.into_iter().map(|store| store as Arc<dyn Store>).collect();
    Cluster { handles, _keep: Box::new(net) }
}

suite!(three_nodes);
