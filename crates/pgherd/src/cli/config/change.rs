//! `pgherd config set`, `edit`, `apply` and `rollback`: what it would do, then doing it, node after node, and back when a node cannot.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use brain::{Ask, Pending};
use clap::Args;

use super::super::client::Client;
use super::super::failure::{Exit, Failure};
use super::super::request::{Seen, WaitArgs, look_on, submit, watch};
use super::super::{print, print_json};
use super::show::{newest, planned, propose, read, table, text_of};
use crate::api::{ConfigChange, ConfigReport, NewConfig, NodeReport};
use crate::cluster_config::{Edit, Effect, edited};
use crate::postgres;

/// Nodes look at their servers' settings every few seconds.
const PENDING_WAIT: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(300);

const NEW_TEXT: &str = "\
# What is set here counts on every node, instead of what the node's own file says.
# docs/reference/config.md lists the settings; for example:
#
# [sync]
# standbys = 1
#
# [postgres.parameters]
# work_mem = \"64MB\"
";

#[derive(Args, Debug)]
pub struct ApplyArgs {
    /// Show what would happen, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Leave PostgreSQL running where it would have to restart; pgherd restart NODE does it later
    #[arg(long)]
    no_restart: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  pgherd config set postgres.parameters.work_mem=64MB
  pgherd config set sync.standbys=2 postgres.parameters.max_connections=300 --yes
  pgherd config set --unset postgres.parameters.work_mem")]
pub struct SetArgs {
    /// SECTION.NAME=VALUE, such as sync.standbys=2
    #[arg(value_name = "KEY=VALUE", value_parser = pair, required_unless_present = "unset")]
    settings: Vec<(String, String)>,
    /// Let each node's own file say it again
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    #[command(flatten)]
    apply: ApplyArgs,
}

#[derive(Args, Debug)]
pub struct EditArgs {
    #[command(flatten)]
    apply: ApplyArgs,
}

#[derive(Args, Debug)]
pub struct FileArgs {
    /// The whole of it, TOML
    file: PathBuf,
    #[command(flatten)]
    apply: ApplyArgs,
}

#[derive(Args, Debug)]
pub struct RollbackArgs {
    /// The one before the newest when none is named; 0: nothing set
    number: Option<u64>,
    #[command(flatten)]
    apply: ApplyArgs,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as sync.standbys=2")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

pub fn set(args: &SetArgs) -> Result<(), Failure> {
    let sets = args.settings.iter().map(|(key, value)| Edit::set(key, value));
    let edits: Vec<Edit> = sets.chain(args.unset.iter().map(|key| Edit::unset(key))).collect();
    let client = Client::new(&args.apply.wait.target)?;
    let report = newest(&client)?;
    let text = edited(&report.text, &edits).map_err(|why| Failure::new(Exit::Usage, why))?;
    apply(&client, &report, &text, &args.apply)
}

pub fn apply_file(args: &FileArgs) -> Result<(), Failure> {
    let client = Client::new(&args.apply.wait.target)?;
    let report = newest(&client)?;
    apply(&client, &report, &read(&args.file)?, &args.apply)
}

pub fn rollback(args: &RollbackArgs) -> Result<(), Failure> {
    let client = Client::new(&args.apply.wait.target)?;
    let report = newest(&client)?;
    let number = match args.number {
        Some(number) => number,
        None if report.number == 0 => {
            return Err(Failure::new(Exit::Usage, "nothing was ever set for all nodes"));
        }
        None => report.previous.last().map_or(0, |past| past.number),
    };
    apply(&client, &report, &text_of(&report, number)?, &args.apply)
}

/// In the user's editor, again until it is right or he gives up.
pub fn edit(args: &EditArgs) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, "without a terminal nothing can be edited")
            .next("pgherd config set KEY=VALUE --yes, or pgherd config apply FILE --yes"));
    }
    let client = Client::new(&args.apply.wait.target)?;
    let report = newest(&client)?;
    let folder = tempfile::Builder::new().prefix("pgherd-").tempdir()?;
    let file = folder.path().join(format!("{}.toml", report.cluster));
    std::fs::write(&file, if report.text.is_empty() { NEW_TEXT } else { &report.text })?;
    loop {
        run_editor(&file)?;
        let text = std::fs::read_to_string(&file)?;
        if text == report.text || text == NEW_TEXT {
            return print("Nothing was changed.\n");
        }
        match planned(&client, report.number, &text) {
            Ok(_) => return apply(&client, &report, &text, &args.apply),
            Err(failure) if failure.exit == Exit::Precondition => {
                print(&format!("{}\n\n", failure.what))?;
                if !is_agreed("Edit again?", true)? {
                    return Err(failure.next("pgherd config edit begins anew; nothing was changed"));
                }
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn run_editor(file: &std::path::Path) -> Result<(), Failure> {
    let named = ["VISUAL", "EDITOR"].into_iter().find_map(std::env::var_os).unwrap_or_else(|| "vi".into());
    // An editor may be named with arguments.
    let mut command = Command::new("sh");
    let status = command.arg("-c").arg("exec $0 \"$1\"").arg(&named).arg(file).status()?;
    if status.success() {
        return Ok(());
    }
    let what = format!("the editor {} has failed ({status}); nothing was changed", named.to_string_lossy());
    Err(Failure::new(Exit::General, what).next("EDITOR=nano pgherd config edit"))
}

/// `preferred` is taken for an empty line.
fn is_agreed(question: &str, preferred: bool) -> Result<bool, Failure> {
    print(&format!("{question} {} ", if preferred { "[Y/n]" } else { "[y/N]" }))?;
    let mut typed = String::new();
    std::io::stdin().lock().read_line(&mut typed)?;
    Ok(match typed.trim() {
        "" => preferred,
        word => word.eq_ignore_ascii_case("y") || word.eq_ignore_ascii_case("yes"),
    })
}

/// Shows what `text` would do, asks, does it.
fn apply(client: &Client, before: &ConfigReport, text: &str, args: &ApplyArgs) -> Result<(), Failure> {
    let is_json = args.wait.output.is_json();
    let change = planned(client, before.number, text)?;
    if args.dry_run {
        return if is_json { print_json(&change) } else { print(&plan_text(&change, args)) };
    }
    if text == before.text {
        return if is_json { print_json(&change) } else { print("That is in force already.\n") };
    }
    if !is_json {
        print(&plan_text(&change, args))?;
    }
    if !args.yes {
        if !std::io::stdin().is_terminal() || is_json {
            return Err(Failure::new(Exit::Usage, "not confirmed; nothing was changed").next("add --yes"));
        }
        if !is_agreed("Apply?", false)? {
            return print("Nothing was changed.\n");
        }
    }
    let done = propose(client, NewConfig { text: text.to_owned(), number: before.number, dry_run: false })?;
    if args.wait.no_wait {
        return if is_json {
            print_json(&done)
        } else {
            print("It is taken; pgherd requests tells how it goes on.\n")
        };
    }
    follow(client, before, &done, args)?;
    if !restarting(&done).is_empty() && !args.no_restart {
        restart(client, before, &done, args)?;
    }
    if is_json {
        print_json(&done)
    } else {
        print(&format!("Configuration {} is in force.\n", before.number + 1))
    }
}

fn plan_text(change: &ConfigChange, args: &ApplyArgs) -> String {
    let mut text = table(change);
    let restarting = restarting(change);
    if !restarting.is_empty() {
        let last = change.plan.order.last().map_or("", String::as_str);
        text.push_str(&match args.no_restart {
            true => format!("PostgreSQL must restart for {}; it is left to pgherd restart NODE.\n", restarting.join(", ")),
            false => format!(
                "Then PostgreSQL restarts on one node after another for {}. Writes are held while that of {last} does, and no\n\
                 session ends that is between two transactions.\n",
                restarting.join(", ")
            ),
        });
    }
    text
}

/// The settings that PostgreSQL takes at its start.
fn restarting(change: &ConfigChange) -> Vec<&str> {
    let changes = change.plan.changes.iter().filter(|change| change.effect == Effect::Restart);
    changes.map(|change| change.difference.key.as_str()).collect()
}

/// Watches each node apply it. When one cannot, those that have not begun are left out, and all go back.
fn follow(
    client: &Client,
    before: &ConfigReport,
    done: &ConfigChange,
    args: &ApplyArgs,
) -> Result<(), Failure> {
    for (at, id) in done.requests.iter().enumerate() {
        let failure = match look_on(client, *id, &args.wait)? {
            Seen::Done => continue,
            Seen::Failed(failure) => failure,
            Seen::Late(failure) | Seen::Interrupted(failure) => {
                return Err(failure.next(
                    "the nodes go on; pgherd config diff tells who has it, pgherd config rollback goes back",
                ));
            }
        };
        for later in &done.requests[at + 1..] {
            // They fail, too, having come after it.
            look_on(client, *later, &args.wait)?;
        }
        return Err(back(client, before, done.plan.number + 1, failure, args));
    }
    Ok(())
}

/// Sets the text again that was in force before, and says how that went.
fn back(client: &Client, before: &ConfigReport, number: u64, failure: Failure, args: &ApplyArgs) -> Failure {
    let again = NewConfig { text: before.text.clone(), number, dry_run: false };
    let why =
        failure.why.as_ref().map_or_else(|| failure.what.clone(), |why| format!("{}: {why}", failure.what));
    let failed = |failure: Failure| {
        Failure::new(Exit::Unfinished, "a node could not apply it, and going back has failed, too")
            .why(format!("{why}; then: {}", failure.what))
            .next(
                "pgherd config show and pgherd status tell where the nodes are; then pgherd config rollback",
            )
    };
    let done = match propose(client, again) {
        Ok(done) => done,
        Err(failure) => return failed(failure),
    };
    for id in &done.requests {
        if let Err(failure) = watch(client, *id, &args.wait) {
            return failed(failure);
        }
    }
    Failure::new(Exit::Unfinished, "a node could not apply it; every node has what it had before").why(why)
}

/// PostgreSQL of each node that waits for it, who is primary last, or first where PostgreSQL wants that.
fn restart(
    client: &Client,
    before: &ConfigReport,
    done: &ConfigChange,
    args: &ApplyArgs,
) -> Result<(), Failure> {
    let names: Vec<&str> =
        restarting(done).into_iter().filter_map(|key| key.strip_prefix("postgres.parameters.")).collect();
    let waits = |node: &NodeReport| node.condition.pending.iter().any(|p| names.contains(&p.name.as_str()));
    let begun = Instant::now();
    let report = loop {
        let report = client.status()?.report;
        let full = |node: &&NodeReport| node.postgres.is_some() && node.state != "unreachable";
        if report.nodes.iter().filter(full).all(waits) || begun.elapsed() > PENDING_WAIT {
            break report;
        }
        std::thread::sleep(LOOK_AGAIN);
    };
    let rank = |node: &&NodeReport| done.plan.order.iter().position(|name| *name == node.name);
    let mut nodes: Vec<&NodeReport> = report.nodes.iter().filter(|node| waits(node)).collect();
    nodes.sort_by_key(rank);
    // A standby may not have less of some settings than its primary.
    if nodes.iter().any(|node| node.condition.pending.iter().any(is_lowered)) {
        nodes.reverse();
    }
    for node in nodes {
        let ask = Ask::Restart { node: node.name.as_str().into(), force: false };
        let Some(id) = submit(client, &ask)? else { continue };
        let failure = match look_on(client, id, &args.wait)? {
            Seen::Done => continue,
            Seen::Failed(failure) => failure,
            Seen::Late(failure) if is_down(client, &node.name)? => failure,
            Seen::Late(failure) | Seen::Interrupted(failure) => {
                return Err(failure.next("pgherd status shows who waits for a restart; pgherd restart NODE"));
            }
        };
        return Err(back(client, before, done.plan.number + 1, failure, args).next(format!(
            "pgherd status shows {}; pgherd restart NODE takes up the old values",
            node.name
        )));
    }
    Ok(())
}

/// It does not start, as far as anybody sees.
fn is_down(client: &Client, name: &str) -> Result<bool, Failure> {
    let report = client.status()?.report;
    Ok(report.nodes.iter().any(|node| node.name == name && !node.healthy))
}

/// One of the settings of which a standby must have as much as its primary, and would have less.
fn is_lowered(pending: &Pending) -> bool {
    let numbers = pending.old.parse::<u64>().ok().zip(pending.new.parse::<u64>().ok());
    postgres::is_bound(&pending.name) && numbers.is_some_and(|(old, new)| new < old)
}
