//! The program: parse the command line, run the daemon or a client command, turn failure into words and a code.

use std::process::ExitCode;

use clap::Parser;
use pgherd::cli::{Cli, Command, Exit, Failure, RunArgs};
use pgherd::config::Config;
use pgherd::node::relaunch::{self, Inheritance};

/// Sessions are made amid log-ins that need much for a moment: the C library's allocator leaves that behind as holes between them
/// (docs/decisions/0010-pooling.md has the figures).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => daemon(&args),
        Command::Fencer(args) => pgherd::fencer::run(&args.dir).map_err(Failure::from),
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
fn daemon(args: &RunArgs) -> Result<(), Failure> {
    if args.own_session {
        // A process that leads a group already cannot, and needs none: it has left the terminal's group.
        let _ = rustix::process::setsid();
    }
    let file = std::path::absolute(&args.config)?;
    let (config, number) = load(args)?;
    pgherd::telemetry::init().map_err(|error| Failure::new(Exit::Configuration, error.to_string()))?;
    // Two threads at least: a blocking fsync of one must not stop the heartbeats of the other.
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let run = async {
        let inheritance = match &args.take_over {
            Some(open) => {
                let checked = pgherd::node::check(&config, open).await;
                checked.inspect_err(|error| relaunch::tell_failure(&format!("{error:#}")))?;
                Some(Inheritance::receive().await?)
            }
            None => None,
        };
        pgherd::node::run(config, number, file, inheritance).await
    };
    runtime.block_on(run).map_err(Failure::from)
}

fn load(args: &RunArgs) -> Result<(Config, u64), Failure> {
    pgherd::config::load_node(&args.config).map_err(|error| {
        if args.take_over.is_some() {
            relaunch::tell_failure(&error.to_string());
        }
        Failure::new(Exit::Configuration, error.to_string()).next("mend the file, then start the node again")
    })
}
