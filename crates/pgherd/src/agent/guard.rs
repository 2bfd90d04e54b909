//! Closes this node's proxy when the agent's loop hangs.
//!
//! A loop that waits for a disk decides nothing and tells nobody; its peers take over after `failure_timeout`. The
//! proxy must not go on by the topology of before. It is no fence for PostgreSQL itself: a process of its own will be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use proxy::topology::Topology;

/// Small beside the shortest `failure_timeout` of 500 ms.
const INTERVAL: Duration = Duration::from_millis(50);

/// The loop's sign of life, in boot milliseconds.
#[derive(Default)]
pub struct Pulse(AtomicU64);

impl Pulse {
    pub fn beat(&self) {
        self.0.store(crate::clock::boot_millis(), Ordering::Relaxed);
    }

    fn age_ms(&self) -> u64 {
        crate::clock::boot_millis().saturating_sub(self.0.load(Ordering::Relaxed))
    }
}

/// Watches for as long as somebody watches the topology. `usable_ms` is how long a lease may be used.
pub async fn guard(pulse: Arc<Pulse>, topology: Arc<watch::Sender<Topology>>, usable_ms: u64) {
    while !topology.is_closed() {
        tokio::time::sleep(INTERVAL).await;
        if pulse.age_ms() < usable_ms {
            continue;
        }
        let closed = topology.send_if_modified(|topology| {
            let open = topology.primary.take().is_some() || !topology.replicas.is_empty();
            topology.replicas.clear();
            topology.reason = "The agent of this node does not answer.".to_owned();
            open
        });
        if closed {
            tracing::error!("the agent's loop hangs: its proxy serves nobody meanwhile");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proxy::topology::Backend;

    #[tokio::test]
    async fn a_loop_that_hangs_closes_the_proxy() {
        let pulse = Arc::new(Pulse::default());
        pulse.beat();
        let backend = Backend { node: "n1".into(), address: "127.0.0.1:1".into() };
        let (topology, mut seen) =
            watch::channel(Topology { term: 3, primary: Some(backend), ..Topology::default() });
        let guarding = tokio::spawn(guard(pulse, Arc::new(topology), 100));
        let closed = seen.wait_for(|topology| topology.primary.is_none());
        let closed = tokio::time::timeout(Duration::from_secs(10), closed).await.unwrap().unwrap();
        assert_eq!(closed.term, 3, "the term never falls");
        drop(closed);
        guarding.abort();
    }
}
