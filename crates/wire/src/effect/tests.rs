//! Texts and what they leave behind.

use super::*;
use crate::chance::Chance;

fn on_session(sql: &str) -> OnSession {
    Effects::read(sql.as_bytes(), false).on_session
}

fn key(sql: &str) -> Option<String> {
    match on_session(sql) {
        OnSession::Sets { key } => key.map(|key| String::from_utf8(key).unwrap()),
        other => panic!("{sql}: {other:?}"),
    }
}

#[test]
fn ordinary_statements_leave_nothing() {
    for sql in [
        "",
        "-- nothing",
        "SELECT temp, hold FROM t WHERE note = 'LISTEN; SET x = 1'",
        "BEGIN; UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 1; END;",
        "(SELECT 1) UNION (SELECT 2)",
        "SET LOCAL work_mem = '8MB'",
        "SET TRANSACTION READ ONLY",
        "SET CONSTRAINTS ALL DEFERRED",
        "PREPARE TRANSACTION 'x'",
        "DECLARE c CURSOR FOR SELECT 1",
        "SELECT pg_advisory_xact_lock(1), pg_try_advisory_xact_lock_shared(2)",
        "DISCARD PLANS",
    ] {
        assert_eq!(on_session(sql), OnSession::Nothing, "{sql}");
    }
}

#[test]
fn what_only_the_old_server_has_binds() {
    for sql in [
        "LISTEN jobs",
        "LOAD 'auto_explain'",
        "PREPARE s AS SELECT 1",
        "CREATE TEMP TABLE t (a int)",
        "create or replace local temporary view v as select 1",
        "SELECT 1 INTO TEMP t",
        "SELECT 1 INTO LOCAL TEMPORARY TABLE t",
        "CREATE TABLE pg_temp.t (a int)",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_catalog.\"pg_try_advisory_lock\"(1)",
        "SELECT SET_CONFIG('a.b', '1', false)",
        "UPDATE pg_settings SET setting = 'x'",
        "SELECT lastval()",
        "DO $$ BEGIN END $$",
        "SELECT 1; SET work_mem = '8MB'",
        "FROBNICATE",
        "SELECT dblink_connect_u('x')",
    ] {
        assert!(matches!(on_session(sql), OnSession::Binds(_)), "{sql}: {:?}", on_session(sql));
    }
    assert!(matches!(Effects::read(b"SELECT", true).on_session, OnSession::Binds(_)));
}

#[test]
fn settings_are_known_by_their_name() {
    assert_eq!(key("SET work_mem = '8MB'").unwrap(), "work_mem");
    assert_eq!(key("set SESSION Work_Mem TO '8MB';").unwrap(), "work_mem");
    assert_eq!(key("RESET work_mem").unwrap(), "work_mem");
    assert_eq!(key("SET my.app = 1").unwrap(), "my.app");
    assert_eq!(key("RESET ALL").unwrap(), "all");
    assert_eq!(key("SET a = 1; SET b = 2"), None);
    for sql in
        ["SET ROLE ann", "RESET ROLE", "SET SESSION ROLE none", "set role to ann", "SET \"role\" = 'ann'"]
    {
        assert_eq!(key(sql).unwrap(), "role", "{sql}");
    }
    for sql in
        ["SET SESSION AUTHORIZATION ann", "RESET SESSION AUTHORIZATION", "set session_authorization = ann"]
    {
        assert_eq!(key(sql).unwrap(), "session_authorization", "{sql}");
    }
    for sql in
        ["SET TIME ZONE 'UTC'", "SET SESSION TIME ZONE LOCAL", "SET TimeZone TO 'UTC'", "RESET timezone"]
    {
        assert_eq!(key(sql).unwrap(), "timezone", "{sql}");
    }
    assert_eq!(key("SET NAMES 'UTF8'").unwrap(), "client_encoding");
    for sql in ["BEGIN; SET LOCAL DateStyle = 'DMY'", "SET LOCAL ROLE ann", "set local search_path to a, b"] {
        assert!(Effects::read(sql.as_bytes(), false).sets_locally, "{sql}");
    }
    for sql in [
        "SET DateStyle = 'DMY'",
        "SET LOCAL statement_timeout = 1",
        "SET LOCAL my.app = 1",
        "SET TRANSACTION READ ONLY",
    ] {
        assert!(!Effects::read(sql.as_bytes(), false).sets_locally, "{sql}");
    }
    for sql in
        ["SET seed = 0.5", "EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1", "SET search_path = 'pg_temp'"]
    {
        assert!(matches!(Effects::read(sql.as_bytes(), false).on_session, OnSession::Binds(_)), "{sql}");
    }
    assert_eq!(on_session("DISCARD ALL"), OnSession::DiscardsAll);
    assert_eq!(on_session("DEALLOCATE ALL"), OnSession::DeallocatesAll);
    assert_eq!(on_session("DEALLOCATE PREPARE S1"), OnSession::Deallocates(b"s1".to_vec()));
    assert_eq!(on_session("DEALLOCATE \"S1\""), OnSession::Deallocates(b"S1".to_vec()));
}

#[test]
fn watched_settings_are_found_with_their_values() {
    let found = |sql: &str| {
        let of = |a: Assignment| {
            let value = a.value.clone().map(|value| String::from_utf8(value).unwrap());
            (a.setting, sql[a.place.clone()].to_owned(), value, a.is_local, a.is_own)
        };
        Effects::read(sql.as_bytes(), false).assignments.into_iter().map(of).collect::<Vec<_>>()
    };
    use Watched::{ClientMinMessages as Level, SynchronousCommit as Commit};
    let own = |setting, written: &str, value: &str, local| {
        vec![(setting, written.to_owned(), Some(value.to_owned()), local, true)]
    };
    assert_eq!(found("SET client_min_messages = error"), own(Level, "error", "error", false));
    assert_eq!(found("SET LOCAL client_min_messages TO 'error'"), own(Level, "'error'", "error", true));
    assert_eq!(found("set session \"synchronous_commit\" to off"), own(Commit, "off", "off", false));
    assert_eq!(
        found("SELECT pg_catalog.set_config('Synchronous_Commit', 'local', false)"),
        own(Commit, "'local'", "local", false)
    );
    assert_eq!(found("SELECT set_config('synchronous_commit', $1, false)")[0].2, None);
    assert!(!found("ALTER ROLE ann SET synchronous_commit = off")[0].4);
    assert!(!found("ALTER SYSTEM SET synchronous_commit TO off")[0].4);
    for sql in [
        "SET synchronous_commit TO DEFAULT",
        "SELECT synchronous_commit = off FROM t",
        "UPDATE t SET synchronous_commit = 1",
        "SELECT 'SET synchronous_commit = off'",
        "SHOW synchronous_commit",
    ] {
        assert_eq!(found(sql), [], "{sql}");
    }
    assert_eq!(found("SET a = 1; SET client_min_messages = panic; SELECT 1").len(), 1);
}

#[test]
fn values_are_judged_with_care() {
    for (value, low) in
        [("on", false), ("ON", false), ("remote_apply", false), ("local", true), ("tru", true)]
    {
        assert_eq!(Watched::SynchronousCommit.is_too_low(value.as_bytes()), low, "{value}");
    }
    for (value, low) in [("warning", false), ("Notice", false), ("error", true), ("fatal", true), ("x", true)]
    {
        assert_eq!(Watched::ClientMinMessages.is_too_low(value.as_bytes()), low, "{value}");
    }
}

#[test]
fn random_texts_never_panic() {
    let words = [
        "SET ",
        "synchronous_commit",
        "=",
        "TO ",
        "'x'",
        ";",
        "(",
        "set_config",
        ",",
        "\"",
        "RESET ",
        "temp ",
    ];
    let mut chance = Chance::new(3);
    for _ in 0..20_000 {
        let sql: String = (0..chance.below(12)).map(|_| words[chance.below(12) as usize]).collect();
        for assignment in Effects::read(sql.as_bytes(), false).assignments {
            assert!(sql.get(assignment.place).is_some());
        }
    }
}
