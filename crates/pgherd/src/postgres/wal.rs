//! The last bytes of a standby's WAL: do they hold a whole record?
//!
//! Why: a primary sends WAL up to whatever it has flushed, in the middle of a record too. When it dies, its standbys are
//! left with the beginning of a record that nobody will ever finish. A promotion forks before that piece; taken for
//! WAL of its own it would make every other standby look diverged. No commit is in it: a commit is
//! acknowledged only when its record's end is flushed.
//! Invariant: in doubt the answer is "a record may be there", so that a position is never understated.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use wire::{Lsn, Timeline};

/// `XLOG_BLCKSZ` of every PostgreSQL that distributions build.
pub(super) const PAGE: u64 = 8192;
/// `SizeOfXLogShortPHD`, and `SizeOfXLogLongPHD` on the first page of a segment.
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;
/// `SizeOfXLogRecord`: a record is never shorter.
const RECORD_HEADER: u64 = 24;
/// `XLP_FIRST_IS_CONTRECORD`, `XLP_FIRST_IS_OVERWRITE_CONTRECORD` in `xlp_info`.
const CONTINUED: u16 = 0x0001;
const OVERWRITTEN: u16 = 0x0008;

/// Longer stretches are replay that lags, not a piece of a record: not looked into.
const LOOK_BYTES_MAX: u64 = 1024 * 1024;

/// True when the bytes from `start`, where a record ends, up to `end` certainly hold no whole record.
pub(super) fn is_only_a_piece(wal: &Path, timeline: Timeline, start: Lsn, end: Lsn, segment: u64) -> bool {
    if end.bytes_since(start) > LOOK_BYTES_MAX || segment == 0 || !segment.is_multiple_of(PAGE) {
        return false;
    }
    let read = |at: u64, bytes: &mut [u8]| -> io::Result<()> {
        let number = at / segment;
        let per_id = (1 << 32) / segment;
        let name = format!("{:08X}{:08X}{:08X}", timeline.0, number / per_id, number % per_id);
        File::open(wal.join(name))?.read_exact_at(bytes, at % segment)
    };
    piece(read, start.0, end.0, segment).unwrap_or(false)
}

fn piece(
    read: impl Fn(u64, &mut [u8]) -> io::Result<()>,
    start: u64,
    end: u64,
    segment: u64,
) -> io::Result<bool> {
    let header = |page: u64| if page.is_multiple_of(segment) { LONG_HEADER } else { SHORT_HEADER };
    let first = if start.is_multiple_of(PAGE) { start + header(start) } else { start };
    // `xl_tot_len`, the first field; records are aligned to 8 bytes, so it never spans pages.
    if first + 4 > end {
        return Ok(true);
    }
    let mut length = [0; 4];
    read(first, &mut length)?;
    let length = u64::from(u32::from_le_bytes(length));
    if length < RECORD_HEADER {
        return Ok(true);
    }
    let mut page_end = (first / PAGE + 1) * PAGE;
    let mut held = page_end.min(end) - first;
    while held < length && page_end + SHORT_HEADER <= end {
        let mut info = [0; 2];
        read(page_end + 2, &mut info)?;
        let info = u16::from_le_bytes(info);
        if info & CONTINUED == 0 || info & OVERWRITTEN != 0 {
            // The record was given up and others follow.
            return Ok(false);
        }
        let body = page_end + header(page_end);
        page_end += PAGE;
        held += page_end.min(end).saturating_sub(body);
    }
    Ok(held < length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: u64 = 1 << 24;

    /// A record of `length` bytes at `at`, with `info` in the header of each later page.
    fn verdict(at: u64, length: u32, end: u64, info: u16) -> bool {
        let read = |from: u64, bytes: &mut [u8]| {
            match bytes.len() {
                4 if from == at || from == at + SHORT_HEADER || from == at + LONG_HEADER => {
                    bytes.copy_from_slice(&length.to_le_bytes());
                }
                2 => bytes.copy_from_slice(&info.to_le_bytes()),
                _ => panic!("read {} bytes at {from}", bytes.len()),
            }
            Ok(())
        };
        piece(read, at, end, SEGMENT).unwrap()
    }

    #[test]
    fn a_record_is_whole_when_its_last_byte_is_there() {
        let at = SEGMENT + 2 * PAGE + 4000;
        assert!(verdict(at, 100, at, 0), "nothing");
        assert!(verdict(at, 100, at + 99, 0));
        assert!(!verdict(at, 100, at + 100, 0));
        let page_end = SEGMENT + 3 * PAGE;
        let rest = 5000 - (page_end - at);
        assert!(verdict(at, 5000, page_end, CONTINUED), "up to a page's end, as walwriter flushes");
        assert!(verdict(at, 5000, page_end + SHORT_HEADER + rest - 1, CONTINUED));
        assert!(!verdict(at, 5000, page_end + SHORT_HEADER + rest, CONTINUED));
    }

    #[test]
    fn headers_at_a_boundary_are_no_record_and_doubt_is_not_a_piece() {
        assert!(verdict(SEGMENT, 100, SEGMENT + LONG_HEADER, 0));
        assert!(!verdict(SEGMENT, 100, SEGMENT + LONG_HEADER + 100, 0));
        let at = SEGMENT + PAGE + 8000;
        assert!(!verdict(at, 9000, SEGMENT + 2 * PAGE + 200, OVERWRITTEN | CONTINUED));
        assert!(!verdict(at, 9000, SEGMENT + 2 * PAGE + 200, 0));
    }
}
