//! `pgherd history`: the failovers with their phases, and each timeline that was left; `pgherd history TERM`: one failover whole.

use std::fmt::Write;

use clap::Args;
use serde::Serialize;
use wire::Lsn;

use super::client::Client;
use super::failure::Failure;
use super::target::TargetArgs;
use super::{OutputArgs, print, print_json};
use crate::agent::{FailoverReport, ProxyReport, Witness};

#[derive(Args, Debug)]
pub struct HistoryArgs {
    /// The whole report of the failover that made this term
    term: Option<u64>,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// As `/history` has it: timeline, where it was left, why, when, and who began the next.
type Left = (u32, u64, String, Option<String>, Option<String>);

/// `pgherd history --json`.
#[derive(Serialize)]
struct History {
    /// Oldest first, as `/api/v1/failovers` has them.
    failovers: Vec<FailoverReport>,
    /// Oldest first, as `/history` has them.
    timelines: Vec<Left>,
}

pub fn history(args: &HistoryArgs) -> Result<(), Failure> {
    let client = Client::new(&args.target)?;
    if let Some(term) = args.term {
        let report: FailoverReport = client.ask(&format!("/api/v1/failovers/{term}"))?;
        return if args.output.is_json() { print_json(&report) } else { print(&whole(&report)) };
    }
    let history = History { failovers: client.ask("/api/v1/failovers")?, timelines: client.ask("/history")? };
    match () {
        () if args.output.is_json() => print_json(&history),
        () if history.timelines.is_empty() && history.failovers.is_empty() => {
            print("no timeline was left yet: there was no takeover\n")
        }
        () => print(&(failovers(&history.failovers) + &timelines(&history.timelines))),
    }
}

fn timelines(left: &[Left]) -> String {
    if left.is_empty() {
        return String::new();
    }
    let mut text =
        format!("{:>8}  {:<14}  {:<12}  {:<22}  {}\n", "TIMELINE", "LEFT AT", "FOR", "WHEN", "NEXT PRIMARY");
    for (timeline, end, reason, when, next) in left {
        let or = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{timeline:>8}  {:<14}  {reason:<12}  {:<22}  {}",
            Lsn(*end).to_string(),
            or(when),
            or(next)
        );
    }
    text
}

/// A line for each, its phases and its reason below it.
fn failovers(reports: &[FailoverReport]) -> String {
    if reports.is_empty() {
        return String::new();
    }
    let ways: Vec<String> = reports.iter().map(way).collect();
    let width = ways.iter().map(|way| way.chars().count()).max().unwrap_or(0).max("FROM → TO".len());
    let mut text = format!(
        "{:>8}  {:<20}  {:<10}  {:<width$}  {:>13}  {:>8}  {:>4}  {:>4}\n",
        "TERM", "WHEN", "WHAT", "FROM → TO", "WRITES PAUSED", "WHOLE", "HELD", "CUT"
    );
    for (report, way) in reports.iter().zip(ways) {
        let (held, cut) = sessions(report);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:>8}  {:<20}  {:<10}  {way:<width$}  {:>13}  {:>8}  {held:>4}  {cut:>4}",
            report.term,
            second(&report.at),
            report.kind.word(),
            report.writes_paused_ms.map_or_else(|| "-".to_owned(), milliseconds),
            milliseconds(report.total_ms),
        );
        let phases: Vec<String> =
            report.phases.iter().map(|phase| format!("{} {}", phase.name, phase.ms)).collect();
        let _ = writeln!(text, "{:>8}  {}\n{:>8}  {}", "", phases.join(" · "), "", report.reason);
    }
    text + "\n"
}

/// Held at the same time, and cut, by all proxies that told.
fn sessions(report: &FailoverReport) -> (u64, u64) {
    let sum = |of: fn(&ProxyReport) -> u64| report.proxies.iter().map(of).sum();
    (sum(|proxy| proxy.held), sum(|proxy| proxy.cut))
}

fn way(report: &FailoverReport) -> String {
    match report.from.node == report.to.node {
        true => format!("{} again", report.to.node),
        false => format!("{} → {}", report.from.node, report.to.node),
    }
}

fn milliseconds(ms: u64) -> String {
    format!("{ms} ms")
}

/// Without its fractions.
fn second(at: &str) -> String {
    at.split_once('.').map_or_else(|| at.to_owned(), |(second, _)| format!("{second}Z"))
}

/// One report, for reading.
fn whole(report: &FailoverReport) -> String {
    let mut text = String::new();
    let (from, to) = (&report.from, &report.to);
    let mut line = |words: &str| text.extend([words, "\n"]);
    line(&format!("Term {}: {}, {}, {}", report.term, report.kind.word(), way(report), report.at));
    line(&format!("  why       {}", report.reason));
    let unopened = if from.opened { "" } else { ", which had not opened" };
    line(&format!("  from      {}, term {}, timeline {}{unopened}", from.node, from.term, from.timeline));
    line(&format!("  to        {}, term {}, timeline {}", to.node, to.term, to.timeline));
    match report.writes_paused_ms {
        Some(ms) => line(&format!("  writes    paused for {ms} ms at most")),
        None => line("  writes    when they stopped is not known"),
    }
    line(&format!("  lost      {} bytes: {}", report.loss.bytes, report.loss.why));
    line("");
    line(&format!("{:<16}  {:>8}  {:>8}  SEEN BY", "PHASE", "FROM ms", "ms"));
    for phase in &report.phases {
        let seen = match phase.seen {
            Witness::Own => format!("{} itself", to.node),
            Witness::Heard => "others, as heard".to_owned(),
            Witness::Store => "the store, as read".to_owned(),
        };
        line(&format!("{:<16}  {:>8}  {:>8}  {seen}", phase.name, phase.start_ms, phase.ms));
    }
    line(&format!("{:<16}  {:>8}  {:>8}", "whole", 0, report.total_ms));
    line("");
    let ballot = &report.ballot;
    let asked =
        if ballot.candidates.is_empty() { "nobody known".to_owned() } else { ballot.candidates.join(", ") };
    let needed = if ballot.needed == 0 { "any".to_owned() } else { ballot.needed.to_string() };
    line(&format!(
        "Answers to {asked}, against ANY {} ({}), {needed} needed",
        ballot.k,
        ballot.set.join(", ")
    ));
    for vote in &ballot.votes {
        let counted = if vote.counted { "" } else { ", not counted" };
        line(&format!(
            "  {:<8}  promised {}, WAL to {} on timeline {}, heard at {} ms{counted}",
            vote.node, vote.promise, vote.lsn, vote.timeline, vote.heard_ms
        ));
    }
    for rejected in &ballot.rejected {
        line(&format!("  none      {rejected}"));
    }
    line("");
    line("Sessions of each proxy");
    for proxy in &report.proxies {
        line(&format!(
            "  {:<8}  no primary for {} ms; {} held at once, {} moved, {} cut, {} timed out",
            proxy.node, proxy.away_ms, proxy.held, proxy.moved, proxy.cut, proxy.timed_out
        ));
    }
    for node in &report.silent_proxies {
        line(&format!("  {node:<8}  not known"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_timeline() {
        let left = [
            (
                1,
                0x300_0148,
                "term 2".to_owned(),
                Some("2026-01-02T03:04:05Z".to_owned()),
                Some("n2".to_owned()),
            ),
            (3, 0x500_0000, "no recorded term".to_owned(), None, None),
        ];
        let text = timelines(&left);
        assert_eq!(text.lines().count(), 3);
        assert!(
            text.lines()
                .nth(1)
                .unwrap()
                .ends_with("0/3000148       term 2        2026-01-02T03:04:05Z    n2"),
            "{text}"
        );
        assert!(text.lines().nth(2).unwrap().ends_with("-                       -"), "{text}");
    }

    fn report() -> FailoverReport {
        let told = r#"{"term":2,"kind":"takeover","at":"2026-01-02T03:04:05.123456Z",
            "from":{"node":"n1","term":1,"timeline":1,"opened":true},"to":{"node":"n2","term":2,"timeline":2,"opened":true},
            "reason":"n1 says that its PostgreSQL takes no writes","total_ms":712,"writes_paused_ms":712,
            "phases":[{"name":"detection","start_ms":0,"ms":212,"seen":"own"},{"name":"opening","start_ms":212,"ms":500,"seen":"own"}],
            "ballot":{"set":["n2","n3"],"k":1,"needed":2,"candidates":["n2"],"votes":[{"node":"n2","member":"n2_7f3a","promise":2,
            "timeline":1,"lsn":"0/3000148","heard_ms":220,"counted":true}],"rejected":["n3: not heard"]},
            "loss":{"bytes":0,"why":"each acknowledged commit was on 1 of 2 members"},
            "proxies":[{"node":"n2","timeline":2,"away_ms":650,"held":4,"moved":3,"cut":1,"timed_out":0}],"silent_proxies":["n1"]}"#;
        serde_json::from_str(told).unwrap()
    }

    #[test]
    fn a_failover_has_its_phases_below_it() {
        let text = failovers(&[report()]);
        let lines: Vec<&str> = text.lines().collect();
        let first =
            "       2  2026-01-02T03:04:05Z  takeover    n1 → n2             712 ms    712 ms     4     1";
        assert_eq!(lines[1], first);
        assert_eq!(lines[2].trim(), "detection 212 · opening 500");
        assert!(lines[3].ends_with("takes no writes"));
    }

    #[test]
    fn the_whole_report_names_every_answer_and_every_proxy() {
        let text = whole(&report());
        for words in [
            "Term 2: takeover, n1 → n2",
            "paused for 712 ms at most",
            "detection                0       212  n2 itself",
            "ANY 1 (n2, n3), 2 needed",
            "n2        promised 2, WAL to 0/3000148",
            "none      n3: not heard",
            "4 held at once, 3 moved, 1 cut",
            "n1        not known",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
