//! What benchmarks share: where their reports go, what machine they ran on, and quantiles.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::machine;

/// target/bench, beside the profile that this program was built in.
pub fn results_dir() -> Result<PathBuf> {
    let own = std::env::current_exe().context("the path of this program")?;
    let results = own.ancestors().nth(2).context("a target directory")?.join("bench");
    fs::create_dir_all(&results).with_context(|| format!("make {}", results.display()))?;
    Ok(results)
}

/// When, where and on which PostgreSQL.
pub fn machine_line() -> Result<String> {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let output = Command::new(machine::bin().join("postgres")).arg("--version").output()?;
    Ok(format!(
        "{}; {cores} cores ({}); {}; load average at the start {:.2}",
        jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"),
        model.map_or("unknown processor", |(_, model)| model),
        String::from_utf8_lossy(&output.stdout).trim(),
        load_average()?
    ))
}

/// The machine's, of the last minute.
pub fn load_average() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    let first = text.split(' ').next().and_then(|word| word.parse().ok());
    first.context("a load average")
}

/// The smallest value that is not below `share` of all; with fewer than 100 values the p99 is the maximum.
pub fn quantile<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}
