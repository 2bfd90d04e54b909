//! A real PostgreSQL behind the proxy: authentication, cancel and COPY as the server means them.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use futures_util::SinkExt;
use rustix::process::{Pid, Signal, getuid, kill_process};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls};

use super::*;

/// A server in a folder of its own; ended, with all its processes, when dropped.
struct Postgres {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT: the postmaster takes its children with it.
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::QUIT);
        }
        let _ = self.child.wait();
    }
}

fn binaries() -> PathBuf {
    let majors = (15..=18).rev().map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
    majors
        .into_iter()
        .find(|folder| folder.join("initdb").exists())
        .expect("PostgreSQL 15 to 18 is installed")
}

/// As the user who runs the tests or, since PostgreSQL refuses root, as `postgres`.
fn command(program: &str) -> Command {
    let mut command = Command::new(binaries().join(program));
    command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
    if let Some((uid, gid)) = postgres_user() {
        command.uid(uid).gid(gid);
    }
    command
}

fn postgres_user() -> Option<(u32, u32)> {
    if !getuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let fields: Vec<&str> =
        users.lines().find(|line| line.starts_with("postgres:")).unwrap().split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

fn give(path: &Path) {
    if let Some((uid, gid)) = postgres_user() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
    }
}

impl Postgres {
    /// Starts and does not wait: waiting is the proxy's part.
    fn start() -> Postgres {
        let folder = tempfile::Builder::new().prefix("pgherd-proxy-").tempdir_in("/tmp").unwrap();
        give(folder.path());
        let password = folder.path().join("password");
        std::fs::File::create(&password).unwrap().write_all(b"secret").unwrap();
        give(&password);
        let data = folder.path().join("data");
        let initdb = command("initdb")
            .args(["--username=postgres", "--auth=scram-sha-256", "--no-sync", "--no-locale"])
            .arg(format!("--pwfile={}", password.display()))
            .arg("-D")
            .arg(&data)
            .status()
            .unwrap();
        assert!(initdb.success());
        let port = crate::postgres::tests::free_port();
        let child = command("postgres")
            .arg("-D")
            .arg(&data)
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-F", "-c", "shared_buffers=8MB"])
            .args(["-k", &folder.path().display().to_string()])
            .spawn()
            .unwrap();
        Postgres { child, address: format!("127.0.0.1:{port}"), _folder: folder }
    }
}

fn client(stand: &Stand, password: &str) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(stand.read_write().port()).user("postgres").password(password);
    config
}

async fn connect(config: Config) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let (client, connection) = soon(config.connect(NoTls)).await?;
    tokio::spawn(connection);
    Ok(client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scram_cancel_copy_and_a_takeover() {
    let postgres = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    let stand = Stand::new(config(), topology(1, Some(&postgres.address), &[])).await;

    // The server may still be starting: the proxy waits for it.
    let mut session = connect(client(&stand, "secret")).await.unwrap();
    let wrong = connect(client(&stand, "wrong")).await.unwrap_err();
    assert_eq!(wrong.code(), Some(&SqlState::INVALID_PASSWORD));

    session.batch_execute("CREATE TABLE t (id int PRIMARY KEY, note text)").await.unwrap();
    let statement = session.prepare("SELECT $1::int + 1").await.unwrap();
    let row = session.query_one(&statement, &[&41]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 42);
    let long = session.query_one("SELECT repeat('x', 5000000)", &[]).await.unwrap();
    assert_eq!(long.get::<_, &str>(0).len(), 5_000_000);

    let sink = session.copy_in("COPY t FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    for id in 0..1000 {
        sink.send(bytes::Bytes::from(format!("{id}\tnote\n"))).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 1000);

    let cancel = session.cancel_token();
    let sleeping = session.batch_execute("SELECT pg_sleep(60)");
    let cancelling = async {
        let other = connect(client(&stand, "secret")).await.unwrap();
        let sleepers = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        while other.query_one(sleepers, &[]).await.unwrap().get::<_, i64>(0) == 0 {}
        cancel.cancel_query(NoTls).await.unwrap();
    };
    let (slept, ()) = soon(async { tokio::join!(sleeping, cancelling) }).await;
    assert_eq!(slept.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));

    // After COPY and cancel the books are even again: an open transaction is known to be one.
    let idle = connect(client(&stand, "secret")).await.unwrap();
    let transaction = session.transaction().await.unwrap();
    transaction.execute("INSERT INTO t VALUES (5000, 'lost')", &[]).await.unwrap();
    let open = connect(client(&stand, "secret")).await.unwrap();
    stand.topology.send_replace(topology(2, Some(&postgres.address), &[]));
    stand.until(|counts| counts.cuts >= 3).await;
    let told = soon(transaction.query("SELECT 1", &[])).await.unwrap_err();
    assert!(told.is_closed() || told.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{told}");
    for session in [idle, open] {
        assert!(soon(session.batch_execute("SELECT 1")).await.is_err());
    }

    let again = connect(client(&stand, "secret")).await.unwrap();
    let count = again.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 1000, "the open transaction left nothing");
}
