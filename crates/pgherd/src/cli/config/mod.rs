//! `pgherd config`: the nodes' configuration files, made and checked.

mod init;
mod questions;

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
