//! The virtual IP is where the open primary is, whatever ends the one before, and its neighbours know.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use rustix::process::Signal;
use tests::network::{Cut, Network};
use tests::placement::{self, section};
use tests::{Cluster, Node, Prepared, processes, sandbox, wait_for};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

const TIMEOUT: Duration = Duration::from_secs(90);
/// The same on every node, as a client of one address needs it.
const PORT: u16 = 6432;
const V4: &str = "10.77.0.100/24";
const V6: &str = "fd77::100/64";
const V6_OTHER: &str = "fd77::101/64";
const V6_HUB: &str = "fd77::fe/64";

/// A cluster in namespaces with a virtual IP; its client is at the hub.
struct Lab {
    network: Network,
    cluster: Cluster,
    vip: &'static str,
    runtime: Runtime,
}

impl Lab {
    fn start(vip: &'static str) -> Lab {
        Lab::start_with(vip, "2s")
    }

    fn start_with(vip: &'static str, failure_timeout: &str) -> Lab {
        let network = Network::build(3).expect("a network");
        let mut prepared = Prepared::new(3);
        placement::place(&mut prepared);
        for node in &mut prepared.nodes {
            node.read_write = PORT;
            node.edit_config(|config| {
                section(config, "failover").insert("failure_timeout".into(), failure_timeout.into());
                section(config, "vip").insert("address".into(), vip.into());
                section(config, "vip").insert("interface".into(), "eth0".into());
                section(config, "proxy").insert("read_write_port".into(), i64::from(PORT).into());
                section(config, "proxy").insert("listen".into(), "::".into());
            });
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        Lab { network, cluster: Cluster::start_prepared(prepared), vip, runtime: runtime.unwrap() }
    }

    fn address(&self) -> &'static str {
        self.vip.split_once('/').unwrap().0
    }

    fn primary(&self) -> Node {
        self.cluster.node(&self.cluster.wait_until_whole().primary.unwrap()).clone()
    }

    fn has(&self, node: &Node) -> bool {
        has(node, self.vip)
    }

    /// Waits until this node has the address and no other.
    #[track_caller]
    fn wait_for_holder(&self, name: &str) {
        wait_for(&format!("{name} alone to have the address"), TIMEOUT, || {
            self.cluster.nodes().iter().all(|node| self.has(node) == (node.name == name)).then_some(())
        });
    }

    /// Waits until another node than `old` is the primary and has the address; its name.
    #[track_caller]
    fn wait_for_holder_other_than(&self, old: &Node, overlap_allowed: bool) -> String {
        let new = wait_for("another primary with the address", TIMEOUT, || {
            // The new one first: what the old one is seen to have then, it has beside it.
            let new = self.cluster.nodes().iter().find(|node| node.name != old.name && self.has(node))?;
            assert!(
                overlap_allowed || !self.has(old),
                "{} still has the address, and {} has it",
                old.name,
                new.name
            );
            self.cluster.primary().filter(|primary| *primary == new.name)
        });
        self.wait_for_holder(&new);
        new
    }

    /// Which Ethernet address the client sends to.
    fn neighbour(&self) -> Option<String> {
        let said = ip(&["neigh", "show", self.address(), "dev", "hub"]);
        said.split_once("lladdr ").and_then(|(_, rest)| rest.split_whitespace().next()).map(str::to_owned)
    }

    /// Waits for the client's kernel to know, by what it was told: nothing is sent to the address meanwhile.
    #[track_caller]
    fn wait_for_neighbour(&self, name: &str) {
        let said = ip(&["-n", name, "-o", "link", "show", "eth0"]);
        let mac = said.split_once("link/ether ").unwrap().1.split_whitespace().next().unwrap();
        wait_for(&format!("the neighbour to be {name}"), TIMEOUT, || {
            (self.neighbour().as_deref() == Some(mac)).then_some(())
        });
    }

    fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let address = self.address();
        let text = format!("host={address} port={PORT} user=postgres dbname=postgres connect_timeout=5");
        self.runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&text, NoTls).await?;
            tokio::spawn(connection);
            Ok(client)
        })
    }

    /// A write by a new session at the address, which reaches the server of this node.
    #[track_caller]
    fn write_through(&self, name: &str) {
        let client = self.connect().expect("the address answers");
        let server: String = self.runtime.block_on(async {
            client
                .batch_execute("CREATE TABLE IF NOT EXISTS t (a int); INSERT INTO t VALUES (1)")
                .await
                .unwrap();
            client.query_one("SHOW cluster_name", &[]).await.unwrap().get(0)
        });
        assert_eq!(server, name);
    }

    /// A session at the address that waits for an answer; says when it has ended.
    fn waiting_session(&self) -> Receiver<String> {
        let client = self.connect().expect("the address answers");
        let (tell, told) = sync_channel(1);
        self.runtime.spawn(async move {
            let ended = client.batch_execute("SELECT pg_sleep(3600)").await;
            // A test that is over needs to know no more.
            let _ = tell.send(format!("{ended:?}"));
        });
        told
    }

    fn events(&self, node: &Node) -> String {
        std::fs::read_to_string(node.dir.join("events.jsonl")).unwrap_or_default()
    }

    #[track_caller]
    fn wait_for_event(&self, node: &Node, rule: &str, words: &str) {
        wait_for(&format!("an event {rule} of {} with {words:?}", node.name), TIMEOUT, || {
            let rule = format!("\"rule\":\"{rule}\"");
            self.events(node).lines().any(|line| line.contains(&rule) && line.contains(words)).then_some(())
        });
    }
}

fn has(node: &Node, vip: &str) -> bool {
    ip(&["-n", &node.name, "-o", "address", "show", "dev", "eth0"]).contains(&format!(" {vip} "))
}

#[track_caller]
fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("ip starts");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "ip {}: {errors}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Every change of addresses in a node's namespace, from now on.
struct Monitor(Child);

impl Monitor {
    fn start(node: &Node, file: &Path) -> Monitor {
        let out = std::fs::File::create(file).expect("a file");
        let child = Network::command(node, Path::new("ip"))
            .args(["-o", "monitor", "address"])
            .stdin(Stdio::null())
            .stdout(out)
            .spawn()
            .expect("ip monitor starts");
        Monitor(child)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_moves_when_the_primary_is_cut_off_and_when_all_its_processes_are_killed() {
    if !sandbox::is_inside_for(
        "virtual_ip::it_moves_when_the_primary_is_cut_off_and_when_all_its_processes_are_killed",
    ) {
        return;
    }
    let mut lab = Lab::start(V4);
    let first = lab.primary();
    lab.wait_for_holder(&first.name);
    lab.write_through(&first.name);
    lab.wait_for_neighbour(&first.name);

    // The client still reaches it; its peers do not.
    let place = |node: &Node| lab.cluster.nodes().iter().position(|other| other.name == node.name).unwrap();
    let others = lab.cluster.nodes().iter().filter(|node| node.name != first.name);
    let cuts = others.flat_map(|other| {
        [Cut::all(first.host.clone(), place(other)), Cut::all(other.host.clone(), place(&first))]
    });
    lab.network.apply(&cuts.collect::<Vec<_>>()).expect("cuts");
    let second = lab.wait_for_holder_other_than(&first, false);
    lab.wait_for_neighbour(&second);
    lab.write_through(&second);
    lab.network.apply(&[]).expect("no cuts");

    // Agent, fencer and server at once: nobody is left to take the address away but the kernel.
    let second = lab.primary();
    lab.wait_for_holder(&second.name);
    lab.cluster.kill_node(&second.name);
    let third = lab.wait_for_holder_other_than(&second, true);
    lab.wait_for_neighbour(&third);
    lab.write_through(&third);

    // Left over for good, as by an agent that was alone.
    ip(&["-n", &second.name, "address", "add", lab.vip, "dev", "eth0"]);
    lab.cluster.start_agent(&second.name);
    lab.wait_for_holder(&third);
    lab.wait_for_event(&second, "vip.remove", lab.vip);
    assert_eq!(lab.primary().name, third);

    // A machine that is none of the cluster's, with the same address.
    let third = lab.cluster.node(&third).clone();
    ip(&["address", "add", &format!("{}/32", lab.address()), "dev", "hub"]);
    lab.wait_for_event(&third, "vip.conflict", "says that it has it too");
}

#[test]
fn it_stays_through_a_relaunch() {
    if !sandbox::is_inside_for("virtual_ip::it_stays_through_a_relaunch") {
        return;
    }
    // A lease that outlasts the change of processes on a machine that has other things to do.
    let lab = Lab::start_with(V4, "20s");
    let first = lab.primary();
    lab.wait_for_holder(&first.name);
    let session = lab.connect().expect("the address answers");

    let changes = first.dir.join("address-changes");
    let monitor = Monitor::start(&first, &changes);
    let seen = || std::fs::read_to_string(&changes).unwrap();
    wait_for("the monitor to see the address prolonged", TIMEOUT, || seen().contains(lab.vip).then_some(()));
    let agent = first.agent_pid().expect("its agent");
    processes::signal(agent, Signal::USR2);
    wait_for("another process to have taken over", TIMEOUT, || first.agent_pid().filter(|pid| *pid != agent));
    let before = seen().lines().count();
    wait_for("the new process to prolong the address", TIMEOUT, || {
        (seen().lines().count() > before + 2).then_some(())
    });
    assert!(!seen().contains("Deleted"), "{}\n{}", seen(), lab.events(&first));
    drop(monitor);
    lab.runtime.block_on(session.batch_execute("SELECT 1")).expect("the session went on");
    assert_eq!(lab.primary().name, first.name);
}

#[test]
fn it_goes_with_a_frozen_agent_and_with_a_stopped_one() {
    if !sandbox::is_inside_for("virtual_ip::it_goes_with_a_frozen_agent_and_with_a_stopped_one") {
        return;
    }
    let mut lab = Lab::start(V4);
    let first = lab.primary();
    lab.wait_for_holder(&first.name);
    let waiting = lab.waiting_session();
    let agent = first.agent_pid().expect("its agent");
    processes::signal(agent, Signal::STOP);
    let second = lab.wait_for_holder_other_than(&first, false);
    lab.write_through(&second);
    // By the reset, since its agent is frozen and the server behind it fenced.
    let told = waiting.recv_timeout(TIMEOUT).expect("who waits at the address hears that it is over");
    assert!(told.starts_with("Err"), "{told}");
    processes::signal(agent, Signal::CONT);
    let second = lab.primary();
    lab.wait_for_holder(&second.name);
    lab.wait_for_event(&first, "fencer.vip", lab.vip);

    let agent = second.agent_pid().expect("its agent");
    processes::signal(agent, Signal::TERM);
    wait_for("the address to go with its node", TIMEOUT, || (!lab.has(&second)).then_some(()));
    lab.wait_for_event(&second, "vip.remove", "this node stops");
    let third = lab.wait_for_holder_other_than(&second, false);
    lab.write_through(&third);
    lab.cluster.start_agent(&second.name);
    let third = lab.primary();
    lab.wait_for_holder(&third.name);
}

#[test]
fn one_of_ipv6_is_announced_too_and_another_takes_its_place() {
    if !sandbox::is_inside_for("virtual_ip::one_of_ipv6_is_announced_too_and_another_takes_its_place") {
        return;
    }
    let mut lab = Lab::start(V6);
    ip(&["address", "add", V6_HUB, "dev", "hub", "nodad"]);
    let first = lab.primary();
    lab.wait_for_holder(&first.name);
    lab.write_through(&first.name);
    lab.wait_for_neighbour(&first.name);

    lab.cluster.kill_agent(&first.name);
    let second = lab.wait_for_holder_other_than(&first, false);
    lab.wait_for_neighbour(&second);
    lab.write_through(&second);

    let second = lab.cluster.node(&second).clone();
    ip(&["address", "add", &format!("{}/128", lab.address()), "dev", "hub", "nodad"]);
    lab.wait_for_event(&second, "vip.conflict", "says that it has it too");

    second.edit_config(|config| {
        section(config, "vip").insert("address".into(), V6_OTHER.into());
    });
    processes::signal(second.agent_pid().expect("its agent"), Signal::USR2);
    wait_for("the relaunched node to have the address of its new configuration only", TIMEOUT, || {
        (has(&second, V6_OTHER) && !has(&second, V6)).then_some(())
    });
    lab.wait_for_event(&second, "vip.remove", V6);
}
