//! The proxy in Prometheus' text format (0.0.4).
//!
//! What it is: the counts of the proxy, and for each database and user what passed, with histograms of waits, queries and
//! transactions. What it is not: kept anywhere; each look asks the workers.

use std::fmt::Write;
use std::sync::Arc;

use super::tally::{Histogram, Owner, Tally};
use super::worker::{Activity, Report};
use super::{Counts, Shared};

/// Who may ask for the numbers as long as the proxy lives, and after it in vain.
#[derive(Clone)]
pub struct Metrics {
    pub(super) shared: Arc<Shared>,
}

impl Metrics {
    /// The counts of this moment: a few loads, nobody is asked.
    pub fn counts(&self) -> Counts {
        self.shared.counts()
    }

    /// All samples of this moment.
    pub async fn text(&self) -> String {
        let report = self.shared.workers.report().await;
        text(&self.shared.counts(), &report)
    }
}

/// Values of one metric.
struct Family<'a> {
    out: &'a mut String,
    name: &'static str,
}

impl<'a> Family<'a> {
    fn new(out: &'a mut String, name: &'static str, kind: &str, help: &str) -> Family<'a> {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { out, name }
    }

    fn value(&mut self, labels: &str, value: impl std::fmt::Display) {
        let _ = match labels {
            "" => writeln!(self.out, "{} {value}", self.name),
            labels => writeln!(self.out, "{}{{{labels}}} {value}", self.name),
        };
    }

    fn histogram(&mut self, labels: &str, histogram: &Histogram) {
        let name = self.name;
        for (bound_us, count) in histogram.cumulated() {
            let bound = seconds(bound_us);
            let _ = writeln!(self.out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        let (count, sum) = (histogram.count(), seconds(histogram.sum_us));
        let _ = writeln!(self.out, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(self.out, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// The heads of all families, as they stand before their samples, and samples of one database and user: for whoever lists them.
pub fn families() -> String {
    let owner = Owner { database: "app".to_owned(), user: "app".to_owned() };
    text(&Counts::default(), &Report { tallies: vec![(owner, Tally::default())], ..Report::default() })
}

fn text(counts: &Counts, report: &Report) -> String {
    let mut out = String::new();
    let gauges = [
        ("pgherd_proxy_sessions", "Client connections now.", counts.sessions),
        ("pgherd_proxy_sessions_queued", "Of these, waiting for a server to log in.", counts.queued),
        ("pgherd_proxy_sessions_parked", "Of these, waiting for a switchover to end.", counts.parked),
    ];
    for (name, help, value) in gauges {
        Family::new(&mut out, name, "gauge", help).value("", value);
    }
    let counters = [
        ("pgherd_proxy_refused_total", "Connections turned away.", counts.refused),
        (
            "pgherd_proxy_queue_timeouts_total",
            "Sessions that waited in vain for a server.",
            counts.queue_timeouts,
        ),
        (
            "pgherd_proxy_cuts_total",
            "Sessions ended because their server was not to be used any more.",
            counts.cuts,
        ),
        ("pgherd_proxy_moved_total", "Sessions that went on with another server.", counts.moved),
        ("pgherd_proxy_cancels_total", "Cancel requests that reached a server.", counts.cancels),
        (
            "pgherd_proxy_cancels_withheld_total",
            "Cancel requests that could have ended a commit's wait for standbys.",
            counts.withheld_cancels,
        ),
        (
            "pgherd_proxy_unacknowledged_total",
            "Commits whose wait for standbys was cancelled, told as 08007.",
            counts.unacknowledged,
        ),
        (
            "pgherd_proxy_lowered_commits_total",
            "Times that a user lowered synchronous_commit and was warned.",
            counts.lowered_commits,
        ),
        (
            "pgherd_proxy_reads_by_replicas_total",
            "Reads of the auto port that a replica ran.",
            counts.reads_by_replicas,
        ),
        (
            "pgherd_proxy_reads_by_primary_total",
            "Reads of the auto port that the primary ran, no replica being known to have what they must see.",
            counts.reads_by_primary,
        ),
        ("pgherd_proxy_overdue_total", "Sessions ended by a limit in time.", counts.overdue),
        (
            "pgherd_proxy_reads_repeated_total",
            "Reads of the auto port that were asked again of another server.",
            counts.repeated,
        ),
    ];
    for (name, help, value) in counters {
        Family::new(&mut out, name, "counter", help).value("", value);
    }
    sessions_and_servers(&mut out, report);
    tallies(&mut out, report);
    out
}

fn sessions_and_servers(out: &mut String, report: &Report) {
    let mut owners: Vec<&Owner> = report.sessions.iter().map(|session| &session.owner).collect();
    owners.extend(report.servers.iter().map(|server| &server.owner));
    owners.sort_unstable();
    owners.dedup();
    let mut family = Family::new(
        out,
        "pgherd_proxy_pool_sessions",
        "gauge",
        "Sessions by what they do: active, waiting, login.",
    );
    for owner in &owners {
        for (state, activity) in
            [("active", Activity::Active), ("waiting", Activity::Waiting), ("login", Activity::LoggingIn)]
        {
            let is_it = |session: &&crate::worker::SessionReport| {
                session.owner == **owner && session.activity == activity
            };
            let labels = format!("{},state=\"{state}\"", labels(owner));
            family.value(&labels, report.sessions.iter().filter(is_it).count());
        }
    }
    let mut family =
        Family::new(out, "pgherd_proxy_pool_servers", "gauge", "Connections to PostgreSQL: active or idle.");
    for owner in &owners {
        for (state, lent) in [("active", true), ("idle", false)] {
            let count =
                report.servers.iter().filter(|s| s.owner == **owner && s.session.is_some() == lent).count();
            family.value(&format!("{},state=\"{state}\"", labels(owner)), count);
        }
    }
}

type Count = fn(&Tally) -> u64;
type Times = fn(&Tally) -> &Histogram;

fn tallies(out: &mut String, report: &Report) {
    let counts: [(&'static str, &str, Count); 9] = [
        ("pgherd_proxy_logins_total", "Sessions that were let in.", |tally| tally.logins),
        ("pgherd_proxy_server_assignments_total", "Times that a session got a server of a pool.", |tally| {
            tally.assignments
        }),
        ("pgherd_proxy_transactions_total", "Transactions that ended.", |tally| tally.transactions),
        ("pgherd_proxy_queries_total", "Requests that were answered.", |tally| tally.queries),
        ("pgherd_proxy_received_bytes_total", "Bytes from clients.", |tally| tally.received),
        ("pgherd_proxy_sent_bytes_total", "Bytes from servers.", |tally| tally.sent),
        ("pgherd_proxy_client_parses_total", "Parse messages of clients.", |tally| tally.client_parses),
        ("pgherd_proxy_server_parses_total", "Statements that servers parsed.", |tally| tally.server_parses),
        ("pgherd_proxy_binds_total", "Bind messages of clients.", |tally| tally.binds),
    ];
    for (name, help, count) in counts {
        let mut family = Family::new(out, name, "counter", help);
        report.tallies.iter().for_each(|(owner, tally)| family.value(&labels(owner), count(tally)));
    }
    let times: [(&'static str, &str, Times); 3] = [
        (
            "pgherd_proxy_transaction_seconds",
            "From the first request to the end of the transaction.",
            |tally| &tally.transaction,
        ),
        ("pgherd_proxy_query_seconds", "From a request to its answer.", |tally| &tally.query),
        ("pgherd_proxy_wait_seconds", "For a server, of those that waited.", |tally| &tally.wait),
    ];
    for (name, help, time) in times {
        let mut family = Family::new(out, name, "histogram", help);
        report.tallies.iter().for_each(|(owner, tally)| family.histogram(&labels(owner), time(tally)));
    }
}

fn labels(owner: &Owner) -> String {
    format!("database=\"{}\",user=\"{}\"", escaped(&owner.database), escaped(&owner.user))
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn samples_are_what_prometheus_reads() {
        let owner = Owner { database: "a\"b".to_owned(), user: "ann".to_owned() };
        let mut tally = Tally { transactions: 2, ..Tally::default() };
        tally.query.add(Duration::from_micros(100));
        let report = Report { tallies: vec![(owner, tally)], ..Report::default() };
        let text = text(&Counts { sessions: 3, ..Counts::default() }, &report);
        for line in [
            "# TYPE pgherd_proxy_sessions gauge",
            "pgherd_proxy_sessions 3",
            "pgherd_proxy_transactions_total{database=\"a\\\"b\",user=\"ann\"} 2",
            "pgherd_proxy_query_seconds_bucket{database=\"a\\\"b\",user=\"ann\",le=\"0.000064\"} 0",
            "pgherd_proxy_query_seconds_bucket{database=\"a\\\"b\",user=\"ann\",le=\"0.000128\"} 1",
            "pgherd_proxy_query_seconds_bucket{database=\"a\\\"b\",user=\"ann\",le=\"+Inf\"} 1",
            "pgherd_proxy_query_seconds_sum{database=\"a\\\"b\",user=\"ann\"} 0.0001",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let families = text.lines().filter(|line| line.starts_with("# TYPE"));
        let names: std::collections::BTreeSet<_> = families.clone().collect();
        assert_eq!(names.len(), families.count(), "each family once");
    }
}
