//! `cargo xtask bench failover`: how long writes stop, measured from a client, for every event of a table.
//!
//! ```text
//! measure ─► system (pgherd, Patroni) ◄─ client, pgbench
//!    └────── fault ──┘                      └─► report ─► target/bench/failover.md, failover.json
//! ```
//!
//! It runs inside [`tests::sandbox`], on the machine's disk; where there can be none, pgherd is measured on loopback and
//! cuts are left out, loudly. Invariants: each run starts from a whole cluster; at the end of each event every
//! acknowledged row is looked for on every node; nothing outlives a run but its report.

mod client;
mod event;
mod load;
mod measure;
mod options;
mod patroni;
mod pgherd;
mod report;
mod system;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use tests::network::Network;
use tests::{bench, sandbox};

use crate::event::Event;
use crate::options::Options;
use crate::patroni::{Patroni, Programs, Speed};
use crate::pgherd::Pgherd;
use crate::report::{Described, Report};
use crate::system::System;

const NODES: usize = 3;

fn main() -> ExitCode {
    bench::main(options::USAGE, Options::parse, |options, arguments| match run(options, arguments)? {
        true => Ok(()),
        false => {
            bail!(
                "acknowledged rows are missing, or a series broke off: see the column \"lost\" and FAILED above"
            )
        }
    })
}

/// True when nothing was lost and nothing broke.
fn run(options: &Options, arguments: &[String]) -> Result<bool> {
    let results = bench::results_dir()?;
    if sandbox::inside() {
        let disk = results.join("disk");
        // What a bench that was killed left there.
        if disk.exists() {
            fs::remove_dir_all(&disk).context("clear the disk of an earlier run")?;
        }
        fs::create_dir_all(&disk)?;
        sandbox::settle_in(&disk)?;
        let network = Network::build(NODES)?;
        return report(options, arguments, Some(&network), &results);
    }
    match sandbox::missing() {
        None => match sandbox::enter(arguments)? {},
        Some(why) if options.versus => bail!("the comparison needs network namespaces: {why}"),
        Some(why) => {
            println!("NO NAMESPACES: {why}\nThe cluster runs on loopback; cuts are LEFT OUT.");
            report(options, arguments, None, &results)
        }
    }
}

fn report(
    options: &Options,
    arguments: &[String],
    network: Option<&Network>,
    results: &Path,
) -> Result<bool> {
    let mut report = Report {
        command: format!("cargo xtask bench failover {}", arguments.join(" ")).trim_end().to_owned(),
        machine: bench::machine_line()?,
        systems: Vec::new(),
        measured: Vec::new(),
        left_out: Vec::new(),
    };
    let possible = |event: &&Event| network.is_some() || !event.needs_network();
    let events: Vec<Event> = options.events.iter().filter(possible).copied().collect();
    for event in options.events.iter().filter(|event| !possible(event)) {
        report.left_out.push(format!("{}: no network namespaces here", event.name()));
    }
    let mut pgherd = Pgherd::start(NODES as u16, network.is_some())?;
    series(&mut pgherd, network, &events, options.runs, &mut report)?;
    drop(pgherd);
    if options.versus {
        let programs = Programs::find(results)?;
        let compared: Vec<Event> = events.into_iter().filter(|event| event.is_compared()).collect();
        for speed in Speed::ALL {
            let mut patroni = Patroni::start(&programs, speed)?;
            series(&mut patroni, network, &compared, options.patroni_runs, &mut report)?;
        }
    }
    // The same event side by side, in the table's order.
    let place = |name: &str| Event::ALL.iter().position(|event| event.name() == name);
    report.measured.sort_by_key(|measured| place(measured.event));
    bench::publish(results, "failover", &report, &report.markdown(), options.json)?;
    Ok(report.is_good())
}

fn series(
    system: &mut dyn System,
    network: Option<&Network>,
    events: &[Event],
    runs: usize,
    report: &mut Report,
) -> Result<()> {
    report.systems.push(Described { name: system.name(), description: system.description() });
    let primary = system.wait_until_whole()?;
    let servers = system.servers();
    client::once(&servers[primary], "CREATE TABLE ledger (id bigint PRIMARY KEY)")?;
    for &event in events {
        let primary = system.wait_until_whole()?;
        client::once(&system.servers()[primary], "TRUNCATE ledger")?;
        let measured = measure::measure(system, network, event, runs, NODES)
            .with_context(|| format!("{}, {}", system.name(), event.name()))?;
        report.measured.push(measured);
    }
    Ok(())
}
