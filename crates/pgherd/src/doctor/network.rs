//! Whom this node reaches, and how fast: every port of every other member, tried now.
//!
//! The links between agents stand in one direction of two, so a cut of the other one shows nowhere until a node is
//! started anew. Here each node tries each other: the nodes' answers together are the matrix.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Subject;
use super::finding::Finding;

/// Resolution, connection and a byte. TCP sends a lost packet again after a second.
const REACH_DEADLINE: Duration = Duration::from_secs(2);

/// Of PostgreSQL's protocol: length 8, code 80877103. Answered by one byte, and nothing is logged when that is all.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Port {
    Peer,
    Postgres,
    Http,
}

impl Port {
    pub fn word(self) -> &'static str {
        match self {
            Port::Peer => "peer",
            Port::Postgres => "postgres",
            Port::Http => "http",
        }
    }
}

/// One try.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Reach {
    pub to: String,
    pub port: Port,
    /// `host:port`.
    pub address: String,
    /// Milliseconds until it was connected; `None` when it was not, and for PostgreSQL when it did not answer.
    pub ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Tries each port of each other member, all at once.
pub(super) async fn measure(subject: &Subject) -> Vec<Reach> {
    let mut tries = JoinSet::new();
    for (to, port, address) in targets(subject) {
        tries.spawn(async move {
            let begun = Instant::now();
            let result = match timeout(REACH_DEADLINE, reach(port, &address, begun)).await {
                Ok(result) => result.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {} s", REACH_DEADLINE.as_secs())),
            };
            let (ms, error) = match result {
                Ok(time) => (Some(time.as_secs_f64() * 1_000.0), None),
                Err(error) => (None, Some(error)),
            };
            Reach { to, port, address, ms, error }
        });
    }
    let mut reached = tries.join_all().await;
    reached.sort_by(|a, b| (&a.to, a.port).cmp(&(&b.to, b.port)));
    reached
}

async fn reach(port: Port, address: &str, begun: Instant) -> std::io::Result<Duration> {
    let mut stream = TcpStream::connect(address).await?;
    let connected = begun.elapsed();
    if port == Port::Postgres {
        stream.write_all(&SSL_REQUEST).await?;
        stream.read_u8().await?;
    }
    Ok(connected)
}

fn targets(subject: &Subject) -> Vec<(String, Port, String)> {
    let members = subject.view().and_then(|view| view.store.members.as_ref());
    let Some(members) = members.map(|members| &members.value.nodes) else { return Vec::new() };
    let mut targets = Vec::new();
    for (name, member) in members.iter().filter(|(name, _)| name.0 != subject.config.node.name) {
        targets.push((name.0.clone(), Port::Peer, member.peer.clone()));
        targets.extend(member.postgres.clone().map(|address| (name.0.clone(), Port::Postgres, address)));
        let doors = subject.news.doors_of(&name.0);
        targets.extend(doors.map(|doors| (name.0.clone(), Port::Http, doors.http)));
    }
    targets
}

pub(super) fn judge(subject: &Subject, reached: &[Reach]) -> Vec<Finding> {
    let connected = subject.link.connected();
    let mut findings: Vec<Finding> = reached.iter().filter_map(judge_one).collect();
    let peers = reached.iter().filter(|reach| reach.port == Port::Peer);
    findings.extend(peers.filter(|reach| !connected.contains(&reach.to)).map(|reach| {
        Finding::error(
            format!("there is no peer link with {}", reach.to),
            "without it the two count as lost to each other: no heartbeats, no promises, no store",
            format!("see why in the logs of both nodes, and: nc -vz {}", reach.address.replace(':', " ")),
        )
    }));
    let slowest = reached.iter().filter_map(|reach| reach.ms).fold(0.0, f64::max);
    let count = reached.iter().filter(|reach| reach.ms.is_some()).count();
    if count > 0 {
        findings.push(Finding::ok(format!(
            "{count} ports of other nodes answer, the slowest in {slowest:.1} ms"
        )));
    }
    findings
}

fn judge_one(reach: &Reach) -> Option<Finding> {
    let Reach { to, port, address, error, .. } = reach;
    let error = error.as_ref()?;
    let what = format!("the {} port of {to} is not reached from here ({address}): {error}", port.word());
    let next = format!(
        "is {to} up (pgherd status)? may this machine get there (firewall, routes)? nc -vz {}",
        address.replace(':', " ")
    );
    Some(match port {
        Port::Peer => Finding::error(what, "an agent that is cut off neither votes nor is heard", next),
        Port::Postgres => Finding::error(
            what,
            "WAL cannot be streamed and sessions cannot be carried from here: this node cannot follow, copy or rewind from it",
            next,
        ),
        Port::Http => Finding::warning(
            what,
            "a dashboard, a load balancer or a command on this machine does not see that node",
            "let [http] listen on an address that others reach, and open the port between the nodes",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Mark;
    use super::*;

    #[test]
    fn what_is_not_reached_matters_by_its_port() {
        let reach = |port, error: Option<&str>| Reach {
            to: "n2".into(),
            port,
            address: "h:1".into(),
            ms: error.is_none().then_some(0.1),
            error: error.map(str::to_owned),
        };
        assert_eq!(judge_one(&reach(Port::Peer, None)), None);
        for (port, mark) in
            [(Port::Peer, Mark::Error), (Port::Postgres, Mark::Error), (Port::Http, Mark::Warning)]
        {
            let finding = judge_one(&reach(port, Some("refused"))).unwrap();
            assert_eq!(finding.mark, mark);
            assert!(
                finding.what.contains(port.word()) && finding.what.contains("refused"),
                "{}",
                finding.what
            );
        }
    }

    #[tokio::test]
    async fn a_port_without_postgresql_behind_it_is_no_postgresql() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let silent = async {
            let (stream, _) = listener.accept().await.unwrap();
            drop(stream);
        };
        let (reached, ()) = tokio::join!(reach(Port::Postgres, &address, Instant::now()), silent);
        assert!(reached.is_err());
    }
}
