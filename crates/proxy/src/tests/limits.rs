//! Limits in time, and statements that would leave something behind, before a real PostgreSQL.

use tokio::io::AsyncWriteExt;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use wire::message::put_frame;

use super::pools::value;
use super::server::{Postgres, client, connect};
use super::*;

async fn stand(config: ProxyConfig) -> (Postgres, Stand) {
    let postgres = tokio::task::spawn_blocking(|| Postgres::start("trust", &[])).await.unwrap();
    drop(postgres.admin().await);
    let stand = Stand::new(config, topology(1, Some(&postgres.address), &[])).await;
    (postgres, stand)
}

fn limited(pool_mode: PoolMode, time_limits: TimeLimits) -> ProxyConfig {
    ProxyConfig { pool_mode, time_limits, threads: 1, ..config() }
}

const SHORT: Duration = Duration::from_millis(300);

async fn session(stand: &Stand) -> Client {
    connect(client(stand.read_write(), "secret")).await.unwrap()
}

/// What ends the session, without a word of its client.
async fn ended(session: &Client) -> Option<String> {
    soon(async {
        while !session.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    session.simple_query("SELECT 1").await.err().map(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_nothing_for_too_long_is_sent_away_and_others_stay() {
    for mode in [PoolMode::Transaction, PoolMode::Session] {
        let limits = TimeLimits { client_idle: SHORT, ..TimeLimits::default() };
        let (_postgres, stand) = stand(limited(mode, limits)).await;
        let idle = session(&stand).await;
        let busy = session(&stand).await;
        busy.batch_execute("BEGIN").await.unwrap();
        let begun = std::time::Instant::now();
        assert!(ended(&idle).await.is_some());
        assert!(begun.elapsed() >= SHORT / 2);
        tokio::time::sleep(2 * SHORT).await;
        assert_eq!(value(&busy, "SELECT 'in a transaction'").await, "in a transaction");
        assert_eq!(stand.proxy.counts().overdue, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_rests_or_lasts_too_long_is_rolled_back() {
    let limits = [
        TimeLimits { transaction_idle: SHORT, ..TimeLimits::default() },
        TimeLimits { transaction: SHORT, ..TimeLimits::default() },
    ];
    for limits in limits {
        let (postgres, stand) = stand(limited(PoolMode::Transaction, limits)).await;
        let admin = postgres.admin().await;
        admin.batch_execute("CREATE TABLE t (a int)").await.unwrap();
        let (open, free) = (session(&stand).await, session(&stand).await);
        open.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
        assert!(ended(&open).await.is_some());
        assert_eq!(value(&free, "SELECT count(*) FROM t").await, "0");
        free.batch_execute("LOCK TABLE t").await.unwrap_err();
        soon(async {
            let open = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
            while value(&admin, open).await != "0" {}
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_takes_too_long_is_cancelled_and_its_session_goes_on() {
    let limits = TimeLimits { query: SHORT, ..TimeLimits::default() };
    let (postgres, stand) = stand(limited(PoolMode::Transaction, limits)).await;
    let session = session(&stand).await;
    for _ in 0..2 {
        let told = soon(session.batch_execute("SELECT pg_sleep(60)")).await.unwrap_err();
        assert_eq!(told.code(), Some(&SqlState::QUERY_CANCELED));
        assert_eq!(value(&session, "SELECT 1").await, "1");
    }
    // Many short ones, of which the next is always asked before the last is answered.
    let begun = std::time::Instant::now();
    let mut asked = std::collections::VecDeque::new();
    while begun.elapsed() < 3 * SHORT {
        while asked.len() < 4 {
            asked.push_back(Box::pin(session.batch_execute("SELECT pg_sleep(0.02)")));
            // It is sent once it is looked at.
            let last = asked.back_mut().unwrap();
            assert!(futures_util::FutureExt::now_or_never(last.as_mut()).is_none());
        }
        soon(asked.pop_front().unwrap()).await.expect("none of them takes long");
    }
    for last in asked {
        soon(last).await.unwrap();
    }
    // One that takes no notice is ended, and so is its client.
    let deaf = "DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN END; END LOOP; END $$";
    let told = soon(session.batch_execute(deaf)).await.unwrap_err();
    assert_eq!(told.code().map(SqlState::code), Some("08007"), "{told}");
    assert!(told.as_db_error().unwrap().detail().unwrap().contains("query_timeout"), "{told:?}");
    let admin = postgres.admin().await;
    admin
        .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_carried_is_refused_or_allowed_as_it_is_set() {
    let leaky = [
        "LISTEN news",
        "CREATE TEMP TABLE own (a int)",
        "SELECT pg_advisory_lock(7)",
        "PREPARE p AS SELECT 1",
    ];
    let lending =
        |leaks| ProxyConfig { leaks, pool_size: 1, ..limited(PoolMode::Transaction, TimeLimits::default()) };
    let (_postgres, refusing) = stand(lending(Leaks::Refuse)).await;
    let (one, other) = (session(&refusing).await, session(&refusing).await);
    for text in leaky {
        let told = one.batch_execute(text).await.unwrap_err();
        assert_eq!(told.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{text}: {told}");
        assert!(told.as_db_error().unwrap().detail().unwrap().contains("leaks"), "{told:?}");
        let told = one.execute(text, &[]).await.unwrap_err();
        assert_eq!(told.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{text}: {told}");
        assert_eq!(value(&other, "SELECT 'has the one server'").await, "has the one server");
    }
    one.batch_execute("SET work_mem = '8MB'").await.unwrap();
    assert_eq!(value(&one, "SHOW work_mem").await, "8MB");
    let (_postgres, allowing) = stand(lending(Leaks::Allow)).await;
    let (one, other) = (session(&allowing).await, session(&allowing).await);
    for text in leaky {
        one.batch_execute(text).await.unwrap();
        assert_eq!(value(&other, "SELECT 'has the one server'").await, "has the one server");
    }
    assert_eq!(value(&other, "SELECT count(*) FROM own").await, "0", "what the other has left");
    // What a session has removed is prepared anew for the others.
    let statement = other.prepare("SELECT 'shared'").await.unwrap();
    for text in ["SELECT 1; DEALLOCATE ALL", "DO 'BEGIN EXECUTE ''DEALLOCATE ALL''; END'"] {
        assert_eq!(other.query_one(&statement, &[]).await.unwrap().get::<_, &str>(0), "shared");
        one.batch_execute(text).await.unwrap();
        assert_eq!(other.query_one(&statement, &[]).await.unwrap().get::<_, &str>(0), "shared", "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_server_is_lent_for_a_statement_nobody_opens_a_block() {
    let (_postgres, stand) =
        stand(ProxyConfig { pool_size: 1, ..limited(PoolMode::Statement, TimeLimits::default()) }).await;
    let (one, other) = (session(&stand).await, session(&stand).await);
    for text in ["BEGIN", "start transaction read only", "SELECT 1; BEGIN; SELECT 2", "/* x */ begin"] {
        let error = one.simple_query(text).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{text}: {error}");
        // Neither is stuck in a transaction, and the one server is free.
        assert_eq!(value(&one, "SELECT 'goes on'").await, "goes on");
        assert_eq!(value(&other, "SELECT 'free'").await, "free");
    }
    let error = one.execute("BEGIN", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{error}");
    one.batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(other.query_one("SELECT a FROM t WHERE a = $1", &[&1]).await.unwrap().get::<_, i32>(0), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_server_can_be_cancelled() {
    let config = ProxyConfig { pool_size: 1, ..limited(PoolMode::Transaction, TimeLimits::default()) };
    let (_postgres, stand) = stand(config).await;
    // One and the same pool.
    let session = || fake::Client::knock_with(stand.read_write(), &[("user", "postgres")]);
    let (mut busy, mut waiting) = (session().await, session().await);
    waiting.ready().await.unwrap();
    busy.ready().await.unwrap();
    busy.query("BEGIN").await.unwrap();
    let mut group = Vec::new();
    put_frame(&mut group, b'P', b"\0SELECT 7\0\0\0");
    put_frame(&mut group, b'B', &[0; 8]);
    put_frame(&mut group, b'E', &[0; 5]);
    put_frame(&mut group, b'S', b"");
    let mut query = Vec::new();
    put_frame(&mut query, b'Q', b"SELECT 7\0");
    for (at, asked) in [&query, &group, &query].into_iter().enumerate() {
        waiting.stream.write_all(asked).await.unwrap();
        // A cancel that comes before it waits finds nothing to cancel.
        while stand.proxy.counts().cancels == at as u64 {
            waiting.cancel(stand.read_write()).await;
        }
        assert_eq!(waiting.ready().await.unwrap_err().sqlstate, "57014");
        waiting.ready().await.unwrap();
    }
    // What is asked behind it has its turn, and the server is whole.
    waiting.stream.write_all(&[&query[..], &group].concat()).await.unwrap();
    while stand.proxy.counts().cancels == 3 {
        waiting.cancel(stand.read_write()).await;
    }
    assert_eq!(waiting.tags_until_ready().await, "EZ");
    busy.query("COMMIT").await.unwrap();
    assert_eq!(waiting.tags_until_ready().await, "12DCZ");
    busy.query("SELECT 8").await.unwrap();
}
