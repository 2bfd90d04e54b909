//! What shows only when all nodes' reports are laid side by side: who gave none, versions, clocks, one-way cuts, and the
//! connections of all proxies together. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::finding::Finding;
use super::server::version_text;
use super::{DoctorReport, Port, Reach};

/// What is judged, as rows of [`super::CHECKS`].
pub const BETWEEN: &[(&str, &str)] = &[
    ("examined", "every node has given its report"),
    ("versions", "the same pgherd and the same PostgreSQL everywhere"),
    ("clocks", "how far the nodes' wall clocks are apart, measured from here"),
    ("one_way", "no port that is reached in one direction alone"),
    ("connections", "all proxies' connections together fit max_connections"),
];

/// Of wall clocks. People who read events of several nodes notice a second.
const APART_WARNING_US: i64 = 1_000_000;
/// A minute is a clock that nobody keeps.
const APART_ERROR_US: i64 = 60_000_000;

/// A node that was asked, and its report or why there is none.
pub struct Asked {
    pub node: String,
    pub report: Result<DoctorReport, String>,
}

/// A node's wall clock beside that of whoever asked, in microseconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clock {
    pub node: String,
    /// Positive: it is ahead. True to within `uncertainty_us`: half of the fastest round trip.
    pub ahead_us: i64,
    pub uncertainty_us: i64,
}

/// The findings of [`BETWEEN`], in its order.
pub fn between(asked: &[Asked], clocks: &[Clock]) -> Vec<Finding> {
    let reports: Vec<&DoctorReport> = asked.iter().filter_map(|asked| asked.report.as_ref().ok()).collect();
    let of =
        |id: &'static str, findings: Vec<Finding>| findings.into_iter().map(move |finding| finding.of(id));
    let mut findings: Vec<Finding> = of("examined", examined(asked)).collect();
    findings.extend(of("versions", versions(&reports)));
    findings.extend(of("clocks", apart(clocks).into_iter().collect()));
    findings.extend(of("one_way", one_way(&reports)));
    findings.extend(of("connections", connections(&reports).into_iter().collect()));
    findings
}

fn examined(asked: &[Asked]) -> Vec<Finding> {
    let silent: Vec<Finding> = asked
        .iter()
        .filter_map(|Asked { node, report }| {
            Some(Finding::error(
                format!("{node} was not examined: {}", report.as_ref().err()?),
                "nothing is known of it; what is wrong there shows when it is needed",
                format!("start it, or ask it on its own machine: pgherd doctor --node {node} --config FILE"),
            ))
        })
        .collect();
    if silent.is_empty() { vec![Finding::ok(format!("{} nodes were examined", asked.len()))] } else { silent }
}

/// Nodes by what they have, as text: `16.4 on n1, n3; 16.3 on n2`.
fn who_has<T: Ord>(values: &BTreeMap<T, Vec<&str>>, show: impl Fn(&T) -> String) -> String {
    let one = |(value, nodes): (&T, &Vec<&str>)| format!("{} on {}", show(value), nodes.join(", "));
    values.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn versions(reports: &[&DoctorReport]) -> Vec<Finding> {
    let (mut own, mut servers) = (BTreeMap::<String, Vec<&str>>::new(), BTreeMap::<u32, Vec<&str>>::new());
    for report in reports {
        own.entry(report.version.clone()).or_default().push(&report.node);
        if let Some(version) = report.postgres {
            servers.entry(version).or_default().push(&report.node);
        }
    }
    let mut findings = Vec::new();
    let what = format!("pgherd {}", who_has(&own, Clone::clone));
    findings.push(match own.len() {
        0 | 1 => Finding::ok(what),
        _ => Finding::warning(
            what,
            "mixed versions are for the time of an upgrade only",
            "install the newest everywhere; pgherd relaunch puts it in force without ending a session",
        ),
    });
    let majors: BTreeSet<u32> = servers.keys().map(|version| version / 10_000).collect();
    let what = format!("PostgreSQL {}", who_has(&servers, |version| version_text(*version)));
    match (majors.len(), servers.len()) {
        (_, 0) => {}
        (_, 1) => findings.push(Finding::ok(what)),
        (1, _) => findings.push(Finding::warning(
            what,
            "the nodes have different bugs; a takeover changes which",
            "install the newest minor everywhere, then: pgherd restart NODE, replicas first",
        )),
        _ => findings.push(Finding::error(
            what,
            "WAL of one major means nothing to another: such a node cannot follow",
            "docs/concepts/majors.md",
        )),
    }
    findings
}

/// The pair that is certainly furthest apart.
fn apart(clocks: &[Clock]) -> Option<Finding> {
    let pairs = clocks
        .iter()
        .enumerate()
        .flat_map(|(at, one)| clocks[at + 1..].iter().map(move |other| (one, other)));
    let measured = pairs.map(|(one, other)| {
        let (apart, uncertainty) =
            ((one.ahead_us - other.ahead_us).abs(), one.uncertainty_us + other.uncertainty_us);
        ((apart - uncertainty).max(0), apart, uncertainty, one, other)
    });
    let (certain, apart, uncertainty, one, other) =
        measured.max_by_key(|(certain, apart, ..)| (*certain, *apart))?;
    let ms = |us: i64| us as f64 / 1_000.0;
    let what = format!(
        "the wall clocks of {} and {} are {:.1} ms apart (±{:.1} ms)",
        one.node,
        other.node,
        ms(apart),
        ms(uncertainty)
    );
    let why = "times of events, planned switchovers and now() jump with a takeover; leases and commits do not rest on it";
    let next = "let a time server's client keep the clocks (chrony, systemd-timesyncd): timedatectl on both";
    Some(match certain {
        APART_ERROR_US.. => Finding::error(what, why, next),
        APART_WARNING_US.. => Finding::warning(what, why, next),
        _ => Finding::ok(what),
    })
}

/// Each port of a pair of nodes that only one of the two reaches at the other.
fn one_way(reports: &[&DoctorReport]) -> Vec<Finding> {
    let try_of = |from: &str, to: &str, port: Port| -> Option<&Reach> {
        let report = reports.iter().find(|report| report.node == from)?;
        report.reached.iter().find(|reach| reach.to == to && reach.port == port)
    };
    let mut findings = Vec::new();
    for report in reports {
        for reach in report.reached.iter().filter(|reach| reach.ms.is_none()) {
            let back = try_of(&reach.to, &report.node, reach.port);
            if back.is_some_and(|back| back.ms.is_some()) {
                let (from, to, port) = (&report.node, &reach.to, reach.port.word());
                findings.push(Finding::error(
                    format!("one way only: {to} reaches the {port} port of {from}, {from} not that of {to}"),
                    "what works now by the other direction stops with the next restart or takeover",
                    format!("open {} for {from} (firewall, routes)", reach.address),
                ));
            }
        }
    }
    if findings.is_empty() && reports.len() > 1 {
        findings.push(Finding::ok("every port is reached in both directions, or in neither"));
    }
    findings
}

/// Every node's proxy sends its sessions to the same primary.
fn connections(reports: &[&DoctorReport]) -> Option<Finding> {
    let fewest = reports.iter().filter_map(|report| report.limits.connections).min()?;
    // Without a bound on all, one user's sessions on one database are the least that must fit.
    let wanted: u32 = reports
        .iter()
        .map(|report| match report.limits.servers_max {
            0 => report.limits.pool_size,
            all => all,
        })
        .sum();
    let bounded = reports.iter().all(|report| report.limits.servers_max > 0);
    let whose = if bounded { "" } else { " for one user and database" };
    let what = format!(
        "the proxies of {} nodes may open {wanted} connections{whose}, PostgreSQL has {fewest} for clients",
        reports.len()
    );
    Some(match wanted > fewest {
        true => Finding::warning(
            what,
            "under load sessions wait for a server although their pool is not full, and direct clients are refused",
            "raise max_connections, or lower [proxy] servers_max or pool_size: pgherd config set",
        ),
        false => Finding::ok(what),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, Mark};
    use super::*;

    fn report(node: &str) -> DoctorReport {
        let limits = Limits { connections: Some(97), pool_size: 20, servers_max: 0 };
        DoctorReport {
            node: node.into(),
            version: "1.0".into(),
            postgres: Some(150_018),
            limits,
            ..DoctorReport::default()
        }
    }

    fn marks(findings: &[Finding], check: &str) -> Vec<Mark> {
        findings.iter().filter(|finding| finding.check == check).map(|finding| finding.mark).collect()
    }

    fn judged(reports: Vec<DoctorReport>) -> Vec<Finding> {
        let asked: Vec<Asked> = reports
            .into_iter()
            .map(|report| Asked { node: report.node.clone(), report: Ok(report) })
            .collect();
        between(&asked, &[])
    }

    #[test]
    fn versions_may_differ_in_nothing() {
        let alike = judged(vec![report("n1"), report("n2")]);
        assert!(alike.iter().all(|finding| finding.mark == Mark::Ok), "{alike:?}");
        let minor = judged(vec![report("n1"), DoctorReport { postgres: Some(150_017), ..report("n2") }]);
        assert_eq!(marks(&minor, "versions"), [Mark::Ok, Mark::Warning]);
        let major = judged(vec![report("n1"), DoctorReport { postgres: Some(160_004), ..report("n2") }]);
        assert_eq!(marks(&major, "versions"), [Mark::Ok, Mark::Error]);
        let own = judged(vec![report("n1"), DoctorReport { version: "1.1".into(), ..report("n2") }]);
        assert_eq!(marks(&own, "versions"), [Mark::Warning, Mark::Ok]);
        let witness = judged(vec![report("n1"), DoctorReport { postgres: None, ..report("n3") }]);
        assert_eq!(marks(&witness, "versions"), [Mark::Ok, Mark::Ok]);
    }

    #[test]
    fn clocks_are_apart_only_beyond_what_is_uncertain() {
        let clock =
            |node: &str, ahead_us, uncertainty_us| Clock { node: node.into(), ahead_us, uncertainty_us };
        let mark = |ahead, uncertainty| {
            apart(&[clock("n1", 0, uncertainty), clock("n2", ahead, uncertainty)]).map(|finding| finding.mark)
        };
        assert_eq!(apart(&[]), None);
        assert_eq!(mark(900_000, 10), Some(Mark::Ok));
        assert_eq!(mark(-1_500_000, 10), Some(Mark::Warning));
        assert_eq!(mark(1_500_000, 400_000), Some(Mark::Ok));
        assert_eq!(mark(61_000_000, 400_000), Some(Mark::Error));
    }

    #[test]
    fn a_cut_of_one_direction_is_told() {
        let reach =
            |to: &str, ms| Reach { to: to.into(), port: Port::Peer, address: "h:1".into(), ms, error: None };
        let with = |node: &str, reached| DoctorReport { reached: vec![reached], ..report(node) };
        let cut = judged(vec![with("n1", reach("n2", None)), with("n2", reach("n1", Some(0.2)))]);
        assert_eq!(marks(&cut, "one_way"), [Mark::Error]);
        assert!(
            cut.iter()
                .any(|finding| finding.what.contains("n2 reaches the peer port of n1, n1 not that of n2"))
        );
        let both = judged(vec![with("n1", reach("n2", None)), with("n2", reach("n1", None))]);
        assert_eq!(marks(&both, "one_way"), [Mark::Ok]);
    }

    #[test]
    fn all_proxies_together_fit_the_primary() {
        let with = |node: &str, pool_size, servers_max| DoctorReport {
            limits: Limits { connections: Some(97), pool_size, servers_max },
            ..report(node)
        };
        let mark = |pool_size, servers_max| {
            marks(
                &judged(["n1", "n2", "n3"].map(|node| with(node, pool_size, servers_max)).to_vec()),
                "connections",
            )
        };
        assert_eq!(mark(20, 0), [Mark::Ok]);
        assert_eq!(mark(50, 0), [Mark::Warning]);
        assert_eq!(mark(50, 30), [Mark::Ok]);
        assert_eq!(mark(20, 40), [Mark::Warning]);
    }

    #[test]
    fn a_node_without_a_report_is_an_error() {
        let asked = [Asked { node: "n1".into(), report: Err("refused".into()) }];
        assert_eq!(marks(&between(&asked, &[]), "examined"), [Mark::Error]);
    }
}
