//! `worlds`: walks small worlds exhaustively, as they should be or with one rule broken.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sim::worlds::{Break, Found, SMALL, Trace, World, deviations, long, short};

const USAGE: &str = "\
worlds                                  the bundle that every change must pass
worlds --long                           the large one
worlds --deviations                     one rule broken at a time: each must be found
worlds [--nodes 3] [--members 2] [--k 1] [--commits 1] [--changes 0] [--takeovers 1] [--crashes 0] [--disks 0]
       [--late 0] [--cuts 0] [--any-k] [--stale] [--ghosts] [--slow] [--tags] [--thorough] [--break NAME]     one world
worlds --list                           names for --break
       --states-max N                   give a world up after so many states (default 100,000,000)
       --threads N                      worlds at once (default: one per core)";

struct Options {
    world: World,
    one: bool,
    long: bool,
    deviations: bool,
    list: bool,
    breaks: Option<Break>,
    states_max: u64,
    threads: usize,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match parse(&arguments) {
        Ok(options) if options.list => list(),
        Ok(options) if options.deviations => find_deviations(&options),
        Ok(options) if options.one => one(&options),
        Ok(options) => bundle(&options),
        Err(reason) => {
            eprintln!("{reason}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(arguments: &[String]) -> Result<Options, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options {
        world: SMALL,
        one: false,
        long: false,
        deviations: false,
        list: false,
        breaks: None,
        states_max: 100_000_000,
        threads,
    };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let mut value = || rest.next().map(String::as_str).unwrap_or_default();
        match name.as_str() {
            "--long" => options.long = true,
            "--deviations" => options.deviations = true,
            "--list" => options.list = true,
            "--states-max" => options.states_max = number(name, value())?,
            "--threads" => options.threads = number(name, value())?.clamp(1, 64) as usize,
            "--break" => {
                let given = value();
                let known =
                    Break::parse(given).ok_or(format!("nothing is called \"{given}\"; see --list"))?;
                (options.breaks, options.one) = (Some(known), true);
            }
            flag => {
                options.one = true;
                let World { nodes, members, k, commits, changes, .. } = &mut options.world;
                let field = match flag {
                    "--nodes" => nodes,
                    "--members" => members,
                    "--k" => k,
                    "--commits" => commits,
                    "--changes" => changes,
                    "--takeovers" => &mut options.world.takeovers,
                    "--crashes" => &mut options.world.crashes,
                    "--disks" => &mut options.world.disks,
                    "--late" => &mut options.world.late,
                    "--cuts" => &mut options.world.cuts,
                    other => {
                        switch(&mut options.world, other)?;
                        continue;
                    }
                };
                *field = u8::try_from(number(name, value())?).map_err(|_| format!("{name} is too large"))?;
            }
        }
    }
    options.world.check()?;
    Ok(options)
}

fn switch(world: &mut World, name: &str) -> Result<(), String> {
    match name {
        "--any-k" => world.any_k = true,
        "--stale" => world.stale = true,
        "--ghosts" => world.ghosts = true,
        "--slow" => world.slow = true,
        "--tags" => world.tags = true,
        "--thorough" => world.thorough = true,
        other => return Err(format!("\"{other}\" is no option")),
    }
    Ok(())
}

fn number(name: &str, given: &str) -> Result<u64, String> {
    given.parse().map_err(|_| format!("{name} wants a number, not \"{given}\""))
}

fn list() -> ExitCode {
    for deviation in deviations() {
        println!("{:<22} {}", deviation.breaks.name(), deviation.breaks.what());
    }
    ExitCode::SUCCESS
}

fn tell(found: &Found) -> String {
    let end = match &found.broken {
        Some(trace) => format!("FOUND: {}", trace.broken),
        None if found.exhausted => "exhausted, nothing lost".to_owned(),
        None => "given up, nothing lost so far".to_owned(),
    };
    format!("{end}; {} states, {} steps deep", found.states, found.depth)
}

fn print_trace(trace: &Trace) {
    for (number, (step, _)) in trace.steps.iter().enumerate() {
        println!("  {:>2}. {step}", number + 1);
    }
}

fn one(options: &Options) -> ExitCode {
    let found = options.world.explore(options.breaks, options.states_max);
    println!("{}: {}", options.world, tell(&found));
    if let Some(trace) = &found.broken {
        print_trace(trace);
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Walks each on a thread of its own; the answers come in the order of the questions.
fn walk(questions: &[(World, Option<Break>)], options: &Options, say: impl Fn(usize, &Found) + Sync) -> bool {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let said = Mutex::new(());
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                while let Some((world, breaks)) = questions.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = world.explore(*breaks, options.states_max);
                    let right = found.broken.is_some() == breaks.is_some();
                    failed.fetch_or(!right, Ordering::Relaxed);
                    // A poisoned lock means that another thread panicked; its panic ends the program.
                    let _quiet = said.lock();
                    let at = questions.iter().position(|question| *question == (*world, *breaks));
                    say(at.unwrap_or_default(), &found);
                }
            });
        }
    });
    failed.into_inner()
}

fn bundle(options: &Options) -> ExitCode {
    let worlds = if options.long { long() } else { short() };
    let questions: Vec<(World, Option<Break>)> = worlds.into_iter().map(|world| (world, None)).collect();
    let failed = walk(&questions, options, |at, found| {
        println!("{}: {}", questions[at].0, tell(found));
        found.broken.iter().for_each(print_trace);
    });
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn find_deviations(options: &Options) -> ExitCode {
    let questions: Vec<(World, Option<Break>)> =
        deviations().into_iter().map(|deviation| (deviation.world, Some(deviation.breaks))).collect();
    let missed = walk(&questions, options, |at, found| {
        let name = questions[at].1.map(Break::name).unwrap_or_default();
        println!("{name:<22} {}: {}", questions[at].0, tell(found));
    });
    if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
