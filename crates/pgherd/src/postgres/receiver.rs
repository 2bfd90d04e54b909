//! The WAL receiver: whom this server follows, and how it is made to stop.
//!
//! Emptying `primary_conninfo` alone does not stop a receiver: the startup process stops it, and only when it next wants
//! WAL, which it does not while replay is stuck in a conflict; the receiver goes on acknowledging. So the credential is
//! taken away and the receiver itself gets a SIGTERM. Invariant: when [`Server::detach`] has returned, no receiver runs and
//! one that starts later finds no credential: a receiver shows in `pg_stat_activity` before it reads the passfile, so
//! none that has read it can be missed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::error::{Error, Result};
use super::files;
use super::hba::REPLICATION_ROLE;
use super::process;
use super::server::Server;
use super::session::QUERY_DEADLINE;
use super::settings::Dynamic;

/// The receiver exits at its next look at signals: milliseconds, unless its disk hangs.
const DETACH_DEADLINE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);
/// SQLSTATE cannot_connect_now: starting, or not consistent yet.
const CANNOT_CONNECT_NOW: &str = "57P03";

/// Where a standby gets its WAL from.
#[derive(Clone, PartialEq, Eq)]
pub struct Upstream {
    pub host: String,
    pub port: u16,
    /// Of [`REPLICATION_ROLE`].
    pub password: String,
    /// Member id and term, `n2_7f3a_t3`: a member counts only for the term it was pointed at.
    pub application_name: String,
    pub slot_name: Option<String>,
    /// Further hosts, in the order in which they are tried: the one that is a primary is followed. Empty: `host` is
    /// followed, whatever it is.
    pub others: Vec<(String, u16)>,
    /// It is the primary: only from there PostgreSQL takes logical slots by itself (17 and newer).
    pub primary: bool,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{} as {}", self.host, self.port, self.application_name)
    }
}

impl Server {
    /// Stops following, whatever replay is doing; returns when no receiver is left.
    pub async fn detach(&self) -> Result<()> {
        let closed = |dynamic: &mut Dynamic| {
            dynamic.primary_conninfo.clear();
            dynamic.primary_slot_name.clear();
        };
        let emptied = {
            let before = self.dynamic();
            before.primary_conninfo.is_empty() && before.primary_slot_name.is_empty()
        };
        let dynamic = if emptied { self.dynamic() } else { self.write_settings(closed).await? };
        self.remove_credentials()?;
        // Not running: nothing to stop, and the next start closes everything again.
        if process::find(&self.layout.data)?.is_none() {
            return Ok(());
        }
        match self.reload_and_confirm(&dynamic).await {
            Ok(()) => self.end_receiver().await,
            Err(error) if error.sqlstate() == Some(CANNOT_CONNECT_NOW) => self.end_receiver_process().await,
            Err(error) => Err(error),
        }
    }

    /// The same for a server that accepts no connection yet: the receiver by its process title.
    ///
    /// A child that has not set its title yet may be one. A later one finds no credential.
    async fn end_receiver_process(&self) -> Result<()> {
        let begun = Instant::now();
        let Some(postmaster) = process::find(&self.layout.data)? else { return Ok(()) };
        loop {
            let may_be = |title: &str| title.contains("walreceiver") || !title.starts_with("postgres: ");
            let left = process::children(postmaster.pid).into_iter().filter(|(_, title)| may_be(title));
            let left: Vec<(i32, String)> = left.collect();
            if left.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > DETACH_DEADLINE {
                let what = format!("the end of the WAL receiver ({left:?})");
                return Err(Error::Deadline { what, deadline: DETACH_DEADLINE });
            }
            for (pid, _) in left.iter().filter(|(_, title)| title.contains("walreceiver")) {
                process::signal(&self.layout.data, *pid, Signal::TERM);
            }
            sleep(POLL).await;
        }
    }

    async fn end_receiver(&self) -> Result<()> {
        // The worker that synchronizes slots goes too: a promotion waits for it, and it waits for a primary that may be
        // frozen. Without an upstream no other is started.
        const SQL: &str =
            "SELECT pid FROM pg_stat_activity WHERE backend_type IN ('walreceiver', 'slotsync worker')";
        let begun = Instant::now();
        let mut admin = self.admin.lock().await;
        loop {
            let session = admin.session(&self.layout, self.config.port).await?;
            let rows = session.rows("look for the WAL receiver", SQL, QUERY_DEADLINE).await?;
            let pids: Vec<i32> = rows.iter().filter_map(|row| row.get(0)?.parse().ok()).collect();
            if rows.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > DETACH_DEADLINE {
                let what = format!("the end of the WAL receiver (process {pids:?})");
                return Err(Error::Deadline { what, deadline: DETACH_DEADLINE });
            }
            pids.iter().for_each(|pid| process::signal(&self.layout.data, *pid, Signal::TERM));
            sleep(POLL).await;
        }
    }

    /// Follows `upstream` from now on, by reload. The caller has made its promise durable before, and has seen that
    /// this server's position is part of the upstream's history (PostgreSQL compares only what it has replayed).
    ///
    /// Returns when the server has taken the setting; whether it streams is seen by `observe`.
    pub async fn follow(&self, upstream: &Upstream) -> Result<()> {
        let slot = upstream.slot_name.clone().unwrap_or_default();
        let before = self.dynamic();
        let present = conninfo_value(&before.primary_conninfo, "passfile").map(PathBuf::from);
        let unchanged = before.primary_slot_name == slot
            && present.as_deref().is_some_and(|passfile| {
                before.primary_conninfo
                    == conninfo_of(upstream, passfile, self.synchronizes_slots() && upstream.primary)
            });
        if !unchanged && !before.primary_conninfo.is_empty() {
            // A receiver of the former upstream would go on while replay is stuck.
            self.detach().await?;
        }
        if !unchanged {
            self.drop_orphaned_timelines()?;
        }
        let dynamic = match present.filter(|_| unchanged) {
            Some(passfile) => {
                self.write_credential(upstream, &passfile)?;
                before
            }
            None => self.point_at(upstream).await?,
        };
        match self.reload_and_confirm(&dynamic).await {
            // It may need this very upstream to become consistent and accept connections.
            Err(error) if error.sqlstate() == Some(CANNOT_CONNECT_NOW) => Ok(()),
            result => result,
        }
    }

    /// Puts a new credential and the settings for following `upstream` on disk.
    pub(super) async fn point_at(&self, upstream: &Upstream) -> Result<Dynamic> {
        let passfile = self.layout.credential(rand::random());
        self.write_credential(upstream, &passfile)?;
        let slots = self.synchronizes_slots() && upstream.primary;
        self.write_settings(|dynamic| {
            dynamic.primary_conninfo = conninfo_of(upstream, &passfile, slots);
            dynamic.primary_slot_name = upstream.slot_name.clone().unwrap_or_default();
            dynamic.synchronous_standby_names = super::NOBODY.to_owned();
        })
        .await
    }

    fn write_credential(&self, upstream: &Upstream, passfile: &Path) -> Result<()> {
        let line = pgpass_line(REPLICATION_ROLE, &upstream.password);
        files::write_if_changed(passfile, line.as_bytes(), &self.account)
    }

    pub(super) fn remove_credentials(&self) -> Result<()> {
        self.layout.credentials()?.iter().try_for_each(|path| files::remove(path))
    }
}

/// `slots`: with a database, which PostgreSQL's own synchronization of slots logs into.
fn conninfo_of(upstream: &Upstream, passfile: &Path, slots: bool) -> String {
    let Upstream { host, port, application_name, others, .. } = upstream;
    let hosts: Vec<&str> = others.iter().map(|(host, _)| host.as_str()).collect();
    let ports: Vec<String> = others.iter().map(|(_, port)| port.to_string()).collect();
    let listed = |first: &str, more: &[&str]| [&[first], more].concat().join(",");
    let more: Vec<&str> = ports.iter().map(String::as_str).collect();
    let mut pairs = vec![
        ("host", listed(host, &hosts)),
        ("port", listed(&port.to_string(), &more)),
        ("user", REPLICATION_ROLE.to_owned()),
        ("application_name", application_name.clone()),
        ("passfile", passfile.to_string_lossy().into_owned()),
        // libpq takes no less than 2. A host that answers nothing must not hold the receiver for minutes.
        ("connect_timeout", "2".to_owned()),
        ("keepalives_idle", "2".to_owned()),
        ("keepalives_interval", "1".to_owned()),
        ("keepalives_count", "3".to_owned()),
        ("tcp_user_timeout", "5000".to_owned()),
        ("sslmode", "prefer".to_owned()),
        ("gssencmode", "disable".to_owned()),
    ];
    if !others.is_empty() {
        // A server tells in its first answer whether it is a standby; the receiver itself finds the primary again.
        pairs.push(("target_session_attrs", "primary".to_owned()));
    }
    if slots {
        pairs.push(("dbname", "postgres".to_owned()));
    }
    conninfo(&pairs)
}

/// A libpq connection string; values are quoted as `PQconninfoParse` reads them.
pub(super) fn conninfo(pairs: &[(&str, String)]) -> String {
    let quote = |value: &str| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
    let pairs: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={}", quote(value))).collect();
    pairs.join(" ")
}

/// The value of `name` in a string that [`conninfo`] made.
pub(super) fn conninfo_value(conninfo: &str, name: &str) -> Option<String> {
    let at =
        conninfo.find(&format!("{name}='")).filter(|at| *at == 0 || conninfo.as_bytes()[at - 1] == b' ')?;
    let mut value = String::new();
    let mut chars = conninfo[at + name.len() + 2..].chars();
    loop {
        match chars.next()? {
            '\'' => return Some(value),
            '\\' => value.push(chars.next()?),
            other => value.push(other),
        }
    }
}

/// A passfile line for any server.
pub(super) fn pgpass_line(user: &str, password: &str) -> String {
    let password = password.replace('\\', "\\\\").replace(':', "\\:");
    format!("*:*:*:{user}:{password}\n")
}

/// The connection string names a database for the synchronization of slots, or there is none yet.
pub(super) fn admits_slots(conninfo: &str) -> bool {
    conninfo.is_empty() || conninfo_value(conninfo, "dbname").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_hosts_the_primary_is_followed() {
        let alone = Upstream {
            host: "h1".into(),
            port: 1,
            password: String::new(),
            application_name: "n1_7f3a_t3".into(),
            slot_name: None,
            others: Vec::new(),
            primary: true,
        };
        let one = conninfo_of(&alone, Path::new("/p"), false);
        assert!(one.starts_with("host='h1' port='1' ") && !one.contains("target_session_attrs"), "{one}");
        let several = Upstream { others: vec![("h2".into(), 2), ("h3".into(), 3)], ..alone };
        let several = conninfo_of(&several, Path::new("/p"), false);
        assert!(several.starts_with("host='h1,h2,h3' port='1,2,3' "), "{several}");
        assert!(several.contains("target_session_attrs='primary'"), "{several}");
    }

    #[test]
    fn connection_strings_are_read_back() {
        let text =
            conninfo(&[("host", "a b".into()), ("application_name", r"n'1\x".into()), ("port", "1".into())]);
        assert_eq!(text, r"host='a b' application_name='n\'1\\x' port='1'");
        assert_eq!(conninfo_value(&text, "application_name").as_deref(), Some(r"n'1\x"));
        assert_eq!(conninfo_value(&text, "name"), None);
        assert_eq!(pgpass_line("u", r"a:b\c"), "*:*:*:u:a\\:b\\\\c\n");
    }
}
