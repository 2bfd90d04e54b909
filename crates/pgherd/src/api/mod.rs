//! What a node tells over HTTP: its view of the cluster, and the health endpoints that load balancers ask.
//!
//! What it is: the reports (`report`), the trait that whoever knows the cluster implements (`ClusterView`), and one
//! table of routes (`routes`). What it is not: a source of truth; it holds no state and decides nothing, every
//! answer is taken from the view at the moment of the request.
//! Invariant: reading changes nothing. What changes something writes a request down and answers with its id; it is
//! taken from users of the role for it and from this machine only (`access`).

pub mod access;
mod change;
mod configuration;
mod doctor;
mod failovers;
mod listener;
mod members;
#[cfg(test)]
mod monitoring;
#[cfg(test)]
mod openapi;
mod own;
mod panel;
mod patroni;
#[cfg(test)]
mod reference;
pub mod report;
mod routes;
mod stream;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::middleware;
use tokio::net::TcpListener;
use tokio::sync::watch;

use access::Access;
use listener::{Certificate, Listener, Peer};

pub use crate::agent::FailoverReport;
use crate::agent::{Command, Refusal};
use crate::config::Http;
use crate::doctor::DoctorReport;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub use configuration::{ConfigChange, ConfigReport, ConfigValue, NewConfig, PastConfig};
pub use doctor::ClockReport;
pub use members::{MemberChange, NewMember};
pub use own::{OwnReport, PastTimeline, Successor};
pub use panel::NodeView;
pub use report::{
    Accepted, EventRecord, Explanation, FencerReport, MemberReport, MembersReport, NodeReport, OriginStatus,
    RequestReport, Role, SlotLine, SlotsReport, StatusReport, SyncMode, SyncReport, wall_text,
};
pub use routes::{EVENTS_PER_ANSWER_MAX, ROUTES, Route};

/// The cluster as one node sees it; the agent's side of this module.
///
/// Every method that is no future answers from memory at once: it is called on the runtime's threads.
pub trait ClusterView: Send + Sync + 'static {
    fn status(&self) -> StatusReport;
    /// Events with an id above `after`, oldest first, at most `limit`.
    fn events(&self, after: u64, limit: usize) -> Vec<EventRecord>;
    /// Those of every node, as far as they are known here: with an id above the one that `after` has for their node, in the
    /// order of their time, at most `limit` of a node.
    fn events_of_all(&self, after: &BTreeMap<String, u64>, limit: usize) -> Vec<EventRecord>;
    /// What would happen if `node` died now; without a name, for each node in turn. Empty for an unknown node.
    fn explain(&self, node: Option<&str>) -> Vec<Explanation>;
    /// Who belongs to the cluster, and who votes in the store.
    fn members(&self) -> MembersReport;
    /// What people asked for, oldest first, as far as it is remembered.
    fn requests(&self) -> Vec<RequestReport>;
    /// The reporting node, beyond its row in the status.
    fn own(&self) -> OwnReport;
    /// Timelines that were left, oldest first.
    fn history(&self) -> Vec<PastTimeline>;
    /// Reports of the last failovers, oldest first.
    fn failovers(&self) -> Result<Vec<FailoverReport>, Refusal>;
    /// What the proxy of this node counts, in Prometheus' text format.
    fn metrics(&self) -> BoxFuture<'_, String>;
    /// Writes a command down; answers with the request's id where there is one.
    fn command(&self, command: Command) -> BoxFuture<'_, Result<Option<u64>, Refusal>>;
    /// What is set for all nodes.
    fn configuration(&self) -> Result<ConfigReport, Refusal>;
    /// Puts another text in its place, in the name of `by`, and asks each node to apply it; or says what that would do.
    fn configure(&self, new: NewConfig, by: String) -> BoxFuture<'_, Result<ConfigChange, Refusal>>;
    /// Examines this node now; takes as long as its disks and the network do, and has a deadline.
    fn examine(&self) -> BoxFuture<'_, DoctorReport>;
    /// Writes a change of the members down; answers with the revision of the store that has it.
    fn change_members(&self, change: MemberChange) -> BoxFuture<'_, Result<u64, Refusal>>;
}

/// How callers come in: who may, and by which certificate.
pub struct Door {
    access: Arc<Access>,
    certificate: Option<Arc<Certificate>>,
}

impl Door {
    /// Reads the files that `[http]` names; the error names the one that cannot be used.
    pub fn open(http: &Http) -> anyhow::Result<Door> {
        let certificate = http.tls.as_ref().map(Certificate::load).transpose()?.map(Arc::new);
        Ok(Door { access: Arc::new(Access::new(http)?), certificate })
    }

    /// In clear, and changes are taken from this machine alone.
    #[cfg(test)]
    pub fn of_this_machine() -> Door {
        let http = Http { listen: String::new(), port: 0, tls: None, users: None, trusts_loopback: true };
        Door::open(&http).expect("there is no file to be read")
    }
}

/// Answers on `listener` until `shutdown` is done and the requests under way have their answers.
pub async fn serve(
    listener: TcpListener,
    door: Door,
    view: Arc<dyn ClusterView>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let (ending, ended) = watch::channel(false);
    let router = routes::router(view, ended).layer(middleware::from_fn_with_state(door.access, access::gate));
    let service = router.into_make_service_with_connect_info::<Peer>();
    let shutdown = async move {
        shutdown.await;
        // A stream has no end of its own.
        let _ = ending.send(true);
    };
    let watched = door.certificate.clone();
    let serving =
        axum::serve(Listener::new(listener, door.certificate), service).with_graceful_shutdown(shutdown);
    let watching = async {
        match watched {
            Some(certificate) => certificate.watch().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = serving => ended,
        () = watching => Ok(()),
    }
}

#[cfg(test)]
mod tests;
