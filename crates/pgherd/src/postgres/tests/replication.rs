//! Two servers: cloning, following, sync sets, detaching, positions.

use std::collections::BTreeSet;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_follows_and_the_sync_set_comes_into_force() {
    let one = primary("n1").await;
    let wanted = BTreeSet::from(["n2_slot".to_owned(), "n3_slot".to_owned()]);
    one.ensure_slots(&wanted, |_| true).await.unwrap();
    let two = standby("n2_t2", &one).await;
    let by_slot = Upstream { slot_name: Some("n2_slot".into()), ..upstream(&one, "n2_t2") };
    two.follow(&by_slot).await.unwrap();
    let credential = two.layout.credentials().unwrap();
    assert_eq!(credential.len(), 1, "one for the present following, none for the former");
    two.follow(&by_slot).await.unwrap();
    assert_eq!(two.layout.credentials().unwrap(), credential, "the same again changes nothing");
    let seen = eventually("the slot is used", async || {
        see_primary(&one).await?.slots.into_iter().find(|slot| slot.active)
    })
    .await;
    assert_eq!(seen.slot_name, "n2_slot");
    one.ensure_slots(&BTreeSet::new(), |name| name.starts_with('n')).await.unwrap();
    assert_eq!(see_primary(&one).await.unwrap().slots.len(), 1, "the active one stays");

    let applied = one.apply_sync(&["n2_t2".into()], 1, Method::Quorum, &[]).await.unwrap();
    let walsender = await_walsender(&one, "n2_t2", applied.lsn).await;
    assert_eq!(walsender.sync_state.as_deref(), Some("quorum"));
    let lsn = write(&one, "CREATE TABLE t AS SELECT 1 AS i").await;
    let position = await_position(&two, lsn).await;
    assert_eq!(position.timeline, Timeline(2));
    let seen = see_standby(&two).await.unwrap();
    assert_eq!(seen.following.as_deref(), Some("n2_t2"));
    assert!(seen.complete && seen.receiver_present);
    assert_eq!(seen.synchronous_standby_names, NOBODY);
    assert_eq!(seen.system_id, see_primary(&one).await.unwrap().system_id);

    // A commit waits when the one member has gone, and a removal gets through all the same.
    two.detach().await.unwrap();
    let blocked = client(&one).await.unwrap();
    let mut commit = tokio::spawn(async move { blocked.0.batch_execute("INSERT INTO t VALUES (2)").await });
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut commit).await.is_err(), "it waits");
    one.apply_sync(&[], 0, Method::Quorum, &[]).await.unwrap();
    commit.await.unwrap().unwrap();
    let applied = one.apply_sync(&[], 1, Method::Quorum, &[]).await.unwrap();
    assert!(applied.lsn > lsn);
    assert_eq!(see_primary(&one).await.unwrap().synchronous_standby_names, NOBODY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walsender_that_does_not_read_its_configuration_is_not_taken_for_one_that_did() {
    let one = primary("n1").await;
    let _two = standby("n2", &one).await;
    let applied = one.apply_sync(&["n2".into()], 1, Method::Quorum, &[]).await.unwrap();
    let walsender = await_walsender(&one, "n2", applied.lsn).await;
    process::signal(&one.layout.data, walsender.pid, rustix::process::Signal::STOP);
    let error = one.apply_sync(&["n2".into(), "n3".into()], 2, Method::Quorum, &[]).await.unwrap_err();
    assert!(matches!(&error, Error::NotInForce { pids } if *pids == [walsender.pid]), "{error}");
    process::signal(&one.layout.data, walsender.pid, rustix::process::Signal::CONT);
    one.apply_sync(&["n2".into(), "n3".into()], 1, Method::Quorum, &[]).await.unwrap();
}

/// CHECKS B2: emptying `primary_conninfo` alone leaves the receiver acknowledging while replay waits for a query.
#[tokio::test(flavor = "multi_thread")]
async fn detaching_stops_acknowledgements_while_replay_is_stuck() {
    let one = primary("n1").await;
    write(&one, "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) AS i").await;
    let two = standby("n2", &one).await;
    await_position(&two, see_primary(&one).await.unwrap().flush_lsn).await;
    two.admit().await.unwrap();
    let reader = eventually("the standby shows the table", async || {
        let reader = client(&two).await.ok()?;
        reader.0.batch_execute("BEGIN; DECLARE c CURSOR FOR SELECT * FROM t; FETCH 1 FROM c").await.ok()?;
        Some(reader)
    })
    .await;
    write(&one, "DROP TABLE t").await;
    let later = write(&one, "CREATE TABLE u AS SELECT 1").await;
    await_walsender(&one, "n2", later).await;
    let stuck = see_standby(&two).await.unwrap();
    assert!(stuck.replay_lsn < stuck.receive_lsn, "replay is held by the query: {stuck:?}");

    two.detach().await.unwrap();
    let answer = see_standby(&two).await.unwrap();
    assert!(!answer.receiver_present && answer.complete && answer.following.is_none());
    assert!(answer.position.unwrap().lsn >= later, "what was acknowledged is answered for");
    let lost = write(&one, "CREATE TABLE v AS SELECT 1").await;
    let again = see_standby(&two).await.unwrap();
    assert!(!again.receiver_present && again.position.unwrap().lsn < lost);
    assert_eq!(two.layout.credentials().unwrap(), Vec::<std::path::PathBuf>::new());
    reader.0.batch_execute("COMMIT").await.unwrap();
    let end = answer.position.unwrap().lsn;
    eventually("replay goes on to the end", async || {
        see_standby(&two).await.filter(|seen| seen.replay_lsn >= Some(end))
    })
    .await;
    let after = see_standby(&two).await.unwrap();
    assert_eq!((after.position, after.receiver_present), (answer.position, false));
}

/// CHECKS A4: after a restart with no upstream the answer is what was flushed, not the segment's start.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_standby_answers_with_all_it_has_flushed() {
    let one = primary("n1").await;
    let two = standby("n2", &one).await;
    write(&one, "CREATE TABLE t AS SELECT i FROM generate_series(1, 10000) AS i").await;
    // The end of a whole record: the flush LSN itself may lie inside one.
    let lsn = one.probe_write(DEADLINE).await.unwrap();
    await_walsender(&one, "n2", lsn).await;
    let pid = one.adopt().unwrap().unwrap().pid;
    process::signal(&one.layout.data, pid, rustix::process::Signal::KILL);
    let pid = two.adopt().unwrap().unwrap().pid;
    process::signal(&two.layout.data, pid, rustix::process::Signal::KILL);
    two.exit_watch().await.unwrap();
    two.start_detached(DEADLINE).await.unwrap();
    let seen = await_complete(&two).await;
    let position = seen.position.unwrap();
    assert!(position.lsn >= lsn && position.timeline == Timeline(2), "{position:?}, flushed {lsn}");
    // Asked to follow a server that is dead, it requests the segment's start and must not answer with that.
    two.follow(&upstream(&one, "n2")).await.unwrap();
    let asked = eventually("a receiver was requested", async || {
        see_standby(&two).await.filter(|seen| seen.receive_lsn.is_some())
    })
    .await;
    assert!(asked.receive_lsn.unwrap() < lsn, "{asked:?}");
    assert_eq!(asked.position, Some(position));
}

/// A standby refuses to start with less than its primary had; the control file knows how much that was.
#[tokio::test(flavor = "multi_thread")]
async fn a_clone_with_smaller_limits_of_its_own_starts() {
    let one = node_with("n1", [("max_connections", "120"), ("max_locks_per_transaction", "99")]).await;
    open_primary(&one).await;
    let two = node_with("n2", [("max_connections", "40")]).await;
    follow_as_clone(&two, &one).await;
}

/// From no sync set to one: an agent that died half way leaves the proof to the next.
#[tokio::test(flavor = "multi_thread")]
async fn leaving_asynchronous_mode_is_proved_by_a_checkpoint() {
    let one = primary("n1").await;
    let before = one.usable_control().unwrap().checkpoint;
    let half_way = one.write_settings(|dynamic| {
        dynamic.synchronous_standby_names = standby_names(&["n2".into()], 1, Method::Quorum).unwrap();
        dynamic.sync_unproven = true;
    });
    half_way.await.unwrap();
    one.apply_sync(&["n2".into()], 1, Method::Quorum, &[]).await.unwrap();
    let after = one.usable_control().unwrap().checkpoint;
    assert!(after > before);
    one.apply_sync(&["n2".into(), "n3".into()], 1, Method::Quorum, &[]).await.unwrap();
    assert_eq!(one.usable_control().unwrap().checkpoint, after, "not needed from set to set");
}

/// What lies unread in pg_wal may hold acknowledged commits: until it is read the answer is *not yet*.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_standby_that_has_not_read_its_wal_is_not_complete() {
    let one = primary("n1").await;
    let two = node_with("n2", [("recovery_min_apply_delay", "1h")]).await;
    follow_as_clone(&two, &one).await;
    write(&one, "CREATE TABLE t AS SELECT 1 AS i").await;
    let lsn = one.probe_write(DEADLINE).await.unwrap();
    await_walsender(&one, "n2", lsn).await;
    let seen = see_standby(&two).await.unwrap();
    assert!(seen.complete && seen.position.unwrap().lsn >= lsn, "received, though not replayed: {seen:?}");
    let pid = two.adopt().unwrap().unwrap().pid;
    process::signal(&two.layout.data, pid, rustix::process::Signal::KILL);
    two.exit_watch().await.unwrap();
    two.start_detached(DEADLINE).await.unwrap();
    let delayed = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'RecoveryApplyDelay'";
    eventually("replay waits at the first commit", async || {
        let mut admin = two.admin.lock().await;
        let session = admin.session(&two.layout, two.config.port).await.unwrap();
        session.value("look at replay", delayed, DEADLINE).await.unwrap()
    })
    .await;
    let seen = see_standby(&two).await.unwrap();
    assert!(!seen.complete && seen.replay_lsn < Some(lsn), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_not_let_in_says_so_and_one_whose_wal_is_gone_says_that() {
    let one = primary("n1").await;
    let two = standby("n2", &one).await;
    let begin = two.receiver_says(None).await.1;
    let hba = one.layout.hba();
    let before = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("host replication all all reject\n{before}")).unwrap();
    let admin = client(&one).await.unwrap();
    admin.0.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let walsender = see_primary(&one).await.unwrap().walsenders[0].pid;
    process::signal(&one.layout.data, walsender, rustix::process::Signal::TERM);
    let words =
        eventually("the receiver is refused", async || match two.receiver_says(Some(begin)).await.0? {
            ReceiverSays::Ended { words, copy_helps: false } => Some(words),
            _ => None,
        })
        .await;
    assert!(words.contains("pg_hba.conf rejects replication connection"), "{words}");
    std::fs::write(&hba, before).unwrap();
    admin.0.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually("it streams", async || {
        (two.receiver_says(Some(begin)).await.0? == ReceiverSays::Streams).then_some(())
    })
    .await;

    two.detach().await.unwrap();
    let next = see_standby(&two).await.unwrap().position.unwrap();
    let segment =
        format!("{:08X}{:08X}{:08X}", next.timeline.0, next.lsn.0 >> 32, (next.lsn.0 & 0xFFFF_FFFF) >> 24);
    write(&one, "SELECT pg_logical_emit_message(false, 'test', 'ends it'); SELECT pg_switch_wal()").await;
    std::fs::remove_file(one.layout.wal().join(segment)).unwrap();
    let begin = two.receiver_says(None).await.1;
    two.follow(&upstream(&one, "n2")).await.unwrap();
    eventually("the WAL is gone", async || match two.receiver_says(Some(begin)).await.0? {
        ReceiverSays::Ended { words, copy_helps: true } => {
            words.contains("has already been removed").then_some(())
        }
        _ => None,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_from_a_former_primary_is_cut_off_and_does_not_come_back() {
    let one = primary("n1").await;
    one.ensure_slots(&["n2_slot".to_owned()].into(), |_| false).await.unwrap();
    let two = standby("n2", &one).await;
    two.follow(&Upstream { slot_name: Some("n2_slot".into()), ..upstream(&one, "n2") }).await.unwrap();
    eventually("the slot is used", async || {
        see_primary(&one).await?.slots.into_iter().find(|slot| slot.active).map(drop)
    })
    .await;
    let begin = two.receiver_says(None).await.1;
    one.end_slots(|name| name.starts_with('n')).await.unwrap();
    assert!(see_primary(&one).await.unwrap().slots.is_empty());
    eventually("its receiver says why", async || match two.receiver_says(Some(begin)).await.0? {
        ReceiverSays::Ended { words, copy_helps: false } => words.contains("does not exist").then_some(()),
        _ => None,
    })
    .await;
    // It knocks again every five seconds, and what answers lives until it has refused.
    eventually("no walsender stays", async || see_primary(&one).await?.walsenders.is_empty().then_some(()))
        .await;
}
