//! Does to the cluster what the schedule says, and takes it back.
//!
//! It kills, freezes, cuts and fills only what belongs to this cluster: processes by the node's folder, packets inside
//! the cluster's own network, disks that were mounted for it.
//! Invariant: after [`Nemesis::heal`] nothing of any fault is in force and every node has an agent.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::FallocateFlags;
use rustix::process::Signal;
use tests::cluster::Node;
use tests::network::{self, Cut, Network};
use tests::wait::wait_at_most;
use tests::{Cluster, processes, status};

use crate::history::{Event, Moment, Recorder};
use crate::sampler::LastWriter;
use crate::schedule::{Fault, Needs, Step, Target};

/// Of a hundred packets; TCP bears it, barely.
const LOSS_PERCENT: u8 = 20;
/// A store that has stopped is told within a second; the answer may need another on a busy machine.
const STORE_STOP_TOLD: Duration = Duration::from_secs(3);
/// A power of four blocks; some eight of them fill the disk.
const BALLAST_STEP: u64 = 64 << 20;

pub struct Nemesis<'a> {
    pub cluster: &'a mut Cluster,
    pub network: Option<&'a Network>,
    /// The nodes' directories are small file systems.
    pub disks: bool,
    pub last_writer: LastWriter,
    pub recorder: Recorder,
    pub active: Vec<Active>,
    /// What it did and met, a line each.
    pub log: Vec<String>,
    /// Nodes whose disk was full: what cannot write its pid file may end, and waits for a supervisor.
    pub disk_was_full: BTreeSet<usize>,
    /// What no correct node does.
    pub complaints: Vec<String>,
}

/// A fault in force.
pub struct Active {
    step: usize,
    fault: Fault,
    /// Indexes of the nodes that it hit.
    nodes: Vec<usize>,
    frozen: Vec<i32>,
    /// How often the node's store had stopped before its disk was filled.
    store_stops: usize,
    began: Moment,
    text: String,
}

impl Nemesis<'_> {
    /// The whole schedule, to its end.
    pub fn run(&mut self, steps: &[Step]) -> Result<()> {
        let mut moments: Vec<_> = steps
            .iter()
            .enumerate()
            .flat_map(|(index, step)| [(step.begin, false, index), (step.end, true, index)])
            .collect();
        moments.sort();
        for (at, ends, index) in moments {
            let at = at.as_micros() as Moment;
            let left = Duration::from_micros(at.saturating_sub(self.recorder.now()));
            wait_at_most(left, || (self.recorder.now() >= at).then_some(()));
            if ends { self.end(index)? } else { self.begin(index, &steps[index])? }
        }
        Ok(())
    }

    /// Ends whatever is still in force, and starts agents that are not running.
    pub fn heal(&mut self) -> Result<()> {
        while let Some(active) = self.active.first() {
            self.end(active.step)?;
        }
        for (index, node) in self.nodes().into_iter().enumerate() {
            if node.agent_pid().is_some() {
                continue;
            }
            let complaint = format!("the agent of {} had ended by itself", node.name);
            self.say(complaint.clone());
            if !self.disk_was_full.contains(&index) {
                self.complaints.push(complaint);
            }
            self.cluster.start_agent(&node.name);
        }
        Ok(())
    }

    fn begin(&mut self, index: usize, step: &Step) -> Result<()> {
        let possible = match step.fault.needs() {
            Needs::Nothing => true,
            Needs::Network => self.network.is_some(),
            Needs::Disk => self.disks,
        };
        if !possible {
            self.say(format!("{} is not possible here", step.fault));
            return Ok(());
        }
        let hit = self.hit(step);
        let names: Vec<String> = hit.iter().map(|&node| self.nodes()[node].name.clone()).collect();
        let text = format!("{} of {} ({})", step.fault, step.target, names.join(", "));
        self.say(format!("{text} begins"));
        let began = self.recorder.now();
        let mut active = Active {
            step: index,
            fault: step.fault,
            nodes: hit,
            frozen: Vec::new(),
            store_stops: 0,
            began,
            text,
        };
        self.strike(&mut active)?;
        self.active.push(active);
        self.cut()
    }

    fn end(&mut self, index: usize) -> Result<()> {
        let Some(place) = self.active.iter().position(|active| active.step == index) else { return Ok(()) };
        let active = self.active.remove(place);
        self.cut()?;
        self.relieve(&active)?;
        let (at, until) = (active.began, self.recorder.now());
        self.say(format!("{} ends", active.text));
        self.recorder.note(Event::Fault { at, until, what: active.text });
        Ok(())
    }

    /// Indexes of the nodes that a step hits, now.
    fn hit(&self, step: &Step) -> Vec<usize> {
        let count = self.cluster.nodes().len();
        let first = match step.target {
            Target::Primary => self.last_writer.index(),
            Target::Replica(number) => (self.last_writer.index() + number) % count,
        };
        let width = match step.fault {
            Fault::KillAll => count,
            Fault::KillAgentsMinority => (count - 1) / 2,
            Fault::KillAgentsMajority => count / 2 + 1,
            _ => 1,
        };
        (first..first + width).map(|index| index % count).collect()
    }

    fn strike(&mut self, active: &mut Active) -> Result<()> {
        let nodes: Vec<Node> = active.nodes.iter().map(|&index| self.nodes()[index].clone()).collect();
        let first = active.nodes[0];
        match active.fault {
            Fault::KillPostmaster => {
                let postmaster = nodes[0].postmaster_pid();
                postmaster.into_iter().for_each(|pid| processes::signal(pid, Signal::KILL));
            }
            Fault::KillPostgres => send(&servers_of(&nodes[0]), Signal::KILL),
            Fault::FreezePostgres => active.frozen = freeze(servers_of(&nodes[0])),
            Fault::FreezeAgent => active.frozen = freeze(nodes[0].agent_pid().into_iter().collect()),
            Fault::FreezeNode => {
                active.frozen = freeze(nodes[0].agent_pid().into_iter().collect());
                active.frozen.extend(freeze(servers_of(&nodes[0])));
            }
            Fault::KillAgent | Fault::KillAgentsMinority | Fault::KillAgentsMajority => {
                let agents: Vec<i32> = nodes.iter().filter_map(Node::agent_pid).collect();
                send(&agents, Signal::KILL);
            }
            Fault::KillNode | Fault::KillAll => {
                let names: Vec<String> = nodes.iter().map(|node| node.name.clone()).collect();
                self.cluster.kill_nodes(&names);
            }
            Fault::Slow => self.network.map_or(Ok(()), |network| network.slow(first))?,
            Fault::FullDisk => {
                self.disk_was_full.insert(first);
                active.store_stops = store_stops(&nodes[0]).unwrap_or(0);
                fill(&ballast(&nodes[0], active.step), &nodes[0])?;
            }
            // In force by what `cut` makes of all that is active.
            Fault::Cut
            | Fault::CutIn
            | Fault::CutOut
            | Fault::CutClients
            | Fault::CutPostgres
            | Fault::CutPeer
            | Fault::Loss => {}
        }
        Ok(())
    }

    fn relieve(&mut self, active: &Active) -> Result<()> {
        // A second fault may hold the same process frozen; it thaws with the first that ends, which is chaos too.
        send(&active.frozen.iter().copied().filter(|&pid| is_frozen(pid)).collect::<Vec<_>>(), Signal::CONT);
        match active.fault {
            Fault::KillAgent
            | Fault::KillAgentsMinority
            | Fault::KillAgentsMajority
            | Fault::KillNode
            | Fault::KillAll => {
                for &index in &active.nodes {
                    let node = self.nodes()[index].clone();
                    // It may have been started when another fault on the same node ended.
                    if node.agent_pid().is_none() {
                        self.cluster.start_agent(&node.name);
                    }
                }
            }
            Fault::Slow => {
                self.network.map_or(Ok(()), |network| network.quick(active.nodes[0]))?;
            }
            Fault::FullDisk => self.make_room(active)?,
            _ => {}
        }
        Ok(())
    }

    /// Brings the network's cuts in line with the faults in force.
    fn cut(&self) -> Result<()> {
        let Some(network) = self.network else { return Ok(()) };
        let nodes = self.nodes();
        let all: Vec<Cut> = self.active.iter().flat_map(|active| cuts(active, &nodes)).collect();
        network.apply(&all)
    }

    /// Takes the ballast away, and does what the node's own event asks for when its store has stopped: start it anew.
    fn make_room(&mut self, active: &Active) -> Result<()> {
        let node = self.nodes()[active.nodes[0]].clone();
        fs::remove_file(ballast(&node, active.step)).context("remove the ballast")?;
        let stopped =
            wait_at_most(STORE_STOP_TOLD, || store_stops(&node).filter(|stops| *stops > active.store_stops));
        if stopped.is_some() {
            self.say(format!(
                "{}: its store has stopped on the full disk; its agent is started anew",
                node.name
            ));
            if node.agent_pid().is_some() {
                self.cluster.kill_agent(&node.name);
            }
            self.cluster.start_agent(&node.name);
        }
        Ok(())
    }

    fn nodes(&self) -> Vec<Node> {
        self.cluster.nodes().to_vec()
    }

    fn say(&mut self, text: String) {
        let line = format!("{:7.1} s  {text}", self.recorder.now() as f64 / 1e6);
        println!("{line}");
        self.log.push(line);
    }
}

/// What a fault keeps from arriving.
fn cuts(active: &Active, nodes: &[Node]) -> Vec<Cut> {
    let here = active.nodes[0];
    let others: Vec<usize> = (0..nodes.len()).filter(|&index| index != here).collect();
    let inward = || others.iter().map(|&other| Cut::all(network::address(other), here));
    let outward = || others.iter().map(|&other| Cut::all(network::address(here), other));
    let both = || inward().chain(outward());
    let of_ports = |ports: fn(&Node) -> u16| {
        let ports: Vec<u16> = nodes.iter().map(ports).collect();
        both().map(move |cut| Cut { ports: ports.clone(), ..cut }).collect()
    };
    // Status questions over HTTP stay possible: they are the test's, and whoever looks must see.
    let node = &nodes[here];
    let clients = || Cut {
        ports: vec![node.postgres, node.read_write, node.read_only],
        ..Cut::all(network::HUB, here)
    };
    match active.fault {
        Fault::Cut => both().chain([clients()]).collect(),
        Fault::CutIn => inward().collect(),
        Fault::CutOut => outward().collect(),
        Fault::CutClients => vec![clients()],
        Fault::CutPostgres => of_ports(|node| node.postgres),
        Fault::CutPeer => of_ports(|node| node.peer),
        Fault::Loss => both().map(|cut| Cut { percent: LOSS_PERCENT, ..cut }).collect(),
        _ => Vec::new(),
    }
}

/// How often its store has stopped by itself; `None` when it does not answer.
fn store_stops(node: &Node) -> Option<usize> {
    status::store_stops_at(&node.host, node.http)
}

/// Every process of the node's server, the postmaster first so that no new one escapes.
fn servers_of(node: &Node) -> Vec<i32> {
    let postmaster = node.postmaster_pid();
    let all = processes::belonging_to(&node.data());
    let others = all.iter().filter(|process| process.program() == "postgres").map(|process| process.pid);
    postmaster.into_iter().chain(others.filter(|pid| Some(*pid) != postmaster)).collect()
}

fn freeze(pids: Vec<i32>) -> Vec<i32> {
    send(&pids, Signal::STOP);
    pids
}

fn is_frozen(pid: i32) -> bool {
    processes::process(pid).is_some_and(|process| process.is_frozen())
}

fn send(pids: &[i32], signal: Signal) {
    pids.iter().for_each(|&pid| processes::signal(pid, signal));
}

fn ballast(node: &Node, step: usize) -> PathBuf {
    node.dir.join(format!("ballast-{step}"))
}

/// Takes every free block of the node's file system: in big steps, then in small ones, since the server takes and gives
/// blocks meanwhile.
fn fill(ballast: &Path, node: &Node) -> Result<()> {
    let file = File::create(ballast).context("make the ballast")?;
    let block = rustix::fs::statvfs(&node.dir)?.f_frsize;
    let (mut length, mut step) = (0, BALLAST_STEP);
    while step >= block {
        match rustix::fs::fallocate(file.as_fd(), FallocateFlags::empty(), length, step) {
            Ok(()) => length += step,
            Err(rustix::io::Errno::NOSPC) => step /= 4,
            Err(error) => return Err(error).context("fill the disk"),
        }
    }
    Ok(())
}
