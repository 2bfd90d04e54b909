//! Rules by chance: a real PostgreSQL reads the same file, and lets in and refuses the same clients in the same words.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_postgres::Client;

use super::server::Postgres;
use super::*;
use crate::auth::denial::Denial;
use crate::auth::hba::{Origin, Outcome, Replication, Request, Rules};
use crate::auth::roles::{Roles, granted};

const ROLES: &str = "
    CREATE ROLE staff; CREATE ROLE alice LOGIN IN ROLE staff; CREATE ROLE bob LOGIN IN ROLE alice;
    CREATE ROLE root LOGIN SUPERUSER; CREATE ROLE \"all\" LOGIN; CREATE ROLE \"+staff\" LOGIN;";

fn roles() -> Roles {
    granted(&[
        ("staff", &[]),
        ("alice", &["staff"]),
        ("bob", &["alice"]),
        ("root", &[]),
        ("all", &[]),
        ("+staff", &[]),
    ])
}

const TYPES: [&str; 6] = ["local", "host", "host", "host", "hostnossl", "hostnogssenc"];
const DATABASES: [&str; 17] = [
    "all",
    "all",
    "all",
    "replication",
    "postgres",
    "sameuser",
    "samerole",
    "samegroup",
    "replication",
    "\"all\"",
    "\"sameuser\"",
    "\"replication\"",
    "alice",
    "staff",
    "a\"ll\"",
    "\"my db\"",
    "Postgres",
];
const USERS: [&str; 11] = [
    "all",
    "alice",
    "bob",
    "+staff",
    "+alice",
    "\"+staff\"",
    "\"all\"",
    "+gone",
    "root",
    "Alice",
    "stranger",
];
const ADDRESSES: [&str; 14] = [
    "all",
    "all",
    "127.0.0.0/8",
    "127.0.0.0/8",
    "127.0.0.1/32",
    "127.0.0.9/31",
    "127.0.1.0/24",
    "127.0.1.1 255.255.255.255",
    "127.0.0.7 255.0.0.255",
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/8",
    "::ffff:127.0.0.1/128",
    "127.0.0.1/0",
];
const METHODS: [&str; 4] = ["trust", "trust", "reject", "reject"];
/// What is no rule, now and then.
const ODD: [&str; 8] =
    ["127.0.0.0/33", "127.0.0.1", "trust", "x=y", "map=x", "clientcert=verify-ca", "truts", "peer"];

fn line(random: &mut StdRng) -> String {
    let connection = one(random, &TYPES);
    let mut words = vec![connection.to_owned(), list(random, &DATABASES), list(random, &USERS)];
    if connection != "local" {
        words.push(one(random, &ADDRESSES).to_owned());
    }
    words.push(one(random, &METHODS).to_owned());
    if random.random_range(0..40) == 0 {
        let at = random.random_range(0..=words.len());
        words.insert(at, one(random, &ODD).to_owned());
    }
    words.join(if random.random() { " " } else { "\t" })
}

fn one<'w>(random: &mut StdRng, words: &[&'w str]) -> &'w str {
    words[random.random_range(0..words.len())]
}

fn list(random: &mut StdRng, words: &[&str]) -> String {
    let count = random.random_range(1..4);
    (0..count).map(|_| one(random, words)).collect::<Vec<_>>().join(",")
}

/// Gives the server these rules and waits until it has read them; the error of each line that has one.
async fn load(admin: &Client, file: &str, lines: &[String]) -> Vec<(usize, String)> {
    std::fs::write(file, lines.join("\n") + "\n").unwrap();
    let query = "SELECT line_number, error FROM pg_hba_file_rules WHERE error IS NOT NULL ORDER BY 1";
    let errors = admin.query(query, &[]).await.unwrap();
    let errors: Vec<_> = errors.iter().map(|row| (row.get::<_, i32>(0) as usize, row.get(1))).collect();
    if errors.is_empty() {
        let loaded = "SELECT pg_conf_load_time()::text";
        let before: String = admin.query_one(loaded, &[]).await.unwrap().get(0);
        admin.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
        // The postmaster tells its children in the midst of its own reload, and takes new connections after it.
        soon(async { while admin.query_one(loaded, &[]).await.unwrap().get::<_, String>(0) == before {} })
            .await;
    }
    errors
}

/// The server's refusal, or `None` when it lets the client in.
async fn refusal(server: &str, request: &Request<'_>) -> Option<String> {
    let Origin::Host { address, .. } = request.origin else { panic!("this test connects by TCP") };
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((address, 0).into()).unwrap();
    let mut stream = soon(socket.connect(server.parse().unwrap())).await.unwrap();
    let replication = match request.replication {
        Replication::No => "",
        Replication::Physical => "replication\0true\0",
        Replication::Logical => "replication\0database\0",
    };
    let body = format!("user\0{}\0database\0{}\0{replication}\0", request.user, request.database);
    let packet =
        [&(body.len() as u32 + 8).to_be_bytes()[..], &196_608u32.to_be_bytes(), body.as_bytes()].concat();
    stream.write_all(&packet).await.unwrap();
    let (tag, length) = (soon(stream.read_u8()).await.unwrap(), soon(stream.read_u32()).await.unwrap());
    let mut body = vec![0; length as usize - 4];
    soon(stream.read_exact(&mut body)).await.unwrap();
    match tag {
        b'R' => {
            assert_eq!(body, [0; 4], "only AuthenticationOk is sent by these methods");
            None
        }
        _ => Some(String::from_utf8(wire::ErrorFields::new(&body).message().unwrap().to_vec()).unwrap()),
    }
}

fn requests(random: &mut StdRng) -> Vec<Request<'static>> {
    let databases = ["postgres", "alice", "staff", "all", "replication", "my db", "stranger", "+staff"];
    let users = ["alice", "bob", "root", "all", "+staff", "stranger"];
    let addresses = ["127.0.0.1", "127.0.0.8", "127.0.1.1", "127.9.9.7"];
    let kinds = [Replication::No, Replication::No, Replication::Physical, Replication::Logical];
    let request = |random: &mut StdRng| Request {
        database: one(random, &databases),
        user: one(random, &users),
        origin: Origin::Host { address: one(random, &addresses).parse().unwrap(), tls: false },
        replication: kinds[random.random_range(0..kinds.len())],
    };
    (0..12).map(|_| request(random)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_decides_the_same() {
    let options = ["password_encryption = 'scram-sha-256'"];
    let postgres = tokio::task::spawn_blocking(move || Postgres::start("trust", &options)).await.unwrap();
    let admin = postgres.admin().await;
    admin.batch_execute(ROLES).await.unwrap();
    let file: String = admin.query_one("SHOW hba_file", &[]).await.unwrap().get(0);
    let (roles, mut random) = (roles(), StdRng::seed_from_u64(41));
    let (mut bad, mut outcomes) = (0, [0; 3]);
    for round in 0..60 {
        let lines: Vec<String> = (0..random.random_range(1..9)).map(|_| line(&mut random)).collect();
        let errors = load(&admin, &file, &lines).await;
        let rules = match Rules::parse(&lines) {
            Ok(rules) => rules,
            Err(error) => {
                assert_eq!(errors.first().map(|(line, _)| *line), Some(error.line), "{lines:#?}: {error}");
                bad += 1;
                continue;
            }
        };
        assert!(errors.is_empty(), "round {round}: {lines:#?}: {errors:?}");
        for request in requests(&mut random) {
            let decision = rules.decide(&request, &roles, None);
            let (kind, ours) = match decision.outcome {
                Outcome::Trust => (0, None),
                Outcome::Reject => (1, Some(Denial::rejected(&request).message)),
                Outcome::NoEntry => (2, Some(Denial::no_entry(&request).message)),
                // `peer` among the odd words stands behind a rule's own method.
                other => panic!("round {round}: {lines:#?}: {other:?}"),
            };
            outcomes[kind] += 1;
            let theirs = refusal(&postgres.address, &request).await;
            assert_eq!(ours, theirs, "round {round}: {lines:#?}\n{request:?}");
        }
    }
    assert!(bad > 3 && outcomes.iter().all(|count| *count > 30), "too few of a kind: {bad} {outcomes:?}");
}
