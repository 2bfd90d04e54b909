//! The rules for clients' own addresses, before a real PostgreSQL that trusts the proxy, or asks for a password itself.

use tokio_postgres::error::SqlState;

use super::login::{Known, stored};
use super::server::{Postgres, client, connect};
use super::*;

async fn start(auth: &'static str, rules: &[&str]) -> (Postgres, Arc<Known>, Stand) {
    let postgres = tokio::task::spawn_blocking(move || Postgres::start(auth, &[])).await.unwrap();
    let admin = postgres.admin().await;
    admin.batch_execute("ALTER ROLE postgres PASSWORD 'secret'").await.unwrap();
    let known = Arc::new(Known::default());
    *known.0.lock().unwrap() = stored(&postgres).await;
    let client_rules = rules.iter().map(|&rule| rule.to_owned()).collect();
    let config = ProxyConfig { client_rules, pool_mode: PoolMode::Transaction, threads: 1, ..config() };
    let stand = Stand::knowing(config, topology(1, Some(&postgres.address), &[]), known.clone()).await;
    (postgres, known, stand)
}

async fn refused(stand: &Stand, password: &str) -> tokio_postgres::Error {
    connect(client(stand.read_write(), password)).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_proven_to_the_proxy_where_postgresql_asks_for_none() {
    let (_postgres, known, stand) = start("trust", &["host all all 127.0.0.1/32 scram-sha-256"]).await;
    // By a server of its own, then by the door that this has opened.
    for _ in 0..3 {
        let error = refused(&stand, "wrong").await;
        assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD), "{error}");
        let session = connect(client(stand.read_write(), "secret")).await.unwrap();
        session.batch_execute("SELECT 1").await.unwrap();
        assert!(connect(client(stand.read_write(), "secret").dbname("pgbouncer").clone()).await.is_ok());
    }
    // Without a secret to compare with nobody is let in.
    *known.0.lock().unwrap() = None;
    assert_eq!(refused(&stand, "secret").await.code(), Some(&SqlState::INVALID_PASSWORD));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_postgresql_asks_for_is_proven_once() {
    for rule in ["host all all 127.0.0.1/32 scram-sha-256", "host all all 127.0.0.1/32 trust"] {
        let (_postgres, _known, stand) = start("scram-sha-256", &[rule]).await;
        for _ in 0..2 {
            assert_eq!(refused(&stand, "wrong").await.code(), Some(&SqlState::INVALID_PASSWORD));
            let session = connect(client(stand.read_write(), "secret")).await.unwrap();
            session.batch_execute("SELECT 1").await.unwrap();
        }
    }
    // As a server asks that keeps md5 secrets, or knows better than the proxy.
    let (_postgres, known, stand) = start("scram-sha-256", &["host all all all password"]).await;
    *known.0.lock().unwrap() = None;
    assert_eq!(refused(&stand, "wrong").await.code(), Some(&SqlState::INVALID_PASSWORD));
    assert!(connect(client(stand.read_write(), "secret")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_rejected_or_not_named_is_told_by_which_rules() {
    let rejecting = ["host postgres postgres 127.0.0.1/32 reject", "host all all all trust"];
    for (rules, words) in
        [(&rejecting[..], "rejects connection"), (&["host other all all trust"], "no pg_hba.conf entry")]
    {
        let (_postgres, _known, stand) = start("trust", rules).await;
        let error = refused(&stand, "secret").await;
        let error = error.as_db_error().unwrap();
        assert!(error.message().contains(words), "{error}");
        assert!(error.detail().unwrap().contains("[proxy] hba"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_cannot_be_decided_keep_the_proxy_from_starting() {
    let client_rules = vec!["host all +staff all trust".to_owned()];
    let config = ProxyConfig { client_rules, ..config() };
    let (_sender, topology) = watch::channel(topology(1, None, &[]));
    let error = Proxy::start(config, topology, Questions::default()).await.err().unwrap().to_string();
    assert!(error.contains("[proxy] hba: line 1") && error.contains("members of"), "{error}");
}
