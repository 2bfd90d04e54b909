//! What the last look at the own server found that only people and monitors read; the brain's view has the rest.

use std::sync::Arc;

use wire::Lsn;

use super::work::Worker;
use crate::postgres::{About, Primary, Server, Standby, Walsender};

/// Of a server that answers.
#[derive(Clone, PartialEq, Debug)]
pub struct Facts {
    pub about: About,
    /// Flushed by the WAL receiver since the server's start; `None` on a primary, and before any came.
    pub received: Option<Lsn>,
    /// `None` on a primary.
    pub replayed: Option<Lsn>,
    /// Everybody who takes WAL from here, members of the cluster or not.
    pub walsenders: Vec<Walsender>,
}

impl From<&Standby> for Facts {
    fn from(seen: &Standby) -> Facts {
        Facts {
            about: seen.about.clone(),
            received: seen.receive_lsn,
            replayed: seen.replay_lsn,
            walsenders: seen.walsenders.clone(),
        }
    }
}

impl From<&Primary> for Facts {
    fn from(seen: &Primary) -> Facts {
        let walsenders = seen.walsenders.clone();
        Facts { about: seen.about.clone(), received: None, replayed: None, walsenders }
    }
}

impl Worker {
    /// For whoever only looks: changes are the worker's own.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// `None` while the server gives no answer, or there is none.
    pub fn facts(&self) -> Option<Arc<Facts>> {
        self.known().facts.clone()
    }

    pub(super) fn note_facts(&self, facts: Option<Facts>) {
        self.known().facts = facts.map(Arc::new);
    }
}
