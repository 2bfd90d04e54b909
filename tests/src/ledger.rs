//! A writer that counts: which rows were acknowledged, how long writes stopped, and is every one still there?
//!
//! It writes through the proxies as an application with several hosts would: one at a time, moving to the next host
//! when one fails. An id is used once. An insert that ended in an error is in doubt and may be there or not; one that
//! was acknowledged must be there for ever.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio_postgres::{Client, NoTls};

use crate::cluster::{Cluster, Node};
use crate::wait::wait_for;

/// Longer than a proxy holds a session during a takeover within its bounds, shorter than a test's patience.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(8);
/// A dead port refuses at once; a frozen one must not cost more than this before the next is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A replica that is healthy catches up within moments; one that rejoins by rewind or copy was waited for before.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// Acknowledgements that prove that writes flow.
const FLOWING: u64 = 20;
const FLOWING_TIMEOUT: Duration = Duration::from_secs(60);
/// Between attempts while no host takes us: the longest error of a measured gap.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// What the writer has seen.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Ids whose COMMIT was acknowledged.
    pub acknowledged: BTreeSet<i64>,
    /// Inserts that ended in an error after they were sent.
    pub in_doubt: u64,
    /// The longest time between two acknowledgements since the last `mark`.
    pub gap_longest: Duration,
    /// Why attempts failed, each text once.
    pub errors: BTreeSet<String>,
}

/// The running writer. Dropped, it ends.
pub struct Ledger {
    account: Arc<Mutex<Account>>,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
}

impl Ledger {
    /// Makes the table through the proxies, starts the writer and waits until writes flow.
    pub fn start(cluster: &Cluster) -> Ledger {
        let hosts: Vec<u16> = cluster.nodes().iter().map(|node| node.read_write).collect();
        Ledger::start_through(hosts)
    }

    /// The same through the read-write ports named, tried in this order.
    pub fn start_through(hosts: Vec<u16>) -> Ledger {
        let mut ledger = Ledger {
            account: Arc::default(),
            acknowledged: Arc::default(),
            stop: Arc::default(),
            writer: None,
        };
        let writer = Writer {
            hosts,
            account: ledger.account.clone(),
            acknowledged: ledger.acknowledged.clone(),
            stop: ledger.stop.clone(),
        };
        ledger.writer = Some(std::thread::spawn(move || runtime().block_on(writer.run())));
        ledger.wait_until_flowing();
        ledger
    }

    /// Waits for acknowledgements that began after this call.
    #[track_caller]
    pub fn wait_until_flowing(&self) {
        let wanted = self.acknowledged.load(Ordering::Relaxed) + FLOWING;
        wait_for("writes to flow", FLOWING_TIMEOUT, || {
            (self.acknowledged.load(Ordering::Relaxed) >= wanted).then_some(())
        });
    }

    /// Begins a new measure of the longest gap.
    pub fn mark(&self) {
        self.account.lock().expect("the writer did not panic").gap_longest = Duration::ZERO;
    }

    pub fn account(&self) -> Account {
        self.account.lock().expect("the writer did not panic").clone()
    }

    /// Ends the writer and returns what it has seen.
    pub fn finish(mut self) -> Account {
        self.stop_writer();
        self.account()
    }

    /// Ends the writer, then checks that every acknowledged row is on the primary and on every replica.
    #[track_caller]
    pub fn finish_and_check(self, cluster: &Cluster) -> Account {
        let account = self.finish();
        let status = cluster.wait_until_whole();
        let primary = status.primary.expect("a whole cluster has a primary");
        let on_primary = rows_of(cluster.node(&primary)).expect("read the primary's ledger");
        check_complete(&account, &on_primary, &primary);
        for node in cluster.nodes().iter().filter(|node| node.name != primary) {
            let rows =
                wait_for(&format!("{} to have every row of {primary}", node.name), CATCH_UP_TIMEOUT, || {
                    rows_of(node).ok().filter(|rows| rows.is_superset(&on_primary))
                });
            check_complete(&account, &rows, &node.name);
            let extra: Vec<_> = rows.difference(&on_primary).take(5).collect();
            assert!(extra.is_empty(), "{} has rows that {primary} has not: {extra:?}", node.name);
        }
        account
    }

    fn stop_writer(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has left a poisoned account, on which the test fails with its message.
            let _ = writer.join();
        }
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.stop_writer();
    }
}

/// How many acknowledged rows are missing on `node`.
pub fn lost_on(account: &Account, node: &Node) -> Result<usize> {
    Ok(account.acknowledged.difference(&rows_of(node)?).count())
}

#[track_caller]
fn check_complete(account: &Account, rows: &BTreeSet<i64>, node: &str) {
    let lost: Vec<_> = account.acknowledged.difference(rows).take(20).collect();
    assert!(lost.is_empty(), "acknowledged rows are lost on {node}: {lost:?}");
}

/// The ids in the ledger of this node's own server, past every proxy.
pub fn rows_of(node: &Node) -> Result<BTreeSet<i64>> {
    runtime().block_on(async {
        let client = connect(node.postgres).await?;
        let rows =
            tokio::time::timeout(STATEMENT_TIMEOUT, client.query("SELECT id FROM ledger", &[])).await??;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    })
}

/// One value as text, from the server or proxy on this port.
pub fn value_at(port: u16, sql: &str) -> Result<String> {
    runtime().block_on(async {
        let client = connect(port).await?;
        let rows = tokio::time::timeout(STATEMENT_TIMEOUT, client.simple_query(sql)).await??;
        let value = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        value.with_context(|| format!("{sql} gave no value"))
    })
}

/// A session with the server on this port that does nothing; returns when the server ends it.
pub fn session_until_cut(port: u16, opened: impl FnOnce()) {
    runtime().block_on(async {
        let text =
            format!("host=127.0.0.1 port={port} user=postgres dbname=postgres application_name=direct");
        let (client, connection) =
            tokio_postgres::connect(&text, NoTls).await.expect("the server lets us in");
        let ended = tokio::spawn(connection);
        client.simple_query("SELECT 1").await.expect("the server answers");
        opened();
        // However it ends: an error is what a cut looks like.
        let _ = ended.await;
        drop(client);
    });
}

/// A session past every proxy, for statements one after the other.
pub struct Session {
    runtime: tokio::runtime::Runtime,
    client: Client,
}

/// A session at the server or proxy on this port.
#[track_caller]
pub fn session_at(port: u16) -> Session {
    let runtime = runtime();
    let client = runtime.block_on(connect(port)).expect("a session");
    Session { runtime, client }
}

impl Session {
    pub fn execute(&mut self, sql: &str) -> Result<()> {
        self.runtime.block_on(execute(&self.client, sql))
    }
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A session through this port, as an application with several hosts tries it: two seconds, then the next.
pub async fn connect(port: u16) -> Result<Client> {
    let text = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres application_name=ledger");
    let attempt = tokio::time::timeout(CONNECT_TIMEOUT, tokio_postgres::connect(&text, NoTls)).await;
    let (client, connection) = attempt.with_context(|| format!("connect to {port}"))??;
    tokio::spawn(async move {
        // The client's own calls report what went wrong with the connection.
        let _ = connection.await;
    });
    Ok(client)
}

struct Writer {
    hosts: Vec<u16>,
    account: Arc<Mutex<Account>>,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Writer {
    async fn run(self) {
        let mut id = 0;
        let mut last: Option<Instant> = None;
        let mut retry = tokio::time::interval(RETRY_PAUSE);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for &host in self.hosts.iter().cycle() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if let Err(error) = self.write_through(host, &mut id, &mut last).await {
                self.account.lock().expect("no reader panics").errors.insert(format!("{error:#}"));
            }
            retry.tick().await;
        }
    }

    /// Inserts until something fails or the end is asked for.
    async fn write_through(&self, host: u16, id: &mut i64, last: &mut Option<Instant>) -> Result<()> {
        let client = connect(host).await?;
        execute(&client, "CREATE TABLE IF NOT EXISTS ledger (id bigint PRIMARY KEY)").await?;
        while !self.stop.load(Ordering::Relaxed) {
            *id += 1;
            let outcome = execute(&client, &format!("INSERT INTO ledger VALUES ({id})")).await;
            let now = Instant::now();
            let mut account = self.account.lock().expect("no reader panics");
            if let Err(error) = outcome {
                account.in_doubt += 1;
                return Err(error);
            }
            account.acknowledged.insert(*id);
            let gap = last.map_or(Duration::ZERO, |last| now - last);
            account.gap_longest = account.gap_longest.max(gap);
            *last = Some(now);
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

async fn execute(client: &Client, sql: &str) -> Result<()> {
    match tokio::time::timeout(STATEMENT_TIMEOUT, client.batch_execute(sql)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            // The driver's own text hides the server's words one level down.
            let words = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
            bail!("{words}")
        }
        Err(_) => bail!("no answer within {} s", STATEMENT_TIMEOUT.as_secs()),
    }
}
