//! Writing down what people ask for: `/requests` in the store, changed from any node.
//!
//! What it is: validation against what this node sees, and one compare-and-set. What it is not: the doing; the rules
//! of the brain take a request up from the store.
//! Invariant: one hand-over at a time, and one request of a kind for a node.

use std::sync::Arc;
use std::time::Duration;

use brain::{Ask, Key, Request, Requests, Stage, Term, View};

use super::records;
use crate::store::{Store, StoreError};

/// Writers of `/requests` are people and the open primary; two at once are rare, eight in a row a fault.
const ATTEMPTS_MAX: usize = 8;

/// A conflict is settled by the next snapshot, which comes with a heartbeat of the store at the latest.
const SNAPSHOT_WAIT: Duration = Duration::from_millis(500);

/// The longest pause: a night's maintenance. It ends by itself.
pub const PAUSE_SECONDS_MAX: u64 = 24 * 3600;

/// More hosts than a cluster has nodes; each is asked twice a second.
const ORIGIN_HOSTS_MAX: usize = 8;

/// What may be asked over the API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    Ask(Ask),
    /// End a request that has not passed the point of no return.
    Cancel(u64),
    /// Maintenance for so many seconds.
    Pause(u64),
    Resume,
}

/// Why nothing was written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The command can never be obeyed.
    #[error("{0}")]
    Invalid(String),
    /// Not now: something else is under way, or the state is not as it must be.
    #[error("{0}")]
    Conflict(String),
    /// The store cannot be written at this moment.
    #[error("{0}")]
    Unavailable(String),
}

/// Writes the command down; answers with the request's id where there is one.
pub async fn submit(store: &Arc<dyn Store>, view: &View, command: &Command) -> Result<Option<u64>, Refusal> {
    let mut snapshots = store.watch();
    for _ in 0..ATTEMPTS_MAX {
        let snapshot = snapshots.borrow_and_update().clone();
        let stored = records::store_view(&snapshot, true)
            .map_err(|error| Refusal::Unavailable(format!("the store cannot be read: {error:#}")))?;
        let term = stored.primary.map_or(Term(0), |primary| primary.value.term);
        let (mut requests, version) =
            stored.requests.map_or_else(Default::default, |stored| (stored.value, stored.version));
        let id = apply(&mut requests, view, term, command)?;
        let transaction = records::put_if(Key::Requests.path(), version, &requests)
            .map_err(|error| Refusal::Unavailable(error.to_string()))?;
        match store.commit(transaction).await {
            Ok(_) => return Ok(id),
            Err(StoreError::Conflict { .. }) => {
                // Late is as good as never here: the next attempt reads what there is.
                let _ = tokio::time::timeout(SNAPSHOT_WAIT, snapshots.changed()).await;
            }
            Err(error) => return Err(Refusal::Unavailable(format!("the store took nothing: {error}"))),
        }
    }
    Err(Refusal::Unavailable("the store is being written by others all the time; try again".to_owned()))
}

fn apply(
    requests: &mut Requests,
    view: &View,
    term: Term,
    command: &Command,
) -> Result<Option<u64>, Refusal> {
    let now = crate::clock::wall_seconds();
    match command {
        Command::Ask(ask) => {
            check(ask, view)?;
            free(ask, requests, view.head().is_some())?;
            Ok(Some(requests.add(ask.clone(), term, now)))
        }
        Command::Cancel(id) => cancel(requests, *id).map(Some),
        Command::Pause(seconds) if (1..=PAUSE_SECONDS_MAX).contains(seconds) => {
            requests.paused_until = Some(now + seconds);
            Ok(None)
        }
        Command::Pause(seconds) => Err(Refusal::Invalid(format!(
            "a pause of {seconds} s: it must be from 1 to {PAUSE_SECONDS_MAX} s, and ends by itself"
        ))),
        Command::Resume => {
            requests.paused_until = None;
            Ok(None)
        }
    }
}

/// The nodes exist and are what the request needs.
fn check(ask: &Ask, view: &View) -> Result<(), Refusal> {
    let node = match ask {
        Ask::Promote { .. } => return check_promote(view),
        Ask::Demote { hosts, .. } => return check_demote(hosts, view),
        Ask::Switchover { .. } | Ask::Failover { .. } if view.head().is_some() => {
            return Err(no_primary(view));
        }
        Ask::Switchover { to: None, .. } => return Ok(()),
        Ask::Switchover { to: Some(node), .. } | Ask::Failover { to: node } => node,
        Ask::Restart { node, .. } | Ask::Reload { node, .. } | Ask::Reinit { node } => node,
    };
    let fit = if let Ask::Reload { .. } = ask { &view.settings.voters } else { &view.settings.full };
    if !fit.contains(node) {
        let names: Vec<&str> = view.settings.full.iter().map(|name| name.0.as_str()).collect();
        return Err(Refusal::Invalid(format!(
            "{node} is no node with PostgreSQL in this cluster; there are {}",
            names.join(", ")
        )));
    }
    let primary = view.record().map(|record| &record.node);
    match ask {
        Ask::Reinit { .. } if primary == Some(node) && view.head().is_some() => {
            Err(Refusal::Conflict(format!(
                "{node} is the head, and its data directory is what the others follow; first: pgherd restart {node}"
            )))
        }
        Ask::Reinit { .. } if primary == Some(node) => Err(Refusal::Conflict(format!(
            "{node} is the primary, and its data directory is what the others follow; first: pgherd switchover"
        ))),
        Ask::Switchover { .. } if primary == Some(node) => {
            Err(Refusal::Conflict(format!("{node} is the primary already")))
        }
        _ => Ok(()),
    }
}

fn no_primary(view: &View) -> Refusal {
    let head = view.head().map_or("none", |record| record.node.0.as_str());
    Refusal::Conflict(format!(
        "this is a standby cluster: it has no primary; pgherd restart {head} lets another node be its head, pgherd promote makes a primary"
    ))
}

fn check_promote(view: &View) -> Result<(), Refusal> {
    match (view.head(), view.record()) {
        (Some(_), _) => Ok(()),
        (None, Some(record)) => Err(Refusal::Conflict(format!(
            "this is no standby cluster; {} is its recorded primary",
            record.node
        ))),
        (None, None) => Err(Refusal::Conflict("the cluster is being made".to_owned())),
    }
}

fn check_demote(hosts: &[String], view: &View) -> Result<(), Refusal> {
    if view.head().is_some() || view.record().is_none() {
        return Err(Refusal::Conflict(
            "this cluster has no primary that could be demoted; pgherd status shows what it is".to_owned(),
        ));
    }
    if hosts.is_empty() || hosts.len() > ORIGIN_HOSTS_MAX {
        return Err(Refusal::Invalid(format!("name 1 to {ORIGIN_HOSTS_MAX} hosts to follow")));
    }
    let own = |host: &String| {
        let members = view.store.members.as_ref().map(|members| &members.value.nodes);
        members.is_some_and(|nodes| nodes.values().any(|member| member.postgres.as_ref() == Some(host)))
    };
    if let Some(host) = hosts.iter().find(|host| own(host)) {
        return Err(Refusal::Invalid(format!("{host} is a node of this very cluster")));
    }
    let port = |host: &String| {
        host.rsplit_once(':').is_some_and(|(name, port)| !name.is_empty() && port.parse::<u16>().is_ok())
    };
    match hosts.iter().find(|host| !port(host)) {
        Some(host) => Err(Refusal::Invalid(format!("{host:?} is no host:port of a PostgreSQL"))),
        None => Ok(()),
    }
}

/// Nothing under way stands against it.
fn free(ask: &Ask, requests: &Requests, is_standby_cluster: bool) -> Result<(), Refusal> {
    match requests.against(ask, crate::clock::wall_seconds(), is_standby_cluster) {
        Some(Request { id, stage, note, .. }) => Err(Refusal::Conflict(format!(
            "request {id} is under way ({}{}{note}); wait for it, or: pgherd requests --cancel {id}",
            stage.word(),
            if note.is_empty() { "" } else { ": " },
        ))),
        None => Ok(()),
    }
}

fn cancel(requests: &mut Requests, id: u64) -> Result<u64, Refusal> {
    let Some(request) = requests.list.iter_mut().find(|request| request.id == id) else {
        return Err(Refusal::Invalid(format!("there is no request {id}; pgherd requests lists them")));
    };
    match request.stage {
        Stage::Waiting | Stage::Preparing | Stage::Holding => {
            (request.stage, request.note) = (Stage::Failed, "canceled".to_owned());
            Ok(id)
        }
        stage if stage.is_final() => {
            Err(Refusal::Conflict(format!("request {id} has ended already: {}", request.note)))
        }
        _ => Err(Refusal::Conflict(format!(
            "request {id} has passed the point of no return: {}; it ends by itself",
            request.note
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switchover() -> Ask {
        Ask::Switchover { to: None, at: None, force: false }
    }

    #[test]
    fn one_hand_over_at_a_time() {
        let mut requests = Requests::default();
        let id = requests.add(switchover(), Term(1), 0);
        let restart = Ask::Restart { node: "n1".into(), force: false };
        assert!(matches!(free(&restart, &requests, false), Err(Refusal::Conflict(_))));
        assert!(free(&Ask::Reload { node: "n1".into(), after: None }, &requests, false).is_ok());
        cancel(&mut requests, id).unwrap();
        assert!(free(&restart, &requests, false).is_ok());
    }

    #[test]
    fn a_demotion_that_waits_for_its_origin_is_no_reason_not_to_promote() {
        let mut requests = Requests::default();
        requests.add(Ask::Demote { hosts: vec!["10.1.0.1:5432".to_owned()], slot: None }, Term(1), 0);
        requests.list[0].stage = Stage::Stopping;
        let promote = Ask::Promote { force: true };
        assert!(matches!(free(&promote, &requests, false), Err(Refusal::Conflict(_))));
        assert!(free(&promote, &requests, true).is_ok());
        requests.add(promote.clone(), Term(2), 0);
        assert!(matches!(free(&promote, &requests, true), Err(Refusal::Conflict(_))));
    }

    #[test]
    fn what_has_passed_the_point_of_no_return_is_not_canceled() {
        let mut requests = Requests::default();
        let id = requests.add(switchover(), Term(1), 0);
        requests.list[0].stage = Stage::Stopping;
        assert!(matches!(cancel(&mut requests, id), Err(Refusal::Conflict(_))));
        assert!(matches!(cancel(&mut requests, 9), Err(Refusal::Invalid(_))));
    }

    #[test]
    fn finished_requests_make_room() {
        let mut requests = Requests::default();
        for _ in 0..100 {
            let id = requests.add(switchover(), Term(1), 0);
            cancel(&mut requests, id).unwrap();
        }
        assert_eq!(requests.list.len(), 32);
        assert_eq!(requests.list.last().unwrap().id, 100);
    }
}
