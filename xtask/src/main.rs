//! Every task of the project as one command.
//!
//! What it is: thin, readable recipes over cargo and the project's own binaries, the same on a laptop and in CI.
//! What it is not: part of the product; nothing here is shipped. Few dependencies, because this is what a fresh
//! machine builds first.
//! Invariant: a task that fails ends with a code other than 0.

mod apt;
mod audit;
mod bench;
mod check;
mod drivers;
mod majors;
mod package;
mod regress;
mod setup;
mod shell;
mod tidy;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const HELP: &str = "\
cargo xtask demo [args…]                    set up, build and start a live cluster (args: pgherd demo --help)
cargo xtask test [--no-setup] [filter]      set up, build and pass every test, simulator seeds and bounded suites included
cargo xtask test --major 18 [filter]         fetch that PostgreSQL (15 to 18) and pass the tests of real servers on it
cargo xtask test regress [--mode transaction|session|both|auto] [--bounded] [test…]   PostgreSQL's own suite through the proxy
cargo xtask test drivers [--only NAME,… | --bounded] [--auto]   the suites of PostgreSQL drivers, direct and through the proxy
cargo xtask sim [--seed N | --seeds N] …    the simulator, optimised
cargo xtask chaos [--seconds 240] [--seed N] …   a real cluster under faults, its history checked (docs/concepts/chaos.md)
cargo xtask sim --crash-steps               every operation killed after each of its steps; prints the table
cargo xtask sim --mutations                 every deliberate fault must be caught; prints the table
cargo xtask worlds [--long | --deviations | --nodes 4 …]   small worlds, walked exhaustively
cargo xtask bench failover [--runs 20] [--only EVENT,…] [--versus patroni]   how long writes stop, measured from a client
cargo xtask bench proxy [--rounds 5] [--versus pgbouncer,haproxy]              what a proxy costs: CPU, latency, memory
cargo xtask package [--debug] [--version V] [--out DIR]   target/package/pgherd_VERSION_ARCH.deb (docs/operate/install.md)
cargo xtask audit [--offline]               licences, sources and known vulnerabilities of what pgherd is built from (deny.toml)
cargo xtask setup                           what the build and the tests need of Debian: libclang, PostgreSQL, strace, systemd…
cargo xtask tidy                            the style check
cargo xtask ci                              format, lints, tidy, test";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<()> {
    std::env::set_current_dir(shell::root()).context("enter the workspace")?;
    let Some((task, rest)) = arguments.split_first() else {
        println!("{HELP}");
        return Ok(());
    };
    match task.as_str() {
        "demo" => demo(rest),
        "test" if rest.first().is_some_and(|word| word == "regress") => regress::regress(&rest[1..]),
        "test" if rest.first().is_some_and(|word| word == "drivers") => drivers::drivers(&rest[1..]),
        "test" => check::test(rest),
        "sim" => check::sim(rest),
        "worlds" => check::worlds(rest),
        "chaos" => check::chaos(rest),
        "audit" => audit::audit(rest),
        "bench" => bench::bench(rest),
        "package" => package::package(rest),
        "setup" => setup::all().and_then(|()| setup::tools()),
        "tidy" => tidy::tidy(),
        "ci" => check::ci(),
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(())
        }
        other => bail!("there is no task \"{other}\"\n{HELP}"),
    }
}

/// The dev profile: it builds in half the time of the release profile on a machine that has built nothing yet, and a
/// demo waits for PostgreSQL, not for us. Figures come from `bench`, which builds the release profile.
fn demo(arguments: &[String]) -> Result<()> {
    setup::all()?;
    shell::cargo(&["build", "--package", "pgherd"])?;
    shell::become_program(&shell::target_dir().join("debug/pgherd"), "demo", arguments)
}
