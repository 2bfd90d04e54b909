//! After the last fault: does everything come back, and is everything there?

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};
use tests::cluster::Node;
use tests::status;
use tests::wait::wait_at_most;

use crate::history::{Event, Holding, Level, Lists, Recorder};
use crate::operations;
use crate::sampler::Server;
use crate::session::{Problem, Session};
use crate::workload::array;

/// Faults have ended: a takeover, a few restarts with crash recovery, two elections, on a machine that others use too.
const WRITES_TIMEOUT: Duration = Duration::from_secs(60);
/// A node that lost too much is copied anew.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Waits until a write through one of these read-write ports is acknowledged; how long it took.
pub fn wait_for_writes(nodes: &[Node], recorder: &Recorder) -> Result<Duration> {
    let runtime = crate::session::runtime();
    let began = recorder.now();
    let mut problem = String::new();
    let written = wait_at_most(WRITES_TIMEOUT, || {
        nodes.iter().find_map(|node| {
            let attempt = runtime.block_on(async {
                let session = Session::open(&node.host, node.read_write).await?;
                session.ask("CREATE TABLE IF NOT EXISTS healed (at timestamptz)").await?;
                session.ask("INSERT INTO healed VALUES (now())").await
            });
            attempt.map_err(|error| problem = format!("{}: {error}", node.name)).ok()
        })
    });
    match written {
        Some(_) => Ok(Duration::from_micros(recorder.now() - began)),
        None => bail!("no write {} s after all faults ended; {problem}", WRITES_TIMEOUT.as_secs()),
    }
}

/// Waits until every node is a member and votes in the store. A node that was removed and not added again, because that
/// was refused, is added now.
pub fn wait_for_members(nodes: &[Node], removed: &BTreeSet<usize>) -> Result<()> {
    let mut told = String::new();
    let whole = wait_at_most(WHOLE_TIMEOUT, || {
        told = match operations::store_lacks(nodes) {
            None => return Some(Ok(())),
            Some(lack) => lack,
        };
        removed.iter().find_map(|&index| add(nodes, index).err()).map(Err)
    });
    match whole {
        Some(outcome) => outcome,
        None => bail!("the store is not whole {} s after all faults ended: {told}", WHOLE_TIMEOUT.as_secs()),
    }
}

/// Adds a node that another one does not have among the members.
fn add(nodes: &[Node], index: usize) -> Result<()> {
    let (node, other) = (&nodes[index], &nodes[(index + 1) % nodes.len()]);
    let gone = status::members_at(&other.host, other.http)
        .is_some_and(|members| members.members.iter().all(|member| member.name != node.name));
    if gone {
        println!("{}", operations::ask(other, &operations::added(node))?.answered()?);
    }
    Ok(())
}

/// Waits until all that people asked for has ended, and no node knows of a pause.
pub fn wait_for_requests(nodes: &[Node]) -> Result<()> {
    let mut told = String::new();
    let ended = wait_at_most(WHOLE_TIMEOUT, || match operations::unfinished(nodes) {
        None => Some(()),
        Some(what) => {
            told = what;
            None
        }
    });
    match ended {
        Some(()) => Ok(()),
        None => {
            bail!("asked for, and not ended {} s after all faults ended: {told}", WHOLE_TIMEOUT.as_secs())
        }
    }
}

/// Waits until every standby streams and has replayed what the primary has; the primary's index.
pub fn wait_until_whole(servers: &[Server]) -> Result<usize> {
    let runtime = crate::session::runtime();
    let mut told = String::new();
    let whole =
        wait_at_most(WHOLE_TIMEOUT, || runtime.block_on(whole(servers)).map_err(|why| told = why).ok());
    whole.ok_or_else(|| {
        anyhow::anyhow!("not whole {} s after all faults ended: {told}", WHOLE_TIMEOUT.as_secs())
    })
}

async fn whole(servers: &[Server]) -> Result<usize, String> {
    let mut primary = None;
    for (index, server) in servers.iter().enumerate() {
        let asked = ask(server, "SELECT pg_is_in_recovery()").await;
        let answer = asked.map_err(|problem| format!("{} does not answer: {problem}", server.node))?;
        if answer.as_deref() == Some("f") && primary.replace(index).is_some() {
            return Err("two servers are no standbys".to_owned());
        }
    }
    let primary = primary.ok_or("no server is a primary")?;
    let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND replay_lsn >= pg_current_wal_lsn()";
    let asked = ask(&servers[primary], sql).await;
    let streaming = asked.map_err(|problem| format!("{}: {problem}", servers[primary].node))?;
    let streaming = streaming.unwrap_or_default();
    match streaming == (servers.len() - 1).to_string() {
        true => Ok(primary),
        false => {
            Err(format!("{streaming} standbys stream from {} and are level with it", servers[primary].node))
        }
    }
}

async fn ask(server: &Server, sql: &str) -> Result<Option<String>, Problem> {
    Session::open(&server.host, server.port).await?.ask(sql).await
}

/// Writes what each server holds into the history.
pub fn read_all(servers: &[Server], primary: usize, recorder: &Recorder) -> Result<()> {
    let runtime = crate::session::runtime();
    for (index, server) in servers.iter().enumerate() {
        let mut holding = runtime.block_on(holding_of(server))?;
        holding.primary = index == primary;
        recorder.note(Event::Final(holding));
    }
    Ok(())
}

async fn holding_of(server: &Server) -> Result<Holding, Problem> {
    let session = Session::open(&server.host, server.port).await?;
    let mut holding = Holding { node: server.node.clone(), ..Holding::default() };
    for level in Level::ALL {
        let lists = lists(&session, level).await?;
        match level {
            Level::ReadCommitted => holding.read_committed = lists,
            Level::Serializable => holding.serializable = lists,
        }
    }
    let samples = session.rows("SELECT id FROM samples").await?;
    holding.samples = samples.iter().flatten().flatten().flat_map(|id| array(id)).collect();
    Ok(holding)
}

async fn lists(session: &Session, level: Level) -> Result<Lists, Problem> {
    let rows = session.rows(&format!("SELECT k, v FROM {}", level.table())).await?;
    let list = |row: Vec<Option<String>>| {
        let [Some(key), Some(values)] = row.as_slice() else { return None };
        Some((key.parse().ok()?, array(values)))
    };
    Ok(rows.into_iter().filter_map(list).collect())
}
