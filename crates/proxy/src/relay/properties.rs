//! A session's bytes, generated, with lies in them, and cut anywhere: the same comes out on both sides, the books say the same, and no
//! more is kept than was asked for.
//!
//! `PROPTEST_CASES` (256) and `PROPTEST_RNG_SEED` ask for more and for others (`tests::properties`).

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use wire::message::{Framer, put_frame};

use super::super::policy::LoweredCommit;
use super::super::ties::Laid;
use super::tests::Wide;
use super::*;
use crate::cancel::Target;
use crate::tests::properties::{cases, cuts_of, lie, told};

/// What one side says next.
#[derive(Clone, Debug)]
enum Step {
    Client(Said),
    Server(Said),
    /// The session parts from its server, if it may, and gets one that is as its log-in left it. So many of the settings that are laid on
    /// it are refused.
    Borrow {
        refused: usize,
        /// What a session asks there whose requests take turns: a read, of a replica.
        reads: (bool, bool),
    },
    /// The server is gone.
    Lose,
}

#[derive(Clone)]
struct Said(Vec<u8>);

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// What can be seen of a session from outside, and what it believes.
#[derive(PartialEq, Debug, Default)]
struct Outcome {
    to_client: String,
    to_server: String,
    end: Option<String>,
    books: String,
}

const TEXTS: [&str; 24] = [
    "SELECT 1",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SET work_mem = '1MB'",
    "SET DateStyle = 'German'",
    "SET LOCAL TimeZone = 'UTC'",
    "RESET ALL",
    "DISCARD ALL",
    "DEALLOCATE ALL",
    "DEALLOCATE s1",
    "LISTEN x",
    "SET client_min_messages = error",
    "SET client_min_messages TO panic; SELECT 1",
    "CREATE TEMP TABLE t (a int)",
    "SET synchronous_commit = off",
    "COPY t FROM STDIN",
    "INSERT INTO t VALUES (1); COMMIT",
    "",
    "PREPARE s1 AS SELECT 1",
    "SET a.b = 1; SET a.c = 2",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "SELECT set_config('client_min_messages', 'error', false)",
];
const NAMES: [&str; 4] = ["", "s1", "s2", "a-longer-name"];

fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, tag, body);
    out
}

/// Mostly nothing; sometimes longer than what is looked at.
fn filling() -> impl Strategy<Value = usize> {
    prop_oneof![40 => Just(0usize), 4 => 0..60usize, 1 => 900..1_200usize, 1 => 16_300..16_500usize]
}

fn asked() -> impl Strategy<Value = Vec<u8>> {
    let (name, text) = (|| select(&NAMES[..]), || select(&TEXTS[..]));
    prop_oneof![
        4 => (text(), filling()).prop_map(|(text, more)| {
            framed(b'Q', format!("{text}{}\0", " ".repeat(more)).as_bytes())
        }),
        4 => (name(), text(), filling()).prop_map(|(name, text, more)| {
            framed(b'P', format!("{name}\0{text}\0\0{}\0", "\0".repeat(more)).as_bytes())
        }),
        3 => (name(), name(), filling()).prop_map(|(portal, name, more)| {
            framed(b'B', format!("{portal}\0{name}\0\0\0{}", "x".repeat(more)).as_bytes())
        }),
        2 => (select(&["S", "P"][..]), name()).prop_map(|(kind, name)| framed(b'D', format!("{kind}{name}\0").as_bytes())),
        2 => (select(&["S", "P"][..]), name()).prop_map(|(kind, name)| framed(b'C', format!("{kind}{name}\0").as_bytes())),
        3 => name().prop_map(|name| framed(b'E', format!("{name}\0\0\0\0\0").as_bytes())),
        5 => Just(framed(b'S', b"")),
        1 => Just(framed(b'H', b"")),
        1 => filling().prop_map(|more| framed(b'd', &vec![b'r'; more])),
        1 => select(&[b'c', b'f', b'F', b'X', b'p', b'?'][..]).prop_map(|tag| framed(tag, b"x\0")),
    ]
}

fn answered() -> impl Strategy<Value = Vec<u8>> {
    let words = select(&["OK", "COMMIT", "ROLLBACK", "SET", "SELECT 1", "DISCARD ALL"][..]);
    let error = |sqlstate: &'static str, severity: &'static str| {
        filling().prop_map(move |more| {
            framed(
                b'E',
                format!("S{severity}\0V{severity}\0C{sqlstate}\0M{}\0\0", "m".repeat(more)).as_bytes(),
            )
        })
    };
    prop_oneof![
        8 => select(&b"ITEI"[..]).prop_map(|status| framed(b'Z', &[status])),
        6 => words.prop_map(|word| framed(b'C', format!("{word}\0").as_bytes())),
        4 => Just(framed(b'1', b"")),
        2 => Just(framed(b'2', b"")),
        2 => Just(framed(b'3', b"")),
        2 => error("42601", "ERROR"),
        1 => error("26000", "ERROR"),
        1 => error("57P01", "FATAL"),
        1 => filling().prop_map(|more| {
            framed(b'N', format!("SWARNING\0VWARNING\0C01000\0M{}\0RSyncRepWaitForLSN\0\0", "m".repeat(more)).as_bytes())
        }),
        1 => Just(framed(b'N', b"SWARNING\0VWARNING\0C01000\0Mx\0\0")),
        2 => select(&["DateStyle\0German\0", "client_encoding\0SJIS\0", "x\0y\0", "x"][..])
            .prop_map(|body| framed(b'S', body.as_bytes())),
        1 => select(&b"GHWIsnTtDAVdc"[..]).prop_map(|tag| framed(tag, b"\0\0\0\0")),
        1 => filling().prop_map(|more| framed(b'D', &vec![7; more])),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let messages = |one: BoxedStrategy<Vec<u8>>| {
        (vec(one, 1..5), prop_oneof![9 => vec(lie(), 0..1), 1 => vec(lie(), 1..3)])
    };
    prop_oneof![
        4 => messages(asked().boxed()).prop_map(|(messages, lies)| Step::Client(Said(told(messages.concat(), &lies)))),
        4 => messages(answered().boxed()).prop_map(|(messages, lies)| Step::Server(Said(told(messages.concat(), &lies)))),
        // What makes sense: a text, and that it was run.
        4 => select(&TEXTS[..]).prop_map(|text| Step::Client(Said(framed(b'Q', format!("{text}\0").as_bytes())))),
        4 => Just(Step::Server(Said([framed(b'C', b"OK\0"), framed(b'Z', b"I")].concat()))),
        2 => (0..3usize, any::<(bool, bool)>()).prop_map(|(refused, reads)| Step::Borrow { refused, reads }),
        1 => Just(Step::Lose),
        // The beginning of an answer, and why it does not go on.
        2 => (0..9u16, select(&["40001", "25006", "42601"][..])).prop_map(|(columns, sqlstate)| {
            let columns = [&columns.to_be_bytes()[..], &vec![b'c'; usize::from(columns)]].concat();
            let error = format!("SERROR\0VERROR\0C{sqlstate}\0Mno\0\0");
            let answer = [framed(b'1', b""), framed(b'2', b""), framed(b'T', &columns), framed(b'E', error.as_bytes())];
            Step::Server(Said([answer.concat(), framed(b'Z', b"I")].concat()))
        }),
    ]
}

struct Session {
    relay: Relay,
    client: Wide,
    server: Wide,
}

impl Session {
    fn new(shares: bool, turns: bool, policy: LoweredCommit, leaks: Leaks) -> Session {
        let around = Surroundings {
            cancels: Arc::default(),
            counters: Arc::default(),
            statements: shares.then(Arc::default),
            leaks,
            blocks: true,
        };
        let books = Books::new(false, false, policy);
        let mut relay = Relay::new(books, around, "n1:5432".into());
        if turns {
            relay.take_turns();
        }
        Session { relay, client: Wide::default(), server: Wide::default() }
    }

    fn client_says(&mut self, bytes: &[u8]) -> Result<(), End> {
        match self.relay.pauses() {
            true => self.relay.keep_for_later(bytes),
            false => self.relay.hear_client(bytes, &mut self.server)?,
        }
        self.go_on()
    }

    fn server_says(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.relay.hear_server(bytes, &mut self.client)?;
        self.go_on()
    }

    fn go_on(&mut self) -> Result<(), End> {
        let _ = self.relay.write_up(&mut self.server, Waker::noop());
        while self.relay.has_backlog() {
            self.relay.hear_client(&[], &mut self.server)?;
            let _ = self.relay.write_up(&mut self.server, Waker::noop());
        }
        let _ = self.relay.down.write_out(&mut self.client);
        Ok(())
    }

    /// As the worker does; what the next server answers to what is laid on it.
    fn borrow(&mut self, refused: usize, (reads, on_replica): (bool, bool)) -> Vec<u8> {
        if !self.relay.may_part() || self.relay.poll_part(Waker::noop()).is_pending() {
            return Vec::new();
        }
        self.relay.ask_again();
        self.relay.begin_turn(reads, on_replica);
        let parameters = Arc::clone(self.relay.books.ties.parameters());
        let target = Target::new(&"n2:5432".into(), &[0; 8]);
        self.relay.borrow(target, parameters, &Laid::default(), false);
        let answers = self.relay.prelude.as_ref().map_or(0, |prelude| prelude.answers_due);
        let answer = |n| match n < refused {
            true => framed(b'E', b"SERROR\0VERROR\0C42704\0Mno\0\0"),
            false => framed(b'C', b"SET\0"),
        };
        (0..answers).flat_map(|n| [answer(n), framed(b'Z', b"I")].concat()).collect()
    }

    fn step(&mut self, step: &Step, cut: &impl Fn(&[u8]) -> Vec<usize>) -> Result<(), End> {
        let answers;
        let (bytes, is_client) = match step {
            Step::Client(said) => (&said.0, true),
            Step::Server(said) => (&said.0, false),
            Step::Borrow { refused, reads } => {
                answers = self.borrow(*refused, *reads);
                self.go_on()?;
                (&answers, false)
            }
            Step::Lose => {
                if !self.relay.loses_read() {
                    return Err(End::ServerLeft);
                }
                self.relay.lose_server();
                self.relay.forgive();
                self.relay.ask_again();
                return Ok(());
            }
        };
        let mut from = 0;
        // What may be asked again is there as a whole before it is asked at all.
        let cuts = if is_client && self.relay.repeat.is_some() { Vec::new() } else { cut(bytes) };
        for end in cuts.into_iter().chain([bytes.len()]) {
            let piece = &bytes[from..end];
            from = end;
            match is_client {
                true => self.client_says(piece)?,
                false => self.server_says(piece)?,
            }
            let Lane { unread, .. } = &self.relay.down;
            assert!(unread.len() < 5 + 16 * 1024, "{} bytes of the server are kept", unread.len());
            assert!(self.relay.pauses() || self.relay.up.unread.len() < 5 + 16 * 1024);
        }
        Ok(())
    }

    fn run(mut self, steps: &[Step], cut: impl Fn(&[u8]) -> Vec<usize>) -> Outcome {
        let welcome =
            [framed(b'R', &[0; 4]), framed(b'S', b"DateStyle\0ISO, MDY\0"), framed(b'Z', b"I")].concat();
        let mut end = self.step(&Step::Server(Said(welcome)), &cut).err();
        for step in steps {
            if end.is_none() {
                end = self.step(step, &cut).err();
            }
        }
        let _ = self.relay.write_up(&mut self.server, Waker::noop());
        let Session { relay, client, server } = self;
        let mut books = format!(
            "{:?} {:?} {:?} {:?} {} {}",
            relay.books.ledger,
            relay.books.answers,
            relay.books.ties,
            relay.books.shares.as_ref().map(|shares| (
                shares.room(),
                shares.prepared.len(),
                shares.unnamed_is_own
            )),
            relay.up.frames.at_boundary() && relay.up.unread.is_empty(),
            relay.client_hears_whole(),
        );
        // A digest that is nobody else's by dice.
        if let Some(at) = books.find("in_transaction: Some(") {
            let until = books[at..].find(')').map_or(books.len(), |until| at + until);
            books.replace_range(at..until, "in_transaction: Some(_");
        }
        Outcome {
            to_client: client.0.escape_ascii().to_string(),
            to_server: server.0.escape_ascii().to_string(),
            end: end.map(|end| format!("{end:?}")),
            books,
        }
    }
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn a_session_is_the_same_wherever_its_bytes_are_cut(
        steps in vec(step(), 1..12),
        cuts in vec(any::<Index>(), 0..5),
        (shares, turns) in any::<(bool, bool)>(),
        policy in select(&[LoweredCommit::Allow, LoweredCommit::Warn, LoweredCommit::Forbid][..]),
        leaks in select(&[Leaks::Pin, Leaks::Refuse, Leaks::Allow][..]),
    ) {
        let session = || Session::new(shares, shares && turns, policy, leaks);
        let whole = session().run(&steps, |_| Vec::new());
        let pieces = session().run(&steps, |bytes| cuts_of(bytes, &cuts));
        prop_assert_eq!(&pieces, &whole);
        if steps.iter().all(|step| !matches!(step, Step::Client(said) | Step::Server(said) if said.0.len() > 4_000)) {
            let bytes = session().run(&steps, |bytes| (0..bytes.len()).collect());
            prop_assert_eq!(&bytes, &whole);
        }
    }

    #[test]
    fn what_a_client_wants_is_the_same_wherever_its_bytes_are_cut(messages in vec(asked(), 1..3), lies in vec(lie(), 0..3), cut in any::<Index>()) {
        let bytes = told(messages.concat(), &lies);
        let mut session = Session::new(true, false, LoweredCommit::Allow, Leaks::Pin);
        let whole = session.relay.wants(&bytes);
        let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
        session.relay.keep_for_later(first);
        prop_assert_eq!(session.relay.wants(second), whole);
        // Who sends what is no message gets no server.
        if let Err(error) = Framer::new(|_| 0).next(&bytes) {
            prop_assert_eq!(whole, Wants::Garbage, "{}", error);
        }
    }
}
