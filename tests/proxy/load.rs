//! pgbench's select-only script through a port.

use std::fs;

use anyhow::{Context, Result, ensure};
use tests::bench;

pub const HOST: &str = "127.0.0.1";
const DATABASE: &str = "postgres";
/// Not the agent's own role, to which the server's Unix socket is closed.
pub const ROLE: &str = "app";

/// How pgbench asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Simple,
    Extended,
    Prepared,
}

impl Mode {
    pub const ALL: [Mode; 3] = [Mode::Simple, Mode::Extended, Mode::Prepared];

    pub fn name(self) -> &'static str {
        match self {
            Mode::Simple => "simple",
            Mode::Extended => "extended",
            Mode::Prepared => "prepared",
        }
    }

    pub fn named(name: &str) -> Result<Mode, String> {
        let found = Mode::ALL.into_iter().find(|mode| mode.name() == name);
        found.ok_or_else(|| format!("\"{name}\": there are simple, extended and prepared"))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Workload {
    pub mode: Mode,
    pub clients: usize,
}

impl Workload {
    pub fn name(&self) -> String {
        format!("{}, {} client(s)", self.mode.name(), self.clients)
    }
}

/// What one run has shown.
pub struct Timed {
    pub transactions: u64,
    pub per_second: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
}

/// Runs the workload to its end; the log of each transaction gives the quantiles.
pub fn run(port: u16, workload: &Workload, seconds: usize, tls: bool) -> Result<Timed> {
    let folder = tests::cluster::folder();
    let prefix = folder.path().join("log");
    let threads = workload.clients.min(2).to_string();
    let output = bench::pgbench(HOST, port)
        .env("PGSSLMODE", if tls { "require" } else { "disable" })
        .args([
            "-U",
            ROLE,
            "-n",
            "-S",
            "-M",
            workload.mode.name(),
            "-c",
            &workload.clients.to_string(),
            "-j",
            &threads,
        ])
        .args(["-T", &seconds.to_string(), "-l", "--log-prefix", &prefix.to_string_lossy(), DATABASE])
        .output()
        .context("start pgbench")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "pgbench: {said}{}", String::from_utf8_lossy(&output.stderr));
    let figure = |name: &str| {
        let line = said.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.split('/').next()?.parse::<f64>().ok()
    };
    let mut took_us = Vec::new();
    for file in fs::read_dir(folder.path())? {
        let text = fs::read_to_string(file?.path())?;
        // client, transaction, microseconds, script, and when.
        took_us.extend(text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok()));
    }
    took_us.sort_unstable();
    let quantile = |share: f64| bench::quantile(&took_us, share).context("pgbench has logged nothing");
    Ok(Timed {
        transactions: bench::count_of_transactions(&said)?,
        per_second: figure("tps = ").context("its rate")?,
        p50_us: quantile(0.5)?,
        p99_us: quantile(0.99)?,
        p999_us: quantile(0.999)?,
    })
}
