//! Two primaries, one after the other, behind a proxy.

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use wire::message::put_frame;

use super::fake::{Client, Manner, Server, read_frame};
use super::*;
use crate::topology::Hold;

/// One worker, so that all sessions share one pool, if there are pools.
pub fn mode(pool_mode: PoolMode) -> ProxyConfig {
    ProxyConfig { pool_mode, threads: 1, ..config() }
}

pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, tag, body);
    out
}

pub fn query(sql: &str) -> Vec<u8> {
    frame(b'Q', format!("{sql}\0").as_bytes())
}

pub fn held(topology: Topology, until: Instant) -> Topology {
    Topology { hold: Some(Hold { id: 1, until }), ..topology }
}

pub fn later() -> Instant {
    Instant::now() + PATIENCE
}

/// The primary, and the one that follows it.
pub struct Two {
    pub old: Server,
    pub new: Server,
    pub stand: Stand,
}

impl Two {
    pub async fn new() -> Two {
        Two::with(config()).await
    }

    pub async fn with(config: ProxyConfig) -> Two {
        let (old, new) = (Server::new(Manner::Trusting).await, Server::new(Manner::Trusting).await);
        let stand = Stand::new(config, topology(1, Some(&old.address), &[])).await;
        Two { old, new, stand }
    }

    pub fn hold(&self) {
        self.stand.topology.send_replace(held(topology(1, Some(&self.old.address), &[]), later()));
    }

    pub fn take_over(&self) {
        self.stand.topology.send_replace(topology(2, Some(&self.new.address), &[]));
    }

    pub async fn moved(&self, count: u64) {
        self.stand.until(|counts| counts.moved == count).await;
    }

    /// With a client of the old one.
    pub async fn of(config: ProxyConfig) -> (Two, Client) {
        let two = Two::with(config).await;
        let client = Client::login(two.stand.read_write()).await;
        (two, client)
    }

    /// As [`Two::of`], and each of `before` is answered, `last` is sent and on its server.
    pub async fn with_asked(pool_mode: PoolMode, before: &[&str], last: &str) -> (Two, Client) {
        let (two, mut client) = Two::of(mode(pool_mode)).await;
        for sql in before {
            client.query(sql).await.unwrap();
        }
        client.send(last).await;
        two.old.until(|seen| seen.queries.iter().any(|sql| sql == last)).await;
        (two, client)
    }

    pub async fn parked(&self, count: usize) {
        self.stand.until(|counts| counts.parked == count).await;
    }

    /// The old primary stops and tells each session that it has.
    pub fn stop(&self) {
        self.old.manner.send_replace(Manner::Refusing("57P03"));
        self.old.ends.send_replace(Some("57P01"));
    }

    /// There is no primary, and the switchover goes on.
    pub fn close(&self) {
        self.stand.topology.send_replace(held(topology(1, None, &[]), later()));
    }

    /// The rest of a switchover.
    pub async fn switch_over(&self) {
        self.stop();
        self.old.until(|seen| seen.open == 0).await;
        self.close();
        self.take_over();
    }

    /// The switchover's rest, after which this client goes on with the new primary, having noticed nothing.
    pub async fn ends_well_for(&self, mut client: Client) {
        self.switch_over().await;
        client.query("SELECT after").await.unwrap();
        assert_eq!(queries(&self.new).last().unwrap(), "SELECT after");
        assert_eq!(self.stand.proxy.counts().cuts, 0);
    }

    /// The primary is to change, or has failed.
    pub async fn begin(&self, planned: bool) {
        if planned {
            return self.hold();
        }
        self.stand.topology.send_replace(topology(1, None, &[]));
        self.old.until(|seen| seen.open == 0).await;
    }

    /// There is another primary.
    pub async fn end(&self, planned: bool) {
        match planned {
            true => self.switch_over().await,
            false => self.take_over(),
        }
    }

    /// A takeover, and what the client hears of it.
    pub async fn taken_over(&self, client: &mut Client) -> String {
        self.take_over();
        let told = client.last_words().await;
        assert!(told.text.contains("takeover"), "{told:?}");
        self.old.until(|seen| seen.open == 0).await;
        assert_eq!((self.new.logins(), self.stand.proxy.counts().cuts), (0, 1));
        told.sqlstate
    }
}

pub fn queries(server: &Server) -> Vec<String> {
    server.seen.borrow().queries.clone()
}

impl Client {
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Reads up to a message of this type.
    pub async fn until(&mut self, tag: u8) {
        soon(async { while read_frame(&mut self.stream).await.unwrap().0 != tag {} }).await;
    }
}
