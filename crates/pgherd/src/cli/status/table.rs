//! The screen of `pgherd status` as text.
//!
//! Plain characters and aligned columns: it reads the same in a terminal, a pipe and a chat. The last lines say what
//! is wrong and what to type; nothing is said when all is well.

use std::fmt::Write;

use super::burdens;
use super::slots;
use crate::api::{NodeReport, OriginStatus, Role, StatusReport, SyncMode};
use crate::cli::client::Answered;

const HEADER: [&str; COLUMNS] =
    ["NODE", "ROLE", "STATE", "FROM", "TL", "LSN", "LAG", "SYNC", "HEALTH", "CONTACT"];
const COLUMNS: usize = 10;
/// Columns whose values are numbers.
const RIGHT_ALIGNED: [usize; 3] = [4, 6, 9];

pub fn screen(answered: &Answered) -> String {
    let report = &answered.report;
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "cluster {}   term {}   {}   sync {}",
        report.cluster,
        report.term,
        whose_lead(report),
        sync_line(report)
    );
    if let Some(origin) = &report.origin {
        let _ = writeln!(text, "{}", origin_line(origin));
    }
    let _ = writeln!(text, "\n{}", nodes_table(&report.nodes));
    let advice = advice(answered);
    if !advice.is_empty() {
        text.push('\n');
    }
    for line in advice {
        let _ = writeln!(text, "{line}");
    }
    text
}

fn whose_lead(report: &StatusReport) -> String {
    match &report.origin {
        Some(origin) => format!("head {}", origin.head.as_deref().unwrap_or("none")),
        None => format!("primary {}", report.primary.as_deref().unwrap_or("none")),
    }
}

/// `standby of h1:5432, h2:5432   streaming from h2:5432   lag 0 B`
fn origin_line(origin: &OriginStatus) -> String {
    let from = match &origin.sender {
        Some(sender) => format!("streaming from {sender}"),
        None => "NOT STREAMING".to_owned(),
    };
    let lag = origin.lag_bytes.map_or("unknown".to_owned(), bytes);
    format!("standby of {}   {from}   lag {lag}", origin.hosts.join(", "))
}

fn sync_line(report: &StatusReport) -> String {
    let sync = &report.sync;
    match sync.mode {
        SyncMode::Quorum => format!("ANY {} ({})", sync.k, sync.members.join(", ")),
        SyncMode::Async => "off (async: a takeover may lose commits)".to_owned(),
        SyncMode::Standby => "off (a standby cluster takes no writes)".to_owned(),
        SyncMode::Degraded => {
            "DEGRADED (the last standby is lost; commits are on the primary alone)".to_owned()
        }
    }
}

fn nodes_table(nodes: &[NodeReport]) -> String {
    let mut rows = vec![HEADER.map(str::to_owned)];
    rows.extend(nodes.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let lines: Vec<String> = rows.iter().map(|row| aligned(row, &widths)).collect();
    lines.join("\n")
}

fn aligned(row: &[String; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    let cells: Vec<String> = row
        .iter()
        .zip(widths)
        .enumerate()
        .map(|(column, (cell, &width))| {
            if RIGHT_ALIGNED.contains(&column) {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        })
        .collect();
    cells.join("  ").trim_end().to_owned()
}

fn row(node: &NodeReport) -> [String; COLUMNS] {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    [
        node.name.clone(),
        node.role.word().to_owned(),
        node.state.clone(),
        or_dash(node.upstream.clone()),
        or_dash(node.timeline.map(|timeline| timeline.to_string())),
        or_dash(node.lsn.map(|lsn| lsn.to_string())),
        or_dash(node.lag_bytes.filter(|_| matches!(node.role, Role::Replica | Role::Head)).map(bytes)),
        if node.sync { "yes" } else { "-" }.to_owned(),
        if node.healthy { "ok" } else { "FAILING" }.to_owned(),
        or_dash(node.last_contact_ms.map(age)),
    ]
}

/// `0 B`, `512 B`, `1.5 kB`, `23 MB`: two digits are enough to see which way it goes.
pub(super) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = "B";
    for larger in ["kB", "MB", "GB", "TB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" || value >= 10.0 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

fn age(milliseconds: u64) -> String {
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..120_000 => format!("{:.1} s", milliseconds as f64 / 1_000.0),
        _ => format!("{} min", milliseconds / 60_000),
    }
}

/// What is wrong, and what to type; empty when nothing is.
fn advice(answered: &Answered) -> Vec<String> {
    let report = &answered.report;
    let mut lines = Vec::new();
    if let Some(origin) = report.origin.as_ref().filter(|origin| origin.sender.is_none()) {
        lines.push(format!("nothing comes from the cluster that is followed: {}", origin.seen));
        let at = origin.streamed_at.as_deref().unwrap_or("an unknown time");
        lines.push(format!("  it last streamed at {at}; if it is lost: pgherd promote"));
    }
    if report.primary.is_none() && report.origin.is_none() {
        let reason = if report.reason.is_empty() { "the view gives no reason" } else { &report.reason };
        lines.push(format!("no open primary: {reason}"));
        lines.push(
            "  next: pgherd explain says what holds a takeover back, pgherd events what happened".to_owned(),
        );
    } else if !report.reason.is_empty() && report.origin.is_none() {
        lines.push(format!("note: {}", report.reason));
    }
    if let Some(until) = &report.paused_until {
        lines.push(format!("paused until {until}: nobody takes over by himself; pgherd resume ends it"));
    }
    for request in &report.requests {
        let note = if request.note.is_empty() { String::new() } else { format!(": {}", request.note) };
        lines.push(format!("request {} is {}{note}", request.id, request.stage.word()));
    }
    for node in report.nodes.iter().filter(|node| !node.healthy) {
        let why = if node.why.is_empty() { String::new() } else { format!(" ({})", node.why.join("; ")) };
        lines.push(format!("{} is {}{why}", node.name, node.state));
    }
    for (node, fencer) in report.nodes.iter().filter_map(|node| Some((node, node.fencer.as_ref()?))) {
        if fencer.state == "missing" {
            lines.push(format!("{} has no fencer: nothing ends its server if its agent dies", node.name));
        }
        lines.extend(fencer.obstacle.iter().map(|obstacle| format!("{}: {obstacle}", node.name)));
    }
    let astray = report.nodes.iter().filter(|node| !node.upstream_note.is_empty());
    lines.extend(astray.map(|node| {
        format!("{} does not replicate from the replica in its tags: {}", node.name, node.upstream_note)
    }));
    let behind = report
        .nodes
        .iter()
        .filter(|node| node.configuration < report.configuration && node.state != "unreachable");
    lines.extend(behind.map(|node| {
        let (name, number) = (&node.name, report.configuration);
        format!("{name} has not applied the cluster's configuration {number} yet; pgherd config diff")
    }));
    let thirsty = report.nodes.iter().filter(|node| !node.receiver_note.is_empty());
    lines.extend(thirsty.map(|node| format!("{} receives no WAL: {}", node.name, node.receiver_note)));
    lines.extend(report.nodes.iter().flat_map(burdens::lines));
    if report.sync.mode == SyncMode::Quorum {
        let sound = report.nodes.iter().filter(|node| node.sync && node.healthy).count();
        if sound < report.sync.k as usize {
            lines.push(format!("commits wait: {sound} of {} members needed can flush", report.sync.k));
        }
    }
    lines.extend(slots::advice(&report.nodes));
    for silent in &answered.silent {
        lines.push(format!("no answer from {silent}"));
    }
    if !answered.silent.is_empty() {
        lines.push("  next: read its pgherd.log, start it again with pgherd run --config FILE".to_owned());
    }
    lines
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::SyncReport;

    pub fn node(name: &str, role: Role, state: &str) -> NodeReport {
        NodeReport {
            name: name.into(),
            role,
            state: state.into(),
            timeline: Some(2),
            lsn: Some("0/4029C38".parse().unwrap()),
            lag_bytes: Some(1_536),
            sync: role == Role::Replica,
            healthy: true,
            last_contact_ms: Some(120),
            postgres: None,
            tags: brain::Tags::default(),
            upstream: (role == Role::Replica).then(|| "n1".to_owned()),
            upstream_note: String::new(),
            paused: false,
            receiver_note: String::new(),
            rule: String::new(),
            why: Vec::new(),
            condition: brain::Condition::default(),
            slots: crate::api::SlotsReport::default(),
            fencer: None,
            replay_lsn: None,
            quarantined: false,
            configuration: 0,
            doors: None,
        }
    }

    fn answered() -> Answered {
        let report = StatusReport {
            cluster: "demo".into(),
            from: "n1".into(),
            term: 3,
            primary: Some("n1".into()),
            sync: SyncReport { members: vec!["n2".into(), "n3".into()], k: 1, mode: SyncMode::Quorum },
            nodes: vec![
                NodeReport { last_contact_ms: None, ..node("n1", Role::Primary, "running") },
                node("n2", Role::Replica, "streaming"),
                node("n3", Role::Replica, "streaming"),
            ],
            reason: String::new(),
            paused_until: None,
            requests: Vec::new(),
            origin: None,
            configuration: 0,
        };
        Answered { report, silent: Vec::new() }
    }

    #[test]
    fn a_healthy_cluster_is_a_heading_and_a_table() {
        assert_eq!(
            screen(&answered()),
            "cluster demo   term 3   primary n1   sync ANY 1 (n2, n3)\n\
             \n\
             NODE  ROLE     STATE      FROM  TL  LSN           LAG  SYNC  HEALTH  CONTACT\n\
             n1    primary  running    -      2  0/4029C38       -  -     ok            -\n\
             n2    replica  streaming  n1     2  0/4029C38  1.5 kB  yes   ok       120 ms\n\
             n3    replica  streaming  n1     2  0/4029C38  1.5 kB  yes   ok       120 ms\n"
        );
    }

    #[test]
    fn a_standby_cluster_shows_whom_it_follows() {
        let mut answered = answered();
        let report = &mut answered.report;
        (report.primary, report.reason) = (None, "a standby cluster of h1:5432".into());
        report.sync = SyncReport { members: Vec::new(), k: 0, mode: SyncMode::Standby };
        report.nodes[0].role = Role::Head;
        let mut origin = OriginStatus {
            hosts: vec!["h1:5432".into(), "h2:5432".into()],
            head: Some("n1".into()),
            sender: Some("h2:5432".into()),
            primary: Some("h2:5432".into()),
            lsn: None,
            lag_bytes: Some(1_536),
            streamed_at: None,
            last_commit: None,
            seen: "h1:5432 gives no answer".into(),
        };
        report.origin = Some(origin.clone());
        let screen = super::screen(&answered);
        assert!(screen.starts_with("cluster demo   term 3   head n1   sync off"), "{screen}");
        assert!(
            screen.contains("\nstandby of h1:5432, h2:5432   streaming from h2:5432   lag 1.5 kB\n"),
            "{screen}"
        );
        assert!(!screen.contains("no open primary"), "{screen}");
        origin.sender = None;
        answered.report.origin = Some(origin);
        let screen = super::screen(&answered);
        assert!(
            screen.contains("NOT STREAMING") && screen.contains("if it is lost: pgherd promote"),
            "{screen}"
        );
    }

    #[test]
    fn what_is_wrong_comes_with_the_next_command() {
        let mut answered = answered();
        answered.report.primary = None;
        answered.report.reason = "1 of 2 answers".into();
        for node in &mut answered.report.nodes[1..] {
            node.healthy = false;
            node.state = "unreachable".into();
        }
        answered.silent.push("n2: connection refused".into());
        let screen = screen(&answered);
        for line in [
            "no open primary: 1 of 2 answers",
            "pgherd explain",
            "n2 is unreachable",
            "commits wait: 0 of 1 members",
            "no answer from n2: connection refused",
        ] {
            assert!(screen.contains(line), "{line} is missing in\n{screen}");
        }
    }

    #[test]
    fn sizes_and_ages_are_short() {
        let sizes = [0, 1_023, 1_024, 10 * 1_024, 3 << 20, 5 << 40].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 kB", "10 kB", "3.0 MB", "5.0 TB"]);
        assert_eq!(
            [0, 999, 1_500, 119_999, 600_000].map(age),
            ["0 ms", "999 ms", "1.5 s", "120.0 s", "10 min"]
        );
    }
}
