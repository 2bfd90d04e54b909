//! Which tests there are, and in which order.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Before the name of a test of libpq_pipeline.
pub const PIPELINE: &str = "libpq_pipeline/";
/// What each other test of the suite builds upon, in the order of the schedule.
const FIXTURES: [&str; 1] = ["test_setup"];
/// For `--bounded`: those that say most about a proxy, with what they build upon. Sessions and their state, every kind of
/// transaction, COPY, cursors, large results, errors.
const BOUNDED: [&str; 46] = [
    "test_setup",
    "boolean",
    "strings",
    "numerology",
    "timetz",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "interval",
    "horology",
    "copy",
    "copyselect",
    "copydml",
    "insert",
    "create_function_c",
    "create_misc",
    "create_table",
    "create_index",
    "create_view",
    "create_am",
    "errors",
    "create_procedure",
    "select",
    "select_into",
    "transactions",
    "portals",
    "prepared_xacts",
    "privileges",
    "namespace",
    "password",
    "lock",
    "async",
    "create_role",
    "psql",
    "guc",
    "advisory_lock",
    "plancache",
    "copy2",
    "temp",
    "prepare",
    "plpgsql",
    "sequence",
    "largeobject",
    "xml",
    "stats",
];

#[derive(Debug)]
pub struct Suite {
    pub folder: PathBuf,
    /// Tests of one group run at the same time.
    pub groups: Vec<Vec<String>>,
}

impl Suite {
    /// The whole suite without what was not asked for.
    pub fn read(folder: &Path, bounded: bool, tests: &[String]) -> Result<Suite> {
        let schedule = folder.join("parallel_schedule");
        let text = fs::read_to_string(&schedule).with_context(|| format!("read {}", schedule.display()))?;
        let mut groups = groups(&text);
        // The one that finds the wire as it was.
        groups.extend(pipeline_tests(folder)?);
        let all: BTreeSet<String> = groups.iter().flatten().cloned().collect();
        for test in tests {
            ensure!(all.contains(test), "there is no test \"{test}\" in {}", schedule.display());
        }
        let wanted = |test: &String| match (tests.is_empty(), bounded) {
            (true, false) => true,
            (true, true) => BOUNDED.contains(&test.as_str()) || test.starts_with(PIPELINE),
            (false, _) => tests.contains(test) || FIXTURES.contains(&test.as_str()),
        };
        groups.iter_mut().for_each(|group| group.retain(wanted));
        groups.retain(|group| !group.is_empty());
        Ok(Suite { folder: folder.to_owned(), groups })
    }

    pub fn count(&self) -> usize {
        self.groups.iter().map(Vec::len).sum()
    }
}

fn groups(schedule: &str) -> Vec<Vec<String>> {
    let lines = schedule.lines().filter_map(|line| line.strip_prefix("test:"));
    lines.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// One by one, as their own driver runs them: some take the same tables.
fn pipeline_tests(folder: &Path) -> Result<Vec<Vec<String>>> {
    let output = Command::new(folder.join("libpq_pipeline")).arg("tests").output();
    let output = output.context("start libpq_pipeline")?;
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(names.split_whitespace().map(|name| vec![format!("{PIPELINE}{name}")]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_groups_of_names() {
        let text = "# words\ntest: test_setup\n\ntest: boolean char\nignore: random\n";
        assert_eq!(groups(text), [vec!["test_setup"], vec!["boolean", "char"]]);
    }
}
