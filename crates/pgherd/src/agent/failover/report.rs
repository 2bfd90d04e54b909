//! The report itself, as the store keeps it and the API shows it. Its names are a contract: extend, do not rename.

use serde::{Deserialize, Serialize};

use super::{Ballot, Phase, ProxyReport};

/// One failover, told by the primary that it made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FailoverReport {
    /// The term that it made; names the report.
    pub term: u64,
    pub kind: FailoverKind,
    /// When it began, RFC 3339, by the new primary's wall clock as it stood at the record.
    pub at: String,
    pub from: Side,
    pub to: Side,
    /// Why the old primary was suspected, or what somebody asked for.
    pub reason: String,
    /// The request that asked for it.
    #[serde(default)]
    pub request: Option<u64>,
    /// Milliseconds from the beginning of the first phase to the end of the last.
    pub total_ms: u64,
    /// Milliseconds for which no write was possible, at most: from the last good word of the old primary, or the begin of the hold, until
    /// clients are admitted or released. Null when the beginning was not seen.
    #[serde(default)]
    pub writes_paused_ms: Option<u64>,
    /// In order, each beginning where the one before ends.
    pub phases: Vec<Phase>,
    pub ballot: Ballot,
    pub loss: Loss,
    /// What the proxies counted meanwhile, those that have told.
    #[serde(default)]
    pub proxies: Vec<ProxyReport>,
    /// Nodes whose proxy has not told in time, or that have none.
    #[serde(default)]
    pub silent_proxies: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FailoverKind {
    /// The old primary was suspect.
    Takeover,
    /// Somebody asked for another primary, while there was one.
    Switchover,
    /// The primary handed over to itself.
    Restart,
    /// Somebody named the new primary although too few members answered.
    Forced,
    /// A standby cluster took writes.
    Promotion,
}

impl FailoverKind {
    pub fn word(self) -> &'static str {
        match self {
            FailoverKind::Takeover => "takeover",
            FailoverKind::Switchover => "switchover",
            FailoverKind::Restart => "restart",
            FailoverKind::Forced => "forced",
            FailoverKind::Promotion => "promotion",
        }
    }

    /// It began with a request to a primary that was well.
    pub fn is_hand_over(self) -> bool {
        matches!(self, FailoverKind::Switchover | FailoverKind::Restart | FailoverKind::Promotion)
    }
}

/// A primaryship.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Side {
    pub node: String,
    pub term: u64,
    pub timeline: u32,
    /// It had opened. One that had not is a takeover that was itself taken over from: writes had been impossible since before.
    pub opened: bool,
}

/// What acknowledged commits may have been lost.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Loss {
    /// Bytes of WAL that the old primary was last known to have and the new one has not, where they may have been acknowledged.
    pub bytes: u64,
    /// Why so many, or none.
    pub why: String,
}
