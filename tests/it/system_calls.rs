//! What a transaction costs the proxy that noise cannot touch: its system calls. CPU and latency are measured by `cargo xtask bench proxy`.

use tests::{Cluster, bench, strace};

const HOST: &str = "127.0.0.1";
const SECONDS: &str = "2";
/// A transaction is read twice and written twice; what is left is for events, of which one wait brings many.
const CALLS_MAX: f64 = 4.6;

#[test]
fn a_transaction_costs_the_proxy_no_more_calls_than_its_messages_need() {
    let cluster = Cluster::start(1);
    cluster.wait_until_whole();
    let node = &cluster.nodes()[0];
    bench::fill(HOST, node.postgres).unwrap();
    let threads = strace::threads(node.agent_pid().unwrap(), "proxy-");
    assert!(!threads.is_empty());
    for port in [node.read_write, node.auto] {
        for mode in ["simple", "extended", "prepared"] {
            let run = || {
                let mut pgbench = bench::pgbench(HOST, port);
                pgbench.args(["-n", "-S", "-M", mode, "-c", "16", "-j", "1", "-T", SECONDS, "postgres"]);
                bench::transactions(&mut pgbench)
            };
            let (calls, transactions) = strace::count(&threads, run).unwrap().expect("strace is installed");
            let each = calls as f64 / transactions as f64;
            println!("{mode} on port {port}: {each:.2} calls for each of {transactions} transactions");
            assert!(each <= CALLS_MAX, "{mode} on port {port}: {each:.2} calls");
        }
    }
}
