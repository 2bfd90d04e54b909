//! The texts that are prepared for more than one session.
//!
//! What it is: one statement for each text and way to read it, bounded; and which texts without a name come often enough to be one
//! of them. What it is not: a list of what servers have. Invariant: what was read before a definition changed is told to nobody who
//! asks after that.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::ties::Reads;

/// Statements of all sessions; what nobody uses goes when there are more.
const KNOWN_MAX: usize = 50_000;
/// Texts without a name that are remembered, at most, to tell such as come again from such as come once; a power of two.
const LATELY: usize = 4_096;
/// So often a text must have come lately. A statement costs a server a few KB and the proxy a message to end it.
const OFTEN: u8 = if cfg!(test) { 1 } else { 3 };

/// A text to be prepared, and its number.
#[derive(Debug)]
pub struct Statement {
    pub id: u64,
    /// How it was read.
    pub reads: Reads,
    /// The body of Parse behind the name: text and types of parameters.
    pub body: Box<[u8]>,
}

/// The statements of all sessions.
#[derive(Default, Debug)]
pub struct Registry {
    known: Mutex<HashMap<Box<[u8]>, Arc<Statement>>>,
    /// Numbers of those of which PostgreSQL has said that they are of another time.
    stale: Mutex<BTreeSet<u64>>,
    last: AtomicU64,
    /// Another number once any of them is of another time.
    generation: AtomicU64,
    /// Texts without a name are shared, too. Of each that came lately a mark, and how often it came.
    lately: Option<Mutex<Vec<(u32, u8)>>>,
    hasher: RandomState,
}

impl Registry {
    pub fn new(shares_unnamed: bool) -> Registry {
        let lately = shares_unnamed.then(|| Mutex::new(vec![(0, 0); LATELY]));
        Registry { lately, ..Registry::default() }
    }

    pub fn shares_unnamed(&self) -> bool {
        self.lately.is_some()
    }

    /// Another number once anything of before is not for who prepares it anew.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The one for a `body` without a name, if it has come often.
    pub fn frequent(&self, reads: Reads, body: &[u8]) -> Option<Arc<Statement>> {
        let hash = self.hasher.hash_one((reads, body));
        let mut lately = self.lately.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let (mark, times) = &mut lately[hash as usize % LATELY];
        let own = (hash >> 32) as u32;
        if *mark != own {
            (*mark, *times) = (own, 0);
        }
        *times = times.saturating_add(1);
        (*times > OFTEN).then(|| self.statement(reads, body))
    }

    /// The one statement with this `body`, read so.
    pub fn statement(&self, reads: Reads, body: &[u8]) -> Arc<Statement> {
        let key = [&reads[..], body].concat();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = known.get(&key[..]) {
            let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
            if !stale.remove(&statement.id) {
                return Arc::clone(statement);
            }
        }
        if known.len() >= KNOWN_MAX {
            known.retain(|_, statement| Arc::strong_count(statement) > 1);
        }
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let statement = Arc::new(Statement { id, reads, body: body.into() });
        if known.len() < KNOWN_MAX {
            known.insert(key.into(), Arc::clone(&statement));
        }
        statement
    }

    /// Those that were used are not for new sessions any more.
    pub fn outdate<'a>(&self, used: impl Iterator<Item = &'a (u64, u64)>) {
        let mut stale = self.stale.lock().unwrap_or_else(PoisonError::into_inner);
        // As many as there are statements; who never comes back is forgotten with the rest.
        if stale.len() >= KNOWN_MAX {
            stale.clear();
        }
        stale.extend(used.map(|(_, id)| id));
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Something was defined in another way: every text may mean something else to who prepares it from now on. Sessions keep
    /// what they have, as on a server of their own.
    pub fn outdate_all(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.stale.lock().unwrap_or_else(PoisonError::into_inner).clear();
        // Who looks before this is told what was there; who looks after it finds nothing of before.
        self.generation.fetch_add(1, Ordering::Release);
    }
}
