//! The simulator on itself: seeds repeat, known seeds and scenarios pass, the table of faults is whole. That each fault is
//! caught is `cargo xtask sim --mutations`.

use sim::proof::table_row;
use sim::witnesses::{UNCAUGHT, WITNESSES};
use sim::{Detail, Mutant, Report, SCENARIOS, run};

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
    for seed in (2_000_000..2_000_400).map(sim::nth_seed) {
        let report = run(seed, Detail::Nothing, None);
        assert_eq!(report.violation, None, "{}", complain(&report));
    }
}

/// With true code every scenario passes, and some of its seeds lead where it leads.
#[test]
fn scenarios_pass_and_lead_somewhere() {
    for scenario in SCENARIOS {
        let mut reached = 0;
        for seed in 0..scenario.seeds.min(25) {
            let Some((violation, _)) = scenario.run(seed, Detail::Nothing, None) else { continue };
            reached += 1;
            assert_eq!(violation, None, "{}, seed {seed}", scenario.name);
        }
        assert!(reached > 0, "no seed of {} leads where it should", scenario.name);
    }
}

/// Every fault has one witness or one excuse, and the document shows the table that the proof keeps true.
#[test]
fn every_fault_is_accounted_for_and_documented() {
    let document = include_str!("../../docs/concepts/simulation.md");
    for mutant in Mutant::all() {
        let rows: Vec<_> = WITNESSES.iter().filter(|row| row.fault == mutant.name()).collect();
        let excuses: Vec<_> = UNCAUGHT.iter().filter(|(fault, _)| *fault == mutant.name()).collect();
        assert_eq!(rows.len() + excuses.len(), 1, "{} has one witness or one excuse", mutant.name());
        for row in rows {
            let line = table_row(mutant, row.witness, row.invariant);
            assert!(document.contains(&line), "docs/concepts/simulation.md lacks {line}");
        }
        for (fault, why) in excuses {
            assert!(document.contains(&format!("| {fault} | {why} |")), "the document lacks {fault}: {why}");
        }
    }
}
