//! One PostgreSQL server: data directory, files, processes.
//!
//! What it is: state, and what PostgreSQL does within one server without taking time. `replication` moves WAL between
//! servers. What it is not: fair; wherever PostgreSQL leaves an order open, a die decides.
//! Invariant: what a crash leaves is `wal` up to its flushed end, `files` and `slots`.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use brain::{Complaint, MemberId, SyncSet, Term, Upstream};
use wire::Timeline;

use crate::wal::{Kind, Record, Wal};

/// `synchronous_standby_names`: members under the names of one term, and k.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names {
    pub term: Term,
    pub set: SyncSet,
}

impl Names {
    /// `ANY 1 (pgherd_nobody)`.
    pub fn nobody() -> Rc<Names> {
        Rc::new(Names { term: Term(0), set: SyncSet::new([], 1) })
    }

    pub fn lists(&self, member: &MemberId, term: Term) -> bool {
        self.term == term && self.set.members.contains(member)
    }
}

/// What lies in files of ours and is read at a reload or a start.
#[derive(Clone, Debug)]
pub struct Files {
    /// `primary_conninfo` together with its credential.
    pub upstream: Option<Upstream>,
    /// The host that `primary_conninfo` names first, when it names those of the origin.
    pub first: usize,
    /// `primary_slot_name` is set.
    pub slotted: bool,
    pub names: Rc<Names>,
    /// In force.
    pub quarantined: bool,
    /// Written, and not read yet by a server that stands still.
    pub unread: Option<bool>,
}

impl Files {
    /// Whoever comes from now on finds the door closed.
    pub fn close(&mut self) {
        (self.quarantined, self.unread) = (true, None);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Process {
    Down,
    Starting,
    Up,
}

/// A walsender that has been signalled a reload and has not come to it yet.
#[derive(Clone, Debug)]
pub struct Pending {
    pub names: Rc<Names>,
    /// When its loop reads the configuration.
    pub at_us: u64,
    /// Where in its loop the signal met it: it may still read replies, or it may still send, but not both.
    pub reading_replies: bool,
}

/// A walsender process, and the part of shared memory that is its own.
#[derive(Clone, Debug)]
pub struct Sender {
    pub connection: u64,
    pub node: usize,
    pub member: MemberId,
    pub term: Term,
    /// Its own reading of `synchronous_standby_names`.
    pub names: Rc<Names>,
    pub pending: Option<Pending>,
    /// `sync_standby_priority` > 0, written by this process alone.
    pub candidate: bool,
    pub sent: usize,
    /// The standby's last word; `None` before the first reply.
    pub flush: Option<usize>,
    pub streaming: bool,
    pub frozen_until_us: u64,
    /// It has been told to end, and does once it runs.
    pub ended: bool,
    /// Until when messages of this connection are on their way: TCP keeps their order.
    pub arrival_us: u64,
    pub heard_us: u64,
}

impl Sender {
    /// Comes to the top of the loop when it is time: reads the configuration.
    pub fn reach_reload(&mut self, now_us: u64) {
        if self.frozen_until_us > now_us {
            return;
        }
        if let Some(pending) = self.pending.take_if(|pending| pending.at_us <= now_us) {
            self.names = pending.names;
            self.candidate = self.names.lists(&self.member, self.term);
        }
    }
}

/// A walreceiver process.
#[derive(Clone, Debug)]
pub struct Receiver {
    pub connection: u64,
    pub upstream: Upstream,
    pub first: usize,
    pub connected: bool,
    /// Index of the next record it writes.
    pub write: usize,
    pub reply_us: u64,
    pub heard_us: u64,
    pub dying: bool,
}

/// A backend that waits for k flushes.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// Records up to and including its own.
    pub end: usize,
    pub id: u64,
    pub kind: Kind,
    pub since_us: u64,
    /// With k = 0 nobody is waited for: the own disk is enough.
    pub local: bool,
}

#[derive(Clone, Debug)]
pub struct Server {
    /// The data directory; `None` while there is none.
    pub wal: Option<Wal>,
    pub files: Files,
    pub slots: BTreeSet<MemberId>,
    /// What its receiver said last, while it does not stream from the origin.
    pub complaint: Option<Complaint>,
    pub process: Process,
    /// Which run of the server this is; events name it.
    pub epoch: u64,
    pub primary: bool,
    pub frozen: bool,
    /// What the postmaster hands to new processes.
    pub names: Rc<Names>,
    pub senders: Vec<Sender>,
    pub receiver: Option<Receiver>,
    /// A receiver that a false executor hides from its agent.
    pub receiver_hidden: bool,
    pub waiting: VecDeque<Waiting>,
    /// What backends see of k > 0; the checkpointer copies it, some time after the reload (DESIGN 4).
    pub sync_defined: bool,
    /// The newest commit that a snapshot sees because its wait was over, or because it was there at the promotion.
    pub visible: Option<(usize, u64)>,
    /// Commits that a snapshot sees because their sessions were ended while they waited.
    pub bared: Vec<(usize, u64)>,
    pub flushing: bool,
    /// Startup has read all of the WAL since the start; until then it has come to `replayed`.
    pub complete: bool,
    pub replayed: usize,
    /// Until when a query conflict holds replay up, and with it startup's stop of the receiver.
    pub stuck_until_us: u64,
    pub roles: bool,
    pub end_of_recovery: usize,
    /// `pg_promote` was called: startup asks for no WAL any more.
    pub promoting: bool,
    /// The term of the promotion that made it primary.
    pub born: Term,
    pub pointed_us: u64,
    /// How long one fsync takes at most, microseconds.
    pub fsync_us: u64,
    /// Faults that make its disk slow, now; two make it no slower than one.
    pub slow_disks: u32,
    /// No space left on the device: WAL cannot be written, files neither.
    pub disk_full: bool,
    /// It was a primary when it ended last, as a missing `standby.signal` would remember.
    pub was_primary: bool,
    /// A fast stop is under way: no session is let in.
    pub stopping: bool,
    /// A session's transaction, open since and until.
    pub transaction: Option<(u64, u64)>,
    /// A copy or a rewind is changing the data directory: it is worth nothing until that has ended.
    pub half_made: bool,
    /// Commits whose sessions ended before they were acknowledged: errors for their clients.
    pub failed: u64,
}

impl Server {
    pub fn new(fsync_us: u64) -> Server {
        Server {
            wal: None,
            files: Files {
                upstream: None,
                first: 0,
                slotted: true,
                names: Names::nobody(),
                quarantined: true,
                unread: None,
            },
            complaint: None,
            slots: BTreeSet::new(),
            process: Process::Down,
            epoch: 0,
            primary: false,
            frozen: false,
            names: Names::nobody(),
            senders: Vec::new(),
            receiver: None,
            receiver_hidden: false,
            waiting: VecDeque::new(),
            sync_defined: true,
            visible: None,
            bared: Vec::new(),
            flushing: false,
            complete: false,
            replayed: 0,
            stuck_until_us: 0,
            roles: false,
            end_of_recovery: 0,
            promoting: false,
            born: Term(0),
            pointed_us: 0,
            fsync_us,
            slow_disks: 0,
            disk_full: false,
            was_primary: false,
            stopping: false,
            transaction: None,
            half_made: false,
            failed: 0,
        }
    }

    /// Its WAL is a beginning of the other's.
    pub fn begins(&self, other: &Server) -> bool {
        self.wal.as_ref().zip(other.wal.as_ref()).is_some_and(|(own, other)| own.beyond(other).is_empty())
    }

    pub fn up(&self) -> bool {
        self.process == Process::Up
    }

    /// Up as a primary.
    pub fn writes(&self) -> bool {
        self.up() && self.primary
    }

    pub fn length(&self) -> usize {
        self.wal.as_ref().map_or(0, Wal::len)
    }

    pub fn flushed(&self) -> usize {
        self.wal.as_ref().map_or(0, |wal| wal.flushed)
    }

    pub fn timeline(&self) -> Timeline {
        self.wal.as_ref().map_or(Timeline::FIRST, Wal::timeline)
    }

    /// Every process dies at once.
    pub fn crash(&mut self) {
        if let Some(wal) = &mut self.wal {
            wal.truncate(wal.flushed);
        }
        self.was_primary = self.primary;
        self.process = Process::Down;
        self.primary = false;
        self.frozen = false;
        self.senders.clear();
        self.receiver = None;
        self.receiver_hidden = false;
        self.complaint = None;
        self.failed += self.waiting.iter().filter(|waiting| waiting.kind == Kind::Commit).count() as u64;
        self.waiting.clear();
        self.sync_defined = true;
        self.visible = None;
        self.bared.clear();
        self.flushing = false;
        self.complete = false;
        self.promoting = false;
        self.stopping = false;
        self.transaction = None;
        self.epoch += 1;
    }

    /// Writes the shutdown record, then ends.
    pub fn stop_clean(&mut self, id: u64) {
        if self.writes() {
            self.append(id, Kind::Filler);
        }
        if let Some(wal) = &mut self.wal {
            wal.flushed = wal.len();
        }
        self.crash();
    }

    /// Its own disk and every standby that streams have all WAL up to `end`: nothing holds up the end of the stop.
    pub fn parted(&self, end: usize) -> bool {
        let streams = self.senders.iter().filter(|sender| sender.streaming);
        self.flushed() >= end
            && streams.into_iter().all(|sender| sender.flush.is_some_and(|flush| flush >= end))
    }

    /// Appends a record of its own on the present timeline; returns the log's new length.
    pub fn append(&mut self, id: u64, kind: Kind) -> usize {
        let timeline = self.timeline();
        self.append_on(id, kind, timeline)
    }

    pub fn append_on(&mut self, id: u64, kind: Kind, timeline: Timeline) -> usize {
        let wal = self.wal.get_or_insert_default();
        wal.push(Record { id, timeline, kind });
        wal.len()
    }

    /// How far a walsender of this server may read: what is flushed here.
    pub fn sendable(&self) -> usize {
        self.flushed()
    }

    /// `SyncRepReleaseWaiters` in the walsender of `connection`: by its own (S, k), over all whose own walsender
    /// put a priority into shared memory. Returns up to where waiters are released.
    pub fn releasable(&self, connection: u64, fewer: usize) -> Option<usize> {
        let own = self.senders.iter().find(|sender| sender.connection == connection)?;
        let k = own.names.set.k.saturating_sub(fewer);
        if !own.candidate || !own.streaming {
            return None;
        }
        if k == 0 {
            return Some(self.flushed());
        }
        let candidates = self.senders.iter().filter(|sender| sender.candidate && sender.streaming);
        let mut flushes: Vec<usize> = candidates.filter_map(|sender| sender.flush).collect();
        flushes.sort_unstable_by(|a, b| b.cmp(a));
        flushes.get(k - 1).copied()
    }

    /// Takes the waiters that are released up to `end`.
    pub fn release(&mut self, end: usize) -> Vec<Waiting> {
        let end = end.min(self.flushed());
        let released = self.waiting.iter().take_while(|waiting| waiting.end <= end).count();
        let released: Vec<Waiting> = self.waiting.drain(..released).collect();
        self.show(&released);
        released
    }

    /// Takes the waiters that wait for nobody else and are flushed.
    pub fn release_local(&mut self) -> Vec<Waiting> {
        let (end, undefined) = (self.flushed(), !self.sync_defined);
        let free = |waiting: &Waiting| waiting.end <= end && (waiting.local || undefined);
        if !self.waiting.iter().any(free) {
            return Vec::new();
        }
        let (released, waiting): (Vec<Waiting>, Vec<Waiting>) = self.waiting.drain(..).partition(free);
        self.waiting = waiting.into();
        self.show(&released);
        released
    }

    fn show(&mut self, released: &[Waiting]) {
        let commits = released.iter().filter(|waiting| waiting.kind == Kind::Commit);
        self.visible = self.visible.max(commits.map(|waiting| (waiting.end - 1, waiting.id)).max());
    }

    /// What its sessions do: commits that wait, and a transaction that is open.
    pub fn activity(&self, now_us: u64) -> brain::Activity {
        let open = self.transaction.filter(|(_, until_us)| *until_us > now_us);
        let commits = self.waiting.iter().filter(|waiting| waiting.kind == Kind::Commit);
        let oldest_us =
            commits.clone().map(|waiting| waiting.since_us).chain(open.map(|(since, _)| since)).min();
        brain::Activity {
            busy_sessions: (commits.count() + usize::from(open.is_some())) as u32,
            oldest_transaction_ms: oldest_us.map_or(0, |since_us| now_us.saturating_sub(since_us) / 1000),
            ..brain::Activity::default()
        }
    }

    /// A server that runs takes what was written.
    pub fn read_files(&mut self) {
        let Some(close) = self.files.unread.take_if(|_| !self.frozen) else { return };
        self.files.quarantined = close;
        if close {
            self.end_sessions();
        }
    }

    /// Ends every session that is not internal: their commits answer with an error, and are visible from then on.
    pub fn end_sessions(&mut self) {
        let commit = |waiting: &Waiting| waiting.kind == Kind::Commit;
        let (ended, waiting): (Vec<Waiting>, Vec<Waiting>) = self.waiting.drain(..).partition(commit);
        self.waiting = waiting.into();
        self.failed += ended.len() as u64;
        self.transaction = None;
        self.bared.extend(ended.iter().map(|waiting| (waiting.end - 1, waiting.id)));
    }
}
