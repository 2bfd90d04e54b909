//! `pgherd promote` and `pgherd demote`: a standby cluster becomes one that is written to, and back.
//!
//! Both say what is known of the other cluster and want this one's name before anything is asked for.

use brain::Ask;
use clap::Args;

use super::client::Client;
use super::failure::{Exit, Failure};
use super::operate::ask_for_name;
use super::request::{WaitArgs, carry_out};
use crate::api::{OriginStatus, StatusReport};

#[derive(Args, Debug)]
pub struct PromoteArgs {
    /// Also when the cluster that is followed answers: then two clusters take writes
    #[arg(long)]
    force: bool,
    /// The cluster's name, instead of typing it when asked
    #[arg(long, value_name = "CLUSTER")]
    confirm: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

#[derive(Args, Debug)]
pub struct DemoteArgs {
    /// PostgreSQL of each node of the cluster to follow: host:port, with commas between
    #[arg(long, value_name = "HOSTS", value_delimiter = ',', required = true)]
    to_standby_of: Vec<String>,
    /// A permanent physical slot there
    #[arg(long, value_name = "NAME")]
    slot: Option<String>,
    /// The cluster's name, instead of typing it when asked: what only this cluster has is lost
    #[arg(long, value_name = "CLUSTER")]
    confirm: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

pub fn promote(args: &PromoteArgs) -> Result<(), Failure> {
    let report = Client::new(&args.wait.target)?.status()?.report;
    let Some(origin) = &report.origin else {
        let state = report
            .primary
            .as_ref()
            .map_or("it follows no other cluster".to_owned(), |primary| format!("{primary} is its primary"));
        return Err(Failure::new(
            Exit::Precondition,
            format!("{} is no standby cluster: {state}", report.cluster),
        ));
    };
    confirm(&report, args.confirm.as_deref(), &known_of(origin))?;
    carry_out(&Ask::Promote { force: args.force }, &args.wait)
}

pub fn demote(args: &DemoteArgs) -> Result<(), Failure> {
    let report = Client::new(&args.wait.target)?.status()?.report;
    let hosts: Vec<String> = args.to_standby_of.iter().map(|host| host.trim().to_owned()).collect();
    let known = format!(
        "this cluster takes no more writes and follows {}; what it has and the other has not is rewound (kept and listed, but gone from the tables)",
        hosts.join(", ")
    );
    confirm(&report, args.confirm.as_deref(), &known)?;
    carry_out(&Ask::Demote { hosts, slot: args.slot.clone() }, &args.wait)
}

/// In words: what this cluster has of the other, and what the other says now.
fn known_of(origin: &OriginStatus) -> String {
    let or = |value: &Option<String>, none: &str| value.clone().unwrap_or_else(|| none.to_owned());
    let end = origin.lsn.map_or("unknown".to_owned(), |lsn| lsn.to_string());
    format!(
        "the last WAL of {} here ends at {end}, streamed at {}, its last commit of {}; now {}",
        origin.hosts.join(", "),
        or(&origin.streamed_at, "no time known"),
        or(&origin.last_commit, "no time known"),
        origin.seen
    )
}

fn confirm(report: &StatusReport, confirmed: Option<&str>, known: &str) -> Result<(), Failure> {
    match confirmed {
        Some(name) if name == report.cluster => Ok(()),
        Some(name) => {
            let what = format!("--confirm names {name}, this cluster is {}", report.cluster);
            Err(Failure::new(Exit::Usage, what).why(known))
        }
        None => ask_for_name(&report.cluster, known),
    }
}
