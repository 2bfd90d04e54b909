//! Settings that differ from what the running server has: written, taken where a reload does it, and shown where only a
//! restart would.
//!
//! Five settings have an order: on a standby they must be at least what they are on its primary, or it stops replay and
//! cannot be promoted. At a start they are raised to what the control file names (`floors`); this module sees when
//! the primary has outgrown a running standby, and what is configured to be less. It restarts nothing.

use std::fs;

use super::error::Result;
use super::floors::FLOORS;
use super::hba;
use super::server::Server;
use super::session::{QUERY_DEADLINE, literal};
use super::settings;

/// A setting that waits for a restart, as PostgreSQL writes its values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PendingRestart {
    pub name: String,
    pub old: String,
    pub new: String,
    /// A standby keeps the old value until its primary has been restarted with the new one.
    pub primary_first: bool,
}

/// How the running server's settings stand to what they should be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SettingsState {
    pub pending: Vec<PendingRestart>,
    /// Replay has stopped, because the primary's settings are larger than this standby's.
    pub outgrown: bool,
}

/// The last line of the files counts, and the one that waits for a restart carries an error that says so. A value taken
/// out of them goes back to PostgreSQL's own. What is on the command line of a standby is seen to differ from the files
/// only after a reload, so those settings are always compared.
const PENDING: &str = "
SELECT * FROM (SELECT s.name, current_setting(s.name) AS present, coalesce((SELECT f.setting FROM pg_file_settings f
       WHERE f.name = s.name ORDER BY f.seqno DESC LIMIT 1), s.boot_val, '') AS configured, pg_is_in_recovery()
   FROM pg_settings s WHERE s.pending_restart OR s.name IN ($NAMES)) AS settings
WHERE present <> configured ORDER BY name";

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
        let names: Vec<String> = FLOORS.iter().map(|(name, _)| literal(name)).collect();
        let sql = PENDING.replace("$NAMES", &names.join(", "));
        let rows = session.rows("look for pending restarts", &sql, QUERY_DEADLINE).await?;
        let text = |row: &super::session::Row, index| row.get(index).unwrap_or_default().to_owned();
        let mut pending = Vec::new();
        for row in &rows {
            let (name, old, new) = (text(row, 0), text(row, 1), text(row, 2));
            // Ours, on the command line: a start that lowers has other values than every other.
            if settings::owned(&name) {
                continue;
            }
            let primary_first = row.get(3) == Some("t") && self.bound_above(&name, &new);
            pending.push(PendingRestart { name, old, new, primary_first });
        }
        // Given on the command line, so PostgreSQL itself does not see that the file says otherwise.
        const LISTEN: &str = "SELECT current_setting('listen_addresses')";
        let old = session.value("read listen_addresses", LISTEN, QUERY_DEADLINE).await?.unwrap_or_default();
        if old != self.config.listen {
            let (name, new) = ("listen_addresses".to_owned(), self.config.listen.clone());
            pending.push(PendingRestart { name, old, new, primary_first: false });
        }
        let paused =
            session.value("look at replay", PAUSED, QUERY_DEADLINE).await?.as_deref() == Some("paused");
        let mut outgrown = false;
        if paused && let Some(bounds) = self.present_bounds() {
            for ((name, _), bound) in FLOORS.iter().zip(bounds) {
                let sql = format!("SELECT current_setting({})", literal(name));
                let value = session.value("read a setting", &sql, QUERY_DEADLINE).await?;
                outgrown |=
                    value.and_then(|value| value.parse().ok()).is_some_and(|value: u32| value < bound);
            }
        }
        Ok(SettingsState { pending, outgrown })
    }

    /// The primary of this standby has more than `value`.
    fn bound_above(&self, name: &str, value: &str) -> bool {
        let bounds = self.present_bounds().into_iter().flatten();
        let bound = FLOORS.iter().zip(bounds).find(|((other, _), _)| *other == name);
        bound.zip(value.parse().ok()).is_some_and(|((_, bound), value): (_, u32)| value < bound)
    }
}
