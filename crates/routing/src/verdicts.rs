//! Verdicts that were given, by text, its plain literals aside ([`shape`]).
//!
//! What it is: one thread's memory for one database, bounded in entries and bytes; what was not asked for again goes
//! first (the clock algorithm), so that texts that are met once do not push out the others.
//! What it is not: a parser. Invariant: no verdict outlives the catalog that it came from.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::catalog::Catalog;
use crate::classify::{TEXT_BYTES_MAX, classify};
use crate::shape;
use crate::verdict::{Reason, Route, Verdict};

/// What an entry costs beside its text: itself, a slot of the table, a name in its reason.
const ENTRY_BYTES: usize = size_of::<Entry>() + 48;
/// A text that would take more than this part of the bytes is not kept.
const TEXT_PART: usize = 16;

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub entries: usize,
    /// Of texts and what is kept with them.
    pub bytes: usize,
}

impl Default for Limits {
    /// 4,096 texts of 400 bytes fit: what an application of a few hundred queries needs, for 2 MB a thread.
    fn default() -> Limits {
        Limits { entries: 4096, bytes: 2 << 20 }
    }
}

pub struct Verdicts {
    limits: Limits,
    hasher: FixedState,
    generation: u64,
    /// Places in `entries`, by the hash of the text there.
    places: HashTable<u32>,
    entries: Vec<Entry>,
    bytes: usize,
    /// Where the clock's hand stands in `entries`.
    hand: usize,
    /// Of a text that is not kept.
    passing: Verdict,
    /// The shape of the text that is asked for, between two calls only room for one.
    shape: Vec<u8>,
    hits: u64,
    misses: u64,
}

struct Entry {
    hash: u64,
    text: Box<[u8]>,
    verdict: Verdict,
    asked_again: bool,
}

impl Verdicts {
    /// `seed` must not be known to clients, or they choose texts that fall into one place.
    pub fn new(limits: Limits, seed: u64) -> Verdicts {
        Verdicts {
            limits,
            hasher: FixedState::with_seed(seed),
            generation: 0,
            places: HashTable::new(),
            entries: Vec::new(),
            bytes: 0,
            hand: 0,
            passing: Verdict::plain(Route::Replica),
            shape: Vec::new(),
            hits: 0,
            misses: 0,
        }
    }

    /// The verdict on `text`, which is that of `classify`. A known text costs its hash and one comparison.
    pub fn of(&mut self, text: &[u8], catalog: &Catalog) -> &Verdict {
        if text.len() > TEXT_BYTES_MAX {
            return self.pass(Verdict::plain(Route::Primary(Reason::TooLong)));
        }
        if self.generation != catalog.generation() {
            self.clear();
            self.generation = catalog.generation();
        }
        let mut shape = std::mem::take(&mut self.shape);
        let key = if shape::write(text, &mut shape) { &shape[..] } else { text };
        let hash = self.hash(key);
        let place = match self.find(hash, key) {
            Some(place) => {
                self.hits += 1;
                self.entries[place].asked_again = true;
                Some(place)
            }
            None => {
                self.misses += 1;
                let verdict = classify(text, catalog);
                match key != text && is_of_literals(&verdict) {
                    true => {
                        self.passing = verdict;
                        None
                    }
                    false => self.keep(hash, key, verdict),
                }
            }
        };
        self.shape = shape;
        place.map_or(&self.passing, |place| &self.entries[place].verdict)
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<usize> {
        self.places
            .find(hash, |place| *self.entries[*place as usize].text == *key)
            .map(|place| *place as usize)
    }

    /// The same text, whatever its literals, goes to the primary from now on: a replica has refused it. Forgotten with the catalog.
    pub fn correct(&mut self, text: &[u8], reason: Reason) {
        let mut shape = std::mem::take(&mut self.shape);
        let key = if shape::write(text, &mut shape) { &shape[..] } else { text };
        if let Some(place) = self.find(self.hash(key), key) {
            self.entries[place].verdict.route = Route::Primary(reason);
        }
        self.shape = shape;
    }

    /// Texts found and texts classified, since the beginning.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits, self.misses)
    }

    /// Entries and bytes kept.
    pub fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    fn hash(&self, text: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(text);
        hasher.finish()
    }

    fn pass(&mut self, verdict: Verdict) -> &Verdict {
        self.passing = verdict;
        &self.passing
    }

    /// Where it is kept; `None` when it is not, but for the moment.
    fn keep(&mut self, hash: u64, text: &[u8], verdict: Verdict) -> Option<usize> {
        let bytes = text.len() + ENTRY_BYTES;
        if bytes > self.limits.bytes / TEXT_PART || self.limits.entries == 0 {
            self.passing = verdict;
            return None;
        }
        while self.entries.len() >= self.limits.entries || self.bytes + bytes > self.limits.bytes {
            self.drop_one();
        }
        let place = self.entries.len() as u32;
        self.entries.push(Entry { hash, text: text.into(), verdict, asked_again: false });
        self.bytes += bytes;
        self.places.insert_unique(hash, place, |place| self.entries[*place as usize].hash);
        Some(place as usize)
    }

    /// The first from the hand on that was not asked for again since the hand last passed it. The last entry takes
    /// its place.
    fn drop_one(&mut self) {
        loop {
            self.hand = if self.hand < self.entries.len() { self.hand } else { 0 };
            if !std::mem::take(&mut self.entries[self.hand].asked_again) {
                break;
            }
            self.hand += 1;
        }
        let last = self.entries.len() - 1;
        let moved_hash = self.entries[last].hash;
        self.forget_place(self.entries[self.hand].hash, self.hand as u32);
        if let Some(place) = self.places.find_mut(moved_hash, |place| *place as usize == last) {
            *place = self.hand as u32;
        }
        let gone = self.entries.swap_remove(self.hand);
        self.bytes -= gone.text.len() + ENTRY_BYTES;
        self.hand += 1;
    }

    fn forget_place(&mut self, hash: u64, gone: u32) {
        if let Ok(entry) = self.places.find_entry(hash, |place| *place == gone) {
            entry.remove();
        }
    }

    fn clear(&mut self) {
        self.places.clear();
        self.entries.clear();
        (self.bytes, self.hand) = (0, 0);
    }
}

/// What the values in a text may have brought about: it says nothing of others of its shape.
fn is_of_literals(verdict: &Verdict) -> bool {
    use Reason::{NotUtf8, ParserFailed, TooCostly, Unparsable};
    matches!(verdict.route, Route::Primary(NotUtf8 | TooCostly | Unparsable | ParserFailed))
}

#[cfg(test)]
mod tests;
