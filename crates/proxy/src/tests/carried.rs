//! What sessions that share servers read, each by its own settings.

use tokio::io::AsyncWriteExt;
use tokio_postgres::error::SqlState;
use wire::message::put_frame;

use super::fake::Client;
use super::pools::{open, real, value};
use super::*;

/// Sessions that take servers and leave them changed, so that nobody finds its own again by chance.
struct Crowd(Vec<tokio_postgres::Client>);

impl Crowd {
    async fn new(stand: &Stand, size: usize) -> Crowd {
        let mut sessions = Vec::new();
        for n in 1..=size {
            let session = open(stand).await;
            session.batch_execute(&format!("SET work_mem = '{n}MB'")).await.unwrap();
            sessions.push(session);
        }
        Crowd(sessions)
    }

    /// Has all servers but one in transactions while `act` runs.
    async fn around<T>(&self, act: impl Future<Output = T>) -> T {
        for session in &self.0 {
            session.batch_execute("BEGIN; SELECT 1").await.unwrap();
        }
        let done = act.await;
        for session in &self.0 {
            session.batch_execute("COMMIT").await.unwrap();
        }
        done
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_is_nobody_elses_that_was_read_by_what_a_transaction_had_set() {
    // Who has set it for good keeps its server.
    let (_postgres, stand) = real(2, &[]).await;
    let text = "SELECT date '01/02/2020'::text";
    for set in ["SET LOCAL DateStyle = 'ISO, DMY'", "SET DateStyle = 'ISO, DMY'"] {
        for end in ["COMMIT", "ROLLBACK"] {
            let (one, other) = (open(&stand).await, open(&stand).await);
            one.batch_execute("BEGIN").await.unwrap();
            one.batch_execute(set).await.unwrap();
            let read = one.prepare(text).await.unwrap();
            assert_eq!(one.query_one(&read, &[]).await.unwrap().get::<_, &str>(0), "2020-02-01");
            one.batch_execute(end).await.unwrap();
            let read = other.prepare(text).await.unwrap();
            let date = other.query_one(&read, &[]).await.unwrap();
            assert_eq!(date.get::<_, &str>(0), "2020-01-02", "{set} {end}");
            one.batch_execute("DISCARD ALL").await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_of_a_transaction_is_asked_for_its_own_rights() {
    let (postgres, stand) = real(1, &[]).await;
    let sql =
        "CREATE ROLE joe; CREATE SCHEMA priv; CREATE TABLE priv.t (a int); GRANT SELECT ON priv.t TO joe";
    postgres.admin().await.batch_execute(sql).await.unwrap();
    let (owner, joe) = (open(&stand).await, open(&stand).await);
    let text = "SELECT * FROM priv.t";
    drop(owner.prepare(text).await.unwrap());
    joe.batch_execute("BEGIN; SET LOCAL ROLE joe").await.unwrap();
    let refused = joe.prepare(text).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    // In the failed transaction PostgreSQL takes nothing more, shared or not.
    let refused = joe.prepare(text).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    joe.batch_execute("ROLLBACK").await.unwrap();
    joe.prepare(text).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_keeps_its_reading_when_the_session_sets_another() {
    let (_postgres, stand) = real(3, &[]).await;
    let (crowd, session, other) = (Crowd::new(&stand, 1).await, open(&stand).await, open(&stand).await);
    session.batch_execute("SET DateStyle = 'ISO, DMY'").await.unwrap();
    let text = "SELECT date '05/06/2020'::text";
    let read = session.prepare(text).await.unwrap();
    session.batch_execute("SET DateStyle = 'ISO, MDY'").await.unwrap();
    let date = crowd.around(session.query_one(&read, &[])).await.unwrap();
    assert_eq!(date.get::<_, &str>(0), "2020-06-05");
    other.batch_execute("SET DateStyle = 'ISO, DMY'").await.unwrap();
    let read = other.prepare(text).await.unwrap();
    let date = crowd.around(other.query_one(&read, &[])).await.unwrap();
    assert_eq!(date.get::<_, &str>(0), "2020-06-05");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_that_were_left_need_not_be_there_any_more() {
    let (_postgres, stand) = real(2, &[]).await;
    let crowd = Crowd::new(&stand, 1).await;
    for sql in [
        "SET ROLE joe; RESET ROLE",
        "SET ROLE joe; RESET ROLE; SET log_min_duration_statement = -1; RESET ROLE",
        "SET SESSION AUTHORIZATION joe; SET SESSION AUTHORIZATION DEFAULT; SET ROLE bob; SET SESSION AUTHORIZATION DEFAULT",
        "SET ROLE joe; RESET ALL; RESET ROLE",
    ] {
        let session = open(&stand).await;
        session.batch_execute("CREATE ROLE joe; CREATE ROLE bob").await.unwrap();
        for statement in sql.split(';') {
            session.batch_execute(statement).await.unwrap();
        }
        session.batch_execute("DROP ROLE joe; DROP ROLE bob").await.unwrap();
        crowd
            .around(session.batch_execute("SELECT 1"))
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert_eq!(value(&session, "SELECT current_user").await, "postgres", "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_parts_of_the_date_style_go_along() {
    let (_postgres, stand) = real(2, &[]).await;
    let (crowd, session) = (Crowd::new(&stand, 1).await, open(&stand).await);
    session.batch_execute("SET DateStyle = 'German'").await.unwrap();
    session.batch_execute("SET DateStyle = 'YMD'").await.unwrap();
    assert_eq!(crowd.around(value(&session, "SHOW DateStyle")).await, "German, YMD");
    session.batch_execute("RESET ALL").await.unwrap();
    assert_eq!(crowd.around(value(&session, "SHOW DateStyle")).await, "ISO, MDY");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_changes_costs_one_error_at_most() {
    let (_postgres, stand) = real(1, &[]).await;
    let (one, other) = (open(&stand).await, open(&stand).await);
    one.batch_execute("CREATE TABLE t1 (a int)").await.unwrap();
    let text = "SELECT * FROM t1";
    one.query(&one.prepare(text).await.unwrap(), &[]).await.unwrap();
    one.batch_execute("ALTER TABLE t1 ADD b int").await.unwrap();
    let told = other.prepare(text).await;
    assert!(told.is_ok() || told.unwrap_err().code() == Some(&SqlState::FEATURE_NOT_SUPPORTED));
    let fresh = other.prepare(text).await.unwrap();
    assert_eq!(fresh.columns().len(), 2);
    other.query(&fresh, &[]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_that_a_server_does_not_take_is_said_and_left_out() {
    let (_postgres, stand) = real(2, &[]).await;
    let (crowd, session) = (Crowd::new(&stand, 1).await, open(&stand).await);
    session.batch_execute("CREATE TEXT SEARCH CONFIGURATION tc (COPY = simple)").await.unwrap();
    session.batch_execute("SET default_text_search_config = 'public.tc'").await.unwrap();
    session.batch_execute("SET statement_timeout = '7s'").await.unwrap();
    session.batch_execute("DROP TEXT SEARCH CONFIGURATION tc").await.unwrap();
    assert_eq!(crowd.around(value(&session, "SHOW statement_timeout")).await, "7s");
    assert_eq!(crowd.around(value(&session, "SHOW statement_timeout")).await, "7s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_reset_again_and_again_does_not_pile_up() {
    let (_postgres, stand) = real(2, &[]).await;
    let (crowd, session) = (Crowd::new(&stand, 1).await, open(&stand).await);
    for _ in 0..2_000 {
        session.batch_execute("SET a.b = 1; SET a.c = 2").await.unwrap();
        session.batch_execute("RESET ALL").await.unwrap();
    }
    for n in 0..300 {
        session.batch_execute(&format!("SET statement_timeout = {n}; SET lock_timeout = 5")).await.unwrap();
    }
    assert_eq!(crowd.around(value(&session, "SHOW statement_timeout")).await, "299ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failed_request_was_to_prepare_is_prepared_for_the_next() {
    let (_postgres, stand) = real(1, &[]).await;
    let mut client = Client::knock_with(stand.read_write(), &[("user", "postgres")]).await;
    client.ready().await.unwrap();
    let mut out = Vec::new();
    // Two groups at once: what the first cannot prepare is asked for again by the second.
    for name in ["one", "two"] {
        put_frame(&mut out, b'P', format!("{name}\0SELECT * FROM gone\0\0\0").as_bytes());
        put_frame(&mut out, b'D', format!("S{name}\0").as_bytes());
        put_frame(&mut out, b'S', b"");
    }
    client.stream.write_all(&out).await.unwrap();
    for _ in 0..2 {
        assert_eq!(client.ready().await.unwrap_err().sqlstate, "42P01");
        client.ready().await.unwrap();
    }
    // What a failed group skips is there for the next.
    out.clear();
    put_frame(&mut out, b'P', b"bad\0SELECT 1/0\0\0\0");
    put_frame(&mut out, b'B', b"\0bad\0\0\0\0\0\0\0");
    put_frame(&mut out, b'E', b"\0\0\0\0\0");
    put_frame(&mut out, b'P', b"good\0SELECT 1\0\0\0");
    put_frame(&mut out, b'S', b"");
    put_frame(&mut out, b'P', b"other\0SELECT 1\0\0\0");
    put_frame(&mut out, b'B', b"\0other\0\0\0\0\0\0\0");
    put_frame(&mut out, b'E', b"\0\0\0\0\0");
    put_frame(&mut out, b'S', b"");
    client.stream.write_all(&out).await.unwrap();
    assert_eq!(client.ready().await.unwrap_err().sqlstate, "22012");
    client.ready().await.unwrap();
    assert_eq!(client.tags_until_ready().await, "12DCZ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_prepares_a_text_after_a_table_changed_gets_the_types_of_now() {
    // One server: what was prepared there once is still there.
    let (_postgres, stand) = real(1, &[]).await;
    let (one, other) = (open(&stand).await, open(&stand).await);
    let text = "INSERT INTO changes VALUES ($1)";
    let first = async |session: &tokio_postgres::Client| {
        session.prepare(text).await.unwrap().params()[0].name().to_owned()
    };
    one.batch_execute("CREATE TABLE changes (a int)").await.unwrap();
    assert_eq!((first(&one).await, first(&other).await), ("int4".to_owned(), "int4".to_owned()));
    other.batch_execute("ALTER TABLE changes ALTER a TYPE bigint").await.unwrap();
    assert_eq!((first(&one).await, first(&other).await), ("int8".to_owned(), "int8".to_owned()));
    other.batch_execute("DROP TABLE changes; CREATE TABLE changes (a date)").await.unwrap();
    assert_eq!((first(&one).await, first(&other).await), ("date".to_owned(), "date".to_owned()));
    // Within a transaction that takes it back, in part and as a whole.
    one.batch_execute("BEGIN; ALTER TABLE changes ALTER a TYPE text; SAVEPOINT here").await.unwrap();
    assert_eq!(first(&one).await, "text");
    one.batch_execute("ALTER TABLE changes RENAME a TO b; ALTER TABLE changes ALTER b TYPE xml USING b::xml")
        .await
        .unwrap();
    assert_eq!(first(&one).await, "xml");
    one.batch_execute("ROLLBACK TO here").await.unwrap();
    assert_eq!(first(&one).await, "text");
    one.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!((first(&one).await, first(&other).await), ("date".to_owned(), "date".to_owned()));
}
