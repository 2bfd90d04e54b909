//! One pass: a new server, and one suite through one of its ports.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use tests::wait::wait_at_most;
use tests::{Cluster, Node, machine};

use crate::lines::Outcome;
use crate::options::Options;
use crate::suite::{Claim, Suite};

/// One thread has all servers, so that sessions meet on them; two-phase commit is off by default.
/// tokio-postgres has a role for each way to log in.
const CONFIGURATION: &str = "[postgres]\nhba = [\"host all pass_user 127.0.0.1/32 password\", \
                             \"host all md5_user 127.0.0.1/32 md5\", \
                             \"host all scram_user 127.0.0.1/32 scram-sha-256\", \
                             \"host all all 127.0.0.1/32 trust\"]\n\
                             [postgres.parameters]\nmax_connections = \"100\"\nmax_prepared_transactions = \"10\"\n\
                             [proxy]\npool_mode = \"transaction\"\npool_size = 20\nthreads = 1\n";
/// The longest takes 45 s when nobody else wants the processor.
const SUITE_TIMEOUT: Duration = Duration::from_secs(240);

/// Which way leads to the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Direct,
    ReadWrite,
    /// The port that routes by statement.
    Auto,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Way::Direct => "direct",
            Way::ReadWrite => "read-write",
            Way::Auto => "auto",
        }
    }

    fn port(self, node: &Node) -> u16 {
        match self {
            Way::Direct => node.postgres,
            Way::ReadWrite => node.read_write,
            Way::Auto => node.auto,
        }
    }
}

/// How each test has ended; what the suite printed is in `target/drivers/SUITE`.
pub struct Pass {
    pub outcomes: BTreeMap<String, Outcome>,
    pub took: Duration,
}

/// Runs the suite; `kept` is the folder in which the logs stay.
pub fn run(suite: &Suite, way: Way, options: &Options, kept: &Path) -> Result<Pass> {
    let cluster = Cluster::start_configured(1, |_| CONFIGURATION.to_owned());
    let node = &cluster.nodes()[0];
    for statement in suite.before {
        let mut psql = Command::new(machine::bin().join("psql"));
        psql.args(["-X", "-q", "-h", "127.0.0.1", "-U", "postgres", "-p", &node.postgres.to_string()]);
        let output = psql.args(["-d", "postgres", "-c", statement]).output().context("start psql")?;
        ensure!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let folder = kept.join(suite.name);
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let file = |end: &str| folder.join(format!("{}.{end}", way.name()));
    let (lines, log) = (file("tests"), File::create(file("log"))?);
    File::create(&lines)?;
    let started = Instant::now();
    let mut command = suite.command(options);
    environment(&mut command, way.port(node));
    command.env("PGHERD_LINES", &lines).process_group(0);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().with_context(|| format!("start the suite of {}", suite.name))?;
    let ended = wait_at_most(SUITE_TIMEOUT, || child.try_wait().ok().flatten());
    if ended.is_none() {
        end(&mut child)?;
        println!("{}: {} did not end within {} s", suite.name, way.name(), SUITE_TIMEOUT.as_secs());
    }
    let took = started.elapsed();
    fs::copy(node.dir.join("pgherd.log"), file("pgherd.log")).context("keep the log of pgherd")?;
    let printed = String::from_utf8_lossy(&fs::read(file("log"))?).into_owned();
    let outcomes = suite.outcomes(&fs::read_to_string(&lines)?, &printed);
    ensure!(
        !(outcomes.is_empty() && (way == Way::Direct || suite.claim == Claim::Passes)),
        "{}: no test was run; see {}",
        suite.name,
        file("log").display()
    );
    println!("{:14} {:10} {:4} tests {:5.0} s", suite.name, way.name(), outcomes.len(), took.as_secs_f64());
    Ok(Pass { outcomes, took })
}

/// The same for each way but the port.
fn environment(command: &mut Command, port: u16) {
    // What the user has for psql must not reach the tests.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PG") || name.starts_with("LC_")) {
        command.env_remove(name);
    }
    let port = port.to_string();
    command.envs([("PGHOST", "127.0.0.1"), ("PGPORT", &port), ("PGUSER", "postgres")]);
    // The node's own server has no TLS.
    command.envs([("PGDATABASE", "postgres"), ("PGSSLMODE", "disable"), ("LC_ALL", "C.UTF-8")]);
    command.env("PSYCOPG2_TESTDB", "postgres");
}

/// With whatever it has started.
fn end(child: &mut Child) -> Result<()> {
    if let Some(group) = Pid::from_raw(i32::try_from(child.id())?) {
        kill_process_group(group, Signal::KILL)?;
    }
    child.wait()?;
    Ok(())
}
