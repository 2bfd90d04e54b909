//! `cargo xtask bench failover`: how long writes stop when the primary dies, measured from a client.
//!
//! The gap is the time between two acknowledged commits of one writer that goes through the proxies and knows all of
//! them. Each run starts from a whole cluster; at the end every acknowledged row is looked for on every node.

use std::process::ExitCode;
use std::time::Duration;

use tests::ledger::lost_on;
use tests::{Cluster, Ledger, wait_for};

/// A cluster that has not recovered by then will not.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Clone, Copy)]
enum Fault {
    PostgresKilled,
    NodeKilled,
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Fault::PostgresKilled => "PostgreSQL killed",
            Fault::NodeKilled => "node killed",
        }
    }
}

fn main() -> ExitCode {
    let runs = match runs_from(std::env::args().skip(1)) {
        Ok(runs) => runs,
        Err(error) => {
            eprintln!("error: {error}\n  next: cargo xtask bench failover --runs 20");
            return ExitCode::from(2);
        }
    };
    let mut lines = Vec::new();
    let mut lost_at_all = 0;
    for fault in [Fault::PostgresKilled, Fault::NodeKilled] {
        let (gaps, lost) = measure(fault, runs);
        lost_at_all += lost;
        lines.push(line(fault.name(), gaps, lost));
    }
    println!("\n{:<20} {:>5} {:>8} {:>8} {:>8} {:>6}", "event", "runs", "p50", "p99", "max", "lost");
    lines.iter().for_each(|line| println!("{line}"));
    if lost_at_all == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn runs_from(mut arguments: impl Iterator<Item = String>) -> Result<usize, String> {
    let mut runs = 20;
    while let Some(argument) = arguments.next() {
        let value = match argument.strip_prefix("--runs") {
            Some("") => arguments.next().unwrap_or_default(),
            Some(value) => value.trim_start_matches('=').to_owned(),
            None => return Err(format!("unknown argument \"{argument}\"")),
        };
        let parsed = value.parse().ok().filter(|&runs: &usize| runs > 0);
        runs = parsed.ok_or_else(|| format!("\"{value}\" is no number of runs"))?;
    }
    Ok(runs)
}

/// The gap of each run, and how many acknowledged rows are missing somewhere at the end.
fn measure(fault: Fault, runs: usize) -> (Vec<Duration>, usize) {
    let mut cluster = Cluster::start(3);
    let ledger = Ledger::start(&cluster);
    let mut gaps = Vec::with_capacity(runs);
    for run in 1..=runs {
        let before = cluster.wait_until_whole();
        let primary = before.primary.expect("a whole cluster has a primary");
        ledger.wait_until_flowing();
        ledger.mark();
        match fault {
            Fault::PostgresKilled => cluster.kill_postgres(&primary),
            Fault::NodeKilled => cluster.kill_node(&primary),
        }
        wait_for("a primary in a later term", RECOVERY_TIMEOUT, || {
            cluster.status().filter(|status| status.term > before.term && status.primary.is_some())
        });
        ledger.wait_until_flowing();
        let gap = ledger.account().gap_longest;
        println!("{:<20} run {run:>3}: {:.3} s", fault.name(), gap.as_secs_f64());
        gaps.push(gap);
        if matches!(fault, Fault::NodeKilled) {
            cluster.start_agent(&primary);
        }
    }
    cluster.wait_until_whole();
    let account = ledger.finish();
    let counted = cluster.nodes().iter().map(|node| {
        // A replica may be a moment behind: what is missing must be missing for good.
        let complete = || lost_on(&account, node).ok().filter(|&lost| lost == 0);
        tests::wait::wait_at_most(Duration::from_secs(30), complete)
            .unwrap_or_else(|| lost_on(&account, node).expect("read the ledger"))
    });
    let lost = counted.max().unwrap_or(0);
    (gaps, lost)
}

fn line(name: &str, mut gaps: Vec<Duration>, lost: usize) -> String {
    gaps.sort_unstable();
    let runs = gaps.len();
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| quantile(&gaps, share).as_secs_f64());
    format!("{name:<20} {runs:>5} {p50:>6.2} s {p99:>6.2} s {max:>6.2} s {lost:>6}")
}

/// The smallest value that is not below `share` of all; with 20 runs the p99 is the maximum.
fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}
