//! Which suites there are, and how each is started.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::harness::Harness;
use crate::lines::{self, Outcome};
use crate::options::Options;

/// Of one test: the slowest of asyncpg's takes five seconds.
const TEST_SECONDS_MAX: &str = "40";

#[derive(Clone, Copy, Debug)]
enum Runner {
    /// Arguments to pytest in the folder of the driver's own suite.
    Own(&'static [&'static str]),
    /// A file of ours for pytest.
    Python(&'static str),
    /// A file of ours, and the package that it uses.
    Node(&'static str, &'static str),
    /// A file of ours.
    Java(&'static str),
    /// A program that xtask has built of the driver's own suite, what it is told by variables, and what it prints.
    Built(&'static str, &'static [(&'static str, &'static str)], Harness),
}

/// What a test is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// What it does direct.
    AsDirect,
    /// To pass: direct there is nothing of what it asks.
    Passes,
}

#[derive(Debug)]
pub struct Suite {
    pub name: &'static str,
    runner: Runner,
    /// What the database is to have.
    pub before: &'static [&'static str],
    pub claim: Claim,
    /// It is a part of every `cargo xtask test`.
    bounded: bool,
}

impl Suite {
    const fn new(name: &'static str, runner: Runner) -> Suite {
        Suite { name, runner, before: &[], claim: Claim::AsDirect, bounded: false }
    }

    const fn bounded(self) -> Suite {
        Suite { bounded: true, ..self }
    }
}

const ALL: [Suite; 13] = [
    // Each of its files has a function test_suite that only collects the others.
    Suite::new("psycopg2", Runner::Own(&["tests", "-k", "not test_suite"])).bounded(),
    // Two linters.
    Suite::new("asyncpg", Runner::Own(&["tests", "--ignore", "tests/test__sourcecode.py"])),
    // What asks for a pg_hba.conf of its own is left out.
    Suite {
        before: &["CREATE EXTENSION hstore"],
        ..Suite::new(
            "pg8000",
            Runner::Own(&[
                "test",
                "--benchmark-disable",
                "--ignore-glob=*/auth",
                "--ignore=test/test_readme.py",
            ]),
        )
    },
    Suite::new("psycopg", Runner::Python("test_psycopg.py")).bounded(),
    Suite::new("sqlalchemy", Runner::Python("test_sqlalchemy.py")).bounded(),
    Suite::new("django", Runner::Python("test_django.py")).bounded(),
    Suite::new("node-postgres", Runner::Node("node_postgres.js", "pg")).bounded(),
    Suite::new("postgres.js", Runner::Node("postgres_js.js", "postgres")).bounded(),
    Suite::new("jdbc", Runner::Java("Jdbc.java")).bounded(),
    // Its roles, with the methods of pg_hba.conf that `pass` gives them.
    Suite {
        before: &[
            "CREATE ROLE pass_user LOGIN PASSWORD 'password'",
            "SET password_encryption = 'md5'; CREATE ROLE md5_user LOGIN PASSWORD 'password'",
            "CREATE ROLE scram_user LOGIN PASSWORD 'password'",
            "CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree",
        ],
        ..Suite::new("tokio-postgres", Runner::Built("rust/suite", &[], Harness::Libtest)).bounded()
    },
    Suite::new("lib-pq", Runner::Built("go/pq.test", &[], Harness::Go)).bounded(),
    Suite::new(
        "lib-pq-binary",
        Runner::Built("go/pq.test", &[("PQTEST_BINARY_PARAMETERS", "yes")], Harness::Go),
    ),
    // Of the admin console, which PostgreSQL does not have.
    Suite { claim: Claim::Passes, ..Suite::new("exporter", Runner::Python("test_exporter.py")).bounded() },
];

/// Those with these names; without one all, or all of the bounded part.
pub fn chosen(names: &[String], bounded: bool) -> Result<Vec<&'static Suite>> {
    for name in names {
        let known = ALL.map(|suite| suite.name);
        ensure!(
            known.contains(&name.as_str()),
            "there is no suite \"{name}\"; there are {}",
            known.join(", ")
        );
    }
    let is_chosen = |suite: &&Suite| match names {
        [] => suite.bounded || !bounded,
        names => names.iter().any(|name| name == suite.name),
    };
    Ok(ALL.iter().filter(is_chosen).collect())
}

impl Suite {
    /// xtask leaves out what needs a language that the machine does not have.
    pub fn is_here(&self, options: &Options) -> bool {
        match self.runner {
            Runner::Own(_) | Runner::Python(_) => options.fetched.join("python/versions").is_file(),
            Runner::Built(program, ..) => options.fetched.join(program).is_file(),
            Runner::Node(_, package) => options.fetched.join("node/node_modules").join(package).is_dir(),
            Runner::Java(_) => jar(options).is_file(),
        }
    }

    /// The program that runs all of its tests; their lines go where `PGHERD_LINES` says.
    pub fn command(&self, options: &Options) -> Command {
        match self.runner {
            Runner::Own(arguments) => {
                let mut command = pytest(options);
                command.args(arguments).current_dir(options.fetched.join("python").join(self.name));
                command
            }
            Runner::Python(file) => {
                let mut command = pytest(options);
                command.arg(options.programs.join(file)).current_dir(&options.programs);
                command
            }
            Runner::Node(file, _) => {
                let mut command = Command::new("node");
                command.arg(options.programs.join(file)).current_dir(&options.fetched);
                command.env("NODE_PATH", options.fetched.join("node/node_modules"));
                command
            }
            Runner::Java(file) => {
                let mut command = Command::new("java");
                command.arg("-cp").arg(jar(options)).arg(options.programs.join(file));
                command.current_dir(&options.fetched);
                command
            }
            Runner::Built(program, variables, harness) => {
                let mut command = Command::new(options.fetched.join(program));
                command.args(harness.arguments()).envs(variables.iter().copied());
                command.current_dir(&options.fetched);
                command
            }
        }
    }

    /// How its tests have ended: by the lines of ours, or by what was printed.
    pub fn outcomes(&self, lines: &str, printed: &str) -> BTreeMap<String, Outcome> {
        match self.runner {
            Runner::Built(_, _, harness) => harness.outcomes(printed),
            _ => lines::parse(lines),
        }
    }
}

fn pytest(options: &Options) -> Command {
    let mut command = Command::new(options.fetched.join("python/venv/bin/python"));
    command.args(["-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "pgherd_lines"]);
    command.args(["--timeout", TEST_SECONDS_MAX, "--override-ini", "addopts="]);
    // A library that is told to be quiet in its own tests would speak here; and nothing is written beside our programs.
    command.env("PYTHONPATH", &options.programs).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn jar(options: &Options) -> PathBuf {
    options.fetched.join("jdbc/java/postgresql.jar")
}
