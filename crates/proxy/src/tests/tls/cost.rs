//! What TLS costs, for docs/decisions/0012-proxy-tls.md. Whoever wants the figures asks for them:
//!
//! ```text
//! cargo test --release -p proxy --lib -- --ignored --nocapture --test-threads 1 tls::cost
//! ```
//!
//! Clients are other processes, so that this process's memory and time are the proxy's; and each figure of memory wants a process
//! of its own (`tls::cost::bytes_per_idle_client_with_tls`), since what was freed is used again.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use super::super::fake::{Manner, Server};
use super::super::server::{Postgres, command};
use super::*;

const CLIENTS: usize = 1000;
/// Opens connections, says so, and holds them until its input ends.
const HOLDER: &str = r#"
import socket, ssl, struct, sys
port, count, tls = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "tls"
context = ssl._create_unverified_context()
body = struct.pack("!I", 196608) + b"user\0ann\0\0"
held = []
for _ in range(count):
    s = socket.create_connection(("127.0.0.1", port))
    if tls:
        s.sendall(struct.pack("!II", 8, 80877103)); assert s.recv(1) == b"S"
        s = context.wrap_socket(s)
    s.sendall(struct.pack("!I", len(body) + 4) + body)
    for _ in range(2):
        got = b""
        while not got.endswith(b"Z\0\0\0\x05I"): got += s.recv(65536)
        s.sendall(b"Q\0\0\0\x0dSELECT 1\0")
    got = b""
    while not got.endswith(b"Z\0\0\0\x05I"): got += s.recv(65536)
    held.append(s)
print("held", flush=True)
sys.stdin.read()
"#;

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Seconds of this process's threads, all of them.
fn processor_time() -> f64 {
    let usage = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = usage.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

async fn idle(kind: &str) {
    let authority = Authority::new();
    let server = Server::new(Manner::Trusting).await;
    let tls = authority.front(ClientTlsMode::Allow);
    let config = ProxyConfig {
        tls,
        pool_mode: PoolMode::Transaction,
        pool_size: 1,
        threads: 1,
        sessions_max: 2 * CLIENTS,
        ..config()
    };
    let stand = Stand::new(config, topology(1, Some(&server.address), &[])).await;
    let hold = |count: usize| {
        let port = stand.read_write().port().to_string();
        let mut holder = std::process::Command::new("python3");
        holder.args(["-c", HOLDER, &port, &count.to_string(), kind]);
        let mut child = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        child
    };
    let mut first = tokio::task::block_in_place(|| hold(100));
    let before = resident();
    let mut holder = tokio::task::block_in_place(|| hold(CLIENTS));
    println!("{kind}: {} bytes per idle client", (resident() - before) / CLIENTS);
    for child in [&mut first, &mut holder] {
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn bytes_per_idle_client_in_clear() {
    idle("plain").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn bytes_per_idle_client_with_tls() {
    idle("tls").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn processor_time_per_transaction() {
    let authority = Authority::new();
    let (cert, key) = authority.issue("server", &["127.0.0.1"]);
    give_private(&key);
    let files =
        [format!("ssl_cert_file = '{}'", cert.display()), format!("ssl_key_file = '{}'", key.display())];
    let start = move || Postgres::start("trust", &["ssl = on", &files[0], &files[1]]);
    let postgres = tokio::task::spawn_blocking(start).await.unwrap();
    drop(postgres.admin().await);
    let port = postgres.address.rsplit_once(':').unwrap().1;
    let filled =
        command("pgbench").args(["-i", "-q", "-h", "127.0.0.1", "-p", port, "postgres"]).status().unwrap();
    assert!(filled.success());
    for round in 1..=3 {
        for (client, server) in
            [("disable", "disable"), ("require", "disable"), ("disable", "require"), ("require", "require")]
        {
            let server_tls = ServerTls { mode: ServerTlsMode::of(server), ca: None };
            let tls = TlsConfig { server: server_tls, ..authority.front(ClientTlsMode::Allow) };
            let config = ProxyConfig { tls, pool_mode: PoolMode::Transaction, threads: 1, ..config() };
            let stand = Stand::new(config, topology(1, Some(&postgres.address), &[])).await;
            let conninfo =
                format!("host=127.0.0.1 port={} dbname=postgres sslmode={client}", stand.read_write().port());
            let mut pgbench = command("pgbench");
            pgbench
                .env("HOME", "/nonexistent")
                .args(["-n", "-S", "-c", "16", "-j", "2", "-T", "5", &conninfo]);
            pgbench.stdout(Stdio::piped());
            let before = processor_time();
            let output = tokio::task::block_in_place(|| pgbench.output().unwrap());
            let spent = processor_time() - before;
            let text = String::from_utf8(output.stdout).unwrap();
            let line = text.lines().find(|line| line.contains("actually processed")).unwrap();
            let count: f64 = line.rsplit(' ').find_map(|word| word.parse().ok()).unwrap();
            println!(
                "round {round}, client {client}, server {server}: {:.4} s per 1,000 of {count} transactions",
                spent * 1000.0 / count
            );
        }
    }
}
