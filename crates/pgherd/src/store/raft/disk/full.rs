//! No room: the one failed write that is known to have changed nothing.

use std::io::ErrorKind;

use redb::StorageError;

/// The disk has no room. What was to be written is not there, what was there still is; the file may be opened again.
#[derive(Debug, thiserror::Error)]
#[error("no room for the store's log in its directory: {0}")]
pub(in crate::store::raft) struct Full(pub(super) String);

/// Any other failed write may have left pages in the kernel's cache that are on no disk: only a full one is known to have
/// changed nothing.
pub(super) fn is_full(error: &anyhow::Error) -> bool {
    let io = |error: &StorageError| match error {
        StorageError::Io(error) => matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded),
        _ => false,
    };
    error.chain().any(|cause| {
        let storage = cause.downcast_ref::<StorageError>();
        let table = match cause.downcast_ref::<redb::TableError>() {
            Some(redb::TableError::Storage(error)) => Some(error),
            _ => None,
        };
        let commit = match cause.downcast_ref::<redb::CommitError>() {
            Some(redb::CommitError::Storage(error)) => Some(error),
            _ => None,
        };
        let begin = match cause.downcast_ref::<redb::TransactionError>() {
            Some(redb::TransactionError::Storage(error)) => Some(error),
            _ => None,
        };
        let open = match cause.downcast_ref::<redb::DatabaseError>() {
            Some(redb::DatabaseError::Storage(error)) => Some(error),
            _ => None,
        };
        let raw = cause.downcast_ref::<std::io::Error>();
        [storage, table, commit, begin, open].into_iter().flatten().any(io)
            || raw.is_some_and(|e| matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
    })
}
