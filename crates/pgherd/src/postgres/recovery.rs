//! How far a server that is starting has recovered, by the title of its startup process and the control file.
//!
//! Where the WAL ends nobody knows before it has been read, so there is no total.

use super::control;
use super::rewind::segment_start;
use super::server::Server;

impl Server {
    /// Bytes of WAL replayed since the last checkpoint; `None` when `title` tells of no segment.
    pub fn recovered_bytes(&self, title: &str) -> Option<u64> {
        let control = control::read(&self.layout.data).ok()?;
        let segment = title.split_whitespace().last()?;
        let start = segment_start(segment, control.wal_segment_bytes)?;
        Some(start.bytes_since(control.checkpoint_redo))
    }
}
