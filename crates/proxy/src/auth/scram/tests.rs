//! The examples of RFC 7677 and of a PostgreSQL server, the two sides against each other, and whatever is no message.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::collection::vec;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use zeroize::Zeroizing;

use super::*;
use crate::tests::properties::{cases, lie, told};

/// Of the password "pencil" with the salt of RFC 7677.
const STORED: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

fn pencil() -> Verifier {
    Verifier::parse(STORED).unwrap()
}

fn password(text: &[u8]) -> ClientSecret {
    ClientSecret::Password(Zeroizing::new(text.to_vec()))
}

fn is_good(proof: &Result<Proof, Violation>) -> bool {
    matches!(proof, Ok(Proof::Good { .. }))
}

#[test]
fn the_example_of_rfc_7677() {
    let offer = Offer::new(pencil(), false, None);
    assert_eq!(offer.mechanisms(), b"SCRAM-SHA-256\0");
    let challenge = offer.begin_with(Mechanism::Plain, CLIENT_FIRST.as_bytes(), SERVER_NONCE).unwrap();
    let expected = format!("r=rOprNGfwEbeRWgbNEkqO{SERVER_NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
    assert_eq!(challenge.message(), expected.as_bytes());
    match challenge.check(CLIENT_FINAL.as_bytes()).unwrap() {
        Proof::Good { server_final, keys } => {
            assert_eq!(server_final, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
            assert!(keys.fit(&pencil()));
            let keys_of_password = pencil().accepts_password(b"pencil").unwrap().unwrap();
            assert!(keys_of_password.client_key == keys.client_key, "the recovered key is the password's");
        }
        Proof::Wrong => panic!("the example's proof is good"),
    }
    assert!(pencil().accepts_password(b"Pencil").unwrap().is_none());
}

/// Recorded from a PostgreSQL server by the authors of postgres-protocol.
#[test]
fn an_exchange_with_postgresql_and_the_keys_of_it_again() {
    let nonce = STANDARD.decode("9IZ2O01zb9IgiIZ1WJ/zgpJB").unwrap().try_into().unwrap();
    let server_first = b"r=9IZ2O01zb9IgiIZ1WJ/zgpJBjx/oIRLs02gGSHcw1KEty3eY,s=fs3IXBy7U7+IvVjZ,i=4096";
    let server_final = b"v=U+ppxD5XUKtradnv8e2MkeupiA8FU87Sg8CXzXHDAzw=";
    let mut secret = password(b"foobar");
    for _ in 0..2 {
        let opening = Opening::new(secret, Binding::None, nonce);
        assert_eq!(opening.message(), "n,,n=,r=9IZ2O01zb9IgiIZ1WJ/zgpJB");
        let answered = opening.answer(server_first).unwrap();
        assert_eq!(
            std::str::from_utf8(answered.message()).unwrap(),
            "c=biws,r=9IZ2O01zb9IgiIZ1WJ/zgpJBjx/oIRLs02gGSHcw1KEty3eY,p=AmNKosjJzS31NTlQYNs5BTeQjdHdk7lOflDo5re2an8="
        );
        secret = ClientSecret::Keys(answered.finish(server_final).unwrap());
    }
}

/// One role and one client with chances of their own.
struct World {
    random: StdRng,
    verifier: Verifier,
    password: Vec<u8>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = StdRng::seed_from_u64(seed);
        let length = random.random_range(1..30);
        let password: Vec<u8> = (0..length).map(|_| random.random_range(1..=255)).collect();
        let salt = STANDARD.encode(random.random::<[u8; 16]>());
        let iterations = random.random_range(1..5);
        let verifier = keys::Keys::of_password(&password, &salt, iterations).unwrap().verifier();
        World { random, verifier, password }
    }

    fn nonce(&mut self) -> [u8; NONCE_BYTES] {
        std::array::from_fn(|_| self.random.random())
    }

    /// Client-first, the challenge to it, and client-final.
    fn proven(&mut self, secret: ClientSecret, end_point: Option<Vec<u8>>) -> (String, Challenge, Answered) {
        let binding = end_point.clone().map_or(Binding::None, Binding::EndPoint);
        let opening = Opening::new(secret, binding, self.nonce());
        let offer = Offer::new(self.verifier.clone(), false, end_point);
        let mechanism = offer.choose(opening.mechanism().as_bytes()).unwrap();
        let first = opening.message();
        let challenge = offer.begin(mechanism, first.as_bytes(), self.nonce()).unwrap();
        let answered = opening.answer(challenge.message()).unwrap();
        (first, challenge, answered)
    }

    fn end_point(&mut self) -> Option<Vec<u8>> {
        self.random.random::<bool>().then(|| self.random.random::<[u8; 32]>().to_vec())
    }
}

#[test]
fn both_sides_agree_and_the_recovered_key_logs_in() {
    for seed in 0..200 {
        let mut world = World::new(seed);
        let mut secret = password(&world.password);
        for _ in 0..3 {
            let end_point = world.end_point();
            let (_, challenge, answered) = world.proven(secret, end_point);
            let Ok(Proof::Good { server_final, keys }) = challenge.check(answered.message()) else {
                panic!("seed {seed}: a right proof is refused")
            };
            assert!(keys.fit(&world.verifier));
            answered.finish(server_final.as_bytes()).unwrap();
            secret = ClientSecret::Keys(keys);
        }
        let mut wrong = world.password.clone();
        wrong.push(b'x');
        let (_, challenge, answered) = world.proven(password(&wrong), None);
        assert!(matches!(challenge.check(answered.message()), Ok(Proof::Wrong)), "seed {seed}");
    }
}

#[test]
fn a_proof_is_good_for_its_own_nonce_alone() {
    let mut world = World::new(4);
    let secret = password(&world.password);
    let (first, challenge, answered) = world.proven(secret, None);
    let recorded = answered.message().to_vec();
    assert!(is_good(&challenge.check(&recorded)));
    let again = Offer::new(world.verifier.clone(), false, None);
    let again = again.begin(Mechanism::Plain, first.as_bytes(), [8; NONCE_BYTES]).unwrap();
    let violation = again.check(&recorded).unwrap_err();
    assert_eq!((violation.sqlstate, violation.message), ("08P01", "invalid SCRAM response"));

    // Who has the password and signs another nonce breaks the protocol all the same.
    let keys = pencil().accepts_password(b"pencil").unwrap().unwrap();
    let challenge =
        Offer::new(pencil(), false, None).begin(Mechanism::Plain, b"n,,n=,r=x", [8; NONCE_BYTES]).unwrap();
    let without_proof = "c=biws,r=xy";
    let parts = [b"n=,r=x", &b","[..], challenge.message(), b",", without_proof.as_bytes()];
    let mut proof = keys::hmac(&keys::digest(&keys.client_key[..])[..], &parts);
    proof.iter_mut().zip(keys.client_key.iter()).for_each(|(proof, key)| *proof ^= key);
    let last = format!("{without_proof},p={}", STANDARD.encode(&proof[..]));
    assert_eq!(challenge.check(last.as_bytes()).unwrap_err().detail, "Nonce does not match.");
}

#[test]
fn no_changed_message_is_granted() {
    let mut changed = 0;
    for seed in 0..3000 {
        let mut world = World::new(seed + 1);
        let end_point = world.end_point();
        let opening = Opening::new(
            password(&world.password),
            end_point.clone().map_or(Binding::None, Binding::EndPoint),
            world.nonce(),
        );
        let offer = Offer::new(world.verifier.clone(), false, end_point);
        let mechanism = offer.choose(opening.mechanism().as_bytes()).unwrap();
        let hits = world.random.random_range(0..3);
        let first = opening.message().into_bytes();
        let first_sent = if hits == 0 { mutated(&mut world.random, &first) } else { first.clone() };
        let nonce = world.nonce();
        let Ok(challenge) = offer.begin(mechanism, &first_sent, nonce) else { continue };
        let asked = challenge.message().to_vec();
        let asked_sent = if hits == 1 { mutated(&mut world.random, &asked) } else { asked.clone() };
        let Ok(answered) = opening.answer(&asked_sent) else { continue };
        let last = answered.message().to_vec();
        let last_sent = if hits == 2 { mutated(&mut world.random, &last) } else { last.clone() };
        let differs = first != first_sent || asked != asked_sent || last != last_sent;
        let proof = challenge.check(&last_sent);
        assert_eq!(is_good(&proof), !differs, "seed {seed}");
        changed += u32::from(differs);
        if let Ok(Proof::Good { server_final, .. }) = proof {
            let sent = mutated(&mut world.random, server_final.as_bytes());
            assert_eq!(answered.finish(&sent).is_ok(), sent == server_final.as_bytes(), "seed {seed}");
        }
    }
    assert!(changed > 500, "many reach the proof: {changed}");
}

/// Cut, lengthened, or with a byte changed or doubled; at times the same.
fn mutated(random: &mut StdRng, message: &[u8]) -> Vec<u8> {
    let mut bytes = message.to_vec();
    let at = random.random_range(0..bytes.len());
    match random.random_range(0..5) {
        0 => bytes.truncate(at),
        1 => bytes[at] = random.random(),
        2 => bytes.insert(at, bytes[at]),
        3 => bytes.push(*b",=pcr\0"[..].get(random.random_range(0..6)).unwrap()),
        _ => bytes[at] ^= 1 << random.random_range(0..8),
    }
    bytes
}

#[test]
fn random_bytes_never_panic_nor_grant() {
    let mut random = StdRng::seed_from_u64(5);
    let alphabet = b"npyrscivm=,,,aA+/0149 \0\xff";
    for _ in 0..20_000 {
        let bytes: Vec<u8> = (0..random.random_range(0..60))
            .map(|_| alphabet[random.random_range(0..alphabet.len())])
            .collect();
        let text = String::from_utf8_lossy(&bytes);
        let _ = (Verifier::parse(&text), Verifier::parse(&format!("SCRAM-SHA-256${text}")));
        let offer = Offer::new(pencil(), false, Some(vec![1; 32]));
        if let Ok(challenge) = offer.begin(Mechanism::Plain, &bytes, [0; NONCE_BYTES]) {
            assert!(!is_good(&challenge.check(&bytes)));
        }
        let opening = Opening::new(password(b"x"), Binding::None, [0; NONCE_BYTES]);
        assert!(opening.answer(&bytes).is_err());
    }
}

#[test]
fn a_doomed_exchange_is_never_granted_and_looks_like_others() {
    let mock = Mock::new([7; 32], 0);
    let verifier = mock.verifier("nobody");
    assert!(verifier.salt == mock.verifier("nobody").salt && verifier.salt != mock.verifier("nobodz").salt);
    assert!(verifier.salt != Mock::new([8; 32], 0).verifier("nobody").salt);
    assert_eq!((verifier.iterations(), verifier.salt.len()), (4096, pencil().salt.len()));
    let challenge = Offer::new(pencil(), true, None)
        .begin_with(Mechanism::Plain, CLIENT_FIRST.as_bytes(), SERVER_NONCE)
        .unwrap();
    assert!(matches!(challenge.check(CLIENT_FINAL.as_bytes()), Ok(Proof::Wrong)));
}

#[test]
fn the_flag_of_channel_binding_goes_with_the_offer() {
    let begin = |mechanism, first: &str, has_tls: bool| {
        let offer = Offer::new(pencil(), false, has_tls.then(|| vec![1, 2, 3]));
        offer.begin(mechanism, first.as_bytes(), [0; NONCE_BYTES]).map(|_| ()).map_err(|it| it.sqlstate)
    };
    use Mechanism::{Plain, Plus};
    let cases = [
        (Plain, "n,,n=,r=x", false, Ok(())),
        (Plain, "n,,n=,r=x", true, Ok(())),
        (Plain, "y,,n=,r=x", false, Ok(())),
        (Plain, "y,,n=,r=x", true, Err("28000")),
        (Plain, "p=tls-server-end-point,,n=,r=x", true, Err("08P01")),
        (Plus, "p=tls-server-end-point,,n=,r=x", true, Ok(())),
        (Plus, "p=tls-unique,,n=,r=x", true, Err("08P01")),
        (Plus, "n,,n=,r=x", true, Err("08P01")),
        (Plus, "y,,n=,r=x", true, Err("08P01")),
        (Plain, "n,a=root,n=,r=x", false, Err("0A000")),
        (Plain, "n,,m=1,n=,r=x", false, Err("0A000")),
        (Plain, "n,,n=,r=\u{7f}", false, Err("08P01")),
        (Plain, "n,,n=,r=x,e=more", false, Ok(())),
        (Plain, "", false, Err("08P01")),
        (Plain, "nn,n=,r=x", false, Err("08P01")),
        (Plain, "n,,r=x", false, Err("08P01")),
    ];
    for (mechanism, first, has_tls, expected) in cases {
        assert_eq!(begin(mechanism, first, has_tls), expected, "{first}");
    }
    let long = format!("n,,n=,r={}", "x".repeat(1024));
    assert_eq!(begin(Plain, &long, false), Err("08P01"));
    let offer = Offer::new(pencil(), false, None);
    assert!(offer.choose(b"SCRAM-SHA-256-PLUS").is_err(), "without TLS there is nothing to bind to");
    assert!(offer.choose(b"SCRAM-SHA-1").is_err());
}

/// Who stands between the two with a certificate of its own cannot pass the exchange on.
#[test]
fn a_proof_for_another_certificate_is_refused() {
    let mut world = World::new(3);
    let opening = Opening::new(password(&world.password), Binding::EndPoint(vec![1; 32]), world.nonce());
    let offer = Offer::new(world.verifier.clone(), false, Some(vec![2; 32]));
    let nonce = world.nonce();
    let challenge = offer.begin(Mechanism::Plus, opening.message().as_bytes(), nonce).unwrap();
    let answered = opening.answer(challenge.message()).unwrap();
    let violation = challenge.check(answered.message()).unwrap_err();
    assert_eq!((violation.sqlstate, violation.message), ("28000", "SCRAM channel binding check failed"));
}

#[test]
fn a_client_bounds_what_a_server_asks_and_believes_no_stranger() {
    let nonce = STANDARD.encode([0; NONCE_BYTES]);
    let ask = |secret, rest: &str| {
        let opening = Opening::new(secret, Binding::None, [0; NONCE_BYTES]);
        opening.answer(format!("r={nonce}{rest}").as_bytes()).map(|_| ()).unwrap_err()
    };
    assert_eq!(ask(password(b"x"), "y,s=AAAA,i=100001"), ClientError::Iterations(100_001));
    assert_eq!(ask(password(b"x"), "y,s=AAAA,i=2147483648"), ClientError::Malformed);
    for malformed in [
        "y,s=AAAA,i=0",
        "y,s=AAAA,i=-1",
        "y,s=AAAA,i=+1",
        "y,s=A,i=1",
        "y,s=AAAA",
        "y,s=AAAA,i=1,",
        "y,s=AAAA,i=1,x=1",
    ] {
        assert_eq!(ask(password(b"x"), malformed), ClientError::Malformed, "{malformed}");
    }
    assert_eq!(ask(password(b"x"), ",s=AAAA,i=1"), ClientError::Nonce);
    assert_eq!(ask(password(b"x"), &format!("y,s={},i=1", "A".repeat(4000))), ClientError::Malformed);
    let keys = pencil().accepts_password(b"pencil").unwrap().unwrap();
    assert_eq!(ask(ClientSecret::Keys(keys), "y,s=AAAA,i=4096"), ClientError::SecretChanged);

    let mut world = World::new(9);
    let secret = password(&world.password);
    let (_, _, answered) = world.proven(secret, None);
    assert_eq!(answered.finish(b"e=invalid-proof").unwrap_err(), ClientError::Refused);
    let secret = password(&world.password);
    let (_, _, answered) = world.proven(secret, None);
    let other = format!("v={}", STANDARD.encode([0; 32]));
    assert_eq!(answered.finish(other.as_bytes()).unwrap_err(), ClientError::Signature);
}

#[test]
fn verifiers_are_strict_and_never_shown() {
    for text in [
        "",
        "SCRAM-SHA-256",
        "SCRAM-SHA-1$4096:AAAA$AAAA:AAAA",
        &STORED.replace("4096", "0"),
        &STORED.replace("4096", "-1"),
        &STORED.replace("4096", "99999999999"),
        &STORED.replace("W22Z", "W2Z"),
        &STORED.replace("WG5d", "WG5"),
        &STORED[..STORED.len() - 4],
        &format!("{STORED}="),
        &STORED.replace(':', "$"),
    ] {
        assert!(Verifier::parse(text).is_none(), "{text}");
    }
    let many = Verifier::parse(&STORED.replace("4096", "600000")).unwrap();
    assert_eq!(many.iterations(), 600_000);
    assert!(many.accepts_password(b"pencil").is_none(), "no work is done beyond the limit");
    let keys = pencil().accepts_password(b"pencil").unwrap().unwrap();
    let (_, challenge, answered) = World::new(1).proven(password(b"pencil"), None);
    let shown = format!("{:?} {keys:?} {answered:?} {:?}", pencil(), challenge.check(b"x"));
    assert!(!shown.contains("WG5d") && !shown.contains("wfPL") && !shown.contains('['), "{shown}");
}

#[test]
fn passwords_are_prepared_as_in_postgresql() {
    let same = |left: &[u8], right: &[u8]| {
        let salt = STANDARD.encode([1; 16]);
        let verifier = keys::Keys::of_password(left, &salt, 1).unwrap().verifier();
        verifier.accepts_password(right).unwrap().is_some()
    };
    // From PostgreSQL's src/test/authentication/t/002_saslprep.pl.
    assert!(same("IX".as_bytes(), "I\u{ad}X".as_bytes()), "soft hyphen is mapped to nothing");
    assert!(same("a".as_bytes(), "\u{aa}".as_bytes()), "feminine ordinal indicator is an a");
    assert!(same("IX".as_bytes(), "\u{2168}".as_bytes()), "roman numeral nine");
    assert!(!same("foobar".as_bytes(), "foo\u{7}bar".as_bytes()), "a forbidden character: raw bytes");
    assert!(same("foo\u{7}bar".as_bytes(), "foo\u{7}bar".as_bytes()));
    assert!(same(b"foo\xff\xfebar", b"foo\xff\xfebar"), "no UTF-8: raw bytes");
    assert!(!same(b"foo\xff\xfebar", b"foo\xff\xfdbar"));
}

proptest! {
    #![proptest_config(cases(1000))]

    #[test]
    fn only_the_right_proof_is_good(
        secret in vec(any::<u8>(), 1..30),
        nonces in any::<([u8; 18], [u8; 18])>(),
        end_point in proptest::option::of(vec(any::<u8>(), 32)),
        which in 0..4u8,
        lies in vec(lie(), 1..3),
    ) {
        let verifier = keys::Keys::of_password(&secret, "W22ZaJ0SNY7soEsUEjb6gQ==", 2).unwrap().verifier();
        let binding = end_point.clone().map_or(Binding::None, Binding::EndPoint);
        let asking = Opening::new(password(&secret), binding, nonces.0);
        let offer = Offer::new(verifier, false, end_point);
        let mechanism = offer.choose(asking.mechanism().as_bytes()).unwrap();
        let first = asking.message().into_bytes();
        let is_changed = |bytes: &[u8]| told(bytes.to_vec(), &lies) != bytes;
        let sent = if which == 0 { told(first.clone(), &lies) } else { first.clone() };
        let Ok(challenge) = offer.begin(mechanism, &sent, nonces.1) else {
            prop_assert!(sent != first);
            return Ok(());
        };
        let asked = challenge.message().to_vec();
        let heard = if which == 1 { told(asked.clone(), &lies) } else { asked.clone() };
        let Ok(answered) = asking.answer(&heard) else {
            prop_assert!(heard != asked || sent != first);
            return Ok(());
        };
        let proof = answered.message().to_vec();
        let told_proof = if which == 2 { told(proof.clone(), &lies) } else { proof.clone() };
        let is_true = sent == first && heard == asked && told_proof == proof;
        match challenge.check(&told_proof) {
            Ok(Proof::Good { server_final, .. }) => {
                prop_assert!(is_true);
                let last = server_final.as_bytes();
                let heard = if which == 3 { told(last.to_vec(), &lies) } else { last.to_vec() };
                prop_assert_eq!(answered.finish(&heard).is_ok(), which != 3 || !is_changed(last));
            }
            _ => prop_assert!(!is_true),
        }
    }
}
