//! The control file `global/pg_control`, read without a server.
//!
//! What it is: a parser of the layouts of PostgreSQL 15 to 18 (`src/include/catalog/pg_control.h`), little-endian,
//! as on every platform we run on. What it is not: a source for a member's position: the control file lags behind
//! the WAL on disk. Invariant: a value is returned only when the CRC-32C over the whole structure fits.

use std::path::Path;

use wire::{Lsn, Timeline};

/// `ControlFileData.state`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DbState {
    Startup,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

impl DbState {
    /// True when the server wrote all it knew before it ended; what `pg_rewind` asks of its target.
    pub fn is_clean(self) -> bool {
        matches!(self, DbState::ShutDown | DbState::ShutDownInRecovery)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlFile {
    pub system_id: u64,
    /// 1300 (13 to 16), 1700 (17) or 1800 (18).
    pub control_version: u32,
    pub catalog_version: u32,
    pub state: DbState,
    pub checkpoint: Lsn,
    pub checkpoint_redo: Lsn,
    /// The timeline of the last checkpoint, which may be an older one than the WAL's.
    pub checkpoint_timeline: Timeline,
    /// Zero on a primary: recover all there is.
    pub min_recovery_point: Lsn,
    pub min_recovery_timeline: Timeline,
    pub max_connections: u32,
    pub max_worker_processes: u32,
    pub max_wal_senders: u32,
    pub max_prepared_transactions: u32,
    pub max_locks_per_transaction: u32,
    pub wal_log_hints: bool,
    pub wal_segment_bytes: u32,
    pub data_checksums: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ControlError {
    #[error("pg_control cannot be read: {0}")]
    Unreadable(String),
    #[error("pg_control has format {0}, which belongs to no PostgreSQL from 15 to 18")]
    Format(u32),
    #[error("pg_control is damaged: its checksum does not fit")]
    Checksum,
    #[error("pg_control is damaged: {0} bytes are too few")]
    Short(usize),
    #[error("pg_control is damaged: {0} is no state of a server")]
    State(u32),
}

/// Reads `global/pg_control` below `data`. A running server may be writing it: a torn read is repeated.
pub fn read(data: &Path) -> Result<ControlFile, ControlError> {
    /// The server writes the file in one call of 8 kB; two unlucky reads in a row are already far-fetched.
    const READS_MAX: u32 = 5;
    let path = data.join("global/pg_control");
    let mut result = Err(ControlError::Checksum);
    for _ in 0..READS_MAX {
        let bytes = std::fs::read(&path)
            .map_err(|error| ControlError::Unreadable(format!("{}: {error}", path.display())))?;
        result = parse(&bytes);
        if !matches!(result, Err(ControlError::Checksum)) {
            break;
        }
    }
    result
}

pub fn parse(bytes: &[u8]) -> Result<ControlFile, ControlError> {
    let control_version = word(bytes, 8)?;
    // 18 put `default_char_signedness` before the 32 bytes of the nonce, which moved the checksum.
    let crc_at = match control_version {
        1300 | 1700 => 288,
        1800 => 292,
        other => return Err(ControlError::Format(other)),
    };
    let crc = word(bytes, crc_at)?;
    if crc32c::crc32c(&bytes[..crc_at]) != crc {
        return Err(ControlError::Checksum);
    }
    // `checkPointCopy` begins at 40 and is 88 bytes long in all four majors (17 put `wal_level` into its padding).
    Ok(ControlFile {
        system_id: long(bytes, 0)?,
        control_version,
        catalog_version: word(bytes, 12)?,
        state: state(word(bytes, 16)?)?,
        checkpoint: Lsn(long(bytes, 32)?),
        checkpoint_redo: Lsn(long(bytes, 40)?),
        checkpoint_timeline: Timeline(word(bytes, 48)?),
        min_recovery_point: Lsn(long(bytes, 136)?),
        min_recovery_timeline: Timeline(word(bytes, 144)?),
        wal_log_hints: bytes[176] != 0,
        max_connections: word(bytes, 180)?,
        max_worker_processes: word(bytes, 184)?,
        max_wal_senders: word(bytes, 188)?,
        max_prepared_transactions: word(bytes, 192)?,
        max_locks_per_transaction: word(bytes, 196)?,
        wal_segment_bytes: word(bytes, 228)?,
        data_checksums: word(bytes, 252)? != 0,
    })
}

fn state(value: u32) -> Result<DbState, ControlError> {
    Ok(match value {
        0 => DbState::Startup,
        1 => DbState::ShutDown,
        2 => DbState::ShutDownInRecovery,
        3 => DbState::ShuttingDown,
        4 => DbState::InCrashRecovery,
        5 => DbState::InArchiveRecovery,
        6 => DbState::InProduction,
        other => return Err(ControlError::State(other)),
    })
}

fn word(bytes: &[u8], at: usize) -> Result<u32, ControlError> {
    let field = bytes.get(at..at + 4).and_then(|field| field.try_into().ok());
    field.map(u32::from_le_bytes).ok_or(ControlError::Short(bytes.len()))
}

fn long(bytes: &[u8], at: usize) -> Result<u64, ControlError> {
    let field = bytes.get(at..at + 8).and_then(|field| field.try_into().ok());
    field.map(u64::from_le_bytes).ok_or(ControlError::Short(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_seen() {
        assert_eq!(parse(&[0; 100]), Err(ControlError::Format(0)));
        assert_eq!(parse(&[0; 4]), Err(ControlError::Short(4)));
        let mut bytes = vec![0; 8192];
        bytes[8..12].copy_from_slice(&1300u32.to_le_bytes());
        assert_eq!(parse(&bytes), Err(ControlError::Checksum));
    }
}
