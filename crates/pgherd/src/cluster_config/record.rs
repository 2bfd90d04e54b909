//! `/config` in the store.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::config::ClusterConfig;
use crate::store::Snapshot;

pub const CONFIG: &str = "/config";

/// Earlier texts that are kept; with the newest one they are far below what a transaction may hold.
const PREVIOUS_MAX: usize = 10;

/// What is set for all nodes, and what was before.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConfigRecord {
    #[serde(flatten)]
    pub newest: Revision,
    /// Oldest first.
    pub previous: Vec<Revision>,
}

/// One of its texts.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Revision {
    #[serde(flatten)]
    pub config: ClusterConfig,
    /// Wall-clock second of the change.
    pub at: u64,
    /// Who asked for it.
    pub by: String,
    /// The nodes that were asked to apply it; the others were away.
    #[serde(default)]
    pub asked: Vec<String>,
}

impl ConfigRecord {
    /// With `text` as the newest, which these nodes are asked to apply.
    pub fn changed(&self, text: &str, at: u64, by: &str, asked: &[String]) -> ConfigRecord {
        let mut previous = self.previous.clone();
        if self.newest.config.number > 0 {
            previous.push(self.newest.clone());
        }
        let surplus = previous.len().saturating_sub(PREVIOUS_MAX);
        previous.drain(..surplus);
        let config = ClusterConfig { number: self.newest.config.number + 1, text: text.to_owned() };
        let newest = Revision { config, at, by: by.to_owned(), asked: asked.to_vec() };
        ConfigRecord { newest, previous }
    }
}

/// Of a cluster that has none: the default.
pub fn read(snapshot: &Snapshot) -> Result<ConfigRecord> {
    let Some(entry) = snapshot.get(CONFIG) else { return Ok(ConfigRecord::default()) };
    serde_json::from_value(entry.value.clone())
        .with_context(|| format!("the store's {CONFIG} is not readable"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_texts_are_kept() {
        let mut record = ConfigRecord::default();
        for number in 1..=13 {
            record = record.changed(&format!("# {number}"), number, "ann", &[]);
        }
        assert_eq!(record.newest.config, ClusterConfig { number: 13, text: "# 13".to_owned() });
        assert_eq!(record.previous.len(), PREVIOUS_MAX);
        let oldest = &record.previous[0].config;
        assert_eq!((oldest.number, oldest.text.as_str()), (3, "# 3"));
        let written = serde_json::to_value(&record).unwrap();
        assert_eq!(written["number"], 13);
        assert_eq!(serde_json::from_value::<ConfigRecord>(written).unwrap(), record);
    }
}
