//! A sync set in PostgreSQL's words.

use anyhow::{Context, Result};
use brain::{MemberId, SyncSet, Term};

use crate::postgres::{Method, NOBODY};

/// A sync set as PostgreSQL is to be told it.
pub struct Names {
    pub term: Term,
    pub set: SyncSet,
    /// All members; the first ones count first.
    pub order: Vec<MemberId>,
    pub method: Method,
}

impl Names {
    /// Application names, and k.
    pub(super) fn spelled(&self) -> Result<(Vec<String>, u32)> {
        let names = self.order.iter().map(|member| member.standby_name(self.term));
        // With k = 0 nobody is waited for, and members are named for the store's sake only.
        let names = if self.set.k == 0 { Vec::new() } else { names.collect() };
        Ok((names, u32::try_from(self.set.k).context("k is too large")?))
    }

    /// The value for a promotion; a set with fewer members than k acknowledges nothing.
    pub(super) fn for_promotion(&self) -> Result<String> {
        let (names, k) = self.spelled()?;
        if k > 0 && names.len() < self.set.k {
            return Ok(NOBODY.to_owned());
        }
        Ok(crate::postgres::standby_names(&names, k, self.method)?)
    }

    pub(super) fn slots(&self) -> Vec<String> {
        self.set.members.iter().map(MemberId::slot_name).collect()
    }
}
