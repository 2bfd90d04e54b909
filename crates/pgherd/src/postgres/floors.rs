//! The five settings that on a standby must not be smaller than what its primary had, or it refuses to start.
//!
//! What the primary had is in the control file: a primary writes it there, and into its WAL, when it becomes writable.
//! A start as a standby takes the greater of that and what is configured. The greater values go on the command line, so
//! that every file says what is wanted, and no line elsewhere (`ALTER SYSTEM`) can keep a server from starting.
//! Lowering them is the business of `lowered`.

use std::fs;
use std::time::Duration;

use super::control::{self, ControlFile};
use super::error::Result;
use super::server::{Server, Tunable};
use super::settings::DEFAULTS;

/// With what PostgreSQL 15 to 18 have when nobody says anything (`guc_tables.c`).
pub(super) const FLOORS: [(&str, u32); 5] = [
    ("max_connections", 100),
    ("max_worker_processes", 8),
    ("max_wal_senders", 10),
    ("max_prepared_transactions", 0),
    ("max_locks_per_transaction", 64),
];

/// PostgreSQL reads its configuration and prints a value: some 10 ms, and more on a busy machine.
const ASK_DEADLINE: Duration = Duration::from_secs(10);

/// A standby must have as much of it as its primary.
pub fn is_bound(name: &str) -> bool {
    FLOORS.iter().any(|(other, _)| *other == name)
}

/// What the primary had whose WAL this data directory holds, in the order of [`FLOORS`].
pub(super) fn bounds(control: &ControlFile) -> [u32; 5] {
    [
        control.max_connections,
        control.max_worker_processes,
        control.max_wal_senders,
        control.max_prepared_transactions,
        control.max_locks_per_transaction,
    ]
}

impl Server {
    /// What is configured below what this data directory's primary had: name, configured value, bound. For a server that
    /// is stopped and whose files are written.
    pub(super) async fn below_bounds(&self) -> Result<Vec<(&'static str, u32, u32)>> {
        let bounds = bounds(&self.usable_control()?);
        let tunable = self.tunable();
        let mut below = Vec::new();
        for ((name, builtin), bound) in FLOORS.into_iter().zip(bounds) {
            let configured = match self.plainly_configured(&tunable, name, builtin) {
                Some(value) => value,
                None => self.ask_configured(name).await.unwrap_or(0),
            };
            if configured < bound {
                below.push((name, configured, bound));
            }
        }
        Ok(below)
    }

    /// For the command line of a standby.
    pub(super) async fn raised(&self) -> Result<Vec<(&'static str, String)>> {
        let below = self.below_bounds().await?;
        Ok(below.into_iter().map(|(name, _, bound)| (name, bound.to_string())).collect())
    }

    /// Where only our own file speaks of it, nobody has to be asked: a start is on the way of a takeover at times.
    fn plainly_configured(&self, tunable: &Tunable, name: &str, builtin: u32) -> Option<u32> {
        let read = |file: &str| fs::read_to_string(self.layout.data.join(file)).unwrap_or_default();
        // It is read after ours.
        if mentions(&read("postgresql.auto.conf"), name) {
            return None;
        }
        let ours = tunable.parameters.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        let default = DEFAULTS.iter().find(|(other, _)| *other == name);
        let ours = ours.map(|(_, value)| value.as_str()).or(default.map(|(_, value)| *value));
        match ours {
            Some(value) => value.parse().ok(),
            None if mentions(&read("postgresql.conf"), name) => None,
            None => Some(builtin),
        }
    }

    /// What PostgreSQL itself makes of its files. A value that cannot be had says nothing: the start will.
    async fn ask_configured(&self, name: &str) -> Option<u32> {
        let data = self.layout.data.to_string_lossy().into_owned();
        let arguments = ["-D", data.as_str(), "-C", name];
        let postgres = self.installation.tool("postgres");
        match self.account.run(&postgres, &arguments, &[], ASK_DEADLINE).await {
            Ok(said) => said.stdout.trim().parse().ok(),
            Err(error) => {
                tracing::warn!(%error, "PostgreSQL does not say what {name} is configured to be");
                None
            }
        }
    }

    /// What a standby that runs with the control file's values could not replay beyond.
    pub(super) fn present_bounds(&self) -> Option<[u32; 5]> {
        control::read(&self.layout.data).ok().map(|control| bounds(&control))
    }
}

/// True when a line may set `name`, also by another file that it includes.
fn mentions(text: &str, name: &str) -> bool {
    text.lines().map(str::trim_start).any(|line| {
        let word: String =
            line.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
        let included = word.starts_with("include") && !line.trim_end().ends_with(super::lifecycle::OUR_LINE);
        word.eq_ignore_ascii_case(name) || included
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_speaks_of_a_setting_or_leads_to_one_that_may() {
        let name = "max_connections";
        assert!(mentions("work_mem = 1MB\n  Max_Connections=5", name));
        assert!(mentions("include_dir 'conf.d'", name));
        assert!(!mentions("#max_connections = 5\nmax_connections_of_mine = 3", name));
        let ours = format!("include '/srv/n1/conf/pgherd.conf' {}", super::super::lifecycle::OUR_LINE);
        assert!(!mentions(&ours, name));
    }
}
