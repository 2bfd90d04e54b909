//! `pgherd demo`: a real cluster on this machine, from one command.
//!
//! What it is: a few directories and configuration files, one real `pgherd run` per node, and the care that nothing
//! is left running. What it is not: a special mode of the node; a demo's node knows of no demo.
//! Invariant: whichever way the foreground demo ends, no process of it is left, short of being killed itself; then
//! `pgherd demo --stop` does it.

mod announce;
mod certificates;
mod layout;
mod members;
mod start;
mod stop;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use self::layout::Layout;
use self::start::Daemon;
use super::client::Client;
use super::failure::{Exit, Failure};
use super::interrupt::Interrupt;
use super::target::TargetArgs;
use super::{print, processes};
use crate::api::StatusReport;

/// How often the foreground demo looks at its cluster.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Number of nodes [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=5))]
    nodes: Option<u16>,
    /// Where the demo lies [default: /tmp/pgherd-demo-UID]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// First of the ports: node i takes ten from BASE + 10 i [default: 17000]
    #[arg(long, value_name = "BASE", value_parser = clap::value_parser!(u16).range(1024..))]
    base_port: Option<u16>,
    /// Return once the cluster is up
    #[arg(long)]
    detach: bool,
    /// Write the files and start nothing
    #[arg(long, conflicts_with = "detach")]
    prepare: bool,
    /// Stop a detached demo
    #[arg(long, conflicts_with_all = ["detach", "prepare", "nodes", "base_port"])]
    stop: bool,
    /// Add a node to a running demo
    #[arg(long, conflicts_with_all = ["detach", "prepare", "nodes", "base_port", "stop"])]
    add_node: bool,
    /// Take a node out of a running demo; its files stay
    #[arg(long, value_name = "NAME", conflicts_with_all = ["detach", "prepare", "nodes", "base_port", "stop", "add_node"])]
    remove_node: Option<String>,
}

pub fn demo(args: &DemoArgs) -> Result<(), Failure> {
    let dir = std::path::absolute(args.dir.clone().unwrap_or_else(layout::default_dir))?;
    if args.stop {
        return stop_detached(&dir);
    }
    if args.add_node || args.remove_node.is_some() {
        let layout = existing(&dir)?;
        return match &args.remove_node {
            Some(name) => members::remove(&layout, name),
            None => members::add(&layout),
        };
    }
    let layout = Layout::plan(&dir, args.nodes, args.base_port)?;
    refuse_running(&layout)?;
    start::check_ports(&layout)?;
    layout.write()?;
    if args.prepare {
        let files: String = layout
            .nodes
            .iter()
            .map(|node| format!("pgherd run --config {}\n", node.config().display()))
            .collect();
        return print(&files);
    }
    run(&layout, args.detach)
}

fn stop_detached(dir: &Path) -> Result<(), Failure> {
    existing(dir)?;
    let stopped = stop::stop(dir)?;
    print(&match (stopped.agents, stopped.servers) {
        (0, 0) => "nothing was running\n".to_owned(),
        (agents, servers) => format!("stopped {agents} nodes and {servers} PostgreSQL servers\n"),
    })
}

/// The demo in `dir`, which must be there.
fn existing(dir: &Path) -> Result<Layout, Failure> {
    let layout = Layout::read(dir)?;
    if layout.nodes.is_empty() {
        return Err(Failure::new(Exit::Configuration, format!("there is no demo in {}", dir.display()))
            .next("name the directory of the demo with --dir DIR"));
    }
    Ok(layout)
}

fn refuse_running(layout: &Layout) -> Result<(), Failure> {
    let running: Vec<String> = layout
        .nodes
        .iter()
        .filter_map(|node| {
            processes::daemon(&node.dir).map(|daemon| format!("{} (pid {})", node.name, daemon.pid))
        })
        .collect();
    if running.is_empty() {
        return Ok(());
    }
    let dir = layout.dir.display();
    Err(Failure::new(Exit::Precondition, format!("the demo in {dir} is running"))
        .why(format!("{} is up", running.join(", ")))
        .next(format!(
            "pgherd status --dir {dir}, pgherd demo --stop --dir {dir}, or another --dir and --base-port"
        )))
}

fn run(layout: &Layout, detach: bool) -> Result<(), Failure> {
    let interrupt = Interrupt::listen()?;
    let dir = layout.dir.display();
    say(&match layout.resumed {
        true => format!("Resuming the cluster of {} nodes in {dir}\n", layout.nodes.len()),
        false => format!("Starting a cluster of {} nodes in {dir}\n", layout.nodes.len()),
    });
    let mut daemons = Vec::new();
    let outcome = serve(layout, detach, &interrupt, &mut daemons);
    if detach && outcome.is_ok() {
        return Ok(());
    }
    if outcome.is_ok() {
        // Nobody may be reading any more (the terminal is gone): stopping matters more than saying so.
        say("\nStopping…\n");
    }
    let stopped = stop::stop(&layout.dir);
    for daemon in &mut daemons {
        // They have ended; this takes their exit codes off the process table, and makes sure.
        let _ = daemon.child.kill();
        let _ = daemon.child.wait();
    }
    outcome?;
    let stopped = stopped?;
    say(&format!(
        "stopped {} nodes and {} PostgreSQL servers; `pgherd demo --dir {dir}` resumes\n",
        stopped.agents, stopped.servers
    ));
    Ok(())
}

/// From the first process to the user's wish to end, or to readiness when detached.
fn serve(
    layout: &Layout,
    detach: bool,
    interrupt: &Interrupt,
    daemons: &mut Vec<Daemon>,
) -> Result<(), Failure> {
    let program = std::env::current_exe()?;
    start::spawn(&program, layout, daemons)?;
    let target = TargetArgs { dir: Some(layout.dir.clone()), ..TargetArgs::default() };
    let client = Client::new(&target)?;
    let report = start::wait_until_ready(layout, &client, daemons, interrupt)?;
    let primary = report.primary.clone().unwrap_or_default();
    say(&announce::connection_lines(layout, &primary, detach, &announce::own_command()));
    if !detach {
        follow(layout, &client, report, interrupt, daemons)?;
    }
    Ok(())
}

/// Shows what changes until the user has seen enough. A daemon that ends is news here, not a failure: killing one is
/// what a demo is for.
fn follow(
    layout: &Layout,
    client: &Client,
    mut shown: StatusReport,
    interrupt: &Interrupt,
    daemons: &mut Vec<Daemon>,
) -> Result<(), Failure> {
    while !interrupt.wait(LOOK_AGAIN) {
        for (node, status) in start::ended(daemons) {
            daemons.retain(|daemon| daemon.node != node);
            let config = layout.dir.join(&node).join("pgherd.toml");
            say(&format!(
                "{node}: pgherd ended ({status}); again: pgherd run --config {}\n",
                config.display()
            ));
        }
        let Ok(answered) = client.status() else { continue };
        for line in changes(&shown, &answered.report) {
            say(&line);
        }
        shown = answered.report;
    }
    Ok(())
}

/// Tells the user. The demo goes on when nobody reads any more: what it started must still be stopped by it.
fn say(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn changes(before: &StatusReport, now: &StatusReport) -> Vec<String> {
    let mut lines = Vec::new();
    if (before.term, &before.primary) != (now.term, &now.primary) {
        lines.push(match &now.primary {
            Some(primary) => format!("term {}: {primary} is primary\n", now.term),
            None => format!("term {}: no open primary ({})\n", now.term, now.reason),
        });
    }
    for node in &now.nodes {
        let was = before.nodes.iter().find(|known| known.name == node.name);
        if was.is_none_or(|was| (was.role, &was.state, was.healthy) != (node.role, &node.state, node.healthy))
        {
            let health = if node.healthy { "" } else { ", not healthy" };
            lines.push(format!("{}: {} {}{health}\n", node.name, node.role.word(), node.state));
        }
    }
    lines
}
