//! A real PostgreSQL behind the proxy: authentication, cancel and COPY as the server means them.

use futures_util::SinkExt;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use super::server::{Postgres, client, connect};
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scram_cancel_copy_and_a_takeover() {
    let postgres = tokio::task::spawn_blocking(|| Postgres::start("scram-sha-256", &[])).await.unwrap();
    let stand = Stand::new(config(), topology(1, Some(&postgres.address), &[])).await;

    // The server may still be starting: the proxy waits for it.
    let mut session = connect(client(stand.read_write(), "secret")).await.unwrap();
    let wrong = connect(client(stand.read_write(), "wrong")).await.unwrap_err();
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
        let other = connect(client(stand.read_write(), "secret")).await.unwrap();
        let sleepers = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        while other.query_one(sleepers, &[]).await.unwrap().get::<_, i64>(0) == 0 {}
        cancel.cancel_query(NoTls).await.unwrap();
    };
    let (slept, ()) = soon(async { tokio::join!(sleeping, cancelling) }).await;
    assert_eq!(slept.unwrap_err().code(), Some(&SqlState::QUERY_CANCELED));

    // After COPY and cancel the books are even again: an open transaction is known to be one.
    let idle = connect(client(stand.read_write(), "secret")).await.unwrap();
    let transaction = session.transaction().await.unwrap();
    transaction.execute("INSERT INTO t VALUES (5000, 'lost')", &[]).await.unwrap();
    let open = connect(client(stand.read_write(), "secret")).await.unwrap();
    stand.topology.send_replace(topology(2, Some(&postgres.address), &[]));
    stand.until(|counts| counts.cuts >= 3).await;
    let told = soon(transaction.query("SELECT 1", &[])).await.unwrap_err();
    assert!(told.is_closed() || told.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{told}");
    for session in [idle, open] {
        assert!(soon(session.batch_execute("SELECT 1")).await.is_err());
    }

    let again = connect(client(stand.read_write(), "secret")).await.unwrap();
    let count = again.query_one("SELECT count(*) FROM t", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 1000, "the open transaction left nothing");
}
