//! From what sources and flags call the nodes to `[peers]`, and what is missing for it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::plan::{Found, Given, Plan};
use super::report::Missing;
use super::{Answers, Format};
use crate::config::{self, NodeKind};

/// A table of `[peers]`.
pub struct PeerTable {
    pub name: String,
    pub peer: String,
    pub postgres: Option<String>,
    pub kind: NodeKind,
    pub from: String,
}

/// A node that may lack a name yet.
struct Node {
    name: Option<String>,
    called: String,
    host: String,
    port: Option<u16>,
    from: String,
}

/// Decides who is who, writes the settings that hang on it, and lists what nobody has said.
pub fn settle(
    plan: &mut Plan,
    answers: &Answers,
    formats: &BTreeSet<Format>,
) -> (Vec<PeerTable>, Vec<Missing>) {
    let mut missing = Vec::new();
    let mut nodes = gather(plan, answers);
    own_name(plan, &mut nodes);
    if !plan.settings.contains_key("cluster") {
        let why = "the cluster has no name that pgherd can have in these files";
        missing.push(lacks("cluster", why, "--cluster NAME"));
    }
    match plan.settings.get("node.name").map(|given| given.text.clone()) {
        None => missing.push(lacks("node.name", "which of the nodes this file is for", "--name NAME")),
        Some(name) => {
            let dir = answers.node_dir.replace("NAME", &name);
            plan.choose("node.dir", &dir, "as `pgherd config init`; --node-dir names another place");
            if !nodes.iter().any(|node| node.name.as_ref() == Some(&name)) {
                let why = "the host under which the other nodes reach this one";
                missing.push(lacks(&format!("peers.{name}"), why, &format!("--peer {name}=HOST")));
            }
        }
    }
    for (at, node) in nodes.iter().enumerate().filter(|(_, node)| node.name.is_none()) {
        let why = format!(
            "{} calls {} {:?}, and a name here has a-z, 0-9, _ and - and begins with a letter",
            node.from, node.host, node.called
        );
        let port = node.port.map(|port| format!(":{port}")).unwrap_or_default();
        let give = format!("--peer n{}={}{port}", at + 1, node.host);
        missing.push(lacks("[peers]: a node without a name", &why, &give));
    }
    if nodes.len() + answers.witnesses.len() < 2 && !answers.alone {
        let give = "--peer NAME=HOST for each of them (--witness NAME=HOST for one that only votes), or --alone if there is none";
        missing.push(lacks("[peers]: the other nodes", "no file names another node than this one", give));
    }
    for name in plan.slots.clone() {
        let key = format!("slots.{name}.owner");
        if !plan.settings.contains_key(&key) {
            let why = "whom to ask when the slot holds WAL";
            missing.push(lacks(&key, why, &format!("--set '{key}=TEAM: PURPOSE'")));
        }
    }
    if plan.settings.contains_key("standby_cluster.hosts")
        && !plan.settings.contains_key("standby_cluster.credentials")
    {
        let why = "the passwords of the roles pgherd_replication and pgherd_rewind at the origin (docs/concepts/standby_cluster.md)";
        missing.push(lacks(
            "standby_cluster.credentials",
            why,
            "--set standby_cluster.credentials=/PATH/credentials.json",
        ));
    }
    listening(plan, &nodes, answers, formats);
    let peers = tables(plan, &nodes, answers);
    admission(plan, &peers);
    (peers, missing)
}

fn lacks(setting: &str, why: &str, give: &str) -> Missing {
    Missing { setting: setting.to_owned(), why: why.to_owned(), give: give.to_owned() }
}

fn gather(plan: &Plan, answers: &Answers) -> Vec<Node> {
    let mut nodes: Vec<Node> = Vec::new();
    let own = plan.own.iter().map(|(host, port)| Found {
        called: String::new(),
        host: host.clone(),
        port: Some(*port),
        from: plan.own_from.clone(),
    });
    for found in own.chain(plan.nodes.iter().cloned()) {
        let own = plan.own.as_ref().map(|(host, _)| host);
        // A pooler's or balancer's own machine, seen from there.
        let host = match own {
            Some(own) if is_loopback(&found.host) && !is_loopback(own) => own.clone(),
            _ => found.host,
        };
        let name = config::check_name(&found.called).is_ok().then(|| found.called.clone());
        let same = |node: &&mut Node| {
            node.host == host && (!is_loopback(&host) || node.port == found.port || found.port.is_none())
        };
        match nodes.iter_mut().find(same) {
            Some(node) => {
                node.port = node.port.or(found.port);
                if node.name.is_none() && !found.called.is_empty() {
                    (node.name, node.called, node.from) = (name, found.called, found.from);
                }
            }
            None => nodes.push(Node { name, called: found.called, host, port: found.port, from: found.from }),
        }
    }
    for member in &answers.peers {
        let by_host = nodes.iter().position(|node| {
            node.host == member.host
                && (member.port.is_none() || node.port.is_none() || node.port == member.port)
        });
        let at = by_host.or_else(|| nodes.iter().position(|node| node.name.as_ref() == Some(&member.name)));
        let at = at.unwrap_or_else(|| {
            nodes.push(Node {
                name: None,
                called: String::new(),
                host: String::new(),
                port: None,
                from: String::new(),
            });
            nodes.len() - 1
        });
        let node = &mut nodes[at];
        node.name = Some(member.name.clone());
        node.host.clone_from(&member.host);
        node.port = member.port.or(node.port);
        node.from = "--peer".to_owned();
    }
    nodes
}

/// The node at our own address has our name; where only the others call it something, that is its name.
fn own_name(plan: &mut Plan, nodes: &mut [Node]) {
    let own = plan.own.as_ref().map(|(host, _)| host.clone());
    let name = plan.settings.get("node.name").map(|given| given.text.clone());
    let at = own.and_then(|host| nodes.iter().position(|node| node.host == host));
    match (at, name) {
        (Some(at), Some(name)) => {
            let taken = nodes.iter().position(|node| node.name.as_ref() == Some(&name));
            if taken.is_none_or(|taken| taken == at) {
                nodes[at].name = Some(name);
            }
        }
        (Some(at), None) => {
            if let Some(name) = nodes[at].name.clone() {
                let why = format!("{} calls this node's address so", nodes[at].from);
                plan.choose("node.name", &name, &why);
            }
        }
        (None, _) => {}
    }
}

/// Addresses to listen on, where several nodes have to reach each other and no line says how.
fn listening(plan: &mut Plan, nodes: &[Node], answers: &Answers, formats: &BTreeSet<Format>) {
    if nodes.len() + answers.witnesses.len() < 2 {
        return;
    }
    let own = plan.settings.get("node.name").map(|given| given.text.clone());
    let own = nodes.iter().find(|node| node.name == own).map(|node| node.host.clone()).unwrap_or_default();
    let everywhere = if own.contains(':') { "::" } else { "0.0.0.0" };
    plan.choose("postgres.listen", "*", "the other nodes have to reach it, as with `pgherd config init`");
    plan.choose(
        "peer.listen",
        everywhere,
        "the other agents have to reach it; its port is pgherd's own, 7432 unless [peer] port says otherwise",
    );
    plan.choose("proxy.listen", everywhere, "clients come by the proxy of any node");
    if !formats.contains(&Format::Patroni) {
        plan.note(
            "Whether PostgreSQL replicates synchronously stands in none of these files: pgherd waits for one standby ([sync] standbys = 1) \
             unless you set 0, which is asynchronous and may lose the last commits at a takeover.",
        );
        plan.note(
            "PostgreSQL's own parameters stand in none of these files: copy what you have set in postgresql.conf to [postgres.parameters], \
             and pg_hba.conf to [postgres] hba.",
        );
    }
}

fn tables(plan: &mut Plan, nodes: &[Node], answers: &Answers) -> Vec<PeerTable> {
    let port_of = |key: &str, default: u16| {
        plan.settings.get(key).and_then(|given| given.text.parse().ok()).unwrap_or(default)
    };
    let (postgres, peer) = (port_of("postgres.port", 5432), port_of("peer.port", 7432));
    let own = plan.settings.get("node.name").map(|given| given.text.clone());
    let own = nodes.iter().find(|node| node.name.is_some() && node.name == own);
    // What is known of our own port from outside is what our server has to listen on.
    if let Some(port) = own.and_then(|node| node.port).filter(|port| *port != 5432) {
        let from = own.map(|node| node.from.clone()).unwrap_or_default();
        plan.settings.entry("postgres.port".to_owned()).or_insert(Given { text: port.to_string(), from });
    }
    let full = nodes.iter().filter_map(|node| {
        Some(PeerTable {
            name: node.name.clone()?,
            peer: config::join_address(&node.host, peer),
            postgres: Some(config::join_address(&node.host, node.port.unwrap_or(postgres))),
            kind: NodeKind::Full,
            from: node.from.clone(),
        })
    });
    let witnesses = answers.witnesses.iter().map(|member| PeerTable {
        name: member.name.clone(),
        peer: config::join_address(&member.host, peer),
        postgres: None,
        kind: NodeKind::Witness,
        from: "--witness".to_owned(),
    });
    let mut peers: Vec<PeerTable> = full.chain(witnesses).collect();
    peers.sort_by(|a, b| a.name.cmp(&b.name));
    peers
}

/// Clients come by the proxies of all nodes, so PostgreSQL has to admit these.
fn admission(plan: &mut Plan, peers: &[PeerTable]) {
    let admits = |host: &str| plan.hba.iter().any(|line| covers(&line.text, host));
    let hosts = peers.iter().filter_map(|peer| Some(config::split_address(&peer.peer).ok()?.0));
    let hosts: BTreeSet<String> = hosts.filter(|host| !admits(host) && !is_loopback(host)).collect();
    if hosts.is_empty() {
        return;
    }
    let line = |host: &String| match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => format!("host all all {host}/32 scram-sha-256"),
        Ok(IpAddr::V6(_)) => format!("host all all {host}/128 scram-sha-256"),
        Err(_) => format!("host all all {host} scram-sha-256"),
    };
    let lines: Vec<String> = hosts.iter().map(|host| config::quote(&line(host))).collect();
    plan.note(format!(
        "PostgreSQL sees the proxies' addresses, not the clients'. No line of [postgres] hba was found that admits all users to all databases from {}; \
         unless others do, add to it: {}. Rules about the clients' own addresses go to [proxy] hba.",
        hosts.iter().map(String::as_str).collect::<Vec<_>>().join(", "),
        lines.join(", ")
    ));
}

/// Whether a line of pg_hba.conf admits everybody from `host` to every database.
fn covers(line: &str, host: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [kind, "all", "all", address, rest @ ..] = words.as_slice() else { return false };
    if !kind.starts_with("host") || rest.contains(&"reject") {
        return false;
    }
    if *address == "all" || address == &host {
        return true;
    }
    let (Some((net, bits)), Ok(ip)) = (address.split_once('/'), host.parse::<IpAddr>()) else { return false };
    let (Ok(net), Ok(bits)) = (net.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    match (net, ip) {
        (IpAddr::V4(net), IpAddr::V4(ip)) if bits <= 32 => {
            (u64::from(net.to_bits()) ^ u64::from(ip.to_bits())) >> (32 - bits) == 0
        }
        (IpAddr::V6(net), IpAddr::V6(ip)) if bits <= 128 => {
            (net.to_bits() ^ ip.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0
        }
        _ => false,
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_admit_a_proxy() {
        assert!(covers("host all all 10.0.0.0/8 md5", "10.1.2.3"));
        assert!(covers("hostssl all all all scram-sha-256", "10.1.2.3"));
        assert!(
            covers("host all all ::/0 md5", "fd00::1") && covers("host all all 0.0.0.0/0 md5", "10.0.0.1")
        );
        assert!(!covers("host app all 10.0.0.0/8 md5", "10.1.2.3"));
        assert!(!covers("host all all 10.0.0.0/24 md5", "10.1.2.3"));
        assert!(
            !covers("host all all 10.0.0.0/8 reject", "10.1.2.3")
                && !covers("local all all peer", "10.0.0.1")
        );
    }
}
