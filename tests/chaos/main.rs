//! `cargo xtask chaos`: a real cluster under faults, its clients' history checked.
//!
//! ```text
//! schedule ─► nemesis ─► cluster of real processes ◄─ workload, sampler ─► history ─► checker ─► summary
//!  (seed)                (a namespace and a small disk per node)
//! ```
//!
//! Where namespaces are not allowed it runs on loopback, says so loudly, and leaves out cuts and full disks.
//! Invariants: the schedule is printed with the line that repeats it; a run that found something keeps its logs and its
//! history; nothing of a run outlives it but those.

mod arrangement;
mod checker;
mod disks;
mod ending;
mod history;
mod nemesis;
mod operations;
mod options;
mod sampler;
mod schedule;
mod session;
mod single;
mod summary;
mod workload;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tests::network::{Network, Slowness};
use tests::sandbox;

use crate::checker::Report;
use crate::history::{History, Recorder};
use crate::nemesis::Nemesis;
use crate::options::Options;
use crate::sampler::{Sampler, Server};
use crate::workload::{Door, Workload};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = match Options::parse(&arguments, fresh_seed()) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("error: {error}\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}\n  again: cargo xtask chaos {}", options.line());
            ExitCode::FAILURE
        }
    }
}

/// Any will do: it is printed.
fn fresh_seed() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs() % 1_000_000)
}

/// True when nothing is wrong.
fn run(options: &Options) -> Result<bool> {
    if let Some(file) = &options.check {
        let history = History::read(file)?;
        let report = checker::check(&history);
        println!("{}", summary::of(&file.display().to_string(), &history, &report));
        return Ok(report.violations.is_empty());
    }
    let steps = schedule::draw(options.seed, options.length(), options.nodes.into(), &options.only);
    if options.schedule {
        steps.iter().for_each(|step| println!("{step}"));
        return Ok(true);
    }
    if sandbox::inside() {
        sandbox::settle()?;
        return play(options, &steps, true);
    }
    match sandbox::missing() {
        None => {
            let mut arguments: Vec<String> = options.line().split(' ').map(str::to_owned).collect();
            arguments.extend(["--baseline".to_owned(), options.baseline.to_string()]);
            arguments.extend(options.keep.then(|| "--keep".to_owned()));
            match sandbox::enter(&arguments)? {}
        }
        Some(why) => {
            println!("########################################################################");
            println!("NO NAMESPACES: {why}");
            println!("The cluster runs on loopback. Cuts, loss, slow links and full disks are LEFT OUT;");
            println!("kills and freezes are not. As root, cargo xtask chaos installs what is missing.");
            println!("########################################################################");
            play(options, &steps, false)
        }
    }
}

/// The baseline and the cluster, each with its verdict.
fn play(options: &Options, steps: &[schedule::Step], networked: bool) -> Result<bool> {
    let dir = results_dir(options)?;
    println!("cargo xtask chaos {}", options.line());
    println!("files of this run: {}", dir.display());
    let mut good = true;
    if options.baseline > 0 {
        let baseline = dir.join("baseline");
        fs::create_dir_all(&baseline)?;
        let length = std::time::Duration::from_secs(options.baseline);
        let history = single::run(&baseline, length, options.seed)?;
        good &= tell("baseline: a single PostgreSQL without pgherd", &dir, &history, &[])?;
    }
    steps.iter().for_each(|step| println!("  {step}"));
    let (history, stuck) = besiege(options, steps, networked, &dir)?;
    good &= tell("the cluster", &dir, &history, &stuck)?;
    if good && !options.keep {
        fs::remove_dir_all(&dir).with_context(|| format!("remove {}", dir.display()))?;
    } else {
        println!("logs and histories: {}", dir.display());
    }
    if !good {
        println!("again: cargo xtask chaos {}", options.line());
    }
    Ok(good)
}

/// Checks, prints, and keeps what was printed. True when nothing is wrong.
fn tell(title: &str, dir: &Path, history: &History, stuck: &[String]) -> Result<bool> {
    let report: Report = checker::check(history);
    let mut text = summary::of(title, history, &report);
    stuck.iter().for_each(|line| text.push_str(&format!("STUCK: {line}\n")));
    println!("\n{text}");
    let file = title.split(':').next().unwrap_or(title).replace(' ', "-");
    fs::write(dir.join(format!("{file}.txt")), &text)?;
    Ok(report.violations.is_empty() && stuck.is_empty())
}

/// The cluster under its faults: what clients saw, and what did not come back afterwards.
fn besiege(
    options: &Options,
    steps: &[schedule::Step],
    networked: bool,
    dir: &Path,
) -> Result<(History, Vec<String>)> {
    let network = networked.then(|| Network::build(options.nodes.into())).transpose()?;
    match network.as_ref().map(|network| network.slowness) {
        Some(Slowness::Narrow) => println!("no netem in this kernel: slow links are narrow ones"),
        Some(Slowness::Delay) | None => {}
    }
    let mut arranged = arrangement::start(options.nodes, options.k, networked)?;
    let nodes = arranged.cluster.nodes().to_vec();
    let doors = nodes.iter().map(|node| Door {
        node: node.name.clone(),
        host: node.host.clone(),
        read_write: node.read_write,
        read_only: Some(node.read_only),
    });
    let servers: Vec<Server> = nodes
        .iter()
        .map(|node| Server { node: node.name.clone(), host: node.host.clone(), port: node.postgres })
        .collect();
    let recorder = Recorder::new(&dir.join("history.jsonl"))?;
    let workload = Workload::start(doors.collect(), recorder.clone(), options.seed)?;
    let sampler = Sampler::start(servers.clone(), recorder.clone());
    let mut nemesis = Nemesis {
        disks: arranged.disks.len() == 2 * nodes.len(),
        cluster: &mut arranged.cluster,
        network: network.as_ref(),
        last_writer: sampler.last_writer.clone(),
        recorder: recorder.clone(),
        active: Vec::new(),
        log: Vec::new(),
        removed: BTreeSet::new(),
        disk_was_full: BTreeSet::new(),
        complaints: Vec::new(),
    };
    let done = nemesis.run(steps).and_then(|()| nemesis.heal());
    fs::write(dir.join("nemesis.txt"), nemesis.log.join("\n") + "\n")?;
    let mut stuck = std::mem::take(&mut nemesis.complaints);
    let removed = std::mem::take(&mut nemesis.removed);
    let unwritable = match done.and_then(|()| ending::wait_for_writes(&nodes, &recorder)) {
        Ok(took) => {
            println!("writes were possible {:.1} s after the last fault ended", took.as_secs_f64());
            None
        }
        Err(error) => Some(error),
    };
    // What people asked for ends under load, too.
    if unwritable.is_none() {
        let ended =
            ending::wait_for_members(&nodes, &removed).and_then(|()| ending::wait_for_requests(&nodes));
        stuck.extend(ended.err().map(|error| format!("{error:#}")));
    }
    workload.finish();
    sampler.finish();
    let read = match unwritable {
        Some(error) => Err(error),
        None => ending::wait_until_whole(&servers)
            .and_then(|primary| ending::read_all(&servers, primary, &recorder)),
    };
    arrangement::keep_logs(&arranged.cluster, dir)?;
    stuck.extend(read.err().map(|error| format!("{error:#}")));
    Ok((recorder.history()?, stuck))
}

/// target/chaos/SEED-PID, empty.
fn results_dir(options: &Options) -> Result<PathBuf> {
    let own = std::env::current_exe().context("the path of this program")?;
    let target = own.ancestors().nth(2).context("a target directory")?;
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let dir = target.join("chaos").join(format!("seed-{}-{stamp}", options.seed));
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(dir)
}
