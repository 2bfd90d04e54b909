//! What a rewind takes out of the history, listed: transactions, relations, bytes.
//!
//! The server's own `pg_waldump` reads the WAL that was kept; its text is PostgreSQL's, so a line that is not understood
//! counts as a record and no more. Names of relations come later, from the server as it is then: the catalogs of before
//! are gone, and what was created in lost transactions keeps its number.
//! Invariant: the listing is written beside the kept WAL before the rewind begins (I7).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use wire::{Lsn, Timeline};

use super::error::{Error, Result, within};
use super::files;
use super::server::Server;
use super::session::{QUERY_DEADLINE, Session, identifier, literal};

/// `pg_waldump` reads some 100 MB a second; what takes longer is listed as far as it got.
const DUMP_DEADLINE: Duration = Duration::from_secs(60);
/// Transactions and relations named one by one; beyond that they are counted.
const NAMED_MAX: usize = 10_000;
/// PostgreSQL's FirstNormalObjectId: below it are catalogs.
const FIRST_USER_ID: u32 = 16_384;
/// `pg_default`: a database's own tablespace is asked for as 0.
const DEFAULT_TABLESPACE: u32 = 1663;
const PREFIX: &str = "lost-writes-";

/// What left the history with one rewind.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Lost {
    pub node: String,
    /// RFC 3339.
    pub at: String,
    /// Where the histories part.
    pub fork: Lsn,
    /// From the fork to the end of the WAL here.
    pub bytes: u64,
    pub records: u64,
    pub committed: Vec<Transaction>,
    pub aborted: Vec<Transaction>,
    /// Begun and not ended when the server did.
    pub unfinished: Vec<u32>,
    pub relations: Vec<Relation>,
    /// Not all of the WAL, or not every transaction, is listed.
    pub shortened: bool,
    /// Where the WAL itself is.
    pub kept: PathBuf,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Transaction {
    pub xid: u32,
    /// As the server wrote it.
    pub time: String,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Relation {
    pub tablespace: u32,
    pub database: u32,
    pub filenode: u32,
    /// `database.schema.relation`; `None` when nothing has this number now.
    pub name: Option<String>,
    pub is_index: bool,
    pub records: u64,
}

impl Lost {
    /// Relations that people know of: no catalogs, no indexes.
    pub fn tables(&self) -> impl Iterator<Item = &Relation> {
        self.relations.iter().filter(|relation| relation.filenode >= FIRST_USER_ID && !relation.is_index)
    }

    fn text(&self) -> String {
        let mut lines = vec![
            format!("WAL that left the history of {} at {} ({})", self.node, self.fork, self.at),
            format!(
                "{} bytes, {} records; the WAL itself: {}",
                self.bytes,
                self.records,
                self.kept.display()
            ),
            String::new(),
            format!("{} transactions committed here that no later primary has:", self.committed.len()),
        ];
        let transaction = |t: &Transaction| format!("  {} at {}", t.xid, t.time);
        lines.extend(self.committed.iter().map(transaction));
        lines.push(format!("{} aborted, {} unfinished", self.aborted.len(), self.unfinished.len()));
        lines.push(String::new());
        lines.push("relations they wrote to:".to_owned());
        lines.extend(self.relations.iter().map(|r| {
            let path = format!("{}/{}/{}", r.tablespace, r.database, r.filenode);
            let kind = if r.is_index { ", an index" } else { "" };
            format!("  {} ({} records{kind})", r.name.as_ref().unwrap_or(&path), r.records)
        }));
        if self.shortened {
            lines.push("This listing is not complete; pg_waldump shows the rest.".to_owned());
        }
        lines.push(String::new());
        lines.join("\n")
    }
}

impl Server {
    /// Where the WAL of a rewind is kept that begins now.
    pub(super) fn new_keep(&self) -> PathBuf {
        self.layout.kept.join(format!("{PREFIX}{}", files::moment()))
    }

    /// Lists the WAL in `kept` from `fork` on, which lies on `timeline`; writes the listing beside it.
    pub(super) async fn list_lost(&self, kept: &Path, fork: Lsn, timeline: Timeline) -> Result<Lost> {
        let mut reading = Reading::default();
        for (timeline, start) in self.stretches(kept, fork, timeline)? {
            self.dump(kept, timeline, start, &mut reading).await?;
        }
        let at = crate::clock::wall().to_string();
        let lost = reading.finish(self.config.node.clone(), at, fork, kept.to_owned());
        self.write_lost(&lost).await?;
        Ok(lost)
    }

    /// The timelines of the kept WAL and where each begins: `timeline` at the fork, later ones where they branch off.
    fn stretches(&self, kept: &Path, fork: Lsn, timeline: Timeline) -> Result<Vec<(Timeline, Lsn)>> {
        let entries = std::fs::read_dir(kept).map_err(Error::at("list", kept))?.flatten();
        let of_file =
            |name: String| u32::from_str_radix(name.get(..8)?, 16).ok().filter(|_| name.len() == 24);
        let found: BTreeSet<u32> =
            entries.filter_map(|entry| of_file(entry.file_name().to_string_lossy().into_owned())).collect();
        let mut stretches = vec![(timeline, fork)];
        for later in found.into_iter().map(Timeline).filter(|later| *later > timeline) {
            let Ok(Some(history)) = self.history(later) else { continue };
            let branch = history.ancestors.last().filter(|branch| branch.timeline >= timeline);
            stretches.extend(branch.map(|branch| (later, branch.end.max(fork))));
        }
        Ok(stretches)
    }

    async fn dump(&self, kept: &Path, timeline: Timeline, start: Lsn, reading: &mut Reading) -> Result<()> {
        let program = self.installation.tool("pg_waldump");
        let mut command = self.account.command(&program);
        command.arg("--path").arg(kept);
        command.args(["--timeline", &timeline.to_string(), "--start", &start.to_string()]);
        // It ends with an error where the WAL does: that is how an end is told from a gap.
        let mut child = command.kill_on_drop(true).spawn().map_err(Error::at("run", &program))?;
        let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Ok(());
        };
        let read = async {
            let mut lines = BufReader::new(stdout).lines();
            while let Some(line) = lines.next_line().await.map_err(Error::io("read what pg_waldump says"))? {
                reading.record(&line, start);
            }
            // One line at its end: where the WAL ends, or what kept it from reading on.
            let mut said = String::new();
            stderr.read_to_string(&mut said).await.map_err(Error::io("read what pg_waldump says"))?;
            if ["could not open", "could not read", "Permission denied"]
                .iter()
                .any(|word| said.contains(word))
            {
                tracing::warn!(said = said.trim(), "the kept WAL could not be read to its end");
                reading.lost.shortened = true;
            }
            Ok(())
        };
        match within("pg_waldump", DUMP_DEADLINE, read).await {
            Err(Error::Deadline { .. }) => reading.lost.shortened = true,
            result => result?,
        }
        Ok(())
    }

    async fn write_lost(&self, lost: &Lost) -> Result<()> {
        let (json, text) = (serde_json::to_vec_pretty(lost).unwrap_or_default(), lost.text());
        let (kept, account) = (lost.kept.clone(), self.account.clone());
        files::blocking(move || {
            files::write(&kept.join("report.json"), &json, &account)?;
            files::write(&kept.join("report.txt"), text.as_bytes(), &account)
        })
        .await
    }

    /// Gives the relations their names, as far as they are there now, and writes the listing again.
    pub async fn name_lost(&self, lost: &mut Lost) -> Result<()> {
        let databases: BTreeSet<u32> = lost.tables().map(|relation| relation.database).collect();
        for database in databases {
            let Some(name) = self.database_name(database).await? else { continue };
            let mut session = Session::open_in(&self.layout, self.config.port, &name, QUERY_DEADLINE).await?;
            for relation in lost.relations.iter_mut().filter(|r| r.database == database) {
                name_one(&mut session, &name, relation).await?;
            }
        }
        self.write_lost(lost).await
    }

    async fn database_name(&self, oid: u32) -> Result<Option<String>> {
        let mut admin = self.admin.lock().await;
        let session = admin.session(&self.layout, self.config.port).await?;
        let sql = format!(
            "SELECT datname FROM pg_database WHERE oid = {} AND datallowconn",
            literal(&oid.to_string())
        );
        session.value("name a database", &sql, QUERY_DEADLINE).await
    }

    /// The listings that are kept and that nobody has acknowledged, oldest first. Blocking.
    pub fn kept_lists(&self) -> Vec<Lost> {
        let Ok(entries) = std::fs::read_dir(&self.layout.kept) else { return Vec::new() };
        let ours = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(PREFIX);
        let mut dirs: Vec<PathBuf> = entries.flatten().filter(ours).map(|entry| entry.path()).collect();
        dirs.retain(|dir| !dir.join("acknowledged").exists());
        dirs.sort();
        let read = |dir: PathBuf| serde_json::from_slice(&std::fs::read(dir.join("report.json")).ok()?).ok();
        dirs.into_iter().filter_map(read).collect()
    }
}

async fn name_one(session: &mut Session, database: &str, relation: &mut Relation) -> Result<()> {
    let tablespace = if relation.tablespace == DEFAULT_TABLESPACE { 0 } else { relation.tablespace };
    let sql = format!(
        "SELECT n.nspname || '.' || c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.oid = pg_filenode_relation({tablespace}, {})",
        relation.filenode
    );
    let rows = session.rows("name a relation", &sql, QUERY_DEADLINE).await?;
    if let Some(row) = rows.first() {
        relation.name = row.get(0).map(|name| format!("{}.{name}", identifier(database).trim_matches('"')));
        relation.is_index = row.get(1) == Some("i");
    }
    Ok(())
}

/// What has been read so far.
#[derive(Default)]
struct Reading {
    lost: Lost,
    relations: BTreeMap<(u32, u32, u32), u64>,
    /// Transactions seen, and whether anything but our own probe was in them.
    seen: BTreeMap<u32, bool>,
    end: Lsn,
}

impl Reading {
    /// A line of `pg_waldump`.
    fn record(&mut self, line: &str, start: Lsn) {
        let Some(record) = parse(line) else { return };
        self.lost.records += 1;
        self.lost.bytes += record.lsn.bytes_since(self.end.max(start)) + record.bytes;
        self.end = Lsn(record.lsn.0 + record.bytes);
        for relation in &record.relations {
            *self.relations.entry(*relation).or_default() += 1;
        }
        if record.xid == 0 {
            return;
        }
        let is_probe = record.rmgr == "LogicalMessage" && record.text.contains("prefix \"pgherd\"");
        let real = self.seen.entry(record.xid).or_default();
        *real |= !is_probe && record.rmgr != "Transaction";
        let real = *real;
        if record.rmgr != "Transaction" {
            return;
        }
        let mut words = record.text.split_whitespace();
        let what = words.next().unwrap_or_default();
        let committed = what == "COMMIT" || what == "COMMIT_PREPARED";
        if !committed && what != "ABORT" && what != "ABORT_PREPARED" {
            return;
        }
        self.seen.remove(&record.xid);
        if let Some((_, after)) = record.text.split_once("subxacts:") {
            let subxacts = after.split(';').next().unwrap_or_default();
            subxacts.split_whitespace().filter_map(|xid| xid.parse().ok()).for_each(|xid: u32| {
                self.seen.remove(&xid);
            });
        }
        let prepared = what.ends_with("PREPARED");
        if !real && !prepared {
            return;
        }
        let text = record.text.split_once(": ").filter(|_| prepared).map_or(record.text, |(_, text)| text);
        let time = text.split(';').next().unwrap_or_default().trim_start_matches(what).trim().to_owned();
        let ended = if committed { &mut self.lost.committed } else { &mut self.lost.aborted };
        if ended.len() < NAMED_MAX {
            ended.push(Transaction { xid: record.xid, time });
        } else {
            self.lost.shortened = true;
        }
    }

    fn finish(self, node: String, at: String, fork: Lsn, kept: PathBuf) -> Lost {
        let shortened = self.lost.shortened || self.relations.len() > NAMED_MAX;
        let relation = |((tablespace, database, filenode), records)| Relation {
            tablespace,
            database,
            filenode,
            name: None,
            is_index: false,
            records,
        };
        let relations = self.relations.into_iter().take(NAMED_MAX).map(relation).collect();
        let unfinished = self.seen.into_iter().filter(|(_, real)| *real).map(|(xid, _)| xid);
        let unfinished = unfinished.take(NAMED_MAX).collect();
        Lost { node, at, fork, relations, unfinished, shortened, kept, ..self.lost }
    }
}

struct Record<'a> {
    rmgr: &'a str,
    xid: u32,
    lsn: Lsn,
    bytes: u64,
    text: &'a str,
    relations: Vec<(u32, u32, u32)>,
}

/// `rmgr: Heap len (rec/tot): 54/ 150, tx: 745, lsn: 0/015A5F58, prev 0/015A5F20, desc: INSERT off 3, blkref #0: rel 1663/5/16384 blk 0`
fn parse(line: &str) -> Option<Record<'_>> {
    let rest = line.strip_prefix("rmgr: ")?;
    let (rmgr, rest) = rest.split_once(' ')?;
    let (head, text) = rest.split_once("desc: ")?;
    let field = |name: &str| Some(head.split_once(name)?.1.split(',').next()?.trim());
    let total = field("len (rec/tot):")?.rsplit('/').next()?.trim().parse().ok()?;
    let relation = |part: &str| {
        let mut numbers = part.split_whitespace().next()?.split('/').map(|number| number.parse().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    };
    Some(Record {
        rmgr,
        xid: field("tx:")?.parse().ok()?,
        lsn: field("lsn:")?.parse().ok()?,
        bytes: total,
        text,
        relations: text.split("rel ").skip(1).filter_map(relation).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "\
rmgr: Heap        len (rec/tot):     59/    59, tx:        750, lsn: 0/05000060, prev 0/05000028, desc: INSERT off 3 flags 0x00, blkref #0: rel 1663/5/16385 blk 0
rmgr: Btree       len (rec/tot):     64/    64, tx:        750, lsn: 0/050000A0, prev 0/05000060, desc: INSERT_LEAF off 3, blkref #0: rel 1663/5/16388 blk 1
rmgr: Transaction len (rec/tot):     54/    54, tx:        750, lsn: 0/050000E0, prev 0/050000A0, desc: COMMIT 2026-11-21 08:44:01.964000 UTC; subxacts: 751
rmgr: LogicalMessage len (rec/tot): 60/    60, tx:        752, lsn: 0/05000118, prev 0/050000E0, desc: MESSAGE transactional, prefix \"pgherd\"; payload (0 bytes): 
rmgr: Transaction len (rec/tot):     46/    46, tx:        752, lsn: 0/05000158, prev 0/05000118, desc: COMMIT 2026-11-21 08:44:02.000000 UTC
rmgr: Heap        len (rec/tot):     59/    59, tx:        753, lsn: 0/05000188, prev 0/05000158, desc: INSERT off 4 flags 0x00, blkref #0: rel 1663/5/16385 blk 0
rmgr: Standby     len (rec/tot):     50/    50, tx:          0, lsn: 0/050001C8, prev 0/05000188, desc: RUNNING_XACTS nextXid 754 latestCompletedXid 752 oldestRunningXid 753
";

    #[test]
    fn transactions_and_relations_are_counted_and_our_probes_are_none() {
        let mut reading = Reading::default();
        DUMP.lines().for_each(|line| reading.record(line, Lsn(0x500_0060)));
        let lost = reading.finish("n1".into(), "now".into(), Lsn(0x500_0060), "/kept".into());
        let time = "2026-11-21 08:44:01.964000 UTC".to_owned();
        assert_eq!(lost.committed, [Transaction { xid: 750, time }]);
        assert_eq!((lost.unfinished.as_slice(), lost.aborted.len(), lost.records), ([753].as_slice(), 0, 7));
        assert_eq!(lost.bytes, 0x1C8 + 50 - 0x60);
        let relations: Vec<(u32, u64)> = lost.relations.iter().map(|r| (r.filenode, r.records)).collect();
        assert_eq!(relations, [(16385, 2), (16388, 1)]);
        assert!(lost.text().contains("750 at 2026-11-21"), "{}", lost.text());
        assert!(parse("pg_waldump: error: invalid record").is_none());
    }
}
