//! `IDENTIFY_SYSTEM`: the one question that only the replication protocol answers.
//!
//! Why it is needed: no SQL function of PostgreSQL 15 to 18 tells on which timeline a standby's replay is *now*. The
//! control file lags by a restartpoint, `received_tli` belongs to the receiver, and the newest history file in pg_wal
//! may name a branch that the server has refused to enter. `IDENTIFY_SYSTEM` answers from the startup
//! process's own shared memory (`GetStandbyFlushRecPtr`: the timeline of the last replayed record).

use std::time::Duration;

use wire::{Lsn, Timeline};

use super::error::{Error, Result};
use super::session::Session;

/// What the server says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity {
    pub system_id: u64,
    /// Of the last replayed record on a standby, the current one on a primary.
    pub timeline: Timeline,
    /// Primary: flushed. Standby: replayed, or received where the receiver is on the same timeline and further.
    pub lsn: Lsn,
}

impl Identity {
    /// Asked of a session that sits in a walsender.
    pub async fn of(session: &mut Session, deadline: Duration) -> Result<Identity> {
        let rows = session.rows("IDENTIFY_SYSTEM", "IDENTIFY_SYSTEM", deadline).await?;
        let column = |index: usize| rows.last().and_then(|row| row.get(index)).unwrap_or_default();
        match (column(0).parse(), column(1).parse(), column(2).parse()) {
            (Ok(system_id), Ok(timeline), Ok(lsn)) => {
                Ok(Identity { system_id, timeline: Timeline(timeline), lsn })
            }
            _ => {
                let answer = format!("the answer was {rows:?}");
                Err(Error::Io { what: "IDENTIFY_SYSTEM".into(), source: std::io::Error::other(answer) })
            }
        }
    }
}
