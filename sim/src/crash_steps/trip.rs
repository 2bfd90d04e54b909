//! The count of what a cluster does, and the kill that is set on one of it.
//!
//! What counts as a step: each action as it is begun, each step of an executor, each durable word, each transaction as the store
//! takes it and as its answer comes, and what a server does by itself (it has started, has been promoted).
//! Invariant: the kill strikes between the step and whatever would have followed in the same moment, a message included.

use crate::plan::{Fault, Kind, Target};
use crate::scenarios::stage::LONG;
use crate::world::World;

/// Who is killed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Victim {
    /// The agent that made the step; its server runs on.
    Agent,
    /// The server beside it.
    Postgres,
    /// Both: the machine of the step.
    Node,
    /// The machine at the other end: the primary's, or a standby's when the primary made the step.
    Partner,
    /// Every machine at once.
    Power,
}

impl Victim {
    pub const ALL: [Victim; 5] =
        [Victim::Agent, Victim::Postgres, Victim::Node, Victim::Partner, Victim::Power];

    pub fn word(self) -> &'static str {
        match self {
            Victim::Agent => "agent",
            Victim::Postgres => "postgres",
            Victim::Node => "node",
            Victim::Partner => "partner",
            Victim::Power => "power",
        }
    }
}

/// One thing that was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    pub node: usize,
    pub what: &'static str,
}

#[derive(Clone, Copy, Debug)]
struct Wire {
    /// The number of the step, the first is 0.
    step: usize,
    victim: Victim,
    lasts_us: u64,
}

/// Counts once it is armed.
#[derive(Default)]
pub struct Trip {
    pub steps: Option<Vec<Step>>,
    wire: Option<Wire>,
    /// When the kill struck, and how many processes it met.
    pub struck: Option<(u64, usize)>,
    /// When the first write was acknowledged that is younger than the kill.
    pub written_us: Option<u64>,
    /// The numbers of the kill's faults.
    faults: Vec<usize>,
}

impl Trip {
    pub fn count(&mut self) {
        self.steps = Some(Vec::new());
    }

    pub fn set(&mut self, step: usize, victim: Victim, lasts_us: u64) {
        self.count();
        self.wire = Some(Wire { step, victim, lasts_us });
    }

    pub fn on_acknowledged(&mut self, written_us: u64, now_us: u64) {
        if self.struck.is_some_and(|(struck_us, _)| written_us > struck_us) {
            self.written_us.get_or_insert(now_us);
        }
    }
}

impl World {
    /// Something has been done on this node.
    pub fn stepped(&mut self, node: usize, what: &'static str) {
        let Some(steps) = &mut self.trip.steps else { return };
        steps.push(Step { node, what });
        let number = steps.len() - 1;
        if let Some(wire) = self.trip.wire.take_if(|wire| wire.step == number) {
            self.trip_over(node, wire);
        }
    }

    fn trip_over(&mut self, node: usize, Wire { victim, lasts_us, .. }: Wire) {
        let nodes: Vec<usize> = match victim {
            Victim::Agent | Victim::Postgres | Victim::Node => vec![node],
            Victim::Partner => self.partner(node).into_iter().collect(),
            Victim::Power => (0..self.nodes.len()).collect(),
        };
        let kind = match victim {
            Victim::Agent => Kind::KillAgent,
            Victim::Postgres => Kind::KillPostgres,
            Victim::Node | Victim::Partner | Victim::Power => Kind::KillNode,
        };
        let lives = |node: &usize| {
            let host = &self.nodes[*node];
            let server = host.server.process != crate::server::Process::Down;
            if kind == Kind::KillPostgres { server } else { host.agent.is_some() }
        };
        // Who is missed is the only one: more than one machine the cluster does not promise to bear.
        let bearable = lasts_us < LONG || super::rest::bears_a_loss(self);
        let met: Vec<usize> = nodes.into_iter().filter(lives).filter(|_| bearable).collect();
        self.trip.struck = Some((self.now_us, met.len()));
        for (order, node) in met.into_iter().enumerate() {
            // Machines do not come up in one moment.
            let fault = self.strike_now(kind, node, 0, lasts_us + order as u64 * 40_000);
            self.trip.faults.push(fault);
        }
    }

    /// Who was killed is started again, if it has not been.
    pub fn bring_back(&mut self) {
        for fault in std::mem::take(&mut self.trip.faults) {
            self.heal(fault);
        }
    }

    /// The machine at the other end of what this node is doing.
    fn partner(&self, node: usize) -> Option<usize> {
        let primary = self.recorded_primary().filter(|primary| *primary != node);
        let lives =
            |other: &usize| *other != node && self.nodes[*other].full && self.nodes[*other].agent.is_some();
        primary.filter(lives).or_else(|| (0..self.nodes.len()).find(lives))
    }

    /// A fault strikes now; returns its number, by which it can be healed before its time.
    pub fn strike_now(&mut self, kind: Kind, node: usize, peer: usize, lasts_us: u64) -> usize {
        let index = self.plan.faults.len();
        self.plan.faults.push(Fault {
            kind,
            target: Target::Node(node),
            at_us: 0,
            trigger: None,
            lasts_us,
            struck: false,
            active: None,
            peer,
        });
        self.strike(index);
        index
    }
}
