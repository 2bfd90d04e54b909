//! Sessions that share servers: each has one for its transaction, and finds there what it left.

use tokio::time::sleep;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;
use wire::message::put_frame;

use super::fake::{Client, Manner, Server};
use super::server::{Postgres, client, connect};
use super::*;

/// One worker, so that all sessions share one pool.
fn pooled(pool_size: usize) -> ProxyConfig {
    ProxyConfig { pool_mode: PoolMode::Transaction, pool_size, threads: 1, ..config() }
}

async fn fake(pool_size: usize) -> (Server, Stand) {
    let server = Server::new(Manner::Trusting).await;
    let stand = Stand::new(pooled(pool_size), topology(1, Some(&server.address), &[])).await;
    (server, stand)
}

pub async fn real(pool_size: usize, options: &'static [&'static str]) -> (Postgres, Stand) {
    let postgres = tokio::task::spawn_blocking(|| Postgres::start("trust", options)).await.unwrap();
    let stand = Stand::new(pooled(pool_size), topology(1, Some(&postgres.address), &[])).await;
    drop(postgres.admin().await);
    (postgres, stand)
}

pub async fn open(stand: &Stand) -> tokio_postgres::Client {
    connect(client(stand.read_write(), "secret")).await.unwrap()
}

pub async fn value(client: &tokio_postgres::Client, sql: &str) -> String {
    let rows = soon(client.simple_query(sql)).await.unwrap();
    let row = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    row.expect("a row")
}

#[tokio::test]
async fn a_replica_that_comes_later_gets_its_share_of_the_servers() {
    let primary = Server::new(Manner::Trusting).await;
    let [a, b] = [Server::new(Manner::Trusting).await, Server::new(Manner::Trusting).await];
    let stand = Stand::new(pooled(6), topology(1, Some(&primary.address), &[&a.address])).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(Client::login(stand.read_only()).await);
    }
    for client in &mut clients {
        client.send("SELECT hang").await;
    }
    a.until(|seen| seen.queries.len() == 6).await;
    a.answers.send_replace(true);
    for client in &mut clients {
        client.ready().await.unwrap();
    }
    let open = || [&a, &b].map(|server| server.seen.borrow().open);
    assert_eq!(open(), [6, 0]);
    stand.topology.send_replace(topology(1, Some(&primary.address), &[&a.address, &b.address]));
    soon(async {
        while open() != [3, 3] {
            for client in &mut clients {
                client.query("SELECT 1").await.unwrap();
            }
            sleep(Duration::from_millis(5)).await;
            assert!(open()[1] <= 3, "{:?}", open());
        }
    })
    .await;
    let logins = b.logins();
    for n in 0..200 {
        clients[n % 6].query("SELECT 1").await.unwrap();
    }
    assert_eq!((b.logins(), primary.logins()), (logins, 0), "shares that are even stay");
}

#[tokio::test]
async fn idle_sessions_have_no_server() {
    let (server, stand) = fake(2).await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(Client::login(stand.read_write()).await);
    }
    server.until(|seen| seen.open <= 2).await;
    for client in &mut clients {
        client.query("SELECT 1").await.unwrap();
    }
    assert_eq!(
        (server.logins(), stand.proxy.counts().sessions),
        (10, 10),
        "no server was opened for a query"
    );
    drop(clients);
    stand.until(|counts| counts.sessions == 0).await;
}

#[tokio::test]
async fn a_transaction_keeps_its_server_and_the_others_wait_in_turn() {
    let (server, stand) = fake(1).await;
    let mut first = Client::login(stand.read_write()).await;
    let (mut second, mut third) =
        (Client::login(stand.read_write()).await, Client::login(stand.read_write()).await);
    first.query("BEGIN").await.unwrap();
    second.send("SELECT 'second'").await;
    // In the queue, before the next comes.
    sleep(Duration::from_millis(50)).await;
    third.send("SELECT 'third'").await;
    sleep(Duration::from_millis(50)).await;
    assert!(!server.seen.borrow().queries.iter().any(|sql| sql.starts_with("SELECT")));
    first.query("COMMIT").await.unwrap();
    second.ready().await.unwrap();
    third.ready().await.unwrap();
    let queries = server.seen.borrow().queries.clone();
    assert_eq!(queries, ["BEGIN", "COMMIT", "SELECT 'second'", "SELECT 'third'"]);
}

#[tokio::test]
async fn the_wait_for_a_server_has_an_end() {
    let server = Server::new(Manner::Trusting).await;
    let short = Duration::from_millis(200);
    let config = ProxyConfig { queue_timeout: short, connect_timeout: short, ..pooled(1) };
    let stand = Stand::new(config, topology(1, Some(&server.address), &[])).await;
    let mut first = Client::login(stand.read_write()).await;
    let mut second = Client::login(stand.read_write()).await;
    first.query("BEGIN").await.unwrap();
    second.send("SELECT 1").await;
    let told = second.last_words().await;
    assert_eq!(told.sqlstate, "53300");
    assert!(told.text.contains("pool_size"), "{}", told.text);
    first.query("COMMIT").await.unwrap();
    let mut third = Client::login(stand.read_write()).await;
    third.query("SELECT 1").await.unwrap();
    first.query("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_hold_keeps_back_who_wants_a_server() {
    let (server, stand) = fake(2).await;
    let mut clients = [Client::login(stand.read_write()).await, Client::login(stand.read_write()).await];
    let until = tokio::time::Instant::now() + PATIENCE;
    let hold = Some(crate::topology::Hold { id: 1, until });
    stand.topology.send_modify(|topology| topology.hold = hold);
    for client in &mut clients {
        client.send("SELECT 1").await;
    }
    stand.until(|counts| counts.parked == 2).await;
    assert!(server.seen.borrow().queries.is_empty());
    stand.topology.send_modify(|topology| topology.hold = None);
    for client in &mut clients {
        client.ready().await.unwrap();
    }
    stand.until(|counts| counts.parked == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_in_a_transaction_leaves_no_dirty_server() {
    let (server, stand) = fake(1).await;
    let mut first = Client::login(stand.read_write()).await;
    let mut second = Client::login(stand.read_write()).await;
    first.query("BEGIN").await.unwrap();
    second.send("SELECT 1").await;
    drop(first);
    second.ready().await.unwrap();
    server.until(|seen| seen.open == 1).await;
    assert_eq!(server.logins(), 3, "the first one's server was closed, and another opened");
    // Whoever says good-bye takes no server with it.
    second.stream.set_nodelay(true).unwrap();
    let mut out = Vec::new();
    put_frame(&mut out, b'X', b"");
    send_bytes(&mut second, &out).await;
    stand.until(|counts| counts.sessions == 0).await;
    let mut third = Client::login(stand.read_write()).await;
    third.query("SELECT 1").await.unwrap();
    server.until(|seen| seen.open == 1).await;
}

#[tokio::test]
async fn half_a_message_keeps_no_server() {
    let (server, stand) = fake(1).await;
    let mut slow = Client::login(stand.read_write()).await;
    let mut other = Client::login(stand.read_write()).await;
    let mut out = Vec::new();
    put_frame(&mut out, b'Q', b"SELECT 'slow'\0");
    let (first, second) = out.split_at(9);
    send_bytes(&mut slow, first).await;
    sleep(Duration::from_millis(50)).await;
    other.query("SELECT 'other'").await.unwrap();
    send_bytes(&mut slow, second).await;
    slow.ready().await.unwrap();
    assert_eq!(server.seen.borrow().queries, ["SELECT 'other'", "SELECT 'slow'"]);
}

#[tokio::test]
async fn what_nobody_uses_is_closed() {
    let server = Server::new(Manner::Trusting).await;
    let config = ProxyConfig { server_idle_timeout: Duration::from_millis(100), ..pooled(5) };
    let stand = Stand::new(config, topology(1, Some(&server.address), &[])).await;
    let mut client = Client::login(stand.read_write()).await;
    client.query("SELECT 1").await.unwrap();
    server.until(|seen| seen.open == 0).await;
    client.query("SELECT 1").await.unwrap();
    assert_eq!(server.logins(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_session_finds_what_it_left() {
    let (_postgres, stand) = real(1, &[]).await;
    let (one, two) = (open(&stand).await, open(&stand).await);
    one.batch_execute("SET work_mem = '5MB'; SET TimeZone = 'Asia/Tokyo'").await.unwrap_or_default();
    one.batch_execute("SET work_mem = '5MB'").await.unwrap();
    one.batch_execute("SET search_path = pg_catalog").await.unwrap();
    two.batch_execute("SET work_mem = '7MB'").await.unwrap();
    for _ in 0..3 {
        assert_eq!(value(&one, "SHOW work_mem").await, "5MB");
        assert_eq!(value(&one, "SHOW search_path").await, "pg_catalog");
        assert_eq!(value(&two, "SHOW work_mem").await, "7MB");
        assert_ne!(value(&two, "SHOW search_path").await, "pg_catalog");
    }
    // The same names for different statements.
    let (first, second) =
        (one.prepare("SELECT 1").await.unwrap(), two.prepare("SELECT 'two'::text").await.unwrap());
    for _ in 0..3 {
        assert_eq!(one.query_one(&first, &[]).await.unwrap().get::<_, i32>(0), 1);
        assert_eq!(two.query_one(&second, &[]).await.unwrap().get::<_, String>(0), "two");
    }
    // A transaction that failed took its settings with it.
    let failed = one.batch_execute("BEGIN; SET work_mem = '9MB'; SELECT 1/0; COMMIT").await;
    assert_eq!(failed.unwrap_err().code(), Some(&SqlState::DIVISION_BY_ZERO));
    one.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_carried_keeps_the_server_until_it_is_gone() {
    let (_postgres, stand) = real(2, &[]).await;
    let (one, two) = (open(&stand).await, open(&stand).await);
    one.batch_execute("CREATE TEMP TABLE mine AS SELECT 42 AS answer").await.unwrap();
    let backend = value(&one, "SELECT pg_backend_pid()").await;
    for _ in 0..3 {
        assert_ne!(value(&two, "SELECT pg_backend_pid()").await, backend, "it is kept");
        assert_eq!(value(&one, "SELECT answer FROM mine").await, "42");
    }
    one.batch_execute("DISCARD ALL").await.unwrap();
    let gone = one.batch_execute("SELECT answer FROM mine").await.unwrap_err();
    assert_eq!(gone.code(), Some(&SqlState::UNDEFINED_TABLE));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..4 {
        two.batch_execute("BEGIN").await.unwrap();
        seen.insert(value(&two, "SELECT pg_backend_pid()").await);
        seen.insert(value(&one, "SELECT pg_backend_pid()").await);
        two.batch_execute("COMMIT").await.unwrap();
    }
    assert!(seen.contains(&backend), "{backend} is free for all: {seen:?}");
}

/// The unnamed statement of one session is nobody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unnamed_statement_stays_with_its_session() {
    let (_postgres, stand) = real(1, &[]).await;
    let (mut one, mut two) = (frames(&stand).await, frames(&stand).await);
    let mut run = Vec::new();
    put_frame(&mut run, b'B', &[0, 0, 0, 0, 0, 0, 0, 0]);
    put_frame(&mut run, b'E', &[0, 0, 0, 0, 0]);
    put_frame(&mut run, b'S', b"");
    one.prepare("", "SELECT 1").await.unwrap();
    send_bytes(&mut two, &run).await;
    assert_eq!(two.ready().await.unwrap_err().sqlstate, "26000", "it has prepared none");
    assert_eq!(two.tags_until_ready().await, "Z");
    for _ in 0..2 {
        send_bytes(&mut one, &run).await;
        assert_eq!(one.tags_until_ready().await, "2DCZ", "its own is there, on whatever server");
        two.query("SELECT 2").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_hits_the_session_that_it_is_for() {
    let (_postgres, stand) = real(1, &[]).await;
    let (one, two) = (open(&stand).await, open(&stand).await);
    value(&one, "SELECT 1").await;
    // Without a server there is nothing to cancel, whatever runs on the one it had.
    let cancel = one.cancel_token();
    let sleeping = tokio::spawn(async move {
        let done = two.batch_execute("SELECT pg_sleep(0.5)").await;
        (two, done)
    });
    for _ in 0..5 {
        cancel.cancel_query(NoTls).await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    let (two, done) = soon(sleeping).await.unwrap();
    done.expect("nobody has cancelled it");
    let cancel = two.cancel_token();
    let sleeping = tokio::spawn(async move { two.batch_execute("SELECT pg_sleep(60)").await });
    let cancelling = async {
        loop {
            cancel.cancel_query(NoTls).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
    };
    let slept = tokio::select! {
        slept = soon(sleeping) => slept.unwrap(),
        () = cancelling => unreachable!(),
    };
    assert_eq!(slept.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));
    assert_eq!(value(&one, "SELECT 'next'").await, "next");
}

/// Many sessions over few servers, with errors, cancels and clients that vanish: each gets the answers to its own questions
/// and no byte of anybody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_reaches_another_session() {
    const CLIENTS: usize = 24;
    const ROUNDS: usize = 60;
    let (_postgres, stand) = real(3, &[]).await;
    let address = stand.read_write();
    let work = (0..CLIENTS).map(|number| {
        tokio::spawn(async move {
            let mut dice = number as u64 * 7919 + 1;
            let mut roll = move |sides: u64| {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (dice >> 33) % sides
            };
            let mut session = connect(client(address, "secret")).await.unwrap();
            let mut prepared = None;
            for round in 0..ROUNDS {
                let mark = format!("{number}/{round}");
                match roll(9) {
                    0 | 1 => assert_eq!(value(&session, &format!("SELECT '{mark}'")).await, mark),
                    2 => {
                        let row = session.query_one("SELECT $1::text", &[&mark]).await.unwrap();
                        assert_eq!(row.get::<_, String>(0), mark);
                    }
                    3 => {
                        let error = session.query(&format!("SELECT '{mark}'::int"), &[]).await.unwrap_err();
                        assert!(error.as_db_error().unwrap().message().contains(&mark), "{error:?}");
                    }
                    4 => {
                        if prepared.is_none() {
                            let sql = format!("SELECT $1::text || '-{number}'");
                            prepared = Some(session.prepare(&sql).await.unwrap());
                        }
                        let row = session.query_one(prepared.as_ref().unwrap(), &[&mark]).await.unwrap();
                        assert_eq!(row.get::<_, String>(0), format!("{mark}-{number}"));
                    }
                    5 => {
                        let transaction = session.transaction().await.unwrap();
                        let name = format!("SET LOCAL application_name = '{mark}'");
                        transaction.batch_execute(&name).await.unwrap();
                        let row = transaction.query_one("SHOW application_name", &[]).await.unwrap();
                        assert_eq!(row.get::<_, String>(0), mark);
                        transaction.rollback().await.unwrap();
                    }
                    6 => {
                        let rows = session
                            .query("SELECT $1::text || i FROM generate_series(1, 2000) AS i", &[&mark])
                            .await
                            .unwrap();
                        assert!(rows.iter().all(|row| row.get::<_, &str>(0).starts_with(&mark)));
                        assert_eq!(rows.len(), 2000);
                    }
                    7 => {
                        let cancel = session.cancel_token();
                        let sleep = session.batch_execute("SELECT pg_sleep(0.01)");
                        let (slept, _) = tokio::join!(sleep, cancel.cancel_query(NoTls));
                        let code = slept.err().and_then(|error| error.code().cloned());
                        assert!(code.is_none_or(|code| code == SqlState::QUERY_CANCELED));
                        // The driver does not wait until it is dealt with: it may yet hit what this session asks next, and nobody
                        // else.
                        session = connect(client(address, "secret")).await.unwrap();
                        prepared = None;
                    }
                    _ => {
                        // In the middle of an answer.
                        let vanishing = session
                            .simple_query("BEGIN; SELECT repeat('x', 1000000) FROM generate_series(1, 5)");
                        let _ = tokio::time::timeout(Duration::from_millis(roll(4)), vanishing).await;
                        session = connect(client(address, "secret")).await.unwrap();
                        prepared = None;
                    }
                }
            }
        })
    });
    for session in work.collect::<Vec<_>>() {
        session.await.unwrap();
    }
    stand.until(|counts| counts.sessions == 0).await;
}

/// What a statement is to its session, whatever is prepared where.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_are_shared_and_look_like_ones_own() {
    let (postgres, stand) = real(1, &[]).await;
    let (mut one, mut two) = (frames(&stand).await, frames(&stand).await);
    let run = |name: &str| {
        let mut out = Vec::new();
        put_frame(&mut out, b'B', &[b"\0", name.as_bytes(), &[0; 7]].concat());
        put_frame(&mut out, b'D', b"P\0");
        put_frame(&mut out, b'E', &[0; 5]);
        put_frame(&mut out, b'S', b"");
        out
    };
    // The same text under two names, and another text under one of them.
    one.prepare("a", "SELECT 1").await.unwrap();
    two.prepare("b", "SELECT 1").await.unwrap();
    two.prepare("a", "SELECT 'two', 2").await.unwrap();
    for _ in 0..2 {
        send_bytes(&mut one, &run("a")).await;
        assert_eq!(one.tags_until_ready().await, "2TDCZ");
        for name in ["b", "a"] {
            send_bytes(&mut two, &run(name)).await;
            assert_eq!(two.tags_until_ready().await, "2TDCZ");
        }
    }
    // A name of one's own that is taken, one that is not there, one that was closed.
    assert_eq!(one.prepare("a", "SELECT 3").await.unwrap_err().sqlstate, "42P05");
    assert_eq!(one.tags_until_ready().await, "Z");
    send_bytes(&mut one, &run("b")).await;
    assert_eq!(one.ready().await.unwrap_err().sqlstate, "26000");
    assert_eq!(one.tags_until_ready().await, "Z");
    let mut close = Vec::new();
    put_frame(&mut close, b'C', b"Sa\0");
    put_frame(&mut close, b'S', b"");
    send_bytes(&mut one, &close).await;
    assert_eq!(one.tags_until_ready().await, "3Z");
    send_bytes(&mut one, &run("a")).await;
    assert_eq!(one.ready().await.unwrap_err().sqlstate, "26000");
    assert_eq!(one.tags_until_ready().await, "Z");
    send_bytes(&mut two, &run("a")).await;
    assert_eq!(two.tags_until_ready().await, "2TDCZ", "the other one's is still there");
    // DEALLOCATE in SQL, of one and of all.
    two.query("DEALLOCATE b").await.unwrap();
    send_bytes(&mut two, &run("b")).await;
    assert_eq!(two.ready().await.unwrap_err().sqlstate, "26000");
    assert_eq!(two.tags_until_ready().await, "Z");
    one.prepare("c", "SELECT 'two', 2").await.unwrap();
    two.query("DEALLOCATE ALL").await.unwrap();
    send_bytes(&mut two, &run("a")).await;
    assert_eq!(two.ready().await.unwrap_err().sqlstate, "26000");
    assert_eq!(two.tags_until_ready().await, "Z");
    send_bytes(&mut one, &run("c")).await;
    assert_eq!(one.tags_until_ready().await, "2TDCZ");
    // An error in the middle of a pipeline: what came after it was not done.
    let mut out = Vec::new();
    put_frame(&mut out, b'P', b"d\0SELECT 4\0\0\0");
    put_frame(&mut out, b'P', b"e\0SELECT 1/0 FROM nowhere\0\0\0");
    put_frame(&mut out, b'P', b"f\0SELECT 6\0\0\0");
    put_frame(&mut out, b'C', b"Sc\0");
    put_frame(&mut out, b'S', b"");
    send_bytes(&mut one, &out).await;
    assert_eq!(one.tags_until_ready().await, "1EZ");
    for (name, there) in [("d", true), ("e", false), ("f", false), ("c", true)] {
        send_bytes(&mut one, &run(name)).await;
        match there {
            true => assert_eq!(one.tags_until_ready().await, "2TDCZ", "{name}"),
            false => assert_eq!(one.tags_until_ready().await, "EZ", "{name}"),
        }
    }
    // A new server knows none of them.
    let pids = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' \
                AND pid <> pg_backend_pid()";
    postgres.admin().await.batch_execute(pids).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    send_bytes(&mut one, &run("d")).await;
    assert_eq!(one.tags_until_ready().await, "2TDCZ");
}

async fn frames(stand: &Stand) -> Client {
    let mut client =
        Client::knock_with(stand.read_write(), &[("user", "postgres"), ("database", "postgres")]).await;
    client.ready().await.expect("the login succeeds");
    client
}

async fn send(client: &mut Client, messages: &[(u8, &[u8])]) {
    let mut out = Vec::new();
    messages.iter().for_each(|(tag, body)| put_frame(&mut out, *tag, body));
    send_bytes(client, &out).await;
}

async fn send_bytes(client: &mut Client, bytes: &[u8]) {
    tokio::io::AsyncWriteExt::write_all(&mut client.stream, bytes).await.unwrap();
}

/// The end of an answer waits for its client after the server was given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_gets_all_of_its_answer() {
    let (_postgres, stand) = real(1, &[]).await;
    let mut slow = frames(&stand).await;
    for rows in [1, 40, 400] {
        let sql = format!("SELECT repeat('x', 100000) FROM generate_series(1, {rows})\0");
        send(&mut slow, &[(b'Q', sql.as_bytes())]).await;
        sleep(Duration::from_millis(200)).await;
        assert_eq!(slow.tags_until_ready().await.matches('D').count(), rows);
    }
}

/// What comes behind DISCARD ALL in a pipeline is not undone by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_discard_takes_nothing_that_comes_after_it() {
    let (_postgres, stand) = real(1, &[]).await;
    let mut one = frames(&stand).await;
    send(
        &mut one,
        &[(b'Q', b"DISCARD ALL\0"), (b'P', b"s\0SELECT 1\0\0\0"), (b'S', b""), (b'Q', b"LISTEN x\0")],
    )
    .await;
    for tags in ["CZ", "1Z", "CZ"] {
        assert_eq!(one.tags_until_ready().await, tags);
    }
    send(&mut one, &[(b'B', b"\0s\0\0\0\0\0\0\0"), (b'E', &[0; 5]), (b'S', b"")]).await;
    assert_eq!(one.tags_until_ready().await, "2DCZ");
    // It listens, so nobody else has its server.
    one.query("NOTIFY x").await.unwrap();
    let mut other =
        Client::knock_with(stand.read_write(), &[("user", "postgres"), ("database", "postgres")]).await;
    other.ready().await.expect("a log-in has a server of its own");
    one.query("DISCARD ALL").await.unwrap();
    other.query("SELECT 1").await.unwrap();
}

/// A SET that was committed before something failed is not forgotten: nobody else meets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_that_was_committed_in_part_keeps_the_server() {
    let (_postgres, stand) = real(2, &[]).await;
    let (mut one, two) = (frames(&stand).await, open(&stand).await);
    one.query("BEGIN").await.unwrap();
    one.query("SET work_mem = '11MB'").await.unwrap();
    send(&mut one, &[(b'Q', b"COMMIT; SELECT 1/0\0")]).await;
    assert_eq!(one.tags_until_ready().await, "CEZ");
    for _ in 0..4 {
        assert_ne!(value(&two, "SHOW work_mem").await, "11MB");
    }
    // A statement that sets is run once more without being parsed again.
    one.query("DISCARD ALL").await.unwrap();
    one.query("BEGIN").await.unwrap();
    send(&mut one, &[(b'P', b"\0SET work_mem = '12MB'\0\0\0"), (b'S', b"")]).await;
    assert_eq!(one.tags_until_ready().await, "1Z");
    for _ in 0..2 {
        send(&mut one, &[(b'B', &[0; 8]), (b'E', &[0; 5]), (b'S', b"")]).await;
        assert_eq!(one.tags_until_ready().await, "2CZ");
    }
    one.query("COMMIT").await.unwrap();
    for _ in 0..4 {
        assert_ne!(value(&two, "SHOW work_mem").await, "12MB");
    }
}

/// Good-bye behind a request that is still answered.
#[tokio::test]
async fn whoever_says_good_bye_early_leaves_no_dying_server() {
    let (server, stand) = fake(1).await;
    let mut first = Client::login(stand.read_write()).await;
    let mut second = Client::login(stand.read_write()).await;
    for _ in 0..5 {
        send(&mut first, &[(b'Q', b"SELECT 1\0"), (b'X', b"")]).await;
        first.ready().await.unwrap();
        second.query("SELECT 2").await.unwrap();
        first = Client::login(stand.read_write()).await;
    }
    server.until(|seen| seen.open <= 2).await;
}

/// A skipped Parse makes nobody else's unnamed statement one's own; a statement too long to be shared keeps the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_that_did_not_come_about_or_are_too_long() {
    let (_postgres, stand) = real(1, &[]).await;
    let (mut one, mut two) = (frames(&stand).await, frames(&stand).await);
    send(&mut one, &[(b'P', b"\0SELECT 'secret'\0\0\0"), (b'S', b"")]).await;
    assert_eq!(one.tags_until_ready().await, "1Z");
    let skipped: [(u8, &[u8]); 3] =
        [(b'P', b"x\0SELECT 1 FROM\0\0\0"), (b'P', b"\0SELECT 2\0\0\0"), (b'S', b"")];
    send(&mut two, &skipped).await;
    assert_eq!(two.tags_until_ready().await, "EZ");
    send(&mut two, &[(b'B', &[0; 8]), (b'E', &[0; 5]), (b'S', b"")]).await;
    let (mut tag, mut seen) = (0, Vec::new());
    while tag != b'Z' {
        let frame = soon(super::fake::read_frame(&mut two.stream)).await.unwrap();
        (tag, seen) = (frame.0, [seen, frame.1].concat());
    }
    assert!(!String::from_utf8_lossy(&seen).contains("secret"), "nothing of the other one's");
    // 16 KiB of text are looked at; the types behind it go along all the same.
    let statement = |count: u16| {
        let sql = format!("SELECT {}", (1..=count).map(|n| format!("${n}")).collect::<Vec<_>>().join("+"));
        let mut parse = format!("long\0{sql}\0").into_bytes();
        parse.extend_from_slice(&count.to_be_bytes());
        parse.extend(std::iter::repeat_n(23_u32.to_be_bytes(), count.into()).flatten());
        parse
    };
    for count in [10, 1_500, 2_000, 3_000] {
        let parse = statement(count);
        let whole: [(u8, &[u8]); 4] = [(b'P', &parse), (b'D', b"Slong\0"), (b'C', b"Slong\0"), (b'S', b"")];
        send(&mut one, &whole).await;
        assert_eq!(one.tags_until_ready().await, "1tT3Z");
    }
}
