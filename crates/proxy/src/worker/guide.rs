//! What a worker directs reads by: verdicts on texts, and how far replicas were when they were looked at last.

use std::sync::Arc;

use super::SessionId;
use crate::routes::{Freshness, Judges, Seen};

#[derive(Default)]
pub struct Guide {
    pub judges: Judges,
    pub seen: Arc<Seen>,
    /// Sessions whose read waits for a replica to be further.
    waiting: Vec<SessionId>,
}

impl Guide {
    /// The session is woken when replicas have been looked at.
    pub fn wait(&mut self, session: SessionId) {
        self.waiting.push(session);
    }

    pub fn look(&mut self, freshness: &Freshness, woken: &mut Vec<SessionId>) {
        self.seen = freshness.seen();
        woken.append(&mut self.waiting);
    }
}
