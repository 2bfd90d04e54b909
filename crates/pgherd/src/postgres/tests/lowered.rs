//! The five settings that a standby needs at least as large as its primary's, made smaller.

use super::*;

async fn setting(node: &Server, name: &str) -> String {
    let mut admin = node.admin.lock().await;
    let session = admin.session(&node.layout, node.config.port).await.unwrap();
    let sql = format!("SELECT current_setting('{name}')");
    session.value("read a setting", &sql, DEADLINE).await.unwrap().unwrap()
}

async fn configure<const N: usize>(node: &Server, parameters: [(&str, &str); N]) {
    let mut tunable = Tunable::clone(&node.tunable());
    tunable.parameters.extend(parameters.map(|(name, value)| (name.to_owned(), value.to_owned())));
    node.retune(tunable).await.unwrap();
}

async fn restart(node: &Server) {
    node.stop(StopMode::Fast, DEADLINE).await.unwrap();
    node.start_detached(DEADLINE).await.unwrap();
    await_complete(node).await;
}

/// A primary with large settings, stopped and started as a standby of nobody with small ones configured.
async fn restarted_with_less<const N: usize>(large: [(&str, &str); N], small: [(&str, &str); N]) -> Node {
    let node = node_with("n1", large).await;
    open_primary(&node).await;
    configure(&node, small).await;
    restart(&node).await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_lowers_and_its_standbys_may_follow() {
    let large =
        [("max_connections", "120"), ("max_locks_per_transaction", "99"), ("max_worker_processes", "20")];
    let small =
        [("max_connections", "50"), ("max_locks_per_transaction", "30"), ("max_worker_processes", "7")];
    let one = node_with("n1", large).await;
    open_primary(&one).await;
    let two = standby("n2", &one).await;
    assert_eq!(setting(&two, "max_connections").await, "120");
    configure(&one, small).await;
    configure(&two, small).await;
    let pending = async |node: &Server| {
        let pending = node.settings_state().await.unwrap().pending;
        pending.into_iter().map(|p| (p.name, p.old, p.new, p.primary_first)).collect::<Vec<_>>()
    };
    let expected = |primary_first| {
        [
            ("max_connections", "120", "50"),
            ("max_locks_per_transaction", "99", "30"),
            ("max_worker_processes", "20", "7"),
        ]
        .map(|(name, old, new)| (name.to_owned(), old.to_owned(), new.to_owned(), primary_first))
        .to_vec()
    };
    assert_eq!(pending(&one).await, expected(false));
    assert_eq!(pending(&two).await, expected(true), "a standby keeps what its primary has");

    restart(&one).await;
    assert_eq!(setting(&one, "max_connections").await, "120", "as a standby");
    let (promoted, refused) =
        one.promote_lowering(Timeline(5), "ANY 1 (\"n2\")", &[], DEADLINE).await.unwrap();
    assert_eq!((promoted.timeline, refused), (Timeline(5), None));
    for (name, value) in small {
        assert_eq!(setting(&one, name).await, value);
    }
    let seen = see_primary(&one).await.unwrap();
    assert_eq!((seen.timeline, seen.admission), (Timeline(5), Some(Admission::Quarantined)));
    assert_eq!(seen.synchronous_standby_names, "ANY 1 (\"n2\")");
    assert_eq!(floors::bounds(&one.usable_control().unwrap())[..2], [50, 7]);
    assert!(pending(&one).await.is_empty());

    two.follow(&upstream(&one, "n2")).await.unwrap();
    await_walsender(&one, "n2", promoted.end_of_recovery).await;
    await_position(&two, promoted.end_of_recovery).await;
    eventually("the new values have been replayed", async || {
        (pending(&two).await == expected(false)).then_some(())
    })
    .await;
    restart(&two).await;
    assert_eq!(setting(&two, "max_connections").await, "50");
    two.follow(&upstream(&one, "n2")).await.unwrap();
    await_streaming(&two).await;
}

/// A prepared transaction needs its place: the promotion goes on with the old value, and says why.
#[tokio::test(flavor = "multi_thread")]
async fn what_postgresql_refuses_is_not_lowered() {
    let one = node_with("n1", [("max_prepared_transactions", "5")]).await;
    open_primary(&one).await;
    write(&one, "CREATE TABLE t (i int); BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'p'").await;
    configure(&one, [("max_prepared_transactions", "0")]).await;
    restart(&one).await;
    let (promoted, refused) = one.promote_lowering(Timeline(3), "", &[], DEADLINE).await.unwrap();
    assert_eq!(promoted.timeline, Timeline(3));
    assert!(refused.unwrap().contains("prepared transactions"));
    assert_eq!(setting(&one, "max_prepared_transactions").await, "5");
    one.admit().await.unwrap();
    write(&one, "COMMIT PREPARED 'p'").await;
}

/// A line that is read after ours must not keep a standby from starting, and counts once it may.
#[tokio::test(flavor = "multi_thread")]
async fn alter_system_may_lower_too() {
    let one = node_with("n1", [("max_connections", "120")]).await;
    open_primary(&one).await;
    write(&one, "ALTER SYSTEM SET max_connections = 60").await;
    restart(&one).await;
    assert_eq!(setting(&one, "max_connections").await, "120");
    let pending = one.settings_state().await.unwrap().pending;
    assert_eq!((pending[0].old.as_str(), pending[0].new.as_str()), ("120", "60"));
    one.promote_lowering(Timeline(3), "", &[], DEADLINE).await.unwrap();
    assert_eq!(setting(&one, "max_connections").await, "60");
}

/// Nothing to lower is an ordinary promotion, without another start.
#[tokio::test(flavor = "multi_thread")]
async fn with_nothing_to_lower_the_server_is_not_started_again() {
    let one = restarted_with_less([("max_connections", "120")], [("max_connections", "130")]).await;
    let pid = one.adopt().unwrap().unwrap().pid;
    one.promote_lowering(Timeline(3), "", &[], DEADLINE).await.unwrap();
    assert_eq!(one.adopt().unwrap().unwrap().pid, pid);
    assert_eq!(setting(&one, "max_connections").await, "130");
}
