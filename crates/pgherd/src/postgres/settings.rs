//! `pgherd.conf`: the server's settings that are ours, included from the user's `postgresql.conf`.
//!
//! Three layers, later ones win: defaults that the user may change, the user's parameters, what belongs to pgherd.
//! What must never be overridden and needs no reload goes on the command line too (nothing beats that); what changes
//! by reload cannot, so its effect is checked after each reload and `ALTER SYSTEM` in the way is named in the error.
//! Invariant: the file on disk is the whole truth about the dynamic settings; an adopting agent reads them back.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::error::{Error, Result};
use super::hba::Admission;
use super::layout::Layout;
use super::slot_settings::SlotSettings;

/// On a server that is no open primary: a sync set that nobody can be in, so no commit is ever acknowledged by it.
pub const NOBODY: &str = "ANY 1 (pgherd_nobody)";

/// What the user may change. Timeouts: a dead peer must be noticed within the bounds of a takeover.
/// 24 WAL senders: eight standbys, each once more for a base backup, and the agent's own sessions: three that it keeps,
/// one that confirms a reload, and as many again of an agent that has just died. Ten reserved connections are for the
/// operator when every client waits for a standby that died.
pub(super) const DEFAULTS: [(&str, &str); 10] = [
    ("max_connections", "100"),
    ("superuser_reserved_connections", "10"),
    ("max_wal_senders", "24"),
    ("wal_keep_size", "1GB"),
    ("wal_sender_timeout", "5s"),
    ("wal_receiver_timeout", "5s"),
    ("wal_receiver_status_interval", "1s"),
    ("synchronous_commit", "on"),
    ("password_encryption", "scram-sha-256"),
    ("authentication_timeout", "10s"),
];

/// What no user parameter may name, with the reason where it is not simply "pgherd sets it".
const REFUSED: [(&str, &str); 7] = [
    ("data_directory", "the data directory is DIR/data"),
    ("config_file", "PostgreSQL reads the data directory's postgresql.conf"),
    ("fsync", "without it an acknowledged commit can be lost"),
    ("full_page_writes", "without it a crash can corrupt the data"),
    ("recovery_target", "pgherd's standbys follow the newest timeline"),
    ("include", "includes belong into postgresql.conf"),
    ("allow_alter_system", "PostgreSQL 17's switch stays at its default"),
];

/// The settings that change while the server runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Dynamic {
    /// Grows with each write; a new connection that shows it has the whole file and pg_hba.conf behind it.
    pub generation: u64,
    pub admission: Admission,
    pub primary_conninfo: String,
    pub primary_slot_name: String,
    pub synchronous_standby_names: String,
    /// The members' slots that have to confirm before a logical consumer is sent a change; `None` before 17.
    pub synchronized_standby_slots: Option<String>,
    /// The sync set was empty before and no checkpoint has proved yet that backends wait for the new one.
    pub sync_unproven: bool,
}

pub(super) const GENERATION: &str = "pgherd.generation";
const ADMISSION: &str = "pgherd.admission";
const SYNC_UNPROVEN: &str = "pgherd.sync_unproven";

impl Dynamic {
    /// How every server starts: following nobody, acknowledging nothing, admitting nobody.
    pub fn closed(generation: u64) -> Dynamic {
        Dynamic {
            generation,
            admission: Admission::Quarantined,
            primary_conninfo: String::new(),
            primary_slot_name: String::new(),
            synchronous_standby_names: NOBODY.to_owned(),
            synchronized_standby_slots: Some(String::new()),
            sync_unproven: false,
        }
    }

    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let slots =
            self.synchronized_standby_slots.clone().map(|slots| ("synchronized_standby_slots", slots));
        let pairs = [
            (GENERATION, self.generation.to_string()),
            (ADMISSION, self.admission.word().to_owned()),
            ("primary_conninfo", self.primary_conninfo.clone()),
            ("primary_slot_name", self.primary_slot_name.clone()),
            ("synchronous_standby_names", self.synchronous_standby_names.clone()),
            (SYNC_UNPROVEN, self.sync_unproven.to_string()),
        ];
        pairs.into_iter().chain(slots).collect()
    }

    /// Reads back what [`render`] wrote; `None` when the text is not ours or not whole.
    pub fn parse(text: &str) -> Option<Dynamic> {
        let mut values: BTreeMap<&str, String> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, value)) = line.split_once(" = ") {
                values.insert(name, unquote(value)?);
            }
        }
        Some(Dynamic {
            generation: values.remove(GENERATION)?.parse().ok()?,
            admission: match values.remove(ADMISSION)?.as_str() {
                "open" => Admission::Open,
                "quarantined" => Admission::Quarantined,
                _ => return None,
            },
            primary_conninfo: values.remove("primary_conninfo")?,
            primary_slot_name: values.remove("primary_slot_name")?,
            synchronous_standby_names: values.remove("synchronous_standby_names")?,
            synchronized_standby_slots: values.remove("synchronized_standby_slots"),
            sync_unproven: values.remove(SYNC_UNPROVEN)?.parse().ok()?,
        })
    }
}

/// What stays the same while the server runs.
pub(super) struct Static<'a> {
    pub layout: &'a Layout,
    pub node: &'a str,
    pub listen: &'a str,
    pub port: u16,
    pub parameters: &'a BTreeMap<String, String>,
    pub slots: &'a SlotSettings,
    /// The server brings logical slots from its primary by itself: 17 and newer.
    pub synchronizes_slots: bool,
    /// Of the file system that the data directory is on.
    pub disk_bytes: Option<u64>,
}

impl Static<'_> {
    /// Fixed for the life of the server process: also given on the command line, which nothing overrides.
    pub fn fixed(&self) -> Vec<(&'static str, String)> {
        let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
        vec![
            ("listen_addresses", self.listen.to_owned()),
            ("port", self.port.to_string()),
            ("unix_socket_directories", path(&self.layout.run)),
            ("unix_socket_permissions", "0700".into()),
            ("hba_file", path(&self.layout.hba())),
            ("ident_file", path(&self.layout.ident())),
            ("hot_standby", "on".into()),
            // After a crash the cluster decides who goes on, not the postmaster.
            ("restart_after_crash", "off".into()),
            ("fsync", "on".into()),
            ("full_page_writes", "on".into()),
            ("wal_log_hints", "on".into()),
            // The proxy recognises PostgreSQL's words for a cancelled wait.
            ("lc_messages", "C".into()),
            ("recovery_target_timeline", "latest".into()),
            // A target left over in some file would end or pause the replay of a standby.
            ("recovery_target", String::new()),
            ("recovery_target_lsn", String::new()),
            ("recovery_target_name", String::new()),
            ("recovery_target_time", String::new()),
            ("recovery_target_xid", String::new()),
            ("wal_retrieve_retry_interval", "100ms".into()),
            ("update_process_title", "on".into()),
            ("cluster_name", self.node.to_owned()),
        ]
    }
}

/// Refuses parameters that would undo what keeps the data safe.
pub fn check_parameters(parameters: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in parameters {
        let refuse = |reason: &str| Err(Error::Parameter { name: name.clone(), reason: reason.to_owned() });
        let lower = name.to_ascii_lowercase();
        if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| lower == *refused) {
            return refuse(reason);
        }
        if owned(&lower) {
            return refuse("pgherd sets it itself");
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if name.is_empty() || !name.chars().all(plain) {
            return refuse("a parameter's name has letters, digits, dots and underscores only");
        }
        if value.chars().any(char::is_control) {
            return refuse("its value holds a control character");
        }
        if lower == "wal_level" && !matches!(value.as_str(), "replica" | "logical") {
            return refuse("a cluster needs 'replica' or 'logical'");
        }
    }
    Ok(())
}

/// True for what only pgherd may set, wherever it is written.
pub(super) fn owned(name: &str) -> bool {
    const FIXED: [&str; 18] = [
        "listen_addresses",
        "port",
        "unix_socket_directories",
        "unix_socket_permissions",
        "hba_file",
        "ident_file",
        "hot_standby",
        "restart_after_crash",
        "wal_log_hints",
        "lc_messages",
        "recovery_target_timeline",
        "wal_retrieve_retry_interval",
        "update_process_title",
        "cluster_name",
        "recovery_target_name",
        "recovery_target_time",
        "recovery_target_xid",
        "recovery_target_lsn",
    ];
    FIXED.contains(&name) || dynamic(name) || name.starts_with("pgherd.")
}

/// Ours and changed by reload: what a line elsewhere would silently defeat.
pub(super) fn dynamic(name: &str) -> bool {
    const DYNAMIC: [&str; 4] =
        ["primary_conninfo", "primary_slot_name", "synchronous_standby_names", "synchronized_standby_slots"];
    DYNAMIC.contains(&name)
}

pub(super) fn render(fixed: &Static<'_>, dynamic: &Dynamic) -> String {
    let mut text = String::from(
        "# Written by pgherd; changes are lost. Parameters of your own: pgherd config set postgres.parameters.NAME VALUE\n",
    );
    let mut section = |title: &str, pairs: Vec<(String, String)>| {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n# {title}\n");
        for (name, value) in pairs {
            let _ = writeln!(text, "{name} = {}", quote(&value));
        }
    };
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    section("defaults", DEFAULTS.iter().map(own).chain(fixed.slot_defaults()).collect());
    section(
        "the cluster's parameters",
        fixed.parameters.iter().map(|(n, v)| (n.clone(), v.clone())).collect(),
    );
    section("pgherd's own", fixed.fixed().into_iter().map(|(n, v)| (n.to_owned(), v)).collect());
    section("as of now", dynamic.pairs().into_iter().map(|(n, v)| (n.to_owned(), v)).collect());
    text
}

/// A value as `guc-file.l` reads it back.
pub(super) fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

fn unquote(quoted: &str) -> Option<String> {
    let inner = quoted.trim().strip_prefix('\'')?.strip_suffix('\'')?;
    Some(inner.replace("''", "'").replace("\\\\", "\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let layout = Layout::new(std::path::Path::new("/srv/n1")).unwrap();
        let parameters = BTreeMap::from([("work_mem".to_owned(), "8MB".to_owned())]);
        let fixed = Static {
            layout: &layout,
            node: "n1",
            listen: "*",
            port: 5432,
            parameters: &parameters,
            slots: &SlotSettings::default(),
            synchronizes_slots: false,
            disk_bytes: None,
        };
        let dynamic = Dynamic {
            generation: 7,
            admission: Admission::Open,
            primary_conninfo: r"host='a\'b' passfile='C:\\x'".into(),
            primary_slot_name: "n2_7f3a".into(),
            synchronous_standby_names: r#"ANY 1 ("n2", "n""3")"#.into(),
            synchronized_standby_slots: Some("pgherd_n2_7f3a, pgherd_n3_1".into()),
            sync_unproven: true,
        };
        let text = render(&fixed, &dynamic);
        assert_eq!(Dynamic::parse(&text), Some(dynamic));
        assert!(text.find("work_mem").unwrap() < text.find("restart_after_crash").unwrap());
        assert_eq!(Dynamic::parse("port = '5432'"), None);
    }

    #[test]
    fn dangerous_parameters_are_refused() {
        for name in ["fsync", "Synchronous_Standby_Names", "port", "a b", "recovery_target_lsn"] {
            let parameters = BTreeMap::from([(name.to_owned(), "x".to_owned())]);
            assert!(check_parameters(&parameters).is_err(), "{name}");
        }
        assert!(check_parameters(&BTreeMap::from([("wal_level".into(), "minimal".into())])).is_err());
        assert!(check_parameters(&BTreeMap::from([("work_mem".into(), "8MB".into())])).is_ok());
    }
}
