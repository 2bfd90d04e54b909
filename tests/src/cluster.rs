//! A cluster of real processes in a folder of its own, on ports of its own.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::machine;
use crate::network::Network;
use crate::ports::Ports;
use crate::processes::{self, Process};
use crate::shared_memory;
use crate::status::{self, Status};
use crate::wait::{wait_at_most, wait_for};

/// initdb and two base backups, beside other tests' clusters on two cores.
pub const WHOLE_TIMEOUT: Duration = Duration::from_secs(90);
/// A killed process goes as soon as the kernel runs it.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
const LOG_LINES_SHOWN: usize = 60;

/// The `pgherd` that was built beside this test: target/PROFILE/pgherd.
pub fn program() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this test");
    let profile = own.ancestors().find(|dir| dir.join("pgherd").is_file());
    let found = profile.map(|dir| dir.join("pgherd"));
    found.unwrap_or_else(|| {
        panic!("no pgherd beside {}; cargo build -p pgherd, or cargo xtask test", own.display())
    })
}

/// `pgherd` with these arguments, run to its end.
pub fn pgherd(arguments: &[&str]) -> Output {
    command(arguments).output().expect("pgherd starts")
}

/// `pgherd` with these arguments. The nodes of a demo that it starts inherit the PostgreSQL under test.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).env_remove("PGHERD_URL").stdin(Stdio::null());
    with_bin_under_test(&mut command);
    command
}

fn with_bin_under_test(command: &mut Command) {
    if let Some(bin) = machine::bin_under_test() {
        command.env("PGHERD_POSTGRES_BIN_DIR", bin);
    }
}

/// One node's place and ports.
#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub dir: PathBuf,
    /// Where all its ports are.
    pub host: String,
    /// It runs in the network namespace that has its name ([`crate::network`]).
    pub namespaced: bool,
    pub postgres: u16,
    pub read_write: u16,
    pub read_only: u16,
    pub auto: u16,
    pub http: u16,
    pub peer: u16,
}

impl Node {
    fn new(dir: &Path, index: u16, base: u16) -> Node {
        let name = format!("n{}", index + 1);
        let first = base + 10 * index;
        Node {
            dir: dir.join(&name),
            name,
            host: "127.0.0.1".to_owned(),
            namespaced: false,
            postgres: first,
            read_write: first + 1,
            read_only: first + 2,
            auto: first + 3,
            http: first + 4,
            peer: first + 5,
        }
    }

    pub fn config(&self) -> PathBuf {
        self.dir.join("pgherd.toml")
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Changes the configuration before the node is started.
    pub fn edit_config(&self, change: impl FnOnce(&mut toml::Table)) {
        let text = fs::read_to_string(self.config()).expect("its configuration");
        let mut table: toml::Table = toml::from_str(&text).expect("TOML");
        change(&mut table);
        fs::write(self.config(), toml::to_string(&table).expect("TOML"))
            .expect("its configuration is writable");
    }

    pub fn agent_pid(&self) -> Option<i32> {
        processes::from_pid_file(&self.dir.join("pgherd.pid"), &self.dir)
    }

    /// The process beside the agent that watches over it.
    pub fn fencer_pid(&self) -> Option<i32> {
        let ours = |process: &Process| {
            let command: Vec<&str> = process.command.iter().map(String::as_str).collect();
            matches!(command.as_slice(), [_, "fencer", "--dir", dir] if Path::new(dir) == self.dir)
        };
        processes::belonging_to(&self.dir).into_iter().find(ours).map(|process| process.pid)
    }

    pub fn postmaster_pid(&self) -> Option<i32> {
        processes::from_pid_file(&self.data().join("postmaster.pid"), &self.dir)
    }
}

/// The files of a cluster of which nothing runs yet. Dropped, it ends whatever runs in its folder.
pub struct Prepared {
    pub nodes: Vec<Node>,
    folder: TempDir,
    // Released last, when nothing of the cluster runs any more.
    _ports: Ports,
}

impl Prepared {
    pub fn new(nodes: u16) -> Prepared {
        Prepared::with_room(nodes, nodes)
    }

    /// `nodes` nodes, and ports for as many as `room`.
    pub fn with_room(nodes: u16, room: u16) -> Prepared {
        let folder = folder();
        let ports = Ports::claim(room);
        let dir = folder.path().join("c");
        let arguments =
            ["demo", "--prepare", "--nodes", &nodes.to_string(), "--base-port", &ports.base.to_string()];
        let output = pgherd(&[arguments.as_slice(), &["--dir", &dir.to_string_lossy()]].concat());
        assert!(
            output.status.success(),
            "pgherd demo --prepare: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let nodes: Vec<Node> = (0..nodes).map(|index| Node::new(&dir, index, ports.base)).collect();
        if let Some(bin) = machine::bin_under_test() {
            nodes.iter().for_each(|node| name_bin_dir(node, &bin));
        }
        Prepared { nodes, folder, _ports: ports }
    }

    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("c")
    }

    /// Sets a setting in every node's file; `value` is TOML and may differ from node to node.
    pub fn set(&self, section: &str, name: &str, value: impl Fn(&Node) -> String) {
        self.nodes.iter().for_each(|node| set(node, section, name, &value(node)));
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        let running = || processes::belonging_to(self.folder.path());
        // Again and again: one that was being started while the others were killed is found the next time.
        let mut memory = shared_memory::Left::default();
        let ended = wait_at_most(KILL_TIMEOUT, || {
            let left = running();
            left.iter().for_each(|process| memory.note(process));
            left.iter().for_each(|process| processes::signal(process.pid, Signal::KILL));
            left.is_empty().then_some(())
        });
        memory.remove();
        if ended.is_none() {
            eprintln!("still running in {}: {:?}", self.folder.path().display(), running());
        }
        if std::thread::panicking() {
            self.nodes.iter().for_each(show_log);
        }
    }
}

/// Writes the directory of PostgreSQL's programs into the node's configuration.
fn name_bin_dir(node: &Node, bin: &Path) {
    // A Rust string's escapes are TOML's for what a path of ours can hold.
    set(node, "postgres", "bin_dir", &format!("{bin:?}"));
}

fn set(node: &Node, section: &str, name: &str, value: &str) {
    let text = fs::read_to_string(node.config()).expect("its configuration");
    let section = format!("\n[{section}]\n");
    let text = if text.contains(&section) { text } else { format!("{text}{section}") };
    let named = text.replacen(&section, &format!("{section}{name} = {value}\n"), 1);
    fs::write(node.config(), named).expect("its configuration is writable");
}

/// Adds lines of TOML to the node's configuration, each below its table.
pub fn configure(node: &Node, lines: &str) {
    let mut text = fs::read_to_string(node.config()).expect("its configuration");
    let mut table = String::new();
    for line in lines.lines().filter(|line| !line.is_empty()) {
        if line.starts_with('[') {
            table = format!("\n{line}\n");
            continue;
        }
        let key = line.split('=').next().unwrap_or_default();
        if !text.contains(&table) {
            text.push_str(&table);
        }
        // What the file says already gives way.
        let before = text.find(&table).unwrap() + table.len();
        let end = text[before..].find("\n[").map_or(text.len(), |at| before + at);
        let kept: Vec<&str> = text[before..end].lines().filter(|old| !old.starts_with(key)).collect();
        text = format!("{}{line}\n{}\n{}", &text[..before], kept.join("\n"), &text[end..]);
    }
    fs::write(node.config(), text).expect("its configuration is writable");
}

/// A folder that the user postgres can enter, with a name short enough for sockets.
pub fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("pgherd-").tempdir_in("/tmp").expect("a folder in /tmp");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    folder
}

fn show_log(node: &Node) {
    let path = node.dir.join("pgherd.log");
    let Ok(text) = fs::read_to_string(&path) else { return };
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
    eprintln!("---- {} (last {} of {} lines)", path.display(), tail.len(), lines.len());
    tail.iter().for_each(|line| eprintln!("{line}"));
}

/// A running cluster.
pub struct Cluster {
    agents: Vec<Child>,
    // The agents' parent goes last: its drop kills what still runs.
    prepared: Prepared,
}

impl Cluster {
    /// `nodes` nodes, started and whole: an open primary and healthy replicas.
    pub fn start(nodes: u16) -> Cluster {
        Cluster::start_prepared(Prepared::new(nodes))
    }

    /// The same with more lines at the end of each node's configuration.
    pub fn start_with(nodes: u16, more: &str) -> Cluster {
        let prepared = Prepared::new(nodes);
        for node in &prepared.nodes {
            let text = fs::read_to_string(node.config()).expect("its configuration");
            fs::write(node.config(), text + more).expect("its configuration is writable");
        }
        Cluster::start_prepared(prepared)
    }

    /// The same with lines of TOML added to each node's configuration, as in `[tags]\nnofailover = true`. A table
    /// that is there already is added to.
    pub fn start_configured(nodes: u16, lines: impl Fn(&Node) -> String) -> Cluster {
        let prepared = Prepared::new(nodes);
        prepared.nodes.iter().for_each(|node| configure(node, &lines(node)));
        Cluster::start_prepared(prepared)
    }

    /// The same, with ports for nodes that are added later.
    pub fn start_with_room(nodes: u16, room: u16) -> Cluster {
        Cluster::start_prepared(Prepared::with_room(nodes, room))
    }

    /// Of files that the test has changed to its needs.
    pub fn start_prepared(prepared: Prepared) -> Cluster {
        let mut cluster = Cluster { agents: Vec::new(), prepared };
        for name in cluster.names() {
            cluster.start_agent(&name);
        }
        cluster.wait_until_whole();
        cluster
    }

    /// A standby cluster, which has no primary: started, and not waited for.
    pub fn start_following(prepared: Prepared) -> Cluster {
        let mut cluster = Cluster { agents: Vec::new(), prepared };
        cluster.names().iter().for_each(|name| cluster.start_agent(name));
        cluster
    }

    /// `pgherd demo --add-node`; the node is whole when this returns.
    pub fn add_node(&mut self) -> String {
        self.demo(&["--add-node"]);
        let index = self.nodes().len() as u16;
        let node = Node::new(&self.dir(), index, self.nodes()[0].postgres);
        assert!(node.config().is_file(), "{} was not the next node", node.name);
        let name = node.name.clone();
        self.prepared.nodes.push(node);
        name
    }

    /// The same while something is done to it; the node is known by its name from the start.
    #[track_caller]
    pub fn add_node_meanwhile(&mut self, meanwhile: impl FnOnce(&mut Cluster, &str)) -> String {
        let dir = self.dir();
        let adding =
            command(&["demo", "--add-node", "--dir", &dir.to_string_lossy()]).stdout(Stdio::null()).spawn();
        let mut adding = adding.expect("pgherd demo starts");
        let node = Node::new(&dir, self.nodes().len() as u16, self.nodes()[0].postgres);
        let name = node.name.clone();
        self.prepared.nodes.push(node);
        meanwhile(self, &name);
        assert!(adding.wait().expect("its end").success(), "pgherd demo --add-node failed");
        name
    }

    /// `pgherd demo --remove-node`.
    pub fn remove_node(&mut self, name: &str) {
        self.demo(&["--remove-node", name]);
        self.prepared.nodes.retain(|node| node.name != name);
    }

    /// `pgherd` with these arguments and `--dir`, which must succeed; its output.
    #[track_caller]
    pub fn demo(&self, arguments: &[&str]) {
        self.client(&[&["demo"], arguments].concat());
    }

    #[track_caller]
    pub fn client(&self, arguments: &[&str]) -> String {
        let dir = self.dir();
        let output = pgherd(&[arguments, &["--dir", &dir.to_string_lossy()]].concat());
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "pgherd {}: {errors}", arguments.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn dir(&self) -> PathBuf {
        self.prepared.dir()
    }

    pub fn nodes(&self) -> &[Node] {
        &self.prepared.nodes
    }

    pub fn names(&self) -> Vec<String> {
        self.nodes().iter().map(|node| node.name.clone()).collect()
    }

    pub fn node(&self, name: &str) -> &Node {
        self.nodes().iter().find(|node| node.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    /// `pgherd run` for this node with its words going to `log`.
    pub fn start_agent_logging_to(&mut self, log: File, name: &str) {
        self.reap();
        let child = spawn_agent_logging_to(log, self.node(name));
        self.agents.push(child);
    }

    /// A client command against this cluster, run to its end.
    pub fn pgherd(&self, arguments: &[&str]) -> Output {
        let dir = self.dir();
        pgherd(&[arguments, &["--dir", &dir.to_string_lossy()]].concat())
    }

    /// The same, which must succeed; answers with what it printed.
    #[track_caller]
    pub fn pgherd_ok(&self, arguments: &[&str]) -> String {
        let output = self.pgherd(arguments);
        let (out, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "pgherd {arguments:?}: {out}{errors}");
        out.into_owned()
    }

    pub fn start_agent(&mut self, name: &str) {
        self.reap();
        let node = self.node(name);
        let child = spawn_agent(node);
        self.agents.push(child);
    }

    /// SIGKILL for the agent alone: its PostgreSQL goes on.
    pub fn kill_agent(&mut self, name: &str) {
        let pid = self.node(name).agent_pid().unwrap_or_else(|| panic!("no agent of {name} is running"));
        kill_all(&[pid]);
        self.reap();
    }

    /// SIGKILL for the postmaster.
    pub fn kill_postgres(&self, name: &str) {
        let pid =
            self.node(name).postmaster_pid().unwrap_or_else(|| panic!("no PostgreSQL of {name} is running"));
        processes::signal(pid, Signal::KILL);
    }

    /// SIGKILL for everything of the node at once, as when its machine loses power.
    pub fn kill_node(&mut self, name: &str) {
        self.kill_nodes(&[name.to_owned()]);
    }

    pub fn kill_nodes(&mut self, names: &[String]) {
        let dirs: Vec<PathBuf> = names.iter().map(|name| self.node(name).dir.clone()).collect();
        let running = || dirs.iter().flat_map(|dir| processes::belonging_to(dir)).collect::<Vec<Process>>();
        wait_for("the killed nodes to end", KILL_TIMEOUT, || {
            // The agent goes first in each round: it must not see its server die.
            let (agents, others): (Vec<_>, Vec<_>) =
                running().into_iter().partition(|process| process.program() == "pgherd");
            agents.iter().chain(&others).for_each(|process| processes::signal(process.pid, Signal::KILL));
            (agents.is_empty() && others.is_empty()).then_some(())
        });
        self.reap();
    }

    /// The view with the highest term among the nodes that answer.
    pub fn status(&self) -> Option<Status> {
        let answers = self.nodes().iter().filter_map(|node| status::ask_at(&node.host, node.http));
        answers.max_by_key(|status| (status.term, status.primary.is_some()))
    }

    /// The open primary of the highest term.
    pub fn primary(&self) -> Option<String> {
        self.status()?.primary
    }

    #[track_caller]
    pub fn wait_for_primary_other_than(&self, old: &str, deadline: Duration) -> String {
        wait_for(&format!("another primary than {old}"), deadline, || {
            self.primary().filter(|name| name != old)
        })
    }

    #[track_caller]
    pub fn wait_until_whole(&self) -> Status {
        let nodes = self.nodes().len();
        wait_for("an open primary and healthy replicas", WHOLE_TIMEOUT, || {
            self.status().filter(|status| status.is_whole(nodes))
        })
    }

    fn reap(&mut self) {
        self.agents.retain_mut(|agent| matches!(agent.try_wait(), Ok(None)));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for agent in &mut self.agents {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

/// `pgherd run` for this node, its words going to its log.
pub fn spawn_agent(node: &Node) -> Child {
    let log = File::options().create(true).append(true).open(node.dir.join("pgherd.log")).expect("its log");
    spawn_agent_logging_to(log, node)
}

/// The same with another place for its words.
pub fn spawn_agent_logging_to(log: File, node: &Node) -> Child {
    let errors = log.try_clone().expect("its log twice");
    let mut command = match node.namespaced {
        true => Network::command(node, &program()),
        false => Command::new(program()),
    };
    command.arg("run").arg("--config").arg(node.config());
    with_bin_under_test(&mut command);
    command.stdin(Stdio::null()).stdout(log).stderr(errors).current_dir("/");
    command.spawn().expect("pgherd run starts")
}

fn kill_all(pids: &[i32]) {
    pids.iter().for_each(|&pid| processes::signal(pid, Signal::KILL));
    wait_for("killed processes to end", KILL_TIMEOUT, || {
        pids.iter().all(|&pid| processes::process(pid).is_none()).then_some(())
    });
}
