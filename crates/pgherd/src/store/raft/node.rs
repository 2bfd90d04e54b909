//! The thread of a node's store, and the lives of its directory.
//!
//! A life begins when the directory is opened and ends with the node, or when the directory cannot go on: a full disk is
//! waited for and the directory opened again; one that has lost its memory is put aside and an empty one begun. What
//! else fails ends the store for good, with its reason. It is a thread of its own because it waits for the disk.
//!
//! Invariant: after a failed write nothing that was in memory goes on; the next life knows what the disk knows.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use super::core::{Forgotten, Timing};
use super::disk::{Disk, Full, Loaded, guarded};
use super::identity::Identity;
use super::life::Life;
use super::report::{SeatReport, Standing};
use crate::store::state::{Command, Outcome};
use crate::store::{Entry, Snapshot, StoreError};

/// How often a full disk is looked at.
const ROOM_AGAIN: Duration = Duration::from_millis(500);

/// So much must be free before a directory that was full is opened again: two of the steps in which the file grows.
const ROOM_BYTES_MIN: u64 = 8 << 20;

pub(super) enum Input {
    /// A frame and the authenticated node that sent it.
    Frame(String, Vec<u8>),
    Execute(Command, oneshot::Sender<Result<Outcome, StoreError>>),
    Read(String, oneshot::Sender<Result<Option<Entry>, StoreError>>),
}

/// What the thread and the handle share.
pub(super) struct Shared {
    pub stop: AtomicBool,
    /// Why the store takes no part at present.
    pub failure: Mutex<Option<String>>,
    pub watch: watch::Sender<Arc<Snapshot>>,
    pub seats: watch::Sender<Arc<SeatReport>>,
}

impl Shared {
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, reason: Option<String>) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&reason);
        self.seats.send_if_modified(|report| {
            let changed = report.trouble != reason;
            *report = Arc::new(SeatReport { trouble: reason, ..(**report).clone() });
            changed
        });
    }

    fn disconnect(&self) {
        self.watch.send_modify(|snapshot| {
            *snapshot = Arc::new(Snapshot { leader: None, connected: false, ..(**snapshot).clone() });
        });
    }
}

/// What all lives of a node's store have in common.
pub(super) struct Node {
    pub identity: Identity,
    pub dir: PathBuf,
    /// With whom a first store would be founded.
    pub seeds: BTreeSet<String>,
    /// The record of members that a first store begins with.
    pub founding: Value,
    /// Nothing of this node has been part of a store, as far as its configuration can tell.
    pub first_start: bool,
    pub timing: Timing,
    pub tick: Duration,
    /// For this long after a leader was last known the node calls itself connected.
    pub grace: Duration,
    pub snapshot_entries: u64,
    pub shared: Arc<Shared>,
    pub outgoing: mpsc::Sender<(String, Vec<u8>)>,
}

/// The directory cannot go on under its seat; the next one can.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct SeatLost(pub String);

impl Node {
    /// Runs until told to stop, or until it must.
    pub fn run(self, first: Loaded, inputs: Receiver<Input>) {
        let mut next = Some(first);
        let reason = loop {
            let ended = guarded(|| {
                let loaded = match next.take() {
                    Some(loaded) => loaded,
                    None => Disk::open(&self.dir, &self.identity)?,
                };
                self.shared.fail(None);
                Life::new(&self, loaded)?.drive(&inputs)
            });
            match ended.map_err(|error| self.between(&error, &inputs).err()) {
                Ok(()) => break None,
                Err(None) if self.shared.stop.load(Ordering::SeqCst) => break None,
                Err(None) => {}
                Err(Some(error)) => break Some(format!("{error:#}")),
            }
        };
        if let Some(reason) = reason {
            tracing::error!(%reason, "the store of this node has stopped");
            self.shared.fail(Some(reason));
        }
        self.shared.disconnect();
    }

    /// What is to be done before the next life; an error when there is none.
    fn between(&self, ended: &Error, inputs: &Receiver<Input>) -> Result<()> {
        self.shared.disconnect();
        if let Some(full) = ended.downcast_ref::<Full>() {
            self.await_room(full, inputs);
            return Ok(());
        }
        if ended.is::<SeatLost>() || ended.is::<Forgotten>() {
            let aside = Disk::set_aside(&self.dir)?;
            let (reason, aside) = (format!("{ended:#}"), aside.display());
            tracing::error!(%reason, %aside, "this node gave its vote up; it comes back under a new seat and learns anew");
            self.shared.seats.send_modify(|report| {
                *report = Arc::new(SeatReport { standing: Standing::Newcomer, ..(**report).clone() });
            });
            return Ok(());
        }
        Err(anyhow::anyhow!("{ended:#}"))
    }

    /// Answers callers and lets messages go until there is room. A full disk costs this node's vote, nothing else.
    fn await_room(&self, full: &Full, inputs: &Receiver<Input>) {
        let reason = format!("{full}; this node's store takes part again by itself once there is room");
        if self.shared.failure().is_none() {
            tracing::error!(%reason, "the store of this node has no room");
        }
        self.shared.fail(Some(reason.clone()));
        let mut look = Instant::now() + ROOM_AGAIN;
        while !self.shared.stop.load(Ordering::SeqCst) {
            let unavailable = StoreError::Unavailable(reason.clone());
            match inputs.recv_timeout(look.saturating_duration_since(Instant::now())) {
                Ok(Input::Frame(..)) => {}
                Ok(Input::Execute(_, reply)) => drop(reply.send(Err(unavailable))),
                Ok(Input::Read(_, reply)) => drop(reply.send(Err(unavailable))),
                Err(RecvTimeoutError::Timeout) => {}
                // The handle is gone; the next life ends at once.
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= look {
                if self.has_room() {
                    return;
                }
                look = Instant::now() + ROOM_AGAIN;
            }
        }
    }

    fn has_room(&self) -> bool {
        let free = rustix::fs::statvfs(&self.dir).map(|fs| fs.f_bavail * fs.f_frsize);
        // A file system that cannot tell is tried.
        free.unwrap_or(u64::MAX) >= ROOM_BYTES_MIN
    }
}
