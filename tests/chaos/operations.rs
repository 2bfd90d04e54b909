//! What people ask of a cluster in the middle of faults: `pgherd` commands, and what became of them.
//!
//! A command is asked on a node's own machine, as the API wants it, and nobody waits for it: at the end of its step it
//! is over or left to itself. Invariant: a refusal is an answer. Only at the end of a run must everything that was taken
//! have ended.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tests::cluster::{Node, program};
use tests::network::Network;
use tests::status;
use tests::wait::wait_at_most;

use crate::schedule::{Fault, Target};

/// A pause that nobody ends outlasts its step by this.
const PAUSE_MORE: Duration = Duration::from_secs(5);
/// The longest that a change of the members waits for an answer, and a moment for the process.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// A command on its way.
pub struct Asked {
    child: Child,
    line: String,
}

/// The command that a step begins with; none for what is no request. `node` is whom it hits.
pub fn begun_by(fault: Fault, target: Target, node: &Node, lasting: Duration) -> Option<Vec<String>> {
    let words: &[&str] = match (fault, target) {
        (Fault::Switchover, Target::Primary) => &["switchover"],
        (Fault::Switchover, Target::Replica(_)) => &["switchover", "--to", &node.name],
        (Fault::Pause, _) => {
            let seconds = (lasting + PAUSE_MORE).as_secs();
            return Some(vec!["pause".into(), "--for".into(), format!("{seconds}s")]);
        }
        (Fault::Restart, _) => &["restart", &node.name],
        (Fault::Reinit, _) => &["reinit", &node.name],
        (Fault::RemoveMember, _) => &["member", "remove", &node.name],
        _ => return None,
    };
    Some(words.iter().map(|word| (*word).to_owned()).collect())
}

/// The command that a step ends with.
pub fn ended_by(fault: Fault, node: &Node) -> Option<Vec<String>> {
    match fault {
        Fault::Pause => Some(vec!["resume".into()]),
        Fault::RemoveMember => Some(added(node)),
        _ => None,
    }
}

/// Adds a node that was removed, as it was.
pub fn added(node: &Node) -> Vec<String> {
    let at = |port: u16| format!("{}:{port}", node.host);
    let (peer, postgres) = (at(node.peer), at(node.postgres));
    ["member", "add", &node.name, "--peer", &peer, "--postgres", &postgres].map(str::to_owned).to_vec()
}

/// Asks on the machine of `at`.
pub fn ask(at: &Node, arguments: &[String]) -> Result<Asked> {
    let mut command = match at.namespaced {
        true => Network::command(at, &program()),
        false => Command::new(program()),
    };
    command
        .args(arguments)
        .args(["--url", &format!("http://127.0.0.1:{}", at.http)])
        .env_remove("PGHERD_URL");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().context("pgherd starts")?;
    Ok(Asked { child, line: format!("pgherd {} on {}", arguments.join(" "), at.name) })
}

impl Asked {
    /// Waits for an answer that comes at once or not at all.
    pub fn answered(mut self) -> Result<String> {
        wait_at_most(ANSWER_TIMEOUT, || self.child.try_wait().ok().flatten());
        self.outcome()
    }

    /// Its last words, whether it has ended or not.
    pub fn outcome(mut self) -> Result<String> {
        let ended = self.child.try_wait()?;
        // What was taken goes on without being watched.
        self.child.kill().context("end the command")?;
        let output = self.child.wait_with_output()?;
        let (out, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let words: Vec<&str> = errors.lines().chain(out.lines().last()).map(str::trim).collect();
        let end = match ended.map(|status| status.code()) {
            Some(Some(0)) => "done".to_owned(),
            Some(code) => {
                format!("exit code {}", code.map_or_else(|| "none".to_owned(), |code| code.to_string()))
            }
            None => "goes on".to_owned(),
        };
        Ok(format!("{}: {end}: {}", self.line, words.join(" ")))
    }
}

/// What keeps the store from being whole, each node asked about itself and the others; `None` when all vote.
///
/// A directory that is new votes only under a seat that its own store knows, so its node's word counts most.
pub fn store_lacks(nodes: &[Node]) -> Option<String> {
    nodes.iter().find_map(|node| {
        let told = match status::members_at(&node.host, node.http) {
            Some(members) => members.missing(nodes.len()),
            None => Some("no answer".to_owned()),
        };
        told.map(|what| format!("{}: {what}", node.name))
    })
}

/// What people asked for and has not ended, or is not known; `None` when everything has.
pub fn unfinished(nodes: &[Node]) -> Option<String> {
    nodes.iter().find_map(|node| {
        let name = &node.name;
        let Some(requests) = status::requests_at(&node.host, node.http) else {
            return Some(format!("{name} does not answer"));
        };
        if let Some(open) = requests.iter().find(|request| !request.has_ended()) {
            return Some(format!("on {name} request {} is {}: {}", open.id, open.stage, open.note));
        }
        let paused = status::ask_at(&node.host, node.http).and_then(|status| status.paused_until);
        paused.map(|until| format!("{name} says that the cluster is paused until {until}"))
    })
}
