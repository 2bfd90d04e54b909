//! The command line of `cargo xtask chaos`.

use std::path::PathBuf;
use std::time::Duration;

use crate::schedule::Fault;

pub const USAGE: &str = "\
cargo xtask chaos [--seconds 240] [--seed N] [--nodes 3|5] [--k 1|2] [--baseline 20] [--only FAULT,FAULT] [--keep]
cargo xtask chaos --schedule [--seconds 240] [--seed N] [--nodes 3|5]    print the faults of a seed and do nothing
cargo xtask chaos --check FILE                                           check a history that was kept";

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    pub seconds: u64,
    pub seed: u64,
    pub nodes: u16,
    pub k: u16,
    /// Seconds of the single PostgreSQL; 0 for none.
    pub baseline: u64,
    /// Only these faults; empty for all.
    pub only: Vec<Fault>,
    /// Keep the files of a run that found nothing.
    pub keep: bool,
    /// Print the schedule and do nothing.
    pub schedule: bool,
    pub check: Option<PathBuf>,
}

impl Options {
    pub fn parse(arguments: &[String], seed: u64) -> Result<Options, String> {
        let mut options = Options {
            seconds: 240,
            seed,
            nodes: 3,
            k: 1,
            baseline: 20,
            only: Vec::new(),
            keep: false,
            schedule: false,
            check: None,
        };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (argument.as_str(), None),
            };
            let mut value = || inline.clone().or_else(|| arguments.next().cloned()).unwrap_or_default();
            match name {
                "--seconds" => options.seconds = number(name, &value(), 10..=86_400)?,
                "--seed" => options.seed = number(name, &value(), 0..=u64::MAX)?,
                "--nodes" => options.nodes = number(name, &value(), 3..=5)? as u16,
                "--k" => options.k = number(name, &value(), 1..=4)? as u16,
                "--baseline" => options.baseline = number(name, &value(), 0..=3600)?,
                "--only" => options.only = faults(&value())?,
                "--check" => options.check = Some(value().into()),
                "--keep" => options.keep = true,
                "--schedule" => options.schedule = true,
                other => return Err(format!("unknown argument \"{other}\"")),
            }
        }
        if options.k >= options.nodes {
            return Err(format!(
                "{} nodes have only {} standbys to confirm",
                options.nodes,
                options.nodes - 1
            ));
        }
        Ok(options)
    }

    pub fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// The arguments that repeat this run.
    pub fn line(&self) -> String {
        let Options { seconds, seed, nodes, k, .. } = self;
        let mut line = format!("--seconds {seconds} --seed {seed} --nodes {nodes} --k {k}");
        if !self.only.is_empty() {
            let names: Vec<String> = self.only.iter().map(Fault::to_string).collect();
            line.push_str(&format!(" --only {}", names.join(",")));
        }
        line
    }
}

fn number(name: &str, text: &str, range: std::ops::RangeInclusive<u64>) -> Result<u64, String> {
    let parsed = text.parse().ok().filter(|number| range.contains(number));
    parsed.ok_or_else(|| {
        format!("{name} wants a number from {} to {}, not \"{text}\"", range.start(), range.end())
    })
}

fn faults(text: &str) -> Result<Vec<Fault>, String> {
    let named = |name: &str| {
        Fault::named(name)
            .ok_or_else(|| format!("there is no fault \"{name}\"; there are: {}", Fault::names().join(", ")))
    };
    text.split(',').map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>(), 1)
    }

    #[test]
    fn the_line_that_repeats_a_run_is_read_back() {
        let options = parse("--seconds=30 --seed 7 --nodes 5 --k 2 --only cut,full-disk").unwrap();
        assert_eq!(parse(&options.line()).unwrap(), options);
        assert_eq!((options.seconds, options.seed, options.nodes, options.k), (30, 7, 5, 2));
        assert_eq!(options.only, [Fault::Cut, Fault::FullDisk]);
    }

    #[test]
    fn wrong_arguments_are_refused() {
        for wrong in ["--seconds", "--seconds x", "--nodes 2", "--k 3", "--only frost", "--speed 3"] {
            parse(wrong).unwrap_err();
        }
    }
}
