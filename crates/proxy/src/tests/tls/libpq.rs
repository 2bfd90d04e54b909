//! libpq itself as the client, with the proxy's certificate before it and a real PostgreSQL behind.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::super::server::{Postgres, command};
use super::*;
use crate::auth::roles::{Role, Secret};

/// The secret that the server stores, for whoever is asked for.
pub struct Known(pub Option<String>);

impl Secrets for Known {
    fn role<'a>(
        &'a self,
        _name: &'a str,
    ) -> std::pin::Pin<Box<dyn Future<Output = Option<Role>> + Send + 'a>> {
        let secret = Secret::parse(self.0.as_deref());
        let role =
            Role { can_login: true, superuser: true, secret, valid_until: None, member_of: Vec::new() };
        Box::pin(std::future::ready(Some(role)))
    }
}

pub async fn stored(postgres: &Postgres) -> Option<String> {
    let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'";
    postgres.admin().await.query_one(sql, &[]).await.unwrap().get(0)
}

/// What psql says: what it was answered, or the error.
pub async fn psql(address: SocketAddr, conninfo: &str, sql: &str) -> Result<String, String> {
    let conninfo = format!(
        "host=127.0.0.1 port={} user=postgres password=secret dbname=postgres {conninfo}",
        address.port()
    );
    let mut psql = command("psql");
    // libpq looks for certificates of its own there.
    psql.env("HOME", "/nonexistent")
        .args(["-XAt", "-c", sql, &conninfo])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = soon(tokio::task::spawn_blocking(move || psql.output().unwrap())).await.unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned()),
        false => Err(String::from_utf8(output.stderr).unwrap()),
    }
}

/// Whether this psql can begin TLS without a request (17), and with which word.
fn direct() -> Option<&'static str> {
    let output = command("psql").arg("--version").stdout(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let major: u32 = text.split([' ', '.']).nth(2).unwrap().parse().unwrap();
    (major >= 17).then_some("sslmode=require sslnegotiation=direct")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_sslmode_finds_what_it_asks_for() {
    let postgres = tokio::task::spawn_blocking(|| Postgres::start("scram-sha-256", &[])).await.unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let secrets = Arc::new(Known(stored(&postgres).await));
    let start = async |mode| {
        let config = ProxyConfig { tls: authority.front(mode), ..config() };
        Stand::knowing(config, topology(1, Some(&postgres.address), &[]), secrets.clone()).await
    };
    let (ca, wrong) = (authority.ca(), stranger.ca());
    let (ca, wrong) = (ca.display(), wrong.display());
    let stand = start(ClientTlsMode::Allow).await;
    let mut good = vec![
        "sslmode=disable".to_owned(),
        "sslmode=prefer".to_owned(),
        "sslmode=require".to_owned(),
        format!("sslmode=verify-ca sslrootcert={ca}"),
        format!("sslmode=verify-full sslrootcert={ca}"),
        "sslmode=require channel_binding=require".to_owned(),
        "sslmode=require channel_binding=disable".to_owned(),
        "sslmode=require ssl_max_protocol_version=TLSv1.2 channel_binding=require".to_owned(),
    ];
    good.extend(direct().map(str::to_owned));
    for conninfo in &good {
        assert_eq!(
            psql(stand.read_write(), conninfo, "SELECT 41 + 1").await.as_deref(),
            Ok("42"),
            "{conninfo}"
        );
    }
    let conninfo = psql(stand.read_write(), "sslmode=require", "\\conninfo").await.unwrap();
    assert!(conninfo.contains("TLS"), "{conninfo}");
    let told =
        psql(stand.read_write(), &format!("sslmode=verify-full sslrootcert={wrong}"), "").await.unwrap_err();
    assert!(told.contains("certificate verify failed"), "{told}");
    let told = psql(stand.read_write(), "sslmode=disable channel_binding=require", "").await.unwrap_err();
    assert!(told.contains("channel binding"), "{told}");
    let wrong = psql(stand.read_write(), "sslmode=require password=wrong", "SELECT 1").await.unwrap_err();
    assert!(wrong.contains("password authentication failed for user \"postgres\""), "{wrong}");

    let strict = start(ClientTlsMode::Require).await;
    let told = psql(strict.read_write(), "sslmode=disable", "SELECT 1").await.unwrap_err();
    assert!(told.contains("user \"postgres\", database \"postgres\", no encryption"), "{told}");
    assert_eq!(psql(strict.read_write(), "", "SELECT 1").await.as_deref(), Ok("1"), "libpq's own choice");
}

/// What Ctrl-C does: psql 15 asks in clear for the end of a statement of an encrypted session, psql 17 over TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_cancels_its_statement() {
    let postgres = tokio::task::spawn_blocking(|| Postgres::start("scram-sha-256", &[])).await.unwrap();
    let authority = Authority::new();
    let secrets = Arc::new(Known(stored(&postgres).await));
    let tls = authority.front(ClientTlsMode::Require);
    let config = ProxyConfig { tls, pool_mode: PoolMode::Transaction, ..config() };
    let stand = Stand::knowing(config, topology(1, Some(&postgres.address), &[]), secrets).await;
    let mut psql = command("psql");
    let port = stand.read_write().port();
    let conninfo = format!("host=127.0.0.1 port={port} user=postgres password=secret sslmode=require");
    psql.env("HOME", "/nonexistent")
        .args(["-XAt", "-c", "SELECT pg_sleep(60)", &conninfo])
        .stderr(Stdio::piped());
    let child = psql.spawn().unwrap();
    let admin = postgres.admin().await;
    let sleepers = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    soon(async { while admin.query_one(sleepers, &[]).await.unwrap().get::<_, i64>(0) == 0 {} }).await;
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::INT).unwrap();
    let output = soon(tokio::task::spawn_blocking(move || child.wait_with_output().unwrap())).await.unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("canceling statement due to user request"), "{told}");
    stand.until(|counts| counts.cancels == 1).await;
}
