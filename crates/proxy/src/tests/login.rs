//! Passwords that the proxy asks for in the server's place, with a real PostgreSQL behind it.

use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::AsyncWriteExt;
use tokio_postgres::error::SqlState;

use super::fake::read_frame;
use super::server::{Postgres, client, connect};
use super::*;
use crate::auth::roles::{Role, Secret};
use crate::hello;
use crate::tls::{Stream, Tls};

/// One secret for whoever is asked for, and whether it is a superuser's.
pub struct Known(pub Mutex<Option<String>>, pub AtomicBool);

impl Default for Known {
    fn default() -> Known {
        Known(Mutex::default(), AtomicBool::new(true))
    }
}

impl Secrets for Known {
    fn role<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = Option<Role>> + Send + 'a>> {
        assert_eq!(name, "postgres");
        let secret = Secret::parse(self.0.lock().unwrap().as_deref());
        let superuser = self.1.load(Ordering::Relaxed);
        let role = Role { can_login: true, superuser, secret, valid_until: None, member_of: Vec::new() };
        Box::pin(std::future::ready(Some(role)))
    }
}

pub async fn stored(postgres: &Postgres) -> Option<String> {
    let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'";
    postgres.admin().await.query_one(sql, &[]).await.unwrap().get(0)
}

/// A server that wants a password, and a proxy that knows what the server stores of it.
async fn start() -> (Postgres, Arc<Known>, Stand) {
    let postgres = tokio::task::spawn_blocking(|| Postgres::start("scram-sha-256", &[])).await.unwrap();
    let known = Arc::new(Known::default());
    *known.0.lock().unwrap() = stored(&postgres).await;
    let stand = Stand::knowing(config(), topology(1, Some(&postgres.address), &[]), known.clone()).await;
    (postgres, known, stand)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_with_a_password_survives_a_takeover() {
    let (postgres, _known, stand) = start().await;
    let session = connect(client(stand.read_write(), "secret")).await.unwrap();
    session.batch_execute("SET work_mem = '3MB'").await.unwrap();
    let statement = session.prepare("SELECT $1::int + 1").await.unwrap();
    let pid = "SELECT pg_backend_pid()";
    let before: i32 = session.query_one(pid, &[]).await.unwrap().get(0);
    // The client closes its statements on its own time; the answer to this comes after theirs.
    session.batch_execute("SELECT 1").await.unwrap();
    stand.topology.send_replace(topology(2, Some(&postgres.address), &[]));
    stand.until(|counts| counts.moved == 1).await;
    let after: i32 = session.query_one(pid, &[]).await.unwrap().get(0);
    assert_ne!(before, after, "another server process");
    assert_eq!(session.query_one(&statement, &[&41]).await.unwrap().get::<_, i32>(0), 42);
    assert_eq!(session.query_one("SHOW work_mem", &[]).await.unwrap().get::<_, &str>(0), "3MB");
    assert_eq!(stand.proxy.counts().cuts, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_refused_in_the_servers_words() {
    let (_postgres, _known, stand) = start().await;
    let wrong = connect(client(stand.read_write(), "wrong")).await.unwrap_err();
    assert_eq!(wrong.code(), Some(&SqlState::INVALID_PASSWORD));
    let told = wrong.as_db_error().unwrap();
    assert_eq!(told.message(), "password authentication failed for user \"postgres\"");
    assert!(told.routine().is_some(), "the server itself says so: {told:?}");
    stand.until(|counts| counts.sessions == 0).await;
    // What only the server judges is the server's to say.
    let mut nowhere = client(stand.read_write(), "secret");
    let refused = connect(nowhere.dbname("nowhere").clone()).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::UNDEFINED_DATABASE));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_not_the_servers_is_not_believed() {
    let (postgres, known, stand) = start().await;
    // The catalog that is asked lags behind the server that judges.
    postgres.admin().await.batch_execute("ALTER ROLE postgres PASSWORD 'new'").await.unwrap();
    let old = connect(client(stand.read_write(), "secret")).await.unwrap_err();
    assert_eq!(old.code(), Some(&SqlState::INVALID_PASSWORD));
    connect(client(stand.read_write(), "new")).await.unwrap().batch_execute("SELECT 1").await.unwrap();
    for unknown in [None, Some("md5aabbccddaabbccddaabbccddaabbccdd"), Some("SCRAM-SHA-256$4096:AA==$x:y")] {
        *known.0.lock().unwrap() = unknown.map(str::to_owned);
        connect(client(stand.read_write(), "new")).await.unwrap().batch_execute("SELECT 1").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_changes_meanwhile_ends_the_move_with_the_reason() {
    let (postgres, _known, stand) = start().await;
    let session = connect(client(stand.read_write(), "secret")).await.unwrap();
    postgres.admin().await.batch_execute("ALTER ROLE postgres PASSWORD 'new'").await.unwrap();
    stand.topology.send_replace(topology(2, Some(&postgres.address), &[]));
    stand.until(|counts| counts.cuts == 1).await;
    assert!(soon(session.batch_execute("SELECT 1")).await.is_err());
    assert_eq!(stand.proxy.counts().moved, 0);
}

/// A server that asks for SCRAM, names the salt of the role, and lets in whoever comes.
pub async fn impostor(salt: String, early: bool) -> (String, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let task = tokio::spawn(async move {
        let tls = Tls::start(&TlsConfig::default()).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = Stream::from(stream);
            let _ = hello::read_hello(&mut stream, &tls).await;
            let _ = stream.write_all(&authentication(&[&[0, 0, 0, 10][..], b"SCRAM-SHA-256\0\0"])).await;
            let Ok((_, first)) = read_frame(&mut stream).await else { continue };
            let nonce = first.split(|byte| *byte == b',').next_back().unwrap()[2..].to_vec();
            let text = [b"r=", &nonce[..], b"x,s=", salt.as_bytes(), b",i=4096"].concat();
            let mut out = authentication(&[&[0, 0, 0, 11], &text]);
            let ok = [authentication(&[&[0; 4]]), b"Z\0\0\0\x05I".to_vec()].concat();
            if early {
                out.extend_from_slice(&ok);
            }
            let _ = stream.write_all(&out).await;
            let _ = read_frame(&mut stream).await;
            let _ = stream.write_all(&ok).await;
            let _ = read_frame(&mut stream).await;
        }
    });
    (address, task)
}

fn authentication(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::message::put_frame(&mut out, b'R', &parts.concat());
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_know_the_secret_is_not_vouched_for() {
    let (postgres, known, real) = start().await;
    let secret = known.0.lock().unwrap().clone().unwrap();
    let salt = secret.split([':', '$']).nth(2).unwrap().to_owned();
    for early in [false, true] {
        let (address, task) = impostor(salt.clone(), early).await;
        let stand = Stand::knowing(config(), topology(1, Some(&address), &[]), known.clone()).await;
        let told = connect(client(stand.read_write(), "secret")).await.unwrap_err();
        assert_eq!(told.code(), Some(&SqlState::ADMIN_SHUTDOWN), "{told}");
        let words = told.as_db_error().unwrap().message();
        assert!(words.contains("was not completed"), "{words}");
        // Nor is a session moved there.
        let session = connect(client(real.read_write(), "secret")).await.unwrap();
        session.batch_execute("SELECT 1").await.unwrap();
        let cuts = real.proxy.counts().cuts;
        real.topology.send_modify(|now| {
            (now.term, now.timeline) = (now.term + 1, now.timeline + 1);
            now.primary = Some(backend("n9", &address));
        });
        real.until(|counts| counts.cuts > cuts).await;
        assert_eq!(real.proxy.counts().moved, 0);
        real.topology.send_modify(|now| {
            (now.term, now.timeline) = (now.term + 1, now.timeline + 1);
            now.primary = Some(backend("n1", &postgres.address));
        });
        task.abort();
    }
}
