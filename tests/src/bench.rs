//! What benchmarks share: their end, where their reports go, what machine they ran on, pgbench, other people's programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::machine;

/// 1.5 MB per unit: the tables fit in memory, and eight clients rarely want the same row of pgbench_branches.
const SCALE: &str = "10";

/// Reads the command line, runs, and says what went wrong: 2 for a wrong argument, 1 for anything else.
pub fn main<O>(
    usage: &str,
    parse: impl FnOnce(&[String]) -> Result<O, String>,
    run: impl FnOnce(&O, &[String]) -> Result<()>,
) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = match parse(&arguments) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error}\n{usage}");
            return ExitCode::from(2);
        }
    };
    match run(&options, &arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Leaves `report` as NAME.md and NAME.json in `results`, and prints one of them.
pub fn publish(
    results: &Path,
    name: &str,
    report: &impl Serialize,
    markdown: &str,
    as_json: bool,
) -> Result<()> {
    let json = serde_json::to_string_pretty(report)?;
    fs::write(results.join(name).with_extension("md"), markdown)?;
    fs::write(results.join(name).with_extension("json"), &json)?;
    println!("\n{}", if as_json { &json } else { markdown });
    Ok(())
}

/// pgbench as the user postgres of a server that trusts.
pub fn pgbench(host: &str, port: u16) -> Command {
    let mut command = Command::new(machine::bin().join("pgbench"));
    command.args(["-h", host, "-p", &port.to_string(), "-U", "postgres"]).stdin(Stdio::null());
    // libpq would encrypt wherever it can, and so compare what does with what does not.
    command.env("PGSSLMODE", "disable");
    command
}

/// Runs it, and counts its transactions.
pub fn transactions(pgbench: &mut Command) -> Result<u64> {
    let output = pgbench.output().context("start pgbench")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "pgbench: {said}{}", String::from_utf8_lossy(&output.stderr));
    count_of_transactions(&said)
}

/// Of what pgbench has said at its end.
pub fn count_of_transactions(said: &str) -> Result<u64> {
    let count =
        said.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
    let count = count.and_then(|count| count.split('/').next()?.trim().parse().ok());
    count.context("pgbench says how many transactions it has made")
}

/// Makes pgbench's tables.
pub fn fill(host: &str, port: u16) -> Result<()> {
    let output = pgbench(host, port).args(["-i", "-q", "-s", SCALE, "postgres"]).output();
    let output = output.context("start pgbench -i")?;
    ensure!(output.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Debian's packages, unpacked under target/bench.
#[derive(Clone)]
pub struct Debian(PathBuf);

impl Debian {
    pub fn new(results: &Path) -> Debian {
        Debian(results.join("debian/root"))
    }

    pub fn program(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// For `LD_LIBRARY_PATH`.
    pub fn libraries(&self) -> PathBuf {
        self.0.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH))
    }
}

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
