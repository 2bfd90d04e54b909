//! `pgherd member`: who belongs to the cluster, and changing it.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};

use super::client::{Change, Client};
use super::failure::{Exit, Failure};
use super::target::TargetArgs;
use super::{OutputArgs, print, print_json};
use crate::api::{Accepted, MembersReport, NewMember};

/// How often a change under way is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

#[derive(Args, Debug)]
pub struct MemberArgs {
    #[command(subcommand)]
    command: MemberCommand,
}

#[derive(Subcommand, Debug)]
enum MemberCommand {
    /// The nodes of the cluster and their part in its store
    List(ListArgs),
    /// Let a node join; start it with a configuration that names one of the others
    Add(AddArgs),
    /// Take a node out of the cluster; its data stays on its machine
    Remove(RemoveArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct AddArgs {
    name: String,
    /// Where its agent is reached by the others
    #[arg(long, value_name = "HOST:PORT")]
    peer: String,
    /// Where its PostgreSQL is reached
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "witness", conflicts_with = "witness")]
    postgres: Option<String>,
    /// It has a vote and no PostgreSQL
    #[arg(long)]
    witness: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
struct RemoveArgs {
    name: String,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug, Clone, Copy)]
struct WaitArgs {
    /// Return once it is done, or fail after so many seconds [default: 60]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "60")]
    wait: Option<u64>,
}

pub fn member(args: &MemberArgs) -> Result<(), Failure> {
    match &args.command {
        MemberCommand::List(args) => list(args),
        MemberCommand::Add(args) => {
            let client = Client::new(&args.target)?;
            let new = NewMember {
                name: args.name.clone(),
                peer: args.peer.clone(),
                postgres: args.postgres.clone(),
                witness: args.witness,
            };
            let accepted = add(&client, &new)?;
            let next = format!("start it: pgherd run --config FILE on {}", args.name);
            tell(
                &format!("adding {}", args.name),
                &accepted,
                args.output,
                args.wait.wait.is_none().then_some(&next),
            )?;
            wait(&client, args.wait, &format!("{} has not joined", args.name), &next, |report| {
                joined(report, &args.name)
            })
        }
        MemberCommand::Remove(args) => {
            let client = Client::new(&args.target)?;
            let accepted = remove(&client, &args.name)?;
            tell(&format!("removing {}", args.name), &accepted, args.output, None)?;
            let next = "pgherd member list; while there is no open primary nobody is let go";
            wait(&client, args.wait, &format!("{} has not left", args.name), next, |report| {
                left(report, &args.name)
            })
        }
    }
}

pub fn add(client: &Client, new: &NewMember) -> Result<Accepted, Failure> {
    let body = serde_json::to_value(new)
        .map_err(|error| Failure::new(Exit::General, "the request cannot be written as JSON").why(error))?;
    client.change(Change::Post(&body), "/api/v1/members")
}

pub fn remove(client: &Client, name: &str) -> Result<Accepted, Failure> {
    client.change(Change::Delete, &format!("/api/v1/members/{name}"))
}

/// The change, as one line for people.
pub fn receipt(what: &str, accepted: &Accepted) -> String {
    let id = accepted.id.map(|id| format!(" (change {id})")).unwrap_or_default();
    format!("{what}{id}\n")
}

/// It votes.
pub fn joined(report: &MembersReport, name: &str) -> bool {
    report.members.iter().any(|member| member.name == name && member.state == "member")
}

pub fn left(report: &MembersReport, name: &str) -> bool {
    report.members.iter().all(|member| member.name != name)
}

fn tell(what: &str, accepted: &Accepted, output: OutputArgs, next: Option<&String>) -> Result<(), Failure> {
    if output.is_json() {
        return print_json(accepted);
    }
    let next = next.map(|next| format!("  next: {next}\n")).unwrap_or_default();
    print(&format!("{}{next}", receipt(what, accepted)))
}

fn wait(
    client: &Client,
    args: WaitArgs,
    what: &str,
    next: &str,
    done: impl Fn(&MembersReport) -> bool,
) -> Result<(), Failure> {
    let Some(seconds) = args.wait else { return Ok(()) };
    wait_until(client, Duration::from_secs(seconds), done).map_err(|last| {
        Failure::new(Exit::General, format!("{what} within {seconds} s")).why(last).next(next)
    })
}

/// Until the report of a node that knows it says so; the error is what was seen last.
pub fn wait_until(
    client: &Client,
    deadline: Duration,
    done: impl Fn(&MembersReport) -> bool,
) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        let answers = client.ask_each::<MembersReport>(|_| "/api/v1/members".to_owned());
        let reports: Vec<MembersReport> = answers.into_iter().flatten().flatten().collect();
        if reports.iter().any(&done) {
            return Ok(());
        }
        if begun.elapsed() >= deadline {
            return Err(reports.first().map_or_else(|| "no node answers".to_owned(), table));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let report: MembersReport = Client::new(&args.target)?.ask("/api/v1/members")?;
    if args.output.is_json() {
        return print_json(&report);
    }
    print(&table(&report))
}

fn table(report: &MembersReport) -> String {
    let mut rows = vec![["NODE", "KIND", "STATE", "STORE", "PEER", "POSTGRES"].map(str::to_owned)];
    rows.extend(report.members.iter().map(|member| {
        let postgres = member.postgres.clone().unwrap_or_else(|| "-".to_owned());
        [&member.name, &member.kind, &member.state, &member.store, &member.peer, &postgres].map(String::clone)
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |row: &[String; 6]| {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    let mut text: String = rows.iter().map(line).collect();
    if let Some(trouble) = &report.store_trouble {
        text.push_str(&format!("\nthe store of {} takes no part: {trouble}\n", report.from));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::MemberReport;

    fn report() -> MembersReport {
        let member = |name: &str, state: &str| MemberReport {
            name: name.into(),
            kind: "full".into(),
            peer: "h:7432".into(),
            postgres: Some("h:5432".into()),
            state: state.into(),
            store: "voter".into(),
        };
        MembersReport {
            cluster: "demo".into(),
            from: "n1".into(),
            members: vec![member("n1", "member"), member("n2", "leaving")],
            removed: Vec::new(),
            store_trouble: None,
        }
    }

    #[test]
    fn the_table_is_aligned() {
        let expected = "NODE  KIND  STATE    STORE  PEER    POSTGRES\n\
                        n1    full  member   voter  h:7432  h:5432\n\
                        n2    full  leaving  voter  h:7432  h:5432\n";
        assert_eq!(table(&report()), expected);
    }

    #[test]
    fn who_has_joined_and_who_has_left() {
        assert!(joined(&report(), "n1") && !joined(&report(), "n2") && !joined(&report(), "n3"));
        assert!(left(&report(), "n3") && !left(&report(), "n2"));
    }
}
