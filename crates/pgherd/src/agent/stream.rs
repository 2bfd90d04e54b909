//! Whether the WAL receiver gets anything.
//!
//! `pg_stat_wal_receiver` says `streaming` from the moment a receiver has logged in, before its upstream has looked for the
//! WAL it asks for. One that asks for removed WAL comes back every 100 ms and says so each time; a look that meets it
//! there has seen nothing come.

use std::time::{Duration, Instant};

use wire::Lsn;

/// A receiver that the upstream ends is gone sooner; one on an idle upstream gets no WAL, and is believed after this.
const SETTLED: Duration = Duration::from_millis(500);

/// One receiver process that says that it streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stream {
    receiver: i32,
    since: Instant,
    from: Option<Lsn>,
    /// WAL has come, or it was neither refused nor ended.
    pub settled: bool,
}

impl Stream {
    /// What is known after a look that met `receiver`, with WAL here up to `lsn`.
    pub fn note(known: Option<Stream>, receiver: i32, lsn: Option<Lsn>, now: Instant) -> Stream {
        match known.filter(|stream| stream.receiver == receiver) {
            Some(stream) => Stream {
                settled: stream.settled || lsn > stream.from || now - stream.since >= SETTLED,
                ..stream
            },
            None => Stream { receiver, since: now, from: lsn, settled: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(looks: &[(u64, i32, u64)]) -> bool {
        let begin = Instant::now();
        let look = |known: Option<Stream>, &(ms, receiver, lsn): &(u64, i32, u64)| {
            Some(Stream::note(known, receiver, Some(Lsn(lsn)), begin + Duration::from_millis(ms)))
        };
        looks.iter().fold(None, look).is_some_and(|stream| stream.settled)
    }

    #[test]
    fn a_receiver_that_is_turned_away_each_time_never_streams() {
        let knocks: Vec<_> = (0..100).map(|n| (n * 100, n as i32, 0x4024638)).collect();
        assert!(!after(&knocks));
        assert!(!after(&[(0, 7, 16), (400, 7, 16), (500, 8, 16), (900, 8, 16)]));
    }

    #[test]
    fn a_receiver_streams_once_wal_has_come_or_nobody_ended_it() {
        assert!(after(&[(0, 7, 16), (100, 7, 17)]));
        assert!(after(&[(0, 7, 16), (500, 7, 16)]));
        assert!(after(&[(0, 7, 16), (100, 7, 17), (200, 7, 17)]));
        assert!(!after(&[(0, 7, 16), (100, 8, 17)]), "what an earlier receiver brought");
    }
}
