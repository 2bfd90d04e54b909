//! The doctor: a node examines itself, and says of each thing what was found, why it matters and what to type.
//!
//! ```text
//!  GET /api/v1/doctor ──► Examiner ──► Subject: view, configuration, one look at PostgreSQL
//!                                         ├─► each check of CHECKS, all at once, each with a deadline ──► findings
//!                                         └─► every port of every other node ──► its row of the matrix
//!  pgherd doctor ──► every node's report ──► what only shows between them (BETWEEN)
//! ```
//!
//! Measuring and judging are apart: the judgements are pure functions of values, tested on values. What it is not: a cure; it
//! changes nothing but a small file by which it measures the disk, and no decision of the agent sees what it finds.
//! Invariants: what could not be found out is told as unknown; an examination ends within
//! [`EXAMINATION_DEADLINE`]; there is at most one at a time on a node, and whoever asks meanwhile gets the next one's answer.

mod between;
mod certificates;
mod clocks;
mod cluster;
mod disks;
mod finding;
mod machine;
mod network;
mod permissions;
mod server;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use brain::View;
use futures_util::future::{BoxFuture, join_all};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::timeout;

pub use between::{Asked, BETWEEN, Clock, between};
pub use finding::{Finding, Mark};
pub use network::{Port, Reach};

use crate::agent::{News, Panel, Seen, Worker};
use crate::cluster_config::Applier;
use crate::config::{Config, split_address};
use crate::peer::Link;
use crate::postgres::Examination;
use crate::store::SeatReport;

/// Each check is over in a fraction of a second; one that is not waits for something that hangs.
const CHECK_DEADLINE: Duration = Duration::from_secs(5);

/// The look at PostgreSQL, then the checks, for whoever came while another examination was under way twice.
pub const EXAMINATION_DEADLINE: Duration = Duration::from_secs(2 * (5 + 5));

/// A report so young is given again: whoever asks in a loop costs no more than this.
const FRESH: Duration = Duration::from_secs(1);

/// How a check comes to its findings.
enum How {
    /// By files, which may hang: on a thread of its own.
    Look(fn(&Subject) -> Vec<Finding>),
    /// By waiting.
    Ask(fn(Arc<Subject>) -> BoxFuture<'static, Vec<Finding>>),
}

/// One row of the table of checks.
pub struct Check {
    pub id: &'static str,
    /// What is looked at, for people.
    pub doc: &'static str,
    how: How,
}

const fn look(id: &'static str, doc: &'static str, look: fn(&Subject) -> Vec<Finding>) -> Check {
    Check { id, doc, how: How::Look(look) }
}

/// What every node looks at. The matrix of the network is measured beside them, by [`NETWORK`].
pub const CHECKS: &[Check] = &[
    look("memory", "vm.overcommit_memory, or the postmaster out of the OOM killer's reach", machine::memory),
    look("huge_pages", "transparent huge pages, which PostgreSQL's manual discourages", machine::huge_pages),
    look("swap", "pgherd itself is not swapped out", machine::swap),
    look("backlog", "net.core.somaxconn lets the ports hold their backlog", machine::backlog),
    look("files", "open files for [proxy] sessions_max", machine::files),
    Check {
        id: "clock",
        doc: "the wall clock is synchronized with a time server",
        how: How::Ask(clocks::synchronized),
    },
    Check {
        id: "drift",
        doc: "the clock of leases runs within failover.drift_percent, measured",
        how: How::Ask(clocks::rate),
    },
    look("space", "room on each disk of the node", disks::space),
    look("fsync", "how long an fsync takes on each disk, measured", disks::sync),
    look("secrets", "keys, passwords and users' files are closed to others", permissions::secrets),
    look(
        "folders",
        "the data directory's mode and owner, ways and sockets open to who needs them",
        permissions::folders,
    ),
    look("certificates", "days left: peer link, authority, HTTP, proxy", certificates::ages),
    look("postgres", "PostgreSQL answers", server::answers),
    Check {
        id: "programs",
        doc: "PostgreSQL runs as installed; pg_rewind and pg_basebackup are there, of the same major",
        how: How::Ask(server::versions),
    },
    look("durability", "fsync, full_page_writes, and what pg_rewind needs", server::durability),
    look("archive", "archive_mode, its command, the last failure, what waits", server::archive),
    look(
        "slots",
        "slots that are lost, or hold WAL for nobody; those that a takeover would not keep",
        server::slots,
    ),
    look("passwords", "no password is stored as MD5", server::passwords),
    look("fencer", "the fencer runs, armed on a primary that serves", cluster::fencer),
    look("watchdog", "the watchdog's device can be used, where one is asked for", cluster::watchdog),
    look("sync_set", "who must flush a commit is heard, with one to spare; votes", cluster::sync_set),
    look("store", "the store of the node votes", cluster::store),
    look(
        "configuration",
        "the cluster's configuration is applied, no setting waits for a restart",
        cluster::configuration,
    ),
    look("burdens", "a full disk, no free connection, lost writes, a way back given up", cluster::burdens),
];

/// Id of what is judged by the matrix's row.
pub const NETWORK: &str = "network";

/// What a node found.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DoctorReport {
    pub cluster: String,
    pub node: String,
    /// RFC 3339, by this node's wall clock.
    pub at: String,
    /// Of pgherd.
    pub version: String,
    /// `server_version_num` of the running PostgreSQL; `None` when it does not answer, and on a witness.
    pub postgres: Option<u32>,
    pub limits: Limits,
    /// In the order of [`CHECKS`].
    pub findings: Vec<Finding>,
    /// The node's row of the matrix.
    pub reached: Vec<Reach>,
}

/// How many connections this node's proxy may hold to the primary, and how many its PostgreSQL has for clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Limits {
    /// `max_connections` without those that are reserved; `None` when not known.
    pub connections: Option<u32>,
    /// `[proxy] pool_size`, of one user and database.
    pub pool_size: u32,
    /// `[proxy] servers_max`; 0: no bound.
    pub servers_max: u32,
}

/// What an examination begins with.
struct Subject {
    config: Config,
    /// All nodes are on this machine: a demo, or a test.
    shared: bool,
    /// `None` on a witness.
    worker: Option<Arc<Worker>>,
    applier: Arc<Applier>,
    link: Arc<Link>,
    news: Arc<News>,
    seats: Arc<SeatReport>,
    /// `None` before the agent's first decision.
    seen: Option<Arc<Seen>>,
    /// `None` on a witness; the error says why there is no answer.
    server: Option<Result<Examination, String>>,
}

impl Subject {
    fn view(&self) -> Option<&View> {
        self.seen.as_ref().map(|seen| &seen.view)
    }

    fn examination(&self) -> Option<&Examination> {
        self.server.as_ref()?.as_ref().ok()
    }
}

/// What the examiner is made of; the composition root's part.
pub struct Parts {
    pub config: Config,
    pub worker: Option<Arc<Worker>>,
    pub applier: Arc<Applier>,
    pub panel: Arc<Panel>,
    pub link: Arc<Link>,
    pub news: Arc<News>,
    pub seats: watch::Receiver<Arc<SeatReport>>,
}

/// Examines one node, once at a time.
pub struct Examiner {
    parts: Parts,
    /// For each check that looks at files: whether its last look still hangs.
    hands: BTreeMap<&'static str, Arc<Semaphore>>,
    /// The last report, and when its examination began and ended.
    last: Mutex<Option<(Instant, Instant, DoctorReport)>>,
}

impl Examiner {
    pub fn new(parts: Parts) -> Examiner {
        let hands = CHECKS.iter().map(|check| (check.id, Arc::new(Semaphore::new(1)))).collect();
        Examiner { parts, hands, last: Mutex::default() }
    }

    /// Examines the node now. Whoever comes while an examination is under way waits, and shares the one after it.
    pub async fn examine(&self) -> DoctorReport {
        let came = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((began, ended, report)) = &*last
            && (*began >= came || ended.elapsed() < FRESH)
        {
            return report.clone();
        }
        let began = Instant::now();
        let report = self.report().await;
        *last = Some((began, Instant::now(), report.clone()));
        report
    }

    async fn report(&self) -> DoctorReport {
        let subject = Arc::new(self.subject().await);
        let checks = join_all(CHECKS.iter().map(|check| self.run(check, &subject)));
        let (found, reached) = tokio::join!(checks, network::measure(&subject));
        let mut findings: Vec<Finding> = found.into_iter().flatten().collect();
        findings.extend(network::judge(&subject, &reached).into_iter().map(|finding| finding.of(NETWORK)));
        let config = &subject.config;
        DoctorReport {
            cluster: config.cluster.clone(),
            node: config.node.name.clone(),
            at: crate::clock::wall().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            postgres: subject.examination().map(|seen| seen.version),
            limits: Limits {
                connections: subject.examination().and_then(connections),
                pool_size: config.proxy.pool_size,
                servers_max: config.proxy.server_limits.total.try_into().unwrap_or(u32::MAX),
            },
            findings,
            reached,
        }
    }

    async fn subject(&self) -> Subject {
        let Parts { config, worker, applier, panel, link, news, seats } = &self.parts;
        let server = match worker {
            Some(worker) => Some(match timeout(CHECK_DEADLINE, worker.server().examine()).await {
                Ok(seen) => seen.map_err(|error| error.to_string()),
                Err(_) => Err(format!("nothing within {} s", CHECK_DEADLINE.as_secs())),
            }),
            None => None,
        };
        let local = |address: &String| split_address(address).is_ok_and(|(host, _)| is_this_machine(&host));
        let seen = panel.seen();
        let members = seen.as_ref().and_then(|seen| seen.view.store.members.as_ref());
        let shared =
            members.is_some_and(|members| members.value.nodes.values().all(|member| local(&member.peer)));
        Subject {
            config: config.clone(),
            shared,
            worker: worker.clone(),
            applier: applier.clone(),
            link: link.clone(),
            news: news.clone(),
            seats: seats.borrow().clone(),
            seen,
            server,
        }
    }

    async fn run(&self, check: &Check, subject: &Arc<Subject>) -> Vec<Finding> {
        let work = async {
            match check.how {
                How::Ask(ask) => ask(subject.clone()).await,
                How::Look(look) => {
                    // Held by the thread, not by this wait: a look that hangs is not begun again.
                    let Some(hand) =
                        self.hands.get(check.id).and_then(|hand| hand.clone().try_acquire_owned().ok())
                    else {
                        return vec![hangs("still hangs since an earlier examination")];
                    };
                    let subject = subject.clone();
                    let looked = tokio::task::spawn_blocking(move || {
                        let _hand = hand;
                        look(&subject)
                    });
                    looked.await.unwrap_or_else(|error| {
                        vec![Finding::unknown(format!("the check ended by itself: {error}"))]
                    })
                }
            }
        };
        let findings = match timeout(CHECK_DEADLINE, work).await {
            Ok(findings) => findings,
            Err(_) => vec![hangs(&format!("did not end within {} s", CHECK_DEADLINE.as_secs()))],
        };
        findings.into_iter().map(|finding| finding.of(check.id)).collect()
    }
}

fn hangs(how: &str) -> Finding {
    Finding::warning(
        format!("the check {how}"),
        "what it looks at hangs: a disk, a mount, a name server",
        "see this machine's disks and mounts (dmesg, df)",
    )
}

fn connections(seen: &Examination) -> Option<u32> {
    let number = |name: &str| seen.settings.get(name).and_then(|value| value.parse::<u32>().ok());
    let reserved = number("superuser_reserved_connections")? + number("reserved_connections").unwrap_or(0);
    Some(number("max_connections")?.saturating_sub(reserved))
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_are_unique_across_both_tables() {
        let ids: Vec<&str> = CHECKS
            .iter()
            .map(|check| check.id)
            .chain([NETWORK])
            .chain(BETWEEN.iter().map(|(id, _)| *id))
            .collect();
        assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "{ids:?}");
    }

    #[test]
    fn reserved_connections_are_not_for_clients() {
        let settings = [
            ("max_connections", "100"),
            ("superuser_reserved_connections", "3"),
            ("reserved_connections", "2"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let seen = Examination { settings: settings.into_iter().collect(), ..Examination::default() };
        assert_eq!(connections(&seen), Some(95));
        assert_eq!(connections(&Examination::default()), None);
    }
}
