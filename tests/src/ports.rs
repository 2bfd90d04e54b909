//! Ports that belong to one cluster for as long as its test runs.
//!
//! A node that is killed and started again must find its ports free, and so must one that was prepared and starts
//! later: in between, any other test, also one of another process, would see them as free. So a base is claimed under
//! a name of the kernel's, which goes with the network namespace as ports do, and which ends with its holder.
//! Invariant: no two clusters of the harness on one machine have a port in common.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which the kernel takes ports for outgoing connections (32768 and up).
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const PORTS_PER_CLUSTER: u16 = 100;
const PORTS_PER_NODE: u16 = 10;

/// The ports of one cluster, from `base` on; dropped, they are anybody's.
#[derive(Debug)]
pub struct Ports {
    pub base: u16,
    _claim: UnixListener,
}

impl Ports {
    /// A base from which the ports of so many nodes are free and stay ours.
    pub fn claim(nodes: u16) -> Ports {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let places = (PORTS.end - PORTS.start) / PORTS_PER_CLUSTER;
        // Test processes that run side by side begin at different places.
        let start = (std::process::id() % u32::from(places)) as u16;
        (0..places)
            .map(|_| (start + NEXT.fetch_add(1, Ordering::Relaxed) % places) % places)
            .find_map(|place| Ports::at(PORTS.start + place * PORTS_PER_CLUSTER, nodes))
            .expect("a hundred ports in a row that nobody has")
    }

    fn at(base: u16, nodes: u16) -> Option<Ports> {
        let name = SocketAddr::from_abstract_name(format!("pgherd-test-ports-{base}")).ok()?;
        let claim = UnixListener::bind_addr(&name).ok()?;
        let free = (base..base + PORTS_PER_NODE * nodes).all(is_free);
        free.then_some(Ports { base, _claim: claim })
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
