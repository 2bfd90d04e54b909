//! The agent's end of the fencer: finds or starts it, says until when this primary may serve, tells what it did.
//!
//! Saying so is a write to memory, on the loop. Everything that may take time (starting a process, reading notes) is done
//! by a task of its own. Invariant: while this agent lives a fencer is started again whenever none gives a sign of
//! life; when this agent ends, the fencer stays as it is: armed.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use brain::{Fence, FencerState, Millis, View, fence};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::events::EventLog;
use crate::fencer::{
    self, Armed, Cell, GRACE_TIMEOUTS, Identity, Order, Process, Side, VipOrder, WatchdogOrder, WatchdogWord,
    Word,
};
use crate::vip::VirtualIp;

/// As often as the fencer looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// The fencer gives ten signs of life a second; after so long it is stopped, starved or hung, and replaced.
const SILENT_MS: u64 = 2_000;

/// A fencer starts within tens of milliseconds; one that was started on a busy machine is given so long.
const START_MS: u64 = 5_000;

/// What a fencer needs to know of its node.
pub struct FencingConfig {
    pub dir: PathBuf,
    /// The watchdog's device; `None` for none.
    pub watchdog: Option<String>,
    /// Without the watchdog this node admits no clients as primary.
    pub required: bool,
    pub failure_timeout_ms: u64,
    /// The address that is to go with the lease.
    pub vip: Option<VirtualIp>,
}

pub struct Fencing {
    config: FencingConfig,
    own: Option<Identity>,
    cell: Cell,
    armed: Option<Armed>,
    written: Option<Order>,
    inherited: Option<Millis>,
    inherited_vip: Option<VipOrder>,
    /// Until when the address may be here, boot milliseconds.
    lease: watch::Sender<u64>,
    seen: Arc<Mutex<Option<Word>>>,
    keeper: AbortHandle,
}

impl Drop for Fencing {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Fencing {
    /// Goes on with the fencer that an earlier agent left, or starts one. To be called within the runtime.
    pub fn start(config: FencingConfig, events: Arc<EventLog>) -> io::Result<Fencing> {
        let cell = adopt(&config.dir).map_or_else(Cell::create, Ok)?;
        let before = cell.read::<Order>(Side::Agent);
        let inherited_vip = before.as_ref().and_then(|order| order.vip.clone());
        let armed = before.and_then(|order| order.armed);
        let inherited = armed.as_ref().map(|armed| Millis(armed.until_ms));
        let seen = Arc::new(Mutex::new(None));
        let keeper = Keeper {
            dir: config.dir.clone(),
            cell: Cell::open(&cell.path(), Side::Agent)?,
            build: fencer::build(),
            events,
            child: None,
            started_ms: None,
            seen: seen.clone(),
            notes: None,
            failure: String::new(),
        };
        let keeper = tokio::spawn(keeper.run()).abort_handle();
        let own = Identity::own();
        let (written, lease) = (None, watch::Sender::new(0));
        Ok(Fencing { config, own, cell, armed, written, inherited, inherited_vip, lease, seen, keeper })
    }

    /// The end of the lease that an earlier agent held.
    pub fn inherited(&self) -> Option<Millis> {
        self.inherited
    }

    /// What the fencer was told of the virtual IP by an earlier agent.
    pub fn inherited_vip(&self) -> Option<VipOrder> {
        self.inherited_vip.clone()
    }

    /// Until when the virtual IP may be here, boot milliseconds; it is known to the fencer before it is told.
    pub fn lease(&self) -> watch::Receiver<u64> {
        self.lease.subscribe()
    }

    /// Says what `view` asks of the fencer; `postmaster` is the server that the view shows.
    pub fn order(&mut self, view: &View, postmaster: Option<Identity>) {
        match (fence(view), postmaster) {
            (Fence::Rest, _) => self.armed = None,
            (Fence::Until(until), Some(postmaster)) => {
                self.armed = Some(Armed {
                    until_ms: until.0,
                    grace_ms: self.grace_ms(view),
                    term: view.record().map_or(0, |record| record.term.0),
                    postmaster,
                });
            }
            (Fence::Keep, _) | (Fence::Until(_), None) => {}
        }
        let watchdog = WatchdogOrder { device: self.config.watchdog.clone() };
        let vip = self.vip_order(view);
        let order = Order { agent: self.own, beat_ms: view.now.0, armed: self.armed.clone(), watchdog, vip };
        let due = self.written.as_ref().is_none_or(|written| {
            written.armed != order.armed || view.now.0 - written.beat_ms >= INTERVAL.as_millis() as u64
        });
        if !due {
            return;
        }
        if let Err(error) = self.cell.write(&order) {
            // Memory that is there already: no more than a word too long for its slot, which the settings' check forbids.
            tracing::error!(%error, "the fencer's deadline could not be extended");
        }
        // The fencer first: what it does not know of it cannot take away.
        let until_ms = order.vip.as_ref().map_or(0, |vip| vip.until_ms.unwrap_or(u64::MAX));
        self.lease.send_if_modified(|told| std::mem::replace(told, until_ms) != until_ms);
        self.written = Some(order);
    }

    /// Until when the virtual IP may be here by `view`.
    fn vip_order(&self, view: &View) -> Option<VipOrder> {
        let vip = self.config.vip.clone()?;
        // The agent itself takes it away at once, unless it dies right now.
        let soon = Some(view.now.0 + self.config.failure_timeout_ms);
        let until_ms = match fence(view) {
            Fence::Until(until) => Some(until.0),
            Fence::Rest if view.settings.full.len() < 2 => None,
            Fence::Rest => soon,
            Fence::Keep => {
                let before = self.written.as_ref().and_then(|order| order.vip.as_ref());
                before.or(self.inherited_vip.as_ref()).map_or(soon, |before| before.until_ms)
            }
        };
        Some(VipOrder { vip, until_ms })
    }

    /// Writes are safe by the data quorum, so a short absence shall cost reads only. Without one nothing but the end of
    /// the server keeps it from acknowledging what a takeover does not have.
    fn grace_ms(&self, view: &View) -> u64 {
        let quorum = view.sync().is_some_and(|sync| sync.set.k > 0);
        if quorum { GRACE_TIMEOUTS * self.config.failure_timeout_ms } else { 0 }
    }

    /// What the fencer says of itself.
    pub fn state(&self, now: Millis) -> brain::Fencer {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let state = match &*seen {
            None => FencerState::Missing,
            Some(word) if word.fencing => FencerState::Fencing,
            Some(_) if self.armed.is_some() => FencerState::Armed,
            Some(_) => FencerState::Idle,
        };
        let armed = self.armed.as_ref().filter(|_| state == FencerState::Armed);
        let left_ms = armed.map(|armed| Millis(armed.until_ms).since(now));
        brain::Fencer { state, left_ms, obstacle: self.obstacle(seen.as_ref()) }
    }

    fn obstacle(&self, seen: Option<&Word>) -> Option<String> {
        if !self.config.required {
            return None;
        }
        match seen.map(|word| &word.watchdog) {
            Some(WatchdogWord::Open) => None,
            Some(WatchdogWord::Failed(reason)) => Some(format!("quarantined: {reason}, and it is required")),
            Some(WatchdogWord::Closed) | None => {
                Some("quarantined: the watchdog is required and not open yet".to_owned())
            }
        }
    }
}

/// The cell of the fencer that watches `dir`, when one is left. Others, whose cell cannot be read, are ended: what they
/// hold cannot be extended.
fn adopt(dir: &Path) -> Option<Cell> {
    let own = rustix::process::geteuid().as_raw();
    let words = |pid: i32| fencer::command(pid);
    let ours = |pid: &i32| {
        std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|entry| entry.uid() == own)
            && matches!(words(*pid).as_slice(), [_, run, flag, at] if run == "fencer" && flag == "--dir" && Path::new(at) == dir)
    };
    let mut found = None;
    for pid in fencer::pids().filter(ours) {
        let Some(held) = Identity::of(pid).and_then(Process::hold) else { continue };
        let cell = Cell::open(&format!("/proc/{pid}/fd/0"), Side::Agent);
        let acts = |cell: &Cell| cell.read::<Word>(Side::Fencer).is_some_and(|word| word.fencer.pid == pid);
        match cell {
            Ok(cell) if found.is_none() && acts(&cell) => found = Some(cell),
            _ => held.signal(rustix::process::Signal::KILL),
        }
    }
    found
}

/// Keeps a fencer alive and tells what it did.
struct Keeper {
    dir: PathBuf,
    /// For reading, and to hand on.
    cell: Cell,
    build: String,
    events: Arc<EventLog>,
    /// The one that this agent started: it is collected when it ends.
    child: Option<Child>,
    started_ms: Option<u64>,
    seen: Arc<Mutex<Option<Word>>>,
    /// How many notes had been left at the last look.
    notes: Option<u64>,
    /// Why none could be started, told once.
    failure: String,
}

impl Keeper {
    async fn run(mut self) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let word: Option<Word> = self.cell.read(Side::Fencer);
            let lack = lack_of(word.as_ref(), &self.build);
            let had = self.tell(word.filter(|_| lack.is_none()));
            if let Some(child) = &mut self.child {
                // Ended or not: asking is what takes it off the process table.
                let _ = child.try_wait();
            }
            let now_ms = crate::clock::boot_millis();
            match lack {
                None => self.started_ms = None,
                Some(lack) => {
                    let starting = self.started_ms.is_some_and(|at| now_ms.saturating_sub(at) < START_MS);
                    if !starting {
                        self.start(had, &lack).await;
                    }
                }
            }
            self.tell_notes().await;
        }
    }

    /// Shows the fencer to the loop; true when there was one.
    fn tell(&self, word: Option<Word>) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *seen, word).is_some()
    }

    /// On a thread that may block: the program's file may lie on a slow disk.
    async fn start(&mut self, had: bool, lack: &str) {
        if had || self.started_ms.is_some() {
            let why = vec![lack.to_owned()];
            self.events.note(self.term(), "fencer.missing", "the fencer is gone; another is started", why);
        } else {
            tracing::info!(reason = lack, "starting the fencer");
        }
        self.started_ms = Some(crate::clock::boot_millis());
        let (dir, stdin) = (self.dir.clone(), self.cell.as_stdio());
        let started = tokio::task::spawn_blocking(move || spawn(&dir, stdin?)).await;
        match started.map_err(io::Error::other).and_then(|result| result) {
            Ok(child) => {
                self.child = Some(child);
                self.failure.clear();
            }
            Err(error) => {
                let error = error.to_string();
                if error != self.failure {
                    let what = "the fencer cannot be started: nothing ends this server if the agent dies";
                    self.events.note(self.term(), "fencer.missing", what, vec![error.clone()]);
                    self.failure = error;
                }
            }
        }
    }

    fn term(&self) -> u64 {
        let order = self.cell.read::<Order>(Side::Agent);
        order.and_then(|order| order.armed).map_or(0, |armed| armed.term)
    }

    /// At the start, and whenever the fencer says that it has left another.
    async fn tell_notes(&mut self) {
        let left = self.cell.read::<Word>(Side::Fencer).map_or(0, |word| word.notes);
        if self.notes == Some(left) {
            return;
        }
        let (dir, events) = (self.dir.clone(), self.events.clone());
        let told = tokio::task::spawn_blocking(move || {
            // What an agent had taken before it died comes first, what came since in the second round.
            for _ in 0..2 {
                for note in fencer::take(&dir) {
                    let why = note.why.into_iter().chain([format!("at {}", note.at)]).collect();
                    events.note(note.term, &note.rule, note.what, why);
                }
                fencer::done(&dir);
            }
        });
        if told.await.is_ok() {
            self.notes = Some(left);
        }
    }
}

/// Why `word` is not that of a fencer that watches; `None` when it is.
fn lack_of(word: Option<&Word>, build: &str) -> Option<String> {
    let Some(word) = word else { return Some("none has run here since the machine started".to_owned()) };
    let Some(_alive) = Process::hold(word.fencer) else {
        return Some(format!("process {} has ended", word.fencer.pid));
    };
    if word.build != build {
        return Some("the one that runs is of another build".to_owned());
    }
    let silent_ms = crate::clock::boot_millis().saturating_sub(word.beat_ms);
    (silent_ms > SILENT_MS)
        .then(|| format!("process {} gives no sign of life for {silent_ms} ms", word.fencer.pid))
}

/// A fencer locks what it has mapped. The allocator (mimalloc's options) would map a gigabyte in advance, for others to grow into.
const SMALL: [(&str, &str); 2] = [("MIMALLOC_ARENA_RESERVE", "32MiB"), ("MIMALLOC_ARENA_EAGER_COMMIT", "0")];

/// The very program that runs here, also when its file has been replaced by another since.
fn spawn(dir: &Path, stdin: Stdio) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    // With a slash at its end: who ends a node by `pkill -f DIR/n1/`, as the README says, means the fencer too.
    command.arg0("pgherd").args(["fencer", "--dir"]).arg(dir.join("")).current_dir("/").envs(SMALL);
    command.env_remove(crate::systemd::SOCKET);
    command.stdin(stdin).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}
