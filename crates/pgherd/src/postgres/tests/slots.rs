//! Slots that survive a promotion, on every major in its own way, and the server's part in it.

use super::*;

const SLOT: &str = "feed";

/// A node whose server can have logical slots.
async fn logical_node(name: &str) -> Node {
    let dir = tempfile::Builder::new().prefix("pgherd-").tempdir_in("/tmp").unwrap();
    let mut config = config_in(&dir, name);
    config.tunable.slots = SlotSettings { declared: 2, logical: true, budget_bytes_max: 0 };
    let server = Server::new(config, installation().await).await.unwrap();
    Node { server, _dir: dir }
}

/// A primary with the slot [`SLOT`] and a standby that follows by a slot of its own, `n2_slot`.
async fn pair() -> (Node, Node) {
    let one = logical_node("n1").await;
    open_primary(&one).await;
    one.ensure_slots(&["n2_slot".to_owned()].into(), |_| false).await.unwrap();
    write(&one, "CREATE TABLE t (i int)").await;
    one.create_logical_slot(SLOT, "postgres", "test_decoding").await.unwrap();
    let two = logical_node("n2").await;
    follow_as_clone(&two, &one).await;
    two.follow(&by_slot(&one)).await.unwrap();
    await_streaming(&two).await;
    (one, two)
}

fn by_slot(one: &Node) -> Upstream {
    Upstream { slot_name: Some("n2_slot".into()), ..upstream(one, "n2") }
}

async fn row(node: &Server, name: &str) -> Option<SlotRow> {
    node.slots().await.unwrap().slots.into_iter().find(|row| row.slot_name == name)
}

/// What a consumer reads, and thereby confirms: the rows inserted into `t`.
async fn consume(node: &Server) -> Vec<i32> {
    let sql = "SELECT data FROM pg_logical_slot_get_changes('feed', NULL, NULL)";
    let rows = client(node).await.unwrap().0.query(sql, &[]).await.unwrap();
    let inserted =
        rows.iter().filter_map(|row| row.get::<_, &str>(0).split_once("i[integer]:")?.1.parse().ok());
    inserted.collect()
}

async fn insert(node: &Node, value: i32) -> Lsn {
    write(node, &format!("INSERT INTO t VALUES ({value})")).await
}

fn kill(node: &Node) {
    let pid = node.adopt().unwrap().unwrap().pid;
    process::signal(&node.layout.data, pid, rustix::process::Signal::KILL);
}

async fn replayed(node: &Node, lsn: Lsn) {
    eventually("it is replayed", async || {
        see_standby(node).await.filter(|seen| seen.replay_lsn >= Some(lsn))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_physical_copy_follows_its_slot_and_an_advance_on_a_primary_does_nothing() {
    let one = primary("n1").await;
    let two = standby("n2", &one).await;
    one.create_physical_slot("tape", true).await.unwrap();
    two.create_physical_slot("tape", true).await.unwrap();
    let lsn = write(&one, "CREATE TABLE t AS SELECT i FROM generate_series(1, 10000) AS i").await;
    replayed(&two, lsn).await;
    two.advance_slot("tape", None, lsn).await.unwrap();
    assert_eq!(row(&two, "tape").await.unwrap().restart_lsn, Some(lsn));
    let before = row(&one, "tape").await.unwrap();
    one.advance_slot("tape", None, lsn).await.unwrap();
    assert_eq!(row(&one, "tape").await.unwrap(), before, "on a primary a slot is its consumer's");
    assert!(one.drop_slot("tape").await.unwrap());
    assert!(!one.drop_slot("tape").await.unwrap(), "it is not there any more");
}

/// 15 and 16: the slot's state comes with a restart, and is advanced on the standby.
#[tokio::test(flavor = "multi_thread")]
async fn a_copied_logical_slot_goes_on_where_its_consumer_had_confirmed() {
    if installation().await.major > COPIES_UNTIL {
        return;
    }
    let (one, two) = pair().await;
    insert(&one, 1).await;
    assert_eq!(consume(&one).await, [1]);

    let copies = one.fetch_slots(&rewind_source(&one), &[SLOT.to_owned(), "none".to_owned()]).await.unwrap();
    assert_eq!(copies.iter().map(|copy| copy.name.as_str()).collect::<Vec<_>>(), [SLOT]);
    assert!(two.place_slots(&copies).is_err(), "never under a running server");
    two.stop(StopMode::Fast, DEADLINE).await.unwrap();
    assert_eq!(two.place_slots(&copies).unwrap(), Vec::<String>::new());
    assert_eq!(two.place_slots(&copies).unwrap(), Vec::<String>::new(), "what is there stays");
    two.start_detached(DEADLINE).await.unwrap();
    two.follow(&by_slot(&one)).await.unwrap();
    await_streaming(&two).await;

    insert(&one, 2).await;
    assert_eq!(consume(&one).await, [2]);
    let confirmed = row(&one, SLOT).await.unwrap().confirmed_flush_lsn.unwrap();
    let lsn = insert(&one, 3).await;
    replayed(&two, lsn).await;
    two.advance_slot(SLOT, Some("postgres"), confirmed).await.unwrap();
    assert_eq!(row(&two, SLOT).await.unwrap().confirmed_flush_lsn, Some(confirmed));
    eventually("the primary keeps catalog rows for the standby", async || {
        row(&one, "n2_slot").await?.catalog_xmin
    })
    .await;

    kill(&one);
    two.promote(Timeline(3), "", &[], DEADLINE).await.unwrap();
    two.admit().await.unwrap();
    insert(&two, 4).await;
    assert_eq!(consume(&two).await, [3, 4], "no gap and nothing twice");
}

/// A copy that needs WAL which is not here would be a slot that cannot be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_without_its_wal_is_not_placed() {
    if installation().await.major > COPIES_UNTIL {
        return;
    }
    let (one, two) = pair().await;
    let copies = one.fetch_slots(&rewind_source(&one), &[SLOT.to_owned()]).await.unwrap();
    two.stop(StopMode::Fast, DEADLINE).await.unwrap();
    let segment = std::fs::read_dir(two.layout.wal()).unwrap().flatten().map(|entry| entry.path());
    for path in segment.filter(|path| path.file_name().unwrap().len() == 24) {
        std::fs::rename(&path, two.layout.dir.join(path.file_name().unwrap())).unwrap();
    }
    assert_eq!(two.place_slots(&copies).unwrap(), [SLOT]);
    assert!(!two.layout.data.join("pg_replslot").join(SLOT).exists());
}

/// 17 and newer: PostgreSQL synchronizes the slot, and a consumer is sent nothing that the members lack.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_slot_is_synchronized_and_waits_for_the_members() {
    if installation().await.major < FAILOVER_SLOTS {
        return;
    }
    let (one, two) = pair().await;
    assert!(row(&one, SLOT).await.unwrap().failover);
    one.apply_sync(&["n2".into()], 1, Method::Quorum, &["n2_slot".into()]).await.unwrap();
    insert(&one, 1).await;
    assert_eq!(consume(&one).await, [1]);
    eventually("the standby has the slot for good", async || {
        // Its consumer has to move for PostgreSQL to make it permanent.
        write(&one, "SELECT pg_log_standby_snapshot()").await;
        consume(&one).await;
        row(&two, SLOT).await.filter(|row| row.synced && !row.temporary && row.lost().is_none())
    })
    .await;

    // A member that does not confirm holds the consumer back, and one that leaves the set does not.
    two.detach().await.unwrap();
    one.apply_sync(&[], 0, Method::Quorum, &["n2_slot".into()]).await.unwrap();
    insert(&one, 2).await;
    let reader = client(&one).await.unwrap();
    let held = reader.0.query("SELECT data FROM pg_logical_slot_peek_changes('feed', NULL, NULL)", &[]);
    tokio::pin!(held);
    assert!(tokio::time::timeout(Duration::from_secs(1), &mut held).await.is_err(), "n2 has not flushed it");
    one.apply_sync(&[], 0, Method::Quorum, &[]).await.unwrap();
    // Until it has its answer the slot is its own.
    let seen = tokio::time::timeout(DEADLINE, held).await.expect("nobody is waited for any more").unwrap();
    assert!(seen.iter().any(|row| row.get::<_, &str>(0).ends_with("i[integer]:2")));
    two.follow(&by_slot(&one)).await.unwrap();
    assert_eq!(consume(&one).await, [2]);
    let lsn = insert(&one, 3).await;
    replayed(&two, lsn).await;
    let confirmed = row(&one, SLOT).await.unwrap().confirmed_flush_lsn;
    eventually("the copy is where the slot is", async || {
        row(&two, SLOT).await.filter(|row| row.confirmed_flush_lsn >= confirmed)
    })
    .await;

    kill(&one);
    two.promote(Timeline(3), "ANY 1 (\"n3\")", &["n3_slot".into()], DEADLINE).await.unwrap();
    assert_eq!(two.dynamic().synchronized_standby_slots.as_deref(), Some("n3_slot"));
    two.apply_sync(&[], 0, Method::Quorum, &[]).await.unwrap();
    two.admit().await.unwrap();
    insert(&two, 4).await;
    assert_eq!(consume(&two).await, [3, 4], "no gap and nothing twice");
}

/// PostgreSQL's slot synchronization waits for a frozen primary for ever, and a promotion waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_does_not_wait_for_a_frozen_primary() {
    let (one, two) = pair().await;
    if two.installation.major >= FAILOVER_SLOTS {
        eventually("slots are synchronized", async || row(&two, SLOT).await).await;
    }
    for pid in process::all_of(&one.layout.data) {
        process::signal(&one.layout.data, pid, rustix::process::Signal::STOP);
    }
    if two.installation.major >= FAILOVER_SLOTS {
        const WAITS: &str = "SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'slotsync worker'";
        eventually("the synchronization waits for the primary", async || {
            let mut session = session::Session::open(&two.layout, two.config.port, DEADLINE).await.ok()?;
            let event = session.value("look at the worker", WAITS, DEADLINE).await.ok()??;
            event.starts_with("Libpqwalreceiver").then_some(())
        })
        .await;
    }
    let begun = Instant::now();
    two.promote(Timeline(3), "", &[], DEADLINE).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_are_not_ready_go_before_a_promotion_whatever_uses_them() {
    let (one, two) = pair().await;
    two.create_physical_slot("a", false).await.unwrap();
    two.create_physical_slot("b", true).await.unwrap();
    two.drop_slots_in_use(&["a".to_owned(), "c".to_owned()]).await.unwrap();
    assert!(row(&two, "a").await.is_none() && row(&two, "b").await.is_some());
    one.drop_slots_in_use(&["n2_slot".to_owned()]).await.unwrap();
    assert!(row(&one, "n2_slot").await.is_none(), "although a walsender used it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_of_a_standby_that_streams_elsewhere_goes_with_it_and_holds_back_no_rows() {
    let (one, two) = pair().await;
    eventually("its feedback to be in the slot", async || {
        row(&one, "n2_slot").await.filter(|row| row.xmin.is_some() || row.catalog_xmin.is_some())
    })
    .await;
    two.detach().await.unwrap();
    let idle =
        eventually("the slot to be idle", async || row(&one, "n2_slot").await.filter(|row| !row.active))
            .await;
    let lsn = insert(&one, 1).await;
    one.advance_member_slot(&idle, lsn).await.unwrap();
    let moved = row(&one, "n2_slot").await.unwrap();
    assert_eq!((moved.restart_lsn, moved.xmin, moved.catalog_xmin), (Some(lsn), None, None));
    // Once more, with nothing left of the feedback.
    let lsn = insert(&one, 2).await;
    one.advance_member_slot(&moved, lsn).await.unwrap();
    assert_eq!(row(&one, "n2_slot").await.unwrap().restart_lsn, Some(lsn));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_standby_loses_the_slots_that_are_ours_and_no_other() {
    let one = primary("n1").await;
    let two = standby("n2", &one).await;
    for name in ["pgherd_n3_1", "tape"] {
        two.create_physical_slot(name, true).await.unwrap();
    }
    let ours = |name: &str| name.starts_with("pgherd_");
    assert!(two.discard_slots(ours).is_err(), "it runs");
    two.stop(StopMode::Fast, DEADLINE).await.unwrap();
    two.discard_slots(ours).unwrap();
    two.start_detached(DEADLINE).await.unwrap();
    assert!(row(&two, "pgherd_n3_1").await.is_none() && row(&two, "tape").await.is_some());
}
