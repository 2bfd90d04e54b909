//! What a database's catalog says of the names that a text may use.
//!
//! What it is: names of functions, operators and relations, each with what forbids it on a replica, if anything; made
//! from the rows of four queries and the configuration's exceptions. What it is not: name resolution. A name without
//! a schema is every object of that name in any schema, whatever `search_path` says; one dangerous overload makes the
//! name dangerous. Temporary objects are left out: a session that has one is bound to its server.
//! Invariant: a name that no row had is unknown, never harmless.

mod local;
mod queries;

use std::collections::{BTreeMap, BTreeSet};

use crate::verdict::Hazard;
pub(crate) use local::{is_local_function, is_local_setting};
pub use queries::{BadRow, Query, Rows};
use queries::{Behind, Relation};

/// VOLATILE functions of PostgreSQL that neither write nor depend on the server: what configuration allows by default.
/// Their results differ from call to call as they would on the primary.
pub const HARMLESS_FUNCTIONS: [&str; 11] = [
    "pg_catalog.clock_timestamp",
    "pg_catalog.gen_random_uuid",
    "pg_catalog.pg_sleep",
    "pg_catalog.pg_sleep_for",
    "pg_catalog.pg_sleep_until",
    "pg_catalog.random",
    "pg_catalog.random_normal",
    "pg_catalog.timeofday",
    "pg_catalog.pg_partition_tree",
    "pg_catalog.uuidv4",
    "pg_catalog.uuidv7",
];

/// Functions about which the configuration knows better: `name`, in any schema, or `schema.name`.
#[derive(Clone, Debug)]
pub struct Overrides {
    /// Wins over what the catalog says.
    pub always_replica: Vec<String>,
    /// Wins over all.
    pub always_primary: Vec<String>,
}

impl Default for Overrides {
    fn default() -> Overrides {
        let always_replica = HARMLESS_FUNCTIONS.into_iter().map(str::to_owned).collect();
        Overrides { always_replica, always_primary: Vec::new() }
    }
}

impl Overrides {
    fn named(names: &[String], schema: &str, name: &str) -> bool {
        names.iter().any(|entry| match entry.split_once('.') {
            Some((of, rest)) => of == schema && rest == name,
            None => entry == name,
        })
    }
}

/// What forbids a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Danger {
    Volatile,
    Local,
}

/// Objects by name, then by schema.
type Names<T> = BTreeMap<Box<str>, Vec<(Box<str>, Option<T>)>>;

/// What a name means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Known<'a, T> {
    Not,
    Harmless,
    Dangerous(&'a T),
}

#[derive(Debug, Default)]
pub struct Catalog {
    generation: u64,
    functions: Names<Danger>,
    operators: Names<Danger>,
    relations: Names<Hazard>,
    /// Dangerous functions of one row, which `t.name` may call.
    row_functions: BTreeMap<Box<str>, Danger>,
}

impl Catalog {
    /// Knows nothing: only texts without functions and relations may run on a replica.
    pub fn empty() -> Catalog {
        Catalog::default()
    }

    /// `generation` must differ from that of every other catalog that the same `Verdicts` are asked with.
    pub fn new(generation: u64, rows: &Rows, overrides: &Overrides) -> Catalog {
        let mut catalog = Catalog { generation, ..Catalog::default() };
        let mut dangers: BTreeMap<u32, (Danger, &str)> = BTreeMap::new();
        for function in &rows.functions {
            let danger = danger(function, overrides);
            if let Some(danger) = danger {
                dangers.insert(function.oid, (danger, &function.name));
                if function.takes_row {
                    catalog.row_functions.insert(function.name.clone(), danger);
                }
            }
            note(&mut catalog.functions, &function.schema, &function.name, danger);
        }
        for operator in &rows.operators {
            let danger = dangers.get(&operator.function).map(|(danger, _)| *danger);
            note(&mut catalog.operators, &operator.schema, &operator.name, danger);
        }
        let mut hazards = hazards(rows, &dangers);
        for relation in rows.relations.iter().filter(|relation| !relation.is_temporary()) {
            note(&mut catalog.relations, &relation.schema, &relation.name, hazards.remove(&relation.oid));
        }
        catalog
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn function(&self, schema: Option<&str>, name: &str) -> Known<'_, Danger> {
        known(&self.functions, schema, name)
    }

    pub(crate) fn operator(&self, schema: Option<&str>, name: &str) -> Known<'_, Danger> {
        known(&self.operators, schema, name)
    }

    pub(crate) fn relation(&self, schema: Option<&str>, name: &str) -> Known<'_, Hazard> {
        known(&self.relations, schema, name)
    }

    /// What forbids a column of that name, should it be a function called as one.
    pub(crate) fn column(&self, name: &str) -> Option<Danger> {
        self.row_functions.get(name).copied()
    }
}

fn note<T>(names: &mut Names<T>, schema: &str, name: &str, danger: Option<T>) {
    let known = match names.get_mut(name) {
        Some(known) => known,
        None => names.entry(name.into()).or_default(),
    };
    match known.iter_mut().find(|(of, _)| **of == *schema) {
        Some((_, found)) => *found = found.take().or(danger),
        None => known.push((schema.into(), danger)),
    }
}

fn known<'a, T>(names: &'a Names<T>, schema: Option<&str>, name: &str) -> Known<'a, T> {
    let Some(known) = names.get(name) else { return Known::Not };
    let mut meant = known.iter().filter(|(of, _)| schema.is_none_or(|schema| **of == *schema)).peekable();
    if meant.peek().is_none() {
        return Known::Not;
    }
    meant.find_map(|(_, danger)| danger.as_ref()).map_or(Known::Harmless, Known::Dangerous)
}

fn danger(function: &queries::Function, overrides: &Overrides) -> Option<Danger> {
    let (schema, name) = (&*function.schema, &*function.name);
    if Overrides::named(&overrides.always_primary, schema, name) {
        Some(Danger::Volatile)
    } else if Overrides::named(&overrides.always_replica, schema, name) {
        None
    } else if function.is_volatile {
        Some(Danger::Volatile)
    } else {
        (schema == "pg_catalog" && is_local_function(name)).then_some(Danger::Local)
    }
}

/// The hazard of each relation that has one: its own, else that of anything its reading leads to.
fn hazards(rows: &Rows, dangers: &BTreeMap<u32, (Danger, &str)>) -> BTreeMap<u32, Hazard> {
    let mut found: BTreeMap<u32, Hazard> = BTreeMap::new();
    let mut readers: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for relation in &rows.relations {
        found.extend(own_hazard(relation).map(|hazard| (relation.oid, hazard)));
    }
    for (relation, behind) in &rows.dependencies {
        match behind {
            Behind::Function(oid) => {
                let hazard = dangers.get(oid).map(|(danger, name)| match danger {
                    Danger::Volatile => Hazard::Volatile((*name).into()),
                    Danger::Local => Hazard::Local((*name).into()),
                });
                if let Some(hazard) = hazard {
                    found.entry(*relation).or_insert(hazard);
                }
            }
            Behind::Relation(oid) => readers.entry(*oid).or_default().push(*relation),
        }
    }
    let mut to_pass_on: Vec<u32> = found.keys().copied().collect();
    let mut seen: BTreeSet<u32> = to_pass_on.iter().copied().collect();
    while let Some(oid) = to_pass_on.pop() {
        let Some(hazard) = found.get(&oid).cloned() else { continue };
        for reader in readers.get(&oid).into_iter().flatten() {
            if seen.insert(*reader) {
                found.insert(*reader, hazard.clone());
                to_pass_on.push(*reader);
            }
        }
    }
    found
}

fn own_hazard(relation: &Relation) -> Option<Hazard> {
    let name = || format!("{}.{}", relation.schema, relation.name).into_boxed_str();
    match (relation.kind, relation.persistence) {
        (_, 'u' | 't') => Some(Hazard::Unlogged(name())),
        ('S', _) => Some(Hazard::Sequence(name())),
        ('f', _) => Some(Hazard::Foreign(name())),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
