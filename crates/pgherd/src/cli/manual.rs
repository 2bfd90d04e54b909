//! What a shell and `man` know of pgherd, made from the command line's own description.

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::failure::{Exit, Failure};
use super::{Cli, print};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  pgherd completions bash > /etc/bash_completion.d/pgherd
  pgherd completions fish > ~/.config/fish/completions/pgherd.fish
  pgherd completions zsh  > \"${fpath[1]}/_pgherd\"")]
pub struct CompletionsArgs {
    shell: Shell,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:
  pgherd man --out /usr/local/share/man/man1")]
pub struct ManArgs {
    /// The folder for the pages: pgherd.1, pgherd-status.1 and so on
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "pgherd", &mut script);
    print(&String::from_utf8_lossy(&script))
}

pub fn man(args: &ManArgs) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let what = format!("the pages cannot be written to {}", args.out.display());
        Failure::new(Exit::Precondition, what).why(error)
    };
    fs::create_dir_all(&args.out).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.out).map_err(failed)?;
    print(&format!("manual pages are in {}\n", args.out.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_every_shell_knows_it() {
        let dir = tempfile::tempdir().unwrap();
        man(&ManArgs { out: dir.path().to_owned() }).unwrap();
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            assert!(dir.path().join(format!("pgherd-{name}.1")).exists(), "{name}");
            for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Cli::command(), "pgherd", &mut script);
                assert!(String::from_utf8(script).unwrap().contains(name), "{shell} {name}");
            }
        }
    }
}
