//! pgbench's select-only script through a port, and clients that do nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tests::bench;

pub const HOST: &str = "127.0.0.1";
const USER: &str = "postgres";
const DATABASE: &str = "postgres";
/// A log-in on a machine that is busy.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);

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
}

/// Runs the workload to its end; the log of each transaction gives the quantiles.
pub fn run(port: u16, workload: &Workload, seconds: usize, tls: bool) -> Result<Timed> {
    let folder = tests::cluster::folder();
    let prefix = folder.path().join("log");
    let threads = workload.clients.min(2).to_string();
    let output = bench::pgbench(HOST, port)
        .env("PGSSLMODE", if tls { "require" } else { "disable" })
        .args(["-n", "-S", "-M", workload.mode.name(), "-c", &workload.clients.to_string(), "-j", &threads])
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
        transactions: figure("number of transactions actually processed: ").context("its count")? as u64,
        per_second: figure("tps = ").context("its rate")?,
        p50_us: quantile(0.5)?,
        p99_us: quantile(0.99)?,
    })
}

/// So many clients that are logged in and ask nothing. They end when dropped.
pub fn idle_clients(port: u16, count: usize) -> Result<Vec<TcpStream>> {
    (0..count).map(|number| log_in(port).with_context(|| format!("idle client {number}"))).collect()
}

/// Start-up packet to ReadyForQuery, on a server that trusts.
fn log_in(port: u16) -> Result<TcpStream> {
    let mut stream = TcpStream::connect((HOST, port))?;
    stream.set_read_timeout(Some(LOGIN_TIMEOUT))?;
    let mut body = 0x0003_0000_u32.to_be_bytes().to_vec();
    for word in ["user", USER, "database", DATABASE, ""] {
        body.extend_from_slice(word.as_bytes());
        body.push(0);
    }
    let length = u32::try_from(body.len() + 4)?;
    stream.write_all(&[length.to_be_bytes().as_slice(), &body].concat())?;
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head)?;
        let [tag, length @ ..] = head;
        let mut rest = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
        stream.read_exact(&mut rest)?;
        match tag {
            b'Z' => return Ok(stream),
            b'E' => bail!("{}", String::from_utf8_lossy(&rest).replace('\0', " ")),
            _ => {}
        }
    }
}
