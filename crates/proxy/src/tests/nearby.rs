//! Servers of this node by their Unix socket, before a real PostgreSQL.

use super::login::{Known, stored};
use super::server::{Postgres, client, connect};
use super::*;

/// Of the session's server: its client's address, empty at the socket.
const SEEN_FROM: &str = "SELECT coalesce(host(inet_client_addr()), '')";

/// A server with this method for all its lines of pg_hba.conf, or with `hba` in their place, and a proxy that knows its socket.
async fn stand(method: &'static str, hba: Option<&'static str>, reserved_for: &str) -> (Postgres, Stand) {
    let postgres = tokio::task::spawn_blocking(move || Postgres::start(method, &[])).await.unwrap();
    let known = Known::default();
    *known.0.lock().unwrap() = stored(&postgres).await;
    if let Some(hba) = hba {
        let admin = postgres.admin().await;
        std::fs::write(postgres.data().join("pg_hba.conf"), hba).unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        let read = "SELECT pg_conf_load_time() > pg_postmaster_start_time()";
        while !admin.query_one(read, &[]).await.unwrap().get::<_, bool>(0) {}
    }
    let own =
        OwnServer { node: "n1".to_owned(), socket: postgres.socket(), reserved_for: reserved_for.to_owned() };
    let config =
        ProxyConfig { pool_mode: PoolMode::Transaction, threads: 1, own_server: Some(own), ..config() };
    let topology = topology(1, Some(&postgres.address), &[]);
    let stand = Stand::knowing(config, topology, Arc::new(known)).await;
    (postgres, stand)
}

async fn session(stand: &Stand) -> tokio_postgres::Client {
    connect(client(stand.read_write(), "secret")).await.unwrap()
}

/// From where the server sees two transactions of a session, the first at its log-in's own server.
async fn seen_from(session: &tokio_postgres::Client) -> [String; 2] {
    let first = pools::value(session, SEEN_FROM).await;
    [first, pools::value(session, SEEN_FROM).await]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_let_in_gets_servers_of_this_node_by_their_socket() {
    for method in ["scram-sha-256", "trust"] {
        let (postgres, stand) = stand(method, None, "somebody").await;
        let first = session(&stand).await;
        assert_eq!(seen_from(&first).await, ["127.0.0.1", "127.0.0.1"], "{method}: the server of its log-in");
        let second = session(&stand).await;
        first.batch_execute("BEGIN").await.unwrap();
        assert_eq!(seen_from(&second).await, ["", ""], "{method}");
        // A cancel finds the server as ever.
        let cancel = second.cancel_token();
        let sleeping = second.simple_query("SELECT pg_sleep(60)");
        let cancelling = async {
            let running = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
            while first.query_one(running, &[]).await.unwrap().get::<_, i64>(0) == 0 {
                first.batch_execute("ROLLBACK; BEGIN").await.unwrap();
            }
            cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
        };
        let (slept, ()) = soon(async { tokio::join!(sleeping, cancelling) }).await;
        assert_eq!(slept.unwrap_err().code().unwrap().code(), "57014");
        drop(postgres);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_socket_is_closed_servers_are_had_by_tcp() {
    let only_hosts = "host all all 127.0.0.1/32 trust\n";
    for (hba, reserved_for) in [(Some(only_hosts), "somebody"), (None, "postgres")] {
        let (_postgres, stand) = stand("trust", hba, reserved_for).await;
        let (first, second) = (session(&stand).await, session(&stand).await);
        first.batch_execute("BEGIN").await.unwrap();
        assert_eq!(seen_from(&second).await, ["127.0.0.1", "127.0.0.1"], "{reserved_for}");
        first.batch_execute("COMMIT").await.unwrap();
        assert_eq!(seen_from(&first).await, ["127.0.0.1", "127.0.0.1"], "{reserved_for}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_read_for_a_while_gets_all_of_it() {
    let (_postgres, stand) = stand("trust", None, "somebody").await;
    let first = session(&stand).await;
    first.batch_execute("BEGIN").await.unwrap();
    let session = session(&stand).await;
    assert_eq!(pools::value(&session, SEEN_FROM).await, "");
    let long = "x".repeat(4 << 20);
    let text = format!("SELECT md5('{long}')");
    let (slept, hashed) = soon(async {
        tokio::join!(session.batch_execute("SELECT pg_sleep(0.5)"), session.simple_query(&text))
    })
    .await;
    slept.unwrap();
    let direct = format!("SELECT md5(repeat('x', {}))", 4 << 20);
    let told = hashed.unwrap().into_iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    assert_eq!(told, Some(pools::value(&session, &direct).await));
}
