//! Slots in the worker's work: copies that come with a start of the server, and those that must not outlive a promotion.

use std::time::Instant;

use anyhow::{Context, Result};
use brain::NodeName;

use crate::agent::work::Worker;
use crate::postgres::{COPIES_UNTIL, SlotCopy};

impl Worker {
    /// Restarts the server, as a standby of nobody, with copies of the primary's logical slots.
    pub(in crate::agent) async fn take_slots(&self, from: &NodeName) -> Result<()> {
        let copies = self.fetch_copies(from).await?;
        self.count(&copies);
        self.stop().await?;
        let placed = self.server.place_slots(&copies);
        // Whatever came of the copies: the server runs again.
        self.start_detached().await?;
        let without = placed?;
        if !without.is_empty() {
            tracing::warn!(slots = without.join(", "), "the WAL that slots need is not here");
        }
        Ok(())
    }

    /// A restart that does not bring a slot is not repeated at once.
    fn count(&self, copies: &[SlotCopy]) {
        let mut known = self.known();
        for copy in copies {
            let times = known.slots.taken.get(&copy.name).map_or(0, |(times, _)| *times);
            known.slots.taken.insert(copy.name.clone(), (times + 1, Instant::now()));
        }
    }

    /// The same for a data directory that is stopped anyway and will be started by others. A copy that cannot be had now
    /// is no reason to stay down: the keeper tells what is missing.
    pub(in crate::agent) async fn bring_slots(&self) {
        let from = self.known().slots.original.as_ref().map(|original| original.node.clone());
        let Some(from) = from else { return };
        let brought = async {
            let copies = self.fetch_copies(&from).await?;
            anyhow::Ok(self.server.place_slots(&copies).map(drop)?)
        };
        if let Err(error) = brought.await {
            tracing::warn!(error = format!("{error:#}"), "slots could not be brought from {from}");
        }
    }

    /// The states of the primary's slots that a takeover keeps, but for those that PostgreSQL brings by itself.
    async fn fetch_copies(&self, from: &NodeName) -> Result<Vec<SlotCopy>> {
        let logical_too = self.server.installation.major <= COPIES_UNTIL;
        let names: Vec<String> = {
            let known = self.known();
            let slots = known.slots.original.iter().flat_map(|original| &original.report.slots);
            let wanted = slots.filter(|s| {
                s.kept && s.restart.is_some() && s.lost.is_none() && (logical_too || s.database.is_none())
            });
            wanted.map(|slot| slot.name.clone()).collect()
        };
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let source = self.source(from, |credentials| credentials.rewind.clone())?;
        self.server.fetch_slots(&source, &names).await.with_context(|| format!("take the slots of {from}"))
    }

    /// A consumer of a copy that is not ready would read what is not so, or miss what was: no slot is better, because
    /// that it notices.
    pub(in crate::agent) async fn drop_unready_slots(&self) {
        let unready: Vec<String> = std::mem::take(&mut self.known().slots.unready).into_iter().collect();
        if unready.is_empty() {
            return;
        }
        match self.server.drop_slots_in_use(&unready).await {
            Ok(()) => self.known().slots.dropped.extend(unready),
            Err(error) => {
                tracing::error!(%error, "copies of slots that are not ready could not be dropped: {unready:?}")
            }
        }
    }
}
