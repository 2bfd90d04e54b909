//! Which fault when: drawn from a seed, printed before it happens, the same each time.
//!
//! Invariant: seed, length and number of nodes alone decide. Whom a step hits is said by role, and the role's holder is
//! found when the step begins; so the same schedule can meet other moments of the cluster, but never other faults.

use std::fmt;
use std::time::Duration;

/// What can happen to a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// SIGKILL for the postmaster alone.
    KillPostmaster,
    /// SIGKILL for every process of the server at once.
    KillPostgres,
    /// SIGSTOP for every process of the server, SIGCONT at the end.
    FreezePostgres,
    KillAgent,
    FreezeAgent,
    /// Agent and server, as when the machine loses power.
    KillNode,
    /// Agent and server, as when a virtual machine is paused.
    FreezeNode,
    KillAll,
    /// Agents of fewer than half of the nodes: the store goes on.
    KillAgentsMinority,
    /// Agents of more than half of the nodes: there is no store.
    KillAgentsMajority,
    /// The node from all others and from clients, both ways.
    Cut,
    /// What others send to the node does not arrive.
    CutIn,
    /// What the node sends to others does not arrive.
    CutOut,
    /// Clients from the node; the nodes among each other are whole.
    CutClients,
    /// PostgreSQL's port between nodes.
    CutPostgres,
    /// The agents' port between nodes.
    CutPeer,
    /// A fifth of all packets between the node and others.
    Loss,
    /// All that the node sends is slow.
    Slow,
    /// No block is left on the disk of the node's data and logs; its store has a disk of its own.
    FullDisk,
    /// No block is left on the disk of the node's store.
    FullStoreDisk,
    /// No block is left on either disk of the node.
    FullDisks,
    /// No block is left on the store's disks of more than half of the nodes.
    FullStoreDisksMajority,
    /// The agent dies, and its store's directory is empty when it starts again at the end.
    LoseStore,
    /// Somebody asks for the node to become primary; at the primary, for any other.
    Switchover,
    /// Maintenance is asked for at the beginning, and its end at the end.
    Pause,
    Restart,
    Reinit,
    /// A replica is removed at the beginning and added again at the end.
    RemoveMember,
}

/// What the machine must permit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    Nothing,
    /// Namespaces: [`tests::network`].
    Network,
    /// Small file systems of the nodes' own.
    Disk,
}

struct Row {
    fault: Fault,
    name: &'static str,
    weight: u32,
    needs: Needs,
}

const fn row(fault: Fault, name: &'static str, weight: u32, needs: Needs) -> Row {
    Row { fault, name, weight, needs }
}

/// The table of faults, and of what people ask for in the middle of them.
const FAULTS: [Row; 28] = [
    row(Fault::KillPostmaster, "kill-postmaster", 4, Needs::Nothing),
    row(Fault::KillPostgres, "kill-postgres", 8, Needs::Nothing),
    row(Fault::FreezePostgres, "freeze-postgres", 6, Needs::Nothing),
    row(Fault::KillAgent, "kill-agent", 6, Needs::Nothing),
    row(Fault::FreezeAgent, "freeze-agent", 6, Needs::Nothing),
    row(Fault::KillNode, "kill-node", 8, Needs::Nothing),
    row(Fault::FreezeNode, "freeze-node", 6, Needs::Nothing),
    row(Fault::KillAll, "kill-all", 3, Needs::Nothing),
    row(Fault::KillAgentsMinority, "kill-agents-minority", 3, Needs::Nothing),
    row(Fault::KillAgentsMajority, "kill-agents-majority", 3, Needs::Nothing),
    row(Fault::Cut, "cut", 8, Needs::Network),
    row(Fault::CutIn, "cut-in", 6, Needs::Network),
    row(Fault::CutOut, "cut-out", 6, Needs::Network),
    row(Fault::CutClients, "cut-clients", 3, Needs::Network),
    row(Fault::CutPostgres, "cut-postgres", 5, Needs::Network),
    row(Fault::CutPeer, "cut-peer", 5, Needs::Network),
    row(Fault::Loss, "loss", 4, Needs::Network),
    row(Fault::Slow, "slow", 4, Needs::Network),
    row(Fault::FullDisk, "full-disk", 3, Needs::Disk),
    row(Fault::FullStoreDisk, "full-store-disk", 3, Needs::Disk),
    row(Fault::FullDisks, "full-disks", 4, Needs::Disk),
    row(Fault::FullStoreDisksMajority, "full-store-disks-majority", 2, Needs::Disk),
    row(Fault::LoseStore, "lose-store", 5, Needs::Nothing),
    row(Fault::Switchover, "switchover", 7, Needs::Nothing),
    row(Fault::Pause, "pause", 4, Needs::Nothing),
    row(Fault::Restart, "restart", 4, Needs::Nothing),
    row(Fault::Reinit, "reinit", 3, Needs::Nothing),
    row(Fault::RemoveMember, "remove-member", 5, Needs::Nothing),
];

impl Fault {
    fn row(self) -> &'static Row {
        FAULTS.iter().find(|row| row.fault == self).expect("every fault has a row")
    }

    pub fn named(name: &str) -> Option<Fault> {
        FAULTS.iter().find(|row| row.name == name).map(|row| row.fault)
    }

    pub fn names() -> Vec<&'static str> {
        FAULTS.iter().map(|row| row.name).collect()
    }

    pub fn needs(self) -> Needs {
        self.row().needs
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.row().name)
    }
}

/// Whom it hits; who that is shows when it begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    Primary,
    /// The nth node after the primary, from 1.
    Replica(usize),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Primary => f.pad("primary"),
            Target::Replica(number) => f.pad(&format!("replica {number}")),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    pub begin: Duration,
    pub end: Duration,
    pub fault: Fault,
    pub target: Target,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (begin, end) = (self.begin.as_secs_f64(), self.end.as_secs_f64());
        write!(f, "+{begin:6.1} s to +{end:6.1} s  {:<25}  {}", self.fault, self.target)
    }
}

/// Calm before the first fault.
const PRELUDE: u64 = 2_000;
/// How often a second fault overlaps the first.
const OVERLAP_PERCENT: u64 = 35;
/// How often the primary is hit.
const PRIMARY_PERCENT: u64 = 55;

/// Steps in the order of their beginning, all of which end before `length`.
pub fn draw(seed: u64, length: Duration, nodes: usize, only: &[Fault]) -> Vec<Step> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let length = length.as_millis() as u64;
    let mut steps = Vec::new();
    let mut at = PRELUDE;
    loop {
        let lasting = duration(&mut dice);
        if at + lasting > length {
            break;
        }
        steps.push(step(&mut dice, at, lasting, nodes, only));
        if dice.u64(..100) < OVERLAP_PERCENT {
            let (begin, lasting) = (at + dice.u64(..=lasting), duration(&mut dice));
            let also = step(&mut dice, begin, lasting.min(length.saturating_sub(begin)), nodes, only);
            at = at.max(begin);
            steps.push(also);
        }
        // Sometimes the next one comes before the cluster is whole again.
        at += lasting + dice.u64(300..6_000);
    }
    steps.sort_by_key(|step| step.begin);
    steps
}

/// Milliseconds: shorter than `failure_timeout`, around it, or well beyond.
fn duration(dice: &mut fastrand::Rng) -> u64 {
    match dice.u32(..4) {
        0 => dice.u64(200..1_500),
        1 => dice.u64(1_500..2_600),
        _ => dice.u64(2_600..8_000),
    }
}

fn step(dice: &mut fastrand::Rng, begin: u64, lasting: u64, nodes: usize, only: &[Fault]) -> Step {
    let weight = |row: &Row| if only.is_empty() || only.contains(&row.fault) { row.weight } else { 0 };
    let sum: u32 = FAULTS.iter().map(weight).sum();
    let mut drawn = dice.u32(..sum);
    let row = FAULTS.iter().find(|row| {
        let found = drawn < weight(row);
        drawn = drawn.saturating_sub(weight(row));
        found
    });
    let target = match dice.u64(..100) < PRIMARY_PERCENT {
        true => Target::Primary,
        false => Target::Replica(dice.usize(1..nodes)),
    };
    let end = Duration::from_millis(begin + lasting);
    let fault = row.expect("the weights' sum is above what was drawn").fault;
    Step { begin: Duration::from_millis(begin), end, fault, target }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_is_a_schedule() {
        let length = Duration::from_secs(600);
        let steps = draw(7, length, 3, &[]);
        assert_eq!(steps, draw(7, length, 3, &[]));
        assert_ne!(steps, draw(8, length, 3, &[]));
        assert!(steps.iter().all(|step| step.begin <= step.end && step.end <= length));
        assert!(steps.len() > 60, "{}", steps.len());
    }

    /// `xtask/src/check.rs` runs this one before every change; it was looked for among 400,000.
    #[test]
    fn the_schedule_of_every_check_has_something_of_everything() {
        let steps = draw(SEED, Duration::from_secs(60), 3, &[]);
        let kinds: BTreeSet<&str> = steps.iter().map(|step| step.fault.row().name).collect();
        assert!(kinds.len() >= 16, "{kinds:?}");
        let groups: [&[&str]; 7] = [
            &["kill-node", "kill-postgres"],
            &["cut", "cut-in", "cut-out"],
            &["full-disks"],
            &["lose-store"],
            &["switchover"],
            &["remove-member"],
            &["pause", "restart", "reinit"],
        ];
        for group in groups {
            assert!(group.iter().any(|name| kinds.contains(name)), "none of {group:?} in {kinds:?}");
        }
    }
    const SEED: u64 = 364_978;

    #[test]
    fn every_fault_is_drawn_and_only_those_asked_for() {
        let drawn: Vec<Fault> = (1..20)
            .flat_map(|seed| draw(seed, Duration::from_secs(600), 3, &[]))
            .map(|step| step.fault)
            .collect();
        for row in &FAULTS {
            assert!(drawn.contains(&row.fault), "{}", row.name);
            assert_eq!(Fault::named(row.name), Some(row.fault));
        }
        let only = [Fault::Cut, Fault::FullDisk];
        let drawn = draw(1, Duration::from_secs(600), 5, &only);
        assert!(drawn.iter().all(|step| only.contains(&step.fault)));
    }
}
