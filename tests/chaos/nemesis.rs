//! Does to the cluster what the schedule says, and takes it back.
//!
//! It kills, freezes, cuts and fills only what belongs to this cluster: processes by the node's folder, packets inside
//! the cluster's own network, disks that were mounted for it.
//! Invariant: after [`Nemesis::heal`] nothing of any fault is in force and every node has an agent.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use tests::cluster::Node;
use tests::network::{self, Cut, Network};
use tests::wait::wait_at_most;
use tests::{Cluster, processes};

use crate::disks;
use crate::history::{Event, Moment, Recorder};
use crate::operations::{self, Asked};
use crate::sampler::LastWriter;
use crate::schedule::{Fault, Needs, Step, Target};

/// Of a hundred packets; TCP bears it, barely.
const LOSS_PERCENT: u8 = 20;
/// Some milliseconds from its start, on a machine that gives it time.
const AGENT_UP_TIMEOUT: Duration = Duration::from_secs(10);

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
    /// Nodes that were asked to leave; whoever heals must see that they are members again.
    pub removed: BTreeSet<usize>,
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
    /// What was asked for, and is not over yet.
    asked: Option<Asked>,
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
            // One that has just been started writes its pid file in a moment.
            if wait_at_most(AGENT_UP_TIMEOUT, || node.agent_pid()).is_some() {
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
        if let Some(why) = self.hindered(step.fault) {
            self.say(format!("{} is left out: {why}", step.fault));
            return Ok(());
        }
        let names: Vec<String> = hit.iter().map(|&node| self.nodes()[node].name.clone()).collect();
        let text = format!("{} of {} ({})", step.fault, step.target, names.join(", "));
        self.say(format!("{text} begins"));
        let began = self.recorder.now();
        let mut active = Active {
            step: index,
            fault: step.fault,
            nodes: hit,
            frozen: Vec::new(),
            asked: None,
            began,
            text,
        };
        self.strike(&mut active)?;
        self.ask(&mut active, step)?;
        self.active.push(active);
        self.cut()
    }

    fn end(&mut self, index: usize) -> Result<()> {
        let Some(place) = self.active.iter().position(|active| active.step == index) else { return Ok(()) };
        let mut active = self.active.remove(place);
        self.cut()?;
        self.relieve(&mut active)?;
        let (at, until) = (active.began, self.recorder.now());
        self.say(format!("{} ends", active.text));
        self.recorder.note(Event::Fault { at, until, what: active.text });
        Ok(())
    }

    /// Why a fault would leave more than the cluster can bear by its design: of the store's directories one may be lost at
    /// a time, and the others must know it.
    fn hindered(&self, fault: Fault) -> Option<String> {
        let leaving = self.active.iter().any(|active| active.fault == Fault::RemoveMember);
        match fault {
            Fault::LoseStore if leaving => Some("a member is being removed".to_owned()),
            Fault::LoseStore => operations::store_lacks(&self.nodes()),
            _ => None,
        }
    }

    /// Asks for what a step wants of people, on the machine of the node that it hits; a removal, on another's.
    fn ask(&mut self, active: &mut Active, step: &Step) -> Result<()> {
        let node = self.nodes()[active.nodes[0]].clone();
        let lasting = step.end.saturating_sub(step.begin);
        let Some(arguments) = operations::begun_by(step.fault, step.target, &node, lasting) else {
            return Ok(());
        };
        if step.fault == Fault::RemoveMember {
            self.removed.insert(active.nodes[0]);
        }
        active.asked = Some(operations::ask(&self.asked_at(active), &arguments)?);
        Ok(())
    }

    /// Where people ask.
    fn asked_at(&self, active: &Active) -> Node {
        let (node, nodes) = (active.nodes[0], self.nodes());
        let next = (node + 1) % nodes.len();
        nodes[if active.fault == Fault::RemoveMember { next } else { node }].clone()
    }

    /// Indexes of the nodes that a step hits, now.
    fn hit(&self, step: &Step) -> Vec<usize> {
        let count = self.cluster.nodes().len();
        let first = match step.target {
            // Asking for the primary's removal is refused, and no fault.
            Target::Primary if step.fault == Fault::RemoveMember => (self.last_writer.index() + 1) % count,
            Target::Primary => self.last_writer.index(),
            Target::Replica(number) => (self.last_writer.index() + number) % count,
        };
        let width = match step.fault {
            Fault::KillAll => count,
            Fault::KillAgentsMinority => (count - 1) / 2,
            Fault::KillAgentsMajority | Fault::FullStoreDisksMajority => count / 2 + 1,
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
            Fault::FullDisk | Fault::FullStoreDisk | Fault::FullDisks | Fault::FullStoreDisksMajority => {
                self.disk_was_full.extend(&active.nodes);
                let disks = nodes.iter().flat_map(|node| disks::filled_by(active.fault, node));
                disks.into_iter().try_for_each(|disk| disks::fill(&disk, active.step))?;
            }
            Fault::LoseStore => {
                if nodes[0].agent_pid().is_some() {
                    self.cluster.kill_agent(&nodes[0].name);
                }
                disks::lose_store(&nodes[0])?;
            }
            // People ask for these: `ask`.
            Fault::Switchover | Fault::Pause | Fault::Restart | Fault::Reinit | Fault::RemoveMember => {}
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

    fn relieve(&mut self, active: &mut Active) -> Result<()> {
        // A second fault may hold the same process frozen; it thaws with the first that ends, which is chaos too.
        send(&active.frozen.iter().copied().filter(|&pid| is_frozen(pid)).collect::<Vec<_>>(), Signal::CONT);
        match active.fault {
            Fault::KillAgent
            | Fault::KillAgentsMinority
            | Fault::KillAgentsMajority
            | Fault::KillNode
            | Fault::KillAll
            | Fault::LoseStore => {
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
            _ => {}
        }
        for &index in &active.nodes {
            let node = self.nodes()[index].clone();
            for disk in disks::filled_by(active.fault, &node) {
                disks::make_room(&disk, active.step)?;
            }
        }
        if let Some(asked) = active.asked.take() {
            let outcome = asked.outcome()?;
            self.say(outcome);
        }
        let node = self.nodes()[active.nodes[0]].clone();
        if let Some(arguments) = operations::ended_by(active.fault, &node) {
            let answer = operations::ask(&self.asked_at(active), &arguments)?.answered()?;
            self.say(answer);
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
