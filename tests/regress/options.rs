//! The command line of the regression runs.

use std::path::PathBuf;
use std::time::Duration;

use crate::pass::Mode;

pub const USAGE: &str = "\
  next: cargo xtask test regress [--mode transaction|session|both|auto] [--bounded] [--timeout 90] [--jobs 20] [--crowd 6]
                                 [--protocol simple|extended|prepared] [test…]
        auto: through the port that routes by statement, with a replica
        a test is a name of PostgreSQL's schedule, or of libpq_pipeline's as in libpq_pipeline/nosync; all without one";

#[derive(Debug)]
pub struct Options {
    /// Where xtask has put the suite.
    pub suite: PathBuf,
    pub modes: Vec<Mode>,
    /// A fixed part of the suite that ends within four minutes.
    pub bounded: bool,
    /// Of one test.
    pub timeout: Duration,
    /// Tests at once, within a group of the schedule.
    pub jobs: usize,
    /// Sessions beside the tests that use the same servers and leave settings there.
    pub crowd: u64,
    /// In which psql asks.
    pub protocol: Protocol,
    pub tests: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Simple,
    /// With the unnamed statement.
    Extended,
    /// With a named statement for each text.
    Prepared,
}

impl Protocol {
    const ALL: [Protocol; 3] = [Protocol::Simple, Protocol::Extended, Protocol::Prepared];

    pub fn name(self) -> &'static str {
        match self {
            Protocol::Simple => "simple",
            Protocol::Extended => "extended",
            Protocol::Prepared => "prepared",
        }
    }

    fn named(name: &str) -> Result<Protocol, String> {
        let found = Protocol::ALL.into_iter().find(|protocol| protocol.name() == name);
        found.ok_or_else(|| format!("--protocol wants simple, extended or prepared, not \"{name}\""))
    }
}

impl Options {
    pub fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options {
            suite: PathBuf::new(),
            modes: vec![Mode::Session, Mode::Transaction],
            bounded: false,
            timeout: Duration::from_secs(90),
            jobs: 20,
            crowd: 6,
            protocol: Protocol::Simple,
            tests: Vec::new(),
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().cloned().unwrap_or_default();
            match word.as_str() {
                "--suite" => options.suite = value().into(),
                "--mode" => options.modes = modes(&value())?,
                "--bounded" => options.bounded = true,
                "--timeout" => options.timeout = Duration::from_secs(number(&value())?),
                "--jobs" => options.jobs = number(&value())? as usize,
                "--crowd" => options.crowd = value().parse().map_err(|_| "--crowd wants a number")?,
                "--protocol" => options.protocol = Protocol::named(&value())?,
                flag if flag.starts_with('-') => return Err(format!("unknown argument \"{flag}\"")),
                test => options.tests.push(test.to_owned()),
            }
        }
        if options.suite.as_os_str().is_empty() {
            return Err("no suite is named; start this through cargo xtask test regress".to_owned());
        }
        Ok(options)
    }
}

fn modes(value: &str) -> Result<Vec<Mode>, String> {
    match value {
        "session" => Ok(vec![Mode::Session]),
        "transaction" => Ok(vec![Mode::Transaction]),
        "auto" => Ok(vec![Mode::Auto]),
        "both" => Ok(vec![Mode::Session, Mode::Transaction]),
        other => Err(format!("--mode wants transaction, session, both or auto, not \"{other}\"")),
    }
}

fn number(value: &str) -> Result<u64, String> {
    let parsed = value.parse().ok().filter(|&number| number > 0);
    parsed.ok_or_else(|| format!("\"{value}\" is no number above 0"))
}
