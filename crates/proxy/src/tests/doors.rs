//! Log-ins that need no server, because one with the same packet has been let in.

use tokio::io::AsyncWriteExt;
use tokio_postgres::error::SqlState;
use wire::startup::startup_packet;

use super::fake::{Client, Manner, Server};
use super::login::{Known, stored};
use super::server::{Postgres, client, connect};
use super::*;

fn pooled() -> ProxyConfig {
    ProxyConfig { pool_mode: PoolMode::Transaction, pool_size: 1, threads: 1, ..config() }
}

async fn start() -> (Postgres, Arc<Known>, Stand) {
    let postgres = tokio::task::spawn_blocking(|| Postgres::start("scram-sha-256", &[])).await.unwrap();
    let known = Arc::new(Known::default());
    *known.0.lock().unwrap() = stored(&postgres).await;
    let stand = Stand::knowing(pooled(), topology(1, Some(&postgres.address), &[]), known.clone()).await;
    (postgres, known, stand)
}

async fn open(stand: &Stand, password: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    connect(client(stand.read_write(), password)).await
}

/// Sessions of clients at the server, without the one that asks.
async fn backends(postgres: &Postgres) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    postgres.admin().await.query_one(sql, &[]).await.unwrap().get(0)
}

/// A client of protocol 3.0, as libpq is one by default.
async fn log_in(stand: &Stand) -> Client {
    let mut stream = tokio::net::TcpStream::connect(stand.read_write()).await.unwrap();
    stream.write_all(&startup_packet(0, &[("user", "ann")])).await.unwrap();
    let mut client = Client { stream, key: Default::default(), notices: Vec::new() };
    client.ready().await.expect("the login succeeds");
    client
}

#[tokio::test]
async fn the_first_of_a_kind_logs_in_at_the_server_and_the_others_do_not() {
    let server = Server::new(Manner::Trusting).await;
    let stand = Stand::new(pooled(), topology(1, Some(&server.address), &[])).await;
    let mut clients = vec![log_in(&stand).await];
    // By its answer the first log-in is known.
    clients[0].query("SELECT 1").await.unwrap();
    for _ in 1..20 {
        clients.push(log_in(&stand).await);
    }
    assert_eq!(server.logins(), 1);
    let keys: std::collections::BTreeSet<Vec<u8>> =
        clients.iter().map(|client| client.key.lock().unwrap().clone()).collect();
    assert_eq!(keys.len(), 20, "each has a key of its own");
    for client in &mut clients {
        client.query("SELECT 1").await.unwrap();
    }
    assert_eq!((server.logins(), stand.proxy.counts().sessions), (1, 20));
    drop(clients);
    stand.until(|counts| counts.sessions == 0).await;
}

#[tokio::test]
async fn options_that_a_server_would_answer_are_for_a_server() {
    let server = Server::new(Manner::Trusting).await;
    let stand = Stand::new(pooled(), topology(1, Some(&server.address), &[])).await;
    for logins in 1..4 {
        let _client = Client::login(stand.read_write()).await;
        assert_eq!(server.logins(), logins, "protocol 3.2");
    }
}

#[tokio::test]
async fn without_a_server_to_lead_to_nobody_is_let_in() {
    let server = Server::new(Manner::Trusting).await;
    let config = ProxyConfig { queue_timeout: Duration::from_millis(50), ..pooled() };
    let stand = Stand::new(config, topology(1, Some(&server.address), &[])).await;
    log_in(&stand).await.query("SELECT 1").await.unwrap();
    stand.topology.send_replace(topology(1, None, &[]));
    let mut stream = tokio::net::TcpStream::connect(stand.read_write()).await.unwrap();
    stream.write_all(&startup_packet(0, &[("user", "ann")])).await.unwrap();
    let mut client = Client { stream, key: Default::default(), notices: Vec::new() };
    assert_eq!(client.last_words().await.sqlstate, "57P03", "libpq goes on to its next host");
}

#[tokio::test]
async fn a_server_that_refuses_shuts_the_door() {
    let server = Server::new(Manner::Trusting).await;
    let stand = Stand::new(pooled(), topology(1, Some(&server.address), &[])).await;
    log_in(&stand).await.query("SELECT 1").await.unwrap();
    let mut known = log_in(&stand).await;
    // Its pool's server has gone, and no other lets it in.
    server.manner.send_replace(Manner::Refusing("28000"));
    server.ends.send_replace(Some("57P01"));
    soon(async { while !stand.proxy.shared.workers.report().await.servers.is_empty() {} }).await;
    known.send("SELECT 1").await;
    let told = known.last_words().await;
    assert!(told.sqlstate == "57P01" && told.text.contains("the server says no"), "{told:?}");
    server.ends.send_replace(None);
    let mut stream = tokio::net::TcpStream::connect(stand.read_write()).await.unwrap();
    stream.write_all(&startup_packet(0, &[("user", "ann")])).await.unwrap();
    let mut next = Client { stream, key: Default::default(), notices: Vec::new() };
    assert_eq!(next.last_words().await.sqlstate, "28000", "the server itself says so");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proven_password_is_proven_again_and_not_believed() {
    let (postgres, known, stand) = start().await;
    let first = open(&stand, "secret").await.unwrap();
    first.batch_execute("SET TimeZone = 'Asia/Tokyo'").await.unwrap();
    let mut others = Vec::new();
    for _ in 0..10 {
        others.push(open(&stand, "secret").await.unwrap());
    }
    assert_eq!(backends(&postgres).await, 1);
    for other in &others {
        let zone: String = other.query_one("SHOW TimeZone", &[]).await.unwrap().get(0);
        assert_ne!(zone, "Asia/Tokyo", "what one has set is not the others'");
    }
    let wrong = open(&stand, "wrong").await.unwrap_err();
    assert_eq!(wrong.code(), Some(&SqlState::INVALID_PASSWORD));
    assert_eq!(wrong.as_db_error().unwrap().routine(), None, "the proxy says so");
    // From now on the old password is nobody's.
    postgres.admin().await.batch_execute("ALTER ROLE postgres PASSWORD 'new'").await.unwrap();
    *known.0.lock().unwrap() = stored_by(&postgres, "new").await;
    assert_eq!(open(&stand, "secret").await.unwrap_err().code(), Some(&SqlState::INVALID_PASSWORD));
    open(&stand, "new").await.unwrap().batch_execute("SELECT 1").await.unwrap();
    // A catalog that lags lets nobody in by what was proven since.
    *known.0.lock().unwrap() = None;
    open(&stand, "new").await.unwrap().batch_execute("SELECT 1").await.unwrap();
}

async fn stored_by(postgres: &Postgres, password: &str) -> Option<String> {
    let port = postgres.address.rsplit_once(':').unwrap().1.parse().unwrap();
    let session =
        connect(client(std::net::SocketAddr::from(([127, 0, 0, 1], port)), password)).await.unwrap();
    let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'";
    session.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_by_the_key_of_such_a_session_works() {
    let (_postgres, _known, stand) = start().await;
    drop(open(&stand, "secret").await.unwrap());
    let session = open(&stand, "secret").await.unwrap();
    let token = session.cancel_token();
    let sleeping = tokio::spawn(async move { session.batch_execute("SELECT pg_sleep(60)").await });
    // A cancel that comes before the query is nobody's.
    while !sleeping.is_finished() {
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let error = soon(sleeping).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
}
