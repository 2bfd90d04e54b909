//! `sim --crash-steps`: the sweep, or one run of it with its trace.

use std::process::ExitCode;

use sim::crash_steps::{Back, Crash, Failure, OPERATIONS, Operation, Table, Victim, play, sweep};
use sim::{Detail, Mutant};

const USAGE: &str = "\
sim --crash-steps [--seeds N] [--from A] [--threads T] [--only OPERATION] [--mutant NAME]
sim --crash-steps --only OPERATION --seed N                                    its undisturbed run, traced, and its steps
sim --crash-steps --only OPERATION --seed N --step I --victim WHO [--later|--missed]    killed after that step, traced";

/// One seed of each operation is some fifteen thousand kills, and half a minute's work for two cores.
const SEEDS: usize = 1;
/// More failures than these say nothing more.
const FAILURES_SHOWN: usize = 20;

#[derive(Default)]
struct Options {
    seeds: Option<usize>,
    from: u64,
    threads: Option<usize>,
    only: Option<&'static Operation>,
    mutant: Option<Mutant>,
    seed: Option<u64>,
    step: Option<usize>,
    victim: Option<Victim>,
    back: Option<Back>,
}

pub fn run(arguments: &[String]) -> ExitCode {
    let done = parse(arguments).and_then(|options| match options.seed {
        Some(seed) => replay(&options, seed),
        None => Ok(everything(&options)),
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("{reason}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let mut options = Options::default();
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        match name.as_str() {
            "--crash-steps" => continue,
            "--later" | "--missed" => {
                options.back = Some(if name == "--later" { Back::Later } else { Back::Missed });
                continue;
            }
            _ => {}
        }
        let given = rest.next().map(String::as_str).unwrap_or_default();
        let number = || given.parse::<u64>().map_err(|_| format!("{name} wants a number, not \"{given}\""));
        match name.as_str() {
            "--only" => {
                let known = Operation::named(given);
                options.only =
                    Some(known.ok_or_else(|| format!("no operation is called \"{given}\": {}", names()))?);
            }
            "--mutant" => {
                let known = Mutant::named(given);
                options.mutant = Some(known.ok_or(format!("no fault is called \"{given}\"; see --list"))?);
            }
            "--victim" => {
                let known = Victim::ALL.into_iter().find(|victim| victim.word() == given);
                let words = Victim::ALL.map(Victim::word).join(", ");
                options.victim = Some(known.ok_or(format!("--victim wants one of {words}"))?);
            }
            "--seeds" => options.seeds = Some(number()? as usize),
            "--from" => options.from = number()?,
            "--threads" => options.threads = Some((number()? as usize).clamp(1, 64)),
            "--seed" => options.seed = Some(number()?),
            "--step" => options.step = Some(number()? as usize),
            other => return Err(format!("\"{other}\" is no option")),
        }
    }
    Ok(options)
}

fn names() -> String {
    OPERATIONS.iter().map(|operation| format!("\"{}\"", operation.name)).collect::<Vec<_>>().join(", ")
}

#[expect(clippy::disallowed_methods, reason = "how long a sweep takes is real time; no run sees it")]
fn everything(options: &Options) -> bool {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let operations: Vec<&'static Operation> = OPERATIONS
        .iter()
        .filter(|operation| options.only.is_none_or(|only| only.name == operation.name))
        .collect();
    let started = std::time::Instant::now();
    let threads = options.threads.unwrap_or(threads);
    let table = sweep(&operations, options.from, options.seeds.unwrap_or(SEEDS), threads, options.mutant);
    print!("{}", table.text());
    let Table { rows, failures, missed } = &table;
    for failure in failures.iter().take(FAILURES_SHOWN) {
        println!("{}", describe(failure, options.mutant));
    }
    for operation in missed {
        println!("no seed leads to \"{operation}\"");
    }
    let kills: usize = rows.iter().map(|row| row.killed).sum();
    let seconds = started.elapsed().as_secs_f64();
    println!("{} operations, {kills} kills, {} failed, {seconds:.1} s", operations.len(), failures.len());
    failures.is_empty() && missed.is_empty()
}

fn describe(failure: &Failure, mutant: Option<Mutant>) -> String {
    let Failure { operation, seed, crash, violation } = failure;
    let with = mutant.map_or(String::new(), |mutant| format!(" --mutant {}", mutant.name()));
    let at = crash.map_or(String::new(), |Crash { step, victim, back }| {
        let back = match back {
            Back::AtOnce => "",
            Back::Later => " --later",
            Back::Missed => " --missed",
        };
        format!(" --step {step} --victim {}{back}", victim.word())
    });
    format!(
        "{operation}: {} {}\n  replay: cargo xtask sim --crash-steps --only \"{operation}\" --seed {seed}{at}{with}",
        violation.invariant, violation.what
    )
}

fn replay(options: &Options, seed: u64) -> Result<bool, String> {
    let operation = options.only.ok_or("--seed wants --only OPERATION")?;
    let crash = match (options.step, options.victim) {
        (Some(step), Some(victim)) => {
            Some(Crash { step, victim, back: options.back.unwrap_or(Back::AtOnce) })
        }
        (None, None) => None,
        _ => return Err("--step and --victim go together".to_owned()),
    };
    let played = play(operation, seed, crash, Detail::Decisions, options.mutant);
    let played = played.ok_or_else(|| format!("seed {seed} does not lead to \"{}\"", operation.name))?;
    print!("{}", played.trace);
    if crash.is_none() {
        for (number, step) in played.steps.iter().enumerate() {
            println!("step {number:>3}: n{} {}", step.node + 1, step.what);
        }
    }
    println!(
        "{:?}, writes after {:.2} s, {:?}",
        played.outcome,
        played.writes_us as f64 / 1e6,
        played.violation
    );
    Ok(played.violation.is_none())
}
