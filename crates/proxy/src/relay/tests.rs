//! What nobody changes arrives as it was sent, however it is cut into pieces on the way.

use std::io::IoSlice;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wire::message::put_frame;

use super::super::policy::LoweredCommit;
use super::*;

/// Takes a few bytes at a time, or none.
struct Moody {
    chance: StdRng,
    got: Vec<u8>,
}

impl Receiver for Moody {
    fn take(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let all: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
        let taken = self.chance.random_range(0..5_000).min(all.len());
        self.got.extend_from_slice(&all[..taken]);
        Ok(taken)
    }
}

fn frames(chance: &mut StdRng, bodies: &[(u8, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..chance.random_range(0..60) {
        let (tag, body) = bodies[chance.random_range(0..bodies.len())];
        // Some are longer than any head, most are short.
        let length = if chance.random_ratio(1, 10) { 40_000 } else { 40 };
        let filling = "x".repeat(chance.random_range(0..length));
        put_frame(&mut out, tag, body.replace('*', &filling).as_bytes());
    }
    out
}

#[test]
fn bytes_pass_unchanged_however_they_are_cut() {
    let asks = [
        (b'Q', "SELECT '*'\0"),
        (b'Q', "COMMIT -- *\0"),
        (b'P', "s*\0INSERT INTO t VALUES ($1) -- *\0\0\0"),
        (b'B', "*\0s\0\0\0"),
        (b'E', "\0*"),
        (b'C', "Ss\0"),
        (b'd', "*"),
        (b'S', ""),
    ];
    let answers = [
        (b'D', "*"),
        (b'T', "*"),
        (b'C', "INSERT 0 1\0"),
        (b'N', "SNOTICE\0VNOTICE\0C00000\0M*\0\0"),
        (b'E', "SERROR\0VERROR\0C42P01\0M*\0\0"),
        (b'S', "application_name\0*\0"),
        (b'A', "*"),
        (b'1', ""),
        (b'Z', "I"),
    ];
    for seed in 0..60 {
        let mut chance = StdRng::seed_from_u64(seed);
        let mut down = Vec::new();
        put_frame(&mut down, b'R', &[0; 4]);
        put_frame(&mut down, b'Z', b"I");
        down.extend(frames(&mut chance, &answers));
        let up = frames(&mut chance, &asks);
        let around = Surroundings {
            cancels: Arc::default(),
            counters: Arc::default(),
            statements: None,
            leaks: Leaks::Pin,
            blocks: true,
        };
        let books = Books::new(false, false, LoweredCommit::Forbid);
        let mut relay = Relay::new(books, around, "n1:5432".into());
        let mut moody = || Moody { chance: StdRng::seed_from_u64(chance.random()), got: Vec::new() };
        let (mut client, mut server) = (moody(), moody());
        let (mut from_client, mut from_server) = (&up[..], &down[..]);
        while client.got.len() < down.len() || server.got.len() < up.len() {
            if relay.down.write_out(&mut client).unwrap() {
                let part;
                (part, from_server) =
                    from_server.split_at(chance.random_range(0..=from_server.len().min(5_000)));
                relay.hear_server(part, &mut client).unwrap();
            }
            if relay.write_up(&mut server, Waker::noop()).unwrap() {
                let part;
                (part, from_client) =
                    from_client.split_at(chance.random_range(0..=from_client.len().min(5_000)));
                relay.hear_client(part, &mut server).unwrap();
            }
        }
        assert!(client.got == down && server.got == up, "seed {seed}");
        assert!(relay.client_at_boundary() && relay.up.frames.at_boundary(), "seed {seed}");
    }
}

/// Takes everything.
#[derive(Default)]
pub struct Wide(pub Vec<u8>);

impl Receiver for Wide {
    fn take(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        parts.iter().for_each(|part| self.0.extend_from_slice(part));
        Ok(parts.iter().map(|part| part.len()).sum())
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, tag, body);
    out
}

/// A session that has logged in.
fn relay(statements: Option<Arc<Registry>>) -> Relay {
    let around = Surroundings {
        cancels: Arc::default(),
        counters: Arc::default(),
        statements,
        leaks: Leaks::Pin,
        blocks: true,
    };
    let mut relay = Relay::new(Books::new(false, false, LoweredCommit::Allow), around, "n1:5432".into());
    let welcome = [message(b'R', &[0; 4]), message(b'Z', b"I")].concat();
    relay.hear_server(&welcome, &mut Wide::default()).unwrap();
    relay
}

/// What a server had acknowledged before it sent garbage was in the books as told, and was not told when both came in one read.
#[test]
fn what_came_before_garbage_is_passed_on() {
    let good = [message(b'C', b"COMMIT\0"), message(b'Z', b"I")].concat();
    let (mut before, mut client) = (relay(None), Wide::default());
    before.hear_client(&message(b'Q', b"COMMIT\0"), &mut Wide::default()).unwrap();
    let end = before.hear_server(&[&good[..], b"Z\0\0\0\x03"].concat(), &mut client).unwrap_err();
    assert!(matches!(end, End::ServerGarbled(_)), "{end:?}");
    assert_eq!(client.0, good);
    let mut relay = relay(None);
    let (question, mut server) = (message(b'Q', b"SELECT 1\0"), Wide::default());
    let end = relay.hear_client(&[&question[..], b"Q\xff\xff\xff\xff"].concat(), &mut server).unwrap_err();
    assert!(matches!(end, End::ClientGarbled(_)), "{end:?}");
    assert_eq!(server.0, question);
}

/// A length above `i32::MAX` took a server of the pool first.
#[test]
fn garbage_is_not_worth_a_server() {
    let relay = relay(None);
    for length in [0u32, 3, 0x8000_0000, u32::MAX] {
        assert_eq!(relay.wants(&[&b"Q"[..], &length.to_be_bytes()].concat()), Wants::Garbage, "{length}");
    }
    assert_eq!(relay.wants(b"Q\x7f\xff\xff\xff"), Wants::Server);
}

/// The second answer to a read was taken for another one when it came in pieces.
#[test]
fn an_answer_that_comes_again_in_pieces_is_the_same() {
    let mut relay = relay(Some(Arc::default()));
    relay.take_turns();
    let (mut client, mut server) = (Wide::default(), Wide::default());
    let begins = [message(b'1', b""), message(b'2', b""), message(b'T', b"\0\x01name\0etc.")].concat();
    let ends = [message(b'D', b"row"), message(b'C', b"SELECT 1\0"), message(b'Z', b"I")].concat();
    let fails = [message(b'E', b"SERROR\0VERROR\0C40001\0Mno\0\0"), message(b'Z', b"I")].concat();
    relay.begin_turn(true, true);
    let asked =
        [message(b'P', b"\0SELECT 1\0\0\0"), message(b'B', b"\0\0\0\0\0\0\0\0"), message(b'S', b"")].concat();
    relay.hear_client(&asked, &mut server).unwrap();
    relay.hear_server(&[&begins[..], &fails].concat(), &mut client).unwrap();
    assert_eq!(relay.ask_again(), Some(Failed::NotThere));
    relay.begin_turn(true, true);
    relay.hear_client(&[], &mut server).unwrap();
    for byte in [&begins[..], &ends].concat() {
        relay.hear_server(&[byte], &mut client).unwrap();
    }
    // The failed one's ReadyForQuery was hidden with its error.
    assert_eq!(client.0.escape_ascii().to_string(), [begins, ends].concat().escape_ascii().to_string());
}

/// A server that shuts down with many words, in two reads, was heard by its idle client, which could have been moved.
#[test]
fn long_last_words_in_pieces_are_not_for_who_can_be_moved() {
    let text = format!("SFATAL\0VFATAL\0C57P01\0M{}\0\0", "завершение ".repeat(20));
    for cut in [1, 5, 300] {
        let (mut relay, mut client) = (relay(None), Wide::default());
        let words = message(b'E', text.as_bytes());
        let (first, second) = words.split_at(cut);
        relay.hear_server(first, &mut client).unwrap();
        relay.hear_server(second, &mut client).unwrap();
        assert!(client.0.is_empty() && relay.is_movable(), "{cut}");
    }
}

/// A client was not told why its session ended when the message at which it ended came in pieces.
#[test]
fn a_message_of_which_nothing_was_passed_on_leaves_room_for_the_last_words() {
    let (mut relay, mut client) = (relay(None), Wide::default());
    let notice = message(b'N', b"SWARNING\0VWARNING\0C01000\0Mx\0RSyncRepWaitForLSN\0\0");
    relay.hear_server(&notice, &mut client).unwrap();
    let end = relay.hear_server(b"G\0\0\0\x07", &mut client).unwrap_err();
    assert!(matches!(end, End::Stuck), "{end:?}");
    assert!(relay.client_hears_whole());
}

#[test]
fn a_request_ends_with_what_asks_for_an_answer() {
    let message = |tag: u8, body: &[u8]| {
        let mut out = Vec::new();
        put_frame(&mut out, tag, body);
        out
    };
    let group = [message(b'P', b"\0SELECT 1\0\0\0"), message(b'B', &[0; 8]), message(b'S', b"")].concat();
    let both = [&group[..], &message(b'Q', b"SELECT 2\0")].concat();
    for end in 0..both.len() {
        assert_eq!(request_end(&both[..end]), (end >= group.len()).then_some(group.len()), "{end}");
    }
    assert_eq!(request_end(&both[group.len()..]), Some(both.len() - group.len()));
    assert_eq!(request_end(&message(b'X', b"")), None);
}
