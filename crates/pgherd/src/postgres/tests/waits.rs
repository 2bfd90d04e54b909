//! The question that stands before a cancel.

use super::*;

#[tokio::test]
async fn a_process_that_waits_for_a_standby_is_known_to_whoever_has_the_password() {
    let node = primary("n1").await;
    let address = format!("127.0.0.1:{}", node.config.port);
    let (question, password) = (SyncRepQuestion::default(), passwords().rewind);
    let session = client(&node).await.unwrap();
    session.0.batch_execute("CREATE TABLE t (a int)").await.unwrap();
    let pid: i32 = session.0.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let ask = async || question.ask(&address, pid as u32, &password).await;
    assert_eq!(ask().await, Some(false));
    assert_eq!(question.ask(&address, 1, &password).await, Some(false), "no process of that server");
    assert_eq!(SyncRepQuestion::default().ask(&address, pid as u32, "wrong").await, None);
    node.apply_sync(&["nobody_at_all".into()], 1, Method::Quorum, &[]).await.unwrap();
    let insert = session.0.batch_execute("INSERT INTO t VALUES (1)");
    let waits = eventually("the wait is seen", async || (ask().await == Some(true)).then_some(()));
    tokio::select! {
        inserted = insert => panic!("acknowledged by nobody: {inserted:?}"),
        () = waits => {}
    }
}
