//! One server alone: its data directory, its process, its configuration.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_control_file_reads_as_pg_controldata_does() {
    let node = node("n1").await;
    assert_eq!(node.data_state(), DataState::Absent);
    node.initdb().await.unwrap();
    let DataState::Ours(control) = node.data_state() else { panic!("{:?}", node.data_state()) };
    let tool = node.installation.tool("pg_controldata");
    let said = node.account.run(&tool, &[&node.layout.data], &[], DEADLINE).await.unwrap().stdout;
    let field = |name: &str| {
        let line =
            said.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {said}"));
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    assert_eq!(field("Database system identifier"), control.system_id.to_string());
    assert_eq!(field("pg_control version number"), control.control_version.to_string());
    assert_eq!(field("Catalog version number"), control.catalog_version.to_string());
    assert_eq!(field("Database cluster state"), "shut down");
    assert_eq!(control.state, DbState::ShutDown);
    assert_eq!(field("Latest checkpoint location"), control.checkpoint.to_string());
    assert_eq!(field("Latest checkpoint's REDO location"), control.checkpoint_redo.to_string());
    assert_eq!(field("Latest checkpoint's TimeLineID"), control.checkpoint_timeline.to_string());
    assert_eq!(field("Minimum recovery ending location"), control.min_recovery_point.to_string());
    assert_eq!(field("max_connections setting"), control.max_connections.to_string());
    assert_eq!(field("max_worker_processes setting"), control.max_worker_processes.to_string());
    assert_eq!(field("max_wal_senders setting"), control.max_wal_senders.to_string());
    assert_eq!(field("max_locks_per_xact setting"), control.max_locks_per_transaction.to_string());
    assert_eq!(field("Bytes per WAL segment"), control.wal_segment_bytes.to_string());
    assert_eq!(field("Data page checksum version"), u32::from(control.data_checksums).to_string());
    assert!(control.data_checksums);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_not_ours_is_refused_and_left_alone() {
    let node = node("n1").await;
    let unusable = |node: &Node| match node.data_state() {
        DataState::Unusable { reason } => reason,
        other => panic!("{other:?}"),
    };
    std::fs::create_dir_all(&node.layout.data).unwrap();
    assert_eq!(node.data_state(), DataState::Empty);
    let precious = node.layout.data.join("precious");
    std::fs::write(&precious, "x").unwrap();
    assert!(unusable(&node).contains("no PostgreSQL data directory"));
    assert!(node.initdb().await.is_err());
    assert!(node.start_detached(DEADLINE).await.is_err());
    assert_eq!(std::fs::read(&precious).unwrap(), b"x");
    std::fs::write(node.layout.data.join("PG_VERSION"), "9\n").unwrap();
    assert!(unusable(&node).contains("apt-get install postgresql-9"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_says_what_the_server_said() {
    let dir = tempfile::Builder::new().prefix("pgherd-").tempdir_in("/tmp").unwrap();
    let mut config = config_in(&dir, "n1");
    config.tunable.parameters.insert("shared_buffers".into(), "much".into());
    let node = Node { server: Server::new(config, installation().await).await.unwrap(), _dir: dir };
    node.initdb().await.unwrap();
    let error = node.start_detached(DEADLINE).await.unwrap_err().to_string();
    assert!(error.contains("invalid value for parameter \"shared_buffers\""), "{error}");
    assert_eq!(node.observe().await.unwrap(), Observation::Down);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_postmaster_is_noticed_and_the_next_start_waits_for_its_children() {
    let node = primary("n1").await;
    let busy = client(&node).await.unwrap();
    let query = "SELECT sum(sqrt(i)) FROM generate_series(1, 1000000000) AS i";
    let running = tokio::spawn(async move { drop(busy.0.simple_query(query).await) });
    let active =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%1000000000%' AND pid <> pg_backend_pid()";
    let watcher = client(&node).await.unwrap();
    eventually("the long query runs", async || {
        let count: i64 = watcher.0.query_one(active, &[]).await.unwrap().get(0);
        (count > 0).then_some(())
    })
    .await;
    let postmaster = node.adopt().unwrap().unwrap();
    let end = tokio::spawn(async move {
        postmaster.exited().await.unwrap();
        Instant::now()
    });
    let pid = node.adopt().unwrap().unwrap().pid;
    let killed = Instant::now();
    process::signal(&node.layout.data, pid, rustix::process::Signal::KILL);
    let noticed = end.await.unwrap() - killed;
    assert!(noticed < Duration::from_millis(500), "{noticed:?}");
    assert_eq!(node.observe().await.unwrap(), Observation::Down);
    node.start_detached(DEADLINE).await.unwrap();
    let seen = await_complete(&node).await;
    assert_eq!(seen.position.unwrap().timeline, Timeline(2));
    assert_eq!(seen.synchronous_standby_names, NOBODY);
    assert_eq!(seen.admission, Some(Admission::Quarantined));
    assert!(client(&node).await.is_err(), "quarantined");
    running.abort();
    assert_eq!(node.stop(StopMode::Fast, DEADLINE).await.unwrap(), Ended::Fast);
    assert_eq!(node.stop(StopMode::Fast, DEADLINE).await.unwrap(), Ended::Already);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agent_adopts_the_running_server() {
    let node = primary("n1").await;
    let second = Server::new(node.config.clone(), node.installation.clone()).await.unwrap();
    let pid = node.adopt().unwrap().unwrap().pid;
    assert_eq!(second.adopt().unwrap().unwrap().pid, pid);
    let seen = see_primary(&second).await.unwrap();
    assert_eq!((seen.timeline, seen.admission), (Timeline(2), Some(Admission::Open)));
    second.quarantine().await.unwrap();
    assert_eq!(see_primary(&node).await.unwrap().admission, Some(Admission::Quarantined));
    assert!(matches!(second.start_detached(DEADLINE).await, Err(Error::Running { .. })));
    assert!(second.probe_write(DEADLINE).await.unwrap() > Lsn::ZERO);
    assert_eq!(second.probe_connection(DEADLINE).await.unwrap(), Answered::In);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_hold_every_slot_keep_no_agent_out() {
    const SLOTS: usize = 100;
    let node = primary("n1").await;
    let mut clients = Vec::new();
    // Superusers all, so the reserved slots are theirs too.
    while let Ok(client) = client(&node).await {
        clients.push(client);
        assert!(clients.len() <= SLOTS);
    }
    assert_eq!(clients.len(), SLOTS, "the agent's own sessions take none of them");
    assert_eq!(node.probe_connection(DEADLINE).await.unwrap(), Answered::NoSlot);
    let second = Server::new(node.config.clone(), node.installation.clone()).await.unwrap();
    assert_eq!(see_primary(&second).await.unwrap().admission, Some(Admission::Open));
    assert!(second.probe_write(DEADLINE).await.unwrap() > Lsn::ZERO);
    second.quarantine().await.unwrap();
    assert_eq!(see_primary(&second).await.unwrap().admission, Some(Admission::Quarantined));
    assert_eq!(second.probe_connection(DEADLINE).await.unwrap(), Answered::In, "the clients were ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantine_ends_clients_also_those_still_proving_who_they_are() {
    let node = primary("n1").await;
    let known = client(&node).await.unwrap();
    let mut silent = tokio::net::TcpStream::connect(("127.0.0.1", node.config.port)).await.unwrap();
    let postmaster = node.adopt().unwrap().unwrap().pid;
    let before = process::children(postmaster).len();
    assert!(before > 0);
    node.quarantine().await.unwrap();
    assert!(known.0.simple_query("SELECT 1").await.is_err());
    let mut byte = [0];
    let read = tokio::io::AsyncReadExt::read(&mut silent, &mut byte);
    // Well before authentication_timeout (10 s) would end it.
    let ended = tokio::time::timeout(Duration::from_secs(5), read).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "the silent connection is still there");
    assert!(client(&node).await.is_err());
    node.admit().await.unwrap();
    assert!(client(&node).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn alter_system_in_the_way_is_named() {
    let node = primary("n1").await;
    write(&node, "ALTER SYSTEM SET synchronous_standby_names = 'x'").await;
    let error = node.apply_sync(&["n2".into()], 1, Method::Quorum, &[]).await.unwrap_err().to_string();
    assert!(error.contains("ALTER SYSTEM RESET synchronous_standby_names"), "{error}");
    assert!(error.contains("postgresql.auto.conf"), "{error}");
    node.stop(StopMode::Fast, DEADLINE).await.unwrap();
    node.start_detached(DEADLINE).await.unwrap();
    assert_eq!(await_complete(&node).await.synchronous_standby_names, NOBODY);
    assert!(node.layout.kept.read_dir().unwrap().next().is_some(), "the file as it was is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_of_pg_hba_that_cannot_be_read_lets_nobody_in_and_is_named() {
    let dir = tempfile::Builder::new().prefix("pgherd-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut config = config_in(&dir, "n1");
    config.tunable.hba = vec!["host all postgres 127.0.0.1/32 trsut".into()];
    let node = Node { server: Server::new(config, installation().await).await.unwrap(), _dir: dir };
    node.initdb().await.unwrap();
    node.start_detached(DEADLINE).await.unwrap();
    let error = node.admit().await.unwrap_err().to_string();
    assert!(error.contains("trsut") && error.contains("[postgres] hba"), "{error}");
    let seen = await_complete(&node).await;
    assert_ne!(seen.admission, Some(Admission::Open));
}

/// Replay that fails (a full disk, a damaged record) ends the startup process first and the sessions a moment later.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_without_its_startup_process_is_seen_as_unfinished() {
    use rustix::process::{Pid, Signal, kill_process};
    let primary = primary("n1").await;
    let standby = standby("n2", &primary).await;
    standby.admit().await.unwrap();
    let client = client(&standby).await.unwrap();
    let startup = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'startup'";
    let pid: i32 = client.0.query_one(startup, &[]).await.unwrap().get(0);
    let postmaster = Pid::from_raw(standby.adopt().unwrap().unwrap().pid).unwrap();
    // The postmaster would end everybody else at once; frozen, it makes the moment as long as it is needed.
    kill_process(postmaster, Signal::STOP).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
    let gone = async || client.0.query(startup, &[]).await.unwrap().is_empty().then_some(());
    eventually("the startup process is gone", gone).await;
    let seen = standby.observe().await;
    kill_process(postmaster, Signal::CONT).unwrap();
    match seen.unwrap() {
        Observation::Standby(seen) => assert!(!seen.complete || seen.streaming.is_some(), "{seen:?}"),
        other => panic!("{other:?}"),
    }
}
