//! How a start-up packet was let in before, so that the next client with the same one needs no server to log in.
//!
//! What it is: for each port and packet the proof that PostgreSQL asked for and what it then reported, as seen at a log-in
//! there. What it is not: a rule; what PostgreSQL has not decided within `FRESH` it is asked again, by a log-in
//! of its own. Invariant: a door opens only for what opened it at the server: nothing at all, or the very secret that the
//! catalog still holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Port;
use super::auth::roles::Secret;
use super::auth::scram::Keys;
use super::ties::Parameters;

/// For so long a change of pg_hba.conf, of a role's right to the database or of its limits may be unseen by log-ins; a changed or
/// expired password and NOLOGIN are seen at once.
const FRESH: Duration = Duration::from_secs(60);
/// Packets that are remembered. With 1 KB of parameters each, a megabyte.
const DOORS_MAX: usize = 1_000;

/// What PostgreSQL wanted to see.
#[derive(Clone, Debug)]
pub enum Proof {
    Nothing,
    Scram(Keys),
}

impl Proof {
    /// The catalog still holds what these keys were proven against.
    pub fn is_of(&self, secret: &Secret) -> bool {
        match (self, secret) {
            (Proof::Scram(keys), Secret::Scram(verifier)) => keys.fit(verifier),
            _ => false,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Door {
    pub proof: Proof,
    /// What the server reported of its settings.
    pub parameters: Arc<Parameters>,
    seen: Instant,
}

#[derive(Default, Debug)]
pub struct Doors {
    by_packet: Mutex<HashMap<Box<[u8]>, Door>>,
}

/// Names a pool, and the door to it: sessions of one port and one packet may have each other's servers.
pub fn key(port: Port, startup: &[u8]) -> Vec<u8> {
    [&[port as u8], startup].concat()
}

impl Doors {
    /// The way in that was seen within `FRESH`.
    pub fn find(&self, key: &[u8], now: Instant) -> Option<Door> {
        self.lock().get(key).filter(|door| now.duration_since(door.seen) < FRESH).cloned()
    }

    /// A server has let somebody in, who came at `now`.
    pub fn seen(&self, key: &[u8], proof: Proof, parameters: &Arc<Parameters>, now: Instant) {
        let mut doors = self.lock();
        if doors.get(key).is_some_and(|door| door.seen > now) {
            return;
        }
        if doors.len() >= DOORS_MAX && !doors.contains_key(key) {
            doors.retain(|_, door| now.duration_since(door.seen) < FRESH);
            if doors.len() >= DOORS_MAX {
                return;
            }
        }
        doors.insert(key.into(), Door { proof, parameters: Arc::clone(parameters), seen: now });
    }

    /// A server did not let somebody in.
    pub fn shut(&self, key: &[u8]) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Door>> {
        self.by_packet.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_is_known_by_port_and_packet_and_not_for_ever() {
        let (doors, now) = (Doors::default(), Instant::now());
        let (write, read) = (key(Port::ReadWrite, b"user"), key(Port::ReadOnly, b"user"));
        doors.seen(&write, Proof::Nothing, &Arc::default(), now);
        assert!(doors.find(&write, now).is_some() && doors.find(&read, now).is_none());
        assert!(doors.find(&write, now + FRESH).is_none());
        doors.seen(&write, Proof::Nothing, &Arc::default(), now + FRESH);
        assert!(doors.find(&write, now + FRESH).is_some());
        doors.shut(&write);
        assert!(doors.find(&write, now + FRESH).is_none());
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let (doors, now) = (Doors::default(), Instant::now());
        let name = |n: usize| key(Port::ReadWrite, &n.to_be_bytes());
        (0..=DOORS_MAX).for_each(|n| doors.seen(&name(n), Proof::Nothing, &Arc::default(), now));
        assert!(doors.find(&name(0), now).is_some() && doors.find(&name(DOORS_MAX), now).is_none());
        doors.seen(&name(DOORS_MAX), Proof::Nothing, &Arc::default(), now + FRESH);
        assert!(doors.find(&name(DOORS_MAX), now + FRESH).is_some(), "the old ones have made room");
    }
}
