//! Questions to all hosts of the origin, as each agent asks them again and again, and what it makes of the answers.
//!
//! Invariant: a report is of the hosts that were wanted when it was begun, and says when that was; each answer is of some
//! moment after that.

use brain::{Ask, Millis, OriginAnswer, OriginHost, OriginPrimary, OriginReport, View};

use super::Origin;
use crate::event::Event;
use crate::wal::lsn;
use crate::world::{SYSTEM_ID, World};

/// By the head, and by whoever waits for an answer; by everybody else.
const INTERVAL_US: u64 = 500_000;
const INTERVAL_IDLE_US: u64 = 3_000_000;
/// How often it is seen whether a look is due.
const TICK_US: u64 = 100_000;
/// A host from which nothing comes.
const TIMEOUT_US: u64 = 2_000_000;

/// The task of one agent that looks.
#[derive(Default)]
pub struct Looking {
    boot: u64,
    under_way: bool,
    ended_us: u64,
    wanted: (Vec<String>, bool),
}

/// Somebody waits for what is seen there.
fn is_awaited(view: &View) -> bool {
    let turning = |request: &brain::Request| matches!(request.ask, Ask::Promote { .. } | Ask::Demote { .. });
    view.record().is_none() || view.is_head() || view.requests().any(turning)
}

impl World {
    /// A new agent looks, where there may be something to look at.
    pub fn start_looking(&mut self, node: usize, boot: u64) {
        let Some(origin) = &mut self.origin else { return };
        origin.looks[node] = Looking { boot, ..Looking::default() };
        self.after(TICK_US, Event::OriginTick { node, boot });
    }

    pub fn origin_tick(&mut self, node: usize, boot: u64) {
        let (now_us, now) = (self.now_us, self.clock(node));
        let delay = self.dice.millis(1..30);
        self.after(TICK_US, Event::OriginTick { node, boot });
        let Some(agent) = &mut self.nodes[node].agent else { return };
        let hosts = agent.view.origin_hosts();
        if hosts.is_empty() {
            agent.view.origin = OriginReport::default();
            return;
        }
        let wanted = (hosts, is_awaited(&agent.view));
        let Some(looking) = self.origin.as_mut().map(|origin| &mut origin.looks[node]) else { return };
        let interval = if wanted.1 { INTERVAL_US } else { INTERVAL_IDLE_US };
        let due = looking.wanted != wanted || now_us >= looking.ended_us + interval;
        if looking.under_way || looking.boot != boot || !due {
            return;
        }
        (looking.under_way, looking.wanted) = (true, wanted);
        self.after(delay, Event::OriginAsked { node, boot, begun: now });
    }

    fn origin_says(&self, node: usize, address: &str) -> OriginAnswer {
        let silent = |words: &str| OriginAnswer::Silent(words.to_owned());
        let host = Origin::host_of(address).zip(self.origin.as_ref());
        let Some((number, host)) = host.and_then(|(n, origin)| Some((n, origin.hosts.get(n)?))) else {
            return silent("no such host");
        };
        match host.log() {
            _ if !self.origin_answers(node, number) => silent("no answer"),
            Some(wal) => OriginAnswer::Primary(OriginPrimary {
                system_id: SYSTEM_ID,
                history: wal.history(),
                flush: lsn(wal.flushed),
            }),
            None => OriginAnswer::Standby,
        }
    }

    /// The hosts are asked; the report comes when all have answered or will not.
    pub fn origin_asked(&mut self, node: usize, boot: u64, begun: Millis) {
        let Some(origin) = &self.origin else { return };
        let addresses = origin.looks[node].wanted.0.clone();
        let receiver = self.nodes[node].server.receiver.as_ref().map(|receiver| receiver.connection);
        let feed = origin.feeds.iter().find(|feed| Some(feed.connection) == receiver);
        let sender = feed.map(|feed| Origin::addresses(origin.hosts.len())[feed.host].clone());
        let waits = |address: &String| {
            let Some(host) = Origin::host_of(address).filter(|host| *host < origin.hosts.len()) else {
                return false;
            };
            origin.hosts[host].frozen || !self.origin_line(node, host)
        };
        let waits = addresses.iter().any(waits);
        let hosts = addresses
            .into_iter()
            .map(|address| OriginHost { answer: self.origin_says(node, &address), address });
        let report =
            OriginReport { hosts: hosts.collect(), begun, sender, streamed_at: None, last_commit: None };
        let most = if waits { TIMEOUT_US } else { 0 };
        let delay = most + self.dice.millis(1..20);
        self.after(delay, Event::OriginSeen { node, boot, report: Box::new(report) });
    }

    pub fn origin_seen(&mut self, node: usize, mut report: OriginReport) {
        let (now_us, wall_s) = (self.now_us, self.wall_s());
        if let Some(origin) = &mut self.origin {
            (origin.looks[node].under_way, origin.looks[node].ended_us) = (false, now_us);
        }
        let Some(agent) = self.agent(node) else { return };
        let hosts = agent.view.origin_hosts();
        if report.hosts.iter().any(|host| !hosts.contains(&host.address)) {
            return;
        }
        let streams = agent.view.is_head() && agent.view.streams_as_recorded();
        report.streamed_at = if streams { Some(wall_s) } else { agent.view.origin.streamed_at };
        agent.view.origin = report;
        self.turn(node);
    }
}
