//! How much a user, a database and all together may have, of servers or of sessions.
//!
//! What it is: permits, given in the order in which they were asked for and returned when dropped. What it is not: pools; a pool
//! has a size of its own below these. Invariant: all ask for a user's, a database's and the total's in this order, so nobody waits in a
//! circle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use super::tally::Owner;

/// Between two looks for an idle server that could make room.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Zero: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CeilingLimits {
    pub user: usize,
    pub database: usize,
    pub total: usize,
}

/// What is full.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Crowd {
    User(String),
    Database(String),
    All,
}

impl Crowd {
    pub fn has(&self, owner: &Owner) -> bool {
        match self {
            Crowd::User(user) => owner.user == *user,
            Crowd::Database(database) => owner.database == *database,
            Crowd::All => true,
        }
    }
}

/// One of what is limited; given back when dropped.
#[derive(Debug, Default)]
pub struct Place {
    _permits: Option<Box<[OwnedSemaphorePermit]>>,
}

#[derive(Debug)]
pub struct Ceilings {
    limits: CeilingLimits,
    users: Mutex<HashMap<String, Arc<Semaphore>>>,
    databases: Mutex<HashMap<String, Arc<Semaphore>>>,
    total: Arc<Semaphore>,
}

impl Ceilings {
    pub fn new(limits: CeilingLimits) -> Ceilings {
        Ceilings {
            limits,
            users: Mutex::default(),
            databases: Mutex::default(),
            total: Arc::new(Semaphore::new(limits.total)),
        }
    }

    pub fn limit(&self, crowd: &Crowd) -> usize {
        match crowd {
            Crowd::User(_) => self.limits.user,
            Crowd::Database(_) => self.limits.database,
            Crowd::All => self.limits.total,
        }
    }

    /// The limits that `owner` is under.
    fn over(&self, owner: &Owner) -> Vec<(Crowd, Arc<Semaphore>)> {
        let mut over = Vec::new();
        if self.limits.user > 0 {
            let semaphore = named(&self.users, &owner.user, self.limits.user);
            over.push((Crowd::User(owner.user.clone()), semaphore));
        }
        if self.limits.database > 0 {
            let semaphore = named(&self.databases, &owner.database, self.limits.database);
            over.push((Crowd::Database(owner.database.clone()), semaphore));
        }
        if self.limits.total > 0 {
            over.push((Crowd::All, Arc::clone(&self.total)));
        }
        over
    }

    /// A place at once, or what is full.
    pub fn try_place(&self, owner: impl FnOnce() -> Owner) -> Result<Place, Crowd> {
        if self.limits == CeilingLimits::default() {
            return Ok(Place::default());
        }
        let permits = self
            .over(&owner())
            .into_iter()
            .map(|(crowd, semaphore)| semaphore.try_acquire_owned().map_err(|_| crowd));
        let permits: Box<[OwnedSemaphorePermit]> = permits.collect::<Result<_, _>>()?;
        Ok(Place { _permits: Some(permits) })
    }

    /// Waits for a place; `crowded` is told, now and then, what is full, and `full` has it while somebody waits.
    pub async fn place(
        &self,
        owner: impl FnOnce() -> Owner,
        full: &mut Option<Crowd>,
        crowded: impl Fn(&Crowd),
    ) -> Place {
        if self.limits == CeilingLimits::default() {
            return Place::default();
        }
        let mut permits = Vec::new();
        for (crowd, semaphore) in self.over(&owner()) {
            let mut acquiring = std::pin::pin!(semaphore.acquire_owned());
            loop {
                tokio::select! {
                    biased;
                    // No semaphore is ever closed; without a permit the limit would only be less strict.
                    permit = &mut acquiring => {
                        permits.extend(permit);
                        *full = None;
                        break;
                    }
                    () = async {
                        crowded(&crowd);
                        *full = Some(crowd.clone());
                        sleep(LOOK_AGAIN).await;
                    } => {}
                }
            }
        }
        Place { _permits: Some(permits.into()) }
    }
}

/// That of this name, made when there is none. Those that nobody uses go.
fn named(by_name: &Mutex<HashMap<String, Arc<Semaphore>>>, name: &str, limit: usize) -> Arc<Semaphore> {
    let mut by_name = by_name.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(semaphore) = by_name.get(name) {
        return Arc::clone(semaphore);
    }
    by_name.retain(|_, semaphore| Arc::strong_count(semaphore) > 1 || semaphore.available_permits() < limit);
    let semaphore = Arc::new(Semaphore::new(limit));
    by_name.insert(name.to_owned(), Arc::clone(&semaphore));
    semaphore
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(user: &str, database: &str) -> Owner {
        Owner { user: user.to_owned(), database: database.to_owned() }
    }

    #[tokio::test]
    async fn each_limit_holds_and_what_is_dropped_is_free_again() {
        let ceilings = Ceilings::new(CeilingLimits { user: 2, database: 3, total: 4 });
        let place = |user: &str, database: &str| ceilings.try_place(|| owner(user, database));
        let one = place("ann", "a").unwrap();
        let _two = place("ann", "b").unwrap();
        assert_eq!(place("ann", "c").unwrap_err(), Crowd::User("ann".to_owned()));
        let _three = (place("bob", "a").unwrap(), place("cat", "a").unwrap());
        assert_eq!(place("dan", "a").unwrap_err(), Crowd::Database("a".to_owned()));
        assert_eq!(place("dan", "c").unwrap_err(), Crowd::All);
        drop(one);
        let mut full = None;
        let again = ceilings.place(|| owner("ann", "a"), &mut full, |_| panic!("there is room")).await;
        assert_eq!(place("dan", "c").unwrap_err(), Crowd::All);
        drop(again);
        place("dan", "c").unwrap();
    }

    #[tokio::test]
    async fn who_waits_says_for_what_and_is_served_in_turn() {
        let ceilings = Ceilings::new(CeilingLimits { user: 1, ..CeilingLimits::default() });
        let place = ceilings.try_place(|| owner("ann", "a")).unwrap();
        let told = std::cell::RefCell::new(Vec::new());
        let mut full = None;
        let waiting =
            ceilings.place(|| owner("ann", "b"), &mut full, |crowd| told.borrow_mut().push(crowd.clone()));
        let freeing = async {
            sleep(3 * LOOK_AGAIN).await;
            drop(place);
        };
        tokio::join!(waiting, freeing);
        assert!(
            told.borrow().len() >= 3
                && told.borrow().iter().all(|crowd| *crowd == Crowd::User("ann".to_owned()))
        );
        assert_eq!(full, None);
        assert!(ceilings.users.lock().unwrap().len() == 1);
    }

    #[test]
    fn without_limits_nothing_is_counted() {
        let ceilings = Ceilings::new(CeilingLimits::default());
        for _ in 0..1_000 {
            std::mem::forget(ceilings.try_place(|| unreachable!("nobody asks who it is")).unwrap());
        }
    }
}
