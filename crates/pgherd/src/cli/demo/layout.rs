//! Where a demo lies and what its files say: one directory per node, its ports, its configuration.
//!
//! Invariant: a file that is there is never rewritten. A demo that was started once is resumed with what it has, and
//! a directory that holds something else is refused untouched.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::cli::failure::{Exit, Failure};
use crate::cli::target;
use crate::config::Tls;

pub const CLUSTER: &str = "demo";
pub const BASE_PORT_DEFAULT: u16 = 17_000;
pub const NODES_DEFAULT: u16 = 3;
/// Each node takes its six ports out of ten.
const PORTS_PER_NODE: u16 = 10;

/// The ports of one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    pub postgres: u16,
    pub read_write: u16,
    pub read_only: u16,
    pub auto: u16,
    pub http: u16,
    pub peer: u16,
}

impl Ports {
    /// Of node `index` (0, 1, 2…) from base `base`.
    pub fn of(base: u16, index: u16) -> Ports {
        let first = base + PORTS_PER_NODE * index;
        Ports {
            postgres: first,
            read_write: first + 1,
            read_only: first + 2,
            auto: first + 3,
            http: first + 4,
            peer: first + 5,
        }
    }

    pub fn all(self) -> [u16; 6] {
        [self.postgres, self.read_write, self.read_only, self.auto, self.http, self.peer]
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DemoNode {
    pub name: String,
    pub dir: PathBuf,
    pub ports: Ports,
}

impl DemoNode {
    pub fn config(&self) -> PathBuf {
        self.dir.join("pgherd.toml")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.join("pgherd.log")
    }

    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }
}

/// A demo as it lies on disk, or as it is going to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    pub dir: PathBuf,
    pub nodes: Vec<DemoNode>,
    /// It was there before.
    pub resumed: bool,
}

impl Layout {
    /// The demo in `dir`: what is there when something is, else a plan of `nodes` nodes from port `base`.
    pub fn plan(dir: &Path, nodes: Option<u16>, base: Option<u16>) -> Result<Layout, Failure> {
        let files = target::demo_files(dir)?;
        if files.is_empty() {
            refuse_foreign(dir)?;
            let count = nodes.unwrap_or(NODES_DEFAULT);
            let base = base.unwrap_or(BASE_PORT_DEFAULT);
            if u32::from(base) + u32::from(PORTS_PER_NODE) * u32::from(count) > u32::from(u16::MAX) {
                return Err(Failure::new(Exit::Usage, format!("{count} nodes from port {base} do not fit"))
                    .why("the last port would be above 65535")
                    .next("pgherd demo --base-port 17000"));
            }
            let nodes = (0..count).map(|index| node(dir, index, base)).collect();
            return Ok(Layout { dir: dir.to_owned(), nodes, resumed: false });
        }
        let layout = Layout::read(dir)?;
        layout.check_same(nodes, base)?;
        Ok(layout)
    }

    /// The demo that lies in `dir`; no nodes when there is none.
    pub fn read(dir: &Path) -> Result<Layout, Failure> {
        let files = target::demo_files(dir)?;
        let mut nodes = Vec::with_capacity(files.len());
        for file in files {
            let read = target::read_node_file(&file)?;
            let postgres = read.postgres.port.ok_or_else(|| {
                Failure::new(Exit::Configuration, format!("{} is no demo node's file", file.display()))
                    .why("it has no [postgres] port")
            })?;
            let dir = file.parent().unwrap_or(dir).to_owned();
            nodes.push(DemoNode { name: read.node.name, dir, ports: Ports::of(postgres, 0) });
        }
        Ok(Layout { dir: dir.to_owned(), nodes, resumed: true })
    }

    fn check_same(&self, nodes: Option<u16>, base: Option<u16>) -> Result<(), Failure> {
        let has_nodes = self.nodes.len();
        let has_base = self.nodes.first().map_or(0, |node| node.ports.postgres);
        let other_nodes = nodes.is_some_and(|nodes| usize::from(nodes) != has_nodes);
        let other_base = base.is_some_and(|base| base != has_base);
        if !other_nodes && !other_base {
            return Ok(());
        }
        let shown = self.dir.display();
        Err(Failure::new(Exit::Usage, format!("{shown} holds a demo of another shape"))
            .why(format!("it has {has_nodes} nodes from port {has_base}, and a demo keeps its shape"))
            .next(format!("pgherd demo --dir {shown} (resumes it), or another --dir")))
    }

    /// Makes the directories and files of a new demo; of a resumed one nothing is touched.
    pub fn write(&self) -> Result<(), Failure> {
        let failed = |path: &Path| {
            let what = format!("{} cannot be made", path.display());
            move |error: io::Error| Failure { what, why: Some(error.to_string()), ..Failure::from(error) }
        };
        self.check_reachable()?;
        make_dir(&self.dir).map_err(failed(&self.dir))?;
        if self.resumed {
            return Ok(());
        }
        for node in &self.nodes {
            make_dir(&node.dir).map_err(failed(&node.dir))?;
        }
        super::certificates::make(self)?;
        // The configuration comes last: its presence says that the demo is whole.
        for node in &self.nodes {
            fs::write(node.config(), demo_node(self, node)).map_err(failed(&node.config()))?;
        }
        Ok(())
    }

    /// The node that comes after those that are there.
    pub fn next_node(&self) -> Result<DemoNode, Failure> {
        let number = |node: &DemoNode| node.name.strip_prefix('n').and_then(|text| text.parse::<u16>().ok());
        let taken: Vec<u16> = self.nodes.iter().filter_map(number).collect();
        let base = self.nodes.iter().filter_map(|node| {
            node.ports.postgres.checked_sub(PORTS_PER_NODE.checked_mul(number(node)?.checked_sub(1)?)?)
        });
        let base = base.min().unwrap_or(BASE_PORT_DEFAULT);
        let index = (0..u16::MAX).find(|index| !taken.contains(&(index + 1))).unwrap_or(u16::MAX);
        if u32::from(base) + u32::from(PORTS_PER_NODE) * (u32::from(index) + 1) > u32::from(u16::MAX) {
            return Err(Failure::new(Exit::Usage, "the ports of another node would be above 65535")
                .next("pgherd demo --dir DIR --base-port 17000"));
        }
        Ok(node(&self.dir, index, base))
    }

    pub fn make_node_dir(&self, node: &DemoNode) -> Result<(), Failure> {
        make_dir(&node.dir).map_err(|error| {
            Failure::new(Exit::Precondition, format!("{} cannot be made", node.dir.display())).why(error)
        })
    }

    /// Writes the configuration of a node that joins; its peers are all that are there.
    pub fn write_config(&self, node: &DemoNode) -> Result<(), Failure> {
        fs::write(node.config(), demo_node(self, node)).map_err(|error| {
            Failure::new(Exit::Precondition, format!("{} cannot be written", node.config().display()))
                .why(error)
        })
    }

    /// Root's PostgreSQL runs as the user postgres, who must be able to pass every directory on the way.
    fn check_reachable(&self) -> Result<(), Failure> {
        let own = rustix::process::geteuid().as_raw();
        let owner = fs::metadata(&self.dir).map_or(own, |metadata| metadata.uid());
        if owner != own {
            return Err(Failure::new(Exit::Precondition, format!("{} is not ours", self.dir.display()))
                .why(format!("it belongs to user {owner}, and this is user {own}"))
                .next("pgherd demo --dir DIR"));
        }
        if own != 0 {
            return Ok(());
        }
        // No file of the demo is there yet, so nobody's user id but "everybody" is asked for.
        let closed = crate::postgres::Layout::closed_on_the_way(&self.dir, u32::MAX);
        match closed {
            None => Ok(()),
            Some(closed) => {
                let shown = closed.display();
                Err(Failure::new(Exit::Precondition, format!("{shown} is closed to the user postgres"))
                    .why("PostgreSQL refuses to run as root, so it runs as postgres, who cannot enter there")
                    .next("pgherd demo --dir /tmp/pgherd-demo"))
            }
        }
    }
}

/// `/tmp/pgherd-demo-UID`: short enough for a Unix socket's 107 bytes, and passable for the user postgres.
pub fn default_dir() -> PathBuf {
    PathBuf::from(format!("/tmp/pgherd-demo-{}", rustix::process::geteuid().as_raw()))
}

fn node(dir: &Path, index: u16, base: u16) -> DemoNode {
    let name = format!("n{}", index + 1);
    DemoNode { dir: dir.join(&name), name, ports: Ports::of(base, index) }
}

/// A directory with anything in it that is no demo is somebody's.
fn refuse_foreign(dir: &Path) -> Result<(), Failure> {
    let shown = dir.display();
    let foreign = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(Failure::new(Exit::Precondition, format!("{shown} cannot be used")).why(error));
        }
        Ok(mut entries) => entries.next(),
    };
    match foreign {
        None => Ok(()),
        Some(_) => Err(Failure::new(Exit::Precondition, format!("{shown} holds something that is no demo"))
            .why("a demo is made in a new or empty directory only")
            .next("pgherd demo --dir DIR with another directory")),
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    // Root's demo must be passable for the user postgres, a user's own is nobody else's business.
    let mode = if rustix::process::geteuid().is_root() { 0o755 } else { 0o700 };
    fs::DirBuilder::new().recursive(true).mode(mode).create(dir)
}

/// The configuration of one node.
fn demo_node(layout: &Layout, node: &DemoNode) -> String {
    let ports = node.ports;
    let peers: String = layout
        .nodes
        .iter()
        .map(|peer| {
            let DemoNode { name, ports, .. } = peer;
            format!(
                "\n[peers.{name}]\npeer = \"127.0.0.1:{}\"\npostgres = \"127.0.0.1:{}\"\n",
                ports.peer, ports.postgres
            )
        })
        .collect();
    format!(
        r#"# Node {name} of a demo cluster, made by `pgherd demo`. Start it by hand with
#   pgherd run --config {config}
cluster = "{CLUSTER}"

[node]
name = "{name}"
dir = {dir}
kind = "full"
advertise = "127.0.0.1"
reserve = 16

[postgres]
listen = "127.0.0.1"
port = {postgres}
# In a demo, loopback is trusted. Never do this where others can log in.
hba = ["local all all trust", "host all all 127.0.0.1/32 trust"]

[proxy]
listen = "127.0.0.1"
read_write_port = {read_write}
read_only_port = {read_only}
auto_port = {auto}

# Encrypts for clients who ask for it. Outside of a demo the proxy deserves a certificate of its own.
[proxy_tls]
cert = {cert}
key = {key}

[http]
listen = "127.0.0.1"
port = {http}

[peer]
listen = "127.0.0.1"
port = {peer}

[sync]
standbys = 1
{peers}"#,
        name = node.name,
        config = node.config().display(),
        dir = quoted(&node.dir),
        cert = quoted(&Tls::below(&node.dir).cert),
        key = quoted(&Tls::below(&node.dir).key),
        postgres = ports.postgres,
        read_write = ports.read_write,
        read_only = ports.read_only,
        auto = ports.auto,
        http = ports.http,
        peer = ports.peer,
    )
}

fn quoted(path: &Path) -> toml::Value {
    toml::Value::String(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn ports_are_those_of_the_contract() {
        assert_eq!(Ports::of(17_000, 0).all(), [17_000, 17_001, 17_002, 17_003, 17_004, 17_005]);
        assert_eq!(Ports::of(17_000, 2).all(), [17_020, 17_021, 17_022, 17_023, 17_024, 17_025]);
    }

    #[test]
    fn a_written_demo_is_read_back_as_it_was_planned() {
        let parent = tempfile::Builder::new().prefix("pgherd").tempdir_in("/tmp").unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let dir = parent.path().join("demo");
        let plan = Layout::plan(&dir, Some(5), Some(21_000)).unwrap();
        assert!(!plan.resumed);
        plan.write().unwrap();
        let again = Layout::plan(&dir, None, None).unwrap();
        assert!(again.resumed);
        assert_eq!(again.nodes, plan.nodes);
        assert_eq!(again.nodes.len(), 5);
        for (nodes, base) in [(Some(3), None), (None, Some(17_000))] {
            assert_eq!(Layout::plan(&dir, nodes, base).unwrap_err().exit, Exit::Usage);
        }
        let text = fs::read_to_string(plan.nodes[1].config()).unwrap();
        let value: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(value["node"]["name"].as_str(), Some("n2"));
        assert_eq!(value["peers"]["n5"]["peer"].as_str(), Some("127.0.0.1:21045"));
        assert_eq!(value["http"]["port"].as_integer(), Some(21_014));
    }

    #[test]
    fn somebody_elses_directory_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("thesis.tex");
        fs::write(&file, "x").unwrap();
        let failure = Layout::plan(dir.path(), None, None).unwrap_err();
        assert_eq!(failure.exit, Exit::Precondition);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn ports_beyond_the_last_are_a_usage_error() {
        let failure = Layout::plan(Path::new("/nonexistent/x"), Some(9), Some(65_500)).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
    }
}
