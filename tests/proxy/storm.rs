//! A storm of log-ins beside clients at work: what it does to their latency.

use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tests::bench;

use crate::contender::Contender;
use crate::load::{self, HOST, Mode, Workload};
use crate::report::Storm;

/// Who is at work.
const BUSY: Workload = Workload { mode: Mode::Simple, clients: 16 };
/// Who logs in again and again, each for one statement.
const NEWCOMERS: &str = "32";
pub const ROLE: &str = "storm";
pub const PASSWORD: &str = "storm";
/// Of that password, with one iteration: the newcomers share the machine's cores, and their own work is not what is measured.
pub const VERIFIER: &str = "SCRAM-SHA-256$1:YSBzYWx0IG9mIGEgc3Rvcg==$1Gq5Lb06IrfctfgqTXNDKKU3fqIGXWvHbYt6buKP6Ac=:LZF/N41+spExq/S3olAUMShsywI76RK07JVSaXtCuyQ=";

/// Runs the load quiet, and once more in the storm.
pub fn measure(contender: &Contender, seconds: usize) -> Result<Storm> {
    let run = || load::run(contender.port, &BUSY, seconds, false).with_context(|| contender.name.clone());
    let quiet = run()?;
    let (storm, _script) = begin(contender.port, seconds)?;
    let stormy = run()?;
    let output = storm.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "the storm: {said}{}", String::from_utf8_lossy(&output.stderr));
    let storm = Storm {
        contender: contender.name.clone(),
        log_ins_per_second: bench::count_of_transactions(&said)? as f64 / seconds as f64,
        quiet_p99_us: quiet.p99_us,
        p99_us: stormy.p99_us,
        quiet_per_second: quiet.per_second,
        per_second: stormy.per_second,
    };
    println!("{}", storm.line());
    Ok(storm)
}

/// pgbench that connects anew for each transaction.
fn begin(port: u16, seconds: usize) -> Result<(Child, TempDir)> {
    let script = tests::cluster::folder();
    let file = script.path().join("one.sql");
    std::fs::write(&file, "SELECT 1;\n")?;
    let mut pgbench = bench::pgbench(HOST, port);
    pgbench.args(["-U", ROLE, "-n", "-C", "-c", NEWCOMERS, "-j", "1", "-T", &seconds.to_string(), "-f"]);
    pgbench.arg(&file).arg("postgres").env("PGPASSWORD", PASSWORD);
    let child = pgbench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("start pgbench")?;
    Ok((child, script))
}
