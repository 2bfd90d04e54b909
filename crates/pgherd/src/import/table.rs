//! Tables of keys: what becomes of each key of another tool, in one row.
//!
//! A row's pattern has the segments of a path: `*` stands for one segment, `**` for one or more at the end, `[]` for an item of a list,
//! and a `#` at a segment's end for digits, as in `backend_hostname#`. The first row that matches counts.

use super::plan::{Entry, Plan};
use super::report::Fate;

pub struct Row {
    /// Segments with dots between; several paths of one fate with `|` between.
    pub key: &'static str,
    pub becomes: Becomes,
}

pub enum Becomes {
    /// One setting of pgherd, its value by this conversion.
    Setting { to: &'static str, convert: fn(&str) -> Result<String, String>, note: &'static str },
    /// More than one setting, or one that hangs on others; `to` is for the reference page.
    Several { to: &'static str, take: fn(&mut Plan, &Entry) -> Fate },
    /// Nothing has to be said to pgherd for it, because of this.
    Needless(&'static str),
    /// pgherd has no such thing, and this is done instead. Nothing is missing where the key is off.
    Absent(&'static str),
    /// As `Absent`, and a value of `off` says something, too.
    AbsentAlways(&'static str),
    /// A password or the like, whose value is shown nowhere; this is where it goes.
    Secret(&'static str),
}

pub const fn setting(
    key: &'static str,
    to: &'static str,
    convert: fn(&str) -> Result<String, String>,
    note: &'static str,
) -> Row {
    Row { key, becomes: Becomes::Setting { to, convert, note } }
}

pub const fn several(key: &'static str, to: &'static str, take: fn(&mut Plan, &Entry) -> Fate) -> Row {
    Row { key, becomes: Becomes::Several { to, take } }
}

pub const fn needless(key: &'static str, why: &'static str) -> Row {
    Row { key, becomes: Becomes::Needless(why) }
}

pub const fn absent(key: &'static str, instead: &'static str) -> Row {
    Row { key, becomes: Becomes::Absent(instead) }
}

pub const fn absent_always(key: &'static str, instead: &'static str) -> Row {
    Row { key, becomes: Becomes::AbsentAlways(instead) }
}

pub const fn secret(key: &'static str, goes: &'static str) -> Row {
    Row { key, becomes: Becomes::Secret(goes) }
}

/// The row for a path, of tables in the order in which they are asked.
pub fn find<'a>(tables: &[&'a [Row]], path: &[String]) -> Option<&'a Row> {
    tables
        .iter()
        .flat_map(|table| table.iter())
        .find(|row| row.key.split('|').any(|pattern| matches(pattern, path)))
}

fn matches(pattern: &str, path: &[String]) -> bool {
    let pattern: Vec<&str> = pattern.split('.').collect();
    if let Some((&"**", head)) = pattern.split_last() {
        return path.len() > head.len() && head.iter().zip(path).all(|(part, name)| segment(part, name));
    }
    pattern.len() == path.len() && pattern.iter().zip(path).all(|(part, name)| segment(part, name))
}

fn segment(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('#') {
        Some(stem) => name
            .strip_prefix(stem)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit())),
        None => pattern == "*" && name != "[]" || pattern == name,
    }
}

/// What becomes of one entry.
pub fn judge(row: Option<&Row>, plan: &mut Plan, entry: &Entry) -> Fate {
    match row.map(|row| &row.becomes) {
        None => Fate::Unknown,
        Some(Becomes::Setting { to, convert, note }) => match convert(&entry.value) {
            Ok(text) => plan.set(to, text, entry).noted(note),
            Err(why) => Fate::Refused(format!("{to}: {why}")),
        },
        Some(Becomes::Several { take, .. }) => take(plan, entry),
        Some(Becomes::Needless(why)) => Fate::Needless((*why).to_owned()),
        Some(Becomes::Absent(_)) if is_off(&entry.value) => Fate::Needless("it is off".to_owned()),
        Some(Becomes::Absent(instead) | Becomes::AbsentAlways(instead)) => {
            Fate::Absent((*instead).to_owned())
        }
        Some(Becomes::Secret(_)) if entry.value.is_empty() => Fate::Needless("it is empty".to_owned()),
        Some(Becomes::Secret(goes)) => {
            Fate::Absent(format!("a secret, which is neither written nor shown: {goes}"))
        }
    }
}

fn is_off(value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    matches!(
        value.as_str(),
        "" | "0" | "off" | "no" | "false" | "none" | "null" | "~" | "disable" | "disabled"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('.').map(str::to_owned).collect()
    }

    #[test]
    fn patterns_of_segments() {
        assert!(matches("postgresql.*.command", &path("postgresql.wal_g.command")));
        assert!(matches("etcd.**", &path("etcd.hosts.[]")) && !matches("etcd.**", &path("etcd")));
        assert!(matches("backend_port#", &path("backend_port12")));
        assert!(
            !matches("backend_port#", &path("backend_port"))
                && !matches("backend_port#", &path("backend_portal"))
        );
        assert!(!matches("pg_hba.*", &path("pg_hba.[]")) && matches("pg_hba.[]", &path("pg_hba.[]")));
    }
}
