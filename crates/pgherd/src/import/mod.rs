//! From the configuration of other tools to pgherd's: `pgherd import`.
//!
//! Each tool has a table with a row for each key that it documents ([`table`]): what it becomes here, why it needs nothing, or that it
//! has no counterpart and what to do instead. The files are read into entries with their lines ([`read`]), each entry is judged by its row,
//! and what was taken over is gathered in one [`plan::Plan`], which is then written ([`write`]) and read back as a node would read it.
//!
//! Not here: files and terminals (`cli/import.rs`), running servers.
//!
//! Invariants: every line of a source is told; no secret of a source is written or told; nothing is written that neither a line, nor
//! a flag, nor an item of `chosen` says.

mod convert;
mod haproxy;
mod nodes;
mod patroni;
mod pgbouncer;
mod pgpool;
mod plan;
mod read;
mod reference;
mod repmgr;
mod report;
mod table;
#[cfg(test)]
mod tests;
mod write;

use std::collections::{BTreeMap, BTreeSet};

use plan::{Entry, Given, Plan};
pub use read::Unreadable;
pub use read::ini::Load;
pub use reference::page as reference_page;
use report::{FileReport, Line};
pub use report::{Missing, Report};

use crate::config;

/// Whose file it is. In the order from the clients to PostgreSQL, which is the order in which they are read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Format {
    HaProxy,
    PgPool,
    PgBouncer,
    Patroni,
    Repmgr,
}

impl Format {
    pub const ALL: [Format; 5] =
        [Format::Patroni, Format::PgBouncer, Format::PgPool, Format::Repmgr, Format::HaProxy];

    pub fn tool(self) -> &'static str {
        match self {
            Format::HaProxy => "HAProxy",
            Format::PgPool => "Pgpool-II",
            Format::PgBouncer => "PgBouncer",
            Format::Patroni => "Patroni",
            Format::Repmgr => "repmgr",
        }
    }

    /// By what only this tool's files have; `None` where nothing says it.
    pub fn detect(text: &str) -> Option<Format> {
        let starts = |words: &[&str]| {
            text.lines().any(|line| {
                let word = line.split(|c: char| c.is_whitespace() || c == '=').next().unwrap_or_default();
                words.iter().any(|wanted| match wanted.strip_suffix('#') {
                    Some(stem) => word.strip_prefix(stem).is_some_and(|rest| rest.parse::<u32>().is_ok()),
                    None => word == *wanted,
                })
            })
        };
        if starts(&["[pgbouncer]", "[databases]"]) {
            Some(Format::PgBouncer)
        } else if starts(&["scope:", "bootstrap:", "postgresql:", "restapi:"]) {
            Some(Format::Patroni)
        } else if starts(&["backend_hostname#", "num_init_children", "backend_clustering_mode", "pcp_port"]) {
            Some(Format::PgPool)
        } else if starts(&["node_id", "node_name", "conninfo"]) {
            Some(Format::Repmgr)
        } else if starts(&["listen", "frontend", "backend", "defaults", "global"]) {
            Some(Format::HaProxy)
        } else {
            None
        }
    }
}

pub struct Source {
    /// What messages call it.
    pub file: String,
    pub text: String,
    pub format: Format,
}

/// A node as a flag names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub name: String,
    pub host: String,
    /// PostgreSQL's, where it is said.
    pub port: Option<u16>,
}

/// What the flags say beside the files.
#[derive(Clone, Default, Debug)]
pub struct Answers {
    pub cluster: Option<String>,
    pub name: Option<String>,
    /// `NAME` stands for the node's name.
    pub node_dir: String,
    pub peers: Vec<Member>,
    pub witnesses: Vec<Member>,
    /// There are no other nodes.
    pub alone: bool,
    /// Settings by key; they have been checked.
    pub set: Vec<(String, String)>,
    /// Patroni's dynamic configuration: what to call it, and its text.
    pub dynamic: Option<(String, String)>,
}

/// Reads all sources and says what becomes of each line; `load` is for files that PgBouncer's includes.
pub fn import(sources: &[Source], answers: &Answers, load: Load<'_>) -> Result<Report, Unreadable> {
    let mut plan = Plan::default();
    flags(&mut plan, answers);
    let mut read = Vec::new();
    for source in sources {
        read.push((source.format, entries(source, answers, load)?));
    }
    read.sort_by_key(|(format, _)| *format);
    haproxy::prepare(&mut plan, &read);
    let mut told = BTreeMap::<String, (Format, Vec<Line>)>::new();
    for (format, entries) in &read {
        plan.reading = entries.iter().map(|entry| entry.file.clone()).collect();
        let lines = judge(*format, entries, &mut plan, answers);
        for (entry, line) in entries.iter().zip(lines) {
            told.entry(entry.file.clone()).or_insert_with(|| (*format, Vec::new())).1.push(line);
        }
        match format {
            Format::Patroni => patroni::finish(&mut plan, answers.dynamic.is_some()),
            Format::PgPool => pgpool::finish(&mut plan),
            Format::PgBouncer => pgbouncer::finish(&mut plan),
            Format::Repmgr => repmgr::finish(&mut plan),
            Format::HaProxy => haproxy::finish(&mut plan),
        }
    }
    let formats: BTreeSet<Format> = read.iter().map(|(format, _)| *format).collect();
    let (peers, missing) = nodes::settle(&mut plan, answers, &formats);
    let toml = write::text(&plan, &peers, &missing);
    let problems = match missing.is_empty() {
        true => problems(&toml),
        false => Vec::new(),
    };
    let files = told.into_iter().map(|(file, (format, mut lines))| {
        lines.sort_by_key(|line| line.line);
        FileReport { file, tool: format.tool(), lines }
    });
    Ok(Report { files: files.collect(), chosen: plan.chosen, notes: plan.notes, missing, problems, toml })
}

fn flags(plan: &mut Plan, answers: &Answers) {
    let mut put = |key: &str, text: &str, flag: &str| {
        plan.settings.insert(key.to_owned(), Given { text: text.to_owned(), from: flag.to_owned() });
    };
    if let Some(cluster) = &answers.cluster {
        put("cluster", cluster, "--cluster");
    }
    if let Some(name) = &answers.name {
        put("node.name", name, "--name");
    }
    for (key, text) in &answers.set {
        put(key, text, "--set");
    }
}

fn entries(source: &Source, answers: &Answers, load: Load<'_>) -> Result<Vec<Entry>, Unreadable> {
    match source.format {
        Format::PgBouncer => read::ini::read(&source.file, &source.text, load),
        Format::PgPool | Format::Repmgr => read::assignments::read(&source.file, &source.text),
        Format::HaProxy => read::haproxy::read(&source.file, &source.text),
        Format::Patroni => {
            let dynamic = answers.dynamic.as_ref();
            let dynamic =
                dynamic.map(|(file, text)| read::yaml::read(file, text, patroni::DYNAMIC)).transpose()?;
            Ok(patroni::order(read::yaml::read(&source.file, &source.text, &[])?, dynamic))
        }
    }
}

fn judge(format: Format, entries: &[Entry], plan: &mut Plan, answers: &Answers) -> Vec<Line> {
    let tables = tables(format);
    let last: BTreeMap<&[String], &Entry> =
        entries.iter().map(|entry| (entry.path.as_slice(), entry)).collect();
    let line = |entry: &Entry| {
        let row = table::find(tables, &entry.path);
        let dynamic = answers.dynamic.as_ref().map(|(file, _)| file.as_str());
        let repeats = matches!(format, Format::PgBouncer | Format::PgPool | Format::Repmgr)
            && last[entry.path.as_slice()] != entry;
        let fate = match repeats {
            true => {
                report::Fate::Overridden(format!("{} sets it again", last[entry.path.as_slice()].place()))
            }
            false => match format {
                Format::Patroni => {
                    patroni::passed_over(entry, dynamic).unwrap_or_else(|| table::judge(row, plan, entry))
                }
                Format::HaProxy => haproxy::judge(row, plan, entry),
                _ => table::judge(row, plan, entry),
            },
        };
        Line::new(entry.line, key(format, entry, dynamic), &fate)
    };
    entries.iter().map(line).collect()
}

/// A key as it stands in its file.
fn key(format: Format, entry: &Entry, dynamic: Option<&str>) -> String {
    match format {
        Format::HaProxy => format!("{}: {}", entry.section, entry.key()),
        Format::PgBouncer => match entry.path.split_first() {
            Some((section, rest)) => format!("[{section}] {}", rest.join(" ")),
            None => String::new(),
        },
        Format::Patroni if dynamic == Some(entry.file.as_str()) => {
            entry.key().trim_start_matches("bootstrap.dcs.").to_owned()
        }
        _ => entry.key(),
    }
}

/// The rows for a tool's keys.
fn tables(format: Format) -> &'static [&'static [table::Row]] {
    match format {
        Format::HaProxy => &[haproxy::ROWS],
        Format::PgPool => pgpool::TABLES,
        Format::PgBouncer => &[pgbouncer::ROWS],
        Format::Patroni => patroni::TABLES,
        Format::Repmgr => &[repmgr::ROWS],
    }
}

/// What a node would say to the text.
fn problems(toml: &str) -> Vec<String> {
    match config::parse(toml, "pgherd.toml", &BTreeMap::new()) {
        Ok(_) => Vec::new(),
        Err(error) => error.to_string().lines().map(|line| line.trim().to_owned()).collect(),
    }
}
