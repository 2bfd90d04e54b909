//! The table `[slots]`: policies for all replication slots, and a table for each slot that a takeover keeps.
//!
//! Invariant: a [`Slots`] that [`super::load`] returns has passed [`check`]: a logical slot has a database and a plugin,
//! a physical one has neither.

use std::collections::BTreeMap;

use brain::SlotGate;

use super::draft::Draft;
use super::error::Place;
use super::model::quote;
use super::value::format_bytes;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Slots {
    pub gate: SlotGate,
    /// PostgreSQL 15 and 16: a replica may be restarted to take in a logical slot.
    pub restart_replicas: bool,
    /// Unknown, unused slots over their budget are dropped.
    pub drop_over_budget: bool,
    /// `None`: by `max_slot_wal_keep_size`.
    pub wal_budget: Option<u64>,
    /// By name.
    pub declared: BTreeMap<String, DeclaredSlot>,
}

/// A slot that a takeover keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeclaredSlot {
    /// `None` for a physical slot.
    pub logical: Option<Logical>,
    pub owner: String,
    pub wal_budget: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Logical {
    pub database: String,
    pub plugin: String,
}

impl Slots {
    /// `Err` is a key without a value.
    pub(super) fn from_draft(draft: &Draft) -> Result<Slots, String> {
        let text = |key: &str| draft.text(key).ok_or_else(|| key.to_owned());
        let mut declared = BTreeMap::new();
        for name in draft.slots.keys() {
            let key = |setting: &str| format!("slots.{name}.{setting}");
            let logical = match text(&key("type"))? {
                "logical" => Some(Logical {
                    database: text(&key("database"))?.to_owned(),
                    plugin: draft.text(&key("plugin")).unwrap_or("pgoutput").to_owned(),
                }),
                _ => None,
            };
            let (owner, wal_budget) = (text(&key("owner"))?.to_owned(), draft.bytes(&key("wal_budget")));
            declared.insert(name.clone(), DeclaredSlot { logical, owner, wal_budget });
        }
        Ok(Slots {
            gate: match text("slots.gate")? {
                "off" => SlotGate::Off,
                "wait" => SlotGate::Wait,
                _ => SlotGate::Warn,
            },
            restart_replicas: text("slots.restart_replicas")? == "one_at_a_time",
            drop_over_budget: text("slots.over_budget")? == "drop",
            wal_budget: draft.bytes("slots.wal_budget"),
            declared,
        })
    }

    /// As [`super::Config::written`].
    pub(super) fn written(&self, key: &str) -> Option<String> {
        let word = match key {
            "slots.gate" => match self.gate {
                SlotGate::Off => "off",
                SlotGate::Warn => "warn",
                SlotGate::Wait => "wait",
            },
            "slots.restart_replicas" if self.restart_replicas => "one_at_a_time",
            "slots.restart_replicas" => "never",
            "slots.over_budget" if self.drop_over_budget => "drop",
            "slots.over_budget" => "warn",
            "slots.wal_budget" => return self.wal_budget.map(|bytes| quote(&format_bytes(bytes))),
            _ => return None,
        };
        Some(quote(word))
    }

    /// The lines of the tables of declared slots.
    pub(super) fn tables(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for name in self.declared.keys() {
            lines.push(format!("[slots.{name}]"));
            lines.extend(self.table(name));
        }
        lines
    }

    /// The lines of one of them.
    pub(super) fn table(&self, name: &str) -> Vec<String> {
        let Some(slot) = self.declared.get(name) else { return Vec::new() };
        let kind = if slot.logical.is_some() { "logical" } else { "physical" };
        let mut lines = vec![format!("type = {}", quote(kind)), format!("owner = {}", quote(&slot.owner))];
        if let Some(Logical { database, plugin }) = &slot.logical {
            lines.push(format!("database = {}", quote(database)));
            lines.push(format!("plugin = {}", quote(plugin)));
        }
        lines.extend(slot.wal_budget.map(|bytes| format!("wal_budget = {}", quote(&format_bytes(bytes)))));
        lines
    }
}

pub(super) fn check(draft: &mut Draft) {
    let slots: Vec<(String, Place)> = draft.slots.clone().into_iter().collect();
    let mut logical = Vec::new();
    for (name, place) in slots {
        let key = |setting: &str| format!("slots.{name}.{setting}");
        let kind = draft.text(&key("type")).map(str::to_owned);
        match kind.as_deref() {
            Some("logical") => {
                logical.push(name.clone());
                let database = key("database");
                if draft.text(&database).is_none() && !draft.refused.contains(&database) {
                    let text = format!("{database} is missing; add database = \"NAME\" under [slots.{name}]");
                    draft.problem(place, text);
                }
            }
            Some("physical") => {
                for setting in ["database", "plugin"].map(key) {
                    if draft.text(&setting).is_some() {
                        draft.problem_with(
                            &setting,
                            format!("{setting}: a physical slot has none; remove this"),
                        );
                    }
                }
            }
            _ => {}
        }
    }
    parameters(draft, &logical);
}

/// PostgreSQL's own parameters must let the declared slots live.
fn parameters(draft: &mut Draft, logical: &[String]) {
    let of = |draft: &Draft, name: &str| {
        draft.parameters.get(name).map(|(text, place)| (text.to_lowercase(), place.clone()))
    };
    if let Some((level, place)) = of(draft, "wal_level") {
        let text = match (level.as_str(), logical.first()) {
            ("logical", _) | ("replica", None) => None,
            ("replica", Some(slot)) => Some(format!(
                "postgres.parameters.wal_level is \"replica\", but slots.{slot} is logical; remove this, pgherd sets it"
            )),
            _ => Some(format!(
                "postgres.parameters.wal_level: expected \"replica\" or \"logical\", found {level:?}"
            )),
        };
        text.into_iter().for_each(|text| draft.problem(place.clone(), text));
    }
    if let (Some((value, place)), Some(slot)) = (of(draft, "hot_standby_feedback"), logical.first())
        && !["on", "true", "yes", "1"].contains(&value.as_str())
    {
        let text = format!(
            "postgres.parameters.hot_standby_feedback is {value:?}, but slots.{slot} is logical, and without feedback the \
             primary removes rows that the replicas' copies need; remove this"
        );
        draft.problem(place, text);
    }
    let needed = draft.slots.len() + draft.peers.len();
    if let Some((value, place)) = of(draft, "max_replication_slots")
        && value.parse::<usize>().is_ok_and(|max| max < needed)
    {
        let text = format!(
            "postgres.parameters.max_replication_slots is {value}, but the nodes and the declared slots need {needed}"
        );
        draft.problem(place, text);
    }
}
