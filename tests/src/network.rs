//! A network of the test's own: each node in a network namespace, the test at the bridge between them.
//!
//! ```text
//!   hub (the test, 10.77.0.254) ── bridge ─┬─ n1 (10.77.0.1)
//!                                          ├─ n2 (10.77.0.2) …
//! ```
//!
//! It is made inside [`crate::sandbox`], so the kernel takes all of it away with the test's last process, however that
//! ends: no name of it is ever seen outside. What it is not: a model of time; where the kernel has no netem, a slow
//! link is one of few bits a second.
//! Invariant: packets are dropped where they arrive. A sender must not learn of a cut, as it would from a filter of its own.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::Node;

/// The test's own address.
pub const HUB: &str = "10.77.0.254";
/// Every address of the network, for pg_hba.conf.
pub const EVERYBODY: &str = "10.77.0.0/24";
/// Where `ip netns` keeps its names; inside the sandbox a file system of our own.
const NAMES: &str = "/run/netns";
/// Some 60 KB/s: a WAL segment takes minutes, a heartbeat a few milliseconds until WAL is in its way.
const SLOW_RATE: &str = "512kbit";

/// The address of node `index` (0, 1, 2…).
pub fn address(index: usize) -> String {
    format!("10.77.0.{}", index + 1)
}

/// Packets that do not arrive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Whose packets.
    pub from: String,
    /// The node, by index, where they do not arrive.
    pub at: usize,
    /// Only those of this port, at either end of the connection; none for all.
    pub ports: Vec<u16>,
    /// How many of a hundred.
    pub percent: u8,
}

impl Cut {
    pub fn all(from: impl Into<String>, at: usize) -> Cut {
        Cut { from: from.into(), at, ports: Vec::new(), percent: 100 }
    }

    fn rule(&self) -> String {
        let mut rule = format!("ip saddr {}", self.from);
        if !self.ports.is_empty() {
            let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
            // A set matches either end: questions to the port and answers from it.
            let _ = write!(rule, " tcp {{SIDE}} {{ {} }}", ports.join(", "));
        }
        if self.percent < 100 {
            let _ = write!(rule, " numgen random mod 100 < {}", self.percent);
        }
        rule.push_str(" drop");
        match self.ports.is_empty() {
            true => rule,
            false => format!("{}\n{}", rule.replace("{SIDE}", "dport"), rule.replace("{SIDE}", "sport")),
        }
    }
}

/// How links are made slow here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slowness {
    /// The kernel delays each packet.
    Delay,
    /// The kernel knows no delay: a narrow link, on which packets wait for those before them.
    Narrow,
}

/// The namespaces of one cluster, joined by a bridge.
pub struct Network {
    nodes: usize,
    pub slowness: Slowness,
}

impl Network {
    /// Makes the network. Only inside [`crate::sandbox`], where no other network has these addresses.
    pub fn build(nodes: usize) -> Result<Network> {
        ensure!(crate::sandbox::inside(), "a network is made inside the sandbox only");
        run("ip", "link add hub type bridge")?;
        run("ip", &format!("address add {HUB}/24 dev hub"))?;
        run("ip", "link set hub up")?;
        for index in 0..nodes {
            let (name, address) = (namespace(index), address(index));
            run("ip", &format!("netns add {name}"))?;
            run("ip", &format!("link add to-{name} type veth peer name eth0 netns {name}"))?;
            run("ip", &format!("link set to-{name} master hub up"))?;
            run("ip", &format!("-n {name} address add {address}/24 dev eth0"))?;
            run("ip", &format!("-n {name} link set eth0 up"))?;
            run("ip", &format!("-n {name} link set lo up"))?;
        }
        let mut network = Network { nodes, slowness: Slowness::Delay };
        if nodes > 0 && network.slow(0).is_err() {
            network.slowness = Slowness::Narrow;
            network.slow(0).context("neither netem nor tbf is in this kernel")?;
        }
        network.quick(0)?;
        Ok(network)
    }

    /// `program` inside the namespace of this node.
    pub fn command(node: &Node, program: &std::path::Path) -> Command {
        Network::command_at(&node.name, program)
    }

    /// The same for whatever runs in the namespace of this name.
    pub fn command_at(name: &str, program: &std::path::Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={NAMES}/{name}")).arg("--").arg(program);
        command
    }

    /// Puts exactly these cuts into force, everywhere.
    pub fn apply(&self, cuts: &[Cut]) -> Result<()> {
        for index in 0..self.nodes {
            let rules: String =
                cuts.iter().filter(|cut| cut.at == index).map(|cut| cut.rule() + "\n").collect();
            // Made, deleted and made anew in one transaction: no packet sees the moment between.
            let script = format!(
                "table ip cuts {{}}\ndelete table ip cuts\ntable ip cuts {{\nchain arriving {{\n\
                 type filter hook input priority 0;\n{rules}}}\n}}\n"
            );
            let name = namespace(index);
            let mut nft = Command::new("nsenter");
            nft.arg(format!("--net={NAMES}/{name}")).args(["--", "nft", "--file", "-"]);
            feed(&mut nft, &script).with_context(|| format!("cuts of {name}:\n{script}"))?;
        }
        Ok(())
    }

    /// Makes all that this node sends slow.
    pub fn slow(&self, index: usize) -> Result<()> {
        let name = namespace(index);
        let how = match self.slowness {
            Slowness::Delay => "netem delay 40ms 20ms".to_owned(),
            Slowness::Narrow => format!("tbf rate {SLOW_RATE} burst 4000 latency 800ms"),
        };
        run("tc", &format!("-n {name} qdisc replace dev eth0 root {how}"))
    }

    pub fn quick(&self, index: usize) -> Result<()> {
        run("tc", &format!("-n {} qdisc del dev eth0 root", namespace(index)))
    }
}

fn namespace(index: usize) -> String {
    format!("n{}", index + 1)
}

fn run(program: &str, arguments: &str) -> Result<()> {
    let mut command = Command::new(program);
    feed(command.args(arguments.split_whitespace()), "").with_context(|| format!("{program} {arguments}"))
}

fn feed(command: &mut Command, input: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {:?}", command.get_program()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
