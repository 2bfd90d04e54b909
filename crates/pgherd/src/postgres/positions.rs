//! Where any server of the cluster is in its WAL: the question behind each sample of the proxy's.
//!
//! What it is: a connection to each server in question, as the cluster's own role, kept for the next question. What it is not:
//! the position that takeovers are decided by (`observe`). Invariant: a server that does not answer has no position.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use proxy::Position;

use super::remote::Remote;

/// The end of what was inserted, flushed or not: with `synchronous_commit = off` a commit is acknowledged and seen before it is
/// flushed.
const POSITION: &str = "SELECT pg_catalog.pg_is_in_recovery(), \
     CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
     ELSE pg_catalog.pg_current_wal_insert_lsn() END OPERATOR(pg_catalog.-) '0/0'::pg_catalog.pg_lsn, \
     pg_catalog.current_setting('wal_block_size'), \
     pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))";

#[derive(Default)]
pub struct PositionQuestion {
    kept: Mutex<BTreeMap<String, Remote>>,
}

impl PositionQuestion {
    /// Asks the server at `address` as the cluster's rewind role, whose password it is. `None` when it cannot be told. Who drops the
    /// question half way has the next one make a new connection.
    pub async fn ask(&self, address: &str, password: &str) -> Option<Position> {
        let kept = self.kept().remove(address).filter(Remote::is_usable);
        let remote = match kept {
            Some(remote) => remote,
            None => match Remote::connect(address, password).await {
                Ok(remote) => remote,
                Err(error) => {
                    tracing::debug!(address, %error, "asking a server for its position failed");
                    return None;
                }
            },
        };
        let row = remote.first_row(POSITION).await?;
        self.kept().insert(address.to_owned(), remote);
        let row = row?;
        let number = |column| row.get(column)?.parse::<u64>().ok();
        Some(match row.get(0)? {
            "t" => Position::Replayed(number(1)?),
            _ => Position::inserted(number(1)?, number(2)?, number(3)?),
        })
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<String, Remote>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
