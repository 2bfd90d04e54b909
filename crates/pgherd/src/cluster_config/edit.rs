//! Single settings in the text of the cluster's configuration; comments and order stay.

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, Value};

const PARAMETERS: &str = "postgres.parameters.";

/// What becomes of one setting.
#[derive(Clone, Debug)]
pub enum Edit {
    Set {
        key: String,
        value: Value,
    },
    /// Each node's file says it again, or its default does.
    Unset {
        key: String,
    },
}

impl Edit {
    /// `value` as it is written in TOML, or any other text for a string. A parameter's `false` may be a program's name.
    pub fn set(key: &str, value: &str) -> Edit {
        let value = value.trim();
        let is_parameter = key.starts_with(PARAMETERS);
        let is_meant = |parsed: &Value| {
            !(parsed.is_datetime() || parsed.is_inline_table() || is_parameter && parsed.is_bool())
        };
        let parsed = value.parse::<Value>().ok().filter(is_meant);
        let value = parsed.unwrap_or_else(|| Value::from(value)).decorated(" ", "");
        Edit::Set { key: key.to_owned(), value }
    }

    pub fn set_lines<'a>(key: &str, lines: impl Iterator<Item = &'a str>) -> Edit {
        Edit::Set { key: key.to_owned(), value: Value::Array(lines.collect::<Array>()) }
    }

    pub fn unset(key: &str) -> Edit {
        Edit::Unset { key: key.to_owned() }
    }
}

/// `text` with all of `edits`. An error says which one cannot be made.
pub fn edited(text: &str, edits: &[Edit]) -> Result<String, String> {
    let mut document: DocumentMut =
        text.parse().map_err(|error| format!("the text in force is no TOML: {error}"))?;
    for edit in edits {
        match edit {
            Edit::Set { key, value } => {
                let (tables, name) = path(key)?;
                let table = descend(document.as_table_mut(), &tables)?;
                // A name with a dot may stand there as a table and what is in it.
                remove_dotted(table, &name);
                match table.get_mut(&name).and_then(Item::as_value_mut) {
                    Some(old) => {
                        let decor = old.decor().clone();
                        *old = value.clone();
                        *old.decor_mut() = decor;
                    }
                    None => drop(table.insert(&name, Item::Value(value.clone()))),
                }
            }
            Edit::Unset { key } => {
                let (tables, name) = path(key)?;
                if !remove(document.as_table_mut(), &tables, &name) {
                    return Err(format!("{key} is not set for all nodes"));
                }
            }
        }
    }
    Ok(document.to_string())
}

/// The tables on the way, and the last name.
fn path(key: &str) -> Result<(Vec<&str>, String), String> {
    if let Some(name) = key.strip_prefix(PARAMETERS) {
        return Ok((vec!["postgres", "parameters"], name.to_lowercase()));
    }
    let (section, rest) = key.split_once('.').filter(|(section, rest)| !section.is_empty() && !rest.is_empty()).ok_or_else(
        || format!("{key:?} is no setting; write SECTION.NAME=VALUE, such as sync.standbys=2 or postgres.parameters.work_mem=64MB"),
    )?;
    match rest.split_once('.') {
        Some((slot, name)) => Ok((vec![section, slot], name.to_owned())),
        None => Ok((vec![section], rest.to_owned())),
    }
}

fn descend<'a>(table: &'a mut dyn TableLike, names: &[&str]) -> Result<&'a mut dyn TableLike, String> {
    let Some((first, rest)) = names.split_first() else { return Ok(table) };
    if !table.contains_key(first) {
        let mut new = Table::new();
        new.set_implicit(!rest.is_empty());
        table.insert(first, Item::Table(new));
    }
    let item = table.get_mut(first).and_then(Item::as_table_like_mut);
    descend(item.ok_or_else(|| format!("{first} is no table in the text in force"))?, rest)
}

/// Removes the name, and tables that are empty by it. False: it was not there.
fn remove(table: &mut dyn TableLike, tables: &[&str], name: &str) -> bool {
    let Some((first, rest)) = tables.split_first() else {
        return table.remove(name).is_some() || remove_dotted(table, name);
    };
    let Some(inner) = table.get_mut(first).and_then(Item::as_table_like_mut) else { return false };
    let removed = remove(inner, rest, name);
    if removed && inner.is_empty() {
        table.remove(first);
    }
    removed
}

fn remove_dotted(table: &mut dyn TableLike, name: &str) -> bool {
    let Some((first, rest)) = name.split_once('.') else { return false };
    let Some(inner) = table.get_mut(first).and_then(Item::as_table_like_mut) else { return false };
    let removed = inner.remove(rest).is_some() || remove_dotted(inner, rest);
    if removed && inner.is_empty() {
        table.remove(first);
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str, pairs: &[(&str, &str)]) -> String {
        let edits: Vec<Edit> = pairs.iter().map(|(key, value)| Edit::set(key, value)).collect();
        edited(text, &edits).unwrap()
    }

    #[test]
    fn a_setting_is_added_where_it_belongs() {
        assert_eq!(set("", &[("sync.standbys", "2")]), "[sync]\nstandbys = 2\n");
        assert_eq!(
            set(
                "",
                &[
                    ("postgres.parameters.work_mem", "64MB"),
                    ("postgres.parameters.pg_stat_statements.max", "5")
                ]
            ),
            "[postgres.parameters]\nwork_mem = \"64MB\"\n\"pg_stat_statements.max\" = 5\n"
        );
        assert_eq!(set("", &[("slots.feed.type", "physical")]), "[slots.feed]\ntype = \"physical\"\n");
        assert_eq!(set("", &[("proxy.share_unnamed", "true")]), "[proxy]\nshare_unnamed = true\n");
        assert_eq!(
            set("", &[("postgres.hba", "[\"local all all peer\"]")]),
            "[postgres]\nhba = [\"local all all peer\"]\n"
        );
        assert!(set("", &[("postgres.parameters.archive_command", "false")]).contains("\"false\""));
        // What looks like a day is a text.
        assert!(set("", &[("proxy.x", "2026-01-01")]).contains("\"2026-01-01\""));
    }

    #[test]
    fn comments_and_order_stay() {
        let text = "# why: audit\n[sync]\nstandbys = 1 # was 0\n\n[proxy]\npool_size = 5\n";
        assert_eq!(
            set(text, &[("sync.standbys", "2"), ("sync.method", "priority")]),
            "# why: audit\n[sync]\nstandbys = 2 # was 0\nmethod = \"priority\"\n\n[proxy]\npool_size = 5\n"
        );
    }

    #[test]
    fn a_setting_goes_with_the_table_that_is_empty_by_it() {
        let text = "[sync]\nstandbys = 1\n\n[postgres.parameters]\npg_stat_statements.max = 5\n";
        let unset = |key: &str| edited(text, &[Edit::unset(key)]);
        assert_eq!(unset("postgres.parameters.pg_stat_statements.max").unwrap(), "[sync]\nstandbys = 1\n");
        assert!(!unset("sync.standbys").unwrap().contains("sync"));
        assert!(unset("sync.method").unwrap_err().contains("not set"));
        assert!(edited("", &[Edit::set("standbys", "1")]).unwrap_err().contains("SECTION.NAME=VALUE"));
        // A name that stood there in parts is not there twice.
        assert_eq!(
            set(text, &[("postgres.parameters.pg_stat_statements.max", "6")])
                .matches("pg_stat_statements")
                .count(),
            1
        );
    }
}
