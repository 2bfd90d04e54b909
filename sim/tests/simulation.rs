//! The simulator on itself: seeds repeat, known seeds pass, broken executors are caught.

use std::sync::atomic::{AtomicU64, Ordering};

use sim::{Detail, Mutant, Report, run};

fn complain(report: &Report) -> String {
    format!("seed {}: {:?}; replay: cargo xtask sim --seed {}", report.seed, report.violation, report.seed)
}

#[test]
fn one_seed_twice_gives_the_same_bytes() {
    for seed in 0..12 {
        let (first, second) = (run(seed, Detail::Messages, None), run(seed, Detail::Messages, None));
        assert!(first.trace.len() > 1_000, "a trace tells something");
        assert!(first == second, "seed {seed} differs from itself");
    }
}

/// What is told must not change what happens.
#[test]
fn a_trace_does_not_disturb() {
    for seed in 0..12 {
        let (loud, quiet) = (run(seed, Detail::Messages, None), run(seed, Detail::Nothing, None));
        assert_eq!(
            (loud.virtual_us, loud.acknowledged),
            (quiet.virtual_us, quiet.acknowledged),
            "seed {seed}"
        );
    }
}

#[test]
fn fixed_seeds_pass() {
    let lines = include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#'));
    for line in lines {
        let (seed, story) = line.split_once(' ').expect("a seed and its story");
        let report = run(seed.parse().expect("a number"), Detail::Nothing, None);
        assert_eq!(report.violation, None, "{}: {}", story.trim(), complain(&report));
    }
}

#[test]
fn a_few_hundred_seeds_pass() {
    for seed in 1_000_000..1_000_400 {
        let report = run(seed, Detail::Nothing, None);
        assert_eq!(report.violation, None, "{}", complain(&report));
    }
}

/// The first of `most` seeds that catches the mutant, on two threads.
fn caught(mutant: Mutant, most: u64) -> bool {
    let (next, found) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= most || found.load(Ordering::Relaxed) != u64::MAX {
                        return;
                    }
                    if run(seed, Detail::Nothing, Some(mutant)).violation.is_some() {
                        found.fetch_min(seed, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    found.into_inner() != u64::MAX
}

/// Each executor that is broken on purpose is caught within its number of seeds. Those that the present rules give
/// too few chances stand in docs/concepts/simulation.md.
#[test]
fn broken_executors_are_caught() {
    let table = [
        (Mutant::OneFlushFewer, 200),
        (Mutant::ReloadLost, 200),
        (Mutant::ReceiverKept, 2_000),
        (Mutant::LocalTimeline, 2_000),
        (Mutant::PositionEarly, 2_000),
        (Mutant::FalseWhole, 8_000),
    ];
    for (mutant, most) in table {
        assert!(caught(mutant, most), "{} is not caught within {most} seeds", mutant.name());
    }
}
