//! Commits of a real PostgreSQL that wait for a standby which never comes, and what a client hears when the wait ends.

use std::pin::Pin;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};
use wire::message::put_frame;

use super::fake;
use super::server::{Postgres, client, connect};
use super::*;

struct Waiting {
    postgres: Postgres,
    stand: Stand,
    admin: Arc<Client>,
}

/// How the wait is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    /// A cancel request through the proxy.
    Proxy,
    /// `pg_cancel_backend`
    Sql,
    /// `pg_terminate_backend`
    Termination,
}

impl Waiting {
    async fn new(config: ProxyConfig, asks: bool) -> Waiting {
        let start = || Postgres::start("trust", &["synchronous_standby_names = nobody"]);
        let postgres = tokio::task::spawn_blocking(start).await.unwrap();
        let admin = Arc::new(postgres.admin().await);
        admin
            .batch_execute(
                "CREATE TABLE t (a int);
                 CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (7); COMMIT; END';
                 CREATE ROLE quiet SUPERUSER LOGIN; ALTER ROLE quiet SET client_min_messages = error",
            )
            .await
            .unwrap();
        let waits = asks.then(|| Arc::new(Asks(Arc::clone(&admin))) as Arc<dyn SyncWaits>);
        let stand = Stand::with(config, topology(1, Some(&postgres.address), &[]), waits).await;
        Waiting { postgres, stand, admin }
    }

    async fn session(&self, user: &str) -> Client {
        let mut config = client(self.stand.read_write(), "");
        connect(config.user(user).dbname("postgres").clone()).await.unwrap()
    }

    /// The answer to a statement whose wait is ended, or that has ended before it waited.
    async fn ended<T>(
        &self,
        by: By,
        session: &Client,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, tokio_postgres::Error> {
        let mut statement = std::pin::pin!(statement);
        let answer = tokio::select! {
            answer = soon(&mut statement) => Some(answer),
            () = self.end(by, Some(session)) => None,
        };
        match answer {
            Some(answer) => answer,
            None => soon(statement).await,
        }
    }

    /// Waits until a process waits for a standby, and ends that.
    async fn end(&self, by: By, session: Option<&Client>) {
        // An autovacuum worker's commit waits as well, and nobody ends that.
        let waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND backend_type = 'client backend'";
        let pid: i32 = soon(async {
            loop {
                if let [row] = &self.admin.query(waiting, &[]).await.unwrap()[..] {
                    return row.get(0);
                }
            }
        })
        .await;
        match (by, session) {
            (By::Proxy, Some(session)) => session.cancel_token().cancel_query(NoTls).await.unwrap(),
            (By::Termination, _) => {
                self.admin.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
            }
            _ => {
                self.admin.execute("SELECT pg_cancel_backend($1)", &[&pid]).await.unwrap();
            }
        }
    }
}

/// Asks the server as the agent does.
struct Asks(Arc<Client>);

impl SyncWaits for Asks {
    fn waits<'a>(&'a self, _: &'a str, pid: u32) -> Pin<Box<dyn Future<Output = Option<bool>> + Send + 'a>> {
        Box::pin(async move {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep'";
            Some(self.0.query_one(sql, &[&(pid as i32)]).await.ok()?.get::<_, i64>(0) == 1)
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_wait_was_cancelled_is_told_as_unknown() {
    let waiting = Waiting::new(config(), false).await;
    let texts = [
        "INSERT INTO t VALUES (1)",
        "INSERT INTO t VALUES (2); INSERT INTO t VALUES (2)",
        "BEGIN; INSERT INTO t VALUES (3); COMMIT; SELECT 1",
        "CALL p()",
        "SET client_min_messages = error; INSERT INTO t VALUES (4)",
        "SELECT set_config('client_min_messages', 'panic', false); INSERT INTO t VALUES (4)",
        "SELECT 5; INSERT INTO t VALUES (5); SELECT 6",
    ];
    let mut told = 0;
    for user in ["postgres", "quiet"] {
        for by in [By::Sql, By::Proxy] {
            // The proxy passes no cancel while an explicit COMMIT is under way.
            for text in texts.iter().filter(|text| by == By::Sql || !text.contains("COMMIT")) {
                let session = waiting.session(user).await;
                let error = waiting.ended(by, &session, session.batch_execute(text)).await.expect_err(text);
                assert_eq!(error.code().map(SqlState::code), Some("08007"), "{user} {by:?} {text}: {error}");
                session.batch_execute("SELECT 1").await.expect("the session goes on");
                let insert = session.execute("INSERT INTO t VALUES ($1)", &[&8]);
                let error = waiting.ended(by, &session, insert).await.expect_err("extended");
                assert_eq!(error.code().map(SqlState::code), Some("08007"), "{user} {by:?} {text}: {error}");
                assert_eq!(session.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
                told += 2;
            }
        }
    }
    assert_eq!(waiting.stand.proxy.counts().unacknowledged, told);
    let visible = waiting.admin.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    assert!(visible.get::<_, i64>(0) >= told as i64, "all of them had committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_process_was_ended_is_told_as_unknown() {
    let waiting = Waiting::new(config(), false).await;
    for text in ["INSERT INTO t VALUES (1)", "BEGIN; INSERT INTO t VALUES (2); COMMIT", "CALL p()"] {
        let mut session = fake::Client::knock_with(
            waiting.stand.read_write(),
            &[("user", "postgres"), ("database", "postgres")],
        )
        .await;
        session.ready().await.unwrap();
        session.send(text).await;
        waiting.end(By::Termination, None).await;
        let told = session.last_words().await;
        assert_eq!(told.sqlstate, "08007", "{text}: {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_skips_to_its_sync() {
    let waiting = Waiting::new(config(), false).await;
    let parameters = [("user", "postgres"), ("database", "postgres")];
    let mut session = fake::Client::knock_with(waiting.stand.read_write(), &parameters).await;
    session.ready().await.unwrap();
    session.query("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
    let mut out = Vec::new();
    for sql in ["COMMIT", "SELECT 1", "SELECT 2"] {
        put_frame(&mut out, b'P', format!("\0{sql}\0\0\0").as_bytes());
        put_frame(&mut out, b'B', b"\0\0\0\0\0\0\0\0");
        put_frame(&mut out, b'E', b"\0\0\0\0\0");
    }
    put_frame(&mut out, b'S', b"");
    put_frame(&mut out, b'Q', b"SELECT 3\0");
    tokio::io::AsyncWriteExt::write_all(&mut session.stream, &out).await.unwrap();
    waiting.end(By::Sql, None).await;
    assert_eq!(session.tags_until_ready().await, "12EZ");
    assert_eq!(session.tags_until_ready().await, "TDCZ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_that_would_end_a_wait_is_withheld_and_others_pass() {
    let waiting = Waiting::new(config(), true).await;
    let session = waiting.session("postgres").await;
    let insert = session.batch_execute("INSERT INTO t VALUES (1)");
    let cancel = async {
        waiting.end(By::Proxy, Some(&session)).await;
        waiting.stand.until(|counts| counts.withheld_cancels == 1).await;
        let standbys = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        assert_eq!(waiting.admin.query_one(standbys, &[]).await.unwrap().get::<_, i64>(0), 1, "it waits on");
        waiting.postgres.need_no_standby();
    };
    let (inserted, ()) = soon(async { tokio::join!(insert, cancel) }).await;
    inserted.expect("it was acknowledged when it was allowed to be");
    assert_eq!(waiting.stand.proxy.counts().unacknowledged, 0);
    // Another statement that could have committed, but has not.
    let sleeping = session.batch_execute("SELECT pg_sleep(60)");
    let cancel = async {
        let asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        while waiting.admin.query_one(asleep, &[]).await.unwrap().get::<_, i64>(0) == 0 {}
        session.cancel_token().cancel_query(NoTls).await.unwrap();
    };
    let (slept, ()) = soon(async { tokio::join!(sleeping, cancel) }).await;
    assert_eq!(slept.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forbidden_setting_fails_as_a_statement_does() {
    let waiting =
        Waiting::new(ProxyConfig { lowered_commit: LoweredCommit::Forbid, ..config() }, false).await;
    let mut session = waiting.session("postgres").await;
    let insufficient = Some(&SqlState::INSUFFICIENT_PRIVILEGE);
    let simple = session.batch_execute("SET synchronous_commit = off; SELECT 1").await.unwrap_err();
    assert_eq!(simple.code(), insufficient);
    assert!(simple.as_db_error().unwrap().hint().unwrap().contains("lowered_commit"), "{simple}");
    let extended = session.execute("SET SESSION synchronous_commit TO local", &[]).await.unwrap_err();
    assert_eq!(extended.code(), insufficient);
    let role = session.batch_execute("ALTER ROLE quiet SET synchronous_commit = off").await.unwrap_err();
    assert_eq!(role.code(), insufficient);
    let transaction = session.transaction().await.unwrap();
    transaction.batch_execute("SET LOCAL synchronous_commit = off").await.unwrap_err();
    let failed = transaction.batch_execute("SELECT 1").await.unwrap_err();
    assert_eq!(failed.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    transaction.rollback().await.unwrap();
    let row = session.query_one("SHOW synchronous_commit", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "on");
}
