//! Who sits in the store, and whose seat was given up for good.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Cell, Seat, State, cell_bytes};
use crate::store::MEMBERS;

/// Seats that were removed and are remembered, so that they can be told: far more than a cluster has nodes.
const DEPARTED_MAX: usize = 64;

impl State {
    /// The first state of a store: one seat, and the record of members.
    pub fn founded(id: u64, seat: Seat, members: Value) -> State {
        let bytes = cell_bytes(MEMBERS, &members);
        let cell = Cell { value: members, version: 1, lease: None, bytes };
        State {
            cells: [(MEMBERS.to_owned(), cell)].into(),
            seats: [(id, seat)].into(),
            revision: 1,
            bytes,
            ..State::default()
        }
    }

    pub fn seats(&self) -> &BTreeMap<u64, Seat> {
        &self.seats
    }

    pub fn has_departed(&self, id: u64) -> bool {
        self.departed.contains(&id)
    }

    pub fn seat_added(&mut self, id: u64, seat: Seat) {
        self.seats.insert(id, seat);
    }

    /// With the seat goes what its commands have left behind.
    pub fn seat_removed(&mut self, id: u64) {
        if self.seats.remove(&id).is_none() {
            return;
        }
        self.sessions.remove(&id);
        if self.departed.len() == DEPARTED_MAX {
            self.departed.remove(0);
        }
        self.departed.push(id);
    }
}
