//! The cluster that a standby cluster follows, in a world where everything else is the cluster's own.

use brain::{OriginAnswer, OriginHost, OriginPrimary, OriginReport, View};
use wire::{Branch, History, Lsn, Timeline};

use super::World;

/// The cluster that a standby cluster follows, as far as it is seen from there: one server that answers as a primary.
pub(super) struct Origin {
    pub lives: bool,
    /// It streams, and answers no look in time.
    pub mute: bool,
    /// It answers a look, and refuses every login that would take its WAL.
    pub refuses: bool,
    /// Nobody can stream from an earlier place.
    pub kept_from: Lsn,
    pub history: History,
    pub end: Lsn,
}

impl World {
    /// `origin write 500`, `origin takeover`, `origin lose 200` (a takeover that loses the last bytes), `origin kill`,
    /// `origin start`, `origin mute` (no look is answered in time), `origin speak`, `origin recycle` (its older WAL), `origin refuse` (logins; it answers still), `origin admit`; `origin appear 7`: another cluster of this one's history, on that timeline.
    pub fn origin(&mut self, words: &[&str]) {
        self.note(&format!("origin {}", words.join(" ")));
        let number = || words[1].parse::<u64>().unwrap();
        if words[0] == "appear" {
            let ours =
                self.nodes.values().filter_map(|node| node.server.as_ref()).max_by_key(|s| s.end).unwrap();
            let mut other = Origin {
                lives: true,
                mute: false,
                refuses: false,
                kept_from: Lsn::ZERO,
                history: ours.history.clone(),
                end: ours.end,
            };
            other.history = branched(&other.history, other.end, Timeline(number() as u32));
            other.end = Lsn(other.end.0 + 0x100);
            self.origin = Some(other);
            return;
        }
        let origin = self.origin.as_mut().expect("origin=HOST makes one");
        match words[0] {
            "write" => origin.end = Lsn(origin.end.0 + number()),
            "kill" => origin.lives = false,
            "start" => origin.lives = true,
            "mute" => origin.mute = true,
            "speak" => origin.mute = false,
            "recycle" => origin.kept_from = origin.end,
            "refuse" => origin.refuses = true,
            "admit" => origin.refuses = false,
            "takeover" | "lose" => {
                let lost = if words[0] == "lose" { number() } else { 0 };
                let fork = Lsn(origin.end.0 - lost);
                origin.history = branched(&origin.history, fork, origin.history.current.next());
                origin.end = Lsn(fork.0 + 0x100);
            }
            other => panic!("an origin cannot {other}"),
        }
    }

    pub(super) fn look_at_origin(&self, view: &View) -> OriginReport {
        let report = |address: String| {
            let answer = match self.origin.as_ref().filter(|origin| origin.lives && !origin.mute) {
                Some(Origin { history, end, .. }) => OriginAnswer::Primary(OriginPrimary {
                    system_id: 7,
                    history: history.clone(),
                    flush: *end,
                }),
                None => OriginAnswer::Silent("connection refused".into()),
            };
            OriginHost { address, answer }
        };
        let hosts: Vec<OriginHost> = view.origin_hosts().into_iter().map(report).collect();
        let streams = view.postgres.standby().is_some_and(|standby| standby.streaming) && view.is_head();
        let sender = hosts.first().map(|host| host.address.clone()).filter(|_| streams);
        OriginReport { hosts, begun: self.now, sender, streamed_at: None, last_commit: None }
    }
}

impl Origin {
    pub fn new(timeline: Timeline, end: Lsn) -> Origin {
        let first = History::root(Timeline(1));
        Origin {
            lives: true,
            mute: false,
            refuses: false,
            kept_from: Lsn::ZERO,
            history: branched(&first, Lsn(0x1000), timeline),
            end,
        }
    }
}

/// The history of a server that leaves `history` at `end` for `timeline`.
pub(super) fn branched(history: &History, end: Lsn, timeline: Timeline) -> History {
    let left = Branch { timeline: history.timeline_at(end), end };
    let mut ancestors = history.ancestors.clone();
    ancestors.retain(|branch| branch.timeline < left.timeline);
    ancestors.push(left);
    History { ancestors, current: timeline }
}
