//! The sweep over operations, seeds, steps and victims, on as many threads as there are; and its table.
//!
//! Invariant: the table is the same whatever the number of threads.

use std::fmt::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::operation::{Operation, Outcome};
use super::run::{Back, Crash, Played, play};
use super::trip::Victim;
use crate::mutant::Mutant;
use crate::trace::Detail;
use crate::world::Violation;

/// Seeds that may be tried until one leads to the operation: most do.
const TRIES: u64 = 20;

/// One row: an operation and a victim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub operation: &'static str,
    pub victim: Victim,
    pub killed: usize,
    pub resumed: usize,
    pub undone: usize,
    /// Of these, runs in which the kill took the data quorum away: they ended when who was away before came back.
    pub waited: usize,
    pub writes_us_max: u64,
}

/// A run that broke something, and how to see it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub operation: &'static str,
    pub seed: u64,
    pub crash: Option<Crash>,
    pub violation: Violation,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    pub rows: Vec<Row>,
    pub failures: Vec<Failure>,
    /// Operations that no seed led to.
    pub missed: Vec<&'static str>,
}

#[derive(Clone, Copy)]
struct Job {
    operation: &'static Operation,
    seed: u64,
    crash: Crash,
}

/// What a job came to; `None` when there was nobody to kill.
type Ended = Option<Result<Played, Violation>>;

/// Seeds of these operations from `from` on, `seeds` of them each.
pub fn sweep(
    operations: &[&'static Operation],
    from: u64,
    seeds: usize,
    threads: usize,
    mutant: Option<Mutant>,
) -> Table {
    let mut table = Table::default();
    let mut jobs = Vec::new();
    for operation in operations {
        let found = rehearse(operation, from, seeds, mutant, &mut table);
        if found.is_empty() {
            table.missed.push(operation.name);
        }
        for (seed, steps) in found {
            jobs.extend(crashes(steps).map(|crash| Job { operation, seed, crash }));
        }
    }
    let ends = in_parallel(&jobs, threads, mutant);
    for operation in operations {
        for victim in Victim::ALL {
            let own = jobs
                .iter()
                .zip(&ends)
                .filter(|(job, _)| job.operation.name == operation.name && job.crash.victim == victim);
            table.rows.extend(row(operation.name, victim, own));
        }
    }
    let broken = jobs.iter().zip(&ends).filter_map(|(job, ended)| match ended {
        Some(Err(violation)) => Some((job, violation.clone())),
        _ => None,
    });
    table.failures.extend(broken.map(|(job, violation)| Failure {
        operation: job.operation.name,
        seed: job.seed,
        crash: Some(job.crash),
        violation,
    }));
    table
}

/// The first seeds whose undisturbed run is this operation, and how many steps each takes.
fn rehearse(
    operation: &'static Operation,
    from: u64,
    seeds: usize,
    mutant: Option<Mutant>,
    table: &mut Table,
) -> Vec<(u64, usize)> {
    let mut found = Vec::new();
    for seed in from..from + TRIES * seeds as u64 {
        let Some(played) = play(operation, seed, None, Detail::Nothing, mutant) else { continue };
        let goes = |what: &&str| played.steps.iter().any(|step| step.what == *what);
        if let Some(violation) = played.violation {
            table.failures.push(Failure { operation: operation.name, seed, crash: None, violation });
        } else if operation.through.iter().all(goes) {
            found.push((seed, played.steps.len()));
        }
        if found.len() == seeds {
            break;
        }
    }
    found
}

/// What the first run of this operation and seed breaks that breaks something, the undisturbed one first.
pub fn first_broken(operation: &'static Operation, seed: u64, mutant: Option<Mutant>) -> Option<Violation> {
    let undisturbed = play(operation, seed, None, Detail::Nothing, mutant)?;
    undisturbed.violation.or_else(|| {
        crashes(undisturbed.steps.len()).find_map(|crash| {
            let played = play(operation, seed, Some(crash), Detail::Nothing, mutant)?;
            played.violation.filter(|_| played.met)
        })
    })
}

fn crashes(steps: usize) -> impl Iterator<Item = Crash> {
    let ways = Victim::ALL.into_iter().flat_map(|victim| {
        // Nobody waits for a server but its agent, and that is there.
        let backs: &[Back] = match victim {
            Victim::Postgres => &[Back::AtOnce],
            Victim::Agent | Victim::Power => &[Back::AtOnce, Back::Later],
            Victim::Node | Victim::Partner => &[Back::AtOnce, Back::Later, Back::Missed],
        };
        backs.iter().map(move |back| (victim, *back))
    });
    let ways: Vec<_> = ways.collect();
    (0..steps).flat_map(move |step| {
        ways.clone().into_iter().map(move |(victim, back)| Crash { step, victim, back })
    })
}

fn in_parallel(jobs: &[Job], threads: usize, mutant: Option<Mutant>) -> Vec<Ended> {
    let next = AtomicUsize::new(0);
    let found: Mutex<Vec<(usize, Ended)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut own = Vec::new();
                while let index = next.fetch_add(1, Ordering::Relaxed)
                    && let Some(job) = jobs.get(index)
                {
                    own.push((index, attempt(job, mutant)));
                }
                // A poisoned lock means that another thread panicked; its panic ends the program.
                if let Ok(mut found) = found.lock() {
                    found.extend(own);
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_default();
    found.sort_by_key(|(index, _)| *index);
    found.into_iter().map(|(_, ended)| ended).collect()
}

fn attempt(job: &Job, mutant: Option<Mutant>) -> Ended {
    let played = play(job.operation, job.seed, Some(job.crash), Detail::Nothing, mutant)?;
    if !played.met {
        return None;
    }
    let unknown =
        || Violation { invariant: "I5", what: "the run ended before the operation".to_owned(), at_us: 0 };
    Some(match (&played.violation, played.outcome) {
        (Some(violation), _) => Err(violation.clone()),
        (None, Some(_)) => Ok(played),
        (None, None) => Err(unknown()),
    })
}

fn row<'a>(
    operation: &'static str,
    victim: Victim,
    ends: impl Iterator<Item = (&'a Job, &'a Ended)>,
) -> Option<Row> {
    let mut row = Row { operation, victim, killed: 0, resumed: 0, undone: 0, waited: 0, writes_us_max: 0 };
    for (_, ended) in ends {
        let Some(ended) = ended else { continue };
        row.killed += 1;
        if let Ok(Played { outcome, writes_us, waited, .. }) = ended {
            row.resumed += usize::from(*outcome == Some(Outcome::Resumed));
            row.undone += usize::from(*outcome == Some(Outcome::Undone));
            row.waited += usize::from(*waited);
            if !waited {
                row.writes_us_max = row.writes_us_max.max(*writes_us);
            }
        }
    }
    (row.killed > 0).then_some(row)
}

impl Table {
    /// As the documents show it.
    pub fn text(&self) -> String {
        let mut text = String::from(
            "| operation | killed | kills | resumed | undone | waited | worst time to writes |\n|---|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            let Row { operation, victim, killed, resumed, undone, waited, writes_us_max } = row;
            let seconds = *writes_us_max as f64 / 1e6;
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {operation} | {} | {killed} | {resumed} | {undone} | {waited} | {seconds:.1} s |",
                victim.word()
            );
        }
        text
    }
}
