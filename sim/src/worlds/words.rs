//! Steps and broken laws in words, for people who read a trace.

use std::fmt;

use super::act::Act;
use super::laws::Broken;
use super::moves::Step;
use super::state::{Names, Set, Write};

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let member = |id: u8| format!("n{}{}", id / 2, if id % 2 == 1 { "'" } else { "" });
        let members: Vec<String> = (0..10).filter(|id| self.has(*id)).map(member).collect();
        write!(f, "ANY {} ({})", self.k, members.join(", "))
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of term {}", self.set, self.term)
    }
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let primary = format!("/primary = (term {}, n{}, timeline {})", self.term, self.node, self.timeline);
        let sync = format!("/sync = (term {}, {})", self.sync_term, self.set);
        match (self.puts_primary, self.puts_sync) {
            (true, true) => write!(f, "{primary} and {sync}"),
            (true, false) => write!(f, "{primary}"),
            _ => write!(f, "{sync}"),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Write(write) => write!(f, "writes {write}"),
            Act::Promise(term) => write!(f, "promises term {term}"),
            Act::Revoke(term) => write!(f, "asks for promises of term {term}"),
            Act::Start => write!(f, "starts its server as a standby of nobody"),
            Act::Stop => write!(f, "stops its server"),
            Act::Detach(_) => write!(f, "detaches its server"),
            Act::Follow(term, node) => write!(f, "follows n{node}, term {term}"),
            Act::Fetch(term, node) => write!(f, "fetches from n{node}, term {term}"),
            Act::Clone(_, node) => write!(f, "copies n{node}"),
            Act::Rewind(_, node) => write!(f, "rewinds to n{node}"),
            Act::Promote(term, timeline, set) => {
                write!(f, "promotes its server as term {term} onto timeline {timeline} with {set}")
            }
            Act::Apply(term, set) => write!(f, "applies {set} of term {term}"),
            Act::Admit => write!(f, "admits clients"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Decides(node, rule, act) => write!(f, "n{node} {act}  [{rule}]"),
            Step::SendsLate(node, rule, write) => {
                write!(f, "n{node} sends {write}, which stays on its way  [{rule}]")
            }
            Step::WriteArrives(write) => write!(f, "the write of {write} arrives"),
            Step::Appends(node) => write!(f, "n{node} writes a commit"),
            Step::Connects(node) => write!(f, "n{node} connects to its host"),
            Step::LosesConnection(node) => write!(f, "n{node} loses its connection"),
            Step::WalsenderEnds(host, node) => write!(f, "n{host}'s walsender for n{node} ends"),
            Step::Streams(node) => write!(f, "n{node} flushes all that its host has"),
            Step::Fetches(node) => write!(f, "n{node} has fetched all that its source has"),
            Step::WalsenderRereads(host, node) => {
                write!(f, "n{host}'s walsender for n{node} reads the configuration")
            }
            Step::InForce(node) => write!(f, "n{node} finds its set in force"),
            Step::ReadsStore(node) => write!(f, "n{node} reads the store"),
            Step::StartupHasRead(node) => write!(f, "n{node}'s startup has read all of its WAL"),
            Step::ServerCrashes(node) => write!(f, "n{node}'s server crashes"),
            Step::AgentRestarts(node) => write!(f, "n{node}'s agent restarts"),
            Step::DiskLost(node) => write!(f, "n{node} loses its disk"),
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Lost { acknowledged, missing_in } => write!(
                f,
                "I2: what promotion {acknowledged} acknowledged is not in the log of promotion {missing_in}"
            ),
            Broken::Overwritten { node } => write!(f, "I2: WAL on n{node} was overwritten by other WAL"),
            Broken::NotCovered { primary } => {
                write!(f, "/sync does not describe what n{primary} may acknowledge by")
            }
        }
    }
}
