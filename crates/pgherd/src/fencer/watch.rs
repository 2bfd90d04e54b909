//! The fencer's life: look at the clock, look at the cell, act, say so.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Signal, setpriority_process};

use super::address::Address;
use super::cell::{Armed, Cell, Order, Side, Word};
use super::hand::{Hand, Job};
use super::note::Note;
use super::plan::{self, Facts, Force, Step};
use super::process::{Identity, Process, children, command};
use super::watchdog::Watchdog;
use super::{NAME, build};

/// Small beside the shortest lease, 375 ms; ten looks at a page of memory a second.
const TICK: Duration = Duration::from_millis(100);

/// While clients are being cut: as long as one that slipped in may stay.
const TICK_BRISK: Duration = Duration::from_millis(20);

/// A fencer without an agent and without a server to fence ends by then: an agent that is started again takes seconds,
/// and one that comes later starts its own.
const LONELY_MS: u64 = 20_000;

/// How often it looks whether the node's directory is still there.
const CHECK_MS: u64 = 2_000;

/// Between attempts to take over from another fencer, which ends within milliseconds of SIGKILL.
const TAKE_OVER: Duration = Duration::from_millis(5);

/// Runs until it is told to end, or has nobody to serve.
pub fn run(dir: &Path) -> io::Result<()> {
    let told = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, told.clone())?;
    }
    stand_apart();
    let cell = Cell::open("/proc/self/fd/0", Side::Fencer)?;
    let own = Identity::own().ok_or_else(|| io::Error::other("this process is not in /proc"))?;
    let hand = Hand::start(dir)?;
    let begun_ms = crate::clock::boot_millis();
    take_over(&cell, &told);
    let mut fencer = Fencer {
        cell,
        hand,
        own,
        build: build(),
        begun_ms,
        checked_ms: begun_ms,
        watchdog: Watchdog::default(),
        address: Address::default(),
        target: None,
        episode: None,
        notes: Vec::new(),
    };
    while !told.load(Ordering::Relaxed) {
        match fencer.turn() {
            Some(pause) => std::thread::sleep(pause),
            None => break,
        }
    }
    fencer.watchdog.close();
    Ok(())
}

/// All of it as far as the machine allows: a fencer that is not allowed is weaker, and better than none.
fn stand_apart() {
    let _ = rustix::process::setsid();
    let _ = std::env::set_current_dir("/");
    let _ = rustix::thread::set_name(NAME);
    let _ = setpriority_process(None, -20);
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    // What is mapped now, not what comes: under a limit a later allocation would fail instead of being swapped.
    if mlockall(MlockAllFlags::CURRENT).is_err() {
        let _ = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT);
    }
}

/// One fencer at a time acts. Who is started later was started because it shall replace the one before: the cell is the
/// same, so whichever of the two acts, acts alike, and from the end of one to the lock of the other it is milliseconds.
fn take_over(cell: &Cell, told: &AtomicBool) {
    while !cell.try_lock() && !told.load(Ordering::Relaxed) {
        let before = cell.read::<Word>(Side::Fencer).and_then(|word| Process::hold(word.fencer));
        if let Some(before) = before.filter(|before| is_fencer(before.identity.pid)) {
            before.signal(Signal::KILL);
        }
        std::thread::sleep(TAKE_OVER);
    }
}

pub fn is_fencer(pid: i32) -> bool {
    command(pid).get(1).is_some_and(|word| word == "fencer")
}

fn why_stopped(door: &Option<Result<(), String>>, empty: bool, armed: Option<&Armed>) -> String {
    match (armed, door) {
        (Some(Armed { grace_ms: 0, .. }), _) => "no standby holds back what it acknowledges".to_owned(),
        (_, None) => "clients cannot be kept out: the disk does not answer".to_owned(),
        (_, Some(Err(error))) => format!("clients cannot be kept out: {error}"),
        (_, Some(Ok(()))) if !empty => "it has sessions that do not end".to_owned(),
        (Some(armed), _) => format!("the agent has stayed away for {} s more", armed.grace_ms / 1_000),
        (None, _) => "the agent has stayed away".to_owned(),
    }
}

/// One passing of a deadline.
struct Episode {
    term: u64,
    target: Identity,
    cut_begun_ms: u64,
    /// Cuts by the hand at the beginning: what it has seen before tells nothing.
    cuts_before: u64,
    stop: Option<(u64, Force)>,
}

struct Fencer {
    cell: Cell,
    hand: Hand,
    own: Identity,
    build: String,
    begun_ms: u64,
    checked_ms: u64,
    watchdog: Watchdog,
    address: Address,
    target: Option<Process>,
    episode: Option<Episode>,
    /// Notes that the hand has not taken yet.
    notes: Vec<Note>,
}

impl Fencer {
    /// How long to pause; `None`: there is nobody to serve.
    fn turn(&mut self) -> Option<Duration> {
        let now_ms = crate::clock::boot_millis();
        let order: Option<Order> = self.cell.read(Side::Agent);
        let armed = order.as_ref().and_then(|order| order.armed.clone());
        let vip = order.as_ref().and_then(|order| order.vip.as_ref());
        // Clients that are sent away below do not come back by the address.
        if let Some((what, why)) = self.address.keep(vip, now_ms) {
            self.note(armed.as_ref().map_or(0, |armed| armed.term), "fencer.vip", what, why);
        }
        let awaited = self.address.waits(vip, now_ms);
        self.hold(armed.as_ref());
        let findings = self.hand.findings();
        let empty = findings.empty
            && self.episode.as_ref().is_some_and(|episode| findings.cuts >= episode.cuts_before + 2);
        let alive = self.target.as_ref().is_some_and(|target| !target.ended());
        let step = plan::step(&Facts {
            now_ms,
            alive,
            armed: armed.as_ref().map(|armed| (armed.until_ms, armed.grace_ms)),
            cut_begun_ms: self.episode.as_ref().map(|episode| episode.cut_begun_ms),
            empty,
            stop_begun_ms: self.episode.as_ref().and_then(|episode| episode.stop).map(|(at, _)| at),
        });
        match step {
            Step::Rest | Step::Guard => self.episode = None,
            Step::Cut => self.cut(now_ms, armed.as_ref(), findings.cuts),
            Step::Stop(force) => {
                self.cut(now_ms, armed.as_ref(), findings.cuts);
                self.stop(now_ms, force, why_stopped(&findings.door, empty, armed.as_ref()));
            }
        }
        let fencing = self.episode.is_some();
        let device = order.as_ref().and_then(|order| order.watchdog.device.as_deref());
        self.watchdog.keep(device, alive && (armed.is_some() || fencing), !fencing || empty);
        self.hand_on(now_ms);
        let word = Word {
            fencer: self.own,
            build: self.build.clone(),
            beat_ms: now_ms,
            fencing,
            notes: findings.notes,
            watchdog: self.watchdog.word(),
        };
        // A page of memory: it fails only when the word is too long, and then the agent sees no sign of life.
        let _ = self.cell.write(&word);
        let heard_ms = order.map_or(self.begun_ms, |order| order.beat_ms.max(self.begun_ms));
        let lonely = now_ms.saturating_sub(heard_ms) > LONELY_MS;
        if !(alive && armed.is_some() || fencing || awaited) && (lonely || findings.gone) {
            return None;
        }
        Some(match step {
            Step::Cut | Step::Stop(_) if !empty => TICK_BRISK,
            Step::Guard => {
                let left_ms = armed.map_or(0, |armed| armed.until_ms.saturating_sub(now_ms));
                TICK.min(Duration::from_millis(left_ms.max(1)))
            }
            _ => TICK,
        })
    }

    /// Holds the server that the agent names. One that is being cut stays held when the agent lets go of it.
    fn hold(&mut self, armed: Option<&Armed>) {
        let Some(armed) = armed else {
            if self.episode.is_none() {
                self.target = None;
            }
            return;
        };
        if self.target.as_ref().is_none_or(|target| target.identity != armed.postmaster) {
            self.target = Process::hold(armed.postmaster);
            self.episode = None;
        }
    }

    fn cut(&mut self, now_ms: u64, armed: Option<&Armed>, cuts: u64) {
        let Some(target) = self.target.as_ref().map(|target| target.identity) else { return };
        let first = self.episode.is_none();
        if let (true, Some(armed)) = (first, armed) {
            let late_ms = now_ms.saturating_sub(armed.until_ms);
            self.note(
                armed.term,
                "fencer.cut",
                "clients were cut off: the lease had ended and the agent did not act",
                vec![format!("no newer lease {late_ms} ms after its end")],
            );
        }
        let episode = self.episode.get_or_insert_with(|| Episode {
            term: armed.map_or(0, |armed| armed.term),
            target,
            cut_begun_ms: now_ms,
            cuts_before: cuts,
            stop: None,
        });
        // A hand that hangs on the disk takes no more; the episode goes on without it, and ends with the server.
        let _ = self.hand.ask(Job::Cut { postmaster: episode.target, first });
    }

    fn stop(&mut self, now_ms: u64, force: Force, why: String) {
        let Some(target) = &self.target else { return };
        let Some(episode) = &mut self.episode else { return };
        let before = episode.stop.map(|(_, force)| force);
        if before.is_none_or(|before| before < force) {
            let at = episode.stop.map_or(now_ms, |(at, _)| at);
            episode.stop = Some((at, force));
            let (what, signal) = match force {
                Force::Fast => ("PostgreSQL was told to stop (fast)", Signal::INT),
                Force::Immediate => ("PostgreSQL was told to stop at once (immediate)", Signal::QUIT),
                Force::Kill => ("PostgreSQL was killed", Signal::KILL),
            };
            if force < Force::Kill {
                target.signal(signal);
            }
            let term = episode.term;
            let why = before.map_or(why, |_| "it had not ended on the word before".to_owned());
            self.note(term, "fencer.stop", what, vec![why]);
        }
        if force == Force::Kill {
            self.kill();
        }
    }

    /// The postmaster first, so that it starts nothing new; its children are held before they lose their parent.
    fn kill(&self) {
        let Some(target) = &self.target else { return };
        let children: Vec<Process> = children(target.identity.pid)
            .into_iter()
            .filter_map(|pid| Process::hold(Identity::of(pid)?))
            .collect();
        target.signal(Signal::KILL);
        children.iter().for_each(|child| child.signal(Signal::KILL));
    }

    fn note(&mut self, term: u64, rule: &str, what: impl Into<String>, why: Vec<String>) {
        let at = crate::clock::wall().to_string();
        self.notes.push(Note { at, term, rule: rule.into(), what: what.into(), why });
    }

    /// Notes and checks for the hand, as far as it takes them now.
    fn hand_on(&mut self, now_ms: u64) {
        while let Some(note) = self.notes.first() {
            if self.hand.ask(Job::Note(note.clone())).is_err() {
                return;
            }
            self.notes.remove(0);
        }
        if now_ms.saturating_sub(self.checked_ms) >= CHECK_MS && self.hand.ask(Job::Check).is_ok() {
            self.checked_ms = now_ms;
        }
    }
}
