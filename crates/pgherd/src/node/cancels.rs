//! Cancel requests that come to the wrong proxy: the key is of a session that the process before this one has, or that another
//! node has behind a load balancer.
//!
//! Invariant: who knows no key can make this node tell its peers of [`RATE`] requests a second at most.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proxy::{Canceller, Elsewhere};
use tokio::sync::mpsc;
use wire::startup::CancelKey;

use crate::peer::{Channel, Link};

/// So many in any second. People cancel by hand; a driver's time-outs may come in swarms.
const RATE: u32 = 200;

/// The key as it travels: the process id, four bytes, big-endian, then the secret.
pub(super) type Key = Bytes;

fn encode(key: CancelKey<'_>) -> Key {
    [&key.pid.to_be_bytes(), key.secret].concat().into()
}

fn decode(key: &[u8]) -> Option<CancelKey<'_>> {
    CancelKey::parse(key)
}

/// Where else a session may be.
#[derive(Default)]
pub(super) struct Cancels {
    predecessor: OnceLock<mpsc::Sender<Key>>,
    peers: OnceLock<Arc<Link>>,
    told: Mutex<(Option<Instant>, u32)>,
}

impl Cancels {
    pub fn to_predecessor(&self, way: mpsc::Sender<Key>) {
        // Set once, at the start.
        let _ = self.predecessor.set(way);
    }

    pub fn to_peers(&self, link: Arc<Link>) {
        let _ = self.peers.set(link);
    }

    /// A request that another process or node does not know: for `own` sessions, or for the process before this one. Who sent it
    /// has asked the others.
    pub fn deal_with(self: &Arc<Self>, own: &Canceller, key: Key) {
        let (cancels, own) = (Arc::clone(self), own.clone());
        tokio::spawn(async move {
            let Some(parsed) = decode(&key) else { return };
            if !own.cancel(parsed).await {
                cancels.pass_back(key);
            }
        });
    }

    fn pass_back(&self, key: Key) {
        if let Some(way) = self.predecessor.get() {
            // Full: it does not keep up, and whoever cancels asks again.
            let _ = way.try_send(key);
        }
    }

    fn may_tell(&self) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = &mut *told;
        if since.is_none_or(|since| since.elapsed() >= Duration::from_secs(1)) {
            (*since, *count) = (Some(Instant::now()), 0);
        }
        *count += 1;
        *count <= RATE
    }
}

impl Elsewhere for Cancels {
    fn cancel(&self, key: CancelKey<'_>) {
        let key = encode(key);
        if let Some(link) = self.peers.get().filter(|_| self.may_tell()) {
            for peer in link.connected() {
                link.send(&peer, Channel::Cancel, key.clone());
            }
        }
        self.pass_back(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_travels_whole() {
        for secret in [&[1, 2, 3, 4][..], &[9; 256]] {
            let key = CancelKey { pid: 77, secret };
            let there = encode(key);
            let there = decode(&there).unwrap();
            assert_eq!((there.pid, there.secret), (77, secret));
        }
        assert!(decode(&[1, 2]).is_none());
    }

    #[test]
    fn peers_are_told_of_so_many_in_a_second() {
        let cancels = Cancels::default();
        assert_eq!((0..RATE * 2).filter(|_| cancels.may_tell()).count(), RATE as usize);
    }
}
