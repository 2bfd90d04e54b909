//! Looks at the server again and again, and at once when something happened.

use std::sync::Arc;
use std::time::Duration;

use brain::{Millis, Postgres};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

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
    tasks: JoinSet<()>,
}

impl Observer {
    pub fn start(worker: Arc<Worker>, notes: mpsc::Sender<Note>) -> Observer {
        let wake = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(look(worker.clone(), wake.clone(), notes));
        tasks.spawn(worker.clone().probe_forever());
        tasks.spawn(worker.clone().watch_disk());
        tasks.spawn(worker.clone().watch_settings());
        tasks.spawn(watch_exits(worker, wake.clone()));
        Observer { wake, tasks }
    }

    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Resolves when something that looks has ended, which is a fault: an agent must not go on blind.
    pub async fn ended(observer: &mut Option<Observer>) -> String {
        match observer {
            Some(observer) => match observer.tasks.join_next().await {
                Some(Err(error)) => error.to_string(),
                _ => "it returned".to_owned(),
            },
            None => std::future::pending().await,
        }
    }
}

async fn look(worker: Arc<Worker>, wake: Arc<Notify>, notes: mpsc::Sender<Note>) {
    let mut brisk_until = tokio::time::Instant::now() + BRISK;
    let mut last = Postgres::Unknown;
    loop {
        let (generation, began) = (worker.generation(), Millis(crate::clock::boot_millis()));
        let postgres = worker.observe().await;
        let settled = matches!(&postgres, Postgres::Primary(p) if !p.quarantined)
            || postgres.standby().is_some_and(|standby| standby.streaming);
        if std::mem::discriminant(&postgres) != std::mem::discriminant(&last) || !settled {
            brisk_until = tokio::time::Instant::now() + BRISK;
        }
        last = postgres.clone();
        if notes.send(Note::Observed(Box::new(Observed { generation, began, postgres }))).await.is_err() {
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
