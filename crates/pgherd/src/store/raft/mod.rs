//! The embedded store: Raft (crate raft, TiKV's) over redb, one voter per node.
//!
//! `core` and `replica` are the protocol without effects, `disk` and `log` keep what was promised, `node` and `life` are the
//! thread that drives them. `identity` says whose a directory is, `door` who may take part, `steward` which seat changes
//! next. Sending is not done here: frames go to a channel, frames from others come in by [`RaftStore::receive`]; losing
//! some is fine. See docs/decisions/0002-raft-and-redb.md and 0006-members.md.
//!
//! Invariant: see `store/mod.rs`; it holds as long as a majority of the voters keep their directories.

mod core;
mod disk;
mod door;
mod frame;
mod identity;
mod life;
mod log;
mod node;
mod pace;
mod replica;
mod report;
mod seats;
mod steward;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use self::core::Timing;
use self::disk::Disk;
use self::identity::Identity;
use self::node::{Input, Node, Shared};
use self::replica::DEADLINE;
pub use self::report::{SeatReport, Standing};
use super::state::{Command, Outcome};
use super::{Entry, LeaseId, Snapshot, Store, StoreError, Transaction, check_transaction, check_ttl};

/// Inputs that wait for the thread. 1,024 messages are some 10 ticks of heavy traffic in a cluster of five; beyond
/// that, dropping is better than answering late.
const INPUTS_MAX: usize = 1024;
/// Log since the last snapshot after which one is taken whatever the count; bounds memory and start-up time.
const LOG_BYTES_MAX: usize = 8 << 20;
/// The thread answers by the deadline and a tick; only a disk that hangs makes it later than this beyond the deadline.
const HUNG: Duration = Duration::from_millis(500);

/// No frame is bigger: a snapshot of the greatest state, with leases and sessions (0.5 MiB at most) and headers. Appends
/// are up to one transaction beyond 256 KiB.
pub const FRAME_BYTES_MAX: usize = super::STATE_BYTES_MAX + (2 << 20);

/// How to start a node's store.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// The cluster's name: stores and frames of another one are refused.
    pub cluster: String,
    pub name: String,
    /// Belongs to the store alone; made with mode 0700 when missing.
    pub dir: PathBuf,
    /// The record of members that a first store begins with. Its nodes found the store together; who comes later asks those of
    /// them that it knows for a seat.
    pub founding: Value,
    /// Nothing of this node has been part of a store, as far as is known outside of `dir`.
    pub first_start: bool,
    /// The unit of the two below.
    pub tick: Duration,
    /// A leader that was silent for this many up to twice as many ticks is replaced.
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    /// A caller has an answer by then, if only that none can be given.
    pub deadline: Duration,
    /// Entries after which the log is compacted.
    pub snapshot_entries: u64,
}

impl RaftConfig {
    /// With the defaults: heartbeats every 100 ms, elections after 500 to 1000 ms of silence.
    pub fn new(
        cluster: impl Into<String>,
        name: impl Into<String>,
        dir: impl Into<PathBuf>,
        founding: Value,
    ) -> Self {
        Self {
            cluster: cluster.into(),
            name: name.into(),
            dir: dir.into(),
            founding,
            first_start: true,
            tick: Duration::from_millis(50),
            election_ticks: 10,
            heartbeat_ticks: 2,
            deadline: DEADLINE,
            snapshot_entries: 1000,
        }
    }
}

/// A node's handle onto the embedded store. Dropping it stops the node's part; [`RaftStore::stop`] also waits.
pub struct RaftStore {
    inputs: SyncSender<Input>,
    /// An answer that is not there by then will not come.
    hung: Duration,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl RaftStore {
    /// Opens the store in `config.dir`, or an empty one, and starts taking part. Frames for other nodes go to `outgoing` as
    /// (node name, bytes). Blocks for some fsyncs.
    pub fn start(config: RaftConfig, outgoing: mpsc::Sender<(String, Vec<u8>)>) -> Result<Arc<Self>> {
        ensure!(
            config.tick >= Duration::from_millis(1),
            "the store's tick is {:?}; at least 1 ms",
            config.tick
        );
        ensure!(config.snapshot_entries >= 2, "the store must keep at least 2 entries between snapshots");
        let seeds = seats::names_in(&config.founding).context("the record of members names no nodes")?;
        let identity = Identity { cluster: config.cluster, name: config.name };
        identity.check()?;
        let loaded = Disk::open(&config.dir, &identity)?;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
            watch: watch::Sender::new(Arc::default()),
            seats: watch::Sender::new(Arc::default()),
        });
        let node = Node {
            identity,
            dir: config.dir,
            seeds,
            founding: config.founding,
            first_start: config.first_start,
            timing: Timing {
                election_ticks: config.election_ticks,
                heartbeat_ticks: config.heartbeat_ticks,
                deadline: config.deadline,
            },
            tick: config.tick,
            grace: config.tick * config.election_ticks as u32,
            snapshot_entries: config.snapshot_entries,
            shared: shared.clone(),
            outgoing,
        };
        let (inputs, receiver) = sync_channel(INPUTS_MAX);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || node.run(loaded, receiver))
            .context("start the store's thread")?;
        Ok(Arc::new(Self { inputs, hung: config.deadline + HUNG, shared, thread: Mutex::new(Some(thread)) }))
    }

    /// Takes a frame that the authenticated node `from` sent. Never blocks; a frame that is malformed, foreign or one
    /// too many is dropped.
    pub fn receive(&self, from: &str, bytes: &[u8]) {
        drop(self.inputs.try_send(Input::Frame(from.to_owned(), bytes.to_vec())));
    }

    /// Why this node's store takes no part: a full disk, which it waits for, or what it cannot go on after.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure()
    }

    /// This node's part in the store, and who votes.
    pub fn seats(&self) -> watch::Receiver<Arc<SeatReport>> {
        self.shared.seats.subscribe()
    }

    /// Stops taking part and waits until the directory is closed. Callers that wait get an answer.
    pub async fn stop(&self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The thread catches its own panics, and the runtime's end is not ours to report.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }

    async fn execute(&self, command: Command) -> Result<Outcome, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.submit(Input::Execute(command, reply))?;
        match tokio::time::timeout(self.hung, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(StoreError::Unknown(self.stopped())),
            Err(_) => {
                Err(StoreError::Unknown(format!("the store's disk did not answer within {:?}", self.hung)))
            }
        }
    }

    fn submit(&self, input: Input) -> Result<(), StoreError> {
        self.inputs.try_send(input).map_err(|refused| {
            StoreError::Unavailable(match refused {
                TrySendError::Full(_) => format!("{INPUTS_MAX} requests wait already"),
                TrySendError::Disconnected(_) => self.stopped(),
            })
        })
    }

    fn stopped(&self) -> String {
        match self.failure() {
            Some(reason) => format!("the store of this node has stopped: {reason}"),
            None => "the store of this node was stopped".to_owned(),
        }
    }
}

impl Drop for RaftStore {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
    }
}

impl Store for RaftStore {
    fn read<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<Entry>, StoreError>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            self.submit(Input::Read(key.to_owned(), reply))?;
            match tokio::time::timeout(self.hung, answer).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(StoreError::Unavailable(self.stopped())),
                Err(_) => Err(StoreError::Unavailable(format!(
                    "no answer within {:?}; is the disk slow?",
                    self.hung
                ))),
            }
        })
    }

    fn commit(&self, transaction: Transaction) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            check_transaction(&transaction)?;
            match self.execute(Command::Commit(transaction)).await? {
                Outcome::Revision(revision) => Ok(revision),
                other => Err(StoreError::Unknown(format!("a commit answered {other:?}"))),
            }
        })
    }

    fn grant_lease(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        Box::pin(async move {
            match self.execute(Command::Grant { ttl_ms: check_ttl(ttl)? }).await? {
                Outcome::Granted(lease) => Ok(lease),
                other => Err(StoreError::Unknown(format!("a grant answered {other:?}"))),
            }
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.execute(Command::KeepAlive { lease }).await.map(drop) })
    }

    fn revoke_lease(&self, lease: LeaseId) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.execute(Command::Revoke { lease }).await.map(drop) })
    }

    fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.shared.watch.subscribe()
    }
}
