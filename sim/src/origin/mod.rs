//! The cluster that a standby cluster follows, as a small model of its own: its *origin*.
//!
//! What it is: hosts of which one writes, takeovers, losses, lines to each node. `stream` sends its WAL, `look` answers
//! questions, `storm` draws and strikes. What it is not: a cluster under pgherd; how it comes to a takeover is not modelled.
//! Invariant: each of its timelines is used once by it, and what is flushed there is kept until a takeover loses it.

mod look;
mod storm;
mod stream;

pub use look::Looking;
pub use storm::{Came, Course, draw};
pub use stream::Feed;

use wire::Timeline;

use crate::event::Event;
use crate::wal::{Kind, Record, Wal, segment_start};
use crate::world::World;

pub enum Role {
    /// It follows whichever is the primary.
    Standby,
    Primary(Wal),
}

/// One PostgreSQL of the origin.
pub struct Host {
    pub up: bool,
    pub frozen: bool,
    pub role: Role,
    /// Which run of it this is; no two runs of any host have one number.
    pub run: u64,
}

impl Host {
    pub fn answers(&self) -> bool {
        self.up && !self.frozen
    }

    /// Its log, while it writes one.
    pub fn log(&self) -> Option<&Wal> {
        match &self.role {
            Role::Primary(wal) => Some(wal),
            Role::Standby => None,
        }
    }
}

pub struct Origin {
    pub hosts: Vec<Host>,
    /// It lets no receiver and no copy in; it answers looks.
    pub refuses: bool,
    /// Nobody can stream from an earlier record.
    pub kept_from: usize,
    pub feeds: Vec<Feed>,
    pub looks: Vec<Looking>,
    /// Lines that are cut, by strike: one node's or all nodes', to one host or to all.
    cuts: Vec<(usize, Option<usize>, Option<usize>)>,
    /// By node and host: since when a question has been answered without a break.
    reached: Vec<Option<u64>>,
    /// The first record that it wrote itself; what comes before it has from this cluster.
    pub own_from: usize,
    /// The highest timeline that it has used.
    timeline: Timeline,
    /// It goes on writing this often.
    pace_us: u64,
}

impl Origin {
    pub fn new(course: &Course, nodes: usize) -> Origin {
        let host = |run: usize| Host { up: false, frozen: false, role: Role::Standby, run: run as u64 };
        Origin {
            hosts: (0..course.hosts).map(host).collect(),
            refuses: false,
            kept_from: 0,
            own_from: 0,
            feeds: Vec::new(),
            looks: (0..nodes).map(|_| Looking::default()).collect(),
            cuts: Vec::new(),
            reached: vec![None; nodes * course.hosts],
            timeline: Timeline::FIRST,
            pace_us: course.pace_us,
        }
    }

    /// `host:port` of each.
    pub fn addresses(hosts: usize) -> Vec<String> {
        (1..=hosts).map(|host| format!("o{host}:5432")).collect()
    }

    pub fn host_of(address: &str) -> Option<usize> {
        let number: usize = address.strip_prefix('o')?.strip_suffix(":5432")?.parse().ok()?;
        number.checked_sub(1)
    }

    /// The primary of the highest timeline, up or not: what it has is the origin's WAL.
    pub fn newest(&self) -> Option<(usize, &Wal)> {
        let logs = self.hosts.iter().enumerate().filter_map(|(host, it)| Some((host, it.log()?)));
        logs.max_by_key(|(_, wal)| wal.timeline())
    }

    /// The same, when it answers.
    pub fn primary(&self) -> Option<usize> {
        let (host, _) = self.newest()?;
        self.hosts[host].answers().then_some(host)
    }

    /// It has been made: some host has had a log.
    pub fn exists(&self) -> bool {
        self.newest().is_some()
    }

    fn new_run(&mut self) -> u64 {
        1 + self.hosts.iter().map(|host| host.run).max().unwrap_or(0)
    }

    /// The first host begins with this log.
    fn begin(&mut self, mut wal: Wal) {
        wal.flushed = wal.len();
        self.timeline = self.timeline.max(wal.timeline());
        self.hosts.iter_mut().for_each(|host| host.up = true);
        self.hosts[0].role = Role::Primary(wal);
    }

    /// Its processes end: receivers lose their connections.
    fn stop_host(&mut self, host: usize) {
        let run = self.new_run();
        let it = &mut self.hosts[host];
        (it.up, it.frozen, it.run) = (false, false, run);
        self.feeds.retain(|feed| feed.host != host);
    }

    /// It is up again; who was deposed follows the newest.
    fn start_host(&mut self, host: usize) {
        let newest = self.newest().map(|(newest, _)| newest);
        let run = self.new_run();
        let it = &mut self.hosts[host];
        (it.up, it.frozen, it.run) = (true, false, run);
        if newest != Some(host) {
            it.role = Role::Standby;
            self.feeds.retain(|feed| feed.host != host);
        }
    }

    /// Another host goes on from the newest log without its last records; the old one is dead, or goes on unknowing.
    fn take_over(&mut self, loses: usize, goes_on: bool, id: u64) {
        let Some((old, wal)) = self.newest() else { return };
        let mut wal = wal.clone();
        wal.truncate(wal.len().saturating_sub(loses).max(3));
        self.timeline = Timeline(self.timeline.0 + 1);
        wal.push(Record { id, timeline: self.timeline, kind: Kind::Filler });
        wal.flushed = wal.len();
        let new = (old + 1) % self.hosts.len();
        if new == old || !goes_on {
            self.stop_host(old);
            self.hosts[old].role = Role::Standby;
        }
        let run = self.new_run();
        self.hosts[new] = Host { up: true, frozen: false, role: Role::Primary(wal), run };
        self.feeds.retain(|feed| feed.host != new);
    }

    /// Its older WAL is gone.
    fn recycle(&mut self) {
        if let Some((_, wal)) = self.newest() {
            self.kept_from = segment_start(wal.len());
        }
    }

    fn cut(&self, node: usize, host: usize) -> bool {
        let concerns = |of: Option<usize>, this: usize| of.is_none_or(|of| of == this);
        self.cuts.iter().any(|(_, nodes, hosts)| concerns(*nodes, node) && concerns(*hosts, host))
    }
}

impl World {
    /// A packet between this node and this host of the origin gets through, both ways.
    pub fn origin_line(&self, node: usize, host: usize) -> bool {
        let alone = self.plan.faults.iter().any(|fault| {
            use crate::plan::Kind::{CutNode, Deaf, Mute};
            fault.active == Some(node) && matches!(fault.kind, CutNode | Mute | Deaf)
        });
        let cut = self.origin.as_ref().is_none_or(|origin| origin.cut(node, host));
        !alone && !cut
    }

    /// This node's questions to this host are answered.
    pub fn origin_answers(&self, node: usize, host: usize) -> bool {
        let up = self.origin.as_ref().is_some_and(|origin| origin.hosts[host].answers());
        up && self.origin_line(node, host)
    }

    /// Lines or hosts have changed: since when does who answer whom?
    pub fn note_reach(&mut self) {
        let Some(hosts) = self.origin.as_ref().map(|origin| origin.hosts.len()) else { return };
        let now_us = self.now_us;
        for node in 0..self.nodes.len() {
            for host in 0..hosts {
                let answers = self.origin_answers(node, host);
                if let Some(origin) = &mut self.origin {
                    let since = &mut origin.reached[node * hosts + host];
                    *since = answers.then(|| since.unwrap_or(now_us));
                }
            }
        }
    }

    /// A host that has answered this node for at least as long as since then.
    pub fn answered_since(&self, node: usize, since_us: u64) -> Option<usize> {
        let origin = self.origin.as_ref()?;
        let hosts = origin.hosts.len();
        let long = |host: &usize| origin.reached[node * hosts + host].is_some_and(|at| at <= since_us);
        (0..hosts).find(long)
    }

    /// It exists, its primary answers, and takes receivers: this node can follow it.
    pub fn origin_serves(&self, node: usize) -> Option<usize> {
        let origin = self.origin.as_ref().filter(|origin| !origin.refuses)?;
        origin.primary().filter(|host| self.origin_line(node, *host))
    }

    /// Whoever is primary there writes a record.
    pub fn origin_writes(&mut self) {
        let Some(origin) = &self.origin else { return };
        let (pace_us, count) = (origin.pace_us, origin.hosts.len());
        let pause = pace_us / 2 + self.dice.within(0..pace_us);
        self.after(pause, Event::OriginWrites);
        for host in 0..count {
            let id = self.next_id();
            let Some(Host { role: Role::Primary(wal), up: true, frozen: false, .. }) =
                self.origin.as_mut().map(|origin| &mut origin.hosts[host])
            else {
                continue;
            };
            wal.push(Record { id, timeline: wal.timeline(), kind: Kind::Commit });
            wal.flushed = wal.len();
            self.feed_all(host);
        }
    }

    /// An origin that a standby cluster follows from its start has a past.
    pub fn begin_origin(&mut self) {
        let Some(course) = self.plan.origin.clone() else { return };
        self.origin = Some(Origin::new(&course, self.nodes.len()));
        if course.came == Came::First {
            let mut wal = Wal::default();
            let past = 40 + self.dice.index(200);
            for place in 0..past {
                let kind = if place == 1 { Kind::Roles } else { Kind::Filler };
                let timeline = Timeline(1 + u32::from(place > past / 2));
                wal.push(Record { id: self.next_id(), timeline, kind });
            }
            if let Some(origin) = &mut self.origin {
                origin.begin(wal);
            }
        }
        self.after(course.pace_us, Event::OriginWrites);
        self.note_reach();
    }

    /// Another cluster is there that was copied from this one and promoted: it begins with WAL of this one's primary, without
    /// the last records, on a timeline that leaves room.
    pub fn appear(&mut self, loses: usize) -> bool {
        let store = self.store.newest();
        let Some(primary) = self.recorded_primary().filter(|node| self.nodes[*node].server.writes()) else {
            return false;
        };
        let timelines = store.timelines.iter().flat_map(|timelines| &timelines.value);
        let highest = timelines.map(|recorded| recorded.timeline.0).max().unwrap_or(1);
        let Some(mut wal) = self.nodes[primary].server.wal.as_ref().map(Wal::copy_flushed) else {
            return false;
        };
        if !wal.has_roles() {
            return false;
        }
        wal.truncate(wal.len().saturating_sub(loses).max(3));
        let timeline = Timeline(highest + 1 + 8);
        let own_from = wal.len();
        wal.push(Record { id: self.next_id(), timeline, kind: Kind::Filler });
        if let Some(origin) = &mut self.origin {
            origin.begin(wal);
            origin.own_from = own_from;
        }
        self.note_reach();
        true
    }

    /// Switchovers there, one after the other, until it is above every timeline of this cluster; each takes the next id.
    pub fn raise_origin(&mut self) {
        let own = (0..self.nodes.len()).map(|node| self.nodes[node].server.timeline()).max();
        let timelines = self.store.newest().timelines.clone();
        let recorded =
            timelines.iter().flat_map(|timelines| &timelines.value).map(|recorded| recorded.timeline);
        let own = recorded.chain(own).max().unwrap_or(Timeline::FIRST);
        while self.origin.as_ref().is_some_and(|origin| origin.exists() && origin.timeline <= own) {
            let id = self.next_id();
            if let Some(origin) = &mut self.origin {
                let old = origin.newest().map_or(0, |(old, _)| old);
                origin.take_over(0, false, id);
                origin.start_host(old);
            }
        }
        self.note_reach();
    }
}
