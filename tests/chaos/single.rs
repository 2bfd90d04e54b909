//! The baseline: one PostgreSQL without pgherd, under the same clients, killed and started again.
//!
//! What it shows is PostgreSQL's own: a checker that complains here complains of itself, and a skew that READ COMMITTED
//! allows is seen here too.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::Signal;
use tests::wait::wait_at_most;
use tests::{Ports, machine, processes};

use crate::ending;
use crate::history::{Event, History, Moment, Recorder};
use crate::sampler::{Sampler, Server};
use crate::workload::{Door, Workload};

const HOST: &str = "127.0.0.1";
/// Between two kills: crash recovery takes about a second.
const KILL_EVERY: Duration = Duration::from_secs(5);
const END_TIMEOUT: Duration = Duration::from_secs(10);
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs it and returns what clients saw. `dir` gets the server's log and the history.
pub fn run(dir: &Path, length: Duration, seed: u64) -> Result<History> {
    let mut single = Single::make(dir)?;
    single.start()?;
    let recorder = Recorder::new(&dir.join("history.jsonl"))?;
    let port = single.ports.base;
    let door = Door { node: "single".into(), host: HOST.into(), read_write: port, read_only: None };
    let server = Server { node: "single".into(), host: HOST.into(), port };
    // Three doors that are one: as many clients as with three nodes.
    let workload = Workload::start(vec![door.clone(), door.clone(), door], recorder.clone(), seed)?;
    let sampler = Sampler::start(vec![server.clone()], recorder.clone());
    let end = length.as_micros() as Moment;
    let mut next = KILL_EVERY.as_micros() as Moment;
    while next < end {
        wait_at_most(length, || (recorder.now() >= next).then_some(()));
        let at = recorder.now();
        single.kill();
        single.start()?;
        recorder.note(Event::Fault { at, until: recorder.now(), what: "kill of the server".to_owned() });
        next += KILL_EVERY.as_micros() as Moment;
    }
    wait_at_most(length, || (recorder.now() >= end).then_some(()));
    workload.finish();
    sampler.finish();
    ending::read_all(&[server], 0, &recorder)?;
    recorder.history()
}

struct Single {
    data: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    ports: Ports,
    /// Removed last.
    _folder: tempfile::TempDir,
}

impl Single {
    fn make(dir: &Path) -> Result<Single> {
        let folder = tests::cluster::folder();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
        let data = folder.path().join("data");
        machine::initdb(&data);
        let log = dir.join("postgres.log");
        Ok(Single { data, log, child: None, ports: Ports::claim(1), _folder: folder })
    }

    fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log).context("the server's log")?;
        let program = machine::bin().join("postgres");
        let mut command = machine::as_postgres(program.to_str().context("a path in UTF-8")?);
        command.arg("-D").arg(&self.data).args(["-p", &self.ports.base.to_string(), "-k", ""]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.child = Some(command.spawn().context("start postgres")?);
        let runtime = crate::session::runtime();
        let answers = || {
            let open = crate::session::Session::open(HOST, self.ports.base);
            runtime.block_on(open).is_ok().then_some(())
        };
        wait_at_most(START_TIMEOUT, answers).context("the single server does not accept connections")
    }

    /// Every process of it at once, and waits until they are gone.
    fn kill(&mut self) {
        let mut killed = Vec::new();
        wait_at_most(END_TIMEOUT, || {
            let running = processes::belonging_to(&self.data);
            running.iter().for_each(|process| processes::signal(process.pid, Signal::KILL));
            killed.extend(running.iter().map(|process| process.pid));
            running.is_empty().then_some(())
        });
        if let Some(mut child) = self.child.take() {
            // Its end was waited for above; this only takes its exit code away.
            let _ = child.wait();
        }
        // To the next postmaster one that init has not buried yet is alive.
        let buried = |pid: &i32| !Path::new(&format!("/proc/{pid}")).exists();
        wait_at_most(END_TIMEOUT, || killed.iter().all(buried).then_some(()));
    }
}

impl Drop for Single {
    fn drop(&mut self) {
        self.kill();
    }
}
