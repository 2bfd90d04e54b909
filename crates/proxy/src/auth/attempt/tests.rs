//! Every method with every kind of role, and clients that send anything.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::auth::hba::{Origin, Replication, Request};
use crate::auth::roles::role;
use crate::auth::scram::{Binding, ClientSecret, Opening};

const USER: &str = "alice";
const NOW: i64 = 1_800_000_000_000_000;
const RANDOM: Random = Random { nonce: [3; NONCE_BYTES], salt: [1, 2, 3, 4] };

fn pretence() -> Pretence {
    Pretence { mock: Mock::new([9; 32], 0), prefers_md5: false }
}

/// The verifier of "pencil".
fn scram() -> Secret {
    let text = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    Secret::parse(Some(text))
}

fn md5() -> Secret {
    Secret::Md5(Md5Secret::of_password(b"pencil", USER))
}

fn begin(method: Password, role: Option<&Role>, pretence: &Pretence) -> Step {
    let applicant = Applicant { user: USER, role, end_point: None, now: NOW };
    Attempt::begin(&Method::Password(method), &applicant, pretence, RANDOM)
}

/// Does what libpq does, and says what it was asked.
fn client(mut step: Step, password: &[u8]) -> (&'static str, Step) {
    let secret = || ClientSecret::Password(Zeroizing::new(password.to_vec()));
    let mut kind = "nothing";
    let mut opening = Some(Opening::new(secret(), Binding::None, [5; NONCE_BYTES]));
    while let Step::Ask { send, attempt } = step {
        assert_eq!(u32::from_be_bytes(send[1..5].try_into().unwrap()) as usize, send.len() - 1);
        let question = Authentication::parse(&send[5..]).unwrap();
        let mut answer = Vec::new();
        match question {
            Authentication::CleartextPassword => {
                kind = "cleartext";
                messages::put_password(&mut answer, password);
            }
            Authentication::Md5Password { salt } => {
                kind = "md5";
                messages::put_password(&mut answer, &Md5Secret::of_password(password, USER).answer(salt));
            }
            Authentication::Sasl { .. } => {
                kind = "scram";
                assert!(question.offers("SCRAM-SHA-256"));
                let first = opening.as_ref().unwrap().message();
                SaslInitial { mechanism: b"SCRAM-SHA-256", data: Some(first.as_bytes()) }.encode(&mut answer);
            }
            Authentication::SaslContinue(data) => {
                let answered = opening.take().unwrap().answer(data).unwrap();
                messages::put_sasl_response(&mut answer, answered.message());
            }
            other => panic!("{other:?}"),
        }
        step = attempt.answer(answer[0], &answer[5..]);
    }
    (kind, step)
}

/// What is shown outside: what was asked, the SQLSTATE ("" is a grant), the message.
fn outside(
    method: Password,
    role: Option<&Role>,
    pretence: &Pretence,
    password: &[u8],
) -> (&'static str, String, String) {
    match client(begin(method, role, pretence), password) {
        (kind, Step::Granted { send, .. }) => {
            assert!(send.ends_with(b"R\0\0\0\x08\0\0\0\0"));
            (kind, String::new(), String::new())
        }
        (kind, Step::Denied(denial)) => (kind, denial.sqlstate.to_owned(), denial.message),
        (_, Step::Ask { .. }) => unreachable!("the client answers every question"),
    }
}

#[test]
fn every_method_with_every_secret() {
    use Password::{Md5, Password as Clear, ScramSha256};
    let cases = [
        (ScramSha256, scram(), "scram", true),
        (ScramSha256, md5(), "scram", false),
        (ScramSha256, Secret::None, "scram", false),
        (ScramSha256, Secret::Unknown, "scram", false),
        (Md5, scram(), "scram", true),
        (Md5, md5(), "md5", true),
        (Md5, Secret::None, "scram", false),
        (Clear, scram(), "cleartext", true),
        (Clear, md5(), "cleartext", true),
        (Clear, Secret::None, "cleartext", false),
        (Clear, Secret::Unknown, "cleartext", false),
    ];
    let refusal = "password authentication failed for user \"alice\"";
    for (method, secret, asked, is_good) in cases {
        let role = role(secret, &[]);
        let right = outside(method, Some(&role), &pretence(), b"pencil");
        let (sqlstate, message) = if is_good { ("", "") } else { ("28P01", refusal) };
        assert_eq!(right, (asked, sqlstate.to_owned(), message.to_owned()), "{method:?} {role:?}");
        let wrong = outside(method, Some(&role), &pretence(), b"pen");
        assert_eq!(wrong, (asked, "28P01".to_owned(), refusal.to_owned()), "{method:?} {role:?}");
    }
}

#[test]
fn who_has_no_good_password_looks_the_same_from_outside() {
    let expired = Role { valid_until: Some(NOW - 1), ..role(scram(), &[]) };
    let no_password = role(Secret::None, &[]);
    let cases = [
        (None, "Role \"alice\" does not exist."),
        (Some(&no_password), "User \"alice\" has no password assigned."),
        (Some(&expired), "User \"alice\" has an expired password."),
    ];
    for method in [Password::ScramSha256, Password::Md5, Password::Password] {
        let there = role(scram(), &[]);
        let wrong = outside(method, Some(&there), &pretence(), b"wrong");
        for (role, reason) in cases {
            assert_eq!(outside(method, role, &pretence(), b"pencil"), wrong, "{method:?} {reason}");
            let (_, Step::Denied(denial)) = client(begin(method, role, &pretence()), b"pencil") else {
                panic!("{method:?} {reason}: granted")
            };
            assert_eq!((denial.reason.as_str(), denial.detail), (reason, ""));
        }
    }
    let old = Pretence { prefers_md5: true, ..pretence() };
    let there = role(md5(), &[]);
    assert_eq!(outside(Password::Md5, None, &old, b"x"), outside(Password::Md5, Some(&there), &old, b"x"));
}

#[test]
fn a_password_ends_at_its_time_and_not_before() {
    for (valid_until, is_good) in [
        (None, true),
        (Some(i64::MAX), true),
        (Some(NOW), true),
        (Some(NOW + 1), true),
        (Some(NOW - 1), false),
        (Some(i64::MIN), false),
    ] {
        for secret in [scram(), md5()] {
            let role = Role { valid_until, ..role(secret, &[]) };
            let found = outside(Password::Md5, Some(&role), &pretence(), b"pencil").1;
            assert_eq!(found.is_empty(), is_good, "{valid_until:?}");
        }
    }
}

#[test]
fn nologin_is_told_only_to_who_has_the_password() {
    for secret in [scram(), md5()] {
        let role = Role { can_login: false, ..role(secret, &[]) };
        let right = outside(Password::Md5, Some(&role), &pretence(), b"pencil");
        assert_eq!(
            (right.1.as_str(), right.2.as_str()),
            ("28000", "role \"alice\" is not permitted to log in")
        );
        assert_eq!(outside(Password::Md5, Some(&role), &pretence(), b"pen").1, "28P01");
    }
}

#[test]
fn trust_certificates_and_peers() {
    let there = role(Secret::None, &[]);
    let locked = Role { can_login: false, ..there.clone() };
    let expired = Role { valid_until: Some(0), ..there.clone() };
    let cert = |name: Option<&str>| Method::Cert { common_name: name.map(str::to_owned) };
    let peer = |name: Option<&str>| Method::Peer { os_user: name.map(str::to_owned) };
    let cases = [
        (Method::Trust, Some(&there), None),
        (Method::Trust, Some(&expired), None),
        (Method::Trust, None, Some("role \"alice\" does not exist")),
        (Method::Trust, Some(&locked), Some("role \"alice\" is not permitted to log in")),
        (cert(Some("alice")), Some(&there), None),
        (cert(Some("alice")), None, Some("role \"alice\" does not exist")),
        (cert(Some("Alice")), Some(&there), Some("certificate authentication failed for user \"alice\"")),
        (cert(Some("")), Some(&there), Some("certificate authentication failed for user \"alice\"")),
        (cert(None), Some(&there), Some("connection requires a valid client certificate")),
        (peer(Some("alice")), Some(&there), None),
        (peer(Some("bob")), Some(&there), Some("Peer authentication failed for user \"alice\"")),
        (peer(None), Some(&there), Some("Peer authentication failed for user \"alice\"")),
    ];
    for (method, role, refusal) in cases {
        let applicant = Applicant { user: USER, role, end_point: None, now: NOW };
        match (Attempt::begin(&method, &applicant, &pretence(), RANDOM), refusal) {
            (Step::Granted { means: Means::None, .. }, None) => {}
            (Step::Denied(denial), Some(refusal)) => {
                assert_eq!((denial.sqlstate, denial.message.as_str()), ("28000", refusal));
            }
            (step, _) => panic!("{method:?}: {step:?}"),
        }
    }
}

#[test]
fn the_means_log_in_at_a_server() {
    for secret in [scram(), md5()] {
        let role = role(secret, &[]);
        for method in [Password::Md5, Password::Password] {
            let (_, Step::Granted { means, .. }) = client(begin(method, Some(&role), &pretence()), b"pencil")
            else {
                panic!("the password is right")
            };
            match (&means, &role.secret) {
                (Means::Scram(keys), Secret::Scram(verifier)) => assert!(keys.fit(verifier)),
                (Means::Md5(means), Secret::Md5(secret)) => assert!(means == secret),
                _ => panic!("{means:?} for {role:?}"),
            }
            assert!(matches!(format!("{means:?}").as_str(), "Scram(Keys(..))" | "Md5(Md5Secret(..))"));
        }
    }
}

#[test]
fn a_client_may_want_to_be_asked_for_its_first_message() {
    let role = role(scram(), &[]);
    let Step::Ask { attempt, .. } = begin(Password::ScramSha256, Some(&role), &pretence()) else { panic!() };
    let mut answer = Vec::new();
    SaslInitial { mechanism: b"SCRAM-SHA-256", data: None }.encode(&mut answer);
    let Step::Ask { send, attempt } = attempt.answer(b'p', &answer[5..]) else { panic!("it is asked") };
    assert_eq!(send, b"R\0\0\0\x08\0\0\0\x0b");
    let Step::Ask { send, .. } = attempt.answer(b'p', b"n,,n=,r=abc") else { panic!("it is challenged") };
    assert!(send[9..].starts_with(b"r=abc"));
}

#[test]
fn other_messages_end_the_attempt_in_postgresqls_words() {
    let (with_scram, with_md5) = (role(scram(), &[]), role(md5(), &[]));
    let cases: [(&Role, u8, &[u8], &str, &str); 7] = [
        (&with_scram, b'Q', b"SELECT 1\0", "08P01", "expected SASL response, got message type 81"),
        (&with_scram, b'p', b"pencil\0", "08P01", "malformed SASL initial response"),
        (
            &with_scram,
            b'p',
            b"SCRAM-SHA-1\0\0\0\0\0",
            "08P01",
            "client selected an invalid SASL authentication mechanism",
        ),
        (&with_md5, b'Q', b"SELECT 1\0", "08P01", "expected password response, got message type 81"),
        (&with_md5, b'p', b"pencil", "08P01", "invalid password packet size"),
        (&with_md5, b'p', b"a\0b\0", "08P01", "invalid password packet size"),
        (&with_md5, b'p', b"\0", "28P01", "empty password returned by client"),
    ];
    for (role, tag, body, sqlstate, message) in cases {
        let Step::Ask { attempt, .. } = begin(Password::Md5, Some(role), &pretence()) else { panic!() };
        let Step::Denied(denial) = attempt.answer(tag, body) else { panic!("{message}: not denied") };
        assert_eq!((denial.sqlstate, denial.message.as_str()), (sqlstate, message));
        let response = denial.response().encode();
        assert!(response.windows(5).any(|part| part == sqlstate.as_bytes()));
    }
}

#[test]
fn refusals_by_rules_have_postgresqls_words() {
    let origin = |address: &str, tls| Origin::Host { address: address.parse().unwrap(), tls };
    let of = |origin, replication| Request { database: "shop", user: USER, origin, replication };
    let (plain, tls) = (origin("::ffff:10.0.0.1", false), origin("2001:db8::1", true));
    let cases = [
        (
            Denial::no_entry(&of(plain, Replication::No)),
            "no pg_hba.conf entry for host \"10.0.0.1\", user \"alice\", database \"shop\", no encryption",
        ),
        (
            Denial::rejected(&of(tls, Replication::Logical)),
            "pg_hba.conf rejects connection for host \"2001:db8::1\", user \"alice\", database \"shop\", SSL encryption",
        ),
        (
            Denial::no_entry(&of(Origin::Local, Replication::Physical)),
            "no pg_hba.conf entry for replication connection from host \"[local]\", user \"alice\", no encryption",
        ),
        (
            Denial::rejected(&of(tls, Replication::Physical)),
            "pg_hba.conf rejects replication connection for host \"2001:db8::1\", user \"alice\", SSL encryption",
        ),
    ];
    for (denial, message) in cases {
        assert_eq!((denial.sqlstate, denial.message.as_str()), ("28000", message));
    }
}

/// The right answers with something changed, and wrong ones that are anything: none is granted.
#[test]
fn whatever_is_sent_only_the_right_answer_is_granted() {
    let mut random = StdRng::seed_from_u64(17);
    let nobody = role(Secret::None, &[]);
    let roles = [Some(role(scram(), &[])), Some(role(md5(), &[])), Some(nobody), None];
    let methods = [Password::ScramSha256, Password::Md5];
    for _ in 0..20_000 {
        let role = &roles[random.random_range(0..roles.len())];
        let method = methods[random.random_range(0..methods.len())];
        let mut step = begin(method, role.as_ref(), &pretence());
        while let Step::Ask { attempt, .. } = step {
            let tag = if random.random_range(0..10) == 0 { random.random() } else { b'p' };
            step = attempt.answer(tag, &anything(&mut random));
        }
        assert!(matches!(step, Step::Denied(_)), "{step:?}");
    }
}

fn anything(random: &mut StdRng) -> Vec<u8> {
    let known: [&[u8]; 6] = [
        b"SCRAM-SHA-256\0\0\0\0\x09n,,n=,r=a",
        b"SCRAM-SHA-256\0\xff\xff\xff\xff",
        b"n,,n=,r=a",
        b"c=biws,r=aAwMDAwMDAwMDAwMDAwMDAwMDAwMD,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        b"md562af4dd09bbb41884907a838a3233294\0",
        b"pen\0",
    ];
    let mut bytes = known[random.random_range(0..known.len())].to_vec();
    for _ in 0..random.random_range(0..3) {
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..3) {
            0 => bytes[at] = random.random(),
            1 => bytes.truncate(at.max(1)),
            _ => bytes.insert(at, random.random()),
        }
    }
    bytes
}
