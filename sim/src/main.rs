//! `sim --seed N` replays one seed and prints what happened; `sim --seeds N [--from A]` runs many.

mod crash_command;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sim::proof::{Caught, Row, Search, TABLE_HEAD, table_row};
use sim::witnesses::{UNCAUGHT, WITNESSES};
use sim::{Detail, Mutant, Report, SCENARIOS, Scenario, run};

const USAGE: &str = "\
sim --seed N [--messages] [--mutant NAME]             replay one seed and print its trace
sim --seeds N [--threads T] [--mutant NAME]            run N seeds, every other one with people's requests,
                                                        members that leave and join, or both;
                                                        stops at the first that fails
sim --seeds N --from A                                  the seeds A to A+N-1
sim --seeds N --keep-going                              as above, and list every seed that fails
sim --scenario NAME [--seeds N] [--mutant NAME]         run a scenario's seeds and count
sim --mutations [--survey]                              every deliberate fault must be caught: by its recorded witness,
                                                        or, with --survey, looked for from seed 0
sim --crash-steps [--seeds N] [--only OPERATION]        every operation, killed after each of its steps; prints the table
sim --list                                              the deliberate faults and the scenarios";

struct Options {
    seed: Option<u64>,
    seeds: u64,
    /// The first of consecutive seeds; without it they are taken from both ranges in turn.
    from: Option<u64>,
    threads: usize,
    mutant: Option<Mutant>,
    messages: bool,
    keep_going: bool,
    scenario: Option<&'static Scenario>,
    mutations: Option<Search>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        for mutant in Mutant::all() {
            println!("{:<24} {:<9} {}", mutant.name(), mutant.place(), mutant.what());
        }
        for scenario in SCENARIOS {
            println!("{:<34} scenario, {} seeds", scenario.name, scenario.seeds);
        }
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--crash-steps") {
        return crash_command::run(&arguments);
    }
    match parse(&arguments) {
        Ok(Options { mutations: Some(search), threads, .. }) => prove(search, threads),
        Ok(Options { scenario: Some(scenario), seed, mutant, messages, .. }) => {
            rehearse(scenario, seed, mutant, messages)
        }
        Ok(Options { seed: Some(seed), mutant, messages, .. }) => replay(seed, mutant, messages),
        Ok(options) => many(&options),
        Err(reason) => {
            eprintln!("{reason}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options {
        seed: None,
        seeds: 0,
        from: None,
        threads,
        mutant: None,
        messages: false,
        keep_going: false,
        scenario: None,
        mutations: None,
    };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        match name.as_str() {
            "--mutations" => options.mutations = options.mutations.or(Some(Search::Recorded)),
            "--survey" => options.mutations = Some(Search::First),
            "--scenario" => {
                let given = rest.next().map(String::as_str).unwrap_or_default();
                let known = Scenario::named(given);
                options.scenario =
                    Some(known.ok_or(format!("no scenario is called \"{given}\"; see --list"))?);
            }
            "--messages" => options.messages = true,
            "--keep-going" => options.keep_going = true,
            "--mutant" => {
                let given = rest.next().map(String::as_str).unwrap_or_default();
                let known = Mutant::named(given);
                options.mutant = Some(known.ok_or(format!("no fault is called \"{given}\"; see --list"))?);
            }
            "--seed" | "--seeds" | "--from" | "--threads" => {
                let given = rest.next().map(String::as_str).unwrap_or_default();
                let value: u64 =
                    given.parse().map_err(|_| format!("{name} wants a number, not \"{given}\""))?;
                match name.as_str() {
                    "--seed" => options.seed = Some(value),
                    "--seeds" => options.seeds = value,
                    "--from" => options.from = Some(value),
                    _ => options.threads = usize::try_from(value).unwrap_or(1).clamp(1, 64),
                }
            }
            other => return Err(format!("\"{other}\" is no option")),
        }
    }
    let named = options.scenario.is_some() || options.mutations.is_some();
    if options.seed.is_none() && options.seeds == 0 && !named {
        return Err("give --seed N or --seeds N".to_owned());
    }
    Ok(options)
}

fn replay(seed: u64, mutant: Option<Mutant>, messages: bool) -> ExitCode {
    let detail = if messages { Detail::Messages } else { Detail::Decisions };
    let report = run(seed, detail, mutant);
    print!("{}", report.trace);
    println!(
        "seed {seed}: {:.1} virtual s, {} promotions, {} acknowledged commits",
        report.virtual_us as f64 / 1e6,
        report.promotions,
        report.acknowledged
    );
    verdict(report.violation.is_none(), || print_failure(&report, mutant))
}

/// One scenario: one seed with its trace, or all of its seeds, counted.
fn rehearse(scenario: &Scenario, seed: Option<u64>, mutant: Option<Mutant>, messages: bool) -> ExitCode {
    if let Some(seed) = seed {
        let detail = if messages { Detail::Messages } else { Detail::Decisions };
        let end = scenario.run(seed, detail, mutant);
        let Some((violation, trace)) = end else {
            println!("seed {seed} does not lead where {} leads", scenario.name);
            return ExitCode::SUCCESS;
        };
        print!("{trace}");
        return verdict(violation.is_none(), || println!("{violation:?}"));
    }
    let (mut reached, mut caught) = (0, Vec::new());
    for seed in 0..scenario.seeds {
        let Some((violation, _)) = scenario.run(seed, Detail::Nothing, mutant) else { continue };
        reached += 1;
        caught.extend(violation.map(|violation| (seed, violation.invariant)));
    }
    println!(
        "{}: {reached} of {} seeds get there, {} break: {caught:?}",
        scenario.name,
        scenario.seeds,
        caught.len()
    );
    verdict(caught.is_empty(), || ())
}

/// Every fault must have a row, and every row must catch its fault. Prints the table as the documents show it.
fn prove(search: Search, threads: usize) -> ExitCode {
    let next = AtomicU64::new(0);
    let found: Mutex<Vec<(usize, Option<Caught>)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed) as usize;
                    let Some(row) = WITNESSES.get(index) else { return };
                    let caught = row.prove(search);
                    if let Ok(mut found) = found.lock() {
                        found.push((index, caught));
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap_or_default();
    found.sort_by_key(|(index, _)| *index);
    println!("{TABLE_HEAD}");
    let mut complaints = Vec::new();
    for (index, caught) in &found {
        let row = &WITNESSES[*index];
        let Some((mutant, caught)) = Mutant::named(row.fault).zip(caught.as_ref()) else {
            complaints.push(format!("{} is not caught within {} seeds", row.fault, row.budget()));
            continue;
        };
        println!("{}", table_row(mutant, caught.witness, caught.violation.invariant));
        if caught.witness != row.witness || caught.violation.invariant != row.invariant {
            println!("  recorded: {}, {}", row.witness, row.invariant);
        }
    }
    for (fault, why) in UNCAUGHT {
        println!("not caught: {fault}: {why}");
    }
    let excused = |name: &str| UNCAUGHT.iter().any(|(fault, _)| *fault == name);
    let rowless = |mutant: &Mutant| {
        !WITNESSES.iter().any(|row: &Row| row.fault == mutant.name()) && !excused(mutant.name())
    };
    complaints
        .extend(Mutant::all().filter(rowless).map(|mutant| format!("{} has no witness", mutant.name())));
    for complaint in &complaints {
        println!("{complaint}");
    }
    println!(
        "{} faults, {} caught",
        found.len(),
        found.iter().filter(|(_, caught)| caught.is_some()).count()
    );
    verdict(complaints.is_empty(), || ())
}

fn verdict(passed: bool, complain: impl FnOnce()) -> ExitCode {
    if passed {
        return ExitCode::SUCCESS;
    }
    complain();
    ExitCode::FAILURE
}

fn print_failure(report: &Report, mutant: Option<Mutant>) {
    let Some(violation) = &report.violation else { return };
    let with = mutant.map_or(String::new(), |mutant| format!(" --mutant {}", mutant.name()));
    println!(
        "seed {} violates {} at {:.3} s: {}\n  replay: cargo xtask sim --seed {}{with}",
        report.seed,
        violation.invariant,
        violation.at_us as f64 / 1e6,
        violation.what,
        report.seed
    );
}

#[expect(clippy::disallowed_methods, reason = "the rate of seeds is real time; no seed sees it")]
fn many(options: &Options) -> ExitCode {
    let started = std::time::Instant::now();
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let (done, virtual_us, excused) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failed: Mutex<Vec<Report>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= options.seeds {
                        return;
                    }
                    let seed = options.from.map_or_else(|| sim::nth_seed(number), |from| from + number);
                    let report = run(seed, Detail::Nothing, options.mutant);
                    done.fetch_add(1, Ordering::Relaxed);
                    virtual_us.fetch_add(report.virtual_us, Ordering::Relaxed);
                    excused.fetch_add(u64::from(report.excused), Ordering::Relaxed);
                    if report.violation.is_some() {
                        stop.fetch_or(!options.keep_going, Ordering::Relaxed);
                        // A poisoned lock means that another thread panicked; its panic ends the program.
                        if let Ok(mut failed) = failed.lock() {
                            failed.push(report);
                        }
                    }
                }
            });
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let done = done.into_inner();
    let mut failed = failed.into_inner().unwrap_or_default();
    failed.sort_by_key(|report| report.seed);
    for report in &failed {
        print_failure(report, options.mutant);
    }
    println!(
        "{done} seeds, {} failed, {} without a data quorum at the end, {seconds:.1} s, {:.0} seeds/s, {:.0} virtual s per seed",
        failed.len(),
        excused.into_inner(),
        done as f64 / seconds,
        virtual_us.into_inner() as f64 / 1e6 / done.max(1) as f64
    );
    verdict(failed.is_empty(), || ())
}
