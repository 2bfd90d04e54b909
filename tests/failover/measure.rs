//! One event, again and again: fault, pause, whole again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use serde::Serialize;
use tests::network::Network;
use tests::wait::wait_at_most;

use crate::client::{self, Client, Door};
use crate::event::Event;
use crate::load::{self, Load};
use crate::system::{self, Phase, System};

/// Where nothing should happen: as long as the defaults would need to take over, twice.
const WATCH: Duration = Duration::from_secs(5);
/// A replica that streams has everything within moments.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// Error texts that are worth reading.
const TEXTS_MAX: usize = 6;

#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub pause_ms: f64,
    /// Statements of the measuring client that failed, and pgbench's errors.
    pub errors: usize,
    pub refused: usize,
    pub load_average: f64,
    pub phases: Vec<Phase>,
    pub error_texts: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    pub system: String,
    pub event: &'static str,
    pub what: String,
    pub runs: Vec<Run>,
    /// Acknowledged rows that are missing on some node at the end.
    pub lost: usize,
    /// Why the series ended before its time.
    pub failed: Option<String>,
}

/// Runs the event `runs` times on a system that has the ledger's table.
pub fn measure(
    system: &mut dyn System,
    network: Option<&Network>,
    event: Event,
    runs: usize,
    nodes: usize,
) -> Result<Measured> {
    let primary = system.wait_until_whole()?;
    let doors = system.doors(primary);
    if event == Event::Switchover {
        tests::bench::fill(&doors[0].0, doors[0].1)?;
    }
    let client = Client::start(doors)?;
    let mut what = event.what().to_owned();
    if event == Event::Switchover {
        let load = load::command_line(&("DOOR".to_owned(), 0)).replace(" 0 ", " PORT ");
        what = format!("{what}: `{}` during `{load}`", system.switchover_command());
    }
    let mut measured = Measured {
        system: system.name(),
        event: event.name(),
        what,
        runs: Vec::new(),
        lost: 0,
        failed: None,
    };
    for number in 1..=runs {
        match one(system, network, event, &client, nodes) {
            Ok(run) => {
                println!(
                    "{:<18} {:<16} run {number:>3}: {:>9.1} ms  client errors {}  load {:.2}",
                    measured.system, measured.event, run.pause_ms, run.errors, run.load_average
                );
                measured.runs.push(run);
            }
            Err(error) => {
                println!("{:<18} {:<16} run {number:>3}: {error:#}", measured.system, measured.event);
                measured.failed = Some(format!("run {number}: {error:#}"));
                break;
            }
        }
    }
    if let Some(network) = network {
        network.apply(&[])?;
    }
    let acknowledged = client.finish();
    system.wait_until_whole()?;
    measured.lost = lost(system, &acknowledged)?;
    Ok(measured)
}

fn one(
    system: &mut dyn System,
    network: Option<&Network>,
    event: Event,
    client: &Client,
    nodes: usize,
) -> Result<Run> {
    let primary = system.wait_until_whole()?;
    client.enter(system.doors(primary));
    client.wait_until_flowing()?;
    let load = match event {
        Event::Switchover => Some(Load::start(&system.doors(primary)[0])?),
        _ => None,
    };
    client.wait_until_flowing()?;
    let load_average = tests::bench::load_average()?;
    client.mark();
    let fault = SystemTime::now();
    strike(system, network, event, primary, nodes)?;
    if event.moves_primary() {
        wait_for_other(system, event, primary)?;
    } else {
        watch(client)?;
    }
    client.wait_until_flowing()?;
    let seen = client.seen();
    heal(system, network, event, primary, nodes)?;
    let (load_errors, load_texts) = load.map_or(Ok((0, Vec::new())), Load::finish)?;
    let texts = seen.error_texts.into_iter().chain(load_texts);
    Ok(Run {
        pause_ms: seen.pause.as_secs_f64() * 1000.0,
        errors: seen.errors + load_errors,
        refused: seen.refused,
        load_average,
        phases: system.phases(fault, seen.resumed),
        error_texts: texts.take(TEXTS_MAX).collect(),
    })
}

/// The node beside the primary where the client does not enter.
fn bystander(primary: usize, nodes: usize) -> usize {
    (primary + 2) % nodes
}

fn strike(
    system: &mut dyn System,
    network: Option<&Network>,
    event: Event,
    primary: usize,
    nodes: usize,
) -> Result<()> {
    match event {
        Event::PostgresKilled => system::kill_postgres(system, primary),
        Event::NodeKilled => system::kill_node(&system.dir(primary)),
        Event::NodeFrozen => system::freeze(&system.dir(primary)),
        Event::CutBoth | Event::CutFrom | Event::CutTo => {
            network.context("cuts need namespaces")?.apply(&event.cuts(primary, nodes))
        }
        Event::Switchover => system.switchover(primary),
        Event::MinorityLost => system.kill_agent(bystander(primary, nodes)),
        Event::AgentKilled => {
            system.kill_agent(primary)?;
            system.start_node(primary)
        }
    }
}

fn heal(
    system: &mut dyn System,
    network: Option<&Network>,
    event: Event,
    primary: usize,
    nodes: usize,
) -> Result<()> {
    match event {
        Event::NodeKilled => system.start_node(primary),
        Event::NodeFrozen => {
            system::thaw(&system.dir(primary));
            Ok(())
        }
        Event::CutBoth | Event::CutFrom | Event::CutTo => network.context("cuts need namespaces")?.apply(&[]),
        Event::MinorityLost => system.start_node(bystander(primary, nodes)),
        Event::PostgresKilled | Event::Switchover | Event::AgentKilled => Ok(()),
    }
}

/// Waits until writes can be trusted to be the ones after the fault: a pause must have been seen, or the time for one
/// must have passed.
fn wait_for_other(system: &mut dyn System, event: Event, old: usize) -> Result<()> {
    // A switchover has ended when its command has; a killed server may be brought back where it was.
    if matches!(event, Event::Switchover) {
        return Ok(());
    }
    let servers = system.servers();
    let writable = |server: &Door| client::once(server, "CREATE TEMP TABLE writable ()").is_ok();
    let killed = event == Event::PostgresKilled;
    let found = wait_at_most(Duration::from_secs(180), || {
        let candidates = servers.iter().enumerate().filter(|(index, _)| killed || *index != old);
        candidates.map(|(_, server)| server).any(writable).then_some(())
    });
    found.context("no server took writes within 180 s")
}

/// Until [`WATCH`] has passed and writes flow.
fn watch(client: &Client) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < WATCH {
        client.wait_until_flowing()?;
    }
    Ok(())
}

/// How many acknowledged rows are missing for good on the node that misses most.
fn lost(system: &dyn System, acknowledged: &BTreeSet<i64>) -> Result<usize> {
    let mut most = 0;
    for server in system.servers() {
        let missing = || Ok::<_, anyhow::Error>(acknowledged.difference(&client::rows_of(&server)?).count());
        let complete = wait_at_most(CATCH_UP_TIMEOUT, || missing().ok().filter(|&missing| missing == 0));
        let missing = complete.map_or_else(missing, Ok)?;
        if missing > 0 {
            // On all of them: lost. On one of them: that node has left the others' history, or is far behind.
            println!("{}: {missing} acknowledged row(s) are not on the node at {}", system.name(), server.0);
        }
        most = most.max(missing);
    }
    Ok(most)
}
