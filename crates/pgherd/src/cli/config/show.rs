//! `pgherd config show` and `diff`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::super::client::{Change, Client};
use super::super::failure::{Exit, Failure};
use super::super::target::TargetArgs;
use super::super::{OutputArgs, print, print_json};
use crate::api::{ConfigChange, ConfigReport, NewConfig};

const PATH: &str = "/api/v1/config";

#[derive(Args, Debug)]
pub struct ShowArgs {
    /// All that can be set for all nodes, as it is in force on the node that answers
    #[arg(long, conflicts_with = "number")]
    all: bool,
    /// An earlier text
    #[arg(long, value_name = "NUMBER")]
    number: Option<u64>,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Debug)]
pub struct DiffArgs {
    /// What would change if the text of this file were set for all nodes
    #[arg(conflicts_with = "number")]
    file: Option<PathBuf>,
    /// What would change by going back to an earlier text
    #[arg(long, value_name = "NUMBER")]
    number: Option<u64>,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// The newest that any node knows.
pub fn newest(client: &Client) -> Result<ConfigReport, Failure> {
    let answers = client.ask_each::<ConfigReport>(|_| PATH.to_owned())?;
    let newest = answers.into_iter().flatten().max_by_key(|report| report.number);
    newest.ok_or_else(|| Failure::new(Exit::Unreachable, "no node has told what is set for all nodes"))
}

/// What `text` would change.
pub fn planned(client: &Client, number: u64, text: &str) -> Result<ConfigChange, Failure> {
    propose(client, NewConfig { text: text.to_owned(), number, dry_run: true })
}

pub fn propose(client: &Client, new: NewConfig) -> Result<ConfigChange, Failure> {
    let body = serde_json::to_value(new)
        .map_err(|error| Failure::new(Exit::General, "the text cannot be written as JSON").why(error))?;
    client.change(Change::Post(&body), PATH)
}

pub fn text_of(report: &ConfigReport, number: u64) -> Result<String, Failure> {
    let past = report.previous.iter().find(|past| past.number == number).map(|past| past.text.clone());
    let known = past.or_else(|| (number == report.number).then(|| report.text.clone()));
    known.or_else(|| (number == 0).then(String::new)).ok_or_else(|| {
        let numbers: Vec<String> = report.previous.iter().map(|past| past.number.to_string()).collect();
        Failure::new(Exit::Usage, format!("configuration {number} is not remembered"))
            .why(format!("remembered are {}", or_none(&numbers)))
    })
}

pub fn show(args: &ShowArgs) -> Result<(), Failure> {
    let report = newest(&Client::new(&args.target)?)?;
    if args.output.is_json() {
        return print_json(&report);
    }
    if let Some(number) = args.number {
        return print(&text_of(&report, number)?);
    }
    print(&if args.all { all(&report) } else { set(&report) })
}

/// The text under a heading in comments, so that it can be kept as a file.
fn set(report: &ConfigReport) -> String {
    let cluster = &report.cluster;
    let Some(changed_at) = &report.changed_at else {
        return format!(
            "# Nothing is set for all nodes of {cluster}: each node's own file says it.\n\
             # pgherd config set KEY=VALUE sets something; pgherd config show --all shows what can be set.\n"
        );
    };
    let mut text = format!(
        "# Set for all nodes of {cluster}: number {}, changed {changed_at} by {}.\n",
        report.number, report.changed_by
    );
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# {}", applied(report));
    text.push_str(&report.text);
    text
}

fn applied(report: &ConfigReport) -> String {
    let behind: Vec<String> = report
        .applied
        .iter()
        .filter(|(_, number)| **number != report.number)
        .map(|(name, number)| format!("{name} (has {number})"))
        .collect();
    match behind.is_empty() {
        true => "Applied by every node.".to_owned(),
        false => format!("Not applied yet by {}.", behind.join(", ")),
    }
}

fn all(report: &ConfigReport) -> String {
    let width = report.values.iter().map(|value| value.key.len()).max().unwrap_or_default();
    let row = |value: &crate::api::ConfigValue| {
        let shown = value.value.as_deref().map_or("(none)".to_owned(), one_line);
        let mark = if value.of_cluster { "  <- set for all nodes" } else { "" };
        format!("{:width$}  {shown}{mark}\n", value.key)
    };
    report.values.iter().map(row).collect()
}

pub fn diff(args: &DiffArgs) -> Result<(), Failure> {
    let client = Client::new(&args.target)?;
    let report = newest(&client)?;
    let text = match (&args.file, args.number) {
        (Some(file), _) => read(file)?,
        (None, Some(number)) => text_of(&report, number)?,
        (None, None) if args.output.is_json() => return print_json(&report.applied),
        (None, None) => return print(&format!("Number {}. {}\n", report.number, applied(&report))),
    };
    let change = planned(&client, report.number, &text)?;
    if args.output.is_json() { print_json(&change) } else { print(&table(&change)) }
}

pub fn read(file: &PathBuf) -> Result<String, Failure> {
    std::fs::read_to_string(file)
        .map_err(|error| Failure::new(Exit::Usage, format!("cannot read {}", file.display())).why(error))
}

/// What would change, how it comes into force, and in which order.
pub fn table(change: &ConfigChange) -> String {
    let changes = &change.plan.changes;
    if changes.is_empty() {
        return "No setting would change.\n".to_owned();
    }
    let shown = |value: &Option<String>| value.as_deref().map_or("(not set)".to_owned(), one_line);
    let rows: Vec<[String; 3]> = changes
        .iter()
        .map(|change| {
            let difference = &change.difference;
            let values = format!("{} -> {}", shown(&difference.from), shown(&difference.to));
            [difference.key.clone(), values, change.effect.words().to_owned()]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let (keys, values) = (width(0), width(1));
    let line = |[key, value, effect]: &[String; 3]| format!("  {key:keys$}  {value:values$}  {effect}\n");
    let mut text: String = rows.iter().map(line).collect();
    let _ = writeln!(text, "\nApplied by one node after another: {}.", change.plan.order.join(", "));
    for name in &change.plan.away {
        let _ = writeln!(text, "{name} is away, and applies it when it is back.");
    }
    text
}

/// A list of lines as one.
fn one_line(value: &str) -> String {
    value.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
