//! What routing knows of each database that the auto port is used for.
//!
//! What it is: a catalog per database, asked for when the first session comes and looked after while there are any. What it is
//! not: always new. What was made since is unknown and goes to the primary; what was changed since a replica refuses, and the
//! statement is repeated on the primary. Invariant: a catalog is never mixed from two moments.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use routing::{Catalog, Overrides, Rows};
use tokio::sync::Notify;
use tokio::time::sleep;

/// Between two looks whether a catalog has changed: a fork and 3 ms of the node's server, for each database in use.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// After a question that was not answered.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Reads what routing must know of a database. The agent implements it.
pub trait Catalogs: Send + Sync {
    /// `known` is the fingerprint of what is known already. The error is for the log.
    fn read<'a>(
        &'a self,
        database: &'a str,
        known: Option<&'a str>,
    ) -> Pin<Box<dyn Future<Output = Result<CatalogNews, String>> + Send + 'a>>;
}

#[derive(Debug)]
pub enum CatalogNews {
    Unchanged,
    Changed { fingerprint: String, rows: Box<Rows> },
}

/// The catalog of one database.
#[derive(Debug)]
pub struct Cell {
    pub number: u64,
    database: String,
    /// Changes with `now`.
    edition: AtomicU64,
    now: Mutex<Arc<Catalog>>,
    fingerprint: Mutex<Option<String>>,
}

impl Cell {
    pub fn edition(&self) -> u64 {
        self.edition.load(Ordering::Acquire)
    }

    pub fn now(&self) -> Arc<Catalog> {
        Arc::clone(&lock(&self.now))
    }

    async fn look(&self, catalogs: &dyn Catalogs, overrides: &Overrides) -> bool {
        let known = lock(&self.fingerprint).clone();
        match catalogs.read(&self.database, known.as_deref()).await {
            Ok(CatalogNews::Unchanged) => true,
            Ok(CatalogNews::Changed { fingerprint, rows }) => {
                let edition = self.edition() + 1;
                *lock(&self.now) = Arc::new(Catalog::new(edition, &rows, overrides));
                *lock(&self.fingerprint) = Some(fingerprint);
                self.edition.store(edition, Ordering::Release);
                tracing::debug!(database = self.database, "the auto port knows this database's catalog anew");
                true
            }
            Err(error) => {
                tracing::debug!(
                    database = self.database,
                    error,
                    "reading the catalog for the auto port failed"
                );
                false
            }
        }
    }
}

/// The catalogs of all databases that the auto port is used for.
#[derive(Default, Debug)]
pub struct Databases {
    cells: Mutex<BTreeMap<String, Arc<Cell>>>,
    last: AtomicU64,
    asked: Notify,
}

impl Databases {
    /// That of `database`, which is kept as long as somebody has it.
    pub fn of(&self, database: &str) -> Arc<Cell> {
        let mut cells = lock(&self.cells);
        if let Some(cell) = cells.get(database) {
            return Arc::clone(cell);
        }
        let cell = Arc::new(Cell {
            number: self.last.fetch_add(1, Ordering::Relaxed),
            database: database.to_owned(),
            edition: AtomicU64::new(0),
            now: Mutex::new(Arc::new(Catalog::empty())),
            fingerprint: Mutex::default(),
        });
        cells.insert(database.to_owned(), Arc::clone(&cell));
        self.asked.notify_one();
        cell
    }

    fn used(&self) -> Vec<Arc<Cell>> {
        let mut cells = lock(&self.cells);
        cells.retain(|_, cell| Arc::strong_count(cell) > 1);
        cells.values().cloned().collect()
    }

    /// Keeps them new, for ever.
    pub async fn watch(&self, catalogs: &dyn Catalogs, overrides: &Overrides) {
        loop {
            let mut again = LOOK_EVERY;
            for cell in self.used() {
                if !cell.look(catalogs, overrides).await {
                    again = RETRY_AFTER;
                }
            }
            tokio::select! {
                () = sleep(again) => {}
                () = self.asked.notified() => {}
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
