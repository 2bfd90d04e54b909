//! `pgherd doctor`: every node examines itself, and what is not as it should be is told with why and what to type.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::client::Client;
use super::failure::{Exit, Failure};
use super::target::{Address, TargetArgs};
use super::{OutputArgs, print, print_json};
use crate::api::{ClockReport, StatusReport};
use crate::doctor::{Asked, Clock, DoctorReport, EXAMINATION_DEADLINE, Finding, Mark, Port, Reach, between};

/// The examination, and the way there and back.
const PATIENCE: Duration = EXAMINATION_DEADLINE.saturating_add(Duration::from_secs(2));

/// Of questions for a clock, the fastest counts: the others waited for something.
const CLOCK_ROUNDS: usize = 5;

#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// This node alone
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Also what is as it should be
    #[arg(long)]
    all: bool,
    /// Warnings end with exit code 7, too
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// What the command prints with `--json`.
#[derive(Serialize)]
struct Examined {
    cluster: String,
    ok: usize,
    unknown: usize,
    warnings: usize,
    errors: usize,
    /// Each with its findings and its row of the matrix.
    nodes: Vec<DoctorReport>,
    /// What shows only when the nodes are laid side by side.
    between: Vec<Finding>,
}

pub fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    let given = args.target.addresses()?;
    let status = Client::new(&args.target)?.status()?.report;
    let doors = doors(&status, &given);
    if let Some(node) = args.node.as_ref().filter(|node| !doors.iter().any(|(name, _)| name == *node)) {
        let names: Vec<&str> = doors.iter().map(|(name, _)| name.as_str()).collect();
        return Err(Failure::new(Exit::Usage, format!("there is no node {node}"))
            .why(format!("the nodes are {}", names.join(", "))));
    }
    let wanted = |name: &str| args.node.as_ref().is_none_or(|node| node == name);
    let doors: Vec<_> = doors.into_iter().filter(|(name, _)| wanted(name)).collect();
    let (asked, clocks) = ask(&doors, &args.target)?;
    let between = if args.node.is_none() { between(&asked, &clocks) } else { Vec::new() };
    let silent =
        asked.iter().filter_map(|asked| Some(format!("{}: {}", asked.node, asked.report.as_ref().err()?)));
    let silent: Vec<String> = silent.collect();
    if silent.len() == asked.len() {
        return Err(Failure::new(Exit::Unreachable, "no node could be examined").why(silent.join("; ")));
    }
    let nodes: Vec<DoctorReport> = asked.into_iter().filter_map(|asked| asked.report.ok()).collect();
    let examined = Examined::new(status.cluster.clone(), nodes, between);
    if args.output.is_json() {
        print_json(&examined)?;
    } else {
        print(&text(&examined, &status, args.all))?;
    }
    examined.verdict(args.strict)
}

/// Where each node is asked: as it was named, else at the door that it tells of; `None` where neither is known.
fn doors(status: &StatusReport, given: &[Address]) -> Vec<(String, Option<Address>)> {
    let address = |node: &crate::api::NodeReport| {
        let named = given.iter().find(|address| address.node.as_ref() == Some(&node.name));
        // An address without a name is that of whoever answered.
        let answered = given.iter().find(|address| address.node.is_none() && node.name == status.from);
        let told = node.doors.as_ref().map(|doors| Address {
            node: Some(node.name.clone()),
            url: doors.http_url(),
            cert: given.iter().find_map(|address| address.cert.clone()),
        });
        named.or(answered).cloned().or(told)
    };
    status.nodes.iter().map(|node| (node.name.clone(), address(node))).collect()
}

/// Asks all nodes at once for their clocks, then for their reports.
fn ask(
    doors: &[(String, Option<Address>)],
    target: &TargetArgs,
) -> Result<(Vec<Asked>, Vec<Clock>), Failure> {
    let (mut asked, mut clocks) = (Vec::new(), Vec::new());
    let known: Vec<(&String, &Address)> =
        doors.iter().filter_map(|(name, address)| Some((name, address.as_ref()?))).collect();
    let addresses = known.iter().map(|(_, address)| (*address).clone()).collect();
    let client = Client::patient(addresses, &target.credentials, PATIENCE)?;
    for (name, address) in &known {
        let alone = Client::patient(vec![(*address).clone()], &target.credentials, Duration::from_secs(1))?;
        clocks.extend(clock(name, &alone));
    }
    for ((name, _), report) in known.iter().zip(client.answers::<DoctorReport>("/api/v1/doctor")) {
        asked.push(Asked { node: (*name).clone(), report });
    }
    for (name, _) in doors.iter().filter(|(_, address)| address.is_none()) {
        asked.push(Asked {
            node: name.clone(),
            report: Err("where its HTTP port is, is not known here".into()),
        });
    }
    asked.sort_by_key(|asked| doors.iter().position(|(name, _)| *name == asked.node));
    Ok((asked, clocks))
}

/// The node's clock was read between question and answer: in the middle, to within half of that time.
fn clock(node: &str, client: &Client) -> Option<Clock> {
    let one = |_| {
        let (asked_at, begun) = (crate::clock::wall().as_microsecond(), Instant::now());
        let report: ClockReport = client.ask("/api/v1/clock").ok()?;
        let half_us = i64::try_from(begun.elapsed().as_micros() / 2).ok()?;
        Some(Clock {
            node: node.to_owned(),
            ahead_us: report.wall_us - asked_at - half_us,
            uncertainty_us: half_us.max(1),
        })
    };
    // A node that does not answer once costs one deadline, not five.
    (0..CLOCK_ROUNDS).map_while(one).min_by_key(|clock| clock.uncertainty_us)
}

impl Examined {
    fn new(cluster: String, nodes: Vec<DoctorReport>, between: Vec<Finding>) -> Examined {
        let mut examined = Examined { cluster, ok: 0, unknown: 0, warnings: 0, errors: 0, nodes, between };
        for finding in examined.nodes.iter().flat_map(|node| &node.findings).chain(&examined.between) {
            match finding.mark {
                Mark::Ok => examined.ok += 1,
                Mark::Unknown => examined.unknown += 1,
                Mark::Warning => examined.warnings += 1,
                Mark::Error => examined.errors += 1,
            }
        }
        examined
    }

    /// `2 errors, 1 warning`; without what there is none of.
    fn counts(&self) -> String {
        let some = |count: usize, one: &str, many: &str| {
            (count > 0).then(|| format!("{count} {}", if count == 1 { one } else { many }))
        };
        let counts = [
            some(self.errors, "error", "errors"),
            some(self.warnings, "warning", "warnings"),
            some(self.unknown, "unknown", "unknown"),
        ];
        counts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    fn verdict(&self, strict: bool) -> Result<(), Failure> {
        if self.errors == 0 && !(strict && self.warnings > 0) {
            return Ok(());
        }
        let what = format!("the cluster is not as it should be: {}", self.counts());
        Err(Failure::new(Exit::Unsound, what))
    }
}

fn text(examined: &Examined, status: &StatusReport, all: bool) -> String {
    let mut text = String::new();
    for node in &examined.nodes {
        let role = status.nodes.iter().find(|known| known.name == node.node);
        let role = role.map_or_else(String::new, |known| format!(" ({})", known.role.word()));
        section(&mut text, &format!("{}{role}", node.node), &node.findings, all);
    }
    if !examined.between.is_empty() {
        section(&mut text, "between the nodes", &examined.between, all);
    }
    let cut = |node: &DoctorReport| node.reached.iter().any(|reach| reach.ms.is_none());
    if all || examined.nodes.iter().any(cut) {
        text.push_str(&matrix(&examined.nodes));
    }
    let findings = examined.nodes.iter().flat_map(|node| &node.findings).chain(&examined.between);
    let looked: BTreeSet<&str> = findings.map(|finding| finding.check.as_str()).collect();
    let (nodes, checks, ok) = (examined.nodes.len(), looked.len(), examined.ok);
    let nodes = if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") };
    let counts = Some(examined.counts()).filter(|counts| !counts.is_empty());
    let rest = counts.map_or_else(String::new, |counts| format!(", {counts}"));
    let hint = if all { "" } else { "; --all shows each" };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}: {nodes}, {checks} checks: {ok} ok{rest}{hint}", examined.cluster);
    text
}

/// What is not ok, or everything; the gravest first.
fn section(text: &mut String, title: &str, findings: &[Finding], all: bool) {
    let mut shown: Vec<&Finding> =
        findings.iter().filter(|finding| all || finding.mark != Mark::Ok).collect();
    shown.sort_by_key(|finding| std::cmp::Reverse(finding.mark));
    if shown.is_empty() {
        return;
    }
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{title}");
    for finding in shown {
        let _ = writeln!(text, "  {:<7}  {:<13}  {}", finding.mark.word(), finding.check, finding.what);
        for (name, words) in [("why:", &finding.why), ("next:", &finding.next)] {
            if let Some(words) = words {
                let _ = writeln!(text, "{:26}{name:<5} {words}", "");
            }
        }
    }
    text.push('\n');
}

/// Who reaches whom, in milliseconds by port.
fn matrix(nodes: &[DoctorReport]) -> String {
    let mut targets: Vec<&str> =
        nodes.iter().flat_map(|node| node.reached.iter().map(|reach| reach.to.as_str())).collect();
    targets.sort_unstable();
    targets.dedup();
    let cell = |node: &DoctorReport, to: &str| {
        let port = |port: Port| {
            let reach: Option<&Reach> =
                node.reached.iter().find(|reach| reach.to == to && reach.port == port);
            match reach.map(|reach| reach.ms) {
                Some(Some(ms)) => format!("{ms:.1}"),
                Some(None) => "cut".to_owned(),
                None => "-".to_owned(),
            }
        };
        if node.node == to {
            return "-".to_owned();
        }
        [Port::Peer, Port::Postgres, Port::Http].map(port).join(" / ")
    };
    let mut text = "network, from row to column: peer / postgres / http, in ms\n".to_owned();
    // Writing to a String cannot fail.
    let mut line = |first: &str, cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| format!("{cell:<18}")).collect();
        let _ = writeln!(text, "{}", format!("  {first:<12}{}", cells.concat()).trim_end());
    };
    line("", &targets.iter().map(|to| (*to).to_owned()).collect::<Vec<_>>());
    for node in nodes {
        line(&node.node, &targets.iter().map(|to| cell(node, to)).collect::<Vec<_>>());
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(mark: Mark, what: &str) -> Finding {
        let words = |text: &str| (mark >= Mark::Warning).then(|| text.to_owned());
        Finding {
            check: "archive".into(),
            mark,
            what: what.into(),
            why: words("the disk fills"),
            next: words("look at the log"),
        }
    }

    fn examined(findings: Vec<Finding>) -> Examined {
        let reach = |ms| Reach { to: "n2".into(), port: Port::Peer, address: "h:1".into(), ms, error: None };
        let reached = vec![reach(Some(0.25))];
        let node = DoctorReport { node: "n1".into(), findings, reached, ..DoctorReport::default() };
        Examined::new("demo".into(), vec![node], Vec::new())
    }

    fn status() -> StatusReport {
        crate::api::StatusReport {
            cluster: "demo".into(),
            from: "n1".into(),
            term: 1,
            primary: None,
            sync: crate::api::SyncReport { members: Vec::new(), k: 0, mode: crate::api::SyncMode::Quorum },
            nodes: Vec::new(),
            reason: String::new(),
            paused_until: None,
            requests: Vec::new(),
            origin: None,
            configuration: 0,
        }
    }

    #[test]
    fn only_what_is_not_ok_is_listed_and_all_on_demand() {
        let sound = examined(vec![finding(Mark::Ok, "it archives")]);
        assert_eq!(text(&sound, &status(), false), "demo: 1 node, 1 checks: 1 ok; --all shows each\n");
        assert!(text(&sound, &status(), true).contains("0.2 / - / -"));
        let ill = examined(vec![
            finding(Mark::Ok, "fine"),
            finding(Mark::Unknown, "who knows"),
            finding(Mark::Error, "it fails"),
        ]);
        let shown = text(&ill, &status(), false);
        let expected = "n1\n  error    archive        it fails\n                          why:  the disk fills\n                          next: look at the log\n  unknown  archive        who knows\n";
        assert!(shown.starts_with(expected), "{shown}");
        assert!(shown.ends_with("1 ok, 1 error, 1 unknown; --all shows each\n"), "{shown}");
    }

    #[test]
    fn errors_end_with_a_code_and_warnings_when_strict() {
        let exit = |mark, strict| {
            examined(vec![finding(mark, "x")]).verdict(strict).err().map(|failure| failure.exit)
        };
        assert_eq!(exit(Mark::Error, false), Some(Exit::Unsound));
        assert_eq!(exit(Mark::Warning, false), None);
        assert_eq!(exit(Mark::Warning, true), Some(Exit::Unsound));
        assert_eq!(exit(Mark::Unknown, true), None);
    }
}
