//! Reads that are not stale: the leader confirms that it still leads, and this node has applied what it had then.

use std::time::Duration;

use super::{Answer, Replica, Ticket, WAITING_MAX};
use crate::store::StoreError;

/// A read asks again after this long: Raft drops reads silently until a new leader has committed.
const READ_AGAIN: Duration = Duration::from_millis(150);

pub(super) struct Reading {
    pub(super) tickets: Vec<(Ticket, String, Duration)>,
    asked: Duration,
    /// Known once the leader has confirmed that it still leads.
    pub(super) index: Option<u64>,
}

impl Replica {
    pub fn read(&mut self, ticket: Ticket, key: String) {
        if self.readings.values().map(|reading| reading.tickets.len()).sum::<usize>() >= WAITING_MAX {
            let busy = StoreError::Unavailable(format!("{WAITING_MAX} reads of this node are under way"));
            self.answers.push((ticket, Answer::Read(Err(busy))));
            return;
        }
        self.ask(vec![(ticket, key, self.now + self.deadline)]);
    }

    fn ask(&mut self, tickets: Vec<(Ticket, String, Duration)>) {
        let number = self.next_read;
        self.next_read += 1;
        let mut context = self.read_prefix().to_vec();
        context.extend_from_slice(&number.to_be_bytes());
        self.readings.insert(number, Reading { tickets, asked: self.now, index: None });
        self.core.read_index(context);
    }

    /// Raft tells reads apart by their context alone, those of other nodes and earlier incarnations included.
    fn read_prefix(&self) -> [u8; 16] {
        let mut prefix = [0; 16];
        prefix[..8].copy_from_slice(&self.id.to_be_bytes());
        prefix[8..].copy_from_slice(&self.incarnation.to_be_bytes());
        prefix
    }

    pub(super) fn own_read(&mut self, context: &[u8]) -> Option<&mut Reading> {
        let number = context.strip_prefix(&self.read_prefix())?;
        self.readings.get_mut(&u64::from_be_bytes(number.try_into().ok()?))
    }

    /// All reads that heard nothing ask once more, together.
    pub(super) fn read_again(&mut self) {
        let now = self.now;
        let mut again = Vec::new();
        let mut late = Vec::new();
        self.readings.retain(|_, reading| {
            late.extend(reading.tickets.extract_if(.., |(_, _, deadline)| now >= *deadline));
            let due = reading.index.is_none() && now >= reading.asked + READ_AGAIN;
            if due {
                again.append(&mut reading.tickets);
            }
            !reading.tickets.is_empty()
        });
        for (ticket, _, _) in late {
            let late = format!("no majority confirmed the read within {:?}", self.deadline);
            self.answers.push((ticket, Answer::Read(Err(StoreError::Unavailable(late)))));
        }
        if !again.is_empty() {
            self.ask(again);
        }
    }

    pub(super) fn answer_reads(&mut self) {
        let applied = self.applied;
        let ready: Vec<u64> = self
            .readings
            .iter()
            .filter(|(_, reading)| reading.index.is_some_and(|index| index <= applied))
            .map(|(number, _)| *number)
            .collect();
        for (ticket, key, _) in
            ready.iter().filter_map(|number| self.readings.remove(number)).flat_map(|r| r.tickets)
        {
            self.answers.push((ticket, Answer::Read(Ok(self.state.get(&key)))));
        }
    }
}
