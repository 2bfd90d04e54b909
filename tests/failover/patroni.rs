//! Patroni as its documentation sets it up: three nodes with etcd and Patroni each, and HAProxy before them.
//!
//! Everything runs as the user postgres, each node in a network namespace, HAProxy where the client is. What it needs
//! was put under target/bench by `cargo xtask bench failover --versus patroni`.
//! Invariant: every process works in this system's folder or names it, and its drop ends them all.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use tempfile::TempDir;
use tests::bench::Debian;
use tests::machine;
use tests::network::{self, EVERYBODY, HUB, Network};
use tests::status::page_at;
use tests::wait::wait_at_most;

use crate::client::Door;
use crate::system::{Phase, System, kill_node};

const NODES: usize = 3;
const POSTGRES: u16 = 5432;
const REST: u16 = 8008;
const FRONT: u16 = 5000;
/// initdb and two base backups, each begun by a loop of ten seconds.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speed {
    /// What `patroni` uses when nothing is said, and the haproxy.cfg of its repository.
    Defaults,
    /// The least that patroni/config.py allows: it raises anything below.
    Fastest,
}

impl Speed {
    pub const ALL: [Speed; 2] = [Speed::Defaults, Speed::Fastest];

    /// ttl, loop_wait, retry_timeout in seconds.
    fn intervals(self) -> (u32, u32, u32) {
        match self {
            Speed::Defaults => (30, 10, 10),
            Speed::Fastest => (20, 1, 3),
        }
    }

    /// HAProxy's checks.
    fn checks(self) -> (&'static str, &'static str) {
        match self {
            Speed::Defaults => ("5s", "inter 3s fall 3 rise 2"),
            Speed::Fastest => ("1s", "inter 1s fastinter 250ms downinter 250ms fall 2 rise 1"),
        }
    }
}

/// Where the programs are.
#[derive(Clone)]
pub struct Programs {
    venv: PathBuf,
    debian: Debian,
}

impl Programs {
    /// Below target/bench, or why not.
    pub fn find(bench: &Path) -> Result<Programs> {
        let found = Programs { venv: bench.join("venv"), debian: Debian::new(bench) };
        for program in [found.venv("patroni"), found.etcd(), found.haproxy()] {
            ensure!(
                program.is_file(),
                "{} is not there; cargo xtask bench failover --versus patroni fetches it",
                program.display()
            );
        }
        Ok(found)
    }

    fn venv(&self, name: &str) -> PathBuf {
        self.venv.join("bin").join(name)
    }

    fn etcd(&self) -> PathBuf {
        self.debian.program("usr/bin/etcd")
    }

    fn haproxy(&self) -> PathBuf {
        self.debian.program("usr/sbin/haproxy")
    }

    fn versions(&self) -> String {
        let first_line = |program: PathBuf, argument: &str| {
            let output = Command::new(program)
                .arg(argument)
                .env("LD_LIBRARY_PATH", self.debian.libraries())
                .output()
                .ok();
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            text.unwrap_or_default().lines().next().unwrap_or("?").trim().to_owned()
        };
        format!(
            "{}, {}, {}",
            first_line(self.venv("patroni"), "--version"),
            first_line(self.etcd(), "--version"),
            first_line(self.haproxy(), "-v")
        )
    }
}

pub struct Patroni {
    speed: Speed,
    programs: Programs,
    children: Vec<Child>,
    folder: TempDir,
}

impl Patroni {
    pub fn start(programs: &Programs, speed: Speed) -> Result<Patroni> {
        let folder = tests::cluster::folder();
        let mut patroni = Patroni { speed, programs: programs.clone(), children: Vec::new(), folder };
        give_to_postgres(patroni.folder.path())?;
        for index in 0..NODES {
            let dir = patroni.dir(index);
            fs::create_dir_all(&dir)?;
            give_to_postgres(&dir)?;
            fs::write(dir.join("patroni.yml"), patroni.configuration(index))?;
        }
        for index in 0..NODES {
            patroni.start_etcd(index)?;
        }
        for index in 0..NODES {
            patroni.start_agent(index)?;
        }
        patroni.start_haproxy()?;
        Ok(patroni)
    }

    fn configuration(&self, index: usize) -> String {
        let (ttl, loop_wait, retry_timeout) = self.speed.intervals();
        let dir = self.dir(index).display().to_string();
        let (name, host) = (name(index), network::address(index));
        let etcd: Vec<String> = (0..NODES).map(|at| format!("{}:2379", network::address(at))).collect();
        let etcd = etcd.join(", ");
        let bin = machine::bin().display().to_string();
        format!(
            "scope: bench
name: {name}
restapi: {{ listen: '{host}:{REST}', connect_address: '{host}:{REST}' }}
etcd3: {{ hosts: [{etcd}] }}
bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: {loop_wait}
    retry_timeout: {retry_timeout}
    synchronous_mode: true
    postgresql: {{ use_pg_rewind: true }}
  initdb: [{{ encoding: UTF8 }}, data-checksums]
postgresql:
  listen: {host}:{POSTGRES}
  connect_address: {host}:{POSTGRES}
  data_dir: {dir}/data
  bin_dir: {bin}
  pgpass: {dir}/pgpass
  pg_hba: ['local all all trust', 'host all all {EVERYBODY} trust', 'host replication all {EVERYBODY} trust']
  parameters: {{ unix_socket_directories: '{dir}' }}
  authentication:
    superuser: {{ username: postgres }}
    replication: {{ username: replicator, password: replicator }}
"
        )
    }

    fn start_etcd(&mut self, index: usize) -> Result<()> {
        let host = network::address(index);
        let members: Vec<String> =
            (0..NODES).map(|at| format!("{}=http://{}:2380", name(at), network::address(at))).collect();
        let mut command = self.in_namespace(index, &self.programs.etcd());
        command.args(["--name", &name(index), "--data-dir"]).arg(self.dir(index).join("etcd"));
        command.args(["--initial-cluster-state", "new", "--initial-cluster", &members.join(",")]);
        for (flag, port) in [
            ("--listen-peer-urls", 2380),
            ("--initial-advertise-peer-urls", 2380),
            ("--listen-client-urls", 2379),
            ("--advertise-client-urls", 2379),
        ] {
            command.args([flag, &format!("http://{host}:{port}")]);
        }
        self.spawn(command, &format!("{}/etcd.log", name(index)))
    }

    fn start_agent(&mut self, index: usize) -> Result<()> {
        let mut command = self.in_namespace(index, &self.programs.venv("patroni"));
        command.arg(self.dir(index).join("patroni.yml"));
        self.spawn(command, &format!("{}/patroni.log", name(index)))
    }

    fn start_haproxy(&mut self) -> Result<()> {
        let (check, server) = self.speed.checks();
        let servers: Vec<String> = (0..NODES)
            .map(|index| {
                let host = network::address(index);
                format!("    server {} {host}:{POSTGRES} maxconn 100 check port {REST}", name(index))
            })
            .collect();
        let text = format!(
            "global
    maxconn 100
defaults
    mode tcp
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m
    timeout check {check}
listen postgres
    bind {HUB}:{FRONT}
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server {server} on-marked-down shutdown-sessions
{}
",
            servers.join("\n")
        );
        let file = self.folder.path().join("haproxy.cfg");
        fs::write(&file, text)?;
        let mut command = Command::new("setpriv");
        as_postgres(&mut command, &self.programs.haproxy());
        command.env("LD_LIBRARY_PATH", self.programs.debian.libraries()).arg("-f").arg(file);
        self.spawn(command, "haproxy.log")
    }

    fn in_namespace(&self, index: usize, program: &Path) -> Command {
        let mut command = Network::command_at(&name(index), Path::new("setpriv"));
        as_postgres(&mut command, program);
        command
    }

    fn spawn(&mut self, mut command: Command, log: &str) -> Result<()> {
        self.children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
        let path = self.folder.path().join(log);
        let log = File::options().create(true).append(true).open(&path)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir(self.folder.path());
        command.env("HOME", self.folder.path()).env_remove("PYTHONHOME").env_remove("PYTHONPATH");
        self.children.push(command.spawn().with_context(|| format!("start {command:?}"))?);
        Ok(())
    }

    fn members(&self) -> Option<Vec<Member>> {
        let pages = (0..NODES).filter_map(|index| page_at(&network::address(index), REST, "/cluster"));
        pages.filter_map(|page| Some(serde_json::from_str::<Members>(&page).ok()?.members)).next()
    }
}

impl System for Patroni {
    fn name(&self) -> String {
        match self.speed {
            Speed::Defaults => "Patroni, defaults".to_owned(),
            Speed::Fastest => "Patroni, fastest".to_owned(),
        }
    }

    fn description(&self) -> String {
        let (ttl, loop_wait, retry_timeout) = self.speed.intervals();
        let (check, server) = self.speed.checks();
        format!(
            "{}; ttl {ttl}, loop_wait {loop_wait}, retry_timeout {retry_timeout}, synchronous_mode on, the rest at defaults; \
             HAProxy: option httpchk OPTIONS /primary, timeout check {check}, {server}, on-marked-down shutdown-sessions; \
             etcd and Patroni on each of three nodes, each in a network namespace; the client enters through HAProxy, which is not hit",
            self.programs.versions()
        )
    }

    fn wait_until_whole(&mut self) -> Result<usize> {
        let whole = wait_at_most(WHOLE_TIMEOUT, || {
            let members = self.members()?;
            let leader =
                members.iter().find(|member| member.role == "leader" && member.state == "running")?;
            let follows = |member: &&Member| {
                member.state == "streaming" && member.timeline.is_some() && member.timeline == leader.timeline
            };
            let synchronous = members.iter().any(|member| member.role == "sync_standby");
            let whole = synchronous && members.iter().filter(follows).count() == NODES - 1;
            whole.then(|| (0..NODES).find(|&index| name(index) == leader.name))?
        });
        whole.with_context(|| format!("not whole: {:?}; {}", self.members(), self.last_words()))
    }

    fn doors(&self, _primary: usize) -> Vec<Door> {
        vec![(HUB.to_owned(), FRONT)]
    }

    fn servers(&self) -> Vec<Door> {
        (0..NODES).map(|index| (network::address(index), POSTGRES)).collect()
    }

    fn dir(&self, index: usize) -> PathBuf {
        self.folder.path().join(name(index))
    }

    fn postmaster(&self, index: usize) -> Option<i32> {
        let dir = self.dir(index);
        tests::processes::from_pid_file(&dir.join("data/postmaster.pid"), &dir)
    }

    fn start_node(&mut self, index: usize) -> Result<()> {
        self.start_etcd(index)?;
        self.start_agent(index)
    }

    fn kill_agent(&mut self, _index: usize) -> Result<()> {
        bail!("only pgherd's agent is killed alone")
    }

    fn switchover(&mut self, primary: usize) -> Result<()> {
        let mut command = Command::new(self.programs.venv("patronictl"));
        command.arg("-c").arg(self.dir(primary).join("patroni.yml"));
        command.args(["switchover", "bench", "--leader", &name(primary), "--force"]).stdin(Stdio::null());
        let output = command.output().context("start patronictl")?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success() && said.contains("Successfully"),
            "{command:?}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    fn switchover_command(&self) -> String {
        "patronictl switchover bench --leader PRIMARY --force".to_owned()
    }

    /// Patroni's log is for people; its lines have no ids that could be told apart.
    fn phases(&self, _fault: SystemTime, _end: SystemTime) -> Vec<Phase> {
        Vec::new()
    }
}

impl Patroni {
    fn last_words(&self) -> String {
        let tail = |index: usize| {
            let log = self.dir(index).join("patroni.log");
            let text = fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("{}:\n{}\n", name(index), lines[lines.len().saturating_sub(8)..].join("\n"))
        };
        (0..NODES).map(tail).collect()
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        // The sandbox ends what this cannot.
        if let Err(error) = kill_node(self.folder.path()) {
            eprintln!("{error:#}");
        }
        for child in &mut self.children {
            let _ = child.wait();
        }
    }
}

#[derive(Deserialize, Debug)]
struct Members {
    members: Vec<Member>,
}

#[derive(Deserialize, Debug)]
struct Member {
    name: String,
    role: String,
    state: String,
    timeline: Option<u32>,
}

fn name(index: usize) -> String {
    format!("n{}", index + 1)
}

/// `setpriv` becomes the program: no process of root stays between.
fn as_postgres(command: &mut Command, program: &Path) {
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
}

fn give_to_postgres(dir: &Path) -> Result<()> {
    let given = Command::new("chown").arg("postgres:postgres").arg(dir).status()?;
    ensure!(given.success(), "{} cannot be given to postgres", dir.display());
    Ok(())
}
