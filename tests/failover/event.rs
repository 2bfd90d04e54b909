//! What happens to a cluster while its writes are timed.

use tests::network::{Cut, HUB, address};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    PostgresKilled,
    NodeKilled,
    NodeFrozen,
    CutBoth,
    CutFrom,
    CutTo,
    Switchover,
    MinorityLost,
    AgentKilled,
}

impl Event {
    pub const ALL: [Event; 9] = [
        Event::PostgresKilled,
        Event::NodeKilled,
        Event::NodeFrozen,
        Event::CutBoth,
        Event::CutFrom,
        Event::CutTo,
        Event::Switchover,
        Event::MinorityLost,
        Event::AgentKilled,
    ];

    /// On the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Event::PostgresKilled => "postgres-killed",
            Event::NodeKilled => "node-killed",
            Event::NodeFrozen => "node-frozen",
            Event::CutBoth => "cut-both",
            Event::CutFrom => "cut-from",
            Event::CutTo => "cut-to",
            Event::Switchover => "switchover",
            Event::MinorityLost => "minority-lost",
            Event::AgentKilled => "agent-killed",
        }
    }

    pub fn what(self) -> &'static str {
        match self {
            Event::PostgresKilled => "the primary's postmaster gets SIGKILL",
            Event::NodeKilled => "every process of the primary's node gets SIGKILL at once",
            Event::NodeFrozen => {
                "every process of the primary's node gets SIGSTOP; SIGCONT once writes flow again"
            }
            Event::CutBoth => "no packet between the primary's node and anybody",
            Event::CutFrom => "no packet of the primary's node arrives at another node",
            Event::CutTo => "no packet of another node arrives at the primary's node",
            Event::Switchover => "a planned switchover under pgbench -c 8",
            Event::MinorityLost => "the agent of a node that is not the primary gets SIGKILL",
            Event::AgentKilled => "the primary's agent gets SIGKILL and is started again at once",
        }
    }

    /// The primary is another one afterwards, however long that takes; else there is nothing to wait for.
    pub fn moves_primary(self) -> bool {
        !matches!(self, Event::MinorityLost | Event::AgentKilled)
    }

    /// Asked of every system in a comparison; the rest have no counterpart there.
    pub fn is_compared(self) -> bool {
        matches!(self, Event::PostgresKilled | Event::NodeKilled | Event::NodeFrozen | Event::Switchover)
    }

    pub fn needs_network(self) -> bool {
        matches!(self, Event::CutBoth | Event::CutFrom | Event::CutTo)
    }

    /// The packets that do not arrive when `primary` is hit.
    pub fn cuts(self, primary: usize, nodes: usize) -> Vec<Cut> {
        let others = || (0..nodes).filter(move |&index| index != primary);
        let from = others().map(|at| Cut::all(address(primary), at));
        let to = others().map(|other| Cut::all(address(other), primary));
        match self {
            Event::CutBoth => from.chain(to).chain([Cut::all(HUB, primary)]).collect(),
            Event::CutFrom => from.collect(),
            Event::CutTo => to.collect(),
            _ => Vec::new(),
        }
    }
}
