//! The executors of `brain::Action`: each a list of steps that take time, and a crash may come between any two.
//!
//! What it is not: a decider. An executor refuses a term below the node's promise, finds done what is done, and gives
//! up at its deadline. Invariant: one operation at a time works on a server.

use std::rc::Rc;

use brain::{Action, Operation, Term};

use crate::event::Event;
use crate::sabotage::Sabotage;
use crate::server::Names;
use crate::trace::Detail;
use crate::world::World;

/// An operation gives up after this: the longest, a clone, takes some 2 s here.
pub const OPERATION_US_MAX: u64 = 12_000_000;
/// As many as a node takes before it gives up its copies.
const REWINDS_MAX: u32 = 12;
/// The step of a copy that has failed, and how long it takes.
const PAUSE: u8 = 99;
const PAUSE_US: u64 = 400_000;

#[derive(Debug)]
pub struct Op {
    id: u64,
    pub operation: Operation,
    action: Action,
    pub(crate) step: u8,
    pub started_us: u64,
    /// An index into the log, an epoch or a moment: what a step left for the next.
    pub(crate) mark: u64,
    pub(crate) mark_us: u64,
}

pub(crate) enum Next {
    /// Go on with this step after so many microseconds.
    Step(u8, u64),
    Done,
    Failed(&'static str),
}

fn operation_of(action: &Action) -> Option<(Operation, Term)> {
    Some(match action {
        Action::Commit(_) | Action::Promise { .. } | Action::Revoke { .. } => return None,
        Action::Checkpoint { .. } | Action::Reload { .. } | Action::GiveUp { .. } => return None,
        Action::Restart { .. } => (Operation::Stop, Term(u64::MAX)),
        Action::Initdb => (Operation::Initdb, Term(u64::MAX)),
        Action::StartDetached => (Operation::Start, Term(u64::MAX)),
        Action::Stop => (Operation::Stop, Term(u64::MAX)),
        Action::Detach { term } => (Operation::Detach, *term),
        Action::Follow { term, .. } | Action::Fetch { term, .. } => (Operation::Follow, *term),
        Action::Clone { term, .. } => (Operation::Clone, *term),
        Action::Rewind { term, .. } => (Operation::Rewind, *term),
        Action::TakeSlots { term, .. } => (Operation::TakeSlots, *term),
        Action::Promote { term, .. } => (Operation::Promote, *term),
        Action::Prepare { term } => (Operation::Prepare, *term),
        Action::ApplySync { term, .. } => (Operation::ApplySync, *term),
        Action::Quarantine { .. } => (Operation::Gate, Term(u64::MAX)),
        Action::Admit { term } => (Operation::Gate, *term),
        Action::Slots { term, .. } => (Operation::Slots, *term),
    })
}

impl World {
    pub fn execute(&mut self, node: usize, action: &Action) {
        match action {
            Action::Commit(commit) => return self.send_commit(node, commit),
            Action::Promise { term } => return self.start_promise(node, *term),
            Action::Checkpoint { request } => return self.begin_checkpoint(node, *request),
            // Now and then there is something in it that cannot be applied.
            Action::Reload { request } if request % 5 == 0 => {
                let why = || (*request, "its configuration is wrong".to_owned());
                return self.errand(node, |e| e.not_reloaded = Some(why()));
            }
            Action::Reload { request } => return self.errand(node, |e| e.reloaded = *request),
            Action::GiveUp { request } => {
                self.nodes[node].durable.give_up(*request);
                return self.obey(node, *request);
            }
            Action::Follow { node: upstream, .. } if upstream.is_origin() => {
                // The next look tells whom the receiver has found.
                if let Some(agent) = self.agent(node) {
                    agent.view.origin.sender = None;
                }
            }
            _ => {}
        }
        let Some((operation, term)) = operation_of(action) else { return };
        let (id, started_us) = (self.next_id(), self.now_us);
        let delay = self.dice.within(500..6_000);
        let stale = term < self.nodes[node].durable.promise;
        if stale && self.sabotage != Some(Sabotage::StaleAction) {
            return;
        }
        let Some(agent) = self.agent(node) else { return };
        if agent.op.is_some() {
            return;
        }
        let boot = agent.boot;
        let action = action.clone();
        if let Action::Restart { request } = action {
            self.obey(node, request);
        }
        let Some(agent) = self.agent(node) else { return };
        agent.op = Some(Op { id, operation, action, step: 0, started_us, mark: 0, mark_us: 0 });
        (agent.view.busy, agent.forgets_answer) = (Some(operation), true);
        self.after(delay, Event::OpStep { node, boot, id });
    }

    fn errand(&mut self, node: usize, done: impl Fn(&mut brain::Errands)) {
        if let Some(agent) = self.agent(node) {
            done(&mut agent.view.errands);
        }
    }

    /// The request is noted as obeyed, durably.
    fn obey(&mut self, node: usize, request: u64) {
        self.nodes[node].durable.obeyed = request;
        self.check_obeyed(node, request);
        let durable = self.nodes[node].durable.clone();
        if let Some(agent) = self.agent(node) {
            agent.view.durable = durable;
        }
    }

    /// The agent does nothing else until its words are on disk; a full disk refuses them at once.
    fn start_promise(&mut self, node: usize, term: Term) {
        let full = self.nodes[node].server.disk_full;
        let Some(agent) = self.agent(node) else { return };
        if agent.promising.is_some() || full {
            return;
        }
        agent.promising = Some(term);
        let boot = agent.boot;
        let delay = self.fsync(node);
        self.after(delay, Event::Promised { node, boot, term });
    }

    pub fn promised(&mut self, node: usize, term: Term) {
        let full = self.nodes[node].server.disk_full;
        if let Some(agent) = self.agent(node) {
            agent.promising = None;
        }
        if !full {
            let synced = self.sabotage != Some(Sabotage::PromiseVolatile);
            self.promise(node, term, synced);
            self.stepped(node, "promised");
        }
        self.turn(node);
        self.thaw(node);
    }

    /// The promise is on disk; with a sabotaged executor it only looks so.
    pub(crate) fn promise(&mut self, index: usize, term: Term, synced: bool) {
        let node = &mut self.nodes[index];
        node.durable.promise = node.durable.promise.max(term);
        if synced {
            node.promise_synced = node.durable.promise;
        }
        self.check_promise(index, term);
    }

    /// The durable words cannot be written, or a file of the server's.
    fn lacks_space(&self, node: usize, operation: Operation) -> bool {
        use Operation::{ApplySync, Clone, Follow, Initdb, Promote, Rewind, Start};
        let writes = matches!(operation, Initdb | Start | Follow | Clone | Rewind | Promote | ApplySync);
        writes && self.nodes[node].server.disk_full
    }

    pub fn op_step(&mut self, node: usize, id: u64) {
        let now = self.now_us;
        let Some(agent) = self.agent(node) else { return };
        let Some(mut op) = agent.op.take_if(|op| op.id == id) else { return };
        let boot = agent.boot;
        let late = now - op.started_us > OPERATION_US_MAX;
        let full = self.lacks_space(node, op.operation);
        let next = if op.step == PAUSE {
            Next::Failed("the source is not usable")
        } else if late {
            Next::Failed("its deadline has passed")
        } else if self.lacks_space(node, op.operation) {
            Next::Failed("no space left on the device")
        } else {
            self.advance(node, &mut op)
        };
        self.stepped(node, op.action.name());
        match next {
            Next::Step(step, delay) => {
                op.step = step;
                if let Some(agent) = self.agent(node) {
                    agent.op = Some(op);
                }
                self.after(delay, Event::OpStep { node, boot, id });
            }
            Next::Done => self.end_op(node, &op, "done"),
            Next::Failed(_)
                if op.step != PAUSE
                    && (full || matches!(op.operation, Operation::Clone | Operation::Rewind)) =>
            {
                // The source is asked again after a pause, not in a loop.
                op.step = PAUSE;
                if let Some(agent) = self.agent(node) {
                    agent.op = Some(op);
                }
                self.after(PAUSE_US, Event::OpStep { node, boot, id });
            }
            Next::Failed(reason) => self.end_op(node, &op, reason),
        }
    }

    fn end_op(&mut self, node: usize, op: &Op, how: &str) {
        self.note(Detail::Decisions, node, format_args!("  {} {how}", op.action.name()));
        if op.operation == Operation::Clone
            && let Some(agent) = self.agent(node)
        {
            agent.view.copies_failed = if how == "done" { 0 } else { agent.view.copies_failed + 1 };
        }
        if matches!(&op.action, Action::Rewind { node: source, .. } if source.is_origin()) {
            self.rewound(node, how == "done");
        }
        if let Some(agent) = self.agent(node) {
            agent.forgets_answer = true;
        }
        self.refresh(node);
        self.turn(node);
    }

    /// A rewind that fails this often in a row will not succeed: the data directory is to be copied anew.
    fn rewound(&mut self, node: usize, done: bool) {
        let Some(agent) = self.agent(node) else { return };
        agent.rewinds_failed = if done { 0 } else { agent.rewinds_failed + 1 };
        if agent.rewinds_failed >= REWINDS_MAX {
            agent.rewinds_failed = 0;
            self.nodes[node].durable.needs_clone = true;
        }
    }

    fn advance(&mut self, node: usize, op: &mut Op) -> Next {
        match op.action.clone() {
            Action::Initdb => self.do_initdb(node, op),
            Action::StartDetached => self.do_start(node, op),
            // The model has no slots: what others see of it is the stop, and the start that follows.
            Action::Stop | Action::Restart { .. } | Action::TakeSlots { .. } => self.do_stop(node, op),
            Action::Detach { term } => self.do_detach(node, op, term),
            Action::Follow { term, node: upstream } => self.do_follow(node, op, term, upstream, true),
            Action::Fetch { term, node: upstream } => self.do_follow(node, op, term, upstream, false),
            Action::Clone { term, node: source } => self.do_clone(node, op, term, &source),
            Action::Rewind { term, node: source } => self.do_rewind(node, op, term, &source),
            Action::Promote { term, timeline, set, .. } => {
                self.do_promote(node, op, term, timeline, Rc::new(Names { term, set }))
            }
            Action::Prepare { .. } => self.do_prepare(node),
            Action::ApplySync { term, set } => self.do_apply(node, op, Names { term, set }),
            Action::Quarantine { .. } => self.do_gate(node, op, true),
            Action::Admit { .. } => self.do_gate(node, op, false),
            Action::Slots { members, .. } => {
                self.nodes[node].server.slots = members;
                Next::Done
            }
            Action::Commit(_) | Action::Promise { .. } | Action::Revoke { .. } => Next::Done,
            Action::Checkpoint { .. } | Action::Reload { .. } | Action::GiveUp { .. } => Next::Done,
        }
    }
}
