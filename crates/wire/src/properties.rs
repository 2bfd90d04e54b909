//! What holds for every input of the parsers, shown by generated ones: whole messages first, then with lies in them.
//!
//! `PROPTEST_CASES` is 256 by default and more asks for more of each; `PROPTEST_RNG_SEED` asks for others. Without it the cases are
//! the same each time, so that what a change breaks is that change's.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;

use crate::message::{FrameError, Framer, Piece, Status, put_frame, split_text};
use crate::startup::{
    CANCEL_KEY_MAX, CancelKey, Opening, OpeningError, STARTUP_BODY_MAX, gssenc_request, opening_body_length,
    parse_opening, ssl_request, startup_packet, with_parameter,
};
use crate::token::{Kind, Tokens};
use crate::{
    Branch, Commands, Effects, ErrorFields, ErrorResponse, History, Lsn, OnSession, Severity, Timeline,
};

/// `PROPTEST_CASES` counts in 256ths of `cases`.
fn config(cases: u32) -> ProptestConfig {
    let asked = ProptestConfig::default();
    ProptestConfig {
        cases: (u64::from(cases) * u64::from(asked.cases) / 256).min(u64::from(u32::MAX)) as u32,
        rng_seed: match asked.rng_seed {
            RngSeed::Random => RngSeed::Fixed(1),
            fixed => fixed,
        },
        failure_persistence: None,
        ..asked
    }
}

/// What happens to bytes that were well made.
#[derive(Clone, Debug)]
enum Lie {
    Flip(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Remove(Index, u8),
    /// A length word, wherever it lands.
    Word(Index, u32),
}

const WORDS: [u32; 9] = [0, 3, 4, 5, 0x7fff_ffff, 0x8000_0000, u32::MAX, 0x7fff_fffb, 10_004];

fn lie() -> impl Strategy<Value = Lie> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Lie::Flip(at, byte)),
        at().prop_map(Lie::Cut),
        (at(), vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Lie::Insert(at, bytes)),
        (at(), 1..9u8).prop_map(|(at, count)| Lie::Remove(at, count)),
        (at(), select(&WORDS[..])).prop_map(|(at, word)| Lie::Word(at, word)),
    ]
}

fn told(mut bytes: Vec<u8>, lies: &[Lie]) -> Vec<u8> {
    for lie in lies {
        let end = bytes.len() + 1;
        match lie {
            Lie::Flip(at, byte) if !bytes.is_empty() => bytes[at.index(end - 1)] ^= byte,
            Lie::Flip(..) => {}
            Lie::Cut(at) => bytes.truncate(at.index(end)),
            Lie::Insert(at, more) => {
                let at = at.index(end);
                bytes.splice(at..at, more.iter().copied());
            }
            Lie::Remove(at, count) => {
                let at = at.index(end);
                bytes.drain(at..(at + usize::from(*count)).min(end - 1));
            }
            Lie::Word(at, word) => {
                let at = at.index(end);
                let until = (at + 4).min(end - 1);
                bytes.splice(at..until, word.to_be_bytes());
            }
        }
    }
    bytes
}

fn lies() -> impl Strategy<Value = Vec<Lie>> {
    prop_oneof![2 => Just(Vec::new()), 3 => vec(lie(), 1..4)]
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let frame = (select(&b"QPBDECHSFcdfXpRKZNAS123tnGWTI"[..]), vec(any::<u8>(), 0..40));
    (vec(frame, 0..8), lies()).prop_map(|(frames, lies)| {
        let mut bytes = Vec::new();
        frames.iter().for_each(|(tag, body)| put_frame(&mut bytes, *tag, body));
        told(bytes, &lies)
    })
}

/// A text of SQL, or almost.
fn text() -> impl Strategy<Value = Vec<u8>> {
    const PARTS: [&str; 64] = [
        "SELECT",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "PREPARE",
        "TRANSACTION",
        "PREPARED",
        "SET",
        "LOCAL",
        "SESSION",
        "RESET",
        "ALL",
        "DISCARD",
        "DEALLOCATE",
        "client_min_messages",
        "synchronous_commit",
        "set_config",
        "TO",
        "=",
        "'off'",
        "off",
        "error",
        "DEFAULT",
        "ALTER",
        "ROLE",
        "SYSTEM",
        "CREATE",
        "TEMP",
        "TABLE",
        "INTO",
        "TIME",
        "ZONE",
        "XML",
        "OPTION",
        "AUTHORIZATION",
        "DECLARE",
        "WITH",
        "HOLD",
        "LISTEN",
        "(",
        ")",
        ",",
        ";",
        "'",
        "\"",
        "E'",
        "\\",
        "$$",
        "$a$",
        "$1",
        "--",
        "/*",
        "*/",
        "\n",
        "\r",
        "\u{b}",
        "é",
        "\0",
        "e",
        "1",
        "pg_temp",
        "DateStyle",
        "NAMES",
        "x",
    ];
    let part = prop_oneof![
        8 => select(&PARTS[..]).prop_map(|part| part.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..4),
    ];
    vec((part, any::<bool>()), 0..24).prop_map(|parts| {
        let spaced =
            parts.into_iter().map(|(part, spaced)| [&part[..], if spaced { b" " } else { b"" }].concat());
        spaced.collect::<Vec<_>>().concat()
    })
}

/// Frames as their user sees them, and the error that ended them; the greatest remainder that had to be kept.
#[derive(PartialEq, Debug, Default)]
struct Followed {
    frames: Vec<(u8, u32, Vec<u8>)>,
    passed: Vec<u8>,
    error: Option<FrameError>,
    at_boundary: bool,
}

fn follow(stream: &[u8], cuts: &[usize], wanted: fn(u8) -> usize) -> (Followed, usize) {
    let (mut framer, mut left, mut kept_max) = (Framer::new(wanted), Vec::new(), 0);
    let mut followed = Followed::default();
    let ends = cuts.iter().copied().chain([stream.len()]);
    let mut from = 0;
    'parts: for end in ends {
        left.extend_from_slice(&stream[from..end]);
        from = end;
        let mut at = 0;
        loop {
            match framer.next(&left[at..]) {
                Ok(None) => break,
                Ok(Some(Piece::Rest(rest))) => {
                    followed.passed.extend_from_slice(rest);
                    at += rest.len();
                }
                Ok(Some(Piece::Frame(frame))) => {
                    followed.frames.push((frame.tag, frame.length, frame.head.to_vec()));
                    followed.passed.extend_from_slice(frame.bytes);
                    at += frame.bytes.len();
                }
                Err(error) => {
                    followed.error = Some(error);
                    break 'parts;
                }
            }
        }
        left.drain(..at);
        kept_max = kept_max.max(left.len());
    }
    followed.at_boundary = framer.at_boundary();
    (followed, kept_max)
}

fn cuts_of(stream: &[u8], cuts: &[Index]) -> Vec<usize> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    cuts.sort_unstable();
    cuts
}

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn frames_are_the_same_wherever_the_stream_is_cut(stream in stream(), cuts in vec(any::<Index>(), 0..6)) {
        for wanted in [(|_| 0) as fn(u8) -> usize, |tag| usize::from(tag) % 16, |_| usize::MAX] {
            let (whole, _) = follow(&stream, &[], wanted);
            prop_assert!(stream.starts_with(&whole.passed));
            let every: Vec<usize> = (0..stream.len()).collect();
            for cuts in [cuts_of(&stream, &cuts), every] {
                let (pieces, kept_max) = follow(&stream, &cuts, wanted);
                prop_assert_eq!(&pieces, &whole);
                prop_assert!(kept_max < 5 + wanted(b'Q').max(15).saturating_add(1).min(stream.len() + 1));
            }
        }
    }

    #[test]
    fn an_opening_is_what_was_sent_or_an_error(
        minor in 0..4u16,
        pairs in vec(("[a-zé_-]{1,9}", "[ -~é]{0,20}"), 0..6),
        kind in 0..4u8,
        secret in vec(any::<u8>(), 0..CANCEL_KEY_MAX + 3),
        lies in lies(),
    ) {
        let parameters: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        let key = CancelKey { pid: u32::from(minor) << 20 | 7, secret: &secret };
        let packet = match kind {
            0 => ssl_request().to_vec(),
            1 => gssenc_request().to_vec(),
            2 => key.request(),
            _ => startup_packet(minor, &parameters),
        };
        if lies.is_empty() {
            let length = opening_body_length(packet[..4].try_into().unwrap());
            prop_assert_eq!(length, Ok(packet.len() - 4));
            match (kind, parse_opening(&packet[4..])) {
                (0, Ok(Opening::SslRequest)) | (1, Ok(Opening::GssEncRequest)) => {}
                (2, Ok(Opening::Cancel(found))) => prop_assert_eq!(found, key),
                (2, Err(OpeningError::CancelKey)) => prop_assert!(!(1..=CANCEL_KEY_MAX).contains(&secret.len())),
                (3, Ok(Opening::Startup(startup))) => {
                    prop_assert_eq!(startup.minor, minor);
                    let found: Vec<_> = startup.parameters().collect();
                    let sent: Vec<_> = parameters.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
                    prop_assert_eq!(found, sent);
                }
                (_, other) => prop_assert!(false, "{:?}", other),
            }
        }
        let packet = told(packet, &lies);
        let Some((word, body)) = packet.split_first_chunk::<4>() else { return Ok(()) };
        if let Ok(length) = opening_body_length(*word) {
            prop_assert!((4..=STARTUP_BODY_MAX).contains(&length));
        }
        if let Ok(Opening::Startup(startup)) = parse_opening(body) {
            let _ = (startup.setting("work_mem"), startup.setting("client_min_messages"));
            if let Some(longer) = with_parameter(&packet, "a", b"\\ -c a=b") {
                let length = opening_body_length(longer[..4].try_into().unwrap());
                prop_assert_eq!(length, Ok(longer.len() - 4));
                let Ok(Opening::Startup(longer)) = parse_opening(&longer[4..]) else {
                    return Err(TestCaseError::fail("no startup any more"));
                };
                prop_assert_eq!(longer.get("a"), Some(&b"\\ -c a=b"[..]));
                prop_assert!(longer.parameters().count() == startup.parameters().count() + 1);
            }
        }
    }

    #[test]
    fn tokens_are_pieces_of_their_text_in_its_order(sql in text()) {
        let mut end = 0;
        for token in Tokens::new(&sql) {
            prop_assert!(token.start >= end && !token.raw.is_empty());
            end = token.range().end;
            prop_assert_eq!(token.raw, &sql[token.range()]);
            prop_assert!(token.plain().len() <= token.raw.len());
            if let Kind::Byte(byte) = token.kind {
                prop_assert_eq!(token.raw, [byte]);
            }
        }
        prop_assert!(end <= sql.len());
    }

    #[test]
    fn a_text_has_the_effects_of_its_statements(one in text(), other in text()) {
        let effects = Effects::read(&one, false);
        for assignment in &effects.assignments {
            prop_assert!(sql_holds(&one, assignment.place.clone()));
        }
        let cut = Effects::read(&one, true);
        prop_assert!(matches!(cut.on_session, OnSession::Binds(_)));
        prop_assert!(Commands::read(&one, true).may_commit(true, true));
        // A text that ends outside of quotes and comments: what is appended counts.
        let both = [&one[..], b"\n;\n", &other].concat();
        let found = Commands::read(&both, false);
        prop_assert!(found.commits >= Commands::read(&one, false).commits);
        if Tokens::new(&both).any(|token| token.is_byte(b';') && token.start == one.len() + 1) {
            prop_assert!(found.commits >= Commands::read(&other, false).commits);
            let second = Effects::read(&other, false);
            let all = Effects::read(&both, false);
            prop_assert_eq!(all.assignments.len(), effects.assignments.len() + second.assignments.len());
            let binds = |effects: &Effects| matches!(effects.on_session, OnSession::Binds(_));
            prop_assert!(binds(&all) || !binds(&effects) && !binds(&second));
        }
    }

    #[test]
    fn an_error_is_read_as_it_was_written(
        texts in ("[ -~é\0]{0,30}", "[ -~é\0]{0,30}", "[ -~]{0,9}"),
        severity in select(&[Severity::Warning, Severity::Error, Severity::Fatal][..]),
        lies in lies(),
    ) {
        let (message, detail, hint) = texts;
        let error = ErrorResponse { severity, sqlstate: "08P01", message, detail, hint };
        let frame = error.encode();
        prop_assert_eq!(u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize, frame.len() - 1);
        let fields = ErrorFields::new(&frame[5..]);
        for (tag, text) in [(b'M', &error.message), (b'D', &error.detail), (b'H', &error.hint)] {
            let text: Vec<u8> = text.bytes().filter(|byte| *byte != 0).collect();
            prop_assert_eq!(fields.get(tag).unwrap_or_default(), &text[..]);
        }
        prop_assert_eq!(fields.is_fatal(), severity == Severity::Fatal);
        let body = told(frame[5..].to_vec(), &lies);
        // What is cut says less, and nothing else.
        for end in 0..body.len() {
            for tag in b"SVCMDHRx" {
                let part = ErrorFields::new(&body[..end]).get(*tag);
                prop_assert!(part.is_none() || part == ErrorFields::new(&body).get(*tag));
            }
        }
        let _ = (Status::parse(&body), split_text(&body));
    }

    #[test]
    fn positions_and_histories_are_read_as_they_are_written(
        lsn in any::<u64>(),
        noise in "[0-9A-Fa-f/+ x]{0,20}",
        steps in vec((1..9u32, any::<u64>()), 0..5),
        file in "([0-9]{0,11}[ \t]{0,2}[0-9A-F]{0,9}/?[0-9A-F]{0,9}[ #é]{0,2}(\n|\r\n|\r)){0,4}",
    ) {
        prop_assert_eq!(Lsn(lsn).to_string().parse(), Ok(Lsn(lsn)));
        if let Ok(lsn) = noise.parse::<Lsn>() {
            prop_assert_eq!(lsn.to_string().parse(), Ok(lsn));
        }
        let mut ancestors = Vec::new();
        let mut timeline = 0;
        for (step, end) in steps {
            timeline += step;
            ancestors.push(Branch { timeline: Timeline(timeline), end: Lsn(end) });
        }
        let lines: String =
            ancestors.iter().map(|branch| format!("{}\t{}\tno reason\n", branch.timeline, branch.end)).collect();
        let history = History { ancestors, current: Timeline(timeline).next() };
        prop_assert_eq!(History::parse(history.current, &lines), Ok(history.clone()));
        let _ = (history.timeline_at(Lsn(lsn)), history.contains(Timeline(timeline), Lsn(lsn), Lsn(lsn)));
        if let Ok(parsed) = History::parse(Timeline(u32::MAX), &file) {
            prop_assert!(parsed.ancestors.is_sorted_by(|a, b| a.timeline < b.timeline));
        }
    }
}

fn sql_holds(sql: &[u8], place: std::ops::Range<usize>) -> bool {
    sql.get(place).is_some_and(|text| !text.is_empty())
}
