//! What burdens a node beside what its server is doing: room on its disks, connection slots, its way back.
//!
//! Told with each heartbeat and shown to people. Decisions rest on `disk_full` and `outgrown`; the rest is
//! for whoever reads the status.

use serde::{Deserialize, Serialize};
use wire::Lsn;

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Condition {
    /// Too little room is left where the server writes: taking over, or taking WAL anew, would end it again.
    pub disk_full: bool,
    /// Bytes free for the server, on the fullest of its disks; `None` before the first look.
    pub free_bytes: Option<u64>,
    /// Clients hold every connection slot. The server lives and works for those who are in.
    pub crowded: bool,
    /// New connections get no answer, although the server runs.
    pub hung: bool,
    /// How far the work under way is.
    pub progress: Option<Progress>,
    /// Why coming back has been given up, and what to type.
    pub stuck: Option<String>,
    /// WAL that was taken out of this node's history, newest last; kept and listed in files.
    pub lost: Vec<LostWrites>,
    /// Settings that wait for a restart of this node's server.
    pub pending: Vec<Pending>,
    /// Replay has stopped because the primary's settings are larger than this standby's: a restart raises them.
    pub outgrown: bool,
}

/// How far a copy, a rewind or a recovery is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Progress {
    /// One word: `copying`, `rewinding`, `recovering`.
    pub what: String,
    pub done_bytes: u64,
    /// 0 while not known.
    pub total_bytes: u64,
}

impl Progress {
    /// Whole percent; `None` while the total is not known.
    pub fn percent(&self) -> Option<u64> {
        let percent = self.done_bytes.saturating_mul(100).checked_div(self.total_bytes)?;
        Some(percent.min(100))
    }
}

/// What one rewind took out of the history, in short.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LostWrites {
    /// RFC 3339, for people.
    pub at: String,
    /// Where the histories part.
    pub fork: Lsn,
    pub transactions: u64,
    pub relations: u64,
    pub bytes: u64,
    /// Where the listing and the WAL itself are.
    pub listed: String,
}

/// A setting whose new value waits for a restart.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pending {
    pub name: String,
    pub old: String,
    pub new: String,
    /// Why a restart would not do it now, or what it took.
    #[serde(default)]
    pub note: Option<String>,
}

impl Condition {
    /// Without what changes all the time: peers are told of that with the next heartbeat.
    pub(crate) fn outline(&self) -> Condition {
        let progress =
            self.progress.as_ref().map(|p| Progress { what: p.what.clone(), ..Progress::default() });
        Condition { free_bytes: None, progress, ..self.clone() }
    }
}
