//! Log-ins checked by the proxy's own authentication, against what a real PostgreSQL stores, asks and lets in.

use std::net::SocketAddr;
use std::process::Stdio;

use rand::random;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use zeroize::Zeroizing;

use super::server::{Postgres, command};
use super::*;
use crate::auth::attempt::{Applicant, Attempt, Means, Method, Pretence, Random, Step, password_message};
use crate::auth::denial::Denial;
use crate::auth::hba::Password;
use crate::auth::messages::{self, Authentication, SaslInitial};
use crate::auth::roles::{Role, Roles, Secret};
use crate::auth::scram::{Answered, Binding, ClientError, ClientSecret, Mock, Opening};

const ROLES: &str = "
    SET password_encryption = 'scram-sha-256';
    CREATE ROLE scram_user LOGIN PASSWORD 'pencil';
    CREATE ROLE expired LOGIN PASSWORD 'pencil' VALID UNTIL '2001-01-01';
    CREATE ROLE locked NOLOGIN PASSWORD 'pencil';
    SET password_encryption = 'md5';
    CREATE ROLE md5_user LOGIN PASSWORD 'pencil';
    RESET password_encryption;";

const CATALOG: &str = "
    SELECT rolname, rolcanlogin, rolsuper, rolpassword,
           (extract(epoch FROM rolvaliduntil) * 1000000)::bigint
    FROM pg_authid";

async fn roles(admin: &tokio_postgres::Client) -> Roles {
    let rows = admin.query(CATALOG, &[]).await.unwrap();
    Roles::new(rows.iter().map(|row| {
        let role = Role {
            can_login: row.get(1),
            superuser: row.get(2),
            secret: Secret::parse(row.get(3)),
            valid_until: row.get(4),
            member_of: Vec::new(),
        };
        (row.get(0), role)
    }))
}

/// What pg_control has for roles that do not exist.
async fn mock(admin: &tokio_postgres::Client) -> Mock {
    let folder: String = admin.query_one("SHOW data_directory", &[]).await.unwrap().get(0);
    let output = command("pg_controldata").arg(folder).stdout(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let hex = text.lines().find_map(|line| line.strip_prefix("Mock authentication nonce:")).unwrap().trim();
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    Mock::new(bytes.try_into().unwrap(), 4096)
}

async fn message(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let tag = soon(stream.read_u8()).await.unwrap();
    let length = soon(stream.read_u32()).await.unwrap();
    let mut body = vec![0; length as usize - 4];
    soon(stream.read_exact(&mut body)).await.unwrap();
    (tag, body)
}

/// Lets one client in or not, by the proxy's rules; a client that is in gets an empty answer to its first statement.
async fn judge(
    listener: &TcpListener,
    user: &str,
    roles: &Roles,
    pretence: &Pretence,
) -> Result<Means, Denial> {
    let (mut stream, _) = soon(listener.accept()).await.unwrap();
    let length = soon(stream.read_u32()).await.unwrap();
    let mut packet = vec![0; length as usize - 4];
    soon(stream.read_exact(&mut packet)).await.unwrap();
    let applicant = Applicant { user, role: roles.get(user), end_point: None, now: 1_800_000_000_000_000 };
    let random = Random { nonce: std::array::from_fn(|_| random()), salt: random() };
    let mut step = Attempt::begin(&Method::Password(Password::Md5), &applicant, pretence, random);
    loop {
        match step {
            Step::Ask { send, attempt } => {
                stream.write_all(&send).await.unwrap();
                let (tag, body) = message(&mut stream).await;
                step = attempt.answer(tag, &body);
            }
            Step::Granted { send, means } => {
                stream.write_all(&[&send[..], b"Z\0\0\0\x05I"].concat()).await.unwrap();
                assert_eq!(message(&mut stream).await.0, b'Q');
                stream.write_all(b"I\0\0\0\x04Z\0\0\0\x05I").await.unwrap();
                return Ok(means);
            }
            Step::Denied(denial) => {
                stream.write_all(&denial.response().encode()).await.unwrap();
                return Err(denial);
            }
        }
    }
}

/// libpq by way of psql.
async fn psql(address: SocketAddr, user: &str, password: &str) -> (bool, String) {
    let mut psql = command("psql");
    psql.args(["-X", "-h", "127.0.0.1", "-d", "postgres", "-c", "SELECT 1"])
        .args(["-p", &address.port().to_string(), "-U", user])
        .env("PGPASSWORD", password)
        .env("PGSSLMODE", "disable")
        .env("PGGSSENCMODE", "disable")
        .env("PGCONNECT_TIMEOUT", "60")
        .stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || psql.output().unwrap()).await.unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// How a log-in at the server ended: the salt it named, and what it refused with.
struct Ended {
    salt: Option<String>,
    refusal: Option<String>,
    error: Option<ClientError>,
}

/// Logs in at the server with no more than the means.
async fn log_in(address: &str, user: &str, means: &Means) -> Ended {
    let mut stream = soon(TcpStream::connect(address)).await.unwrap();
    let body = format!("user\0{user}\0database\0postgres\0\0");
    let packet =
        [&(body.len() as u32 + 8).to_be_bytes()[..], &196_608u32.to_be_bytes(), body.as_bytes()].concat();
    stream.write_all(&packet).await.unwrap();
    let secret = match means {
        Means::Scram(keys) => ClientSecret::Keys(keys.clone()),
        Means::Md5(_) | Means::None => ClientSecret::Password(Zeroizing::new(b"wrong".to_vec())),
    };
    let mut opening = Some(Opening::new(secret, Binding::None, std::array::from_fn(|_| random())));
    let mut answered: Option<Answered> = None;
    let mut ended = Ended { salt: None, refusal: None, error: None };
    loop {
        let (tag, body) = message(&mut stream).await;
        let mut answer = Vec::new();
        match (tag, Authentication::parse(&body).filter(|_| tag == b'R')) {
            (_, Some(Authentication::Sasl { .. })) => {
                let first = opening.as_ref().unwrap().message();
                SaslInitial { mechanism: b"SCRAM-SHA-256", data: Some(first.as_bytes()) }.encode(&mut answer);
            }
            (_, Some(Authentication::SaslContinue(data))) => {
                let text = std::str::from_utf8(data).unwrap();
                ended.salt = text.split(',').find_map(|part| part.strip_prefix("s=")).map(str::to_owned);
                match opening.take().unwrap().answer(data) {
                    Ok(proof) => messages::put_sasl_response(&mut answer, answered.insert(proof).message()),
                    Err(error) => return Ended { error: Some(error), ..ended },
                }
            }
            (_, Some(Authentication::SaslFinal(data))) => {
                answered.take().unwrap().finish(data).expect("the server has the verifier");
            }
            (_, Some(Authentication::Md5Password { salt })) => {
                let Means::Md5(secret) = means else { panic!("md5 is asked of {user}") };
                answer.extend_from_slice(&password_message(&secret.answer(salt)));
            }
            (b'E', _) => {
                let code = wire::ErrorFields::new(&body).sqlstate().unwrap();
                return Ended { refusal: Some(String::from_utf8(code.to_vec()).unwrap()), ..ended };
            }
            (b'Z', _) => {
                assert!(answered.is_none(), "the server's signature was seen");
                return ended;
            }
            (_, other) => assert!(other.is_none_or(|it| it == Authentication::Ok), "{other:?}"),
        }
        stream.write_all(&answer).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn libpq_is_let_in_and_what_it_proved_logs_in_at_postgresql() {
    // Under the method md5 the server asks each role for what its secret allows.
    let options = ["password_encryption = 'scram-sha-256'"];
    let postgres = tokio::task::spawn_blocking(move || Postgres::start("md5", &options)).await.unwrap();
    let admin = postgres.admin().await;
    admin.batch_execute(ROLES).await.unwrap();
    let roles = roles(&admin).await;
    let pretence = Pretence { mock: mock(&admin).await, prefers_md5: false };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();

    for user in ["scram_user", "md5_user"] {
        let (judged, (is_in, text)) =
            tokio::join!(judge(&listener, user, &roles, &pretence), psql(address, user, "pencil"));
        let means = judged.unwrap_or_else(|denial| panic!("{user}: {denial:?}"));
        assert!(is_in, "{user}: {text}");
        let ended = log_in(&postgres.address, user, &means).await;
        assert!(ended.refusal.is_none() && ended.error.is_none(), "{user}: {:?}", ended.refusal);
        // With the same means once more: they are not used up.
        assert!(log_in(&postgres.address, user, &means).await.refusal.is_none());

        // The role gets another password: the means are worth nothing any more.
        admin.batch_execute(&format!("ALTER ROLE {user} PASSWORD 'crayon'")).await.unwrap();
        let ended = log_in(&postgres.address, user, &means).await;
        match means {
            Means::Scram(_) => assert_eq!(ended.error, Some(ClientError::SecretChanged)),
            Means::Md5(_) | Means::None => assert!(ended.refusal.is_some() || ended.error.is_some()),
        }
    }

    // Both say the same to the same people.
    let cases = [
        ("expired", "pencil"),
        ("locked", "pencil"),
        ("stranger", "pencil"),
        ("postgres", "wrong"),
        ("locked", "wrong"),
    ];
    for (user, password) in cases {
        let (denial, (is_in, text)) =
            tokio::join!(judge(&listener, user, &roles, &pretence), psql(address, user, password));
        let denial = denial.unwrap_err();
        assert!(!is_in && text.contains(&denial.message), "{user}: {text}");
        let server = postgres.address.parse().unwrap();
        let (is_in, text) = psql(server, user, password).await;
        assert!(!is_in && text.contains(&denial.message), "{user}: {text} is not {}", denial.message);
    }

    // A role that does not exist is shown the salt that PostgreSQL itself makes up.
    let ended = log_in(&postgres.address, "stranger", &Means::None).await;
    assert_eq!(ended.salt.as_deref(), Some(pretence.mock.verifier("stranger").salt()));
    assert_eq!(ended.refusal.as_deref(), Some("28P01"));
}
