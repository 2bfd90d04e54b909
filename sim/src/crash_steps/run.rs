//! One run: the operation undisturbed, or killed after one of its steps and seen to its end.
//!
//! Invariant: up to the kill the run is, event for event, the undisturbed one; so "after step 17" means something.

use super::operation::{Before, Operation, Outcome, asking, come_back, is_setting, refused};
use super::rest;
use super::trip::{Step, Victim};
use crate::mutant::Mutant;
use crate::scenarios::stage::{LONG, SECOND, Stage};
use crate::trace::{Detail, Trace};
use crate::world::{Violation, World};

/// An undisturbed operation takes a few seconds; a clone waits for another, a stalled standby for 5 s.
const OPERATION_US_MAX: u64 = 60 * SECOND;
/// From the kill to the first write: the outage itself (3 s), 2 s of leases forgotten, 2 s of suspicion, a takeover that may be
/// interrupted once more by a candidate that died, an opening.
const WRITES_US_MAX: u64 = 20 * SECOND;
/// From the kill to the operation's end: a request that nobody takes up is given up after 60 s.
const END_US_MAX: u64 = 90 * SECOND;
/// Without a data quorum nobody can go on before who was away from the start is back; it is, after so long.
const PATIENCE_US: u64 = 8 * SECOND;
/// Who is missed comes back when writes have been there for so long.
const MISSED_US: u64 = 3 * SECOND;
/// Rest must have lasted to be believed: a decision takes a heartbeat at most.
const REST_US: u64 = SECOND / 2;
/// What may be tidied up after I5's rest, slots for one.
const TIDY_US_MAX: u64 = 5 * SECOND;

/// Where and how a run is interrupted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Crash {
    pub step: usize,
    pub victim: Victim,
    pub back: Back,
}

/// When who was killed is started again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Back {
    /// At once, as a supervisor does.
    AtOnce,
    /// After `failure_timeout`, when others have begun to do without.
    Later,
    /// When the others have shown that they can do without.
    Missed,
}

impl Back {
    fn lasts_us(self) -> u64 {
        match self {
            Back::AtOnce => 30_000,
            Back::Later => 2_600_000,
            Back::Missed => LONG,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Back::AtOnce => "at once",
            Back::Later => "later",
            Back::Missed => "missed",
        }
    }
}

/// How a run ended.
pub struct Played {
    pub violation: Option<Violation>,
    pub outcome: Option<Outcome>,
    /// The steps from the operation's beginning to its end.
    pub steps: Vec<Step>,
    /// From the kill to the first write that was acknowledged after it.
    pub writes_us: u64,
    /// The kill met somebody.
    pub met: bool,
    /// The kill took the data quorum away, and who was away from the start had to come back first.
    pub waited: bool,
    pub trace: String,
}

/// `None` when the seed does not lead to this operation.
pub fn play(
    operation: &'static Operation,
    seed: u64,
    crash: Option<Crash>,
    detail: Detail,
    mutant: Option<Mutant>,
) -> Option<Played> {
    brain::mutation::with(mutant.and_then(Mutant::in_brain), || {
        let (stage, before) = operation.stage(seed, (detail, mutant.and_then(Mutant::in_executor)))?;
        let mut run = Run { operation, stage, before, asked: 0, restless_us: 0, waited: false };
        run.play(crash)
    })
}

struct Run {
    operation: &'static Operation,
    stage: Stage,
    before: Before,
    asked: usize,
    restless_us: u64,
    waited: bool,
}

impl Run {
    fn play(&mut self, crash: Option<Crash>) -> Option<Played> {
        match crash {
            None => self.world().trip.count(),
            Some(Crash { step, victim, back }) => self.world().trip.set(step, victim, back.lasts_us()),
        }
        self.stage.world.trace.line(
            self.stage.world.now_us,
            "begins",
            format_args!("*** {}", self.operation.name),
        );
        self.operation.begin(&mut self.stage);
        self.restless_us = self.stage.world.now_us;
        let outcome = self.finish();
        let steps = self.world().trip.steps.take().unwrap_or_default();
        let (struck_us, met) = self.stage.world.trip.struck.unwrap_or((self.stage.world.now_us, 0));
        let writes_us = self.stage.world.trip.written_us.unwrap_or(struck_us) - struck_us;
        if outcome.is_some() {
            self.heal_and_rest();
        }
        let waited = self.waited;
        let world = self.world();
        Some(Played {
            violation: world.violation.take(),
            outcome,
            steps,
            writes_us,
            met: met > 0,
            waited,
            trace: std::mem::replace(&mut world.trace, Trace::new(Detail::Nothing)).into_text(),
        })
    }

    fn world(&mut self) -> &mut World {
        &mut self.stage.world
    }

    /// Until the operation is done or undone and the cluster at rest, those who are away for long left out.
    fn finish(&mut self) -> Option<Outcome> {
        let begun_us = self.stage.world.now_us;
        loop {
            self.ask_next();
            let world = &self.stage.world;
            let (struck_us, most_us) = match world.trip.struck {
                Some((struck_us, _)) => (struck_us, END_US_MAX),
                None => (begun_us, OPERATION_US_MAX),
            };
            let lasted_us = world.now_us - struck_us;
            if world.trip.written_us.is_some_and(|written_us| world.now_us > written_us + MISSED_US) {
                self.world().bring_back();
            }
            let why = self.unfinished();
            if why.is_some() {
                self.restless_us = self.stage.world.now_us;
            } else if self.stage.world.now_us - self.restless_us >= REST_US {
                return (self.operation.outcome)(&self.stage.world, &self.before);
            }
            if lasted_us > PATIENCE_US && !self.waited && !rest::quorum(&self.stage.world) {
                self.waited = true;
                come_back(&mut self.stage);
            }
            let world = &mut self.stage.world;
            let wrote = world.trip.struck.is_none() || world.trip.written_us.is_some();
            if lasted_us > WRITES_US_MAX && !wrote {
                let seconds = lasted_us / SECOND;
                world.violate(
                    "I4",
                    0,
                    format!("no write for {seconds} s after the kill: {}", why.unwrap_or_default()),
                );
            } else if lasted_us > most_us {
                let seconds = lasted_us / SECOND;
                world.violate(
                    "I5",
                    0,
                    format!("neither done nor undone after {seconds} s: {}", why.unwrap_or_default()),
                );
            }
            if !world.step() {
                return None;
            }
        }
    }

    /// Why this is not the end yet.
    fn unfinished(&self) -> Option<String> {
        let world = &self.stage.world;
        if world.trip.struck.is_some() && world.trip.written_us.is_none() {
            return Some("no write since the kill".to_owned());
        }
        if self.asked < self.operation.asks.len() && !refused(world) {
            return Some("not everything has been asked for".to_owned());
        }
        rest::unrest(world).or_else(|| {
            let outcome = (self.operation.outcome)(world, &self.before);
            outcome.is_none().then(|| "the cluster is at rest, and the operation is not over".to_owned())
        })
    }

    /// People ask for one thing after another.
    fn ask_next(&mut self) {
        let Some(ask) = self.operation.asks.get(self.asked) else { return };
        if asking(&self.stage.world) || refused(&self.stage.world) {
            return;
        }
        let before = self.stage.world.store.newest().requests.as_ref().map_or(0, |r| r.value.last_id);
        self.world().ask(*ask);
        let after = self.stage.world.store.newest().requests.as_ref().map_or(0, |r| r.value.last_id);
        // Nobody answers: it is asked for again.
        self.asked += usize::from(after > before || is_setting(ask));
    }

    /// Who was away comes back, and nothing is left of it all.
    fn heal_and_rest(&mut self) {
        let world = self.world();
        world.heal_all();
        world.run();
        let rested_us = world.now_us;
        while world.violation.is_none() {
            let Some(why) = rest::unrest(world).or_else(|| rest::left_behind(world)) else { return };
            if world.now_us - rested_us > TIDY_US_MAX {
                return world.violate("I5", 0, format!("left behind: {why}"));
            }
            world.finished = false;
            world.step();
        }
    }
}
