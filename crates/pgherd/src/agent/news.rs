//! What nodes tell each other for people alone: their latest events, where they are reached, and what their proxies
//! counted during a failover.
//!
//! What it is: so that whoever looks at one node sees what happened on all of them. What it is not: a base for decisions;
//! nothing here reaches the brain. Each message has all that its node tells, so a lost one costs time only.
//! Invariant: what is kept of each peer is bounded, and so is the number of peers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::events::{Event, EventLog};
use super::failover::ProxyReport;
use crate::peer::{Channel, Link};

/// Soon enough for a person who watches.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// For whoever missed the last one.
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);

/// A takeover has some twenty events on each node, of some 300 bytes: 20 kB a message at most each `LOOK_INTERVAL`.
const EVENTS_TOLD_MAX: usize = 64;

/// Of one peer. The dashboard shows no more of all of them.
const EVENTS_HEARD_MAX: usize = 500;

/// A cluster has five nodes; more than these were members once.
const PEERS_MAX: usize = 16;

/// `host:port` of what a node offers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Doors {
    pub http: String,
    /// HTTP is spoken with TLS there.
    #[serde(default)]
    pub https: bool,
    pub read_write: String,
    pub read_only: String,
    pub auto: String,
}

impl Doors {
    /// `http://host:port` or `https://host:port`.
    pub fn http_url(&self) -> String {
        format!("{}://{}", if self.https { "https" } else { "http" }, self.http)
    }
}

#[derive(Serialize, Deserialize)]
struct Message {
    doors: Doors,
    /// The latest of the node that tells, oldest first.
    events: Vec<Event>,
    /// What its proxy counted during the last failover that it has seen.
    #[serde(default)]
    proxy: Option<ProxyReport>,
}

/// What the peers have told, and what this node tells of itself.
pub struct News {
    own: Doors,
    heard: Mutex<BTreeMap<String, Message>>,
    proxy: ArcSwapOption<ProxyReport>,
}

impl News {
    pub fn new(own: Doors) -> News {
        News { own, heard: Mutex::default(), proxy: ArcSwapOption::empty() }
    }

    pub fn own(&self) -> &Doors {
        &self.own
    }

    pub fn doors_of(&self, node: &str) -> Option<Doors> {
        Some(self.heard.lock().ok()?.get(node)?.doors.clone())
    }

    /// Of each peer the newest `limit` events with an id above `after` of its name.
    pub fn events(&self, after: impl Fn(&str) -> u64, limit: usize) -> Vec<Event> {
        let Ok(heard) = self.heard.lock() else { return Vec::new() };
        let newer = |(node, message): (&String, &Message)| {
            let latest = message.events.last().map_or(0, |event| event.id);
            // A node that has lost its log counts from the beginning again.
            let after = Some(after(node)).filter(|&id| id <= latest).unwrap_or(0);
            let newer: Vec<Event> =
                message.events.iter().filter(|event| event.id > after).rev().take(limit).cloned().collect();
            newer.into_iter().rev()
        };
        heard.iter().flat_map(newer).collect()
    }

    /// What the own proxy counted during a failover; told from now on.
    pub fn tell_proxy(&self, report: ProxyReport) {
        self.proxy.store(Some(Arc::new(report)));
    }

    /// What each proxy, this node's included, counted during the failover that made the primary of `timeline`.
    pub fn proxies(&self, timeline: u32) -> Vec<ProxyReport> {
        let own = self.proxy.load_full().map(|report| report.as_ref().clone());
        let Ok(heard) = self.heard.lock() else { return Vec::new() };
        let told = heard.values().filter_map(|message| message.proxy.clone());
        own.into_iter().chain(told).filter(|report| report.timeline == timeline).collect()
    }

    /// A message from `node`. One that cannot be read is a later version's, and costs people a line.
    pub fn hear(&self, node: &str, payload: &[u8]) {
        let Ok(mut message) = serde_json::from_slice::<Message>(payload) else {
            tracing::debug!(node, "its news cannot be read");
            return;
        };
        message.events.retain(|event| event.node == node);
        message.proxy = message.proxy.filter(|report| report.node == node);
        let surplus = message.events.len().saturating_sub(EVENTS_HEARD_MAX);
        message.events.drain(..surplus);
        let Ok(mut heard) = self.heard.lock() else { return };
        let Some(known) = heard.get_mut(node) else {
            if heard.len() < PEERS_MAX {
                heard.insert(node.to_owned(), message);
            }
            return;
        };
        let latest = |message: &Message| message.events.last().map_or(0, |event| event.id);
        if latest(&message) < latest(known) {
            *known = message;
            return;
        }
        let after = latest(known);
        known.events.extend(message.events.into_iter().filter(|event| event.id > after));
        let surplus = known.events.len().saturating_sub(EVENTS_HEARD_MAX);
        known.events.drain(..surplus);
        (known.doors, known.proxy) = (message.doors, message.proxy);
    }
}

/// Tells every peer what is new here as soon as it is, and everything again now and then.
pub async fn tell(news: Arc<News>, events: Arc<EventLog>, link: Arc<Link>) {
    let mut connected = link.watch_connected();
    let (mut told, mut told_at) = (None, Instant::now());
    loop {
        let peers = connected.borrow_and_update().clone();
        let state = (events.latest(), peers, news.proxy.load_full());
        if told.as_ref() != Some(&state) || told_at.elapsed() >= REPEAT_INTERVAL {
            send(&news, &events, &link, &state.1);
            (told, told_at) = (Some(state), Instant::now());
        }
        if paused(&mut connected).await.is_err() {
            return;
        }
    }
}

/// Until it is time to look again.
async fn paused(connected: &mut watch::Receiver<BTreeSet<String>>) -> Result<(), watch::error::RecvError> {
    tokio::time::sleep(LOOK_INTERVAL).await;
    connected.has_changed().map(drop)
}

fn send(news: &News, events: &EventLog, link: &Link, peers: &BTreeSet<String>) {
    let message = Message {
        doors: news.own.clone(),
        events: events.after(0, EVENTS_TOLD_MAX),
        proxy: news.proxy.load_full().map(|report| report.as_ref().clone()),
    };
    match serde_json::to_vec(&message) {
        Ok(payload) => {
            let payload = bytes::Bytes::from(payload);
            for peer in peers {
                // A peer that takes nothing now is told again.
                let _ = link.send(peer, Channel::News, payload.clone());
            }
        }
        Err(error) => tracing::warn!(%error, "this node's news cannot be written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(ids: std::ops::RangeInclusive<u64>) -> Vec<u8> {
        let event = |id| Event {
            id,
            at: format!("2026-01-02T03:04:{id:02}Z"),
            node: "n2".into(),
            term: 1,
            rule: String::new(),
            what: id.to_string(),
            why: Vec::new(),
        };
        let doors = Doors { http: "h:1".into(), ..Doors::default() };
        serde_json::to_vec(&Message { doors, events: ids.map(event).collect(), proxy: None }).unwrap()
    }

    fn ids(news: &News, after: u64, limit: usize) -> Vec<u64> {
        news.events(|_| after, limit).into_iter().map(|event| event.id).collect()
    }

    #[test]
    fn each_event_is_heard_once_and_a_lost_message_costs_nothing() {
        let news = News::new(Doors::default());
        assert_eq!(news.doors_of("n2"), None);
        news.hear("n2", &message(1..=3));
        news.hear("n2", &message(2..=6));
        news.hear("n2", b"of a later version");
        assert_eq!(ids(&news, 0, 100), [1, 2, 3, 4, 5, 6]);
        assert_eq!(ids(&news, 4, 100), [5, 6]);
        assert_eq!(ids(&news, 0, 2), [5, 6]);
        assert_eq!(news.doors_of("n2").unwrap().http, "h:1");
    }

    #[test]
    fn a_node_that_lost_its_log_begins_again_and_nobody_speaks_for_another() {
        let news = News::new(Doors::default());
        news.hear("n2", &message(7..=9));
        news.hear("n2", &message(1..=2));
        assert_eq!(ids(&news, 0, 100), [1, 2]);
        assert_eq!(ids(&news, 9, 100), [1, 2], "a cursor of before");
        news.hear("n3", &message(1..=2));
        assert_eq!(ids(&news, 0, 100), [1, 2], "n3 told of n2's");
    }

    #[test]
    fn each_node_tells_of_its_own_proxy_and_of_the_last_failover() {
        let report = |node: &str, timeline| ProxyReport {
            node: node.into(),
            timeline,
            away_ms: 1,
            held: 2,
            moved: 0,
            cut: 0,
            timed_out: 0,
        };
        let news = News::new(Doors::default());
        news.tell_proxy(report("n1", 3));
        for (told_by, of) in [("n2", "n2"), ("n3", "n2")] {
            let proxy = Some(report(of, 3));
            let message = Message { doors: Doors::default(), events: Vec::new(), proxy };
            news.hear(told_by, &serde_json::to_vec(&message).unwrap());
        }
        let nodes: Vec<String> = news.proxies(3).into_iter().map(|report| report.node).collect();
        assert_eq!(nodes, ["n1", "n2"], "n3 told of n2's");
        assert!(news.proxies(4).is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let news = News::new(Doors::default());
        for first in (1..=2_000).step_by(50) {
            news.hear("n2", &message(first..=first + 49));
        }
        assert_eq!(ids(&news, 0, usize::MAX).len(), EVENTS_HEARD_MAX);
        for peer in 0..100 {
            news.hear(&format!("p{peer}"), &message(1..=1));
        }
        assert_eq!(news.heard.lock().unwrap().len(), PEERS_MAX);
    }
}
