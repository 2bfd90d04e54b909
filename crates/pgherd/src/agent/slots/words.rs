//! What the keeper must still know after a restart: `slots.json` beside the data directory.
//!
//! It vouches for nothing that keeps data safe; lost, a declared logical slot may be made anew where its consumer should
//! have been told, and left-over copies stay.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::agent::durable::write_durably;

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Noted {
    /// Declared logical slots that the cluster has had: one that is missing is lost, not new.
    pub logical: BTreeSet<String>,
    /// Slots on this server that were copies of a primary's; they go when the primary's goes.
    pub copies: BTreeSet<String>,
}

pub(super) struct SlotWords {
    path: PathBuf,
    noted: Noted,
}

impl SlotWords {
    pub fn open(path: &Path) -> Result<SlotWords> {
        let noted = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| {
                format!("{} is damaged; move it away: what it noted of slots is found anew", path.display())
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Noted::default(),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        Ok(SlotWords { path: path.to_owned(), noted })
    }

    pub fn noted(&self) -> &Noted {
        &self.noted
    }

    /// Changes the notes on disk. A full disk is told and tried again with the next change.
    pub fn save(&mut self, change: impl FnOnce(&mut Noted)) {
        let mut noted = self.noted.clone();
        change(&mut noted);
        if noted == self.noted {
            return;
        }
        let written = serde_json::to_vec_pretty(&noted)
            .map_err(anyhow::Error::from)
            .and_then(|bytes| write_durably(&self.path, &bytes));
        match written {
            Ok(()) => self.noted = noted,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "what is known of slots could not be noted")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slots.json");
        let mut words = SlotWords::open(&path).unwrap();
        words.save(|noted| noted.logical.extend(["feed".into()]));
        assert!(SlotWords::open(&path).unwrap().noted().logical.contains("feed"));
        fs::write(&path, "{").unwrap();
        assert!(SlotWords::open(&path).is_err());
    }
}
