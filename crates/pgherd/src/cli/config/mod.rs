//! `pgherd config`: the nodes' configuration files, made and checked; and what is set for all nodes, shown and changed.

mod change;
mod init;
mod newcomer;
mod questions;
mod show;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::failure::{Exit, Failure};
use super::print;
use crate::config::{self, ConfigError};

#[derive(Args, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Subcommand, Debug)]
enum ConfigCommand {
    /// Write the files of a new cluster: a folder for each node, with its configuration and certificates
    Init(init::InitArgs),
    /// Write the files of a node that is to join a cluster that runs
    Add(newcomer::AddArgs),
    /// Show what is set for all nodes
    Show(show::ShowArgs),
    /// Show what a text would change, or which node has not applied the newest
    Diff(show::DiffArgs),
    /// Change single settings for all nodes
    Set(change::SetArgs),
    /// Change what is set for all nodes in an editor
    Edit(change::EditArgs),
    /// Set the text of a file for all nodes, instead of what is set
    Apply(change::FileArgs),
    /// Go back to an earlier text
    Rollback(change::RollbackArgs),
    /// Read a node's file as the node would, and say what is wrong with it
    Check {
        /// The node's configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

pub fn config(args: &ConfigArgs) -> Result<(), Failure> {
    match &args.command {
        ConfigCommand::Init(args) => init::init(args),
        ConfigCommand::Add(args) => newcomer::add(args),
        ConfigCommand::Show(args) => show::show(args),
        ConfigCommand::Diff(args) => show::diff(args),
        ConfigCommand::Set(args) => change::set(args),
        ConfigCommand::Edit(args) => change::edit(args),
        ConfigCommand::Apply(args) => change::apply_file(args),
        ConfigCommand::Rollback(args) => change::rollback(args),
        ConfigCommand::Check { config } => {
            let read = config::load(config).map_err(wrong)?;
            print(&format!(
                "{} is right: node {} of cluster {}, {} nodes\n",
                config.display(),
                read.node.name,
                read.cluster,
                read.peers.len()
            ))
        }
    }
}

fn wrong(error: ConfigError) -> Failure {
    Failure::new(Exit::Configuration, error.to_string()).next("mend the file, then the same command again")
}
