//! Work on the server: one piece at a time, each ending with a fresh observation.
//!
//! It executes what the brain decided and adds nothing but what the server needs to be told: hosts, passwords, files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use brain::{Applied, MemberId, NodeName, Operation, OriginRecord, Term, Upstream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use wire::Timeline;

use super::known::{Known, ReceiverHeard};
use super::members::Addresses;
use super::names::Names;
use super::note::{Done, Note};
use super::records::{self, Credentials};
use crate::fencer::Identity;
use crate::postgres::{
    DataState, Passwords, Progress, RewindOutcome, Server, Source, StopMode, Tunable, Upstream as Pointer,
};
use crate::store::Store;

/// Crash recovery of an unclean server may replay max_wal_size of WAL; `observe` shows its progress meanwhile.
const START_DEADLINE: Duration = Duration::from_secs(3600);

/// A fast shutdown writes a checkpoint and waits for walsenders; then it is stopped at once instead.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// End of recovery on a standby that has replayed its WAL takes milliseconds; replay of a backlog longer.
const PROMOTE_DEADLINE: Duration = Duration::from_secs(60);

/// Copies of large databases take hours; a copy that is stuck is seen by its progress.
const CLONE_DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);

/// From the last common checkpoint to the source's end; what takes longer is told apart by its progress.
const START_FOLLOWING_DEADLINE: Duration = Duration::from_secs(600);

/// A restartpoint writes all of the shared buffers; minutes on a slow disk.
const CLEAN_STOP_DEADLINE: Duration = Duration::from_secs(300);

const REWIND_DEADLINE: Duration = Duration::from_secs(6 * 3600);

/// The tool says that this data directory cannot be rewound to that source: it has to be copied anew.
#[derive(Debug, thiserror::Error)]
pub enum RewindImpossible {
    #[error("pg_rewind failed: {0}")]
    Failed(String),
    #[error("timeline {0} here is not that of {1}, which has the same id: it is copied anew")]
    Namesake(Timeline, NodeName),
}

/// What to do, with all that the brain knew.
pub enum Work {
    Initdb,
    Start,
    Stop,
    Detach,
    Follow { upstream: Upstream, member: MemberId, slot: bool, primary: bool },
    Clone { from: NodeName },
    CloneOrigin { store: Arc<dyn Store> },
    Rewind { upstream: Upstream, member: MemberId },
    Promote { timeline: Timeline, names: Names, lower: bool },
    Prepare { store: Arc<dyn Store> },
    ApplySync { names: Names },
    Gate { open: bool },
    Slots { members: BTreeSet<MemberId> },
    TakeSlots { from: NodeName },
}

/// What a node brings along to follow another cluster.
pub struct Followed {
    /// This cluster's name: the other one sees it in the names of those who stream from it.
    pub cluster: String,
    /// The other cluster's, until they are this one's own.
    pub credentials: Option<Credentials>,
}

pub struct Worker {
    pub(super) server: Server,
    addresses: Arc<Addresses>,
    pub(super) followed: Followed,
    known: Mutex<Known>,
    generation: AtomicU64,
    /// What was begun last; one piece at a time.
    under_way: Mutex<Option<JoinHandle<()>>>,
    /// The term of `/primary`, for work that is pointless in the next one.
    recorded: watch::Sender<Term>,
}

impl Worker {
    pub fn new(server: Server, addresses: Arc<Addresses>, followed: Followed) -> Worker {
        let (recorded, _) = watch::channel(Term(0));
        let (known, generation) = (Mutex::default(), AtomicU64::new(0));
        let under_way = Mutex::default();
        Worker { server, addresses, followed, known, generation, under_way, recorded }
    }

    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        // Every holder only assigns fields, so a panic in one leaves nothing half done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn postmaster(&self) -> Option<Identity> {
        self.known().postmaster
    }

    pub(super) fn set_credentials(&self, credentials: Option<Credentials>) {
        self.known().credentials = credentials;
    }

    pub(super) fn set_system_id(&self, system_id: Option<u64>) {
        self.known().system_id = system_id;
    }

    pub(super) fn set_origin(&self, origin: Option<OriginRecord>) {
        let mut known = self.known();
        if known.origin != origin {
            known.origin = origin;
        }
    }

    pub(super) fn set_origin_primary(&self, address: Option<String>) {
        self.known().origin_primary = address;
    }

    pub(super) fn set_recorded(&self, term: Term) {
        self.recorded.send_if_modified(|old| std::mem::replace(old, term) != term);
    }

    pub(super) fn set_words(&self, member: Option<MemberId>, upstream: Option<Upstream>) {
        let mut known = self.known();
        (known.member, known.upstream) = (member, upstream);
    }

    /// A rewind began to change the data directory and did not end: only a new copy helps.
    pub fn rewind_unfinished(&self) -> bool {
        self.server.data_state() == DataState::RewindUnfinished
    }

    /// Changes when a piece of work begins and when it ends: a look from before shows what is no more.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    pub fn start(self: &Arc<Self>, operation: Operation, work: Work, notes: mpsc::Sender<Note>) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        let worker = self.clone();
        let task = tokio::spawn(async move {
            let begun = Instant::now();
            // What the server last answered says nothing of it once its files or its role are being changed.
            worker.known().answer = None;
            let performer = worker.clone();
            // In a task of its own: one that panics ends as a failure, not as work for ever under way.
            let mut performing = JoinSet::new();
            performing.spawn(async move { performer.perform(work).await });
            let result = match performing.join_next().await.unwrap_or(Ok(Ok(()))) {
                Ok(result) => result,
                Err(error) => Err(anyhow::anyhow!("the work ended by itself: {error}")),
            };
            worker.known().answer = None;
            worker.generation.fetch_add(1, Ordering::SeqCst);
            let postgres = worker.observe().await;
            let done = Done { operation, result, postgres, took: begun.elapsed() };
            // A closed channel means that the agent is stopping.
            let _ = notes.send(Note::Done(Box::new(done))).await;
        });
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// Waits until no work is under way, and after `patience` breaks it off, as the end of this process would. To be called when none
    /// is begun any more.
    pub async fn end(&self, patience: Duration) {
        let task = self.under_way.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut task) = task else { return };
        if tokio::time::timeout(patience, &mut task).await.is_err() {
            task.abort();
        }
    }

    /// For a switchover, beside the work on the server.
    pub async fn checkpoint_ahead(&self) -> Result<()> {
        Ok(self.server.checkpoint_ahead().await?)
    }

    /// Takes over other parameters and lines of pg_hba.conf, beside the work on the server.
    pub async fn retune(&self, tunable: Tunable) -> Result<()> {
        Ok(self.server.retune(tunable).await?)
    }

    /// See [`Server::try_parameters`].
    pub async fn try_parameters(&self, parameters: &BTreeMap<String, Option<String>>) -> Result<Vec<String>> {
        Ok(self.server.try_parameters(parameters).await?)
    }

    /// See [`Server::parameter_contexts`].
    pub async fn parameter_contexts(
        &self,
        names: impl Iterator<Item = &String>,
    ) -> Result<BTreeMap<String, String>> {
        Ok(self.server.parameter_contexts(names).await?)
    }

    async fn perform(&self, work: Work) -> Result<()> {
        let server = &self.server;
        match work {
            Work::Initdb => server.initdb().await?,
            Work::Start => self.start_detached().await?,
            Work::Stop => self.stop().await?,
            Work::Detach => server.detach().await?,
            Work::Follow { upstream, member, slot, primary } => {
                self.follow(&upstream, &member, slot, primary).await?
            }
            Work::Clone { from } => self.clone_from(&from).await?,
            Work::CloneOrigin { store } => {
                self.take_credentials(store.as_ref()).await?;
                self.clone_from(&NodeName::origin()).await?;
            }
            Work::Rewind { upstream, member } => self.rewind_to(&upstream, &member).await?,
            Work::Promote { timeline, names, lower } => self.promote(timeline, names, lower).await?,
            Work::Prepare { store } => self.prepare(store.as_ref()).await?,
            Work::ApplySync { names } => self.apply_sync(names).await?,
            Work::Gate { open: true } => {
                server.admit().await?;
                // The copy streams and admits readers: what it replaced is not needed any more.
                for old in server.discard_old_copies().await? {
                    tracing::info!(directory = %old.display(), "discarded the data directory that was replaced");
                }
            }
            Work::Gate { open: false } => server.quarantine().await?,
            Work::TakeSlots { from } => self.take_slots(&from).await?,
            Work::Slots { members } => {
                let wanted = members.iter().map(MemberId::slot_name).collect();
                server.ensure_slots(&wanted, is_ours).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn start_detached(&self) -> Result<()> {
        self.forget_run();
        self.with_room(|| self.server.start_detached(START_DEADLINE)).await?;
        Ok(())
    }

    pub(super) async fn stop(&self) -> Result<()> {
        self.server.stop(StopMode::Fast, STOP_DEADLINE).await?;
        self.forget_run();
        Ok(())
    }

    /// What was known of the server's last run says nothing of the next.
    fn forget_run(&self) {
        let mut known = self.known();
        (known.applied, known.prepared, known.end_of_recovery) = (None, false, None);
        (known.write, known.confirmed, known.stalled_since) = (None, None, None);
        (known.answer, known.receiver, known.stream) = (None, ReceiverHeard::default(), None);
        (known.burden.outgrown, known.burden.not_lowered) = (false, None);
        known.unconfirmed.clear();
        // Told of anew within a heartbeat, when there is a primary.
        known.slots.original = None;
    }

    async fn follow(&self, upstream: &Upstream, member: &MemberId, slot: bool, primary: bool) -> Result<()> {
        // Slots of a former primaryship would hold WAL for ever; a head has those that its followers need.
        if !upstream.node.is_origin() {
            self.server.end_slots(is_ours).await?;
        }
        let mut pointer = self.pointer(upstream, member)?;
        pointer.slot_name = pointer.slot_name.filter(|_| slot);
        pointer.primary = primary || upstream.node.is_origin() && pointer.slot_name.is_some();
        self.server.follow(&pointer).await?;
        let mut known = self.known();
        (known.stalled_since, known.receiver) = (Some(Instant::now()), ReceiverHeard::default());
        Ok(())
    }

    fn pointer(&self, upstream: &Upstream, member: &MemberId) -> Result<Pointer> {
        let source = self.source(&upstream.node, |credentials| credentials.replication.clone())?;
        let name = member.standby_name(upstream.term);
        let pointer = Pointer {
            host: source.host,
            port: source.port,
            password: source.password,
            application_name: name,
            slot_name: Some(member.slot_name()),
            others: Vec::new(),
            primary: true,
        };
        if upstream.node.is_origin() { self.at_origin(pointer) } else { Ok(pointer) }
    }

    async fn clone_from(&self, node: &NodeName) -> Result<()> {
        self.stop().await?;
        let source = self.source(node, |credentials| credentials.replication.clone())?;
        let (progress, seen) = watch::channel(Progress::default());
        let copy = self.server.basebackup(&source, None, &progress, CLONE_DEADLINE);
        self.shown("copying", node, seen, copy).await?;
        self.bring_slots().await;
        Ok(())
    }

    /// A rewound server is started following: it may need its source's WAL before it accepts a connection.
    async fn rewind_to(&self, upstream: &Upstream, member: &MemberId) -> Result<()> {
        let source = self.source(&upstream.node, |credentials| credentials.rewind.clone())?;
        let pointer = self.pointer(upstream, member)?;
        // pg_rewind wants a clean end: the shutdown's restartpoint is given its time.
        self.server.stop(StopMode::Fast, CLEAN_STOP_DEADLINE).await?;
        self.forget_run();
        // Who has a slot here holds a beginning of the WAL that is about to be another: it must not find its slot again.
        self.server.discard_slots(is_ours)?;
        let (progress, seen) = watch::channel(Progress::default());
        let rewind = self.server.rewind(&source, &progress, REWIND_DEADLINE);
        let mut lost = None;
        match self.shown("rewinding", &upstream.node, seen, rewind).await? {
            RewindOutcome::Done { fork, kept, lost: listed } => {
                tracing::info!(%fork, kept = %kept.display(), "rewound; the WAL from the fork on is kept");
                lost = listed;
            }
            RewindOutcome::NotRequired => {}
            RewindOutcome::Namesake(timeline) => {
                return Err(RewindImpossible::Namesake(timeline, upstream.node.clone()).into());
            }
            RewindOutcome::Failed { reason } => return Err(RewindImpossible::Failed(reason).into()),
        }
        self.bring_slots().await;
        let superseded = self.superseded(upstream.term);
        let started = tokio::select! {
            started = self.with_room(|| self.server.start_following(&pointer, START_FOLLOWING_DEADLINE)) => started.map(drop).map_err(Into::into),
            () = superseded => Err(anyhow::anyhow!("term {} has ended before the rewound server was whole", upstream.term)),
        };
        if started.is_err() {
            // It would wait for WAL of a primary that is no more; stopped, it is rewound to the next one.
            self.stop().await?;
        } else if let Some(lost) = lost {
            self.tell_lost(*lost).await;
        }
        started
    }

    async fn promote(&self, timeline: Timeline, names: Names, lower: bool) -> Result<()> {
        self.make_room().await;
        self.drop_unready_slots().await;
        let value = names.for_promotion()?;
        let slots = names.slots();
        let (promoted, refused) = match lower {
            true => self.server.promote_lowering(timeline, &value, &slots, PROMOTE_DEADLINE).await?,
            false => (self.server.promote(timeline, &value, &slots, PROMOTE_DEADLINE).await?, None),
        };
        let Names { term, set, order, method } = names;
        let mut known = self.known();
        known.burden.not_lowered = refused;
        known.end_of_recovery = Some(promoted.end_of_recovery);
        // In force without more ado: no walsender has run under another value since the server became writable.
        known.applied = Some(Applied { term, set, lsn: promoted.end_of_recovery });
        (known.order, known.method) = (order, method);
        // The first primary made the roles before anybody could follow; its heirs have them.
        known.prepared = term > Term(1);
        Ok(())
    }

    async fn prepare(&self, store: &dyn Store) -> Result<()> {
        let known = self.known().credentials.clone();
        let credentials = match known {
            Some(credentials) => credentials,
            None => {
                let (credentials, transaction) = records::new_credentials()?;
                store.commit(transaction).await.context("record the cluster's own passwords")?;
                credentials
            }
        };
        let passwords = Passwords { replication: credentials.replication, rewind: credentials.rewind };
        self.server.ensure_roles(&passwords).await?;
        self.known().prepared = true;
        Ok(())
    }

    async fn apply_sync(&self, names: Names) -> Result<()> {
        let (spelled, k) = names.spelled()?;
        let slots = names.slots();
        let applied = self.server.apply_sync(&spelled, k, names.method, &slots).await;
        let Names { term, set, order, method } = names;
        // After a failure nobody knows what is in force.
        let mut known = self.known();
        known.applied = applied.as_ref().ok().map(|applied| Applied { term, set, lsn: applied.lsn });
        (known.order, known.method) = (order, method);
        Ok(applied.map(drop)?)
    }

    pub(super) fn recorded_term(&self) -> Term {
        *self.recorded.borrow()
    }

    /// Resolves once a higher term than `term` is recorded.
    fn superseded(&self, term: Term) -> impl Future<Output = ()> + use<> {
        let mut recorded = self.recorded.subscribe();
        async move {
            if recorded.wait_for(|recorded| *recorded > term).await.is_err() {
                // The worker itself is gone, and with it who waits here.
                std::future::pending::<()>().await;
            }
        }
    }

    pub(super) fn source(
        &self,
        node: &NodeName,
        password: impl Fn(&Credentials) -> String,
    ) -> Result<Source> {
        if node.is_origin() {
            let (primary, first) = {
                let known = self.known();
                let first = known.origin.as_ref().and_then(|origin| origin.hosts.first().cloned());
                (known.origin_primary.clone(), first)
            };
            let address = primary.or(first).context("this cluster follows no other")?;
            return self.origin_source(&address, password);
        }
        let addresses = self.addresses.load();
        let address = addresses.get(&node.0).with_context(|| format!("{node} has no PostgreSQL address"))?;
        let (host, port) = split(address)?;
        let known = self.known();
        let credentials =
            known.credentials.as_ref().context("the cluster's own passwords are not in the store yet")?;
        Ok(Source { host, port, password: password(credentials) })
    }
}

/// `host:port` in its parts.
pub(super) fn split(address: &str) -> Result<(String, u16)> {
    let (host, port) = address.rsplit_once(':').with_context(|| format!("{address} is no host:port"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((host, port.parse().with_context(|| format!("{address} has no port"))?))
}

pub(super) fn is_ours(slot: &str) -> bool {
    MemberId::of_slot(slot).is_some()
}
