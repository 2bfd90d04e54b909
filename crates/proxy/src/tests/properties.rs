//! What holds for every input of the proxy's parsers, shown by generated ones: whole messages first, then with lies in them. That of
//! a session's bytes is in `relay::properties`.
//!
//! `PROPTEST_CASES` is 256 by default and more asks for more of each; `PROPTEST_RNG_SEED` asks for others. Without it the cases are
//! the same each time, so that what a change breaks is that change's.

use std::pin::Pin;
use std::task::{Context, Poll};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::RngSeed;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use wire::message::put_frame;
use wire::startup::{
    CancelKey, Opening, gssenc_request, opening_body_length, parse_opening, ssl_request, startup_packet,
};

use crate::auth::hba::{Origin, Outcome, Replication, Request, Rules};
use crate::auth::md5::Md5Secret;
use crate::auth::messages::{
    Authentication, SASL_BYTES_MAX, SaslInitial, password, put_password, sasl_response,
};
use crate::auth::roles::Roles;
use crate::auth::scram::{Mechanism, Mock, Offer, Verifier};
use crate::hello::{Hello, read_hello};
use crate::login::Incoming;
use crate::tls::{Stream, Tls, TlsConfig};

/// `PROPTEST_CASES` counts in 256ths of `count`.
pub fn cases(count: u32) -> ProptestConfig {
    let asked = ProptestConfig::default();
    ProptestConfig {
        cases: (u64::from(count) * u64::from(asked.cases) / 256).clamp(1, u64::from(u32::MAX)) as u32,
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
pub enum Lie {
    Flip(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Remove(Index, u8),
    /// A part of it once more.
    Twice(Index, u8),
    /// A length word, wherever it lands.
    Word(Index, u32),
}

const WORDS: [u32; 9] = [0, 3, 4, 5, 0x7fff_ffff, 0x8000_0000, u32::MAX, 0x7fff_fffb, 10_004];

pub fn lie() -> impl Strategy<Value = Lie> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Lie::Flip(at, byte)),
        at().prop_map(Lie::Cut),
        (at(), vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Lie::Insert(at, bytes)),
        (at(), 1..9u8).prop_map(|(at, count)| Lie::Remove(at, count)),
        (at(), 1..40u8).prop_map(|(at, count)| Lie::Twice(at, count)),
        (at(), select(&WORDS[..])).prop_map(|(at, word)| Lie::Word(at, word)),
    ]
}

pub fn told(mut bytes: Vec<u8>, lies: &[Lie]) -> Vec<u8> {
    for lie in lies {
        let length = bytes.len();
        let until = |at: usize, count: u8| (at + usize::from(count)).min(length);
        match lie {
            Lie::Flip(at, byte) if length > 0 => bytes[at.index(length)] ^= byte,
            Lie::Flip(..) => {}
            Lie::Cut(at) => bytes.truncate(at.index(length + 1)),
            Lie::Insert(at, more) => {
                let at = at.index(length + 1);
                bytes.splice(at..at, more.iter().copied());
            }
            Lie::Remove(at, count) => {
                let at = at.index(length + 1);
                bytes.drain(at..until(at, *count));
            }
            Lie::Twice(at, count) => {
                let at = at.index(length + 1);
                let part = bytes[at..until(at, *count)].to_vec();
                bytes.splice(at..at, part);
            }
            Lie::Word(at, word) => {
                let at = at.index(length + 1);
                bytes.splice(at..until(at, 4), word.to_be_bytes());
            }
        }
    }
    bytes
}

/// Places in `bytes`, in order.
pub fn cuts_of(bytes: &[u8], cuts: &[Index]) -> Vec<usize> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    cuts
}

fn pieces<'b>(bytes: &'b [u8], cuts: &[Index]) -> Vec<&'b [u8]> {
    let mut from = 0;
    let ends = cuts_of(bytes, cuts).into_iter().chain([bytes.len()]);
    ends.map(|end| &bytes[std::mem::replace(&mut from, end)..end]).collect()
}

/// Gives one piece with each read.
struct Slow<'b>(Vec<&'b [u8]>);

impl AsyncRead for Slow<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        while let Some(piece) = self.0.first_mut() {
            let (now, later) = piece.split_at(piece.len().min(buffer.remaining()));
            buffer.put_slice(now);
            *piece = later;
            if piece.is_empty() {
                self.0.remove(0);
            }
            if !now.is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

fn block_on<F: Future>(what: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(what)
}

/// All messages, and the most that was kept.
fn incoming(stream: Vec<&[u8]>, body_max: usize) -> (Vec<(u8, Vec<u8>)>, usize) {
    block_on(async {
        let (mut incoming, mut slow, mut found) = (Incoming::default(), Slow(stream), Vec::new());
        let mut kept_max = 0;
        while let Some((tag, body)) = incoming.next(&mut slow, body_max).await {
            kept_max = kept_max.max(incoming.bytes.capacity());
            found.push((tag, body.to_vec()));
        }
        (found, kept_max.max(incoming.bytes.capacity()))
    })
}

/// What a client came for, in words. The start-up packet without what the proxy adds to it.
async fn hello(pieces: Vec<&[u8]>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.set_nodelay(true).unwrap();
    let mut server = Stream::from(listener.accept().await.unwrap().0);
    let tls = Tls::start(&TlsConfig::default()).unwrap();
    let say = async {
        for piece in pieces {
            if client.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let _ = client.shutdown().await;
    };
    let (said, ()) = tokio::join!(read_hello(&mut server, &tls), say);
    match said {
        Ok(Hello::Cancel { pid, secret }) => format!("cancel {pid} {secret:?}"),
        Ok(Hello::Session { startup, replication }) => format!("session {startup:?} {replication}"),
        Err(error) => format!("error {error}"),
    }
}

/// What it should be, by the packets alone.
fn hello_of(mut bytes: &[u8]) -> Option<&'static str> {
    for _ in 0..3 {
        let (word, rest) = bytes.split_first_chunk::<4>()?;
        let length = opening_body_length(*word).ok()?;
        let body = rest.get(..length)?;
        bytes = &rest[length..];
        match parse_opening(body).ok()? {
            Opening::SslRequest | Opening::GssEncRequest => {}
            Opening::Cancel(_) => return Some("cancel"),
            Opening::Startup(_) => return Some("session"),
        }
    }
    None
}

const HBA: [&str; 40] = [
    "host",
    "hostssl",
    "local",
    "hostnossl",
    "all",
    "\"all\"",
    "sameuser",
    "replication",
    "+joe",
    "postgres",
    "db,other",
    "10.0.0.0/8",
    "::1/128",
    "127.0.0.1",
    "255.255.255.0",
    "samenet",
    "samehost",
    ".example.com",
    "trust",
    "reject",
    "scram-sha-256",
    "md5",
    "peer",
    "cert",
    "ldap",
    "map=x",
    "clientcert=verify-full",
    "#",
    "\"",
    "\\",
    ",",
    "/^a",
    "@file",
    "\n",
    "\r",
    "\t",
    "é",
    "10.0.0.0/33",
    "::/129",
    "include",
];

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn messages_of_a_log_in_are_the_same_wherever_they_are_cut(
        messages in vec((select(&b"pRE"[..]), vec(any::<u8>(), 0..60)), 0..4),
        lies in vec(lie(), 0..3),
        cuts in vec(any::<Index>(), 0..6),
        body_max in select(&[0, 30, SASL_BYTES_MAX][..]),
    ) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|(tag, body)| put_frame(&mut bytes, *tag, body));
        let bytes = told(bytes, &lies);
        let (whole, _) = incoming(vec![&bytes], body_max);
        let (pieces, kept_max) = incoming(pieces(&bytes, &cuts), body_max);
        prop_assert_eq!(&pieces, &whole);
        let (single, _) = incoming(bytes.chunks(1).collect(), body_max);
        prop_assert_eq!(single, whole);
        prop_assert!(kept_max <= 2 * bytes.len() + 64, "{} bytes for {}", kept_max, bytes.len());
    }

    #[test]
    fn questions_and_answers_of_a_log_in_are_read_as_written(
        data in vec(any::<u8>(), 0..40),
        salt in any::<[u8; 4]>(),
        word in "[ -~é]{0,20}",
        kind in 0..7u8,
        lies in vec(lie(), 0..3),
    ) {
        let mechanisms = [word.as_bytes(), b"\0"].concat();
        let question = match kind {
            0 => Authentication::Ok,
            1 => Authentication::CleartextPassword,
            2 => Authentication::Md5Password { salt },
            3 => Authentication::Sasl { mechanisms: &mechanisms },
            4 => Authentication::SaslContinue(&data),
            5 => Authentication::SaslFinal(&data),
            _ => Authentication::Other(7),
        };
        let mut out = Vec::new();
        question.encode(&mut out);
        prop_assert_eq!(Authentication::parse(&out[5..]), Some(question));
        let _ = Authentication::parse(&told(out, &lies)).map(|question| question.offers("SCRAM-SHA-256"));
        let initial = SaslInitial { mechanism: word.as_bytes(), data: (kind > 0).then_some(&data[..]) };
        let mut out = Vec::new();
        initial.encode(&mut out);
        prop_assert_eq!(SaslInitial::parse(&out[5..]), Some(initial));
        let body = told(out[5..].to_vec(), &lies);
        if let Some(initial) = SaslInitial::parse(&body) {
            let mut again = Vec::new();
            initial.encode(&mut again);
            prop_assert_eq!(&again[5..], &body[..]);
        }
        let mut out = Vec::new();
        put_password(&mut out, word.as_bytes());
        prop_assert_eq!(password(&out[5..]), Some(word.as_bytes()));
        let _ = (password(&body), sasl_response(&body));
    }

    #[test]
    fn a_hello_is_the_same_wherever_it_is_cut(
        requests in vec(any::<bool>(), 0..4),
        minor in 0..3u16,
        value in "[ -~é]{0,20}",
        cancels in any::<bool>(),
        lies in vec(lie(), 0..2),
        cuts in vec(any::<Index>(), 0..6),
    ) {
        let mut bytes: Vec<u8> = requests.iter().flat_map(|ssl| if *ssl { ssl_request() } else { gssenc_request() }).collect();
        match cancels {
            true => bytes.extend(CancelKey { pid: 7, secret: &[3; 32] }.request()),
            false => bytes.extend(startup_packet(minor, &[("user", "ann"), ("options", &value), ("a", &value)])),
        }
        let bytes = told(bytes, &lies);
        let (whole, pieces) = block_on(async { (hello(vec![&bytes]).await, hello(pieces(&bytes, &cuts)).await) });
        prop_assert_eq!(&pieces, &whole);
        let expected = hello_of(&bytes).unwrap_or("error");
        prop_assert!(whole.starts_with(expected), "{} instead of {}", whole, expected);
    }

    #[test]
    fn stored_secrets_are_read_whole_or_not(lies in vec(lie(), 1..3), user in "[a-zé]{0,9}", salt in any::<[u8; 4]>()) {
        const SCRAM: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        let stored = String::from_utf8_lossy(&told(SCRAM.into(), &lies)).into_owned();
        if let Some(verifier) = Verifier::parse(&stored) {
            let offer = Offer::new(verifier.clone(), false, None);
            let challenge = offer.begin(Mechanism::Plain, b"n,,n=,r=abc", [0; 18]).unwrap();
            let ends = format!(",s={},i={}", verifier.salt(), verifier.iterations());
            prop_assert!(challenge.message().ends_with(ends.as_bytes()));
        }
        let secret = Md5Secret::of_password(b"secret", &user);
        let answer = secret.answer(salt);
        prop_assert!(secret.accepts(salt, &answer));
        let other = told(answer.to_vec(), &lies);
        prop_assert_eq!(secret.accepts(salt, &other), other == answer[..]);
        let _ = Md5Secret::parse(&String::from_utf8_lossy(&other));
        prop_assert!(Mock::new([7; 32], 4096).verifier(&user).salt() == Mock::new([7; 32], 4096).verifier(&user).salt());
    }

    #[test]
    fn rules_are_read_or_refused_and_let_nobody_in_by_a_typing_error(
        parts in vec((select(&HBA[..]), select(&["", " ", " ", "\t"][..])), 0..30),
        address in any::<[u8; 4]>(),
        user in select(&["postgres", "all", "joe", "\"all\""][..]),
    ) {
        let text: String = parts.iter().flat_map(|(part, blank)| [*part, *blank]).collect();
        let lines: Vec<String> = text.split('\n').map(str::to_owned).collect();
        let Ok(rules) = Rules::parse(&lines) else { return Ok(()) };
        prop_assert!(rules.len() <= lines.len());
        let origin = Origin::Host { address: address.into(), tls: address[0] % 2 == 0 };
        let request = Request { database: "db", user, origin, replication: Replication::No };
        let decision = rules.decide(&request, &Roles::default(), None);
        prop_assert_eq!(decision.line.is_none(), decision.outcome == Outcome::NoEntry);
        if decision.outcome == Outcome::Trust {
            prop_assert!(text.contains("trust"));
        }
    }
}
