//! What this process knows of its server beyond what the server says.

use std::sync::Arc;
use std::time::Instant;

use brain::{Applied, Complaint, MemberId, OriginRecord, Postgres, Upstream};
use wire::Lsn;

use super::burden::Burden;
use super::facts::Facts;
use super::records::Credentials;
use super::slots::SlotKnown;
use super::stream::Stream;
use crate::fencer::Identity;
use crate::postgres::Method;

/// What this process knows of its server beyond what the server says; lost with the process, and then asked anew.
#[derive(Default)]
pub(super) struct Known {
    pub credentials: Option<Credentials>,
    /// The cluster's system identifier, once there is one.
    pub system_id: Option<u64>,
    /// The member id in the durable words.
    pub member: Option<MemberId>,
    pub upstream: Option<Upstream>,
    pub applied: Option<Applied>,
    /// The order of the names in force, and how they count.
    pub order: Vec<MemberId>,
    pub method: Method,
    pub prepared: bool,
    pub end_of_recovery: Option<Lsn>,
    /// When the last write probe reached the local disk, and where it ended.
    pub write: Option<(Instant, Lsn)>,
    /// Probes that k of the set have not been seen to flush yet, oldest first.
    pub unconfirmed: Vec<(Instant, Lsn)>,
    /// When the last probe was written that k of the set have flushed.
    pub confirmed: Option<Instant>,
    /// The receiver that says that it streams.
    pub stream: Option<Stream>,
    pub stalled_since: Option<Instant>,
    /// What its receiver has said, while it does not stream.
    pub receiver: ReceiverHeard,
    /// The postmaster that was last seen to be a primary.
    pub postmaster: Option<Identity>,
    pub burden: Burden,
    /// The last look that the server answered.
    pub answer: Option<(Instant, Postgres)>,
    /// What people are told of the server that answers.
    pub facts: Option<Arc<Facts>>,
    pub slots: SlotKnown,
    /// The cluster that this one follows, and which of its hosts is its primary.
    pub origin: Option<OriginRecord>,
    pub origin_primary: Option<String>,
}

impl Known {
    pub fn streams(&self) -> bool {
        self.stream.is_some_and(|stream| stream.settled)
    }
}

/// What the WAL receiver has said in the log.
#[derive(Default)]
pub(super) struct ReceiverHeard {
    /// When the log was looked at last, and where it ended.
    pub looked: Option<(Instant, u64)>,
    pub complaint: Option<(Instant, Complaint)>,
}
