//! What systemd is told of this node, where systemd has started it (`packaging/pgherd.service`): that it runs, that it stops,
//! and which process is the main one after a relaunch. Elsewhere nobody is told, and nothing is different.
//!
//! Not the place to keep the manager's socket from other programs: whoever starts one takes [`SOCKET`] out of its environment.
//! PostgreSQL tells systemd of its own stops, which would be taken for the node's.

use sd_notify::NotifyState;

/// The variable by which a process finds systemd.
pub const SOCKET: &str = "NOTIFY_SOCKET";

/// This process runs the node.
pub fn runs(cluster: &str, node: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("node {node} of cluster {cluster}"))]);
}

/// This process ends; PostgreSQL goes on.
pub fn stops() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping; PostgreSQL goes on")]);
}

/// The process `pid` runs the node from now on, and this one has only sessions left.
pub fn succeeded_by(pid: u32, sessions: usize) {
    let status = match sessions {
        0 => format!("process {pid} since a relaunch"),
        _ => format!("process {pid} since a relaunch; the one before it had {sessions} sessions then"),
    };
    tell(&[NotifyState::MainPid(pid), NotifyState::Status(&status)]);
}

/// This process is the main one again, for the moment that it still lives. systemd sees only its own children end: so it learns of
/// the end of a process that had taken over from this one, and starts the node anew.
pub fn ends_for_its_successor() {
    tell(&[NotifyState::MainPid(std::process::id())]);
}

fn tell(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}
