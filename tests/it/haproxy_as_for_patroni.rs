//! An HAProxy that was set up for Patroni, by Patroni's own documentation, goes on with pgherd: it finds the primary and the
//! replicas, and finds them again after each change.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tests::{Cluster, Ledger, page_at, value_at, wait_for};

const HOST: &str = "127.0.0.1";
/// `inter 3s fall 3`, and as long again on a machine that is busy; a takeover is over long before.
const NOTICED: Duration = Duration::from_secs(60);
/// Patroni's clients wait for the end of a switchover.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Patroni's `haproxy.cfg`, `extras/confd/templates/haproxy.tmpl`: but for addresses and names nothing is ours.
fn configuration(cluster: &Cluster, ports: &Doors) -> String {
    let servers: String = cluster
        .nodes()
        .iter()
        .map(|node| {
            let (name, postgres, http) = (&node.name, node.postgres, node.http);
            format!("    server {name} {HOST}:{postgres} maxconn 100 check port {http}\n")
        })
        .collect();
    let listen = |name: &str, port: u16, path: &str| {
        format!(
            "
listen {name}
    bind {HOST}:{port}
    option httpchk OPTIONS {path}
    http-check expect status 200
    default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
{servers}"
        )
    };
    let head = format!(
        "global
    maxconn 100

defaults
    log global
    mode tcp
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m
    timeout check 5s

listen stats
    mode http
    bind {HOST}:{}
    stats enable
    stats uri /
",
        ports.stats
    );
    let written = [listen("primary", ports.primary, "/primary"), listen("master", ports.master, "/master")];
    head + &written.concat() + &listen("replicas", ports.replicas, "/replica")
}

struct Doors {
    primary: u16,
    /// As older documentation has it.
    master: u16,
    replicas: u16,
    stats: u16,
}

/// A running HAProxy.
struct Haproxy {
    child: Child,
    doors: Doors,
    _folder: TempDir,
}

impl Haproxy {
    fn start(cluster: &Cluster) -> Haproxy {
        // The ports of a fourth node, which does not come.
        let free = cluster.nodes()[0].postgres + 30;
        let doors = Doors { primary: free, master: free + 1, replicas: free + 2, stats: free + 3 };
        let folder = tests::cluster::folder();
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, configuration(cluster, &doors)).unwrap();
        let (program, libraries) = program();
        let mut command = Command::new(program);
        command.arg("-db").arg("-f").arg(file).env("LD_LIBRARY_PATH", libraries).stdin(Stdio::null());
        let child = command.spawn().expect("HAProxy starts");
        Haproxy { child, doors, _folder: folder }
    }

    /// The servers that HAProxy sends sessions of this kind to; `None` while it does not say.
    fn up(&self, listener: &str) -> Option<BTreeSet<String>> {
        let page = page_at(HOST, self.doors.stats, "/;csv")?;
        let mut lines = page.lines();
        let columns: Vec<&str> = lines.next()?.trim_start_matches("# ").split(',').collect();
        let status = columns.iter().position(|column| *column == "status")?;
        let rows = lines.map(|line| line.split(',').collect::<Vec<&str>>());
        let of_listener = rows.filter(|row| row[0] == listener && !["FRONTEND", "BACKEND"].contains(&row[1]));
        Some(of_listener.filter(|row| row[status].starts_with("UP")).map(|row| row[1].to_owned()).collect())
    }

    #[track_caller]
    fn wait_until(&self, primary: &str, replicas: &[String]) {
        let primary = BTreeSet::from([primary.to_owned()]);
        let replicas: BTreeSet<String> = replicas.iter().cloned().collect();
        wait_for(&format!("{primary:?} to write to and {replicas:?} to read from"), NOTICED, || {
            let writes =
                ["primary", "master"].iter().all(|listener| self.up(listener).as_ref() == Some(&primary));
            (writes && self.up("replicas").as_ref() == Some(&replicas)).then_some(())
        });
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The machine's own, or the one that `cargo xtask setup` has unpacked, and where its libraries are.
fn program() -> (PathBuf, PathBuf) {
    let own = std::env::current_exe().expect("the path of this test");
    let unpacked = own.ancestors().map(|dir| dir.join("haproxy/root")).find(|root| root.is_dir());
    let root = unpacked.unwrap_or_else(|| PathBuf::from("/"));
    let program = root.join("usr/sbin/haproxy");
    assert!(program.is_file(), "there is no {}; cargo xtask setup", program.display());
    (program, root.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH)))
}

fn others(cluster: &Cluster, but: &[&str]) -> Vec<String> {
    cluster.names().into_iter().filter(|name| !but.contains(&name.as_str())).collect()
}

fn document(cluster: &Cluster, node: &str, path: &str) -> Value {
    let page =
        page_at(HOST, cluster.node(node).http, path).unwrap_or_else(|| panic!("{node} answers {path}"));
    serde_json::from_str(&page).unwrap_or_else(|error| panic!("{path}: {error}: {page}"))
}

/// As Patroni's documentation does it: `curl -s http://…/switchover -XPOST -d '{…}'`, which names no type of the body.
fn post(cluster: &Cluster, node: &str, path: &str, body: &str) -> (u16, String) {
    let config =
        ureq::Agent::config_builder().timeout_global(Some(CHANGE_TIMEOUT)).http_status_as_error(false);
    let agent: ureq::Agent = config.max_idle_connections(0).build().into();
    let url = format!("http://{HOST}:{}{path}", cluster.node(node).http);
    let request = agent.post(url).header("Content-Type", "application/x-www-form-urlencoded");
    let mut answer = request.send(body).expect("an answer");
    (answer.status().as_u16(), answer.body_mut().read_to_string().expect("its text"))
}

/// Where a session through this door ends up.
fn served_by(port: u16) -> Option<String> {
    value_at(port, "SELECT inet_server_port() || ' ' || pg_is_in_recovery()").ok()
}

#[test]
fn haproxy_follows_the_primary_and_the_replicas() {
    let mut cluster = Cluster::start_with_room(3, 4);
    let old = cluster.wait_until_whole().primary.unwrap();
    let haproxy = Haproxy::start(&cluster);
    haproxy.wait_until(&old, &others(&cluster, &[&old]));
    let ledger = Ledger::start_through(vec![haproxy.doors.primary]);
    let port = cluster.node(&old).postgres;
    assert_eq!(served_by(haproxy.doors.master), Some(format!("{port} false")));
    assert!(served_by(haproxy.doors.replicas).unwrap().ends_with("true"));

    cluster.kill_node(&old);
    let new = cluster.wait_for_primary_other_than(&old, NOTICED);
    let left = others(&cluster, &[&old, &new]);
    haproxy.wait_until(&new, &left);
    ledger.wait_until_flowing();
    let port = |name: &str, cluster: &Cluster| cluster.node(name).postgres;
    assert_eq!(served_by(haproxy.doors.primary), Some(format!("{} false", port(&new, &cluster))));
    assert_eq!(served_by(haproxy.doors.replicas), Some(format!("{} true", port(&left[0], &cluster))));

    cluster.start_agent(&old);
    cluster.wait_until_whole();
    haproxy.wait_until(&new, &others(&cluster, &[&new]));

    let to = &left[0];
    let body = format!("{{\"leader\":\"{new}\",\"candidate\":\"{to}\"}}");
    let told = post(&cluster, &new, "/switchover", &body);
    assert_eq!(told, (200, format!("Successfully switched over to \"{to}\"")));
    assert_eq!(post(&cluster, &new, "/switchover", &body), (412, "leader name does not match".to_owned()));
    haproxy.wait_until(to, &others(&cluster, &[to]));
    ledger.wait_until_flowing();
    documents_are_of_real_servers(&cluster, to);
    ledger.finish_and_check(&cluster);
}

/// What Patroni's clients read of it.
fn documents_are_of_real_servers(cluster: &Cluster, primary: &str) {
    let node = document(cluster, primary, "/patroni");
    assert_eq!((&node["role"], &node["state"]), (&"primary".into(), &"running".into()), "{node}");
    let started =
        value_at(cluster.node(primary).postgres, "SET TIME ZONE 0; SELECT pg_postmaster_start_time()")
            .unwrap();
    let said = node["postmaster_start_time"].as_str().unwrap();
    assert!(said.starts_with(started.trim_end_matches("+00").trim_end_matches('0')), "{said}, not {started}");
    let version = value_at(cluster.node(primary).postgres, "SHOW server_version_num").unwrap();
    assert_eq!(node["server_version"].to_string(), version);
    let system =
        value_at(cluster.node(primary).postgres, "SELECT system_identifier FROM pg_control_system()")
            .unwrap();
    assert_eq!(node["database_system_identifier"], *system);
    assert!(
        node["xlog"]["location"].as_u64().unwrap() > 0 && node["dcs_last_seen"].as_u64().unwrap() > 0,
        "{node}"
    );
    let streams = |row: &Value| row["state"] == "streaming" && row["sync_state"] == "quorum";
    assert_eq!(
        node["replication"].as_array().unwrap().iter().filter(|row| streams(row)).count(),
        2,
        "{node}"
    );

    let replica = others(cluster, &[primary]).remove(0);
    let replica = document(cluster, &replica, "/replica?lag=1MB&replication_state=streaming");
    assert_eq!(
        (&replica["role"], &replica["quorum_standby"]),
        (&"replica".into(), &true.into()),
        "{replica}"
    );
    let xlog = &replica["xlog"];
    assert!(xlog["received_location"].is_u64() && xlog["replayed_location"].is_u64(), "{replica}");
    assert!(xlog["replayed_timestamp"].is_string() && xlog["paused"] == false, "{replica}");

    let members = document(cluster, primary, "/cluster");
    for member in members["members"].as_array().unwrap() {
        let node = cluster.node(member["name"].as_str().unwrap());
        let (role, state) =
            if node.name == primary { ("leader", "running") } else { ("quorum_standby", "streaming") };
        assert_eq!((&member["role"], &member["state"]), (&role.into(), &state.into()), "{members}");
        assert_eq!(member["port"], node.postgres);
        assert_eq!(member["api_url"], format!("http://{HOST}:{}/patroni", node.http));
        assert!(node.name == primary || member["replay_lag"].is_u64(), "{members}");
    }
    let history = document(cluster, primary, "/history");
    let last = history.as_array().unwrap().last().unwrap();
    assert_eq!(last[4], *primary, "{history}");
    assert!(last[1].as_u64().unwrap() > 0 && last[3].as_str().unwrap().starts_with("20"), "{history}");

    let metrics = page_at(HOST, cluster.node(primary).http, "/metrics").unwrap();
    let sample = |name: &str| {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(&format!("{name}{{")))
            .unwrap_or_else(|| panic!("{name}"));
        line.rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(
        (sample("patroni_primary"), sample("patroni_postgres_server_version")),
        ("1".to_owned(), version)
    );
    assert!(metrics.contains("pgherd_proxy_sessions "), "the proxy's are there, too");
}
