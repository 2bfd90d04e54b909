//! What a client costs in memory that is connected and asks nothing.

use std::fs;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tests::bench;
use tests::processes::resident_bytes;
use tests::wait::wait_at_most;

use crate::contender::Contender;
use crate::load::{HOST, ROLE};
use crate::options::Options;
use crate::report::Idle;

/// For all of them to log in, each by a handshake of a millisecond or two.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(60);

/// What an idle client adds to the memory of the process.
pub fn measure(contender: &Contender, options: &Options) -> Result<Option<Idle>> {
    let Some(pid) = contender.pid else { return Ok(None) };
    let clients = options.idle_clients.min(contender.clients_max);
    let before = resident_bytes(pid)?;
    let after = if options.tls {
        let kept = Sleepers::begin(contender.port, clients, pid)?;
        let after = resident_bytes(pid)?;
        drop(kept);
        after
    } else {
        let kept = tests::idle::idle_clients(contender.port, clients)?;
        let after = resident_bytes(pid)?;
        drop(kept);
        after
    };
    let bytes = after.saturating_sub(before) as f64 / clients as f64;
    Ok(Some(Idle { contender: contender.name.clone(), clients, bytes_per_client: bytes }))
}

/// Clients with TLS, which is libpq's: a pgbench whose script does nothing but wait.
struct Sleepers {
    pgbench: Child,
    _script: TempDir,
}

impl Sleepers {
    /// Ready when the proxy `pid` has a connection for each of them.
    fn begin(port: u16, clients: usize, pid: i32) -> Result<Sleepers> {
        let script = tests::cluster::folder();
        let file = script.path().join("wait.sql");
        fs::write(&file, "\\sleep 600 s\n")?;
        let before = connections(pid)?;
        let mut pgbench = bench::pgbench(HOST, port);
        pgbench.args(["-U", ROLE, "-n", "-c", &clients.to_string(), "-j", "1", "-t", "1", "-f"]).arg(&file);
        pgbench.arg("postgres").env("PGSSLMODE", "require").stdout(Stdio::null()).stderr(Stdio::null());
        let sleepers = Sleepers { pgbench: pgbench.spawn().context("start pgbench")?, _script: script };
        let all = || connections(pid).ok().filter(|now| *now >= before + clients);
        wait_at_most(LOGIN_TIMEOUT, all).with_context(|| format!("{clients} clients with TLS connect"))?;
        Ok(sleepers)
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        let _ = self.pgbench.kill();
        let _ = self.pgbench.wait();
    }
}

/// Files that the process has open: what changes of them are its connections.
fn connections(pid: i32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}
