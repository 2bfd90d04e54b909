//! What a seed stands for: the cluster's shape, its temper, and the faults that will strike.

use std::collections::BTreeSet;

use brain::{NodeName, Settings, Tags};

use crate::dice::Dice;
use crate::requests::{self, Asked};

/// Which node a fault means when it strikes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// The recorded primary.
    Primary,
    /// A full node that is not the recorded primary, the given one in order.
    Replica(usize),
    Node(usize),
    /// The node whose decision set the fault off.
    Trigger,
    /// Another node than that, the given one in order.
    Peer(usize),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    KillPostgres,
    KillAgent,
    KillNode,
    FreezeAgent,
    /// The fencer beside the agent is dead too: nothing takes the server out of service (I2 needs no clock).
    FreezeAgentUnfenced,
    FreezePostgres,
    FreezeNode,
    /// One walsender of the target's server is stopped.
    FreezeSender,
    CutNode,
    CutPair,
    /// The target is heard by nobody, and hears all.
    Mute,
    /// The target hears nobody, and is heard by all.
    Deaf,
    OneWay,
    /// PostgreSQL's port to the target is closed, the peer link open (CHECKS B4).
    CutPort,
    /// The agents' port to the target is closed, PostgreSQL's open; drawn by no seed, used by scenarios.
    CutPeers,
    /// Two servers do not reach each other, their agents do; drawn by no seed, used by the crash steps.
    CutStream,
    /// Two agents do not reach each other; all else does.
    CutPeerLink,
    /// Agent, server and fencer stand still together, as a virtual machine that is paused; its clock may stand still too.
    PauseMachine,
    /// No space left on the device: WAL, the node's durable words, the store's log.
    FullDisk,
    /// The wall clock jumps.
    StepClock,
    KillAll,
    /// The target loses its data directory and its durable words.
    LoseDisk,
    /// The primary's disk loses its last writes in a power cut (CHECKS A9).
    GoBack,
    Loss,
    SlowNet,
    SlowDisk,
    /// Replay on the target is held up by a query (CHECKS B2).
    StickReplay,
}

/// With a weight each: what happens often in the field happens often here.
const KINDS: &[(Kind, u64)] = &[
    (Kind::KillPostgres, 12),
    (Kind::KillAgent, 10),
    (Kind::KillNode, 14),
    (Kind::FreezeAgent, 6),
    (Kind::FreezeAgentUnfenced, 6),
    (Kind::FreezePostgres, 8),
    (Kind::FreezeNode, 8),
    (Kind::FreezeSender, 6),
    (Kind::CutNode, 12),
    (Kind::CutPair, 8),
    (Kind::Mute, 4),
    (Kind::Deaf, 4),
    (Kind::OneWay, 6),
    (Kind::CutPort, 5),
    (Kind::KillAll, 3),
    (Kind::LoseDisk, 3),
    (Kind::GoBack, 2),
    (Kind::Loss, 4),
    (Kind::SlowNet, 4),
    (Kind::SlowDisk, 4),
    (Kind::StickReplay, 5),
    (Kind::CutPeerLink, 6),
    (Kind::PauseMachine, 6),
    (Kind::FullDisk, 5),
    (Kind::StepClock, 3),
];

/// Decisions at which a fault may strike: the narrow moments of the protocol.
const TRIGGERS: &[&str] = &[
    "promise.requested",
    "promote",
    "promote.promise",
    "promote.detach",
    "open.sync",
    "open.record",
    "open.wait",
    "renew",
    "admit",
    "sync.change",
    "fence.deposed",
    "takeover.revoke",
    "takeover.record",
    "rejoin.rewind",
    "rejoin.clone",
    "rejoin.promise",
    "follow",
    "detach",
    "start",
];

#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: Kind,
    pub target: Target,
    /// Strikes at this moment of the run, or, with a trigger, after the decision.
    pub at_us: u64,
    pub trigger: Option<&'static str>,
    pub lasts_us: u64,
    pub struck: bool,
    /// What it holds at present: node, and the peers concerned.
    pub active: Option<usize>,
    pub peer: usize,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub nodes: Vec<(NodeName, bool)>,
    pub settings: Settings,
    /// Without synchronous replication at first: what is acknowledged then may be lost.
    pub asynchronous: bool,
    pub faults: Vec<Fault>,
    /// When, after the first fault may strike, and what.
    pub requests: Vec<Asked>,
    /// Hand-overs that meet a transaction which is open for long, and stops that must be cut short, of a hundred each.
    pub busy_percent: u64,
    pub hang_percent: u64,
    /// One clock that runs faster than the drift margin allows: the node, and its rate in parts of ten thousand.
    pub drift: Option<(usize, u64)>,
    /// One fault that lasts, in a healthy cluster: writes must return although it does.
    pub single: bool,
    /// From the first open term to the first fault, and to the end of all faults.
    pub warm_us: u64,
    pub storm_us: u64,
    pub sender_timeout_us: u64,
    pub receiver_timeout_us: u64,
    /// An agent whose server hangs shows the last look, with growing ages; else it says that it does not answer.
    pub hung_is_stale: bool,
    /// What replication to each node takes longer, microseconds: who lags is behind when it matters.
    pub lag_us: Vec<u64>,
    /// What the operators have said of each node; with no word, none stands here.
    pub tags: Vec<Tags>,
    /// How many of a hundred store transactions are late, up to beyond their sender's patience.
    pub store_late_percent: u64,
    /// An agent may see its server as it was this long ago, microseconds.
    pub look_us: u64,
    /// The cluster that this one follows, or that people demote it to.
    pub origin: Option<crate::origin::Course>,
}

impl Plan {
    pub fn draw(dice: &mut Dice, people: bool) -> Plan {
        // Full nodes, witnesses, k; three nodes with k = 1 are what most people run.
        let shapes = [
            (3, 0, 1),
            (3, 0, 1),
            (3, 0, 1),
            (3, 0, 1),
            (3, 0, 2),
            (2, 1, 1),
            (4, 0, 1),
            (4, 0, 2),
            (5, 0, 1),
            (5, 0, 2),
            (1, 0, 1),
            (3, 0, 0),
        ];
        let (full, witnesses, k) = shapes[dice.index(shapes.len())];
        let name = |index: usize| NodeName(format!("n{}", index + 1));
        let nodes: Vec<(NodeName, bool)> = (0..full + witnesses).map(|i| (name(i), i < full)).collect();
        let settings = Settings {
            cluster: "sim".to_owned(),
            full: (0..full).map(name).collect(),
            voters: nodes.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>(),
            heartbeat_ms: 250,
            failure_timeout_ms: 2_000,
            drift_percent: 5,
            standbys: k,
            slot_gate: brain::SlotGate::Warn,
            on_last_standby_lost: if dice.percent(15) {
                brain::OnLastStandbyLost::Degrade
            } else {
                brain::OnLastStandbyLost::Block
            },
            drain_timeout_ms: 5_000,
            origin: None,
            maximum_lag_bytes: 1 << 20,
        };
        let single = dice.percent(15) && k > 0 && full > k + 1;
        let mut plan = Plan {
            nodes,
            asynchronous: settings.is_async(),
            settings,
            faults: Vec::new(),
            requests: Vec::new(),
            busy_percent: 25,
            hang_percent: 15,
            drift: None,
            single,
            warm_us: dice.millis(200..2_500),
            storm_us: if single { 14_000_000 } else { dice.millis(4_000..28_000) },
            sender_timeout_us: dice.millis(1_500..6_000),
            receiver_timeout_us: dice.millis(1_500..6_000),
            hung_is_stale: dice.percent(50),
            lag_us: Vec::new(),
            tags: Vec::new(),
            store_late_percent: if dice.percent(75) { 5 } else { 50 },
            look_us: if dice.percent(70) { 8_000 } else { dice.millis(20..300) },
            origin: None,
        };
        for _ in 0..plan.nodes.len() {
            let lag = if dice.percent(55) { 0 } else { dice.millis(3..250) };
            plan.lag_us.push(lag);
        }
        if dice.percent(5) {
            plan.drift = Some((dice.index(plan.nodes.len()), dice.within(600..3_000)));
        }
        if !single {
            plan.requests = requests::draw(dice, full, plan.storm_us);
        }
        let count = if single { 1 } else { 1 + dice.index(14) };
        for _ in 0..count {
            let fault = plan.draw_fault(dice);
            plan.faults.push(fault);
        }
        if people && !single {
            let mut people = dice.fork();
            let wishes = requests::wishes(&mut people, full, plan.storm_us);
            if !wishes.is_empty() {
                requests::aim(&mut people, &mut plan.faults);
            }
            plan.requests.extend(wishes);
            plan.tags = draw_tags(&mut people.fork(), &plan.nodes);
        }
        plan
    }

    fn draw_fault(&self, dice: &mut Dice) -> Fault {
        let kind = if self.single {
            let kinds = [Kind::KillPostgres, Kind::KillAgent, Kind::KillNode, Kind::FreezeAgent];
            let more = [Kind::FreezePostgres, Kind::FreezeNode, Kind::CutNode, Kind::KillNode];
            let mild = [Kind::CutPeerLink, Kind::StepClock, Kind::PauseMachine, Kind::FullDisk];
            [kinds, more, mild].concat()[dice.index(12)]
        } else {
            let total = KINDS.iter().map(|(_, weight)| weight).sum();
            let mut drawn = dice.within(0..total);
            let hit = |(_, weight): &&(Kind, u64)| {
                let found = drawn < *weight;
                drawn = drawn.saturating_sub(*weight);
                found
            };
            KINDS.iter().find(hit).map_or(Kind::KillNode, |(kind, _)| *kind)
        };
        let trigger = (!self.single && dice.percent(55)).then(|| TRIGGERS[dice.index(TRIGGERS.len())]);
        let target = match dice.within(0..100) {
            0..35 if trigger.is_some() => Target::Trigger,
            35..55 if trigger.is_some() => Target::Peer(dice.index(self.nodes.len())),
            0..60 => Target::Primary,
            60..85 => Target::Replica(dice.index(4)),
            _ => Target::Node(dice.index(self.nodes.len())),
        };
        let at_us = if trigger.is_some() { dice.within(0..40_000) } else { dice.within(0..self.storm_us) };
        // Around `failure_timeout` a fault ends just when others have begun to act on it.
        let lasts_us = match dice.within(0..10) {
            0..3 => dice.millis(10..300),
            3..5 => dice.millis(300..1_900),
            5..8 => dice.millis(1_900..3_500),
            _ => dice.millis(3_500..10_000),
        };
        let (at_us, lasts_us) = if self.single { (0, self.storm_us) } else { (at_us, lasts_us) };
        let peer = dice.index(self.nodes.len());
        Fault { kind, target, at_us, trigger, lasts_us, struck: false, active: None, peer }
    }

    /// What the node's tags say at first, and after all faults.
    pub fn tags(&self, node: usize) -> Tags {
        self.tags.get(node).cloned().unwrap_or_default()
    }

    /// One line for the head of a trace.
    pub fn line(&self) -> String {
        let full = self.nodes.iter().filter(|(_, full)| *full).count();
        let faults: Vec<String> = self
            .faults
            .iter()
            .map(|fault| {
                let when = fault.trigger.map_or_else(
                    || format!("+{:.1}s", fault.at_us as f64 / 1e6),
                    |rule| format!("at {rule}"),
                );
                format!("{:?} {:?} {when} for {:.1}s", fault.kind, fault.target, fault.lasts_us as f64 / 1e6)
            })
            .collect();
        let witnesses = self.nodes.len() - full;
        let single = if self.single { ", a single fault" } else { "" };
        let drift = self.drift.map_or_else(String::new, |(node, rate)| {
            format!(", the clock of n{} runs {:.0} % fast", node + 1, rate as f64 / 100.0)
        });
        let asked: Vec<String> = self
            .requests
            .iter()
            .map(|asked| {
                let when = asked.moment.map_or_else(
                    || format!("+{:.1}s", asked.at_us as f64 / 1e6),
                    |rule| format!("at {rule}"),
                );
                format!(", {:?} {when}", asked.request)
            })
            .collect();
        let asked = asked.concat();
        let told = |(node, tags): (usize, &Tags)| {
            let from = tags.replicatefrom.as_ref().map(|from| format!(", n{} from {from}", node + 1));
            from.into_iter()
                .chain(tags.clonefrom.then(|| format!(", copies from n{}", node + 1)))
                .collect::<String>()
        };
        let tags: String = self.tags.iter().enumerate().map(told).collect();
        let origin = self.origin.as_ref().map_or_else(String::new, |course| course.line());
        format!(
            "{full} full, {witnesses} witness, k={}{single}{drift}{tags}: {}{asked}{origin}",
            self.settings.standbys,
            faults.join(", ")
        )
    }
}

/// In seven of ten worlds some nodes take their WAL from another one by its name, whoever that is by then: the primary,
/// themselves, or each other in a circle as well. In three of ten copies are to come from one of them.
fn draw_tags(dice: &mut Dice, nodes: &[(NodeName, bool)]) -> Vec<Tags> {
    let full: Vec<&NodeName> = nodes.iter().filter(|(_, full)| *full).map(|(name, _)| name).collect();
    let cascades = if dice.percent(70) { 30 + dice.within(0..50) } else { 0 };
    let source = dice.percent(30).then(|| dice.index(full.len()));
    let tags = |(index, (_, is_full)): (usize, &(NodeName, bool))| {
        let from = full[dice.index(full.len())].clone();
        let cascades = dice.percent(cascades) && *is_full;
        Tags { replicatefrom: cascades.then_some(from), clonefrom: source == Some(index), ..Tags::default() }
    };
    nodes.iter().enumerate().map(tags).collect()
}
