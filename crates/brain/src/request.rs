//! What people ask of the cluster, and how far it has come: `/requests` in the store.
//!
//! What it is: the records, and what may be read off them. What it is not: their execution; the rules of
//! `rules/request.rs` drive each request by what the store, the server and the peers show, so a driver that dies is
//! replaced by whoever knows the same.
//! Invariant: a stage only moves forward, each move is one transaction on the condition that `/requests` and
//! `/primary` are as they were read, and every request ends in `Done` or `Failed` with a sentence.

use serde::{Deserialize, Serialize};

use crate::{Action, Commit, Key, NodeName, Put, Term, View};

/// Requests kept in the store, finished ones included; older ones are in the nodes' events.
pub const REQUESTS_KEPT: usize = 32;

/// How long a checkpoint ahead of a switchover may take: shared buffers of a large server on a slow disk.
pub const PREPARE_MS_MAX: u64 = 300_000;

/// A recorded step towards the server's stop that is older than this was not followed by it: a fast stop takes at
/// most 5 s, an immediate one a moment.
pub const STOP_MS_MAX: u64 = 20_000;

/// What a takeover may add to a hold: the stop, and a takeover within the bounds of DESIGN 8.
pub const TAKEOVER_MS_MAX: u64 = 10_000;

/// A node that does not take up its request within this is not there.
pub const ANSWER_MS_MAX: u64 = 60_000;

/// A replica's restart: a stop with its restartpoint, a start, and the way back to the stream.
pub const RESTART_MS_MAX: u64 = 900_000;

/// A reload replaces the node's process where its settings want that: it lets go of everything, and the new one starts.
pub const RELOAD_MS_MAX: u64 = 180_000;

/// Before its turn comes, behind those of the other nodes.
pub const RELOAD_WAIT_MS_MAX: u64 = 600_000;

/// A server that does not run after this was tried to be started, and does not start.
pub const START_MS_MIN: u64 = 3_000;

/// A copy of a large database takes hours; seven days is the copy's own deadline.
pub const REINIT_MS_MAX: u64 = 7 * 24 * 3_600_000;

/// What is wanted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Ask {
    /// Another node becomes primary, without errors for clients.
    Switchover {
        /// `None`: the best candidate.
        to: Option<NodeName>,
        /// Not before this second of the wall clock.
        #[serde(default)]
        at: Option<u64>,
        /// End transactions that do not end by themselves within the drain timeout.
        #[serde(default)]
        force: bool,
    },
    /// `to` becomes primary with what it has, although too few members answer.
    Failover { to: NodeName },
    /// PostgreSQL of `node` stops and starts; a primary hands over to itself.
    Restart {
        node: NodeName,
        /// Also when commits have to wait meanwhile, or transactions are cut.
        #[serde(default)]
        force: bool,
    },
    /// `node` reads its configuration, its file and what the store has for all nodes, and applies what needs no restart of
    /// PostgreSQL.
    Reload {
        node: NodeName,
        /// Only once this request is done; when it failed, this one does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
    },
    /// `node` copies its data directory anew.
    Reinit { node: NodeName },
    /// A standby cluster follows its origin no more and takes writes.
    Promote {
        /// Also when the origin answers: two clusters may take writes.
        #[serde(default)]
        force: bool,
    },
    /// The cluster takes no more writes and follows another one.
    Demote {
        /// `host:port` of the PostgreSQL of each of the other cluster's nodes.
        hosts: Vec<String>,
        #[serde(default)]
        slot: Option<String>,
    },
}

impl Ask {
    /// The one node whose server it concerns; `None` when it is a matter of the cluster.
    pub fn node(&self) -> Option<&NodeName> {
        match self {
            Ask::Restart { node, .. } | Ask::Reload { node, .. } | Ask::Reinit { node } => Some(node),
            Ask::Switchover { .. } | Ask::Failover { .. } | Ask::Promote { .. } | Ask::Demote { .. } => None,
        }
    }

    fn hands_over(&self) -> bool {
        !matches!(self, Ask::Reload { .. } | Ask::Reinit { .. })
    }

    /// It waits for a time that has not come.
    fn is_scheduled(&self, now_s: u64) -> bool {
        matches!(self, Ask::Switchover { at: Some(at), .. } if *at > now_s)
    }
}

/// How far it has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Nobody has begun; a scheduled one waits for its time here.
    Waiting,
    /// Checked; a checkpoint is made ahead.
    Preparing,
    /// The proxies hold new transactions; running ones end.
    Holding,
    /// The primary is stopped: from here on a takeover decides.
    Stopping,
    /// The node is at it.
    Running,
    Done,
    Failed,
}

impl Stage {
    pub fn is_final(self) -> bool {
        matches!(self, Stage::Done | Stage::Failed)
    }

    pub fn word(self) -> &'static str {
        match self {
            Stage::Waiting => "waiting",
            Stage::Preparing => "preparing",
            Stage::Holding => "holding",
            Stage::Stopping => "stopping",
            Stage::Running => "running",
            Stage::Done => "done",
            Stage::Failed => "failed",
        }
    }
}

/// One request. Its id is the operation id that its author was given.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    pub id: u64,
    pub ask: Ask,
    pub stage: Stage,
    /// The recorded term when the stage was written.
    pub term: Term,
    /// Wall-clock second of the asking, for people.
    pub asked_at: u64,
    /// The last word on it, for people.
    #[serde(default)]
    pub note: String,
}

/// `/requests`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Requests {
    pub last_id: u64,
    /// Maintenance: until this second of the wall clock nothing is started, taken over or rebuilt by itself.
    #[serde(default)]
    pub paused_until: Option<u64>,
    /// Oldest first.
    pub list: Vec<Request>,
}

impl Requests {
    /// Adds a request and forgets the oldest finished ones above the limit; answers with its id.
    pub fn add(&mut self, ask: Ask, term: Term, asked_at: u64) -> u64 {
        self.last_id += 1;
        let id = self.last_id;
        self.list.push(Request { id, ask, stage: Stage::Waiting, term, asked_at, note: String::new() });
        while self.list.len() > REQUESTS_KEPT {
            let Some(oldest) = self.list.iter().position(|request| request.stage.is_final()) else { break };
            self.list.remove(oldest);
        }
        id
    }

    pub fn active(&self) -> impl Iterator<Item = &Request> {
        self.list.iter().filter(|request| !request.stage.is_final())
    }

    /// What is under way and stands against `ask`: one hand-over at a time, one request of a kind for a node. One that is
    /// scheduled stands against others that are, and against nothing else.
    pub fn against(&self, ask: &Ask, now_s: u64, is_standby_cluster: bool) -> Option<&Request> {
        let against = |other: &&Request| {
            // The demotion has happened, and waits for an origin that may be lost by now.
            let demoted = is_standby_cluster && matches!(other.ask, Ask::Demote { .. });
            if demoted && matches!(ask, Ask::Promote { .. }) {
                return false;
            }
            let same_kind = std::mem::discriminant(&other.ask) == std::mem::discriminant(ask);
            other.ask.is_scheduled(now_s) == ask.is_scheduled(now_s)
                && (other.ask.hands_over() && ask.hands_over() || same_kind && other.ask.node() == ask.node())
        };
        self.active().find(against)
    }

    /// With everything ended that was asked of `node`, which belongs to the cluster no more: were it to come back, nobody
    /// would expect it to obey. `None`: nothing was.
    pub(crate) fn without(&self, node: &NodeName) -> Option<Requests> {
        let mut rest = self.clone();
        let of_node = |request: &&mut Request| !request.stage.is_final() && request.ask.node() == Some(node);
        for request in rest.list.iter_mut().filter(of_node) {
            (request.stage, request.note) = (Stage::Failed, no_more(node));
        }
        (rest != *self).then_some(rest)
    }
}

impl Request {
    /// The node that is to be primary at the end; `None` when this request does not hand over.
    pub fn successor(&self) -> Option<&NodeName> {
        match &self.ask {
            Ask::Switchover { to, .. } => to.as_ref(),
            Ask::Restart { node, .. } if self.stage >= Stage::Preparing && self.stage != Stage::Running => {
                Some(node)
            }
            _ => None,
        }
    }

    /// Sessions that do not come to a transaction's end in time are cut.
    pub fn is_forced(&self) -> bool {
        matches!(self.ask, Ask::Switchover { force: true, .. } | Ask::Restart { force: true, .. })
    }
}

/// Why what was asked of a node has ended.
pub(crate) fn no_more(node: &NodeName) -> String {
    format!("{node} belongs to the cluster no more")
}

/// A hold: proxies park sessions at transaction boundaries, for so long at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    pub request: u64,
    pub left_ms: u64,
}

impl View {
    pub fn requests(&self) -> impl Iterator<Item = &Request> {
        self.store.requests.iter().flat_map(|requests| requests.value.active())
    }

    /// It is remembered, and failed.
    pub(crate) fn failed_request(&self, id: u64) -> bool {
        let mut list = self.store.requests.iter().flat_map(|requests| &requests.value.list);
        list.any(|request| request.id == id && request.stage == Stage::Failed)
    }

    /// The request that is handing the primaryship over, in the recorded term.
    pub fn handing(&self) -> Option<&Request> {
        let term = self.record()?.term;
        self.requests().find(|request| request.stage == Stage::Stopping && request.term == term)
    }

    /// This node was stopped as primary to be started again, and is being promoted for that.
    pub(crate) fn restarts_in_place(&self) -> bool {
        let asked = |request: &Request| matches!(&request.ask, Ask::Restart { node, .. } if *node == self.me);
        self.requests().any(|request| request.stage == Stage::Stopping && asked(request))
    }

    /// What this node's proxy holds sessions for. It ends by itself, counted from when this node saw it begin.
    pub fn hold(&self) -> Option<Hold> {
        let held = |request: &&Request| matches!(request.stage, Stage::Holding | Stage::Stopping);
        let request = self.requests().find(held)?;
        let budget_ms = self.settings.drain_timeout_ms + TAKEOVER_MS_MAX;
        let left_ms = budget_ms.checked_sub(self.memory.hold_age_ms(self.now, request.id)?)?;
        (left_ms > 0).then_some(Hold { request: request.id, left_ms })
    }

    /// Maintenance: nothing is started, taken over or rebuilt by itself.
    pub fn paused(&self) -> bool {
        let until = self.store.requests.as_ref().and_then(|requests| requests.value.paused_until);
        until.is_some_and(|until| self.wall_s < until)
    }

    /// The request of this kind that concerns this node's server.
    pub(crate) fn asked_here(&self, of_kind: impl Fn(&Ask) -> bool) -> Option<&Request> {
        self.requests().find(|request| of_kind(&request.ask) && request.ask.node() == Some(&self.me))
    }
}

/// The transaction that moves request `id` on; `None` when it is not there any more.
pub(crate) fn moved(view: &View, id: u64, stage: Stage, note: String) -> Option<Action> {
    changed(view, id, |request| (request.stage, request.note) = (stage, note))
}

pub(crate) fn changed(view: &View, id: u64, change: impl FnOnce(&mut Request)) -> Option<Action> {
    let stored = view.store.requests.as_ref()?;
    let record = view.store.primary.as_ref()?;
    let mut requests = stored.value.clone();
    let request = requests.list.iter_mut().find(|request| request.id == id)?;
    change(request);
    request.term = record.value.term;
    Some(Action::Commit(Commit {
        conditions: vec![(Key::Primary, record.version), (Key::Requests, stored.version)],
        puts: vec![Put::Requests(requests)],
    }))
}
