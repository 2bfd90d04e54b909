//! What can happen, and to whom. Events name the run of the process they are for, so a restart drops them.

use std::rc::Rc;

use brain::{Commit, Grant, Millis, OriginReport, Postgres, Status, Term};
use wire::Timeline;

use crate::wal::Record;

#[derive(Debug)]
pub enum Event {
    // To an agent.
    Heartbeat {
        node: usize,
        boot: u64,
    },
    /// The agent looks at its server.
    Observe {
        node: usize,
        boot: u64,
    },
    /// What it saw arrives in its view.
    Observed {
        node: usize,
        boot: u64,
        taken_us: u64,
        /// The same moment by the node's own clock.
        taken: Millis,
        postgres: Box<Postgres>,
    },
    Probe {
        node: usize,
        boot: u64,
    },
    Status {
        node: usize,
        status: Rc<Status>,
    },
    Grant {
        node: usize,
        grant: Grant,
    },
    OpStep {
        node: usize,
        boot: u64,
        id: u64,
    },
    Promised {
        node: usize,
        boot: u64,
        term: Term,
    },
    StoreAnswer {
        node: usize,
        boot: u64,
        id: u64,
    },
    StoreSeen {
        node: usize,
        boot: u64,
        revision: usize,
    },
    /// A checkpoint that was asked for has ended.
    Checkpointed {
        node: usize,
        boot: u64,
        request: u64,
    },
    /// The cluster's settings, or the node's tags, have changed.
    Settings {
        node: usize,
    },
    /// It is seen whether a look at the origin is due.
    OriginTick {
        node: usize,
        boot: u64,
    },
    /// The origin's hosts are asked, in a look that began then.
    OriginAsked {
        node: usize,
        boot: u64,
        begun: Millis,
    },
    OriginSeen {
        node: usize,
        boot: u64,
        report: Box<OriginReport>,
    },
    // To a server.
    Ready {
        node: usize,
        epoch: u64,
    },
    Complete {
        node: usize,
        epoch: u64,
    },
    Flush {
        node: usize,
        epoch: u64,
        upto: usize,
    },
    Connect {
        node: usize,
        epoch: u64,
        connection: u64,
    },
    Pump {
        node: usize,
        epoch: u64,
        connection: u64,
    },
    Arrive {
        node: usize,
        epoch: u64,
        connection: u64,
        from: usize,
        records: Vec<Record>,
    },
    Reply {
        node: usize,
        epoch: u64,
        connection: u64,
        flush: usize,
    },
    ReceiverDies {
        node: usize,
        epoch: u64,
        connection: u64,
    },
    SenderDies {
        node: usize,
        epoch: u64,
        connection: u64,
    },
    Reload {
        node: usize,
        epoch: u64,
    },
    Promoted {
        node: usize,
        epoch: u64,
        term: Term,
        timeline: Timeline,
    },
    /// The checkpointer has read that k is above 0, or is 0.
    SyncDefined {
        node: usize,
        epoch: u64,
    },
    // To nobody who can die.
    House {
        node: usize,
    },
    Client {
        node: usize,
    },
    AgentStart {
        node: usize,
    },
    /// The fencer's timer.
    Fence {
        node: usize,
    },
    Request {
        index: usize,
    },
    StoreArrive {
        node: usize,
        boot: u64,
        id: u64,
        commit: Rc<Commit>,
    },
    Fault {
        index: usize,
    },
    Heal {
        index: usize,
    },
    HealAll,
    /// The primary of the origin writes.
    OriginWrites,
    OriginAppears,
    OriginStruck {
        index: usize,
    },
    OriginHealed {
        index: usize,
    },
    Check,
}

pub enum Recipient {
    /// Some run of the node's agent; `None` whichever runs.
    Agent(usize, Option<u64>),
    Server(usize, u64),
    World,
}

impl Event {
    pub fn recipient(&self) -> Recipient {
        use Event::*;
        match self {
            Heartbeat { node, boot }
            | Observe { node, boot }
            | Observed { node, boot, .. }
            | Probe { node, boot }
            | OpStep { node, boot, .. }
            | Promised { node, boot, .. }
            | Checkpointed { node, boot, .. }
            | StoreAnswer { node, boot, .. }
            | OriginTick { node, boot }
            | OriginAsked { node, boot, .. }
            | OriginSeen { node, boot, .. }
            | StoreSeen { node, boot, .. } => Recipient::Agent(*node, Some(*boot)),
            Status { node, .. } | Grant { node, .. } | Settings { node } => Recipient::Agent(*node, None),
            Ready { node, epoch }
            | Complete { node, epoch }
            | Flush { node, epoch, .. }
            | Connect { node, epoch, .. }
            | Pump { node, epoch, .. }
            | Arrive { node, epoch, .. }
            | Reply { node, epoch, .. }
            | ReceiverDies { node, epoch, .. }
            | SenderDies { node, epoch, .. }
            | Reload { node, epoch }
            | Promoted { node, epoch, .. }
            | SyncDefined { node, epoch, .. } => Recipient::Server(*node, *epoch),
            House { .. }
            | Client { .. }
            | AgentStart { .. }
            | Fence { .. }
            | Request { .. }
            | StoreArrive { .. }
            | Fault { .. }
            | Heal { .. }
            | HealAll
            | OriginWrites
            | OriginAppears
            | OriginStruck { .. }
            | OriginHealed { .. }
            | Check => Recipient::World,
        }
    }
}
