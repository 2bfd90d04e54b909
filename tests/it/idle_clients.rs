//! What a client costs that is connected and asks nothing. The figure is measured by `cargo xtask bench proxy`; this holds it.

use tests::Cluster;
use tests::idle::idle_clients;
use tests::processes::resident_bytes;

const CLIENTS: usize = 2_000;
/// Some 2.1 KB of a fresh process; more than twice that is a buffer that is kept, or a task.
const BYTES_MAX: u64 = 4_500;

#[test]
fn thousands_of_idle_clients_need_a_few_kilobytes_each() {
    let cluster = Cluster::start(1);
    cluster.wait_until_whole();
    let node = &cluster.nodes()[0];
    let pid = node.agent_pid().unwrap();
    let _first = idle_clients(node.read_write, 50).unwrap();
    let before = resident_bytes(pid).unwrap();
    let _more = idle_clients(node.read_write, CLIENTS).unwrap();
    let bytes = resident_bytes(pid).unwrap().saturating_sub(before) / CLIENTS as u64;
    assert!(bytes <= BYTES_MAX, "{bytes} bytes for each");
}
