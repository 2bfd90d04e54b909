//! Much data through TLS, in both directions, past readers that are slow; and sessions that are moved.

use super::super::server::Postgres;
use super::*;

const MEGABYTES: usize = 50;

async fn stand(mode: PoolMode, server: ServerTlsMode) -> (Authority, Postgres, Stand) {
    let authority = Authority::new();
    let (cert, key) = authority.issue("server", &["127.0.0.1"]);
    give_private(&key);
    let options = [
        "ssl = on".to_owned(),
        format!("ssl_cert_file = '{}'", cert.display()),
        format!("ssl_key_file = '{}'", key.display()),
    ];
    let start = move || Postgres::start("trust", &options.each_ref().map(String::as_str));
    let postgres = tokio::task::spawn_blocking(start).await.unwrap();
    drop(postgres.admin().await);
    let server = ServerTls { mode: server, ca: Some(authority.ca()) };
    let tls = TlsConfig { server, ..authority.front(ClientTlsMode::Require) };
    let config = ProxyConfig { tls, pool_mode: mode, ..config() };
    let stand = Stand::new(config, topology(1, Some(&postgres.address), &[])).await;
    (authority, postgres, stand)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_results_and_large_copies_arrive_whole() {
    for server in [ServerTlsMode::Disable, ServerTlsMode::VerifyFull] {
        let (authority, _postgres, stand) = stand(PoolMode::Transaction, server).await;
        let mut stream = encrypted(stand.read_write(), authority.trusting()).await.unwrap();
        log_in(&mut stream).await;
        // Down, while the client sleeps again and again.
        let sql =
            format!("SELECT i, repeat(chr(97 + i % 26), 1000000) FROM generate_series(1, {MEGABYTES}) i");
        stream.write_all(&query(&sql)).await.unwrap();
        for number in 1..=MEGABYTES {
            let row = loop {
                if let (b'D', row) = soon(read_frame(&mut stream)).await.unwrap() {
                    break row;
                }
            };
            let text = &row[row.len() - 1_000_000..];
            assert!(text.iter().all(|byte| *byte == b'a' + (number % 26) as u8), "row {number}");
            if number % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        assert!(rows(&mut stream).await.is_empty());

        // Up, to a server that checks every row as it comes.
        stream.write_all(&query("CREATE TABLE t (id int PRIMARY KEY, x text)")).await.unwrap();
        rows(&mut stream).await;
        stream.write_all(&query("COPY t FROM STDIN")).await.unwrap();
        let mut out = Vec::new();
        for number in 0..MEGABYTES {
            let row = [format!("{number}\t").as_bytes(), &vec![b'x'; 1_000_000][..], b"\n"].concat();
            put_frame(&mut out, b'd', &row);
        }
        put_frame(&mut out, b'c', b"");
        soon(stream.write_all(&out)).await.unwrap();
        soon(stream.flush()).await.unwrap();
        rows(&mut stream).await;
        assert_eq!(
            ask(&mut stream, "SELECT sum(length(x)) FROM t").await,
            (MEGABYTES * 1_000_000).to_string()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directions_at_once_do_not_lock_each_other() {
    let (authority, _postgres, stand) = stand(PoolMode::Session, ServerTlsMode::VerifyFull).await;
    let mut stream = encrypted(stand.read_write(), authority.trusting()).await.unwrap();
    log_in(&mut stream).await;
    // A pipeline whose answers are not read before all of it is written; each is as large as its question.
    let (count, text) = (200, "y".repeat(100_000));
    let (mut reader, mut writer) = tokio::io::split(stream);
    let all: Vec<u8> = (0..count).flat_map(|_| query(&format!("SELECT '{text}'"))).collect();
    let writing = tokio::spawn(async move {
        writer.write_all(&all).await.unwrap();
        writer.flush().await.unwrap();
        writer
    });
    let (mut ready, mut bytes) = (0, 0);
    while ready < count {
        let (tag, body) = soon(read_frame(&mut reader)).await.unwrap();
        ready += usize::from(tag == b'Z');
        bytes += if tag == b'D' { body.len() - 6 } else { 0 };
    }
    assert_eq!(bytes, count * text.len());
    soon(writing).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_with_tls_outlive_a_switchover() {
    for mode in [PoolMode::Transaction, PoolMode::Session] {
        let (authority, postgres, stand) = stand(mode, ServerTlsMode::VerifyFull).await;
        let mut streams = Vec::new();
        for _ in 0..30 {
            let mut stream = encrypted(stand.read_write(), authority.trusting()).await.unwrap();
            log_in(&mut stream).await;
            stream.write_all(&query("SET work_mem = '5MB'")).await.unwrap();
            rows(&mut stream).await;
            streams.push(stream);
        }
        for term in 2..5 {
            stand.topology.send_replace(topology(term, Some(&postgres.address), &[]));
            for (number, stream) in streams.iter_mut().enumerate() {
                assert_eq!(ask(stream, &format!("SELECT {number}")).await, number.to_string());
                assert_eq!(ask(stream, "SHOW work_mem").await, "5MB");
            }
        }
        assert_eq!(stand.proxy.counts().cuts, 0);
    }
}
