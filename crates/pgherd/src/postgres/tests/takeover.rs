//! Timelines: promotion to a wanted id, followers across skipped ids, diverged servers.

use std::os::unix::fs::MetadataExt;

use super::*;

/// Ids that an aborted takeover used up are skipped; standbys and the new primary itself find their way across.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_takes_the_recorded_timeline_and_others_follow_across_the_gap() {
    let one = primary("n1").await;
    let two = standby("n2", &one).await;
    let three = standby("n3", &one).await;
    write(&one, "CREATE TABLE t AS SELECT 1 AS i").await;
    let lsn = one.probe_write(DEADLINE).await.unwrap();
    await_position(&two, lsn).await;
    await_position(&three, lsn).await;
    let survivor = {
        two.admit().await.unwrap();
        client(&two).await.unwrap()
    };
    one.stop(StopMode::Immediate, DEADLINE).await.unwrap();
    three.detach().await.unwrap();
    let replayed = async || see_standby(&three).await.filter(|seen| seen.replay_lsn >= Some(lsn))?.position;
    let reached = eventually("replay has caught up", replayed).await;

    let error = two.promote(Timeline(2), "", &[], DEADLINE).await.unwrap_err();
    assert!(matches!(error, Error::Timeline { .. }), "{error}");
    // No checkpoint gets done, so the control file goes on naming timeline 2.
    let children = process::children(two.adopt().unwrap().unwrap().pid);
    let (checkpointer, _) = children.into_iter().find(|(_, title)| title.contains("checkpointer")).unwrap();
    process::signal(&two.layout.data, checkpointer, rustix::process::Signal::STOP);
    let promoted = two.promote(Timeline(5), "ANY 1 (\"n3_t5\")", &[], DEADLINE).await.unwrap();
    assert_eq!(promoted.timeline, Timeline(5));
    assert!(survivor.0.simple_query("SELECT 1").await.is_err(), "sessions do not survive a promotion");
    let seen = see_primary(&two).await.unwrap();
    assert_eq!(seen.admission, Some(Admission::Quarantined));
    assert_eq!(seen.synchronous_standby_names, "ANY 1 (\"n3_t5\")");
    let history = seen.history.unwrap();
    assert_eq!(history.timeline_at(reached.lsn), Timeline(2));
    assert!(history.end_of(Timeline(3)).is_none(), "skipped ids are no ancestors: {history:?}");

    three.follow(&upstream(&two, "n3_t5")).await.unwrap();
    await_walsender(&two, "n3_t5", promoted.end_of_recovery).await;
    let position = await_position(&three, promoted.end_of_recovery).await;
    assert_eq!(position.timeline, Timeline(5));
    assert_eq!(see_standby(&three).await.unwrap().history, Some(history));

    // The new primary crashes before its first checkpoint, and finds its timeline all the same.
    let pid = two.adopt().unwrap().unwrap().pid;
    process::signal(&two.layout.data, pid, rustix::process::Signal::KILL);
    two.exit_watch().await.unwrap();
    assert_eq!(control::read(&two.layout.data).unwrap().checkpoint_timeline, Timeline(2));
    two.start_detached(DEADLINE).await.unwrap();
    let position = await_complete(&two).await.position.unwrap();
    assert_eq!(position.timeline, Timeline(5));
    assert!(position.lsn >= promoted.end_of_recovery);
}

/// What is laid for a promotion that never came must not hide the real file of that id.
#[tokio::test(flavor = "multi_thread")]
async fn empty_history_files_of_an_aborted_promotion_are_taken_away() {
    let one = primary("n1").await;
    let two = standby("n2", &one).await;
    two.skip_to(Timeline(2), Timeline(5)).unwrap();
    assert_eq!(two.history_files().unwrap().len(), 3);
    two.detach().await.unwrap();
    let promoted = {
        one.stop(StopMode::Fast, DEADLINE).await.unwrap();
        one.start_detached(DEADLINE).await.unwrap();
        await_complete(&one).await;
        one.promote(Timeline(3), "", &[], DEADLINE).await.unwrap()
    };
    two.follow(&upstream(&one, "n2")).await.unwrap();
    assert_eq!(await_position(&two, promoted.end_of_recovery).await.timeline, Timeline(3));
}

/// The standby holds more of the old timeline than the new primary's fork: it has the other branch's history file on
/// disk, but its records stay on its own, and that is what it says.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_ahead_of_the_fork_does_not_claim_the_new_timeline() {
    let one = primary("n1").await;
    let two = standby("n2", &one).await;
    let three = standby("n3", &one).await;
    two.detach().await.unwrap();
    write(&one, "CREATE TABLE only_on_three AS SELECT 1").await;
    // The end of a whole record: a flush LSN may lie in one whose rest dies with its server.
    let ahead = one.probe_write(DEADLINE).await.unwrap();
    await_position(&three, ahead).await;
    one.stop(StopMode::Immediate, DEADLINE).await.unwrap();
    three.detach().await.unwrap();
    two.promote(Timeline(3), "", &[], DEADLINE).await.unwrap();
    three.follow(&upstream(&two, "n3")).await.unwrap();
    eventually("it has fetched the other branch's history", async || {
        three.history(Timeline(3)).unwrap().map(drop)
    })
    .await;
    three.detach().await.unwrap();
    let seen = see_standby(&three).await.unwrap();
    let position = seen.position.unwrap();
    assert_eq!(position.timeline, Timeline(2), "{seen:?}");
    assert!(position.lsn >= ahead);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diverged_primary_is_rewound_and_follows() {
    let one = primary("n1").await;
    let two = standby("n2", &one).await;
    let lsn = write(&one, "CREATE TABLE t AS SELECT 1 AS i").await;
    await_position(&two, lsn).await;
    two.detach().await.unwrap();
    // More than one segment.
    write(&one, "CREATE TABLE lost AS SELECT i FROM generate_series(1, 400000) AS i").await;
    write(&one, "INSERT INTO t VALUES (2)").await;
    one.probe_write(DEADLINE).await.unwrap();
    let pid = one.adopt().unwrap().unwrap().pid;
    process::signal(&one.layout.data, pid, rustix::process::Signal::KILL);
    one.exit_watch().await.unwrap();
    two.promote(Timeline(3), "", &[], DEADLINE).await.unwrap();
    two.checkpoint().await.unwrap();
    let source = rewind_source(&two);
    process::await_leftovers(&one.layout.data, DEADLINE).await.unwrap();

    let outcome = one.rewind(&source, &progress(), DEADLINE).await.unwrap();
    assert!(
        matches!(&outcome, RewindOutcome::Failed { reason } if reason.contains("cleanly")),
        "{outcome:?}"
    );
    one.start_detached(DEADLINE).await.unwrap();
    await_complete(&one).await;
    one.stop(StopMode::Fast, DEADLINE).await.unwrap();
    let outcome = one.rewind(&source, &progress(), DEADLINE).await.unwrap();
    let RewindOutcome::Done { fork, kept, lost } = outcome else { panic!("{outcome:?}") };
    assert!(fork >= lsn);
    let room = |entry: std::fs::DirEntry| entry.metadata().unwrap().blocks() * 512;
    let room: u64 = kept.read_dir().unwrap().flatten().map(room).sum();
    let mut lost = lost.expect("the discarded WAL is listed");
    assert_eq!(lost.committed.len(), 2, "the agent's own probe is none: {lost:?}");
    assert!(lost.bytes > 20_000_000 && !lost.shortened, "{lost:?}");
    // The pages around them, and the listing.
    assert!(room >= lost.bytes && room < lost.bytes + 256 * 1024, "{room} bytes are kept of {}", lost.bytes);
    let conf = std::fs::read_to_string(one.layout.data.join("postgresql.conf")).unwrap();
    assert!(conf.contains("/n1/conf/pgherd.conf") && !conf.contains("/n2/"), "{conf}");

    // Without an upstream it may never be consistent: what the source wrote during the rewind is missing.
    one.start_following(&upstream(&two, "n1_t3"), DEADLINE).await.unwrap();
    two.admit().await.unwrap();
    let lsn = write(&two, "CREATE TABLE after AS SELECT 1").await;
    assert_eq!(await_position(&one, lsn).await.timeline, Timeline(3));
    one.name_lost(&mut lost).await.unwrap();
    let names: Vec<Option<&str>> = lost.tables().map(|table| table.name.as_deref()).collect();
    assert_eq!(names, [Some("postgres.public.t"), None], "what was created in lost WAL has no name any more");
    let text = std::fs::read_to_string(kept.join("report.txt")).unwrap();
    assert!(text.contains("2 transactions committed") && text.contains("postgres.public.t"), "{text}");
    assert_eq!(one.kept_lists(), [*lost]);
    std::fs::write(kept.join("acknowledged"), "").unwrap();
    assert!(one.kept_lists().is_empty());
    one.stop(StopMode::Fast, DEADLINE).await.unwrap();
    assert_eq!(one.rewind(&source, &progress(), DEADLINE).await.unwrap(), RewindOutcome::NotRequired);
}

/// pg_rewind compares ids only: two branches that were promoted to one id are one to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_that_only_shares_its_id_is_not_taken_for_the_sources() {
    let one = primary("n1").await;
    let two = standby("n2", &one).await;
    let lsn = write(&one, "CREATE TABLE t AS SELECT 1 AS i").await;
    await_position(&two, lsn).await;
    two.detach().await.unwrap();
    write(&one, "INSERT INTO t VALUES (2)").await;
    let three = standby("n3", &one).await;
    one.stop(StopMode::Fast, DEADLINE).await.unwrap();
    for (node, table) in [(&two, "a"), (&three, "b")] {
        node.detach().await.unwrap();
        node.promote(Timeline(3), "", &[], DEADLINE).await.unwrap();
        node.admit().await.unwrap();
        write(node, &format!("CREATE TABLE {table} AS SELECT 1 AS i")).await;
        node.checkpoint().await.unwrap();
    }
    three.stop(StopMode::Fast, DEADLINE).await.unwrap();
    let outcome = three.rewind(&rewind_source(&two), &progress(), DEADLINE).await.unwrap();
    assert_eq!(outcome, RewindOutcome::Namesake(Timeline(3)));
    assert!(three.kept_lists().is_empty());
}

/// A rewound server lacks what its source had written but not flushed, so it accepts no connection until it streams;
/// it can be pointed and detached all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_consistent_yet_can_be_pointed_and_detached() {
    let one = primary("n1").await;
    let two = standby("n2", &one).await;
    two.detach().await.unwrap();
    write(&one, "CREATE TABLE lost AS SELECT i FROM generate_series(1, 1000) AS i").await;
    one.stop(StopMode::Fast, DEADLINE).await.unwrap();
    two.promote(Timeline(3), "", &[], DEADLINE).await.unwrap();
    two.checkpoint().await.unwrap();
    two.admit().await.unwrap();
    // The source writes on while its WAL is copied: what pg_rewind asks for at its end is never all in the copy.
    let writer = client(&two).await.unwrap();
    let cancel = writer.0.cancel_token();
    let endless =
        "DO $$BEGIN LOOP PERFORM pg_logical_emit_message(false, 'x', 'x'), pg_sleep(0.0001); END LOOP; END$$";
    let writes = tokio::spawn(async move { writer.0.batch_execute(endless).await });
    let quiet = insert_lsn(&two).await;
    eventually("the source writes", async || (insert_lsn(&two).await != quiet).then_some(())).await;
    let outcome = one.rewind(&rewind_source(&two), &progress(), DEADLINE).await.unwrap();
    cancel.cancel_query(NoTls).await.unwrap();
    let ended = writes.await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Some(&tokio_postgres::error::SqlState::QUERY_CANCELED), "{ended}");
    assert!(matches!(outcome, RewindOutcome::Done { .. }), "{outcome:?}");

    let soon = Duration::from_secs(2);
    let waits = one.start_detached(soon).await;
    assert!(matches!(waits, Err(Error::Deadline { .. })), "{waits:?}");
    let seen = one.observe().await.unwrap();
    assert!(matches!(&seen, Observation::Starting { progress } if progress.contains("startup")), "{seen:?}");
    let nowhere = Upstream { port: free_port(), ..upstream(&two, "n1_t3") };
    one.follow(&nowhere).await.unwrap();
    one.detach().await.unwrap();
    assert!(one.layout.credentials().unwrap().is_empty());
    one.follow(&upstream(&two, "n1_t3")).await.unwrap();
    await_streaming(&one).await;
}
