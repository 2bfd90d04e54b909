//! The commands that change the cluster: each asks for something and watches it to its end.

use std::fmt::Write;
use std::io::{BufRead, IsTerminal};
use std::time::{Duration, Instant};

use brain::{Ask, NodeName};
use clap::Args;
use serde_json::json;

use super::client::{Change, Client};
use super::failure::{Exit, Failure};
use super::request::{WaitArgs, carry_out, duration, watch};
use super::target::TargetArgs;
use super::{OutputArgs, print, print_json};
use crate::api::{Accepted, RequestReport, StatusReport};

/// A heartbeat and a snapshot of the store reach whoever answers in a fraction of this.
const KNOWN_WAIT: Duration = Duration::from_secs(10);

const KNOWN_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Args, Debug)]
pub struct SwitchoverArgs {
    /// The new primary; the best replica when none is named
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// Not before this time: 2026-01-31T22:00:00Z, "2026-01-31 22:00" (local time), or +10min
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Cut transactions that do not end within failover.drain_timeout
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Args, Debug)]
pub struct FailoverArgs {
    /// The new primary
    #[arg(long, value_name = "NODE")]
    to: String,
    /// The cluster's name, instead of typing it when asked: commits may be lost
    #[arg(long, value_name = "CLUSTER")]
    confirm: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Args, Debug)]
pub struct RestartArgs {
    node: String,
    /// Also when writes have to wait meanwhile, or transactions are cut
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Args, Debug)]
pub struct ReloadArgs {
    /// Every node with PostgreSQL when none is named
    node: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Args, Debug)]
pub struct ReinitArgs {
    node: String,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Args, Debug)]
pub struct PauseArgs {
    /// The maintenance ends by itself after this
    #[arg(long = "for", value_name = "DURATION", default_value = "1h", value_parser = duration)]
    length: Duration,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct ResumeArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct RequestsArgs {
    /// Watch this one to its end
    id: Option<u64>,
    /// End it, if it has not passed the point of no return
    #[arg(long, value_name = "ID", conflicts_with = "id")]
    cancel: Option<u64>,
    #[command(flatten)]
    wait: WaitArgs,
}

pub fn switchover(args: &SwitchoverArgs) -> Result<(), Failure> {
    let at = args.at.as_deref().map(moment).transpose()?;
    let to = args.to.as_deref().map(NodeName::from);
    carry_out(&Ask::Switchover { to, at, force: args.force }, &args.wait)
}

pub fn restart(args: &RestartArgs) -> Result<(), Failure> {
    carry_out(&Ask::Restart { node: args.node.as_str().into(), force: args.force }, &args.wait)
}

pub fn reinit(args: &ReinitArgs) -> Result<(), Failure> {
    carry_out(&Ask::Reinit { node: args.node.as_str().into() }, &args.wait)
}

pub fn reload(args: &ReloadArgs) -> Result<(), Failure> {
    let nodes = match &args.node {
        Some(node) => vec![node.clone()],
        None => {
            let report = Client::new(&args.wait.target)?.status()?.report;
            let full = report.nodes.into_iter().filter(|node| node.postgres.is_some());
            full.map(|node| node.name).collect()
        }
    };
    nodes
        .iter()
        .try_for_each(|node| carry_out(&Ask::Reload { node: node.as_str().into(), after: None }, &args.wait))
}

pub fn failover(args: &FailoverArgs) -> Result<(), Failure> {
    let report = Client::new(&args.wait.target)?.status()?.report;
    if let Some(primary) = &report.primary {
        return Err(Failure::new(
            Exit::Precondition,
            format!("{primary} is primary and open; nothing need be lost"),
        )
        .next(format!("pgherd switchover --to {}", args.to)));
    }
    let loss = what_may_be_lost(&report, &args.to);
    match &args.confirm {
        Some(name) if *name == report.cluster => {}
        Some(name) => {
            let what = format!("--confirm names {name}, this cluster is {}", report.cluster);
            return Err(Failure::new(Exit::Usage, what).why(loss));
        }
        None => ask_for_name(&report.cluster, &format!("Acknowledged commits may be lost: {loss}"))?,
    }
    carry_out(&Ask::Failover { to: args.to.as_str().into() }, &args.wait)
}

/// In words: who is not heard, and how far behind the furthest known WAL the chosen node is.
fn what_may_be_lost(report: &StatusReport, to: &str) -> String {
    let lsn_of = |name: &str| report.nodes.iter().find(|node| node.name == name).and_then(|node| node.lsn);
    let furthest = report.nodes.iter().filter_map(|node| node.lsn).max();
    let silent: Vec<&str> =
        report.nodes.iter().filter(|n| n.state == "unreachable").map(|n| n.name.as_str()).collect();
    let mut text = match (lsn_of(to), furthest) {
        (Some(own), Some(furthest)) if own < furthest => {
            format!("{to} lacks {} bytes of WAL that are known of", furthest.bytes_since(own))
        }
        (Some(_), _) => format!("{to} has all WAL that is known of"),
        (None, _) => format!("nothing is known of the WAL of {to}"),
    };
    if !silent.is_empty() {
        // Writing to a String cannot fail.
        let _ = write!(text, "; {} may have acknowledged more and cannot be asked", silent.join(", "));
    }
    let _ = write!(text, "; the sync set is ANY {} ({})", report.sync.k, report.sync.members.join(", "));
    text
}

pub(super) fn ask_for_name(cluster: &str, loss: &str) -> Result<(), Failure> {
    let refused = || {
        Failure::new(Exit::Usage, "not confirmed; nothing was changed")
            .why(loss)
            .next(format!("add --confirm {cluster} to accept that"))
    };
    if !std::io::stdin().is_terminal() {
        return Err(refused());
    }
    print(&format!("{loss}.\nType the name of the cluster to go on, anything else to leave it: "))?;
    let mut typed = String::new();
    std::io::stdin().lock().read_line(&mut typed)?;
    if typed.trim() == cluster { Ok(()) } else { Err(refused()) }
}

pub fn pause(args: &PauseArgs) -> Result<(), Failure> {
    let body = json!({ "seconds": args.length.as_secs() });
    let client = Client::new(&args.target)?;
    let taken: Accepted = client.change(Change::Post(&body), "/api/v1/pause")?;
    let silent = all_know(&client, true)?;
    let text = format!(
        "paused for {} s: nothing is started, taken over or rebuilt by itself; pgherd resume ends it\n{silent}",
        args.length.as_secs()
    );
    if args.output.is_json() { print_json(&taken) } else { print(&text) }
}

pub fn resume(args: &ResumeArgs) -> Result<(), Failure> {
    let client = Client::new(&args.target)?;
    let taken: Accepted = client.change(Change::Delete, "/api/v1/pause")?;
    let silent = all_know(&client, false)?;
    if args.output.is_json() { print_json(&taken) } else { print(&format!("resumed\n{silent}")) }
}

/// Waits until each node that answers knows that the maintenance has begun or ended: until then it may still act, or still
/// not. Returns a line on those that do not answer.
fn all_know(client: &Client, paused: bool) -> Result<String, Failure> {
    let begun = Instant::now();
    loop {
        let report = client.status()?.report;
        let (silent, heard): (Vec<_>, Vec<_>) =
            report.nodes.iter().partition(|node| node.state == "unreachable");
        let late: Vec<&str> =
            heard.iter().filter(|node| node.paused != paused).map(|node| node.name.as_str()).collect();
        if late.is_empty() {
            let names: Vec<&str> = silent.iter().map(|node| node.name.as_str()).collect();
            let one = format!("not heard: {}; it is told once it is back\n", names.join(", "));
            return Ok(if names.is_empty() { String::new() } else { one });
        }
        if begun.elapsed() > KNOWN_WAIT {
            let what = if paused { "pause" } else { "resume" };
            let word = format!("it is written down, and {} has not read it yet", late.join(", "));
            return Err(Failure::new(
                Exit::Unfinished,
                format!("the {what} is not known everywhere after {} s", KNOWN_WAIT.as_secs()),
            )
            .why(word)
            .next("pgherd status --json shows \"paused\" of each node"));
        }
        std::thread::sleep(KNOWN_INTERVAL);
    }
}

pub fn requests(args: &RequestsArgs) -> Result<(), Failure> {
    let client = Client::new(&args.wait.target)?;
    if let Some(id) = args.cancel {
        let taken: Accepted = client.change(Change::Delete, &format!("/api/v1/requests/{id}"))?;
        return match args.wait.output.is_json() {
            true => print_json(&taken),
            false => print(&format!("request {id} is canceled\n")),
        };
    }
    if let Some(id) = args.id {
        let _: RequestReport = client.ask(&format!("/api/v1/requests/{id}"))?;
        return watch(&client, id, &args.wait);
    }
    let list: Vec<RequestReport> = client.ask("/api/v1/requests")?;
    if args.wait.output.is_json() { print_json(&list) } else { print(&table(&list)) }
}

fn table(list: &[RequestReport]) -> String {
    if list.is_empty() {
        return "nothing was asked for yet\n".to_owned();
    }
    let mut text = format!("{:>4}  {:<20}  {:<10}  {:<22}  {}\n", "ID", "ASKED AT", "STAGE", "WHAT", "NOTE");
    for request in list {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:>4}  {:<20}  {:<10}  {:<22}  {}",
            request.id,
            request.asked_at,
            request.stage.word(),
            what(&request.ask),
            request.note
        );
    }
    text
}

fn what(ask: &Ask) -> String {
    match ask {
        Ask::Switchover { to, at, .. } => {
            let to = to.as_ref().map_or_else(|| "the best".to_owned(), ToString::to_string);
            let at = at.map_or_else(String::new, |at| format!(" at {}", crate::api::wall_text(at)));
            format!("switchover to {to}{at}")
        }
        Ask::Failover { to } => format!("failover to {to}"),
        Ask::Restart { node, .. } => format!("restart {node}"),
        Ask::Reload { node, .. } => format!("reload {node}"),
        Ask::Reinit { node } => format!("reinit {node}"),
        Ask::Promote { .. } => "promote".to_owned(),
        Ask::Demote { hosts, .. } => format!("demote to follow {}", hosts.join(", ")),
    }
}

/// A second of the wall clock from what people type.
fn moment(text: &str) -> Result<u64, Failure> {
    let wrong = |why: String| {
        Failure::new(Exit::Usage, format!("--at {text:?} is no time"))
            .why(why)
            .next("write 2026-01-31T22:00:00Z, \"2026-01-31 22:00\" in local time, or +10min")
    };
    let now = crate::clock::wall_seconds();
    if let Some(later) = text.strip_prefix('+') {
        return Ok(now + duration(later).map_err(wrong)?.as_secs());
    }
    let local =
        || text.parse::<jiff::civil::DateTime>().and_then(|time| time.to_zoned(jiff::tz::TimeZone::system()));
    let second = match text.parse::<jiff::Timestamp>() {
        Ok(timestamp) => timestamp.as_second(),
        Err(_) => local().map_err(|error| wrong(error.to_string()))?.timestamp().as_second(),
    };
    let second = u64::try_from(second).unwrap_or_default();
    if second < now {
        return Err(wrong("it has passed".to_owned()));
    }
    Ok(second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_three_ways() {
        let now = crate::clock::wall_seconds();
        assert!(moment("+10min").unwrap() >= now + 600);
        assert_eq!(moment("2199-01-31T22:00:00Z").unwrap(), 7_229_253_600);
        assert!(moment("2199-01-31 22:00").is_ok());
        for wrong in ["", "soon", "1999-01-01T00:00:00Z", "+", "+3 weeks"] {
            assert_eq!(moment(wrong).unwrap_err().exit, Exit::Usage, "{wrong}");
        }
    }
}
