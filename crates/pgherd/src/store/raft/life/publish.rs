//! What the rest of the node is told of the store: entries, who leads, who sits where.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::Life;
use crate::store::Snapshot;
use crate::store::raft::door::Place;
use crate::store::raft::report::{SeatReport, Standing};

impl Life<'_> {
    pub(super) fn publish(&mut self) {
        let leadership = self.replica.standing();
        let leader = self.name_of(leadership.leader).cloned();
        if self.leadership != Some(leadership) {
            tracing::info!(
                store_term = leadership.term,
                store_leader = leader.as_deref().unwrap_or("none"),
                leads = leadership.leads,
                "the store's leadership changed"
            );
            self.leadership = Some(leadership);
        }
        if leader.is_some() {
            self.leader_seen = Some(Instant::now());
        }
        self.publish_seats();
        // A newcomer that has heard a leader, but not got the state yet, knows nothing.
        let state = self.replica.state();
        let connected = !state.seats().is_empty()
            && self.leader_seen.is_some_and(|seen| seen.elapsed() < self.node.grace);
        self.node.shared.watch.send_if_modified(|snapshot| {
            let entries = match snapshot.revision == state.revision() {
                true if snapshot.leader == leader && snapshot.connected == connected => return false,
                true => snapshot.entries.clone(),
                false if state.revision() < snapshot.revision => return false,
                false => state.entries(),
            };
            *snapshot = Arc::new(Snapshot { entries, revision: state.revision(), leader, connected });
            true
        });
    }

    fn publish_seats(&mut self) {
        let conf = self.replica.core().conf_state();
        let names = |ids: &[u64]| -> BTreeSet<String> {
            ids.iter().filter_map(|id| self.name_of(*id).cloned()).collect()
        };
        let id = self.replica.id();
        let standing = match self.door.place {
            Place::Removed => Standing::Removed,
            Place::Seated if conf.voters.contains(&id) => Standing::Voter,
            Place::Seated if conf.learners.contains(&id) => Standing::Learner,
            _ => Standing::Newcomer,
        };
        let (voters, learners) = (names(&conf.voters), names(&conf.learners));
        // Whoever takes part reads the record itself.
        let reads = self.door.place == Place::Seated && self.replica.members().is_some();
        let told = self.told.clone().filter(|_| !reads);
        self.node.shared.seats.send_if_modified(|report| {
            let now = SeatReport { standing, voters, learners, told, trouble: None };
            let changed = **report != now;
            if changed {
                *report = Arc::new(now);
            }
            changed
        });
    }
}
