//! The program: parse the command line, run the daemon or a client command, turn failure into words and a code.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use pgherd::cli::{Cli, Command, Exit, Failure};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => daemon(&args.config, args.own_session),
        command => pgherd::cli::client(command),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// The node daemon, from its configuration file to its orderly end.
fn daemon(config: &Path, own_session: bool) -> Result<(), Failure> {
    if own_session {
        // A process that leads a group already cannot, and needs none: it has left the terminal's group.
        let _ = rustix::process::setsid();
    }
    let file = std::path::absolute(config)?;
    let config = pgherd::config::load(config).map_err(|error| {
        Failure::new(Exit::Configuration, error.to_string()).next("mend the file, then start the node again")
    })?;
    pgherd::telemetry::init().map_err(|error| Failure::new(Exit::Configuration, error.to_string()))?;
    // Two threads at least: a blocking fsync of one must not stop the heartbeats of the other.
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(pgherd::node::run(config, file)).map_err(Failure::from)
}
