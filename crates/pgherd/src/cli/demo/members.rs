//! Growing and shrinking a running demo by one command.

use std::time::Duration;

use super::layout::{DemoNode, Layout};
use super::{certificates, say, start, stop};
use crate::api::{NewMember, Role};
use crate::cli::client::Client;
use crate::cli::failure::{Exit, Failure};
use crate::cli::member;
use crate::cli::target::TargetArgs;

/// A base backup of a demo takes seconds; a busy machine gets ten times that.
const JOIN_TIMEOUT: Duration = Duration::from_secs(120);

/// A few steps of the sync set, a second each at most.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(300);

fn client_of(layout: &Layout) -> Result<Client, Failure> {
    Client::new(&TargetArgs { dir: Some(layout.dir.clone()), ..TargetArgs::default() })
}

/// Adds the next node to the demo: certificate, record, configuration, process.
pub fn add(layout: &Layout) -> Result<(), Failure> {
    let client = client_of(layout)?;
    client.status()?;
    let node = layout.next_node()?;
    start::check_node_ports(layout, &node)?;
    let new = NewMember {
        name: node.name.clone(),
        peer: format!("127.0.0.1:{}", node.ports.peer),
        postgres: Some(format!("127.0.0.1:{}", node.ports.postgres)),
        witness: false,
    };
    // Made before it is recorded: what fails here leaves the cluster as it was.
    let mut grown = layout.clone();
    grown.nodes.push(node.clone());
    grown.make_node_dir(&node)?;
    certificates::add(layout, &node)?;
    let accepted = member::add(&client, &new)?;
    say(&member::receipt(&format!("adding {}", node.name), &accepted));
    grown.write_config(&node)?;
    start::spawn_detached(&node)?;
    let begun = std::time::Instant::now();
    loop {
        let report = client.status()?.report;
        let healthy = |role: Role, healthy: bool| role == Role::Replica && healthy;
        if report.nodes.iter().any(|n| n.name == node.name && healthy(n.role, n.healthy)) {
            say(&format!("{} streams from {}\n", node.name, report.primary.unwrap_or_default()));
            return Ok(());
        }
        if begun.elapsed() > JOIN_TIMEOUT {
            return Err(Failure::new(
                Exit::General,
                format!("{} is not ready after {} s", node.name, JOIN_TIMEOUT.as_secs()),
            )
            .next(format!("read {}", node.log().display())));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Takes a node out of the demo and stops its processes. Its files stay, its configuration under another name.
pub fn remove(layout: &Layout, name: &str) -> Result<(), Failure> {
    let node = layout.nodes.iter().find(|node| node.name == name).ok_or_else(|| {
        Failure::new(Exit::Usage, format!("the demo in {} has no node {name}", layout.dir.display()))
            .next(format!("pgherd member list --dir {}", layout.dir.display()))
    })?;
    let client = client_of(layout)?;
    let accepted = member::remove(&client, name)?;
    say(&member::receipt(&format!("removing {name}"), &accepted));
    member::wait_until(&client, LEAVE_TIMEOUT, |report| member::left(report, name)).map_err(|last| {
        let what = format!("{name} has not left after {} s", LEAVE_TIMEOUT.as_secs());
        Failure::new(Exit::General, what)
            .why(last)
            .next(format!("pgherd member list --dir {}", layout.dir.display()))
    })?;
    stop::stop(&node.dir)?;
    retire(node)
}

fn retire(node: &DemoNode) -> Result<(), Failure> {
    let retired = (1..)
        .map(|number| node.dir.with_file_name(format!("{}.removed-{number}", node.name)))
        .find(|dir| !dir.exists())
        .unwrap_or_else(|| node.dir.clone());
    std::fs::rename(node.config(), node.dir.join("pgherd.toml.removed"))?;
    std::fs::rename(&node.dir, &retired)?;
    say(&format!("{} is stopped; its files are in {}\n", node.name, retired.display()));
    Ok(())
}
