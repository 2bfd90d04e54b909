//! TLS with servers: whom the proxy believes, and what that means for SCRAM.

use super::super::server::{Postgres, client, connect};
use super::libpq::{Known, psql, stored};
use super::*;

const WHO: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

/// A server with a certificate for these hosts.
async fn server(authority: &Authority, hosts: &[&str]) -> Postgres {
    let (cert, key) = authority.issue(&format!("server-{}", hosts[0]), hosts);
    give_private(&key);
    let options = [
        "ssl = on".to_owned(),
        format!("ssl_cert_file = '{}'", cert.display()),
        format!("ssl_key_file = '{}'", key.display()),
    ];
    tokio::task::spawn_blocking(move || {
        Postgres::start("scram-sha-256", &options.each_ref().map(String::as_str))
    })
    .await
    .unwrap()
}

/// With TLS to servers, and with the rest as `front` has it.
fn asking(front: TlsConfig, mode: ServerTlsMode, ca: Option<PathBuf>) -> ProxyConfig {
    let tls = TlsConfig { server: ServerTls { mode, ca }, ..front };
    ProxyConfig {
        tls,
        queue_timeout: Duration::from_millis(500),
        pool_mode: PoolMode::Transaction,
        ..config()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_believed_as_far_as_was_asked() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let postgres = server(&authority, &["127.0.0.1"]).await;
    let other = server(&authority, &["elsewhere"]).await;
    let known = Arc::new(Known(stored(&postgres).await));
    drop(other.admin().await);
    let (right, wrong) = (Some(authority.ca()), Some(stranger.ca()));
    use ServerTlsMode::{Disable, Prefer, Require, VerifyCa, VerifyFull};
    for (address, mode, ca, expected) in [
        (&postgres.address, Disable, None, Some("f")),
        (&postgres.address, Prefer, None, Some("t")),
        (&postgres.address, Require, wrong.clone(), Some("t")),
        (&postgres.address, VerifyCa, right.clone(), Some("t")),
        (&postgres.address, VerifyFull, right.clone(), Some("t")),
        (&postgres.address, VerifyCa, wrong.clone(), None),
        (&postgres.address, VerifyFull, wrong, None),
        (&postgres.address, VerifyFull, None, None),
        (&other.address, VerifyCa, right.clone(), Some("t")),
        (&other.address, VerifyFull, right, None),
        // Signed by itself, as far as this proxy is told.
        (&other.address, VerifyCa, Some(authority.file("server-elsewhere.crt")), Some("t")),
    ] {
        let config = asking(TlsConfig::default(), mode, ca.clone());
        let stand = Stand::knowing(config, topology(1, Some(address), &[]), known.clone()).await;
        let answer = psql(stand.read_write(), "", WHO).await;
        match (expected, &answer) {
            (Some(ssl), Ok(said)) => assert_eq!(said, ssl, "{mode:?} {ca:?}"),
            (None, Err(told)) => assert!(told.contains("certificate"), "{mode:?} {ca:?}: {told}"),
            _ => panic!("{mode:?} {ca:?}: {answer:?}"),
        }
    }
    let plain = tokio::task::spawn_blocking(|| Postgres::start("trust", &[])).await.unwrap();
    drop(plain.admin().await);
    for (mode, comes_in) in [(Prefer, true), (Require, false)] {
        let stand =
            Stand::new(asking(TlsConfig::default(), mode, None), topology(1, Some(&plain.address), &[]))
                .await;
        let answer = psql(stand.read_write(), "", WHO).await;
        assert_eq!(answer.is_ok(), comes_in, "{mode:?}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scram_binds_on_both_sides_or_says_why_not() {
    let authority = Authority::new();
    let postgres = server(&authority, &["127.0.0.1"]).await;
    let known = stored(&postgres).await;
    let start = async |secret| {
        let config =
            asking(authority.front(ClientTlsMode::Allow), ServerTlsMode::VerifyFull, Some(authority.ca()));
        Stand::knowing(config, topology(1, Some(&postgres.address), &[]), Arc::new(Known(secret))).await
    };
    // The proxy asks, bound to its own certificate, and answers bound to the server's.
    let stand = start(known).await;
    for conninfo in [
        "sslmode=require channel_binding=require",
        "sslmode=require",
        "sslmode=require channel_binding=disable",
        "sslmode=disable",
        // A replication session, too.
        "sslmode=require channel_binding=require replication=database",
    ] {
        assert_eq!(psql(stand.read_write(), conninfo, "SELECT 1").await.as_deref(), Ok("1"), "{conninfo}");
    }
    let wrong = psql(stand.read_write(), "sslmode=require password=wrong", "SELECT 1").await.unwrap_err();
    assert!(wrong.contains("password authentication failed"), "the server's own words: {wrong}");

    // The server asks: PLUS is not offered, for the server's certificate is not the one that the client has seen.
    let stand = start(None).await;
    for conninfo in ["sslmode=require channel_binding=disable", "sslmode=disable"] {
        assert_eq!(psql(stand.read_write(), conninfo, "SELECT 1").await.as_deref(), Ok("1"), "{conninfo}");
    }
    let told = psql(stand.read_write(), "sslmode=require", "SELECT 1").await.unwrap_err();
    assert!(told.contains("channel_binding=disable") && told.contains("verifier"), "{told}");

    // With a server in clear the flag is no contradiction.
    let config = asking(authority.front(ClientTlsMode::Allow), ServerTlsMode::Disable, None);
    let stand = Stand::new(config, topology(1, Some(&postgres.address), &[])).await;
    assert_eq!(psql(stand.read_write(), "sslmode=require", WHO).await.as_deref(), Ok("f"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_moved_and_statements_cancelled_over_tls() {
    let authority = Authority::new();
    let postgres = server(&authority, &["127.0.0.1"]).await;
    let known = Arc::new(Known(stored(&postgres).await));
    let config =
        asking(authority.front(ClientTlsMode::Allow), ServerTlsMode::VerifyFull, Some(authority.ca()));
    let config = ProxyConfig { pool_mode: PoolMode::Session, queue_timeout: PATIENCE, ..config };
    let stand = Stand::knowing(config, topology(1, Some(&postgres.address), &[]), known).await;
    let session = connect(client(stand.read_write(), "secret")).await.unwrap();
    session.batch_execute("SET work_mem = '3MB'").await.unwrap();
    stand.topology.send_replace(topology(2, Some(&postgres.address), &[]));
    stand.until(|counts| counts.moved == 1).await;
    assert_eq!(session.query_one("SHOW work_mem", &[]).await.unwrap().get::<_, &str>(0), "3MB");
    let ssl: bool = session.query_one(WHO, &[]).await.unwrap().get(0);
    assert!(ssl);
    let (cancel, sleeping) = (session.cancel_token(), session.batch_execute("SELECT pg_sleep(60)"));
    let cancelling = async {
        let other = connect(client(stand.read_write(), "secret")).await.unwrap();
        let sleepers = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        while other.query_one(sleepers, &[]).await.unwrap().get::<_, i64>(0) == 0 {}
        cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
    };
    let (slept, ()) = soon(async { tokio::join!(sleeping, cancelling) }).await;
    assert_eq!(slept.unwrap_err().code(), Some(&tokio_postgres::error::SqlState::QUERY_CANCELED));
}
