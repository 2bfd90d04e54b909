//! Tells a program of the user's what happens here: `[hooks]`.
//!
//! It is called as Patroni calls its callbacks, so that scripts written for these go on working: `PROGRAM on_role_change ROLE CLUSTER`
//! when this node becomes the open primary (`primary`) or is it no more (`replica`), and once when the agent begins;
//! `PROGRAM on_event RULE CLUSTER` for the events that are wanted. A JSON document is on its standard input.
//!
//! What it is not: a part of any decision; pgherd waits for no hook and asks none. Invariants: one call at a time, each with a
//! deadline; roles are told before events, and a role that has passed meanwhile is not told; what a hook does brings no hook.

use std::future::Future;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::agent::{Event, EventLog};
use crate::systemd::SOCKET;
use proxy::topology::Topology;

/// The rule of events about hooks themselves.
const RULE: &str = "hook";
/// So many events wait for a slow program; older ones are left out, and that is an event.
const WAITING_MAX: usize = 100;
/// Of what the program says, for the event of its failure.
const SAID_BYTES_MAX: u64 = 2_000;
/// Between SIGTERM and SIGKILL.
const END_TIMEOUT: Duration = Duration::from_secs(2);

pub struct HooksConfig {
    pub program: PathBuf,
    /// Rules of events; one that ends in `*` stands for all that begin so.
    pub events: Vec<String>,
    pub timeout: Duration,
    pub cluster: String,
    pub node: String,
    /// It has a PostgreSQL, and so a role.
    pub has_role: bool,
}

/// Calls the program for what happens from now on, until the sender of `topology` is gone.
pub fn run(
    config: HooksConfig,
    mut topology: watch::Receiver<Topology>,
    events: Arc<EventLog>,
) -> impl Future<Output = ()> {
    let mut news = events.news();
    let mut hooks = Hooks { told: None, seen: *news.borrow_and_update(), config, events };
    async move {
        loop {
            let now = topology.borrow_and_update().clone();
            hooks.tell_role(&now).await;
            if topology.has_changed().unwrap_or(false) {
                continue;
            }
            hooks.tell_next_event().await;
            if hooks.is_behind() {
                continue;
            }
            tokio::select! {
                changed = topology.changed() => if changed.is_err() { return },
                changed = news.changed() => if changed.is_err() { return },
            }
        }
    }
}

struct Hooks {
    config: HooksConfig,
    events: Arc<EventLog>,
    /// The role that the program was told last.
    told: Option<&'static str>,
    /// Events up to this one were told, or are not to be.
    seen: u64,
}

impl Hooks {
    async fn tell_role(&mut self, topology: &Topology) {
        // Before the first term nobody has a role.
        if !self.config.has_role || topology.term == 0 {
            return;
        }
        let is_primary = topology.primary.as_ref().is_some_and(|primary| primary.node == self.config.node);
        let role = if is_primary { "primary" } else { "replica" };
        if self.told == Some(role) {
            return;
        }
        let was = self.told.replace(role);
        let HooksConfig { cluster, node, .. } = &self.config;
        let document = json!({
            "hook": "on_role_change", "cluster": cluster, "node": node, "role": role, "was": was, "term": topology.term,
        });
        self.call(topology.term, ["on_role_change", role], &document).await;
    }

    fn is_behind(&self) -> bool {
        !self.events.after(self.seen, 1).is_empty()
    }

    async fn tell_next_event(&mut self) {
        let waiting = self.events.after(self.seen, usize::MAX);
        let Some(last) = waiting.last().map(|event| event.id) else { return };
        let wanted: Vec<&Event> = waiting.iter().filter(|event| self.wants(event)).collect();
        let Some((first, rest)) = wanted.split_first() else {
            self.seen = last;
            return;
        };
        if rest.len() >= WAITING_MAX {
            let left = wanted[wanted.len() - WAITING_MAX].id - 1;
            let count = wanted.iter().filter(|event| event.id <= left).count();
            self.seen = left;
            let why = format!("{} is slower than they come", self.config.program.display());
            self.events.note(
                first.term,
                RULE,
                format!("{count} events were not told to the hook"),
                vec![why],
            );
            return;
        }
        self.seen = first.id;
        let mut document = json!(first);
        document["hook"] = json!("on_event");
        document["cluster"] = json!(self.config.cluster);
        self.call(first.term, ["on_event", &first.rule], &document).await;
    }

    fn wants(&self, event: &Event) -> bool {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => event.rule.starts_with(beginning),
            None => event.rule == *pattern,
        };
        event.rule != RULE && self.config.events.iter().any(matches)
    }

    async fn call(&self, term: u64, [hook, about]: [&str; 2], document: &Value) {
        let program = self.config.program.display();
        let mut command = Command::new(&self.config.program);
        command.args([hook, about, &self.config.cluster]).env_remove("PGHERD_PASSWORD");
        command.env_remove(SOCKET);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // What it starts ends with it.
        command.process_group(0).kill_on_drop(true);
        let ended = match command.spawn() {
            Ok(child) => self.attend(child, document.to_string()).await,
            Err(error) => Err(error.to_string()),
        };
        match ended {
            Ok(()) => tracing::info!(hook, about, "the hook was told"),
            Err(why) => self.events.note(term, RULE, format!("{program} {hook} {about} failed"), vec![why]),
        }
    }

    async fn attend(&self, mut child: Child, document: String) -> Result<(), String> {
        let (mut input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let group = child.id().and_then(|id| Pid::from_raw(id as i32));
        let whole = async {
            let give = async {
                // A program that does not read is none the worse for it.
                if let Some(input) = &mut input {
                    let _ = input.write_all(document.as_bytes()).await;
                }
                input.take();
            };
            let ((), said, complaint) = tokio::join!(give, first_of(output), first_of(errors));
            (child.wait().await, said, complaint)
        };
        match timeout(self.config.timeout, whole).await {
            Ok((Ok(status), ..)) if status.success() => Ok(()),
            Ok((Ok(status), said, complaint)) => {
                let said = if complaint.is_empty() { said } else { complaint };
                Err(format!("{status}: {}", said.trim()))
            }
            Ok((Err(error), ..)) => Err(error.to_string()),
            Err(_) => {
                if let Some(group) = group {
                    let _ = kill_process_group(group, Signal::TERM);
                    let _ = timeout(END_TIMEOUT, child.wait()).await;
                    // Also when the program itself has ended: what it started may not have.
                    let _ = kill_process_group(group, Signal::KILL);
                    let _ = child.wait().await;
                }
                Err(format!("it had not ended after {} s, and was", self.config.timeout.as_secs_f32()))
            }
        }
    }
}

/// The beginning of what it says; the rest is read and dropped, so that nobody waits for a full pipe.
async fn first_of(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut pipe) = pipe else { return String::new() };
    let mut said = Vec::new();
    let _ = (&mut pipe).take(SAID_BYTES_MAX).read_to_end(&mut said).await;
    let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&said).into_owned()
}

#[cfg(test)]
mod tests;
