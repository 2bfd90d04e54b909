//! The loop: wake, bring the view up to date, decide, act.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use brain::{
    Action, Decision, Millis, NodeName, Operation, Postgres, Settings, SlotReport, Status, Tags, Term, View,
    decide,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Worker;
use super::act::Taken;
use super::credentials::CredentialsFile;
use super::durable::{Words, WordsFile};
use super::events::EventLog;
use super::failover::{Recorder, SessionWatch, Shelf};
use super::fencing::Fencing;
use super::guard::{Pulse, guard};
use super::lease::StoreLease;
use super::members::Addresses;
use super::message::Message;
use super::news::News;
use super::note::{Errand, Note, Reload};
use super::observer::Observer;
use super::origin::OriginWatch;
use super::panel::{Panel, Seen};
use super::publish::{self, OpenRun};
use super::retry::Retry;
use super::slots::{self, KeeperTask, SlotPolicy};
use crate::peer::{Channel, Link};
use crate::postgres::Method;
use crate::store::{SeatReport, Snapshot, Store};
use proxy::topology::Topology;

/// Time-driven rules (suspicion, turns, missing members) are in steps of hundreds of milliseconds.
const TICK: Duration = Duration::from_millis(25);

/// Decisions in a row without waiting in between: a promise is followed by what it allows. More would be a loop.
const DECISIONS_MAX: usize = 8;

/// A disk that stays full is told again after this.
const UNWRITABLE_AGAIN: Duration = Duration::from_secs(10);

/// What an agent is made of.
pub struct Parts {
    pub settings: Settings,
    pub tags: Tags,
    pub method: Method,
    pub me: NodeName,
    pub words: WordsFile,
    pub credentials: CredentialsFile,
    pub store: Arc<dyn Store>,
    pub link: Arc<Link>,
    /// Payloads of the agent channel with their senders.
    pub incoming: mpsc::Receiver<(String, bytes::Bytes)>,
    /// `None` on a witness.
    pub worker: Option<Arc<Worker>>,
    pub reload: Arc<dyn Reload>,
    /// `None` on a witness.
    pub fencing: Option<Fencing>,
    pub events: Arc<EventLog>,
    pub panel: Arc<Panel>,
    pub topology: Arc<watch::Sender<Topology>>,
    pub slots: SlotPolicy,
    pub addresses: Arc<Addresses>,
    /// This node's part in the store.
    pub seats: watch::Receiver<Arc<SeatReport>>,
    /// What this node's proxy counts.
    pub counts: proxy::Metrics,
    pub news: Arc<News>,
}

pub struct Agent {
    pub(super) parts: Parts,
    pub(super) view: View,
    pub(super) boot: u64,
    sequence: u64,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    notes: mpsc::Receiver<Note>,
    pub(super) note: mpsc::Sender<Note>,
    pub(super) observer: Option<Observer>,
    /// Looks at the cluster that this one follows.
    pub(super) origin: Option<OriginWatch>,
    /// Tends the slots for as long as the agent lives.
    _keeper: Option<KeeperTask>,
    revoking: Option<Term>,
    pulse: Arc<Pulse>,
    lease: StoreLease,
    sent: Option<(Millis, Status)>,
    /// A change is under way (0), or made at this revision and not seen in a snapshot yet.
    pub(super) committing: Option<u64>,
    pub(super) retry: BTreeMap<Operation, Retry>,
    pub(super) rewinds_failed: u32,
    /// Errands under way, by request.
    pub(super) errands: BTreeSet<(Errand, u64)>,
    /// When it was last told that the words cannot be written.
    unwritable: Option<Instant>,
    /// The decision that was told last.
    told: (String, Vec<Action>),
    open_run: Option<OpenRun>,
    /// Wall-clock second at which the store last had a leader, for people.
    store_seen: Option<u64>,
    recorder: Recorder,
    session_watch: SessionWatch,
    shelf: Shelf,
}

impl Agent {
    pub fn new(mut parts: Parts) -> Result<Agent> {
        // Peers tell a late word of an earlier run by it.
        parts.words.save(|words| words.boots += 1)?;
        let boot = parts.words.words().boots;
        // Holds an observation, a result and a commit at a time, and some slack; senders wait when it is full.
        let (note, notes) = mpsc::channel(64);
        let now = Millis(crate::clock::boot_millis());
        if let Some(worker) = &parts.worker {
            let Words { durable, upstream, .. } = parts.words.words();
            worker.set_words(durable.member.clone(), upstream.clone());
        }
        let observer = parts.worker.as_ref().map(|worker| Observer::start(worker.clone(), note.clone()));
        let origin = parts.worker.as_ref().map(|worker| OriginWatch::start(worker.clone(), note.clone()));
        let keeper = match &parts.worker {
            Some(worker) => {
                let (policy, events) = (parts.slots.clone(), parts.events.clone());
                Some(slots::start(worker.clone(), policy, events, note.clone())?)
            }
            None => None,
        };
        let inherited = parts.fencing.as_ref().and_then(Fencing::inherited);
        let durable = parts.words.words().durable.clone();
        let view = View {
            postgres: if parts.worker.is_some() { Postgres::Unknown } else { Postgres::Empty },
            slots: keeper.as_ref().map_or_else(SlotReport::default, |_| slots::unlooked()),
            tags: parts.tags.clone(),
            memory: brain::Memory::inheriting(now, inherited),
            ..View::new(parts.me.clone(), parts.settings.clone(), durable, now)
        };
        let snapshots = parts.store.watch();
        let lease = StoreLease::start(parts.store.clone(), parts.me.clone(), &parts.settings);
        let session_watch = SessionWatch::new(&parts.me.0);
        let shelf = Shelf::start(parts.store.clone(), parts.events.clone());
        Ok(Agent {
            parts,
            view,
            boot,
            sequence: 0,
            snapshots,
            notes,
            note,
            observer,
            origin,
            _keeper: keeper,
            revoking: None,
            pulse: Arc::default(),
            lease,
            sent: None,
            committing: None,
            retry: BTreeMap::new(),
            rewinds_failed: 0,
            errands: BTreeSet::new(),
            unwritable: None,
            told: (String::new(), Vec::new()),
            open_run: None,
            store_seen: None,
            recorder: Recorder::default(),
            session_watch,
            shelf,
        })
    }

    /// Runs until `shutdown`; PostgreSQL goes on.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) -> Result<()> {
        self.pulse.beat();
        let usable_ms = self.view.settings.lease_usable_ms();
        let guard = tokio::spawn(guard(self.pulse.clone(), self.parts.topology.clone(), usable_ms));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        self.read_store()?;
        loop {
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => break,
                _ = tick.tick() => {}
                Some((from, payload)) = self.parts.incoming.recv() => self.on_message(&from, &payload),
                Some(note) = self.notes.recv() => self.on_note(note)?,
                Ok(()) = self.snapshots.changed() => self.read_store()?,
                Ok(()) = self.parts.seats.changed() => self.read_store()?,
                why = Observer::ended(&mut self.observer) => bail!("the observer of PostgreSQL has ended: {why}"),
            }
            while let Ok((from, payload)) = self.parts.incoming.try_recv() {
                self.on_message(&from, &payload);
            }
            self.step();
        }
        guard.abort();
        Ok(())
    }

    pub(super) fn now(&self) -> Millis {
        Millis(crate::clock::boot_millis())
    }

    pub(super) fn send(&self, to: &str, message: &Message) {
        match message.encode() {
            Ok(payload) => {
                self.parts.link.send(to, Channel::Agent, payload);
            }
            Err(error) => tracing::error!(%error, "a message could not be written"),
        }
    }

    pub(super) fn term(&self) -> u64 {
        self.view.record().map_or(0, |record| record.term.0)
    }

    /// Changes the durable words on disk, then in the view. False: they could not be written, and nothing that rests
    /// on them may be done; the decision will come again.
    pub(super) fn save(&mut self, change: impl Fn(&mut Words)) -> bool {
        let full = |error: &anyhow::Error| super::burden::says_full(&format!("{error:#}"));
        let mut saved = self.parts.words.save(&change);
        if let (Some(error), Some(worker)) = (saved.as_ref().err(), &self.parts.worker)
            && full(error)
            && worker.make_room_for_words()
        {
            saved = self.parts.words.save(&change);
        }
        if let Err(error) = saved {
            if self.unwritable.is_none_or(|at| at.elapsed() > UNWRITABLE_AGAIN) {
                let what = "the durable words could not be written; this node promises and does nothing new";
                self.parts.events.note(self.term(), "failed", what, vec![format!("{error:#}")]);
                self.unwritable = Some(Instant::now());
            }
            return false;
        }
        let Words { durable, upstream, .. } = self.parts.words.words();
        self.view.durable = durable.clone();
        if let Some(worker) = &self.parts.worker {
            worker.set_words(durable.member.clone(), upstream.clone());
        }
        true
    }

    fn step(&mut self) {
        self.see_condition();
        self.watch_origin();
        for _ in 0..DECISIONS_MAX {
            let now = self.now();
            self.view.wall_s = crate::clock::wall_seconds();
            self.view.store_lease = self.lease.held();
            self.view.configuration = self.parts.reload.applied();
            self.view.tick(now);
            self.fence();
            let decision = decide(&self.view);
            self.revoking = decision.actions.iter().find_map(|action| match action {
                Action::Revoke { term } => Some(*term),
                _ => None,
            });
            let taken = decision.actions.iter().map(|action| self.execute(action.clone(), decision.rule));
            let taken = taken.max().unwrap_or(Taken::Refused);
            if taken > Taken::Refused {
                self.tell(&decision);
            }
            // The own proxy stops serving before the peers are told that it does, and before the lease is given back.
            self.publish(&decision);
            self.lease.want(brain::wants_store_lease(&self.view), brain::releases_store_lease(&self.view));
            self.heartbeat(decision.rule);
            // Last: it adds nothing to the way of a takeover.
            self.report(&decision);
            if taken < Taken::Changed {
                break;
            }
        }
    }

    /// Before anything is done about the view: who is admitted, is admitted under a fencer that is armed.
    fn fence(&mut self) {
        let Some(fencing) = &mut self.parts.fencing else { return };
        let postmaster = self.parts.worker.as_ref().and_then(|worker| worker.postmaster());
        fencing.order(&self.view, postmaster);
        self.view.fencer = fencing.state(self.view.now);
    }

    /// What was begun is an event, once for as long as the same is decided again and again.
    fn tell(&mut self, decision: &Decision) {
        if self.told.0 == decision.rule && self.told.1 == decision.actions {
            return;
        }
        self.told = (decision.rule.to_owned(), decision.actions.clone());
        let what: Vec<String> = decision.actions.iter().map(Action::to_string).collect();
        self.parts.events.note(self.term(), decision.rule, what.join(", "), decision.why.clone());
    }

    /// On time, and at once when peers would learn more than progress.
    fn heartbeat(&mut self, rule: &str) {
        let now = self.view.now;
        let status = Status::of(&self.view, self.boot, self.sequence + 1, self.revoking, rule);
        let due = self.sent.as_ref().is_none_or(|(at, old)| {
            now.since(*at) >= self.view.settings.heartbeat_ms || !status.differs_in_progress_only(old)
        });
        if !due {
            return;
        }
        self.sequence += 1;
        self.view.memory.on_sent(now, &status);
        let message = Message::Status(Box::new(status.clone()));
        for peer in self.view.settings.voters.iter().filter(|peer| **peer != self.view.me) {
            self.send(&peer.0, &message);
        }
        self.sent = Some((now, status));
    }

    /// Watches what has just been decided, and lays down the report of a failover that is over.
    fn report(&mut self, decision: &Decision) {
        let (serves, timeline) = {
            let topology = self.parts.topology.borrow();
            (topology.primary.is_some() && topology.held_until().is_none(), topology.timeline)
        };
        self.session_watch.look(self.view.now, self.parts.counts.counts(), serves, timeline);
        if let Some(report) = self.session_watch.take() {
            self.parts.news.tell_proxy(report);
        }
        self.recorder.look(&self.view, decision, crate::clock::wall());
        let Some(timeline) = self.recorder.opened() else { return };
        let proxies = self.parts.news.proxies(timeline);
        if let Some((member, report)) = self.recorder.finish(&self.view, proxies) {
            self.shelf.lay(member, report);
        }
    }

    fn publish(&mut self, decision: &Decision) {
        self.pulse.beat();
        self.open_run = OpenRun::note(self.open_run.take(), &self.view);
        let addresses = self.parts.addresses.load();
        let mut topology = publish::topology(&self.view, &addresses, self.open_run.as_ref());
        self.parts.topology.send_if_modified(|old| {
            topology.hold = publish::hold(&self.view, old.hold);
            let changed = *old != topology;
            *old = topology;
            changed
        });
        self.store_seen = self.snapshots.borrow().connected.then_some(self.view.wall_s).or(self.store_seen);
        self.parts.panel.show(Seen {
            view: self.view.clone(),
            decision: decision.clone(),
            facts: self.parts.worker.as_ref().and_then(|worker| worker.facts()),
            store_seen: self.store_seen,
        });
    }
}
