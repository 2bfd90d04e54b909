//! Conversations, message by message.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wire::message::{Framer, Piece, put_frame};

use super::*;

/// `> Q text` etc. from the client, `< Z I` from the server, checked after each step.
struct Script {
    ledger: Ledger,
}

impl Script {
    fn new() -> Script {
        let mut script = Script { ledger: Ledger::new(false) };
        script.server(b'Z', b"I");
        script
    }

    fn client(&mut self, tag: u8, body: &[u8]) -> &mut Script {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, tag, body);
        let Ok(Some(Piece::Frame(frame))) = Framer::new(frontend_wanted).next(&bytes) else {
            panic!("no frame")
        };
        self.ledger.client_sent(&frame);
        self
    }

    fn server(&mut self, tag: u8, body: &[u8]) -> &mut Script {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, tag, body);
        let Ok(Some(Piece::Frame(frame))) = Framer::new(backend_wanted).next(&bytes) else {
            panic!("no frame")
        };
        self.ledger.server_sent(&frame);
        self
    }

    /// Parse, Bind and Execute without a name, and no Sync.
    fn extended(&mut self, sql: &str) -> &mut Script {
        self.client(b'P', format!("\0{sql}\0\0\0").as_bytes());
        self.client(b'B', b"\0\0\0\0\0\0\0\0").client(b'E', b"\0\0\0\0\0")
    }

    fn loses(&mut self, loss: Loss) -> &mut Script {
        assert_eq!(self.ledger.loss(true), loss);
        self
    }
}

/// A takeover in the middle of a long text was told as an unknown outcome.
#[test]
fn of_half_a_message_nothing_has_run() {
    let mut script = Script::new();
    script.client(b'Q', b"INSERT\0").loses(Loss::Unknown);
    assert_eq!(script.ledger.loss(false), Loss::OpenTransaction);
    script.client(b'Q', b"SELECT 1\0");
    assert_eq!(script.ledger.loss(false), Loss::Unknown, "the one before it was whole");
}

#[test]
fn a_login_and_an_idle_session_lose_nothing() {
    assert_eq!(Ledger::new(false).loss(true), Loss::Nothing);
    let mut script = Script::new();
    script.loses(Loss::Nothing);
    assert!(script.ledger.idle());
}

#[test]
fn a_transaction_is_open_until_its_commit_is_sent() {
    let mut script = Script::new();
    script.client(b'Q', b"BEGIN\0").loses(Loss::OpenTransaction);
    script.server(b'Z', b"T").loses(Loss::OpenTransaction);
    script.client(b'Q', b"INSERT INTO t VALUES (1)\0").loses(Loss::OpenTransaction);
    script.server(b'Z', b"T");
    assert_eq!(script.ledger.commit(), Commit::None);
    script.client(b'Q', b"COMMIT\0").loses(Loss::Unknown);
    assert_eq!(script.ledger.commit(), Commit::Asked);
    script.server(b'Z', b"I").loses(Loss::Nothing);
    assert_ne!(script.ledger.commit(), Commit::Asked);
}

#[test]
fn a_statement_outside_a_transaction_is_in_doubt_until_answered() {
    let mut script = Script::new();
    script.client(b'Q', b"INSERT INTO t VALUES (1)\0").loses(Loss::Unknown);
    assert_eq!(script.ledger.commit(), Commit::Possible, "the server is asked before it is cancelled");
    script.server(b'C', b"INSERT 0 1\0").loses(Loss::Unknown);
    script.server(b'Z', b"I").loses(Loss::Nothing);
}

#[test]
fn the_extended_protocol_is_judged_alike() {
    let mut script = Script::new();
    script.extended("BEGIN").extended("INSERT INTO t VALUES ($1)").loses(Loss::OpenTransaction);
    script.client(b'S', b"").loses(Loss::OpenTransaction);
    script.server(b'Z', b"T").extended("COMMIT").loses(Loss::Unknown);
    script.client(b'S', b"").server(b'Z', b"I").loses(Loss::Nothing);
    script.extended("INSERT INTO t VALUES ($1)").client(b'S', b"").loses(Loss::Unknown);
    script.server(b'Z', b"I").loses(Loss::Nothing);
}

#[test]
fn a_prepared_commit_is_known_by_its_name() {
    let mut script = Script::new();
    script.client(b'P', b"c1\0COMMIT\0\0\0").client(b'S', b"").server(b'Z', b"I");
    script.client(b'Q', b"BEGIN\0").server(b'Z', b"T");
    script.client(b'B', b"\0c1\0\0\0\0\0\0\0").client(b'E', b"\0\0\0\0\0").loses(Loss::Unknown);
    assert_eq!(script.ledger.commit(), Commit::Asked);
    for name in 0..=NAMED_MAX {
        script.client(b'P', format!("n{name}\0COMMIT\0\0\0").as_bytes());
    }
    assert!(script.ledger.blind, "too many names to know");
    assert_eq!(script.ledger.named.len(), NAMED_MAX);
}

#[test]
fn pipelined_requests_are_answered_one_by_one() {
    let mut script = Script::new();
    script.client(b'Q', b"SELECT 1\0").client(b'Q', b"BEGIN\0").client(b'Q', b"SELECT 2\0");
    script.server(b'Z', b"I").server(b'Z', b"T").loses(Loss::Unknown);
    script.server(b'Z', b"T").loses(Loss::OpenTransaction);
    script.server(b'Z', b"T").loses(Loss::OpenTransaction);
    assert_eq!(script.ledger.done, script.ledger.sent, "an answer to nothing is not counted");
}

/// The session counted as asking something until its next request, kept its server, and heard at its good-bye that the outcome was unknown.
#[test]
fn a_sync_behind_data_that_was_sent_ahead_is_answered() {
    for first_sync in [false, true] {
        let mut script = Script::new();
        script.extended("COPY t FROM STDIN");
        if first_sync {
            script.client(b'S', b"");
        }
        script
            .client(b'd', b"1\n")
            .client(b'c', b"")
            .client(b'S', b"")
            .extended("SELECT 1")
            .client(b'S', b"");
        script.server(b'G', b"\0\0\0").server(b'C', b"COPY 1\0").server(b'Z', b"I").loses(Loss::Unknown);
        script.server(b'C', b"SELECT 1\0").server(b'Z', b"I").loses(Loss::Nothing);
        assert!(script.ledger.idle(), "{first_sync}");
    }
}

#[test]
fn syncs_swallowed_by_a_copy_leave_no_debt() {
    let mut script = Script::new();
    script.extended("COPY t FROM STDIN").client(b'S', b"");
    script.server(b'G', b"\0\0\0").client(b'd', b"1\n").loses(Loss::Unknown);
    script.client(b'c', b"").client(b'S', b"").server(b'C', b"COPY 1\0").server(b'Z', b"I");
    script.loses(Loss::Nothing);
    assert!(script.ledger.idle());
    script.client(b'Q', b"COPY t FROM STDIN\0").server(b'G', b"\0\0\0").client(b'd', b"1\n");
    script.client(b'c', b"").server(b'Z', b"I").loses(Loss::Nothing);
    assert!(script.ledger.idle());
}

#[test]
fn a_pause_waits_for_what_the_server_needs() {
    let mut script = Script::new();
    assert!(script.ledger.may_pause(), "idle");
    script.client(b'Q', b"SELECT 1\0");
    assert!(script.ledger.may_pause(), "the answer is due");
    script.server(b'Z', b"T");
    assert!(!script.ledger.may_pause(), "the transaction goes on to its end");
    script.client(b'Q', b"COMMIT\0").server(b'Z', b"I");
    script.extended("SELECT 1");
    assert!(!script.ledger.may_pause(), "a group without its Sync");
    script.client(b'S', b"");
    assert!(script.ledger.may_pause());
    script.server(b'Z', b"I").client(b'Q', b"COPY t FROM STDIN\0").server(b'G', b"\0\0\0");
    assert!(!script.ledger.may_pause(), "the server reads rows");
    script.client(b'c', b"").server(b'C', b"COPY 0\0").server(b'Z', b"I");
    assert!(script.ledger.may_pause());
}

#[test]
fn a_wait_that_ended_with_the_connection_leaves_doubt() {
    let mut script = Script::new();
    script.client(b'Q', b"BEGIN\0").server(b'Z', b"T").client(b'Q', b"SELECT 1\0");
    script.loses(Loss::OpenTransaction);
    script.ledger.doubt();
    script.loses(Loss::Unknown);
}

#[test]
fn a_random_conversation_never_panics() {
    let mut chance = StdRng::seed_from_u64(1);
    for _ in 0..2_000 {
        let mut script = Script::new();
        for _ in 0..chance.random_range(0..40) {
            let body: Vec<u8> =
                (0..chance.random_range(0..12)).map(|_| chance.random_range(0..3) * 67).collect();
            if chance.random() {
                script.client(b"QPBEDCHSFcfXp"[chance.random_range(0..13)], &body);
            } else {
                script.server(b"RKZEGCDT"[chance.random_range(0..8)], &body);
            }
            let ledger = &script.ledger;
            assert!(ledger.done <= ledger.sent);
            assert!(!ledger.idle() || ledger.loss(true) == Loss::Nothing);
            assert!(
                ledger.commit() != Commit::Asked
                    || ledger.loss(true) == Loss::Unknown
                    || ledger.said_good_bye
            );
        }
    }
}

#[test]
fn long_texts_count_as_commits_but_can_be_cancelled() {
    let mut script = Script::new();
    script.client(b'Q', b"BEGIN\0").server(b'Z', b"T");
    let long = format!("INSERT INTO t VALUES ('{}')\0", "x".repeat(QUERY_HEAD_MAX));
    script.client(b'Q', long.as_bytes()).loses(Loss::Unknown);
    assert_ne!(script.ledger.commit(), Commit::Asked);
    script.client(b'X', b"");
    assert!(!script.ledger.end_is_explained(), "an answer is still awaited");
}

#[test]
fn what_postgresql_does_not_know_is_answered_before_the_server_is_anybody_elses() {
    for (tag, waits) in [(b'?', true), (b'\0', true), (b'H', false), (b'd', false)] {
        assert_eq!(Script::new().client(tag, b"what").ledger.outstanding(), waits, "{}", tag as char);
    }
}
