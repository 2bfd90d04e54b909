//! `cargo xtask bench proxy`: what a proxy costs, beside those that people use today.
//!
//! ```text
//! rounds ─► load (pgbench) ─► contender (direct, pgherd, PgBouncer, HAProxy) ─► one PostgreSQL
//!    └────► cost (CPU of the proxy and of PostgreSQL, system calls, bytes per idle client) ─► report
//! ```
//!
//! All contenders stand before the same server, the only node of a cluster, and are loaded in turn within each round, so that
//! a machine that drifts drifts for all. Figures are medians over the rounds.
//! Invariant: who is not there, or cannot do a workload, is named in the report with the reason and never counted as nothing.

mod contender;
mod cost;
mod idle;
mod load;
mod options;
mod report;
mod storm;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use tests::{Cluster, Prepared, bench, configure};

use crate::contender::Contender;
use crate::load::Workload;
use crate::options::Options;
use crate::report::{Report, Round};

/// Thousands of log-ins fit.
const STORM_SECONDS: usize = 10;

fn main() -> ExitCode {
    bench::main(options::USAGE, Options::parse, run)
}

fn run(options: &Options, arguments: &[String]) -> Result<()> {
    let results = bench::results_dir()?;
    let prepared = Prepared::new(1);
    prepared.set("postgres.parameters", "max_connections", |_| "\"200\"".to_owned());
    prepared.set("postgres.parameters", "shared_buffers", |_| "\"256MB\"".to_owned());
    configure(&prepared.nodes[0], &format!("[postgres]\nhba = {:?}", contender::HBA));
    let proxy = format!("[proxy]\npool_size = {}\nthreads = {}", options.pool_size, options.threads);
    configure(&prepared.nodes[0], &proxy);
    let cluster = Cluster::start_prepared(prepared);
    let node = &cluster.nodes()[0];
    let mut session = tests::session_at(node.postgres);
    session.execute(&format!("CREATE ROLE {} SUPERUSER LOGIN", load::ROLE))?;
    session.execute(&format!("CREATE ROLE {} LOGIN PASSWORD '{}'", storm::ROLE, storm::VERIFIER))?;
    drop(session);
    bench::fill(load::HOST, node.postgres)?;
    let contenders = contender::all(node, &results, options)?;
    let mut report = Report::new(arguments, options, &contenders)?;
    for number in 1..=options.rounds {
        for workload in &options.workloads {
            for contender in &contenders {
                if let Some(round) = measure(contender, workload, node, options, number)? {
                    report.rounds.push(round);
                }
            }
        }
    }
    for contender in &contenders {
        report.idle.extend(idle::measure(contender, options)?);
    }
    for contender in contenders.iter().filter(|contender| options.storm && contender.pid.is_some()) {
        report.storms.push(storm::measure(contender, STORM_SECONDS)?);
    }
    bench::publish(&results, "proxy", &report, &report.markdown(), options.json)
}

/// One run of one workload; `None` when this contender cannot do it.
fn measure(
    contender: &Contender,
    workload: &Workload,
    node: &tests::Node,
    options: &Options,
    number: usize,
) -> Result<Option<Round>> {
    let refuses = contender.refuses.is_some_and(|(mode, _)| mode == workload.mode);
    if refuses || workload.clients > contender.clients_max {
        return Ok(None);
    }
    let postmaster = node.postmaster_pid().context("PostgreSQL runs")?;
    let before = (cost::of(contender.pid)?, cost::of_server(postmaster)?);
    let timed = load::run(contender.port, workload, options.seconds, options.tls)
        .with_context(|| format!("{}, {}", contender.name, workload.name()))?;
    let after = (cost::of(contender.pid)?, cost::of_server(postmaster)?);
    ensure!(timed.transactions > 0, "{}, {}: no transaction", contender.name, workload.name());
    let thousands = timed.transactions as f64 / 1_000.0;
    let calls = contender.pid.filter(|_| options.strace && number == 1);
    let calls = calls.map(|pid| cost::system_calls(pid, contender.port, workload)).transpose()?;
    let round = Round {
        contender: contender.name.clone(),
        workload: workload.name(),
        transactions_per_second: timed.per_second,
        p50_us: timed.p50_us,
        p99_us: timed.p99_us,
        p999_us: timed.p999_us,
        proxy_cpu_s_per_thousand: contender.pid.map(|_| (after.0 - before.0) / thousands),
        server_cpu_s_per_thousand: (after.1 - before.1) / thousands,
        system_calls: calls.flatten(),
    };
    println!("round {number}  {}", round.line());
    Ok(Some(round))
}
