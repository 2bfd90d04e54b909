//! How a node comes to have its configuration, and how a new one is tried and put into the store.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use brain::{Ask, Key, NodeKind, NodeName, Operation, Requests, Term, View};
use futures_util::future::BoxFuture;
use proxy::auth::hba::Rules;
use tokio::sync::Mutex;

use super::plan::{Plan, changes, of_process, parameters};
use super::record::{CONFIG, ConfigRecord, read};
use crate::agent::{EventLog, Refusal, Reload, Worker, store_view};
use crate::config::{self, CLUSTER_CONFIG_BYTES_MAX, ClusterConfig, Config};
use crate::postgres::Tunable;
use crate::store::{Snapshot, Store, StoreError, Transaction};

/// What was not asked of this node, and is not the newest here, is looked for so often: a store that was away comes back.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// What cannot be applied now is tried again after this: PostgreSQL may be busy, or a file is being mended.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// The rule of events about it.
const RULE: &str = "configuration";

/// The configuration of this process's node.
pub struct Applier {
    file: PathBuf,
    /// With which this process was started.
    running: Config,
    tunable: fn(&Config) -> Tunable,
    /// What a start looks at, beyond the text.
    check: fn(&Config) -> Result<()>,
    /// `None` on a witness.
    worker: Option<Arc<Worker>>,
    store: Arc<dyn Store>,
    relaunch: Arc<dyn proxy::Relaunch>,
    applied: AtomicU64,
    one_at_a_time: Mutex<()>,
}

impl Applier {
    /// `running` was read by [`config::load_node`] from `file`, under the cluster's configuration of this number.
    pub fn new(
        (running, number): (Config, u64),
        file: PathBuf,
        tunable: fn(&Config) -> Tunable,
        check: fn(&Config) -> Result<()>,
        worker: Option<Arc<Worker>>,
        store: Arc<dyn Store>,
        relaunch: Arc<dyn proxy::Relaunch>,
    ) -> Applier {
        let (applied, one_at_a_time) = (AtomicU64::new(number), Mutex::default());
        Applier { file, running, tunable, check, worker, store, relaunch, applied, one_at_a_time }
    }

    /// The newest that is known here.
    pub fn record(&self) -> Result<ConfigRecord> {
        read(&self.store.watch().borrow())
    }

    /// This node's configuration under `cluster`.
    pub fn under(&self, cluster: &ClusterConfig) -> Result<Config> {
        let config = config::load_with(&self.file, cluster)?;
        let (old, new) = (&self.running, &config);
        if (&old.cluster, &old.node.name, &old.node.dir) != (&new.cluster, &new.node.name, &new.node.dir) {
            bail!("{} is of another node now; nothing was applied", self.file.display());
        }
        Ok(config)
    }

    async fn apply(&self) -> Result<()> {
        let _one = self.one_at_a_time.lock().await;
        let record = self.record()?;
        let cluster = &record.newest.config;
        if cluster.number < self.applied() {
            bail!("the store of this node has not caught up yet; it will be tried again");
        }
        let config = self.under(cluster)?;
        let dir = &config.node.dir;
        let before = ClusterConfig::read(dir).context("read the copy of the cluster's configuration")?;
        if let Some(worker) = &self.worker {
            worker.retune((self.tunable)(&config)).await?;
        }
        cluster.keep(dir).context("keep a copy of the cluster's configuration")?;
        if of_process(&config) != of_process(&self.running) {
            if let Err(why) = self.relaunch.relaunch().await {
                // The next start is to find what this process runs with.
                before.keep(dir).context("keep a copy of the cluster's configuration")?;
                if let (Some(worker), Ok(former)) = (&self.worker, self.under(&before)) {
                    worker.retune((self.tunable)(&former)).await?;
                }
                bail!("pgherd could not be relaunched with it: {why}");
            }
            // The new process says that it is done.
            std::future::pending::<()>().await;
        }
        self.applied.store(cluster.number, Ordering::SeqCst);
        Ok(())
    }

    /// What `text` would change, if it can be applied here.
    pub async fn plan(&self, view: &View, text: &str) -> Result<Plan, Refusal> {
        let unreadable = |error: anyhow::Error| Refusal::Unavailable(format!("{error:#}"));
        let record = self.record().map_err(unreadable)?;
        if text.len() > CLUSTER_CONFIG_BYTES_MAX {
            let bytes = text.len();
            return Err(Refusal::Invalid(format!(
                "the cluster's configuration would have {bytes} bytes; {CLUSTER_CONFIG_BYTES_MAX} are the limit"
            )));
        }
        let wanted = ClusterConfig { number: record.newest.config.number + 1, text: text.to_owned() };
        let new = self.under(&wanted).map_err(|error| Refusal::Invalid(format!("{error:#}")))?;
        // What is in force may be wrong under the file as it is by now; then everything is new.
        let old = self.under(&record.newest.config).unwrap_or_else(|_| self.running.clone());
        if let Err(error) = Rules::parse(&new.postgres.hba) {
            return Err(Refusal::Invalid(format!("postgres.hba: {error}")));
        }
        (self.check)(&new).map_err(|error| Refusal::Invalid(format!("{error:#}")))?;
        let keys = wanted.keys_unlike(&record.newest.config);
        let changed = parameters(&new, &keys);
        let mut contexts = BTreeMap::new();
        if let Some(worker) = self.worker.as_ref().filter(|_| !changed.is_empty()) {
            let problems = worker.try_parameters(&changed).await;
            let problems = problems.map_err(|error| Refusal::Unavailable(format!("{error:#}")))?;
            if !problems.is_empty() {
                return Err(Refusal::Invalid(format!("PostgreSQL refuses it: {}", problems.join("; "))));
            }
            // Without an answer nothing is known of restarts, which are looked for on each node later anyway.
            contexts = worker.parameter_contexts(changed.keys()).await.unwrap_or_default();
        }
        let changes = changes(&old, &new, &keys, &contexts);
        // Who copies a data directory for hours comes to it later, as who is not there.
        let is_free = |busy: Option<Operation>| !busy.is_some_and(Operation::moves_wal);
        let ready = |name: &String| match *name == view.me.0 {
            true => is_free(view.busy),
            false => view.fresh_peers().any(|peer| peer.node.0 == *name && is_free(peer.busy)),
        };
        let (order, away) = order(view).into_iter().partition(ready);
        Ok(Plan { number: record.newest.config.number, changes, order, away })
    }

    /// Puts `text` into the store, if that still has number `on` as the newest, and asks each node to apply it. The requests.
    pub async fn change(
        &self,
        view: &View,
        text: &str,
        on: u64,
        by: &str,
    ) -> Result<(Plan, Vec<u64>), Refusal> {
        let plan = self.plan(view, text).await?;
        let snapshot = self.store.watch().borrow().clone();
        let stored = read(&snapshot).map_err(|error| Refusal::Unavailable(format!("{error:#}")))?;
        if stored.newest.config.number != on {
            return Err(Refusal::Conflict(format!(
                "the cluster's configuration is number {} by now, changed by {}; look at it (pgherd config show) and decide again",
                stored.newest.config.number, stored.newest.by
            )));
        }
        let (transaction, asked) = self.transaction(&snapshot, &stored, &plan, text, by)?;
        match self.store.commit(transaction).await {
            Ok(_) => Ok((plan, asked)),
            Err(StoreError::Conflict { key, .. }) => Err(Refusal::Conflict(format!(
                "{key} was changed meanwhile, nothing was done; the same command again decides anew"
            ))),
            Err(error) => Err(Refusal::Unavailable(format!("the store took nothing: {error}"))),
        }
    }

    fn transaction(
        &self,
        snapshot: &Snapshot,
        stored: &ConfigRecord,
        plan: &Plan,
        text: &str,
        by: &str,
    ) -> Result<(Transaction, Vec<u64>), Refusal> {
        let unreadable =
            |error: anyhow::Error| Refusal::Unavailable(format!("the store cannot be read: {error:#}"));
        let now = crate::clock::wall_seconds();
        let path = Key::Requests.path();
        let view = store_view(snapshot, true).map_err(unreadable)?;
        let term = view.primary.map_or(Term(0), |primary| primary.value.term);
        let mut requests = view.requests.map_or_else(Requests::default, |requests| requests.value);
        let mut asked = Vec::new();
        // Comments alone are nobody's business.
        for node in plan.order.iter().filter(|_| !plan.changes.is_empty()) {
            let ask = Ask::Reload { node: NodeName::from(node.as_str()), after: asked.last().copied() };
            if let Some(other) = requests.against(&ask, now, false) {
                return Err(Refusal::Conflict(format!(
                    "request {} has {node} read its configuration at this moment; wait for its end (pgherd requests {})",
                    other.id, other.id
                )));
            }
            asked.push(requests.add(ask, term, now));
        }
        // Who was not asked applies it by himself: comments alone, and what was set while he was away.
        let nodes: &[String] = if asked.is_empty() { &[] } else { &plan.order };
        let written =
            |result: serde_json::Result<serde_json::Value>| result.map_err(|error| unreadable(error.into()));
        let record = written(serde_json::to_value(stored.changed(text, now, by, nodes)))?;
        let requests = written(serde_json::to_value(&requests))?;
        let transaction = Transaction::new()
            .require(CONFIG, snapshot.version(CONFIG))
            .require(path, snapshot.version(path))
            .put(CONFIG, record)
            .put(path, requests);
        Ok((transaction, asked))
    }
}

impl Reload for Applier {
    fn reload(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.apply())
    }

    fn applied(&self) -> u64 {
        self.applied.load(Ordering::SeqCst)
    }
}

/// Who may be primary at the end: what goes wrong is to show elsewhere first.
fn order(view: &View) -> Vec<String> {
    let members = view.store.members.iter().flat_map(|members| &members.value.nodes);
    let lead = view.record().map(|record| &record.node);
    let rank = |name: &NodeName, kind: NodeKind| (Some(name) == lead, kind == NodeKind::Witness);
    let mut nodes: Vec<_> = members.map(|(name, member)| (rank(name, member.kind), name.0.clone())).collect();
    nodes.sort();
    nodes.into_iter().map(|(_, name)| name).collect()
}

/// Applies what was set while this node, or this process, was away. What it was asked to apply it leaves to the request: when that
/// has failed, here or elsewhere, it is to be taken back.
pub async fn follow(applier: Arc<Applier>, events: Arc<EventLog>) {
    let mut snapshots = applier.store.watch();
    let (mut begun_with, mut failed): (_, Option<(u64, Instant)>) = (None, None);
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        if begun_with.is_none() && snapshot.connected {
            begun_with = read(&snapshot).ok().map(|record| record.newest.config.number);
        }
        let waits = failed.is_some_and(|(_, at)| at.elapsed() < TRY_AGAIN);
        if let Some(number) = newer(&applier, &snapshot, begun_with).filter(|_| !waits) {
            let is_told = failed.is_some_and(|(told, _)| told == number);
            match applier.apply().await {
                Ok(()) => {
                    failed = None;
                    events.note(0, RULE, format!("applied the cluster's configuration {number}"), Vec::new());
                }
                // It may be busy with its server; it is tried again, and told once.
                Err(error) => {
                    failed = Some((number, Instant::now()));
                    if !is_told {
                        let what = format!("the cluster's configuration {number} cannot be applied here yet");
                        events.note(0, RULE, what, vec![format!("{error:#}")]);
                    }
                }
            }
        }
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

/// The number of a configuration that is newer than the one in force here, and that no request sees to.
/// `begun_with`: the newest when this process first saw the store, which is its own to apply.
fn newer(applier: &Applier, snapshot: &Snapshot, begun_with: Option<u64>) -> Option<u64> {
    let newest = read(snapshot).ok()?.newest;
    if !snapshot.connected || newest.config.number <= applier.applied() {
        return None;
    }
    let own = applier.running.node.name.as_str();
    let is_from_before = begun_with.is_some_and(|number| newest.config.number <= number);
    if !is_from_before && newest.asked.iter().any(|name| name == own) {
        return None;
    }
    let requests =
        store_view(snapshot, true).ok()?.requests.map_or_else(Requests::default, |requests| requests.value);
    let own = NodeName::from(own);
    let asked =
        requests.active().any(|request| matches!(&request.ask, Ask::Reload { node, .. } if *node == own));
    (!asked).then_some(newest.config.number)
}
