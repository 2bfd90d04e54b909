//! The proxy as a whole, against servers made of a few lines and against a real PostgreSQL.

mod carried;
mod client_rules;
mod console;
mod crowds;
mod cuts;
mod differential;
mod doors;
mod edges;
mod fake;
mod limits;
mod login;
mod mingling;
mod moves;
mod nearby;
mod pools;
pub mod properties;
mod queue;
mod real;
mod real_auth;
mod real_hba;
mod routing;
mod server;
mod sockets;
mod switchover;
mod takeover_table;
mod tls;
mod truth;
mod two;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

pub use super::LagMax;
use super::tls::TlsConfig;
use super::topology::{Backend, Topology};

use super::{
    CeilingLimits, Consistency, Counts, Leaks, LoweredCommit, OwnServer, PoolMode, Proxy, ProxyConfig,
    Questions, Secrets, SyncWaits, TimeLimits,
};

/// Every wait of a test; never reached when things work.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub async fn soon<F: Future>(what: F) -> F::Output {
    timeout(PATIENCE, what).await.expect("it takes too long")
}

pub fn config() -> ProxyConfig {
    ProxyConfig {
        listen: "127.0.0.1".to_owned(),
        read_write_port: 0,
        read_only_port: 0,
        auto_port: Some(0),
        socket_folder: None,
        read_consistency: Consistency::Session,
        replica_lag_max: LagMax { time: PATIENCE, bytes: None },
        functions: super::Overrides::default(),
        queue_max: 100,
        queue_timeout: PATIENCE,
        sessions_max: 100,
        connect_timeout: Duration::from_secs(2),
        login_timeout: PATIENCE,
        lowered_commit: LoweredCommit::Allow,
        threads: 2,
        pool_mode: PoolMode::Session,
        client_rules: Vec::new(),
        leaks: Leaks::Pin,
        share_unnamed: false,
        time_limits: TimeLimits::default(),
        pool_size: 20,
        pool_min: 0,
        pool_reserve: 0,
        pool_reserve_after: PATIENCE,
        server_limits: CeilingLimits::default(),
        session_limits: CeilingLimits::default(),
        server_idle_timeout: PATIENCE,
        server_lifetime: PATIENCE,
        tls: TlsConfig::default(),
        own_server: None,
    }
}

pub fn backend(node: &str, address: &str) -> Backend {
    Backend { node: node.to_owned(), address: address.to_owned() }
}

/// A topology of `term` with a primary `n1` and replicas `n2`, `n3`… at these addresses.
pub fn topology(term: u64, primary: Option<&str>, replicas: &[&str]) -> Topology {
    Topology {
        term,
        timeline: term as u32,
        primary: primary.map(|address| backend("n1", address)),
        replicas: (2..).zip(replicas).map(|(n, address)| backend(&format!("n{n}"), address)).collect(),
        reason: if primary.is_none() { "A takeover is under way.".to_owned() } else { String::new() },
        is_standby: false,
        hold: None,
    }
}

/// A proxy and the hand on its topology.
pub struct Stand {
    pub proxy: Proxy,
    pub topology: watch::Sender<Topology>,
}

impl Stand {
    pub async fn new(config: ProxyConfig, topology: Topology) -> Stand {
        Stand::with(config, topology, None).await
    }

    pub async fn with(config: ProxyConfig, topology: Topology, waits: Option<Arc<dyn SyncWaits>>) -> Stand {
        let (sender, receiver) = watch::channel(topology);
        let questions = Questions { sync_waits: waits, ..Questions::default() };
        Stand::asking(config, sender, receiver, questions).await
    }

    pub async fn knowing(config: ProxyConfig, topology: Topology, secrets: Arc<dyn Secrets>) -> Stand {
        let (sender, receiver) = watch::channel(topology);
        let questions = Questions { secrets: Some(secrets), ..Questions::default() };
        Stand::asking(config, sender, receiver, questions).await
    }

    pub async fn asking(
        config: ProxyConfig,
        topology: watch::Sender<Topology>,
        seen: watch::Receiver<Topology>,
        questions: Questions,
    ) -> Stand {
        let proxy = Proxy::start(config, seen, questions).await.expect("the proxy starts");
        Stand { proxy, topology }
    }

    pub fn read_write(&self) -> std::net::SocketAddr {
        self.proxy.addresses().read_write
    }

    pub fn read_only(&self) -> std::net::SocketAddr {
        self.proxy.addresses().read_only
    }

    pub async fn until(&self, condition: impl Fn(Counts) -> bool) {
        soon(async {
            while !condition(self.proxy.counts()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }
}
