//! `pgherd events`: what pgherd did, and why.

use std::time::Duration;

use clap::Args;

use super::client::Client;
use super::failure::Failure;
use super::interrupt::Interrupt;
use super::target::TargetArgs;
use super::{OutputArgs, print, print_json};
use crate::api::EventRecord;

/// How often `--follow` asks: soon enough for a person, nothing for a node.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Args, Debug)]
pub struct EventsArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Go on as new events come, until Ctrl-C; with JSON, one object a line
    #[arg(long, short = 'f')]
    follow: bool,
    /// At most so many of the latest events
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

pub fn events(args: &EventsArgs) -> Result<(), Failure> {
    let client = Client::new(&args.target)?;
    let mut page = latest(&client, usize::from(args.limit))?;
    if args.output.is_json() && !args.follow {
        return print_json(&page);
    }
    if page.is_empty() && !args.follow {
        return print("no events yet\n");
    }
    let interrupt = if args.follow { Some(Interrupt::listen()?) } else { None };
    let mut seen = 0;
    loop {
        for event in &page {
            seen = seen.max(event.id);
            print(&line(event, args.output.is_json()))?;
        }
        match &interrupt {
            Some(interrupt) if !interrupt.wait(FOLLOW_INTERVAL) => {}
            _ => return Ok(()),
        }
        page = client.ask(&format!("/api/v1/events?after={seen}"))?;
    }
}

/// The route pages forward from an id, so the latest are found by walking; a node keeps a bounded number of events.
fn latest(client: &Client, limit: usize) -> Result<Vec<EventRecord>, Failure> {
    let mut kept: Vec<EventRecord> = Vec::new();
    loop {
        let after = kept.last().map_or(0, |event| event.id);
        let page: Vec<EventRecord> = client
            .ask(&format!("/api/v1/events?after={after}&limit={}", crate::api::EVENTS_PER_ANSWER_MAX))?;
        let is_last = page.len() < crate::api::EVENTS_PER_ANSWER_MAX;
        kept.extend(page);
        kept.drain(..kept.len().saturating_sub(limit));
        if is_last {
            return Ok(kept);
        }
    }
}

fn line(event: &EventRecord, json: bool) -> String {
    if json {
        // A record of plain strings and numbers always has a JSON form.
        return serde_json::to_string(event).map(|text| text + "\n").unwrap_or_default();
    }
    human_line(event)
}

/// `03:04:05.123Z  n1  term 2  what (why) [rule]`
pub fn human_line(event: &EventRecord) -> String {
    let why = if event.why.is_empty() { String::new() } else { format!(" ({})", event.why) };
    let rule = if event.rule.is_empty() { String::new() } else { format!(" [{}]", event.rule) };
    format!("{}  {:<4}  term {}  {}{why}{rule}\n", event.at, event.node, event.term, event.what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_who_what_why_and_by_which_rule() {
        let event = EventRecord {
            id: 7,
            at: "2026-01-02T03:04:05.123Z".into(),
            node: "n2".into(),
            term: 3,
            rule: "takeover".into(),
            what: "promoted".into(),
            why: "n1 is silent for 2 s".into(),
        };
        let line = human_line(&event);
        assert_eq!(
            line,
            "2026-01-02T03:04:05.123Z  n2    term 3  promoted (n1 is silent for 2 s) [takeover]\n"
        );
    }
}
