//! A run in words: what was done, what clients met, how long writes stopped, what is wrong.

use std::fmt::Write as _;

use crate::checker::{Found, Report};
use crate::history::{History, Moment, Op, Outcome, Port};

/// A fault that ended this long before writes stopped may still be why.
const AFTERMATH: Moment = 1_000_000;
const ERRORS_SHOWN: usize = 12;

pub fn of(title: &str, history: &History, report: &Report) -> String {
    let mut text = format!("== {title}\n");
    operations(&mut text, history);
    faults(&mut text, history);
    gap(&mut text, history);
    errors(&mut text, history);
    anomalies(&mut text, report);
    text
}

fn operations(text: &mut String, history: &History) {
    let _ = writeln!(text, "{:<14} {:>8} {:>8} {:>8}", "transactions", "ok", "fail", "info");
    for (name, port) in [("read-write", Port::ReadWrite), ("read-only", Port::ReadOnly)] {
        let [ok, fail, info] = [Outcome::Ok, Outcome::Fail, Outcome::Info].map(|outcome| {
            let of = |t: &&crate::history::Transaction| t.origin.port == port && t.outcome == outcome;
            history.transactions.iter().filter(of).count()
        });
        let _ = writeln!(text, "{name:<14} {ok:>8} {fail:>8} {info:>8}");
    }
    let appends = acknowledged(history).map(|(_, appends)| appends).sum::<usize>();
    let holders = history.finals.len();
    let _ = writeln!(
        text,
        "{appends} appends and {} direct writes were acknowledged; {holders} node(s) were read at the end",
        history.samples.len()
    );
}

fn faults(text: &mut String, history: &History) {
    let mut counted: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    for (_, _, what) in &history.faults {
        *counted.entry(what.split(' ').next().unwrap_or(what)).or_default() += 1;
    }
    let words: Vec<String> = counted.iter().map(|(name, count)| format!("{count} {name}")).collect();
    let _ = writeln!(text, "faults: {}", if words.is_empty() { "none".to_owned() } else { words.join(", ") });
}

/// Moments of acknowledged writes, with how many appends each had.
fn acknowledged(history: &History) -> impl Iterator<Item = (Moment, usize)> + '_ {
    history.transactions.iter().filter(|t| t.outcome == Outcome::Ok).filter_map(|transaction| {
        let appends = transaction.ops.iter().filter(|op| matches!(op, Op::Append(..))).count();
        (appends > 0).then_some((transaction.ended, appends))
    })
}

fn gap(text: &mut String, history: &History) {
    let mut moments: Vec<Moment> = acknowledged(history).map(|(ended, _)| ended).collect();
    moments.sort_unstable();
    let longest = moments.windows(2).map(|pair| (pair[1] - pair[0], pair[0], pair[1])).max();
    let Some((length, from, until)) = longest else {
        text.push_str("no write was acknowledged at all\n");
        return;
    };
    let seconds = |moment: Moment| moment as f64 / 1e6;
    let _ = writeln!(
        text,
        "longest time without an acknowledged write: {:.2} s, from {:.1} s to {:.1} s, with",
        seconds(length),
        seconds(from),
        seconds(until)
    );
    for (at, ended, what) in &history.faults {
        if *at < until && ended + AFTERMATH > from {
            let _ = writeln!(text, "    {what}, {:.1} s to {:.1} s", seconds(*at), seconds(*ended));
        }
    }
}

fn errors(text: &mut String, history: &History) {
    let mut errors: Vec<(&String, &u64)> = history.errors.iter().collect();
    errors.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    text.push_str("errors that clients met:\n");
    for (error, count) in errors.iter().take(ERRORS_SHOWN) {
        let _ = writeln!(text, "{count:>7}  {error}");
    }
    if errors.len() > ERRORS_SHOWN {
        let _ = writeln!(text, "         and {} other texts", errors.len() - ERRORS_SHOWN);
    }
}

fn anomalies(text: &mut String, report: &Report) {
    for ((level, class), found) in &report.allowed {
        let _ = writeln!(text, "allowed by {level:?}: {} of {class}", found.count);
    }
    if report.violations.is_empty() {
        text.push_str("anomalies: none\n");
        return;
    }
    text.push_str("ANOMALIES\n");
    for (class, Found { count, told }) in &report.violations {
        let _ = writeln!(text, "{count:>6}  {class}");
        told.iter().for_each(|one| {
            let _ = writeln!(text, "        {one}");
        });
    }
}
