//! The tables of a run, for people, and the same as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use tests::bench::quantile;

use crate::measure::{Measured, Run};
use crate::system::Phase;

/// Phases of the worst run that are shown: a takeover has about fifteen.
const PHASES_SHOWN: usize = 40;

/// Everything of one call of the bench.
#[derive(Serialize)]
pub struct Report {
    pub command: String,
    pub machine: String,
    pub systems: Vec<Described>,
    pub measured: Vec<Measured>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

#[derive(Serialize)]
pub struct Described {
    pub name: String,
    pub description: String,
}

impl Report {
    /// Nothing lost, and every series went to its end.
    pub fn is_good(&self) -> bool {
        self.measured.iter().all(|measured| measured.lost == 0 && measured.failed.is_none())
    }

    pub fn markdown(&self) -> String {
        let mut text =
            format!("# How long writes stop\n\nMade by `{}`.\n\n{}\n\n", self.command, self.machine);
        for system in &self.systems {
            let _ = writeln!(text, "- **{}**: {}", system.name, system.description);
        }
        for left_out in &self.left_out {
            let _ = writeln!(text, "- LEFT OUT: {left_out}");
        }
        text.push_str(
            "\nThe pause is the longest time between two acknowledged commits of one client that writes a row every 2 ms. Client errors are \
             statements of that client that failed, and pgbench's errors in a switchover. Lost: rows acknowledged and missing on a node at the \
             end. Load: the machine's load average before each fault, least to most. With fewer than 100 runs the p99 is the maximum.\n\n\
             | event | system | runs | p50 | p99 | max | lost | client errors | load |\n|---|---|---|---|---|---|---|---|---|\n",
        );
        for measured in &self.measured {
            let _ = writeln!(text, "{}", row(measured));
        }
        text.push_str("\n## Events\n\n");
        let mut told = Vec::new();
        for measured in &self.measured {
            let line = format!("- {}: {}", measured.event, measured.what);
            if !told.contains(&line) {
                let _ = writeln!(text, "{line}");
                told.push(line);
            }
        }
        text.push_str("\n## The worst run of each\n");
        self.measured.iter().for_each(|measured| text.push_str(&worst(measured)));
        text
    }
}

fn row(measured: &Measured) -> String {
    let mut pauses: Vec<f64> = measured.runs.iter().map(|run| run.pause_ms).collect();
    pauses.sort_by(f64::total_cmp);
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| shown(quantile(&pauses, share)));
    let errors: usize = measured.runs.iter().map(|run| run.errors).sum();
    let loads = measured.runs.iter().map(|run| run.load_average);
    let (least, most) = (loads.clone().fold(f64::INFINITY, f64::min), loads.fold(0.0, f64::max));
    let load = if measured.runs.is_empty() { "-".to_owned() } else { format!("{least:.1} to {most:.1}") };
    let runs = measured.runs.len();
    let mut line = format!(
        "| {} | {} | {runs} | {p50} | {p99} | {max} | {} | {errors} | {load} |",
        measured.event, measured.system, measured.lost
    );
    if let Some(failed) = &measured.failed {
        let _ = write!(
            line,
            "\n| {} | {} | FAILED: {} | | | | | | |",
            measured.event,
            measured.system,
            failed.replace('\n', " ")
        );
    }
    line
}

fn shown(milliseconds: Option<f64>) -> String {
    match milliseconds {
        Some(pause) if pause < 1_000.0 => format!("{pause:.0} ms"),
        Some(pause) => format!("{:.2} s", pause / 1_000.0),
        None => "-".to_owned(),
    }
}

fn worst(measured: &Measured) -> String {
    let Some(run) = measured.runs.iter().max_by(|a, b| a.pause_ms.total_cmp(&b.pause_ms)) else {
        return String::new();
    };
    let mut text = format!("\n{}, {}: {}\n", measured.system, measured.event, shown(Some(run.pause_ms)));
    if !run.phases.is_empty() {
        text.push_str("\n| ms | node | phase | said |\n|---|---|---|---|\n");
        run.phases.iter().take(PHASES_SHOWN).for_each(|phase| text.push_str(&phase_row(phase)));
    }
    text.push_str(&texts(measured.runs.as_slice()));
    text
}

fn phase_row(phase: &Phase) -> String {
    format!("| {} | {} | {} | {} |\n", phase.at_ms, phase.node, phase.phase, phase.said.replace('|', "/"))
}

fn texts(runs: &[Run]) -> String {
    // Runs differ in the node and the term that a text names.
    let kind = |line: &String| line.replace(|c: char| c.is_ascii_digit(), "");
    let all: BTreeMap<String, &String> =
        runs.iter().flat_map(|run| &run.error_texts).map(|line| (kind(line), line)).collect();
    all.into_values().take(10).fold(String::new(), |text, line| text + "\nclients were told: " + line + "\n")
}
