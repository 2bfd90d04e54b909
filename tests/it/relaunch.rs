//! pgherd of every node is started anew beneath its sessions: they go on, new ones come to the new processes, and nobody takes over.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tests::{Cluster, Ledger, machine, processes, wait_for};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const MOMENT: Duration = Duration::from_secs(60);
/// Longer than all relaunches take; it is waited for, so it may be long.
const SECONDS: &str = "15";
/// Of one statement.
const CANCELS_MAX: u32 = 12;
const LONG: &str = "SELECT pg_sleep(300)";

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

async fn session(port: u16) -> Client {
    session_of(port, "postgres").await
}

async fn session_of(port: u16, database: &str) -> Client {
    let text = format!("host=127.0.0.1 port={port} user=postgres dbname={database} connect_timeout=10");
    let (client, connection) = tokio_postgres::connect(&text, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn pgbench(port: u16, arguments: &[&str]) -> Child {
    let mut command = Command::new(machine::bin().join("pgbench"));
    command
        .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string()])
        .args(arguments)
        .arg("postgres");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("pgbench starts")
}

/// Daemons of the node in `dir`.
fn daemons(dir: &Path) -> Vec<i32> {
    let is_daemon = |process: &processes::Process| process.command.get(1).is_some_and(|word| word == "run");
    processes::belonging_to(dir).into_iter().filter(is_daemon).map(|process| process.pid).collect()
}

/// How a long statement of `client` ends, which runs on the server at `postgres`, cancelled at another port than that of the session's
/// start. As people do, it is cancelled again when nothing happens: a cancel is withheld while nobody can say in time whether it would
/// end a wait for a standby.
async fn how_it_ends_cancelled_at(port: u16, postgres: u16, client: &Client) -> Option<SqlState> {
    let mut long = std::pin::pin!(client.batch_execute(LONG));
    let runs = move || {
        let count =
            format!("SELECT count(*) FROM pg_stat_activity WHERE query = '{LONG}' AND state = 'active'");
        wait_for("the statement to run", MOMENT, || {
            (tests::value_at(postgres, &count).unwrap() == "1").then_some(())
        });
    };
    tokio::select! {
        ended = &mut long => panic!("it ended by itself: {ended:?}"),
        running = tokio::task::spawn_blocking(runs) => running.unwrap(),
    }
    for _ in 0..CANCELS_MAX {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        client.cancel_token().cancel_query_raw(stream, NoTls).await.unwrap();
        if let Ok(ended) = tokio::time::timeout(MOMENT / CANCELS_MAX, &mut long).await {
            return ended.err().and_then(|error| error.code().cloned());
        }
    }
    None
}

#[test]
fn sessions_go_on_and_nobody_takes_over() {
    // A process replaces another within a fraction of a second; on a busy machine it may take longer, and this is not about that.
    let cluster = Cluster::start_configured(3, |_| "[failover]\nfailure_timeout = \"20s\"".to_owned());
    let before = cluster.wait_until_whole();
    let primary = cluster.node(before.primary.as_deref().unwrap()).clone();
    let other = cluster.nodes().iter().find(|node| node.name != primary.name).unwrap().clone();
    let old: Vec<_> = cluster.nodes().iter().map(|node| node.agent_pid().unwrap()).collect();
    let runtime = runtime();
    let (open, resting) = runtime.block_on(async {
        let open = session(primary.read_write).await;
        open.batch_execute("CREATE TABLE t (a int); BEGIN; INSERT INTO t VALUES (1)").await.unwrap();
        let resting = session(primary.read_write).await;
        resting.batch_execute("SET my.mark = 'mine'; LISTEN something").await.unwrap();
        (open, resting)
    });
    assert!(pgbench(primary.read_write, &["-i", "-s", "1"]).wait_with_output().unwrap().status.success());
    let ledger = Ledger::start(&cluster);
    ledger.wait_until_flowing();
    let loads = [primary.read_write, other.read_write]
        .map(|port| pgbench(port, &["-c", "2", "-T", SECONDS, "-n", "-M", "prepared"]));
    let comers = pgbench(other.read_write, &["-c", "2", "-T", SECONDS, "-n", "-C"]);

    let said = cluster.pgherd_ok(&["relaunch"]);
    for node in cluster.nodes() {
        assert!(said.contains(&format!("{}: relaunched", node.name)), "{said}");
    }
    let after = cluster.wait_until_whole();
    assert_eq!((&after.primary, after.term), (&before.primary, before.term), "{said}");
    for (node, old) in cluster.nodes().iter().zip(&old) {
        assert_ne!(node.agent_pid(), Some(*old));
    }

    // What was under way in the old process ends there, and is cancelled there, also by another node's port.
    runtime.block_on(async {
        open.batch_execute("INSERT INTO t VALUES (2); COMMIT").await.unwrap();
        let mark: String = resting.query_one("SHOW my.mark", &[]).await.unwrap().get(0);
        assert_eq!(mark, "mine");
        assert_eq!(
            how_it_ends_cancelled_at(primary.read_write, primary.postgres, &resting).await,
            Some(SqlState::QUERY_CANCELED)
        );
        assert_eq!(
            how_it_ends_cancelled_at(other.read_write, primary.postgres, &resting).await,
            Some(SqlState::QUERY_CANCELED)
        );
        let comer = session(primary.read_write).await;
        let rows: i64 = comer.query_one("SELECT count(*) FROM t", &[]).await.unwrap().get(0);
        assert_eq!(rows, 2);
        assert_eq!(
            how_it_ends_cancelled_at(other.read_only, primary.postgres, &comer).await,
            Some(SqlState::QUERY_CANCELED)
        );
    });
    for load in loads.into_iter().chain([comers]) {
        let output = load.wait_with_output().unwrap();
        let told = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success(), "{told:?}");
        assert!(
            told[0].contains("number of failed transactions: 0 ") && !told[1].contains("error"),
            "{told:?}"
        );
    }
    drop((open, resting));
    ledger.finish_and_check(&cluster);
    for node in cluster.nodes() {
        wait_for("the old process to end with its sessions", MOMENT, || {
            (daemons(&node.dir) == [node.agent_pid()?]).then_some(())
        });
    }
}

#[test]
fn who_cannot_be_ready_changes_nothing() {
    let cluster = Cluster::start(1);
    cluster.wait_until_whole();
    let node = &cluster.nodes()[0];
    let pid = node.agent_pid();
    let runtime = runtime();
    let client = runtime.block_on(session(node.read_write));
    let key = node.dir.join("tls/node.key");
    let (good, file) = (std::fs::read(&key), key.display().to_string());
    let good = good.unwrap_or_else(|error| panic!("{file}: {error}"));
    std::fs::write(&key, "no key").unwrap();
    let output = cluster.pgherd(&["relaunch"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("was not relaunched and runs on"), "{told}");
    assert!(told.contains(&file), "it says which file: {told}");
    let reload = || {
        runtime
            .block_on(async { session_of(node.read_write, "pgbouncer").await.simple_query("RELOAD").await })
    };
    let error = reload().unwrap_err();
    let told = error.as_db_error().map(|error| error.message()).unwrap_or_default();
    assert!(told.contains("nothing was changed") && told.contains(&file), "{error}");
    assert_eq!(node.agent_pid(), pid);
    runtime.block_on(client.batch_execute("SELECT 1")).unwrap();

    std::fs::write(&key, good).unwrap();
    cluster.pgherd_ok(&["relaunch"]);
    assert_ne!(node.agent_pid(), pid);
    node.edit_config(|config| {
        config["proxy"].as_table_mut().unwrap().insert("pool_size".to_owned(), 7.into());
    });
    reload().unwrap();
    wait_for("new sessions to find the new setting", MOMENT, || {
        let rows = runtime.block_on(async {
            session_of(node.read_write, "pgbouncer").await.simple_query("SHOW CONFIG").await.unwrap()
        });
        let is_new = |row: &SimpleQueryMessage| matches!(row, SimpleQueryMessage::Row(row) if row.get(0) == Some("default_pool_size") && row.get(1) == Some("7"));
        rows.iter().any(is_new).then_some(())
    });
    runtime.block_on(async { client.batch_execute("SELECT 1").await.unwrap() });
    runtime.block_on(async { session(node.read_write).await.batch_execute("SELECT 1").await.unwrap() });
}
