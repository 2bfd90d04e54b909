//! `pgherd status`: the cluster in one screen, once or again each second.

mod burdens;
mod slots;
mod table;
mod watch;

use clap::Args;

use super::client::Client;
use super::failure::Failure;
use super::target::TargetArgs;
use super::{OutputArgs, print, print_json};

#[derive(Args, Debug)]
pub struct StatusArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    /// Draw again each second, until q or Ctrl-C
    #[arg(long, short = 'w')]
    watch: bool,
}

pub fn status(args: &StatusArgs) -> Result<(), Failure> {
    let client = Client::new(&args.target)?;
    if args.watch {
        return watch::watch(&client, args.output.is_json());
    }
    let answered = client.status()?;
    if args.output.is_json() {
        return print_json(&answered.report);
    }
    print(&table::screen(&answered))
}
