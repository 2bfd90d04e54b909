//! The command line of the bench.

use crate::event::Event;

pub const USAGE: &str = "\
  next: cargo xtask bench failover [--runs 20] [--only EVENT,…] [--json] [--versus patroni [--patroni-runs 5]]";

/// The other system takes up to a minute for each of its runs.
const PATRONI_RUNS: usize = 5;

#[derive(Debug)]
pub struct Options {
    pub runs: usize,
    pub patroni_runs: usize,
    /// In the table's order, whatever order they were named in.
    pub events: Vec<Event>,
    /// Print JSON in the place of the tables.
    pub json: bool,
    pub versus: bool,
}

impl Options {
    pub fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            runs: 20,
            patroni_runs: PATRONI_RUNS,
            events: Event::ALL.to_vec(),
            json: false,
            versus: false,
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            if word == "--json" {
                options.json = true;
                continue;
            }
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, value.to_owned()),
                None => (word.as_str(), words.next().cloned().unwrap_or_default()),
            };
            match name {
                "--runs" => options.runs = number(&value)?,
                "--patroni-runs" => options.patroni_runs = number(&value)?,
                "--only" => options.events = named(&value)?,
                "--versus" if value == "patroni" => options.versus = true,
                "--versus" => return Err(format!("\"{value}\": it can be measured against patroni only")),
                _ => return Err(format!("unknown argument \"{word}\"")),
            }
        }
        Ok(options)
    }
}

fn number(value: &str) -> Result<usize, String> {
    let parsed = value.parse().ok().filter(|&runs: &usize| runs > 0);
    parsed.ok_or_else(|| format!("\"{value}\" is no number of runs"))
}

fn named(value: &str) -> Result<Vec<Event>, String> {
    let names: Vec<&str> = value.split(',').map(str::trim).collect();
    if let Some(unknown) = names.iter().find(|name| Event::ALL.iter().all(|event| event.name() != **name)) {
        let known: Vec<&str> = Event::ALL.iter().map(|event| event.name()).collect();
        return Err(format!("there is no event \"{unknown}\"; there are: {}", known.join(", ")));
    }
    Ok(Event::ALL.into_iter().filter(|event| names.contains(&event.name())).collect())
}
