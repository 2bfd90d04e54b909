//! Which suites there are, and how each is started.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

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
}

#[derive(Debug)]
pub struct Suite {
    pub name: &'static str,
    runner: Runner,
    /// What the database is to have.
    pub before: &'static [&'static str],
}

const ALL: [Suite; 9] = [
    // Each of its files has a function test_suite that only collects the others.
    Suite { name: "psycopg2", runner: Runner::Own(&["tests", "-k", "not test_suite"]), before: &[] },
    // Two linters.
    Suite {
        name: "asyncpg",
        runner: Runner::Own(&["tests", "--ignore", "tests/test__sourcecode.py"]),
        before: &[],
    },
    // What asks for a pg_hba.conf of its own is left out.
    Suite {
        name: "pg8000",
        runner: Runner::Own(&[
            "test",
            "--benchmark-disable",
            "--ignore-glob=*/auth",
            "--ignore=test/test_readme.py",
        ]),
        before: &["CREATE EXTENSION hstore"],
    },
    Suite { name: "psycopg", runner: Runner::Python("test_psycopg.py"), before: &[] },
    Suite { name: "sqlalchemy", runner: Runner::Python("test_sqlalchemy.py"), before: &[] },
    Suite { name: "django", runner: Runner::Python("test_django.py"), before: &[] },
    Suite { name: "node-postgres", runner: Runner::Node("node_postgres.js", "pg"), before: &[] },
    Suite { name: "postgres.js", runner: Runner::Node("postgres_js.js", "postgres"), before: &[] },
    Suite { name: "jdbc", runner: Runner::Java("Jdbc.java"), before: &[] },
];

/// Those with these names; all without one.
pub fn chosen(names: &[String]) -> Result<Vec<&'static Suite>> {
    for name in names {
        let known = ALL.map(|suite| suite.name);
        ensure!(
            known.contains(&name.as_str()),
            "there is no suite \"{name}\"; there are {}",
            known.join(", ")
        );
    }
    Ok(ALL.iter().filter(|suite| names.is_empty() || names.iter().any(|name| name == suite.name)).collect())
}

impl Suite {
    /// xtask leaves out what needs a language that the machine does not have.
    pub fn is_here(&self, options: &Options) -> bool {
        match self.runner {
            Runner::Own(_) | Runner::Python(_) => true,
            Runner::Node(_, package) => options.fetched.join("node/node_modules").join(package).is_dir(),
            Runner::Java(_) => jar(options).is_file(),
        }
    }

    /// The program that runs all of its tests; their lines go where `PGHERD_LINES` says.
    pub fn command(&self, options: &Options) -> Command {
        match self.runner {
            Runner::Own(arguments) => {
                let mut command = pytest(options);
                command.args(arguments).current_dir(options.fetched.join(self.name));
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
        }
    }
}

fn pytest(options: &Options) -> Command {
    let mut command = Command::new(options.fetched.join("venv/bin/python"));
    command.args(["-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "pgherd_lines"]);
    command.args(["--timeout", TEST_SECONDS_MAX, "--override-ini", "addopts="]);
    // A library that is told to be quiet in its own tests would speak here; and nothing is written beside our programs.
    command.env("PYTHONPATH", &options.programs).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn jar(options: &Options) -> PathBuf {
    options.fetched.join("jdbc/usr/share/java/postgresql.jar")
}
