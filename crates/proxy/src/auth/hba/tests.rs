//! Each field against what PostgreSQL's documentation says of it.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::auth::roles::granted;

fn roles() -> Roles {
    granted(&[
        ("alice", &["staff"]),
        ("bob", &["alice"]),
        ("staff", &[]),
        ("root", &[]),
        ("all", &[]),
        ("carol", &[]),
    ])
}

fn rules(text: &str) -> Rules {
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    Rules::parse(&lines).unwrap()
}

fn host(address: &str, tls: bool) -> Origin {
    Origin::Host { address: address.parse().unwrap(), tls }
}

fn request<'a>(user: &'a str, database: &'a str, origin: Origin) -> Request<'a> {
    Request { database, user, origin, replication: Replication::No }
}

fn decide(text: &str, request: &Request<'_>) -> Outcome {
    rules(text).decide(request, &roles(), None).outcome
}

/// Does a rule of `trust` with these fields match?
fn is_trusted(line: &str, user: &str, database: &str, origin: Origin) -> bool {
    match decide(&format!("{line} trust"), &request(user, database, origin)) {
        Outcome::Trust => true,
        Outcome::NoEntry => false,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn connection_types() {
    let (plain, tls) = (host("10.0.0.1", false), host("10.0.0.1", true));
    let cases = [
        ("local all all", [true, false, false]),
        ("host all all all", [false, true, true]),
        ("hostssl all all all", [false, false, true]),
        ("hostnossl all all all", [false, true, false]),
        ("hostgssenc all all all", [false, false, false]),
        ("hostnogssenc all all all", [false, true, true]),
    ];
    for (line, expected) in cases {
        let found = [Origin::Local, plain, tls].map(|origin| is_trusted(line, "alice", "shop", origin));
        assert_eq!(found, expected, "{line}");
    }
}

#[test]
fn databases() {
    let cases = [
        ("all", "alice", "shop", true),
        ("shop", "alice", "shop", true),
        ("shop", "alice", "shops", false),
        ("Shop", "alice", "shop", false),
        ("a,shop,b", "alice", "shop", true),
        ("a, shop, b", "alice", "shop", true),
        ("a,b", "alice", "shop", false),
        ("sameuser", "alice", "alice", true),
        ("sameuser", "alice", "shop", false),
        ("samerole", "alice", "staff", true),
        ("samerole", "bob", "staff", true),
        ("samegroup", "bob", "staff", true),
        ("samerole", "alice", "alice", true),
        ("samerole", "root", "staff", false),
        ("samerole", "stranger", "stranger", false),
        ("\"all\"", "alice", "shop", false),
        ("\"all\"", "alice", "all", true),
        ("\"sameuser\"", "alice", "alice", false),
        ("\"sameuser\"", "alice", "sameuser", true),
        ("\"samerole\"", "alice", "staff", false),
        ("\"replication\"", "alice", "replication", true),
        ("replication", "alice", "replication", false),
        ("\"my shop\"", "alice", "my shop", true),
        ("\"a,b\"", "alice", "a,b", true),
        ("\"sh#op\"", "alice", "sh#op", true),
        ("\"say \"\"hi\"\"\"", "alice", "say \"hi\"", true),
        ("a\"ll\"", "alice", "shop", true),
        ("\"@shop\"", "alice", "@shop", true),
        ("@", "alice", "@", true),
        ("\"\"", "alice", "shop", false),
    ];
    for (field, user, database, expected) in cases {
        let line = format!("local {field} all");
        assert_eq!(is_trusted(&line, user, database, Origin::Local), expected, "{field} {user} {database}");
    }
}

#[test]
fn users() {
    let cases = [
        ("all", "alice", true),
        ("alice", "alice", true),
        ("alice", "bob", false),
        ("ALICE", "alice", false),
        ("carol,alice", "alice", true),
        ("+staff", "alice", true),
        ("+staff", "bob", true),
        ("+staff", "staff", true),
        ("+staff", "carol", false),
        ("+staff", "root", false),
        ("+staff", "stranger", false),
        ("+gone", "alice", false),
        ("staff", "alice", false),
        ("\"+staff\"", "alice", false),
        ("\"+staff\"", "+staff", true),
        ("\"all\"", "alice", false),
        ("\"all\"", "all", true),
        ("carol,+staff", "bob", true),
        ("sameuser", "alice", false),
        ("stranger", "stranger", true),
    ];
    for (field, user, expected) in cases {
        let line = format!("local all {field}");
        assert_eq!(is_trusted(&line, user, "shop", Origin::Local), expected, "{field} {user}");
    }
}

#[test]
fn addresses() {
    let cases = [
        ("all", "203.0.113.9", true),
        ("all", "2001:db8::1", true),
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.1", false),
        ("10.0.0.1/32", "10.0.0.1", true),
        ("10.0.0.1/32", "10.0.0.2", false),
        ("0.0.0.0/0", "203.0.113.9", true),
        ("0.0.0.0/0", "2001:db8::1", false),
        ("::/0", "2001:db8::1", true),
        ("::/0", "203.0.113.9", false),
        ("10.0.0.0/8", "::ffff:10.1.2.3", true),
        ("::ffff:0:0/96", "::ffff:10.1.2.3", false),
        ("192.168.1.0 255.255.255.0", "192.168.1.77", true),
        ("192.168.1.0 255.255.255.0", "192.168.2.77", false),
        ("192.168.0.5 255.255.0.255", "192.168.9.5", true),
        ("2001:db8::/32", "2001:db8:ffff::1", true),
        ("2001:db8::/32", "2001:db9::1", false),
        ("2001:db8:: ffff:ffff::", "2001:db8:1::1", true),
        ("::1/128", "::1", true),
        ("::1/128", "::2", false),
        ("10.0.0.99/24", "10.0.0.1", true),
    ];
    for (field, client, expected) in cases {
        let line = format!("host all all {field}");
        assert_eq!(is_trusted(&line, "alice", "shop", host(client, false)), expected, "{field} {client}");
    }
}

#[test]
fn this_machines_addresses() {
    let interfaces = [
        Interface { address: "10.0.0.5".parse().unwrap(), prefix: 24 },
        Interface { address: "fe80::5".parse().unwrap(), prefix: 64 },
    ];
    let cases = [
        ("samehost", "10.0.0.5", Outcome::Trust),
        ("samehost", "10.0.0.6", Outcome::NoEntry),
        ("samenet", "10.0.0.6", Outcome::Trust),
        ("samenet", "10.0.1.6", Outcome::NoEntry),
        ("samehost", "fe80::5", Outcome::Trust),
        ("samenet", "fe80::77", Outcome::Trust),
        ("samenet", "fe81::77", Outcome::NoEntry),
    ];
    for (field, client, expected) in cases {
        let rules = rules(&format!("host all all {field} trust"));
        let request = request("alice", "shop", host(client, false));
        assert_eq!(rules.decide(&request, &roles(), Some(&interfaces)).outcome, expected, "{field} {client}");
        assert!(matches!(rules.decide(&request, &roles(), None).outcome, Outcome::Elsewhere(_)), "{field}");
    }
}

#[test]
fn replication() {
    let with = |kind, line: &str, database| {
        let request = Request { replication: kind, ..request("alice", database, Origin::Local) };
        decide(&format!("{line} trust"), &request) == Outcome::Trust
    };
    use Replication::{Logical, No, Physical};
    let cases = [
        (Physical, "local replication all", true),
        (Physical, "local all all", false),
        (Physical, "local shop all", false),
        (Physical, "local all,replication all", true),
        (Physical, "local \"replication\" all", false),
        (Physical, "local sameuser,samerole all", false),
        (Physical, "local replication bob", false),
        (Physical, "local /. all", false),
        (Logical, "local all all", true),
        (Logical, "local shop all", true),
        (Logical, "local replication all", false),
        (No, "local replication all", false),
        (No, "local all all", true),
    ];
    for (kind, line, expected) in cases {
        assert_eq!(with(kind, line, "shop"), expected, "{kind:?} {line}");
    }
}

#[test]
fn methods() {
    let cases = [
        ("hostssl all all all trust", Outcome::Trust),
        ("hostssl all all all reject", Outcome::Reject),
        ("hostssl all all all scram-sha-256", Outcome::Password(Password::ScramSha256)),
        ("hostssl all all all md5", Outcome::Password(Password::Md5)),
        ("hostssl all all all password", Outcome::Password(Password::Password)),
        ("hostssl all all all cert", Outcome::Cert),
        ("hostssl all all all cert clientcert=verify-full", Outcome::Cert),
        ("hostssl all all all cert clientname=CN", Outcome::Cert),
    ];
    for (line, expected) in cases {
        assert_eq!(decide(line, &request("alice", "shop", host("10.0.0.1", true))), expected, "{line}");
    }
    for line in ["local all all peer", "local all all ident"] {
        assert_eq!(decide(line, &request("alice", "shop", Origin::Local)), Outcome::Peer, "{line}");
    }
}

#[test]
fn what_cannot_be_told_here_is_for_the_server() {
    let elsewhere = [
        "hostssl all all all ldap ldapserver=x",
        "hostssl all all all pam",
        "hostssl all all all gss include_realm=0",
        "hostssl all all all sspi",
        "hostssl all all all ident",
        "hostssl all all all radius radiusservers=a radiussecrets=b",
        "hostssl all all all bsd",
        "hostssl all all all oauth issuer=x scope=y",
        "hostssl all all all cert map=m",
        "hostssl all all all cert clientname=DN",
        "hostssl all all all trust clientcert=verify-ca",
        "hostssl all all all scram-sha-256 clientcert=verify-full",
        "hostssl all /^a all trust",
        "hostssl \"/^a\" all all trust",
        "hostssl @dbs all all trust",
        "hostssl @\"my dbs\" all all trust",
        "hostssl all @users all trust",
        "hostssl all a,/x all trust",
        "host all all example.com trust",
        "host all all .example.com trust",
        "host all all \"all\" trust",
        "host all all 10.1 255.0.0.0 trust",
        "host all all 10.1/8 trust",
        "host all all 010.0.0.1/8 trust",
        "host all all fe80::1%eth0/64 trust",
        "host all all samenet trust",
        "include more.conf",
        "include_dir more",
        "include_if_exists more.conf",
    ];
    for line in elsewhere {
        let text = format!("{line}\nhost all all all trust");
        let decision = rules(&text).decide(&request("alice", "shop", host("10.0.0.1", true)), &roles(), None);
        assert!(matches!(decision.outcome, Outcome::Elsewhere(_)), "{line}: {decision:?}");
        assert_eq!(decision.line, Some(1));
    }
    let long = "x".repeat(64);
    for (user, database) in [(long.as_str(), "shop"), ("alice", long.as_str())] {
        let outcome = decide("local all all trust", &request(user, database, Origin::Local));
        assert!(matches!(outcome, Outcome::Elsewhere(_)));
    }
}

#[test]
fn what_cannot_be_told_does_not_matter_where_another_field_tells() {
    let cases = [
        "host /x bob all trust",
        "host @dbs all 192.168.0.0/16 trust",
        "hostnossl all all example.com trust",
        "local all all peer map=x",
        "host other all example.com ldap",
        "host all bob all pam",
    ];
    for line in cases {
        let text = format!("{line}\nhost all all all reject");
        let decision = rules(&text).decide(&request("alice", "shop", host("10.0.0.1", true)), &roles(), None);
        assert_eq!(decision, Decision { outcome: Outcome::Reject, line: Some(2) }, "{line}");
    }
    assert!(is_trusted("local /x,shop all", "alice", "shop", Origin::Local), "one Yes in a list is enough");
}

#[test]
fn the_first_match_decides() {
    let text = "# a comment\n\nlocal all bob reject # because\nlocal shop all\\\n scram-sha-256\r\nlocal all all trust\n";
    let rules = rules(text);
    assert_eq!(rules.len(), 3);
    let of = |user, database| rules.decide(&request(user, database, Origin::Local), &roles(), None);
    assert_eq!(of("bob", "shop"), Decision { outcome: Outcome::Reject, line: Some(3) });
    let scram = Outcome::Password(Password::ScramSha256);
    assert_eq!(of("alice", "shop"), Decision { outcome: scram, line: Some(4) });
    assert_eq!(of("alice", "other"), Decision { outcome: Outcome::Trust, line: Some(6) });
    let nobody = Rules::default().decide(&request("bob", "shop", Origin::Local), &roles(), None);
    assert_eq!(nobody, Decision { outcome: Outcome::NoEntry, line: None });
}

#[test]
fn one_bad_line_makes_all_of_them_bad() {
    let bad = [
        "locale all all trust",
        "local",
        "local all",
        "local all all",
        "local all all trust scram",
        "local all all truts",
        "local,host all all trust",
        "local all all trust,reject",
        "local all all peer clientcert=verify-ca",
        "local all all trust map=x",
        "local all all gss",
        "local \"all all trust",
        "host all all trust",
        "host all all all peer",
        "host all all all cert",
        "host all all 10.0.0.0 trust",
        "host all all 10.0.0.0 example.com trust",
        "host all all 10.0.0.0 ffff:: trust",
        "host all all 10.0.0.0/33 trust",
        "host all all 10.0.0.0/ trust",
        "host all all 10.0.0.0/-1 trust",
        "host all all ::/129 trust",
        "host all all example.com/8 trust",
        "host all all 10.0.0.0/8,11.0.0.0/8 trust",
        "hostssl all all all trust clientcert=1",
        "hostssl all all all cert clientcert=verify-ca",
        "hostssl all all all trust pamservice=x",
    ];
    for line in bad {
        let lines = ["local all all trust".to_owned(), String::new(), line.to_owned()];
        let error = Rules::parse(&lines).unwrap_err();
        assert_eq!(error.line, 3, "{line}: {error}");
    }
    assert!(Rules::parse(&vec![String::new(); 100_001]).is_err());
    let hidden = ["# a comment\nlocal all all reject".to_owned()];
    assert_eq!(Rules::parse(&hidden).unwrap().len(), 1, "a line end inside of a text is one");
}

#[test]
fn random_lines_never_panic_and_never_trust_without_the_word() {
    let words = [
        "local",
        "host",
        "hostssl",
        "all",
        "samenet",
        "replication",
        "/x",
        "@f",
        "\"",
        ",",
        " ",
        "\t",
        "#",
        "\\",
        "trust",
        "reject",
        "md5",
        "10.0.0.0/8",
        "::/0",
        "=",
        "+",
        "map=x",
        "é",
        "include",
    ];
    let mut random = StdRng::seed_from_u64(2);
    let mut parsed = 0;
    for _ in 0..20_000 {
        let count = random.random_range(0..12);
        let line: String = (0..count)
            .map(|_| words[random.random_range(0..words.len())])
            .flat_map(|word| [word, " "])
            .collect();
        let Ok(rules) = Rules::parse(std::slice::from_ref(&line)) else { continue };
        parsed += 1;
        for origin in [Origin::Local, host("10.0.0.1", false), host("::1", true)] {
            let outcome = rules.decide(&request("alice", "shop", origin), &roles(), None).outcome;
            assert!(outcome != Outcome::Trust || line.contains("trust"), "{line}");
        }
    }
    assert!(parsed > 100, "{parsed}");
}
