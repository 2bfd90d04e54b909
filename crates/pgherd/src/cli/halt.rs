//! `pgherd halt`: PostgreSQL of a node here is stopped, whose pgherd has been stopped before.
//!
//! What the machine's own stop does last (`packaging/pgherd-postgresql.service`). It knows files and signals, no store and no peers.
//! Invariant: an agent that runs is not worked against: it would start the server again.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rustix::process::Signal;

use super::failure::{Exit, Failure};
use super::print;
use super::processes::{postmaster, process, read_pid, signal, wait_for_end};

#[derive(Args, Debug)]
#[command(after_help = "Example:
  systemctl stop pgherd && pgherd halt --config /etc/pgherd/pgherd.toml

Sessions are ended and their transactions rolled back; standbys get all WAL first. Where the Debian package is
installed, `systemctl stop pgherd-postgresql` does both, and so does the machine when it shuts down.")]
pub struct HaltArgs {
    /// The node's configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Seconds for PostgreSQL to write its checkpoint and end
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

pub fn halt(args: &HaltArgs) -> Result<(), Failure> {
    let config = crate::config::load(&args.config)
        .map_err(|error| Failure::new(Exit::Configuration, error.to_string()).next("mend the file"))?;
    let (name, dir) = (&config.node.name, &config.node.dir);
    let is_daemon = |word: &String| word == "run";
    let agent = read_pid(&dir.join("pgherd.pid")).and_then(process);
    if let Some(agent) = agent.filter(|agent| agent.command.get(1).is_some_and(is_daemon)) {
        return Err(Failure::new(Exit::Precondition, format!("pgherd of {name} runs"))
            .why(format!("process {} would start PostgreSQL again", agent.pid))
            .next("stop it first: systemctl stop pgherd"));
    }
    let Some(server) = postmaster(&config.data_dir()) else {
        return print(&format!("{name}: PostgreSQL does not run\n"));
    };
    // Fast, in PostgreSQL's words.
    signal(server.pid, Signal::INT);
    if !wait_for_end(&[server.pid], Duration::from_secs(args.timeout)) {
        return Err(Failure::new(
            Exit::Unfinished,
            format!("PostgreSQL of {name} has not ended within {} s", args.timeout),
        )
        .why(format!("process {} was told and is still there; its log says what it does", server.pid))
        .next("the same command again waits on"));
    }
    print(&format!("{name}: PostgreSQL is stopped\n"))
}
