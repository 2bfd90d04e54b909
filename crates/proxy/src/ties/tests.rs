//! Sessions, what they leave behind, and what a new server is given.

use wire::message::{Framer, Piece, put_frame};

use super::super::ledger::{backend_wanted, frontend_wanted};
use super::*;

struct Script {
    ledger: Ledger,
    ties: Ties,
}

impl Script {
    fn new() -> Script {
        let mut script = Script { ledger: Ledger::new(false), ties: Ties::new(false) };
        script.server(b'R', &[0; 4]).server(b'S', b"TimeZone\0UTC\0").server(b'Z', b"I");
        script
    }

    fn client(&mut self, tag: u8, body: &[u8]) -> &mut Script {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, tag, body);
        let Ok(Some(Piece::Frame(frame))) = Framer::new(frontend_wanted).next(&bytes) else {
            panic!("no frame")
        };
        let effects = policy::sql(&frame).map(|(_, sql, whole)| Effects::read(sql, !whole));
        self.ties.client_sent(&frame, effects.as_ref(), &self.ledger);
        self.ledger.client_sent(&frame);
        self
    }

    fn server(&mut self, tag: u8, body: &[u8]) -> &mut Script {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, tag, body);
        let Ok(Some(Piece::Frame(frame))) = Framer::new(backend_wanted).next(&bytes) else {
            panic!("no frame")
        };
        let request = self.ledger.running();
        self.ledger.server_sent(&frame);
        self.ties.server_sent(&frame, request);
        self
    }

    /// A simple query that succeeds.
    fn query(&mut self, sql: &str, tag: &str, status: &[u8]) -> &mut Script {
        self.client(b'Q', format!("{sql}\0").as_bytes());
        self.server(b'C', format!("{tag}\0").as_bytes()).server(b'Z', status)
    }

    fn parse(&mut self, name: &str, sql: &str) -> &mut Script {
        self.client(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
    }

    /// Query and Parse texts of the replay, `S` for a Sync.
    fn replayed(&mut self) -> Vec<String> {
        let replay = self.ties.replay();
        let (mut framer, mut at, mut texts) = (Framer::new(usize::from), 0, Vec::new());
        while let Some(Piece::Frame(frame)) = framer.next(&replay.bytes[at..]).unwrap() {
            let text = |(start, sql, _): (usize, &[u8], bool)| {
                let name = &frame.head[..start.saturating_sub(1)];
                format!("{}{}", String::from_utf8_lossy(name), String::from_utf8_lossy(sql))
            };
            texts.push(policy::sql(&frame).map_or("S".to_owned(), text));
            at += frame.bytes.len();
        }
        assert!(replay.answers <= texts.len());
        texts
    }
}

#[test]
fn only_a_login_without_a_question_can_be_repeated() {
    assert_eq!(Script::new().ties.bound(), None);
    let mut script = Script { ledger: Ledger::new(false), ties: Ties::new(false) };
    script.server(b'R', &[0, 0, 0, 10]).server(b'R', &[0; 4]).server(b'Z', b"I");
    assert!(script.ties.bound().unwrap().contains("secret"));
    script.query("SET a = 1", "SET", b"I").query("DISCARD ALL", "DISCARD ALL", b"I");
    assert!(script.ties.bound().unwrap().contains("secret"));
    assert_eq!(script.replayed(), [""; 0], "nothing is kept in vain");
    assert!(Ties { logs_in_alone: true, ..Ties::new(true) }.bound().unwrap().contains("replication"));
}

#[test]
fn settings_are_kept_once_they_are_in_force() {
    let mut script = Script::new();
    script.query("SET a = 1", "SET", b"I").query("SET b = 1", "SET", b"I").query("SET a = 2", "SET", b"I");
    assert_eq!(script.replayed(), ["SET b = 1", "SET a = 2"]);
    script.client(b'Q', b"SET c = 1\0").server(b'E', b"VERROR\0C42704\0\0").server(b'Z', b"I");
    script.query("BEGIN", "BEGIN", b"T").query("SET d = 1", "SET", b"T").query("ROLLBACK", "ROLLBACK", b"I");
    assert_eq!(script.replayed(), ["SET b = 1", "SET a = 2"], "neither a failed one nor one rolled back");
    script.query("BEGIN", "BEGIN", b"T").query("SET d = 1", "SET", b"T").query("COMMIT", "COMMIT", b"I");
    assert_eq!(script.replayed(), ["SET b = 1", "SET a = 2", "SET d = 1"]);
    assert_eq!(script.ties.bound(), None);
    script.query("BEGIN", "BEGIN", b"T").query("SET e = 1", "SET", b"T");
    script.query("ROLLBACK TO s", "ROLLBACK", b"T");
    assert!(script.ties.bound().is_some(), "who knows what a savepoint took back");
    script.query("ROLLBACK", "ROLLBACK", b"I").query("DISCARD ALL", "DISCARD ALL", b"I");
    assert_eq!((script.ties.bound(), script.replayed().len()), (None, 0), "a new beginning");
}

#[test]
fn a_setting_by_the_extended_protocol_counts_when_it_was_executed() {
    let mut script = Script::new();
    script.parse("", "SET a = 1").client(b'B', b"\0\0\0\0\0\0\0\0").client(b'E', b"\0\0\0\0\0");
    script.client(b'S', b"").server(b'1', b"").server(b'2', b"").server(b'C', b"SET\0").server(b'Z', b"I");
    assert_eq!(script.replayed()[0], "SET a = 1");
    assert_eq!(script.ties.bound(), None);
    script.parse("", "SET a = 1").client(b'S', b"").server(b'1', b"").server(b'Z', b"I");
    assert!(script.ties.bound().is_some(), "it may be executed later, or never");
}

#[test]
fn prepared_statements_are_kept_by_name_and_answer() {
    let mut script = Script::new();
    script.parse("a", "SELECT 1").parse("b", "SELECT 2").client(b'S', b"");
    script.server(b'1', b"").server(b'E', b"VERROR\0C42P01\0\0").server(b'Z', b"I");
    assert_eq!(script.replayed(), ["aSELECT 1", "S"], "b failed");
    script
        .parse("", "SELECT 0")
        .parse("c", "SELECT 3")
        .client(b'C', b"Sa\0")
        .client(b'C', b"Pa\0")
        .client(b'S', b"");
    script.server(b'1', b"").server(b'1', b"").server(b'3', b"").server(b'3', b"").server(b'Z', b"I");
    assert_eq!(script.replayed(), ["cSELECT 3", "S", "SELECT 0", "S"]);
    assert!(script.ties.replay().last_may_fail);
    script.parse("d", "SELECT 4").client(b'S', b"").server(b'1', b"").server(b'Z', b"I");
    script.query("DEALLOCATE c", "DEALLOCATE", b"I");
    assert_eq!(script.replayed(), ["dSELECT 4", "S"], "a simple query ends the unnamed one");
    script.query("DEALLOCATE ALL", "DEALLOCATE ALL", b"I");
    assert_eq!((script.replayed().len(), script.ties.kept_bytes), (0, 0));
    assert_eq!(script.ties.bound(), None);
}

#[test]
fn what_cannot_be_kept_binds() {
    for sql in
        ["LISTEN x", "CREATE TEMP TABLE t (a int)", "SELECT pg_advisory_lock(1)", "SET a = 1; SELECT 1"]
    {
        let mut script = Script::new();
        script.query(sql, "OK", b"I");
        assert!(script.ties.bound().is_some(), "{sql}");
        let mut script = Script::new();
        script.parse("s", sql);
        assert!(script.ties.bound().is_some(), "{sql}");
    }
    let mut script = Script::new();
    script.client(b'F', &[0; 8]);
    assert!(script.ties.bound().is_some());
    let mut script = Script::new();
    script.server(b'S', b"standard_conforming_strings\0off\0");
    assert!(script.ties.bound().is_some());
    script.query("DISCARD ALL", "DISCARD ALL", b"I");
    assert!(script.ties.bound().is_some(), "still off");
}

#[test]
fn what_is_kept_is_bounded() {
    let mut script = Script::new();
    for n in 0..=KEPT_BYTES_MAX / 10_000 {
        let sql = format!("SELECT '{}'", "x".repeat(10_000));
        script.parse(&n.to_string(), &sql).client(b'S', b"").server(b'1', b"").server(b'Z', b"I");
    }
    assert!(script.ties.bound().unwrap().contains("more prepared statements"));
    assert_eq!((script.ties.kept_bytes, script.replayed().len()), (0, 0));
    let mut script = Script::new();
    for n in 0..=PENDING_MAX {
        script.parse(&n.to_string(), "SELECT 1");
    }
    assert!(script.ties.bound().unwrap().contains("pipeline"));
    let mut script = Script::new();
    script.parse("", &format!("SELECT '{}'", "x".repeat(20_000)));
    assert!(script.ties.bound().is_some());
    assert!(script.ties.unnamed.is_empty());
}

#[test]
fn the_client_is_told_what_the_new_server_reports_differently() {
    let mut script = Script::new();
    let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
    let news =
        script.ties.adopt_parameters(Arc::new(vec![pair("TimeZone", "UTC"), pair("server_version", "15.9")]));
    let mut expected = Vec::new();
    put_frame(&mut expected, b'S', b"server_version\x0015.9\0");
    assert_eq!(news, expected);
    assert_eq!(script.ties.parameters.len(), 2);
}

impl Script {
    /// Parse, Bind and Execute of the unnamed statement.
    fn run(&mut self, sql: &str) -> &mut Script {
        self.parse("", sql).client(b'B', b"\0\0\0\0\0\0\0\0").client(b'E', b"\0\0\0\0\0")
    }

    /// Answers to such.
    fn ran(&mut self, tag: &str) -> &mut Script {
        self.server(b'1', b"").server(b'2', b"").server(b'C', format!("{tag}\0").as_bytes())
    }

    fn reads(&mut self) -> Reads {
        self.ties.reads()
    }
}

#[test]
fn what_is_set_behind_a_rollback_of_the_same_group_binds() {
    let mut script = Script::new();
    script.query("BEGIN", "BEGIN", b"T");
    script.run("ROLLBACK").run("SET search_path = evil").client(b'S', b"");
    script.ran("ROLLBACK").ran("SET").server(b'Z', b"I");
    assert!(script.ties.bound().is_some());
}

#[test]
fn what_a_savepoint_of_a_failed_group_may_keep_binds() {
    let mut script = Script::new();
    script.query("BEGIN", "BEGIN", b"T");
    script.run("SET work_mem = '1MB'").run("SAVEPOINT s").run("SELECT bad").client(b'S', b"");
    script.ran("SET").ran("SAVEPOINT").server(b'E', b"SERROR\0C42703\0Mx\0\0").server(b'Z', b"E");
    script.query("ROLLBACK TO s", "ROLLBACK", b"T");
    assert!(script.ties.bound().is_some());
    // Of a whole ROLLBACK nothing is left.
    let mut script = Script::new();
    let plain = script.reads();
    script.query("BEGIN", "BEGIN", b"T");
    script.run("SET LOCAL DateStyle = 'DMY'").run("SELECT bad").client(b'S', b"");
    script.ran("SET").server(b'E', b"SERROR\0C42703\0Mx\0\0").server(b'Z', b"E");
    assert_ne!(script.reads(), plain);
    script.query("ROLLBACK", "ROLLBACK", b"I");
    assert_eq!((script.ties.bound(), script.reads()), (None, plain));
}

#[test]
fn texts_are_read_by_what_was_set_in_its_order() {
    let reads = |texts: &[&str]| {
        let mut script = Script::new();
        script.query("BEGIN", "BEGIN", b"T");
        for text in texts {
            script.query(text, "SET", b"T");
        }
        (script.reads(), script.ties.bound())
    };
    let (a, b) = ("SET DateStyle = 'DMY'", "SET LOCAL DateStyle = 'MDY'");
    assert_eq!(reads(&[a, b]), reads(&[a, b]));
    assert_ne!(reads(&[a, b]), reads(&[b, a]));
    assert_ne!(reads(&[b]), reads(&[]));
    let by_the_way =
        ["SET LOCAL statement_timeout = 1", "SET LOCAL app.user = 'ann'", "SET TRANSACTION READ ONLY"];
    assert_eq!(reads(&by_the_way), reads(&[]));
    // What is not answered may fail.
    let mut script = Script::new();
    script.query("BEGIN", "BEGIN", b"T").run(b);
    assert_ne!(script.reads(), script.reads());
}

#[test]
fn a_local_setting_that_is_prepared_binds() {
    let mut script = Script::new();
    script.parse("s", "SET LOCAL DateStyle = 'DMY'");
    assert!(script.ties.bound().is_some());
    let mut script = Script::new();
    script.query("BEGIN", "BEGIN", b"T").parse("", "SET LOCAL DateStyle = 'DMY'").client(b'S', b"");
    script.server(b'1', b"").server(b'Z', b"T");
    script.client(b'B', b"\0\0\0\0\0\0\0\0");
    assert!(script.ties.bound().is_some(), "it is run in a later group");
}

#[test]
fn settings_of_one_transaction_are_bounded() {
    let mut script = Script::new();
    script.query("BEGIN", "BEGIN", b"T");
    let long = "x".repeat(8_000);
    for n in 0..9 {
        script.query(&format!("SET a.b{n} = '{long}'"), "SET", b"T");
    }
    assert!(script.ties.bound().is_some());
    let mut script = Script::new();
    script.query("BEGIN", "BEGIN", b"T");
    for _ in 0..1_000 {
        script.query("SET LOCAL DateStyle = 'DMY'", "SET", b"T");
    }
    assert_eq!(script.ties.bound(), None, "of these a digest is kept");
}
