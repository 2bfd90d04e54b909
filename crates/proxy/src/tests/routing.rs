//! The auto port before a real primary and its standby: what goes where, what a session sees of its own writes, and what a client
//! notices when a replica does not do what it was taken to be fit for.

use std::pin::Pin;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::pools::value;
use super::server::{Postgres, client, connect};
use super::*;
use crate::{CatalogNews, CatalogQuery, CatalogRows, Catalogs, Position, Positions};

/// Answers as the agent does, by sessions of its own.
struct Knows {
    catalog: Client,
    servers: Vec<(String, Client)>,
}

impl Catalogs for Knows {
    fn read<'a>(
        &'a self,
        _: &'a str,
        known: Option<&'a str>,
    ) -> Pin<Box<dyn Future<Output = Result<CatalogNews, String>> + Send + 'a>> {
        Box::pin(async move {
            let fingerprint = value(&self.catalog, CatalogQuery::FINGERPRINT).await;
            if known == Some(&*fingerprint) {
                return Ok(CatalogNews::Unchanged);
            }
            let mut rows = Box::<CatalogRows>::default();
            for query in CatalogQuery::ALL {
                for message in self.catalog.simple_query(query.sql()).await.map_err(|e| e.to_string())? {
                    if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
                        let columns: Vec<&str> =
                            (0..row.len()).map(|at| row.get(at).unwrap_or_default()).collect();
                        rows.take(query, &columns).map_err(|error| error.to_string())?;
                    }
                }
            }
            Ok(CatalogNews::Changed { fingerprint, rows })
        })
    }
}

impl Positions for Knows {
    fn position<'a>(
        &'a self,
        address: &'a str,
    ) -> Pin<Box<dyn Future<Output = Option<Position>> + Send + 'a>> {
        Box::pin(async move {
            let (_, server) = self.servers.iter().find(|(known, _)| known == address)?;
            let sql = "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                       ELSE pg_current_wal_insert_lsn() END - '0/0'";
            const PAGE: (u64, u64) = (8192, 16 << 20);
            let messages = server.simple_query(sql).await.ok()?;
            let tokio_postgres::SimpleQueryMessage::Row(row) =
                messages.iter().find(|m| matches!(m, tokio_postgres::SimpleQueryMessage::Row(_)))?
            else {
                return None;
            };
            let lsn = row.get(1)?.parse().ok()?;
            Some(match row.get(0) {
                Some("t") => Position::Replayed(lsn),
                _ => Position::inserted(lsn, PAGE.0, PAGE.1),
            })
        })
    }
}

/// A primary, standbys and a proxy before them.
pub struct Herd {
    pub primary: Postgres,
    pub replicas: Vec<Postgres>,
    pub stand: Stand,
    pub admin: Client,
}

/// Functions about which the catalog is wrong: one writes, one reads what only the primary has.
const MADE: &str = "
    CREATE TABLE t (a int);
    CREATE UNLOGGED TABLE u (a int);
    CREATE FUNCTION insert() RETURNS int LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (-1); RETURN 7; END';
    CREATE FUNCTION writes() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN RETURN insert(); END';
    CREATE FUNCTION sees_unlogged() RETURNS bigint STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM u); END';
    CREATE FUNCTION counts() RETURNS bigint STABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM t); END';
    CREATE FUNCTION server() RETURNS text STABLE LANGUAGE plpgsql AS
        'BEGIN RETURN current_setting(''port'') || ''/'' || pg_is_in_recovery(); END';
    CREATE FUNCTION slow() RETURNS text STABLE LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN server(); END'";

impl Herd {
    pub async fn new(config: ProxyConfig, replicas: usize) -> Herd {
        let primary = tokio::task::spawn_blocking(|| Postgres::start("trust", &[])).await.unwrap();
        let admin = primary.admin().await;
        admin.batch_execute(MADE).await.unwrap();
        let mut standbys = Vec::new();
        for _ in 0..replicas {
            standbys.push(primary.standby());
        }
        let mut servers = vec![(primary.address.clone(), primary.admin().await)];
        for standby in &standbys {
            servers.push((standby.address.clone(), standby.admin().await));
        }
        let knows = Arc::new(Knows { catalog: primary.admin().await, servers });
        let addresses: Vec<&str> = standbys.iter().map(|standby| &*standby.address).collect();
        let (sender, receiver) = watch::channel(topology(1, Some(&primary.address), &addresses));
        let questions = Questions {
            catalogs: Some(Arc::clone(&knows) as Arc<dyn Catalogs>),
            positions: Some(knows),
            ..Questions::default()
        };
        let stand = Stand::asking(config, sender, receiver, questions).await;
        Herd { primary, replicas: standbys, stand, admin }
    }

    async fn session(&self) -> Client {
        let auto = self.stand.proxy.addresses().auto.expect("there is an auto port");
        connect(client(auto, "secret")).await.unwrap()
    }

    /// A session whose reads are known to be served by replicas by now.
    pub async fn reader(&self) -> Client {
        let session = self.session().await;
        caught_up(&session).await;
        session
    }

    /// How often each kind of server has run a read.
    fn reads(&self) -> (u64, u64) {
        let counts = self.stand.proxy.counts();
        (counts.reads_by_replicas, counts.reads_by_primary)
    }
}

/// A replica serves it, with all that it has written.
async fn caught_up(session: &Client) {
    soon(async {
        while !is_replica(session, "SELECT server()").await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn is_replica(session: &Client, sql: &str) -> bool {
    value(session, sql).await.ends_with("/true")
}

fn routed() -> ProxyConfig {
    ProxyConfig { pool_mode: PoolMode::Transaction, threads: 1, ..config() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_to_replicas_in_turn_and_all_else_to_the_primary() {
    let herd = Herd::new(routed(), 2).await;
    let session = herd.reader().await;
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..20 {
        let row = session.query_one("SELECT server()", &[]).await.unwrap();
        *seen.entry(row.get::<_, String>(0)).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 2, "both replicas: {seen:?}");
    assert!(seen.iter().all(|(server, times)| server.ends_with("/true") && *times >= 5), "{seen:?}");
    for text in [
        "SELECT server() FROM t FOR UPDATE",
        "BEGIN; SELECT server()",
        "COMMIT",
        "/* pgherd: primary */ SELECT server()",
        "SELECT server(), nextval('pg_catalog.x') WHERE false",
    ] {
        let told = session.simple_query(text).await;
        if let Ok(rows) = told {
            let is_replica = rows.iter().any(|message| {
                matches!(message, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0).unwrap().ends_with("/true"))
            });
            assert!(!is_replica, "{text}");
        }
    }
    caught_up(&session).await;
    assert!(is_replica(&session, "BEGIN READ ONLY; SELECT server(); COMMIT").await);
    session.batch_execute("BEGIN READ ONLY").await.unwrap();
    assert!(is_replica(&session, "SELECT server()").await, "a block stays where it began");
    assert!(is_replica(&session, "SELECT server()").await);
    session.batch_execute("COMMIT").await.unwrap();
    session.batch_execute("SET pgherd.route = 'primary'").await.unwrap();
    assert!(!is_replica(&session, "SELECT server()").await);
    session.batch_execute("RESET pgherd.route").await.unwrap();
    // A temporary table binds the session to the primary.
    session.batch_execute("CREATE TEMP TABLE only_there (a int)").await.unwrap();
    assert!(!is_replica(&session, "SELECT server()").await);
    assert_eq!(value(&session, "SELECT count(*) FROM only_there").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_reads_what_it_has_written_though_the_replica_does_not_replay() {
    let herd = Herd::new(routed(), 1).await;
    let session = herd.reader().await;
    let replica = herd.replicas[0].admin().await;
    let statement = session.prepare("SELECT count(*) FROM t").await.unwrap();
    for n in 1..=50i64 {
        session.execute("INSERT INTO t VALUES (1)", &[]).await.unwrap();
        assert_eq!(session.query_one(&statement, &[]).await.unwrap().get::<_, i64>(0), n);
    }
    // It stands still with these fifty, not with as many as it had come to.
    caught_up(&session).await;
    replica.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    session.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    for _ in 0..20 {
        assert_eq!(value(&session, "SELECT count(*) FROM t").await, "51");
        assert!(!is_replica(&session, "SELECT server()").await, "the replica has not got it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Who has written nothing may read there, and a setting is nothing of the kind.
    let other = herd.session().await;
    other.batch_execute("SET extra_float_digits = 1").await.unwrap();
    assert!(is_replica(&other, "SELECT server()").await);
    other.batch_execute("RESET extra_float_digits").await.unwrap();
    assert!(is_replica(&other, "SELECT server()").await);
    assert_eq!(value(&other, "SELECT count(*) FROM t").await, "50");
    replica.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    caught_up(&session).await;
    assert_eq!(value(&session, "SELECT count(*) FROM t").await, "51");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_cluster_nobody_reads_less_than_was_acknowledged_before() {
    let herd = Herd::new(ProxyConfig { read_consistency: Consistency::Cluster, ..routed() }, 1).await;
    let reader = herd.reader().await;
    for n in 1..=30 {
        // By no session of the proxy.
        herd.admin.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
        assert_eq!(value(&reader, "SELECT counts()").await, n.to_string());
    }
    let (by_replicas, _) = herd.reads();
    assert!(by_replicas >= 10, "replicas are waited for: {by_replicas}");
    herd.replicas[0].admin().await.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    herd.admin.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(value(&reader, "SELECT counts()").await, "31");
    assert!(!is_replica(&reader, "SELECT server()").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_eventual_a_session_may_read_less() {
    let herd = Herd::new(ProxyConfig { read_consistency: Consistency::Eventual, ..routed() }, 1).await;
    let session = herd.reader().await;
    herd.replicas[0].admin().await.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    session.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(value(&session, "SELECT counts()").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lags_too_far_is_not_read_from() {
    let config =
        ProxyConfig { replica_lag_max: LagMax { time: Duration::from_millis(300), bytes: None }, ..routed() };
    let herd = Herd::new(config, 1).await;
    let session = herd.reader().await;
    herd.replicas[0].admin().await.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    herd.admin.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let read_only = connect(client(herd.stand.read_only(), "secret")).await.unwrap();
    soon(async {
        while is_replica(&session, "SELECT server()").await || is_replica(&read_only, "SELECT server()").await
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    herd.replicas[0].admin().await.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    caught_up(&session).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lacks_too_many_bytes_is_not_read_from() {
    let config = ProxyConfig { replica_lag_max: LagMax { time: PATIENCE, bytes: Some(100_000) }, ..routed() };
    let herd = Herd::new(config, 1).await;
    let read_only = connect(client(herd.stand.read_only(), "secret")).await.unwrap();
    herd.replicas[0].admin().await.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    let few = "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000))";
    herd.admin.batch_execute(few).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(is_replica(&read_only, "SELECT server()").await, "a little behind is no harm");
    herd.admin
        .batch_execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 200000))")
        .await
        .unwrap();
    soon(async {
        while is_replica(&read_only, "SELECT server()").await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    herd.replicas[0].admin().await.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    soon(async {
        while !is_replica(&read_only, "SELECT server()").await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_refuses_the_primary_runs_and_the_client_sees_one_answer() {
    let herd = Herd::new(routed(), 1).await;
    let session = herd.reader().await;
    // Parsed, described and bound on the replica before it refuses.
    let row = session.query_one("SELECT writes()", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 7);
    assert_eq!(value(&session, "SELECT count(*) FROM t").await, "1", "what it wrote it reads");
    let repeated = herd.stand.proxy.counts().repeated;
    assert!(repeated >= 1);
    caught_up(&session).await;
    assert_eq!(value(&session, "SELECT sees_unlogged()").await, "0");
    let statement = session.prepare("SELECT sees_unlogged() + $1::bigint").await.unwrap();
    for n in 0..3i64 {
        assert_eq!(session.query_one(&statement, &[&n]).await.unwrap().get::<_, i64>(0), n);
    }
    let repeated = herd.stand.proxy.counts().repeated;
    // It is known from now on, to all sessions.
    let other = herd.session().await;
    assert_eq!(value(&other, "SELECT sees_unlogged()").await, "0");
    assert_eq!(session.query_one("SELECT writes()", &[]).await.unwrap().get::<_, i32>(0), 7);
    assert_eq!(herd.stand.proxy.counts().repeated, repeated);
    // An error that is the text's own is told once.
    let told = session.simple_query("SELECT 1/0").await.unwrap_err();
    assert_eq!(told.code(), Some(&SqlState::DIVISION_BY_ZERO));
    let told = session.query("SELECT no_such_column FROM t", &[]).await.unwrap_err();
    assert_eq!(told.code(), Some(&SqlState::UNDEFINED_COLUMN));
    assert_eq!(value(&session, "SELECT 1").await, "1", "the session goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_goes_under_a_read_is_not_noticed() {
    let mut herd = Herd::new(routed(), 2).await;
    let session = herd.reader().await;
    let reads = (0..6).map(|_| async {
        let session = herd.session().await;
        session.query_one("SELECT slow()", &[]).await.map(|row| row.get::<_, String>(0))
    });
    let reads = futures_util::future::join_all(reads);
    let gone = herd.replicas[0].address.clone();
    let stays = herd.replicas[1].address.clone();
    let cut = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        herd.stand.topology.send_replace(topology(1, Some(&herd.primary.address), &["127.0.0.1:1", &stays]));
    };
    let (answers, ()) = soon(async { tokio::join!(reads, cut) }).await;
    let port = gone.rsplit_once(':').unwrap().1;
    for answer in answers {
        let answer = answer.expect("it is read from another server");
        assert!(!answer.starts_with(port), "{answer}");
    }
    assert!(herd.stand.proxy.counts().repeated >= 1);
    assert_eq!(value(&session, "SELECT 1").await, "1");
    // A crash, without a word of the topology.
    let sessions = futures_util::future::join_all((0..6).map(|_| herd.session())).await;
    let crashed = herd.replicas.remove(1);
    let reads =
        futures_util::future::join_all(sessions.iter().map(|session| value(session, "SELECT slow()")));
    let crash = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        tokio::task::spawn_blocking(move || drop(crashed)).await.unwrap();
        herd.stand.topology.send_replace(topology(1, Some(&herd.primary.address), &[]));
    };
    let (answers, ()) = soon(async { tokio::join!(reads, crash) }).await;
    assert!(answers.iter().all(|answer| answer.ends_with("/false")), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_of_reads_and_writes_is_answered_in_its_order() {
    let herd = Herd::new(routed(), 1).await;
    let session = herd.reader().await;
    let count = session.prepare("SELECT count(*) FROM t").await.unwrap();
    let insert = session.prepare("INSERT INTO t VALUES ($1)").await.unwrap();
    for round in 0..20i64 {
        // Sent together: each sees what was asked before it.
        let (before, first, between, second, after) = tokio::join!(
            session.query_one(&count, &[]),
            session.execute(&insert, &[&1i32]),
            session.query_one(&count, &[]),
            session.execute(&insert, &[&2i32]),
            session.query_one(&count, &[]),
        );
        let counts = [before, between, after].map(|row| row.unwrap().get::<_, i64>(0));
        assert_eq!((first.unwrap(), second.unwrap()), (1, 1));
        assert_eq!(counts, [2 * round, 2 * round + 1, 2 * round + 2]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_go_along_and_the_kind_of_server_is_not_told() {
    let herd = Herd::new(routed(), 1).await;
    let session = herd.reader().await;
    session.batch_execute("SET DateStyle = 'German'; SET application_name = 'mine'").await.unwrap();
    for n in 0..6 {
        if n % 2 == 0 {
            session.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
        let read = value(&session, "SELECT '2026-12-31'::date || current_setting('application_name')").await;
        assert_eq!(read, "31.12.2026mine");
    }
    let parameters = [("user", "postgres"), ("database", "postgres")];
    let auto = herd.stand.proxy.addresses().auto.unwrap();
    let mut raw = super::fake::Client::knock_with(auto, &parameters).await;
    raw.ready().await.unwrap();
    for text in ["SELECT 1", "INSERT INTO t VALUES (1)", "SELECT 2"] {
        raw.send(text).await;
        let tags = raw.tags_until_ready().await;
        assert!(!tags.contains('S'), "{text}: {tags}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_replicas_or_in_session_mode_all_is_the_primary_s() {
    let herd = Herd::new(routed(), 0).await;
    let session = herd.session().await;
    assert!(!is_replica(&session, "SELECT server()").await);
    let herd = Herd::new(ProxyConfig { pool_mode: PoolMode::Session, ..routed() }, 1).await;
    let session = herd.session().await;
    for _ in 0..5 {
        assert!(!is_replica(&session, "SELECT server()").await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_keep_a_session_with_a_replica_is_refused_there_and_kept_by_the_primary() {
    let herd = Herd::new(routed(), 1).await;
    herd.admin.batch_execute("CREATE TABLE odd (lastval int); INSERT INTO odd VALUES (3)").await.unwrap();
    let session = herd.reader().await;
    for text in ["SELECT pg_advisory_lock(1)", "PREPARE p AS SELECT 1", "LISTEN news"] {
        session.batch_execute("BEGIN READ ONLY").await.unwrap();
        assert!(is_replica(&session, "SELECT server()").await);
        let told = session.batch_execute(text).await.unwrap_err();
        assert_eq!(told.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION), "{text}: {told}");
        assert!(told.as_db_error().unwrap().hint().unwrap().contains("READ ONLY"), "{told}");
        session.batch_execute("ROLLBACK").await.unwrap();
    }
    assert!(is_replica(&session, "SELECT server()").await, "nothing keeps it anywhere");
    // A word that sounds like state of the session: it stays with the primary, and goes on there.
    assert_eq!(value(&session, "SELECT lastval FROM odd").await, "3");
    session.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    assert!(!is_replica(&session, "SELECT server()").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomers_are_told_of_a_primary_whoever_opened_the_door() {
    let herd = Herd::new(routed(), 1).await;
    let session = herd.reader().await;
    assert!(is_replica(&session, "SELECT server()").await);
    let auto = herd.stand.proxy.addresses().auto.unwrap();
    for _ in 0..5 {
        let mut config = client(auto, "secret");
        config.target_session_attrs(tokio_postgres::config::TargetSessionAttrs::ReadWrite);
        connect(config).await.unwrap();
        let parameters = [("user", "postgres"), ("database", "postgres")];
        let mut raw = super::fake::Client::knock_with(auto, &parameters).await;
        let told = raw.parameters_until_ready().await;
        assert_eq!(told.get("in_hot_standby").map(String::as_str), Some("off"), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_there_is_no_primary_replicas_are_read_from_however_old_they_are() {
    let config =
        ProxyConfig { replica_lag_max: LagMax { time: Duration::from_millis(200), bytes: None }, ..routed() };
    let herd = Herd::new(config, 1).await;
    let session = herd.reader().await;
    let read_only = connect(client(herd.stand.read_only(), "secret")).await.unwrap();
    assert!(is_replica(&read_only, "SELECT server()").await);
    herd.stand.topology.send_modify(|topology| topology.primary = None);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(is_replica(&read_only, "SELECT server()").await);
        let fresh = connect(client(herd.stand.read_only(), "secret")).await.unwrap();
        assert!(is_replica(&fresh, "SELECT server()").await);
    }
    // What it has written is known to be there.
    assert!(is_replica(&session, "SELECT server()").await);
}
