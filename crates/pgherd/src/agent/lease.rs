//! The store's lease, for a primary without synchronous replication.
//!
//! Nobody confirms what such a primary acknowledges, so nobody's promise can fence it: it may serve while it holds
//! `/lease`, which vanishes when it is not kept, and a takeover waits until it has vanished.
//! Invariant: what is shown as held ends, on this node's clock, before the store lets it end: it is counted from when
//! it was asked for, the drift margin taken off.

use std::sync::Arc;
use std::time::Duration;

use brain::{Key, LeaseRecord, Millis, NodeName, Settings, Term};
use tokio::sync::watch;

use super::records;
use crate::store::{LeaseId, Store};

/// What has been lost on its way is asked again in time: three tries within a lease.
const TRIES: u32 = 3;

/// Between attempts to get a lease that the store refuses.
const AGAIN: Duration = Duration::from_millis(100);

/// Held until that moment, for that term.
pub type Held = Option<(Term, Millis)>;

#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Wish {
    term: Option<Term>,
    /// Not wanted, and given back rather than left to run out.
    releases: bool,
}

/// The loop's side: what it wants, and what is held.
pub struct StoreLease {
    wanted: watch::Sender<Wish>,
    held: watch::Receiver<Held>,
}

struct Holder {
    store: Arc<dyn Store>,
    me: NodeName,
    ttl: Duration,
    usable_ms: u64,
    wanted: watch::Receiver<Wish>,
    held: watch::Sender<Held>,
}

impl StoreLease {
    /// Starts the task that keeps what is wanted; it ends with the loop.
    pub fn start(store: Arc<dyn Store>, me: NodeName, settings: &Settings) -> StoreLease {
        let (wanted, wish) = watch::channel(Wish::default());
        let (tell, held) = watch::channel(None);
        let ttl = Duration::from_millis(settings.failure_timeout_ms);
        let usable_ms = settings.lease_usable_ms();
        tokio::spawn(Holder { store, me, ttl, usable_ms, wanted: wish, held: tell }.run());
        StoreLease { wanted, held }
    }

    pub fn held(&self) -> Held {
        *self.held.borrow()
    }

    /// For which term it is wanted. When for none, whether it is given back or, as its server may go on serving, left to run
    /// out.
    pub fn want(&self, term: Option<Term>, releases: bool) {
        let wish = Wish { term, releases };
        self.wanted.send_if_modified(|old| std::mem::replace(old, wish) != wish);
    }
}

impl Holder {
    async fn run(mut self) {
        while let Ok(term) = self.wanted.wait_for(|wish| wish.term.is_some()).await.map(|wish| wish.term) {
            let Some(term) = term else { continue };
            match self.acquire(term).await {
                Ok(lease) => {
                    self.keep(term, lease).await;
                    // The loop has ended, and PostgreSQL goes on: another agent may keep it, or it runs out.
                    if self.wanted.has_changed().is_err() {
                        return;
                    }
                    let Wish { term, releases } = *self.wanted.borrow();
                    if term.is_some() || releases {
                        self.held.send_replace(None);
                        // Whoever is to take over need not wait for its end; if this fails it ends by itself.
                        let _ = self.store.revoke_lease(lease).await;
                    }
                }
                Err(error) => {
                    tracing::info!(%term, error = format!("{error:#}"), "no lease from the store yet");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// A lease with `/lease` bound to it, on the condition that this node is the recorded primary of `term` and that
    /// nobody else holds one; an earlier run's of this node is taken over.
    async fn acquire(&self, term: Term) -> anyhow::Result<LeaseId> {
        let stored = records::store_view(&self.store.watch().borrow(), true)?;
        let primary = stored.primary.filter(|p| p.value.term == term && p.value.node == self.me);
        let primary =
            primary.ok_or_else(|| anyhow::anyhow!("/primary does not name this node for term {term}"))?;
        let version = match stored.lease {
            Some(lease) if lease.value.node != self.me => {
                anyhow::bail!("{} holds the lease for term {}", lease.value.node, lease.value.term)
            }
            Some(lease) => lease.version,
            None => 0,
        };
        let asked = crate::clock::boot_millis();
        let lease = self.store.grant_lease(self.ttl).await?;
        let record = LeaseRecord { node: self.me.clone(), term };
        let mut transaction = records::put_if(Key::Lease.path(), version, &record)?;
        transaction.conditions.push(records::condition(Key::Primary.path(), primary.version));
        transaction.lease = Some(lease);
        if let Err(error) = self.store.commit(transaction).await {
            let _ = self.store.revoke_lease(lease).await;
            return Err(error.into());
        }
        self.show(term, asked);
        Ok(lease)
    }

    /// Keeps it until it is not wanted for this term any more, or is gone.
    async fn keep(&mut self, term: Term, lease: LeaseId) {
        let mut tick = tokio::time::interval(self.ttl / TRIES);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() || self.wanted.borrow().term != Some(term) {
                        return;
                    }
                }
                _ = tick.tick() => {
                    let asked = crate::clock::boot_millis();
                    match self.store.keep_alive(lease).await {
                        Ok(()) => self.show(term, asked),
                        Err(crate::store::StoreError::LeaseGone { .. }) => return,
                        Err(error) => tracing::info!(%error, "the store's lease could not be kept"),
                    }
                }
            }
        }
    }

    fn show(&self, term: Term, asked_ms: u64) {
        self.held.send_replace(Some((term, Millis(asked_ms + self.usable_ms))));
    }
}
