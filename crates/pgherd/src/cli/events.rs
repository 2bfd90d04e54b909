//! `pgherd events`: what pgherd did, and why.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;

use super::client::Client;
use super::failure::Failure;
use super::interrupt::Interrupt;
use super::target::TargetArgs;
use super::{OutputArgs, print, print_json};
use crate::api::{EVENTS_PER_ANSWER_MAX, EventRecord};

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
    let mut reader = Reader::new(&client);
    let mut page = reader.next()?;
    page.drain(..page.len().saturating_sub(usize::from(args.limit)));
    if args.output.is_json() && !args.follow {
        return print_json(&page);
    }
    if page.is_empty() && !args.follow {
        return print("no events yet\n");
    }
    let interrupt = if args.follow { Some(Interrupt::listen()?) } else { None };
    loop {
        for event in &page {
            print(&line(event, args.output.is_json()))?;
        }
        match &interrupt {
            Some(interrupt) if !interrupt.wait(FOLLOW_INTERVAL) => {}
            _ => return Ok(()),
        }
        // A cluster that is away for a moment is what one follows events for.
        page = reader.next().unwrap_or_default();
    }
}

/// Reads on from where it was at each node, and puts together what they tell: a node tells what it did itself, and
/// may tell what others did, so the same event may come more than once.
struct Reader<'a> {
    client: &'a Client,
    /// The last id seen at each address.
    seen: Vec<u64>,
    /// What was shown already: time, node and what.
    known: BTreeSet<(String, String, String)>,
}

impl Reader<'_> {
    fn new(client: &Client) -> Reader<'_> {
        Reader { client, seen: vec![0; client.address_count()], known: BTreeSet::new() }
    }

    /// Events that are new since the last call, oldest first.
    fn next(&mut self) -> Result<Vec<EventRecord>, Failure> {
        let mut fresh = Vec::new();
        loop {
            let pages = self.client.ask_each::<Vec<EventRecord>>(|index| {
                format!("/api/v1/events?after={}&limit={EVENTS_PER_ANSWER_MAX}", self.seen[index])
            })?;
            let mut more = false;
            for (seen, page) in self.seen.iter_mut().zip(pages.into_iter().map(Option::unwrap_or_default)) {
                more |= page.len() == EVENTS_PER_ANSWER_MAX;
                for event in page {
                    *seen = event.id.max(*seen);
                    if self.known.insert((event.at.clone(), event.node.clone(), event.what.clone())) {
                        fresh.push(event);
                    }
                }
            }
            if !more {
                break;
            }
        }
        fresh.sort_by(|left, right| (&left.at, left.id).cmp(&(&right.at, right.id)));
        Ok(fresh)
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
    use crate::agent::{Command, Refusal};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::api::{self, ClusterView, Explanation, StatusReport};
    use crate::cli::target::Address;

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

    /// A node that tells these events.
    struct Tells(Vec<EventRecord>);

    impl ClusterView for Tells {
        fn own(&self) -> api::OwnReport {
            unreachable!("nobody asks for it here")
        }

        fn history(&self) -> Vec<api::PastTimeline> {
            unreachable!("nobody asks for it here")
        }

        fn failovers(&self) -> Result<Vec<api::FailoverReport>, Refusal> {
            unreachable!("nobody asks for it here")
        }

        fn metrics(&self) -> api::BoxFuture<'_, String> {
            unreachable!("nobody asks for it here")
        }

        fn status(&self) -> StatusReport {
            unreachable!("nobody asks for it here")
        }

        fn events(&self, after: u64, limit: usize) -> Vec<EventRecord> {
            self.0.iter().filter(|event| event.id > after).take(limit).cloned().collect()
        }

        fn events_of_all(&self, _: &BTreeMap<String, u64>, _: usize) -> Vec<EventRecord> {
            unreachable!("nobody asks for it here")
        }

        fn explain(&self, _: Option<&str>) -> Vec<Explanation> {
            Vec::new()
        }

        fn configuration(&self) -> Result<api::ConfigReport, crate::agent::Refusal> {
            unreachable!("nobody asks for it here")
        }

        fn configure(
            &self,
            _: api::NewConfig,
            _: String,
        ) -> api::BoxFuture<'_, Result<api::ConfigChange, crate::agent::Refusal>> {
            unreachable!("nobody asks for it here")
        }

        fn members(&self) -> api::MembersReport {
            unreachable!("nobody asks for it here")
        }

        fn examine(&self) -> api::BoxFuture<'_, crate::doctor::DoctorReport> {
            unreachable!("nobody asks for it here")
        }

        fn change_members(&self, _: api::MemberChange) -> api::BoxFuture<'_, Result<u64, Refusal>> {
            unreachable!("nobody asks for it here")
        }

        fn requests(&self) -> Vec<api::RequestReport> {
            Vec::new()
        }

        fn command(&self, _: Command) -> api::BoxFuture<'_, Result<Option<u64>, Refusal>> {
            unreachable!("nobody asks for it here")
        }
    }

    fn event(id: u64, second: u64, node: &str) -> EventRecord {
        EventRecord {
            id,
            at: format!("2026-01-02T03:04:{second:02}Z"),
            node: node.into(),
            term: 1,
            rule: String::new(),
            what: format!("at {second}"),
            why: String::new(),
        }
    }

    #[test]
    fn what_several_nodes_tell_is_put_in_order_once() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let serve = |events: Vec<EventRecord>| {
            let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            runtime.spawn(api::serve(
                listener,
                api::Door::of_this_machine(),
                Arc::new(Tells(events)),
                std::future::pending(),
            ));
            Address { node: None, url, cert: None }
        };
        let addresses = vec![
            serve(vec![event(1, 10, "n1"), event(2, 30, "n1")]),
            serve(vec![event(7, 20, "n2"), event(9, 30, "n1")]),
            Address { node: None, url: "http://127.0.0.1:1".into(), cert: None },
        ];
        let client = Client::of(addresses).unwrap();
        let mut reader = Reader::new(&client);
        let told: Vec<String> = reader.next().unwrap().into_iter().map(|event| event.what).collect();
        assert_eq!(told, ["at 10", "at 20", "at 30"]);
        assert!(reader.next().unwrap().is_empty(), "nothing is new");
    }
}
