//! Settings that differ from what the running server has: written, taken where a reload does it, and shown where only a
//! restart would.
//!
//! Five settings have an order: on a standby they must be at least what they are on its primary, or it stops replay and
//! cannot be promoted. At a start they are raised to what the control file names (`settings`); this module sees when
//! the primary has outgrown a running standby. It restarts nothing.

use std::fs;

use super::control;
use super::error::Result;
use super::hba;
use super::server::Server;
use super::session::{QUERY_DEADLINE, literal};
use super::settings::{self, FLOORS};

/// A setting that waits for a restart, as PostgreSQL writes its values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PendingRestart {
    pub name: String,
    pub old: String,
    pub new: String,
}

/// How the running server's settings stand to what they should be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SettingsState {
    pub pending: Vec<PendingRestart>,
    /// Replay has stopped, because the primary's settings are larger than this standby's.
    pub outgrown: bool,
}

/// The last line of the file counts, and the one that waits for a restart carries an error that says so.
/// A value taken out of the file goes back to PostgreSQL's own.
const PENDING: &str = "
SELECT s.name, current_setting(s.name), coalesce((SELECT f.setting FROM pg_file_settings f
       WHERE f.name = s.name ORDER BY f.seqno DESC LIMIT 1), s.boot_val, '')
FROM pg_settings s WHERE s.pending_restart ORDER BY s.name";

/// On a primary the function is an error, so it is not called there.
const PAUSED: &str = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() ELSE '' END";

impl Server {
    /// Writes the settings anew if this agent was configured otherwise than the one before, and reloads. True if so.
    pub async fn refresh_settings(&self) -> Result<bool> {
        let dynamic = self.dynamic();
        let same = |path: std::path::PathBuf, text: String| fs::read_to_string(path).is_ok_and(|t| t == text);
        let tunable = self.tunable();
        let rules = hba::hba(dynamic.admission, self.synchronizes_slots(), &tunable.hba);
        if same(self.layout.pgherd_conf(), self.rendered(&tunable, &dynamic))
            && same(self.layout.hba(), rules)
        {
            return Ok(false);
        }
        self.write_settings(|_| ()).await?;
        self.reload()?;
        Ok(true)
    }

    pub async fn settings_state(&self) -> Result<SettingsState> {
        let mut admin = self.admin.lock().await;
        let session = admin.session(&self.layout, self.config.port).await?;
        let rows = session.rows("look for pending restarts", PENDING, QUERY_DEADLINE).await?;
        let text = |row: &super::session::Row, index| row.get(index).unwrap_or_default().to_owned();
        let mut pending: Vec<PendingRestart> = rows
            .iter()
            .map(|row| PendingRestart { name: text(row, 0), old: text(row, 1), new: text(row, 2) })
            .collect();
        // Given on the command line, so PostgreSQL itself does not see that the file says otherwise.
        const LISTEN: &str = "SELECT current_setting('listen_addresses')";
        let old = session.value("read listen_addresses", LISTEN, QUERY_DEADLINE).await?.unwrap_or_default();
        if old != self.config.listen {
            let (name, new) = ("listen_addresses".to_owned(), self.config.listen.clone());
            pending.push(PendingRestart { name, old, new });
        }
        let paused =
            session.value("look at replay", PAUSED, QUERY_DEADLINE).await?.as_deref() == Some("paused");
        let mut outgrown = false;
        if paused && let Ok(control) = control::read(&self.layout.data) {
            for (name, bound) in FLOORS.iter().zip(settings::bounds(&control)) {
                let sql = format!("SELECT current_setting({})", literal(name));
                let value = session.value("read a setting", &sql, QUERY_DEADLINE).await?;
                outgrown |=
                    value.and_then(|value| value.parse().ok()).is_some_and(|value: u32| value < bound);
            }
        }
        Ok(SettingsState { pending, outgrown })
    }
}
