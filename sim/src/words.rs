//! Actions and records in one line each, for traces.

use std::fmt::Write;

use brain::{Action, Commit, Put};

/// One action as a trace shows it.
pub fn action(action: &Action) -> String {
    match action {
        Action::Commit(commit) => format!("commit{}", puts(commit)),
        Action::Promise { term } => format!("promise t{term}"),
        Action::Revoke { term } => format!("revoke t{term}"),
        Action::Follow { term, node } => format!("follow {node} t{term}"),
        Action::Clone { term, node } => format!("clone from {node} t{term}"),
        Action::Rewind { term, node } => format!("rewind to {node} t{term}"),
        Action::Promote { term, timeline, set, .. } => format!("promote t{term} timeline {timeline}, {set}"),
        Action::ApplySync { term, set } => format!("apply-sync t{term}, {set}"),
        other => other.name().to_owned(),
    }
}

/// What a transaction writes.
pub fn puts(commit: &Commit) -> String {
    let mut text = String::new();
    for put in &commit.puts {
        // Writing to a String cannot fail.
        let _ = match put {
            Put::Cluster(cluster) => write!(text, " /cluster={}", cluster.claimed_by),
            Put::Primary(p) => {
                write!(
                    text,
                    " /primary=(t{} {} timeline {} from {})",
                    p.term, p.member, p.timeline, p.from.lsn
                )
            }
            Put::Sync(sync) => write!(text, " /sync=(t{} {}, {})", sync.term, sync.primary, sync.set),
            Put::Members(members) => write!(text, " /members({})", members.nodes.len()),
            Put::Timelines(timelines) => write!(text, " /timelines({})", timelines.len()),
            Put::Requests(requests) => write!(text, " /requests({})", requests.list.len()),
            Put::Origin(origin) => write!(text, " /origin({})", origin.hosts.join(" ")),
        };
    }
    text
}
