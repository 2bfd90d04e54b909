//! Clients by Unix sockets, before a real PostgreSQL.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use super::login::{Known, stored};
use super::server::{Postgres, client, connect};
use super::*;

/// A proxy with sockets in a folder, in front of a server with this method.
async fn stand(method: &'static str, rules: &[&str], folder: &Path) -> (Postgres, Stand) {
    let postgres = tokio::task::spawn_blocking(move || Postgres::start(method, &[])).await.unwrap();
    let known = Known::default();
    *known.0.lock().unwrap() = stored(&postgres).await;
    let config =
        ProxyConfig { client_rules: rules.iter().map(|&rule| rule.to_owned()).collect(), ..at(folder) };
    let stand = Stand::knowing(config, topology(1, Some(&postgres.address), &[]), Arc::new(known)).await;
    (postgres, stand)
}

fn at(folder: &Path) -> ProxyConfig {
    let socket_folder = Some(folder.to_owned());
    ProxyConfig { socket_folder, pool_mode: PoolMode::Transaction, threads: 1, ..config() }
}

fn socket_of(stand: &Stand, folder: &Path) -> PathBuf {
    folder.join(format!(".s.PGSQL.{}", stand.read_write().port()))
}

/// As `client`, by the socket.
fn by_socket(stand: &Stand, folder: &Path, password: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(folder)
        .port(stand.read_write().port())
        .user("postgres")
        .dbname("postgres")
        .password(password);
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_come_by_the_socket_as_by_the_port() {
    let folder = tempfile::tempdir().unwrap();
    let (_postgres, stand) = stand("scram-sha-256", &[], folder.path()).await;
    let mode = std::fs::metadata(socket_of(&stand, folder.path())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o777, "the folder says who may connect, as with PostgreSQL");
    let wrong = connect(by_socket(&stand, folder.path(), "wrong")).await.unwrap_err();
    assert_eq!(wrong.code(), Some(&SqlState::INVALID_PASSWORD), "{wrong}");
    let (near, far) = (
        connect(by_socket(&stand, folder.path(), "secret")).await.unwrap(),
        client(stand.read_write(), "secret"),
    );
    let far = connect(far).await.unwrap();
    let console =
        connect(by_socket(&stand, folder.path(), "secret").dbname("pgbouncer").clone()).await.unwrap();
    let shown: Vec<String> = console
        .simple_query("SHOW CLIENTS")
        .await
        .unwrap()
        .into_iter()
        .filter_map(|row| match row {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get("addr").map(str::to_owned),
            _ => None,
        })
        .collect();
    assert!(shown.contains(&"unix".to_owned()) && shown.contains(&"127.0.0.1".to_owned()), "{shown:?}");
    // A cancel goes the same way.
    let cancel = near.cancel_token();
    let sleeping = near.simple_query("SELECT pg_sleep(60)");
    let cancelling = async {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        while far.query_one(running, &[]).await.unwrap().get::<_, i64>(0) == 0 {}
        cancel.cancel_query(NoTls).await.unwrap();
    };
    let (slept, ()) = soon(async { tokio::join!(sleeping, cancelling) }).await;
    assert_eq!(slept.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rules_for_local_are_for_sockets_and_for_nobody_else() {
    let whoami = nix::unistd::User::from_uid(nix::unistd::Uid::current()).unwrap().unwrap().name;
    let peer = format!("local all {whoami} peer");
    let folder = tempfile::tempdir().unwrap();
    let rules = [&peer, "local all postgres scram-sha-256", "local replication all reject"];
    let (postgres, stand) = stand("trust", &rules, folder.path()).await;
    let admin = postgres.admin().await;
    admin.batch_execute("ALTER ROLE postgres PASSWORD 'secret'").await.unwrap();
    if whoami != "postgres" {
        admin.batch_execute(&format!("CREATE ROLE \"{whoami}\" LOGIN")).await.unwrap();
        let mut myself = by_socket(&stand, folder.path(), "");
        let session = connect(myself.user(&whoami).clone()).await.unwrap();
        assert_eq!(pools::value(&session, "SELECT current_user::text").await, whoami);
    }
    assert!(connect(by_socket(&stand, folder.path(), "wrong")).await.is_err());
    connect(by_socket(&stand, folder.path(), "secret")).await.unwrap();
    let by_tcp = connect(client(stand.read_write(), "secret")).await.unwrap_err();
    assert!(
        by_tcp.as_db_error().unwrap().message().contains("no pg_hba.conf entry for host \"127.0.0.1\""),
        "{by_tcp}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_was_left_is_replaced_and_one_that_is_served_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let stand = Stand::new(at(folder.path()), topology(1, None, &[])).await;
    let path = socket_of(&stand, folder.path());
    let same_ports = |folder: &Path| {
        let port = |address: std::net::SocketAddr| address.port();
        let (read_write, read_only) = (port(stand.read_write()), port(stand.read_only()));
        // Another address of this machine: the ports are free there.
        let listen = "127.0.0.2".to_owned();
        ProxyConfig {
            listen,
            read_write_port: read_write,
            read_only_port: read_only,
            auto_port: None,
            ..at(folder)
        }
    };
    let config = same_ports(folder.path());
    let start = |config: ProxyConfig| async move {
        let (_sender, topology) = watch::channel(topology(1, None, &[]));
        Proxy::start(config, topology, Questions::default()).await
    };
    let error = start(config.clone()).await.err().unwrap().to_string();
    assert!(error.contains("another server listens on") && error.contains(path.to_str().unwrap()), "{error}");
    stand.proxy.shutdown(Duration::ZERO).await;
    assert!(!path.exists(), "who stops takes its sockets away");
    // As after kill -9.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let proxy = start(config.clone()).await.unwrap();
    assert!(std::fs::metadata(&path).unwrap().file_type().is_socket());
    tokio::net::UnixStream::connect(&path).await.unwrap();
    drop(proxy);
    assert!(!path.exists());
    // What is no socket is somebody's.
    std::fs::write(&path, "precious").unwrap();
    assert!(start(config).await.is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_go_to_the_next_process_with_the_ports() {
    let folder = tempfile::tempdir().unwrap();
    let mut stand = Stand::new(at(folder.path()), topology(1, None, &[])).await;
    let path = socket_of(&stand, folder.path());
    let addresses = stand.proxy.addresses();
    let handed = stand.proxy.hand_over();
    assert_eq!(handed.len(), 6, "three ports, each with its socket");
    let config = ProxyConfig {
        read_write_port: addresses.read_write.port(),
        read_only_port: addresses.read_only.port(),
        // It is not wanted any more.
        auto_port: None,
        ..at(folder.path())
    };
    let (_sender, seen) = watch::channel(topology(1, None, &[]));
    // A process that does not come to run leaves all as it was.
    let again: Vec<_> = handed.iter().map(|fd| fd.try_clone().unwrap()).collect();
    drop(Proxy::start_on(config.clone(), again, seen.clone(), Questions::default()).await.unwrap());
    assert!(path.exists(), "the one before it may have to go on");
    let mut next = Proxy::start_on(config, handed, seen, Questions::default()).await.unwrap();
    next.settle();
    drop(stand);
    assert!(path.exists(), "it is the next process's");
    tokio::net::UnixStream::connect(&path).await.unwrap();
    assert!(!folder.path().join(format!(".s.PGSQL.{}", addresses.auto.unwrap().port())).exists());
    drop(next);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_folder_that_cannot_hold_sockets_is_told_by_its_setting() {
    let deep = PathBuf::from(format!("/tmp/{}", "x".repeat(120)));
    for folder in [PathBuf::from("/nowhere"), PathBuf::from("/etc/passwd"), deep] {
        let error = Proxy::check(&at(&folder)).unwrap_err().to_string();
        assert!(error.contains("\"socket_dir\""), "{error}");
    }
}
