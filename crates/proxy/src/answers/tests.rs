//! Answers of a server, message by message.

use wire::message::{Framer, Piece, put_frame};

use super::*;

fn feed(answers: &mut Answers, tag: u8, body: &[u8]) -> Verdict {
    let mut bytes = Vec::new();
    put_frame(&mut bytes, tag, body);
    let Ok(Some(Piece::Frame(frame))) = Framer::new(|_| 4096).next(&bytes) else { panic!("no frame") };
    answers.server_sent(&frame)
}

fn notice(severity: &str, sqlstate: &str, message: &str, routine: &str) -> Vec<u8> {
    format!("S{severity}\0V{severity}\0C{sqlstate}\0M{message}\0R{routine}\0\0").into_bytes()
}

fn canceled() -> Vec<u8> {
    notice(
        "WARNING",
        "01000",
        "canceling wait for synchronous replication due to user request",
        "SyncRepWaitForLSN",
    )
}

#[test]
fn the_warning_becomes_the_error_and_the_rest_is_silence() {
    let mut answers = Answers::new(false);
    assert_eq!(feed(&mut answers, b'C', b"INSERT 0 1\0"), Verdict::Pass);
    let Verdict::Unacknowledged(error) = feed(&mut answers, b'N', &canceled()) else { panic!("no error") };
    let fields = ErrorFields::new(&error[5..]);
    assert_eq!((error[0], fields.sqlstate(), fields.is_fatal()), (b'E', Some(&b"08007"[..]), false));
    for tag in *b"CTDsI2n" {
        assert_eq!(feed(&mut answers, tag, b"x\0"), Verdict::Drop, "{}", char::from(tag));
    }
    assert_eq!(feed(&mut answers, b'E', b"VERROR\0C42P01\0\0"), Verdict::Drop, "one error per request");
    assert_eq!(feed(&mut answers, b'S', b"a\0b\0"), Verdict::Pass);
    assert_eq!(feed(&mut answers, b'E', b"VFATAL\0C57P01\0\0"), Verdict::Pass);
    assert_eq!(feed(&mut answers, b'Z', b"I"), Verdict::Pass);
    assert_eq!(feed(&mut answers, b'C', b"SELECT 1\0"), Verdict::Pass, "the next request is answered");
}

#[test]
fn the_warning_is_known_in_any_language_and_behind_any_context() {
    for body in [
        notice("WARNING", "01000", "breche das Warten ab", "SyncRepWaitForLSN"),
        notice("WARNING", "01000", "canceling wait for synchronous replication due to user request", "x"),
    ] {
        assert!(matches!(feed(&mut Answers::new(true), b'N', &body), Verdict::Unacknowledged(_)));
    }
    let ended = notice("WARNING", "57P01", "x", "SyncRepWaitForLSN");
    assert_eq!(feed(&mut Answers::new(true), b'N', &ended), Verdict::Terminated);
    let other = notice("WARNING", "01000", "there is no transaction in progress", "EndTransactionBlock");
    assert_eq!(feed(&mut Answers::new(false), b'N', &other), Verdict::Pass);
}

#[test]
fn a_copy_that_the_client_will_not_feed_is_stuck() {
    let mut answers = Answers::new(false);
    feed(&mut answers, b'N', &canceled());
    assert_eq!(feed(&mut answers, b'G', b"\0\0\0"), Verdict::Stuck);
}

#[test]
fn the_level_follows_the_transaction() {
    let warning = notice("WARNING", "01000", "x", "y");
    let said = notice("NOTICE", "00000", "x", "y");
    let mut answers = Answers::new(false);
    let ask = |answers: &mut Answers, sql: &str| answers.client_asks(&Effects::read(sql.as_bytes(), false));
    ask(&mut answers, "SET client_min_messages = error");
    feed(&mut answers, b'Z', b"I");
    assert_eq!(feed(&mut answers, b'N', &warning), Verdict::Drop);
    assert_eq!(feed(&mut answers, b'N', &said), Verdict::Pass, "the server itself sends none of these");
    ask(&mut answers, "SET client_min_messages = notice");
    feed(&mut answers, b'Z', b"T");
    assert_eq!(feed(&mut answers, b'N', &warning), Verdict::Pass);
    feed(&mut answers, b'C', b"ROLLBACK\0");
    feed(&mut answers, b'Z', b"I");
    assert_eq!(feed(&mut answers, b'N', &warning), Verdict::Drop, "as before the block");
    ask(&mut answers, "RESET ALL");
    feed(&mut answers, b'Z', b"I");
    assert_eq!(feed(&mut answers, b'N', &warning), Verdict::Pass);
    ask(&mut answers, "SET LOCAL client_min_messages = error");
    assert_eq!(feed(&mut answers, b'N', &warning), Verdict::Drop);
    feed(&mut answers, b'Z', b"I");
    assert_eq!(feed(&mut answers, b'N', &warning), Verdict::Pass);
}
