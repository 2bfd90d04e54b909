//! `pgherd user`: who may change something over HTTP, in the file that `[http] users` names.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use super::credentials::ask;
use super::failure::{Exit, Failure};
use super::target::read_node_file;
use super::{OutputArgs, print, print_json};
use crate::api::access::{NewUser, UserRole, Users};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  pgherd user add anna --role operator --file /etc/pgherd/users      asks for the password
  pgherd user add deploy --role operator --config /etc/pgherd/pgherd.toml < /run/secrets/deploy
  pgherd switchover --to n2 --url https://n1:8432 --user anna

Each node reads its own file; give all nodes the same one.")]
pub struct UserArgs {
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Subcommand, Debug)]
enum UserCommand {
    /// Add a user, or give one another role and password; from standard input when that is no terminal
    Add {
        name: String,
        /// viewer reads, operator does what loses nothing, admin everything
        #[arg(long, default_value = "operator")]
        role: UserRole,
        #[command(flatten)]
        file: FileArgs,
    },
    /// Take a user out; at once, also where he is logged in
    Remove {
        name: String,
        #[command(flatten)]
        file: FileArgs,
    },
    /// Names and roles
    List {
        #[command(flatten)]
        file: FileArgs,
        #[command(flatten)]
        output: OutputArgs,
    },
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct FileArgs {
    /// The file of users
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// A node's configuration file, whose [http] users is meant
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl FileArgs {
    fn path(&self) -> Result<PathBuf, Failure> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let config = self.config.as_deref().unwrap_or(Path::new(""));
        read_node_file(config)?.http.users.ok_or_else(|| {
            Failure::new(Exit::Configuration, format!("{} names no file of users", config.display()))
                .next("add users = \"/etc/pgherd/users\" under [http], or use --file")
        })
    }
}

pub fn user(args: &UserArgs) -> Result<(), Failure> {
    match &args.command {
        UserCommand::Add { name, role, file } => add(name, *role, &file.path()?),
        UserCommand::Remove { name, file } => {
            let path = file.path()?;
            match Users::remove(&path, name)? {
                true => print(&format!("{name} is no user any more\n")),
                false => {
                    Err(Failure::new(Exit::General, format!("there is no user {name} in {}", path.display()))
                        .next("pgherd user list"))
                }
            }
        }
        UserCommand::List { file, output } => {
            let users = Users::list(&file.path()?)?;
            if output.is_json() {
                let users: Vec<_> =
                    users.iter().map(|(name, role)| json!({ "user": name, "role": role })).collect();
                return print_json(&users);
            }
            let width = users.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            users.iter().try_for_each(|(name, role)| print(&format!("{name:width$}  {}\n", role.word())))
        }
    }
}

fn add(name: &str, role: UserRole, path: &Path) -> Result<(), Failure> {
    let password = ask(&format!("New password of {name}: "))?;
    if std::io::stdin().is_terminal() && ask("Once more: ")? != password {
        return Err(Failure::new(Exit::Usage, "the passwords are not the same; nothing was written"));
    }
    let new = NewUser { name, role, password: password.as_bytes(), salt: rand::random() };
    let is_new = Users::add(path, &new)?;
    let what = if is_new { "is a user now" } else { "was a user already and has this role and password now" };
    print(&format!("{name} {what}: {} in {}\n", role.word(), path.display()))
}
