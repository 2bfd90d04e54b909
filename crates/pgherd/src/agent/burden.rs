//! What burdens the node beside its server's state: kept here, told to peers and people as [`brain::Condition`].

use std::sync::Arc;
use std::time::Duration;

use brain::{Condition, LostWrites, NodeName, Pending, Progress};
use tokio::sync::watch;

use super::work::Worker;
use crate::postgres::{self, Lost, PendingRestart, Room};

/// A disk that fills fills within seconds; statvfs takes microseconds.
const DISK_INTERVAL: Duration = Duration::from_secs(1);

const RECOVERING: &str = "recovering";

/// What PostgreSQL and the kernel call a full disk.
const NO_SPACE: &str = "No space left on device";
/// In PostgreSQL's words for what is no disk: `could not create shared memory segment`, `could not create semaphores`.
const NO_DISK: [&str; 2] = ["shared memory segment", "semaphores"];

/// People wait for this when they have changed a setting, a standby whose replay has stopped as well.
const SETTINGS_INTERVAL: Duration = Duration::from_secs(2);

/// How often the progress of a copy is taken over into the status, and how often it is told in the log.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
const PROGRESS_TOLD: u32 = 10;

/// Listings of lost writes are shown for a week, or until somebody acknowledges them.
const LOST_AGE_MAX: jiff::SignedDuration = jiff::SignedDuration::from_hours(7 * 24);
/// Shown at once; a node that rewinds more often than that within a week has its listings in `kept`.
const LOST_SHOWN_MAX: usize = 10;
/// Looks at the disk between two looks at the listings: somebody may have acknowledged one.
const LISTINGS_EVERY: u32 = 10;

#[derive(Default)]
pub(super) struct Burden {
    pub room: Option<Room>,
    pub crowded: bool,
    pub hung: bool,
    pub progress: Option<Progress>,
    pub stuck: Option<String>,
    pub lost: Vec<LostWrites>,
    pub pending: Vec<Pending>,
    pub outgrown: bool,
    /// Why the last restart did not lower the settings that it was to lower.
    pub not_lowered: Option<String>,
    /// The last that the server said before it ended by itself.
    pub last_words: Option<String>,
}

impl Burden {
    /// The server answers, so whatever it had to recover it has.
    pub fn recovered(&mut self) {
        self.progress.take_if(|progress| progress.what == RECOVERING);
    }

    fn full(&self) -> bool {
        self.room.is_some_and(|room| room.full)
    }
}

/// True when an error or a line of the log says that a disk is full. The kernel says the same when it has no shared memory or
/// no semaphores left, and then no room on a disk would help.
pub(super) fn says_full(text: &str) -> bool {
    let of_disk = |line: &str| !NO_DISK.iter().any(|what| line.contains(what));
    text.split(['\n', '|']).any(|line| line.contains(NO_SPACE) && of_disk(line))
}

fn in_short(lost: &Lost) -> LostWrites {
    LostWrites {
        at: lost.at.clone(),
        fork: lost.fork,
        transactions: lost.committed.len() as u64,
        relations: lost.tables().count() as u64,
        bytes: lost.bytes,
        listed: lost.kept.join("report.txt").display().to_string(),
    }
}

fn in_words(setting: PendingRestart, refused: Option<&str>) -> Pending {
    let PendingRestart { name, old, new, primary_first } = setting;
    let primary = primary_first.then(|| "the primary has to be restarted with it first".to_owned());
    let refused = refused.map(|refused| format!("the last restart kept the old value: {refused}"));
    Pending { name, old, new, note: primary.or(refused) }
}

impl Worker {
    pub fn condition(&self) -> Condition {
        let Burden { room, crowded, hung, progress, stuck, lost, pending, outgrown, .. } =
            &self.known().burden;
        Condition {
            disk_full: room.is_some_and(|room| room.full),
            free_bytes: room.map(|room| room.free_bytes),
            crowded: *crowded,
            hung: *hung,
            progress: progress.clone(),
            stuck: stuck.clone(),
            lost: lost.clone(),
            pending: pending.clone(),
            outgrown: *outgrown,
        }
    }

    /// The server starts: `title` is its startup process's.
    pub(super) fn note_recovery(&self, title: &str) {
        let Some(done_bytes) = self.server.recovered_bytes(title) else { return };
        let what = RECOVERING.to_owned();
        self.known().burden.progress = Some(Progress { what, done_bytes, total_bytes: 0 });
    }

    /// Looks at the disks again and again. A look that hangs with its disk is waited for: one thread, no more.
    pub async fn watch_disk(self: Arc<Self>) {
        let mut round = 0u32;
        loop {
            self.look_at_disk().await;
            if round.is_multiple_of(LISTINGS_EVERY) {
                self.look_at_listings().await;
            }
            round = round.wrapping_add(1);
            tokio::time::sleep(DISK_INTERVAL).await;
        }
    }

    /// Brings this agent's configuration in force, and looks for what waits for a restart.
    pub async fn watch_settings(self: Arc<Self>) {
        let mut refreshed = false;
        loop {
            tokio::time::sleep(SETTINGS_INTERVAL).await;
            let answers = self.known().answer.is_some();
            if !answers {
                continue;
            }
            if !refreshed {
                match self.server.refresh_settings().await {
                    Ok(changed) => {
                        refreshed = true;
                        if changed {
                            tracing::info!("the configuration has changed: PostgreSQL was told to reload it");
                        }
                    }
                    Err(error) => tracing::warn!(%error, "the configuration could not be brought in force"),
                }
            }
            self.look_at_settings().await;
        }
    }

    async fn look_at_settings(&self) {
        let generation = self.generation();
        let state = match self.server.settings_state().await {
            Ok(state) => state,
            Err(error) => {
                tracing::debug!(%error, "the settings could not be looked at");
                return;
            }
        };
        let mut known = self.known();
        let refused = known.burden.not_lowered.clone();
        let pending = state.pending.into_iter().map(|p| in_words(p, refused.as_deref())).collect();
        // Work has begun or ended meanwhile: this may have been another run of the server.
        if generation == self.generation() {
            (known.burden.pending, known.burden.outgrown) = (pending, state.outgrown);
        }
    }

    /// Which listings of lost writes are still to be shown.
    async fn look_at_listings(self: &Arc<Self>) {
        let worker = self.clone();
        let Ok(lists) = tokio::task::spawn_blocking(move || worker.server.kept_lists()).await else { return };
        let now = crate::clock::wall();
        let recent = |lost: &&Lost| {
            lost.at.parse::<jiff::Timestamp>().is_ok_and(|at| now.duration_since(at) < LOST_AGE_MAX)
        };
        let mut lost: Vec<LostWrites> = lists.iter().filter(recent).map(in_short).collect();
        lost.drain(..lost.len().saturating_sub(LOST_SHOWN_MAX));
        self.known().burden.lost = lost;
    }

    /// The rewound server runs: names the relations and shows what was lost.
    pub(super) async fn tell_lost(&self, mut lost: Lost) {
        if let Err(error) = self.server.name_lost(&mut lost).await {
            tracing::warn!(%error, "the relations of the kept WAL could not be named");
        }
        let mut known = self.known();
        let shown = &mut known.burden.lost;
        shown.retain(|other| other.at != lost.at);
        shown.push(in_short(&lost));
    }

    /// Does `work`, showing how far it is.
    pub(super) async fn shown<T>(
        &self,
        what: &str,
        node: &NodeName,
        seen: watch::Receiver<postgres::Progress>,
        work: impl Future<Output = T>,
    ) -> T {
        let mut look = tokio::time::interval(PROGRESS_INTERVAL);
        let mut round = 0u32;
        tokio::pin!(work);
        loop {
            tokio::select! {
                result = &mut work => {
                    self.known().burden.progress = None;
                    return result;
                }
                _ = look.tick() => {
                    let postgres::Progress { done_bytes, total_bytes } = *seen.borrow();
                    if round.is_multiple_of(PROGRESS_TOLD) {
                        tracing::info!(%node, done_mb = done_bytes >> 20, total_mb = total_bytes >> 20, "{what}");
                    }
                    round = round.wrapping_add(1);
                    let progress = Progress { what: what.to_owned(), done_bytes, total_bytes };
                    self.known().burden.progress = Some(progress);
                }
            }
        }
    }

    async fn look_at_disk(&self) {
        let disk = self.server.disk.clone();
        let was_full = self.known().burden.full();
        match tokio::task::spawn_blocking(move || disk.look(was_full)).await {
            Ok(Ok(room)) => {
                let mut known = self.known();
                // What was said of the disk while this look was under way is newer than the look.
                let said_full = known.burden.full() && !was_full;
                known.burden.room = Some(Room { full: room.full || said_full, ..room });
            }
            Ok(Err(error)) => tracing::debug!(%error, "the disks could not be looked at"),
            Err(error) => tracing::warn!(%error, "the look at the disks ended by itself"),
        }
    }

    /// The server, or one of our own writes, said that a disk is full. That holds until there is room for more than what
    /// failed: a file that could not be written whole has been taken away, and leaves room of which nothing follows.
    pub(super) fn note_full(&self) {
        let mut known = self.known();
        let before = known.burden.room.unwrap_or(Room { free_bytes: 0, full: true, reserved: false });
        known.burden.room = Some(Room { full: true, ..before });
    }

    /// On a full disk, makes room for a recovery or a promotion out of the reserve.
    pub(super) async fn make_room(&self) -> bool {
        if !self.known().burden.full() {
            return false;
        }
        let disk = self.server.disk.clone();
        match tokio::task::spawn_blocking(move || disk.release()).await {
            Ok(Ok(true)) => {
                if let Some(room) = &mut self.known().burden.room {
                    room.reserved = false;
                }
                tracing::warn!("the disk is full: the reserve is given up so that PostgreSQL can recover");
                true
            }
            Ok(Ok(false)) => false,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the reserve could not be given up");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "giving up the reserve ended by itself");
                false
            }
        }
    }

    /// A word that could not be written for want of room is written out of the reserve. The caller waits for the disk
    /// anyway.
    pub(super) fn make_room_for_words(&self) -> bool {
        self.note_full();
        let released = self.server.disk.release();
        if let Err(error) = &released {
            tracing::warn!(%error, "the reserve could not be given up");
        }
        released.unwrap_or(false)
    }

    pub(super) fn give_up(&self, why: String) {
        self.known().burden.stuck = Some(why);
    }

    pub(super) fn take_heart(&self) {
        self.known().burden.stuck = None;
    }

    /// The server has ended by itself: what did it say?
    pub(super) async fn hear_last_words(&self) {
        let words = self.server.last_words().await;
        if words.as_deref().is_some_and(says_full) {
            self.note_full();
        }
        let mut known = self.known();
        known.burden.last_words = words;
        (known.burden.crowded, known.burden.hung) = (false, false);
        known.burden.recovered();
    }

    pub(super) fn last_words(&self) -> Option<String> {
        self.known().burden.last_words.clone()
    }

    /// Starts the server with `start`, once more with the reserve given up if the first time there was no room.
    pub(super) async fn with_room<T, F>(&self, start: impl Fn() -> F) -> postgres::Result<T>
    where
        F: Future<Output = postgres::Result<T>>,
    {
        self.make_room().await;
        match start().await {
            Err(error) if says_full(&error.to_string()) => {
                self.note_full();
                if self.make_room().await { start().await } else { Err(error) }
            }
            result => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_disk_is_a_full_disk() {
        assert!(says_full("PANIC:  could not write to file \"pg_wal/xlogtemp.7\": No space left on device"));
        let memory = "FATAL:  could not create shared memory segment: No space left on device";
        let semaphores = "FATAL:  could not create semaphores: No space left on device";
        assert!(!says_full(memory) && !says_full(semaphores));
        assert!(!says_full(&format!("initdb failed: {memory} | HINT:  This error does *not* mean …")));
        assert!(says_full(&format!("{memory}\nLOG:  could not write to log file: No space left on device")));
    }
}
