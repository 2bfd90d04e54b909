//! The command line: parse, find the cluster, ask it, print.
//!
//! What it is: every command except the daemon itself, which `main` starts. What it is not: a second way into the
//! cluster; client commands speak the same HTTP as everybody else. They are blocking, one thing after the other.
//! Invariant: exit code 0 only on success, and every failure names its cause and what to type next.

mod certs;
mod client;
mod config;
mod credentials;
pub mod demo;
mod doctor;
mod events;
mod explain;
pub mod failure;
mod halt;
mod history;
mod import;
mod interrupt;
mod manual;
mod member;
mod operate;
mod ports;
mod processes;
mod psql;
mod relaunch;
mod request;
mod status;
mod target;
mod turn;
mod user;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use failure::{Exit, Failure};

#[derive(Parser, Debug)]
#[command(
    name = "pgherd",
    version,
    about = "PostgreSQL servers as one cluster that never loses an acknowledged commit",
    after_help = failure::EXIT_CODES_HELP,
    disable_help_subcommand = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a node: supervise its PostgreSQL, vote, proxy
    Run(RunArgs),
    /// Watch over a node whose agent dies; nodes start it themselves
    #[command(hide = true)]
    Fencer(FencerArgs),
    /// Start a real cluster on this machine
    Demo(demo::DemoArgs),
    /// Topology, roles, lag, term and health in one screen
    Status(status::StatusArgs),
    /// What pgherd did, and why
    Events(events::EventsArgs),
    /// What is not as it should be on any node, why it matters, and what to type
    Doctor(doctor::DoctorArgs),
    /// What would happen if a node died now, and which rule holds it back
    Explain(explain::ExplainArgs),
    /// The last failovers phase by phase, and each timeline that was left
    History(history::HistoryArgs),
    /// psql, connected to the cluster by its proxies
    Psql(psql::PsqlArgs),
    /// List, add and remove the nodes of the cluster
    Member(member::MemberArgs),
    /// Make another node the primary, without errors for clients
    Switchover(operate::SwitchoverArgs),
    /// Make a node the primary with what it has, when nobody can take over by himself
    Failover(operate::FailoverArgs),
    /// Let a standby cluster take writes and follow nobody
    Promote(turn::PromoteArgs),
    /// Make this cluster a standby of another one
    Demote(turn::DemoteArgs),
    /// Restart PostgreSQL of a node
    Restart(operate::RestartArgs),
    /// Start pgherd of a node here anew, as it is installed now, without ending a session
    Relaunch(relaunch::RelaunchArgs),
    /// Stop PostgreSQL of a node here, whose pgherd has been stopped
    Halt(halt::HaltArgs),
    /// Let nodes read their configuration files anew
    Reload(operate::ReloadArgs),
    /// Let a node copy its data directory anew
    Reinit(operate::ReinitArgs),
    /// Maintenance: nothing is started, taken over or rebuilt by itself, for a while
    Pause(operate::PauseArgs),
    /// End the maintenance
    Resume(operate::ResumeArgs),
    /// What was asked for, and how far it has come
    Requests(operate::RequestsArgs),
    /// Who may change something over HTTP
    User(user::UserArgs),
    /// Show, make and renew the certificates of the link between the nodes
    Certs(certs::CertsArgs),
    /// What is set for all nodes; the nodes' configuration files
    Config(config::ConfigArgs),
    /// From the configuration of Patroni, PgBouncer, Pgpool-II, repmgr and HAProxy to pgherd's
    Import(import::ImportArgs),
    /// A script that completes pgherd's commands for your shell
    Completions(manual::CompletionsArgs),
    /// Manual pages, one for each command
    Man(manual::ManArgs),
}

#[derive(Args, Debug)]
pub struct RunArgs {
    /// The node's configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Start a session of its own, away from this terminal
    #[arg(long, hide = true)]
    pub own_session: bool,
    /// Take over from the process that started this one, speaks through its standard input, and has these ports open
    #[arg(long, hide = true, value_delimiter = ',', num_args = 1..)]
    pub take_over: Option<Vec<SocketAddr>>,
}

#[derive(Args, Debug)]
pub struct FencerArgs {
    /// The node's directory
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// How an answer is printed; shared by every client command.
#[derive(Args, Debug, Clone, Copy)]
pub struct OutputArgs {
    /// Print JSON, the same as -o json
    #[arg(long)]
    json: bool,
    /// Format of the output
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table, conflicts_with = "json")]
    output: Format,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Table,
    Json,
}

impl OutputArgs {
    fn is_json(self) -> bool {
        self.json || self.output == Format::Json
    }
}

/// Runs a client command to its end.
pub fn client(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(_) | Command::Fencer(_) => {
            Err(Failure::new(Exit::Usage, "the daemon is no client command"))
        }
        Command::Demo(args) => demo::demo(&args),
        Command::Status(args) => status::status(&args),
        Command::Events(args) => events::events(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Explain(args) => explain::explain(&args),
        Command::History(args) => history::history(&args),
        Command::Psql(args) => psql::psql(&args),
        Command::Member(args) => member::member(&args),
        Command::Switchover(args) => operate::switchover(&args),
        Command::Failover(args) => operate::failover(&args),
        Command::Promote(args) => turn::promote(&args),
        Command::Demote(args) => turn::demote(&args),
        Command::Restart(args) => operate::restart(&args),
        Command::Relaunch(args) => relaunch::relaunch(&args),
        Command::Halt(args) => halt::halt(&args),
        Command::Reload(args) => operate::reload(&args),
        Command::Reinit(args) => operate::reinit(&args),
        Command::Pause(args) => operate::pause(&args),
        Command::Resume(args) => operate::resume(&args),
        Command::Requests(args) => operate::requests(&args),
        Command::User(args) => user::user(&args),
        Command::Certs(args) => certs::certs(&args),
        Command::Config(args) => config::config(&args),
        Command::Import(args) => import::import(&args),
        Command::Completions(args) => manual::completions(&args),
        Command::Man(args) => manual::man(&args),
    }
}

/// Writes to standard output; a reader that went away ends the command in peace, as other tools do.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}

/// Pretty JSON and a newline.
fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Exit::General, "the answer cannot be written as JSON").why(error))?;
    print(&format!("{text}\n"))
}

/// The status that the node at `url` tells a command, which knows its certificate or does not.
#[cfg(test)]
pub(crate) fn told_status(url: &str, cert: Option<PathBuf>) -> Result<crate::api::StatusReport, Failure> {
    let address = target::Address { node: None, url: url.to_owned(), cert };
    client::Client::of(vec![address])?.ask("/api/v1/status")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_has_two_spellings() {
        for arguments in [["pgherd", "status", "--json"].as_slice(), &["pgherd", "status", "-o", "json"]] {
            let Command::Status(args) = Cli::parse_from(arguments).command else { panic!("not status") };
            assert!(args.output.is_json());
        }
        assert!(Cli::try_parse_from(["pgherd", "status", "--json", "-o", "table"]).is_err());
    }
}
