//! Looks at the server again and again, and at once when something happened.

use std::sync::Arc;
use std::time::Duration;

use brain::Postgres;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::note::{Note, Observed};
use super::work::Worker;

/// A standby that gains a stream, a member that has flushed: seen within this time. The query takes about 1 ms.
const INTERVAL: Duration = Duration::from_millis(100);

/// While something is expected to change: a receiver to go, the end of recovery to be flushed.
const INTERVAL_BRISK: Duration = Duration::from_millis(15);

/// How long the brisk pace is kept after something happened.
const BRISK: Duration = Duration::from_secs(2);

pub struct Observer {
    wake: Arc<Notify>,
    tasks: Vec<AbortHandle>,
}

impl Observer {
    pub fn start(worker: Arc<Worker>, notes: mpsc::Sender<Note>) -> Observer {
        let wake = Arc::new(Notify::new());
        let looking = tokio::spawn(look(worker.clone(), wake.clone(), notes));
        let probing = tokio::spawn(worker.clone().probe_forever());
        let disk = tokio::spawn(worker.clone().watch_disk());
        let settings = tokio::spawn(worker.clone().watch_settings());
        let watching = tokio::spawn(watch_exits(worker, wake.clone()));
        let tasks =
            [looking, probing, disk, settings, watching].iter().map(|task| task.abort_handle()).collect();
        Observer { wake, tasks }
    }

    pub fn wake(&self) {
        self.wake.notify_one();
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

async fn look(worker: Arc<Worker>, wake: Arc<Notify>, notes: mpsc::Sender<Note>) {
    let mut brisk_until = tokio::time::Instant::now() + BRISK;
    let mut last = Postgres::Unknown;
    loop {
        let generation = worker.generation();
        let postgres = worker.observe().await;
        let settled = matches!(&postgres, Postgres::Primary(p) if !p.quarantined)
            || postgres.standby().is_some_and(|standby| standby.streaming);
        if std::mem::discriminant(&postgres) != std::mem::discriminant(&last) || !settled {
            brisk_until = tokio::time::Instant::now() + BRISK;
        }
        last = postgres.clone();
        if notes.send(Note::Observed(Observed { generation, postgres })).await.is_err() {
            return;
        }
        let brisk = tokio::time::Instant::now() < brisk_until;
        let pause = if brisk { INTERVAL_BRISK } else { INTERVAL };
        // Either the time has passed or somebody woke us; both mean: look again.
        let _ = tokio::time::timeout(pause, wake.notified()).await;
    }
}

/// A dead postmaster is seen at once, not at the next look.
async fn watch_exits(worker: Arc<Worker>, wake: Arc<Notify>) {
    loop {
        worker.exited().await;
        wake.notify_one();
        tokio::time::sleep(INTERVAL).await;
    }
}
