//! The cluster's own roles and replication slots.
//!
//! Passwords reach the server as SCRAM verifiers made here, never in plain text, and no statement of ours is logged.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::Result;
use super::hba::{REPLICATION_ROLE, REWIND_ROLE};
use super::server::Server;
use super::session::{QUERY_DEADLINE, Row, literal};

/// A walsender ends within milliseconds, unless it stands still.
const END_DEADLINE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(5);

/// The passwords of the cluster's own roles.
#[derive(Clone)]
pub struct Passwords {
    pub replication: String,
    pub rewind: String,
}

impl std::fmt::Debug for Passwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passwords(..)")
    }
}

impl Server {
    /// Creates the cluster's roles on a primary, or sets them right.
    ///
    /// The rewind role may do what `pg_rewind` needs of its source and see what processes wait for, and nothing else (PostgreSQL's documentation, pg_rewind).
    pub async fn ensure_roles(&self, passwords: &Passwords) -> Result<()> {
        let sql = [
            role(REPLICATION_ROLE, "REPLICATION LOGIN", &passwords.replication),
            role(REWIND_ROLE, "LOGIN", &passwords.rewind),
            format!("ALTER ROLE {REWIND_ROLE} SET statement_timeout = 0;"),
            // For the proxies: whether a process that is to be cancelled waits for a standby.
            format!("GRANT pg_read_all_stats TO {REWIND_ROLE};"),
            format!(
                "GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean), \
                 pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean) TO {REWIND_ROLE};"
            ),
        ];
        let mut admin = self.admin.lock().await;
        let session = admin.session(&self.layout, self.config.port).await?;
        session.rows("set up the cluster's roles", &sql.join("\n"), QUERY_DEADLINE * 5).await.map(drop)
    }

    /// Cuts off who reads from a physical slot of ours, and drops them all: whoever streamed from this server under its
    /// former primaryship must not go on when it follows another. A walsender that stands still ends once it runs, and
    /// its slot stays until the next time.
    pub async fn end_slots(&self, is_ours: impl Fn(&str) -> bool) -> Result<()> {
        const SQL: &str = "SELECT slot_name, active_pid FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary";
        let begun = Instant::now();
        let mut admin = self.admin.lock().await;
        loop {
            let session = admin.session(&self.layout, self.config.port).await?;
            let rows = session.rows("list the slots", SQL, QUERY_DEADLINE).await?;
            let ours: Vec<(&str, Option<&str>)> = rows
                .iter()
                .filter_map(|row| Some((row.get(0)?, row.get(1))))
                .filter(|(name, _)| is_ours(name))
                .collect();
            if ours.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > END_DEADLINE {
                tracing::warn!(slots = ?ours, "slots are still read from and could not be dropped");
                return Ok(());
            }
            for (name, reader) in ours {
                let sql = match reader {
                    Some(pid) => format!("SELECT pg_terminate_backend({pid})"),
                    None => format!("SELECT pg_drop_replication_slot({})", literal(name)),
                };
                session.rows("end a slot", &sql, QUERY_DEADLINE).await?;
            }
            sleep(POLL).await;
        }
    }

    /// Makes the physical slots `wanted`, and drops those that are ours, idle and not wanted.
    ///
    /// `is_ours` tells the cluster's slots from the user's by name. Works on a standby as well.
    pub async fn ensure_slots(
        &self,
        wanted: &BTreeSet<String>,
        is_ours: impl Fn(&str) -> bool,
    ) -> Result<()> {
        const SQL: &str = "SELECT slot_name, active, wal_status = 'lost' FROM pg_replication_slots \
             WHERE slot_type = 'physical' AND NOT temporary";
        let mut admin = self.admin.lock().await;
        let session = admin.session(&self.layout, self.config.port).await?;
        let rows = session.rows("list the slots", SQL, QUERY_DEADLINE).await?;
        // One whose WAL is gone holds nothing any more and lets nobody stream: it is made anew.
        let useless = |row: &Row| row.get(2) == Some("t") && row.get(1) == Some("f");
        let (lost, present): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| useless(row));
        let lost = lost.iter().filter_map(|row| Some((row.get(0)?, false)));
        let present: Vec<(&str, bool)> =
            present.iter().filter_map(|row| Some((row.get(0)?, row.get(1)? == "t"))).collect();
        let unwanted = present.iter().copied().filter(|(name, _)| !wanted.contains(*name));
        for (name, active) in unwanted.chain(lost) {
            if !active && is_ours(name) {
                let sql = format!("SELECT pg_drop_replication_slot({})", literal(name));
                session.rows("drop a slot", &sql, QUERY_DEADLINE).await?;
            }
        }
        for name in wanted.iter().filter(|name| !present.iter().any(|(present, _)| present == name)) {
            // Reserved at once: the standby that will use it may come a moment later.
            let sql = format!("SELECT pg_create_physical_replication_slot({}, true)", literal(name));
            session.rows("create a slot", &sql, QUERY_DEADLINE).await?;
        }
        Ok(())
    }
}

fn role(name: &str, options: &str, password: &str) -> String {
    let verifier = postgres_protocol::password::scram_sha_256(password.as_bytes());
    format!(
        "DO $$BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {}) THEN CREATE ROLE {name}; END IF; END$$;\n\
         ALTER ROLE {name} WITH {options} PASSWORD {};",
        literal(name),
        literal(&verifier)
    )
}
