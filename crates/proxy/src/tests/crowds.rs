//! How many servers and sessions there may be: of a pool, of a user, of a database and of all together.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::pools::value;
use super::server::{Postgres, client, connect};
use super::*;

fn pooled(pool_size: usize) -> ProxyConfig {
    ProxyConfig { pool_mode: PoolMode::Transaction, pool_size, threads: 1, ..config() }
}

async fn stand(config: ProxyConfig) -> (Stand, Client, Postgres) {
    let postgres = tokio::task::spawn_blocking(|| Postgres::start("trust", &[])).await.unwrap();
    let admin = postgres.admin().await;
    for made in ["CREATE ROLE ann SUPERUSER LOGIN", "CREATE DATABASE other"] {
        admin.batch_execute(made).await.unwrap();
    }
    let stand = Stand::new(config, topology(1, Some(&postgres.address), &[])).await;
    (stand, admin, postgres)
}

async fn try_session(stand: &Stand, user: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
    connect(client(stand.read_write(), "secret").user(user).dbname(database).clone()).await
}

async fn session(stand: &Stand, user: &str, database: &str) -> Client {
    try_session(stand, user, database).await.unwrap()
}

/// Servers that the proxy has, by PostgreSQL's own count.
async fn servers(admin: &Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    admin.query_one(sql, &[]).await.unwrap().get(0)
}

/// There are no more; one that was closed a moment ago may not have ended yet.
async fn at_most(admin: &Client, count: i64) {
    soon(async {
        while servers(admin).await > count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

async fn until_servers(admin: &Client, count: i64) {
    soon(async {
        while servers(admin).await != count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_waited_long_enough_gets_one_of_the_reserve() {
    let after = Duration::from_millis(300);
    let config = ProxyConfig { pool_reserve: 1, pool_reserve_after: after, ..pooled(1) };
    let (stand, admin, _postgres) = stand(config).await;
    let (one, two, three) = tokio::join!(
        session(&stand, "ann", "postgres"),
        session(&stand, "ann", "postgres"),
        session(&stand, "ann", "postgres")
    );
    until_servers(&admin, 1).await;
    one.batch_execute("BEGIN").await.unwrap();
    let begun = std::time::Instant::now();
    two.batch_execute("BEGIN").await.unwrap();
    assert!(begun.elapsed() >= after, "not before");
    assert_eq!(servers(&admin).await, 2);
    let waits = tokio::spawn(async move { value(&three, "SELECT 'served'").await });
    tokio::time::sleep(2 * after).await;
    assert!(!waits.is_finished(), "the reserve is used up");
    one.batch_execute("COMMIT").await.unwrap();
    assert_eq!(soon(waits).await.unwrap(), "served");
    two.batch_execute("COMMIT").await.unwrap();
    until_servers(&admin, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_servers_stay_while_there_are_sessions() {
    let idle = Duration::from_millis(200);
    let (stand, admin, _postgres) =
        stand(ProxyConfig { pool_min: 2, server_idle_timeout: idle, ..pooled(5) }).await;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let session = session(&stand, "ann", "postgres").await;
        session.batch_execute("BEGIN").await.unwrap();
        sessions.push(session);
    }
    assert_eq!(servers(&admin).await, 4);
    for session in &sessions {
        session.batch_execute("COMMIT").await.unwrap();
    }
    until_servers(&admin, 2).await;
    tokio::time::sleep(6 * idle).await;
    assert_eq!(servers(&admin).await, 2);
    drop(sessions);
    until_servers(&admin, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_on_servers_counts_all_pools_and_idle_ones_make_room() {
    let limits = [
        CeilingLimits { user: 2, ..CeilingLimits::default() },
        CeilingLimits { database: 2, ..CeilingLimits::default() },
        CeilingLimits { total: 2, ..CeilingLimits::default() },
    ];
    for limits in limits {
        let (stand, admin, _postgres) = stand(ProxyConfig { server_limits: limits, ..pooled(5) }).await;
        // Pools of their own, by what they are called.
        let named = |name: &str| {
            let mut config = client(stand.read_write(), "secret");
            config.user("ann").dbname("postgres").application_name(name);
            connect(config)
        };
        let mut sessions = Vec::new();
        for number in 0..5 {
            let session = soon(named(&format!("n{number}"))).await.unwrap();
            assert_eq!(value(&session, "SELECT 1").await, "1");
            sessions.push(session);
            at_most(&admin, 2).await;
        }
        sessions[0].batch_execute("BEGIN").await.unwrap();
        sessions[1].batch_execute("BEGIN").await.unwrap();
        let waits = value(&sessions[2], "SELECT 'served'");
        let commit = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            at_most(&admin, 2).await;
            sessions[0].batch_execute("COMMIT").await.unwrap();
        };
        let (served, ()) = soon(async { tokio::join!(waits, commit) }).await;
        assert_eq!(served, "served");
        sessions[1].batch_execute("COMMIT").await.unwrap();
        at_most(&admin, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_below_the_size_of_a_pool_is_waited_for_where_servers_come_back() {
    let server_limits = CeilingLimits { total: 2, ..CeilingLimits::default() };
    let queue_timeout = Duration::from_secs(5);
    let (stand, admin, _postgres) = stand(ProxyConfig { server_limits, queue_timeout, ..pooled(10) }).await;
    let mut sessions = Vec::new();
    for _ in 0..12 {
        sessions.push(session(&stand, "ann", "postgres").await);
    }
    let busy = sessions.iter().map(|session| async {
        for _ in 0..40 {
            assert_eq!(value(session, "SELECT 'served' FROM pg_sleep(0.005)").await, "served");
        }
    });
    let most = async {
        for _ in 0..20 {
            at_most(&admin, 2).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::join!(futures_util::future::join_all(busy), most);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_in_vain_is_told_which_limit_it_was() {
    let short = Duration::from_millis(300);
    let server_limits = CeilingLimits { user: 1, ..CeilingLimits::default() };
    let config = ProxyConfig { server_limits, queue_timeout: short, connect_timeout: short, ..pooled(5) };
    let (stand, _admin, _postgres) = stand(config).await;
    let busy = session(&stand, "ann", "postgres").await;
    busy.batch_execute("BEGIN").await.unwrap();
    let told = try_session(&stand, "ann", "other").await.unwrap_err();
    assert_eq!(told.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
    assert!(told.as_db_error().unwrap().message().contains("\"ann\""), "{told:?}");
    // Somebody else is not concerned.
    session(&stand, "postgres", "other").await;
    assert_eq!(value(&busy, "SELECT 1").await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_on_sessions_refuses_the_next_one() {
    let cases = [
        (CeilingLimits { user: 2, ..CeilingLimits::default() }, ("ann", "other"), ("postgres", "postgres")),
        (
            CeilingLimits { database: 2, ..CeilingLimits::default() },
            ("postgres", "postgres"),
            ("ann", "other"),
        ),
    ];
    for (session_limits, refused, fine) in cases {
        let (stand, _admin, _postgres) = stand(ProxyConfig { session_limits, ..pooled(5) }).await;
        let first = session(&stand, "ann", "postgres").await;
        let _second = session(&stand, "ann", "postgres").await;
        for _ in 0..3 {
            let told = try_session(&stand, refused.0, refused.1).await.unwrap_err();
            assert_eq!(told.code(), Some(&SqlState::TOO_MANY_CONNECTIONS), "{told}");
        }
        session(&stand, fine.0, fine.1).await;
        drop(first);
        soon(async {
            while try_session(&stand, refused.0, refused.1).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}
