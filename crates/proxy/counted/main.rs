//! A session of the proxy between a client and servers of a few lines, for who counts the instructions of the thread between them.
//!
//! ```text
//! counted read-write|auto simple|extended|prepared TRANSACTIONS
//! client ── TCP ──► the proxy, all settings at their defaults, one thread ── TCP ──► a primary and a replica
//! ```
//!
//! What it is: what `tests/it/instructions.rs` runs under valgrind, with the messages of pgbench's select-only script. What it is not: a
//! measurement. Invariant: each transaction is of the same bytes, but for a number in them, so that twice as many cost twice as much.

mod client;
mod server;

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use proxy::topology::{Backend, Topology};
use proxy::{
    CatalogNews, CatalogQuery, CatalogRows, Catalogs, CeilingLimits, Consistency, Leaks, LoweredCommit,
    Overrides, PoolMode, Position, Positions, Proxy, ProxyConfig, Questions, TimeLimits,
};
use tokio::runtime;
use tokio::sync::watch;

use client::{Client, Mode};

const USAGE: &str = "usage: counted read-write|auto simple|extended|prepared TRANSACTIONS";
/// What each server answers, so that the client knows who it was.
const PRIMARY: &str = "11111";
const REPLICA: &str = "22222";
/// Before what is counted: connections, memory and caches are there then.
const WARM: u32 = 100;
/// The catalog is read when the first session of the auto port comes; some hundred transactions pass until it is.
const WARM_MAX: u32 = 100_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [port, mode, transactions] = arguments.as_slice() else { return Err(USAGE.into()) };
    let (mode, transactions) = (Mode::named(mode).ok_or(USAGE)?, transactions.parse::<u32>()?);
    let primary = server::start(PRIMARY)?;
    let quiet = Arc::new(Quiet { primary: primary.clone() });
    let topology = Topology {
        term: 1,
        timeline: 1,
        primary: Some(Backend { node: "n1".to_owned(), address: primary }),
        replicas: vec![Backend { node: "n2".to_owned(), address: server::start(REPLICA)? }],
        ..Topology::default()
    };
    let (_publisher, seen) = watch::channel(topology);
    let questions = Questions {
        catalogs: Some(Arc::clone(&quiet) as Arc<dyn Catalogs>),
        positions: Some(quiet),
        ..Questions::default()
    };
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let proxy = runtime.block_on(Proxy::start(defaults(), seen, questions))?;
    let (address, answers) = match port.as_str() {
        "read-write" => (proxy.addresses().read_write, PRIMARY),
        "auto" => (proxy.addresses().auto.ok_or("no auto port")?, REPLICA),
        _ => return Err(USAGE.into()),
    };
    let mut client = Client::log_in(address, mode)?;
    let mut warm = 0;
    while warm < WARM {
        warm = if client.transaction()? == answers.as_bytes() { warm + 1 } else { 0 };
        if client.asked > WARM_MAX {
            return Err(format!("no server that answers {answers} is asked").into());
        }
    }
    for _ in 0..transactions {
        if client.transaction()? != answers.as_bytes() {
            return Err(format!("another server than that which answers {answers} was asked").into());
        }
    }
    Ok(())
}

/// As a node has it that says nothing about its proxy; with one thread, on a machine of any size.
fn defaults() -> ProxyConfig {
    ProxyConfig {
        listen: "127.0.0.1".to_owned(),
        read_write_port: 0,
        read_only_port: 0,
        auto_port: Some(0),
        socket_folder: None,
        client_rules: Vec::new(),
        read_consistency: Consistency::Session,
        replica_lag_max: proxy::LagMax { time: Duration::from_secs(10), bytes: None },
        functions: Overrides::default(),
        queue_max: 1_000,
        queue_timeout: Duration::from_secs(15),
        sessions_max: 5_000,
        connect_timeout: Duration::from_secs(2),
        login_timeout: Duration::from_secs(60),
        lowered_commit: LoweredCommit::default(),
        threads: 1,
        pool_mode: PoolMode::Transaction,
        leaks: Leaks::Pin,
        share_unnamed: false,
        time_limits: TimeLimits::default(),
        pool_size: 20,
        pool_min: 0,
        pool_reserve: 0,
        pool_reserve_after: Duration::from_secs(5),
        server_limits: CeilingLimits::default(),
        session_limits: CeilingLimits::default(),
        server_idle_timeout: Duration::from_secs(600),
        server_lifetime: Duration::from_secs(3_600),
        tls: proxy::tls::TlsConfig::default(),
        own_server: None,
    }
}

/// A cluster in which nothing is written: the table of the script is there, and the replica has all of it.
struct Quiet {
    primary: String,
}

impl Catalogs for Quiet {
    fn read<'a>(
        &'a self,
        _: &'a str,
        known: Option<&'a str>,
    ) -> Pin<Box<dyn Future<Output = Result<CatalogNews, String>> + Send + 'a>> {
        const FINGERPRINT: &str = "1";
        let rows: [(CatalogQuery, &[&str]); 3] = [
            (CatalogQuery::Functions, &["65", "pg_catalog", "int4eq", "f", "f"]),
            (CatalogQuery::Operators, &["pg_catalog", "=", "65"]),
            (CatalogQuery::Relations, &["16384", "public", "pgbench_accounts", "r", "p"]),
        ];
        Box::pin(async move {
            if known == Some(FINGERPRINT) {
                return Ok(CatalogNews::Unchanged);
            }
            let mut catalog = Box::<CatalogRows>::default();
            for (query, columns) in rows {
                catalog.take(query, columns).map_err(|error| error.to_string())?;
            }
            Ok(CatalogNews::Changed { fingerprint: FINGERPRINT.to_owned(), rows: catalog })
        })
    }
}

impl Positions for Quiet {
    fn position<'a>(
        &'a self,
        address: &'a str,
    ) -> Pin<Box<dyn Future<Output = Option<Position>> + Send + 'a>> {
        Box::pin(async move {
            Some(if address == self.primary { Position::Inserted(1) } else { Position::Replayed(1) })
        })
    }
}
