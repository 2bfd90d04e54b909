//! The admin console, asked as exporters and people ask it.

use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use super::login::{Known, stored};
use super::server::{Postgres, client, connect};
use super::*;

fn pooled() -> ProxyConfig {
    ProxyConfig { pool_mode: PoolMode::Transaction, pool_size: 2, threads: 2, ..config() }
}

async fn start(auth: &'static str) -> (Postgres, Arc<Known>, Stand) {
    let postgres = tokio::task::spawn_blocking(|| Postgres::start(auth, &[])).await.unwrap();
    let known = Arc::new(Known::default());
    *known.0.lock().unwrap() = stored(&postgres).await;
    let stand = Stand::knowing(pooled(), topology(1, Some(&postgres.address), &[]), known.clone()).await;
    (postgres, known, stand)
}

async fn console(stand: &Stand, password: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    connect(client(stand.read_write(), password).dbname("pgbouncer").clone()).await
}

/// Names of columns, and the rows.
async fn table(console: &tokio_postgres::Client, command: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let (mut columns, mut rows) = (Vec::new(), Vec::new());
    for message in soon(console.simple_query(command)).await.unwrap() {
        match message {
            SimpleQueryMessage::RowDescription(names) => {
                columns = names.iter().map(|column| column.name().to_owned()).collect();
            }
            SimpleQueryMessage::Row(row) => {
                rows.push((0..row.len()).map(|n| row.get(n).unwrap_or_default().to_owned()).collect());
            }
            _ => {}
        }
    }
    (columns, rows)
}

/// The value of a column in the row that begins so.
async fn cell(console: &tokio_postgres::Client, command: &str, first: &str, column: &str) -> String {
    let (columns, rows) = table(console, command).await;
    let at =
        columns.iter().position(|name| name == column).unwrap_or_else(|| panic!("{column}: {columns:?}"));
    let row = rows.iter().find(|row| row[0] == first).unwrap_or_else(|| panic!("{first}: {rows:?}"));
    row[at].clone()
}

async fn session(stand: &Stand) -> tokio_postgres::Client {
    connect(client(stand.read_write(), "secret")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_table_is_shown_with_the_columns_that_exporters_ask_for() {
    let (_postgres, _known, stand) = start("scram-sha-256").await;
    let working = session(&stand).await;
    working.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let resting = session(&stand).await;
    resting.batch_execute("SELECT 1").await.unwrap();
    let console = console(&stand, "secret").await.unwrap();
    for (show, columns) in [
        (
            "CLIENTS",
            "type,user,database,replication,state,addr,port,local_addr,local_port,connect_time,request_time",
        ),
        (
            "SERVERS",
            "type,user,database,replication,state,addr,port,local_addr,local_port,connect_time,request_time",
        ),
        ("POOLS", "database,user,cl_active,cl_waiting,cl_active_cancel_req,cl_waiting_cancel_req,sv_active"),
        ("DATABASES", "name,host,port,database,force_user,pool_size,min_pool_size,reserve_pool_size"),
        ("STATS", "database,total_server_assignment_count,total_xact_count,total_query_count,total_received"),
        ("STATS_TOTALS", "database,server_assignment_count,xact_count,query_count,bytes_received,bytes_sent"),
        ("STATS_AVERAGES", "database,server_assignment_count,xact_count,query_count,bytes_received"),
        ("TOTALS", "name,value"),
        ("LISTS", "list,items"),
        ("CONFIG", "key,value,default,changeable"),
        ("USERS", "name,pool_size,reserve_pool_size,pool_mode"),
        (
            "SOCKETS",
            "type,user,database,replication,state,addr,port,local_addr,local_port,connect_time,request_time,wait,wait_us,\
             close_needed,ptr,link,remote_pid,tls,application_name,prepared_statements,id,recv_pos,pkt_pos,pkt_remain,\
             send_pos,send_remain,pkt_avail,send_avail",
        ),
        ("STATE", "key,value"),
        ("VERSION", "version"),
        ("POOL_NODES", "node_id,hostname,port,status,pg_status,lb_weight,role"),
        ("HELP", "command"),
    ] {
        let (names, rows) = table(&console, &format!("SHOW {show}")).await;
        assert!(names.join(",").starts_with(columns), "{show}: {names:?}");
        assert!(!rows.is_empty(), "{show}");
    }
    for empty in ["MEM", "DNS_HOSTS", "DNS_ZONES"] {
        assert!(!table(&console, &format!("show {empty};")).await.0.is_empty());
    }
    assert_eq!(cell(&console, "SHOW POOLS", "postgres", "cl_active").await, "2");
    assert_eq!(cell(&console, "SHOW POOLS", "postgres", "sv_active").await, "1");
    assert_eq!(cell(&console, "SHOW LISTS", "used_clients", "items").await, "3");
    assert_eq!(cell(&console, "SHOW CONFIG", "max_user_connections", "value").await, "0");
    assert_ne!(cell(&console, "SHOW SOCKETS", "C", "id").await, "0");
    assert_eq!(cell(&console, "SHOW DATABASES", "postgres", "host").await, "127.0.0.1");
    working.batch_execute("COMMIT").await.unwrap();
    resting.batch_execute("SELECT 1; SELECT 2").await.unwrap();
    let stat = async |column| cell(&console, "SHOW STATS", "postgres", column).await;
    assert_eq!(stat("total_xact_count").await, "3");
    assert_eq!(stat("total_query_count").await, "4", "answers, as PgBouncer counts them");
    assert_eq!(stat("total_client_login_count").await, "2");
    assert!(stat("total_sent").await.parse::<u64>().unwrap() > 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_nobody_there_is_not_let_in() {
    let (postgres, known, stand) = start("scram-sha-256").await;
    let wrong = console(&stand, "wrong").await.unwrap_err();
    assert_eq!(wrong.code(), Some(&SqlState::INVALID_PASSWORD));
    known.1.store(false, std::sync::atomic::Ordering::Relaxed);
    let refused = console(&stand, "secret").await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    assert!(refused.as_db_error().unwrap().message().contains("pg_monitor"));
    // Where PostgreSQL asks for more than the console can, it says no.
    *known.0.lock().unwrap() = None;
    known.1.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(console(&stand, "secret").await.is_err());
    drop(postgres);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_postgresql_asks_nothing_neither_does_the_console() {
    let (_postgres, known, stand) = start("trust").await;
    *known.0.lock().unwrap() = None;
    let console = console(&stand, "").await.unwrap();
    let error = soon(console.simple_query("DROP TABLE t")).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::SYNTAX_ERROR));
    assert!(error.as_db_error().unwrap().message().contains("SHOW HELP"));
    let error = soon(console.query("SHOW POOLS", &[])).await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().contains("simple"), "{error}");
    assert_eq!(table(&console, "SHOW client_encoding").await.1, [["UTF8"]]);
    // Who has paused everything comes in again to end that.
    console.simple_query("PAUSE").await.unwrap();
    drop(console);
    let console = self::console(&stand, "").await.unwrap();
    console.simple_query("RESUME").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_waits_for_transactions_and_holds_the_next_ones() {
    let (_postgres, _known, stand) = start("scram-sha-256").await;
    let session = session(&stand).await;
    session.batch_execute("BEGIN").await.unwrap();
    let pausing = console(&stand, "secret").await.unwrap();
    let paused = tokio::spawn(async move {
        pausing.simple_query("PAUSE").await.unwrap();
        pausing
    });
    let console = console(&stand, "secret").await.unwrap();
    while cell(&console, "SHOW STATE", "paused", "value").await != "yes" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!paused.is_finished(), "a transaction is under way");
    session.batch_execute("COMMIT").await.unwrap();
    let pausing = soon(paused).await.unwrap();
    assert_eq!(cell(&console, "SHOW POOLS", "postgres", "sv_active").await, "0");
    let held = tokio::spawn(async move { session.batch_execute("SELECT 1").await });
    while cell(&console, "SHOW POOLS", "postgres", "cl_waiting").await != "1" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pausing.simple_query("RECONNECT; ").await.unwrap();
    assert!(!held.is_finished());
    pausing.simple_query("RESUME").await.unwrap();
    soon(held).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_ended_one_by_one_or_by_database() {
    let (_postgres, _known, stand) = start("scram-sha-256").await;
    let (one, two) = (session(&stand).await, session(&stand).await);
    let console = console(&stand, "secret").await.unwrap();
    let (columns, rows) = table(&console, "SHOW CLIENTS").await;
    let id = columns.iter().position(|name| name == "id").unwrap();
    console.simple_query(&format!("KILL_CLIENT {}", rows[0][id])).await.unwrap();
    stand.until(|counts| counts.sessions == 2).await;
    assert!(console.simple_query(&format!("KILL_CLIENT {}", rows[0][id])).await.is_err(), "it has gone");
    console.simple_query("KILL postgres").await.unwrap();
    stand.until(|counts| counts.sessions == 1).await;
    assert!(
        soon(one.batch_execute("SELECT 1")).await.is_err()
            && soon(two.batch_execute("SELECT 1")).await.is_err()
    );
    assert_eq!(cell(&console, "SHOW DATABASES", "postgres", "paused").await, "1");
    console.simple_query("RESUME postgres").await.unwrap();
    session(&stand).await.batch_execute("SELECT 1").await.unwrap();
}
