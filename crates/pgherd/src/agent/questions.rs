//! The proxy's questions, answered by servers.
//!
//! The local one tells what the catalog knows of a role, and what routing must know of a database. Any server of the cluster is
//! asked, with the cluster's own password, whether a process of it waits for standbys, and where it is in its WAL.

use std::pin::Pin;
use std::sync::Arc;

use proxy::auth::roles::Role;
use proxy::{CatalogNews, Catalogs, Position, Positions, Questions, Secrets, SyncWaits};

use super::work::Worker;
use crate::postgres::{PositionQuestion, SyncRepQuestion};

/// A witness (`None`) has no server that it could ask, and no password of the cluster's own roles for another's.
pub fn questions(worker: Option<&Arc<Worker>>) -> Questions {
    let Some(worker) = worker else { return Questions::default() };
    Questions {
        sync_waits: Some(Arc::new(ServerWaits {
            worker: Arc::clone(worker),
            question: SyncRepQuestion::default(),
        })),
        secrets: Some(Arc::new(ServerSecrets(Arc::clone(worker)))),
        catalogs: Some(Arc::new(ServerCatalogs(Arc::clone(worker)))),
        positions: Some(Arc::new(ServerPositions {
            worker: Arc::clone(worker),
            question: PositionQuestion::default(),
        })),
        ..Questions::default()
    }
}

struct ServerSecrets(Arc<Worker>);

impl Secrets for ServerSecrets {
    fn role<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = Option<Role>> + Send + 'a>> {
        Box::pin(async move { self.0.server.role(name).await.ok().flatten() })
    }
}

struct ServerCatalogs(Arc<Worker>);

impl Catalogs for ServerCatalogs {
    fn read<'a>(
        &'a self,
        database: &'a str,
        known: Option<&'a str>,
    ) -> Pin<Box<dyn Future<Output = Result<CatalogNews, String>> + Send + 'a>> {
        Box::pin(
            async move { self.0.server.catalog(database, known).await.map_err(|error| error.to_string()) },
        )
    }
}

struct ServerWaits {
    worker: Arc<Worker>,
    question: SyncRepQuestion,
}

impl SyncWaits for ServerWaits {
    fn waits<'a>(
        &'a self,
        address: &'a str,
        pid: u32,
    ) -> Pin<Box<dyn Future<Output = Option<bool>> + Send + 'a>> {
        let password = password(&self.worker);
        Box::pin(async move { self.question.ask(address, pid, &password?).await })
    }
}

struct ServerPositions {
    worker: Arc<Worker>,
    question: PositionQuestion,
}

impl Positions for ServerPositions {
    fn position<'a>(
        &'a self,
        address: &'a str,
    ) -> Pin<Box<dyn Future<Output = Option<Position>> + Send + 'a>> {
        let password = password(&self.worker);
        Box::pin(async move { self.question.ask(address, &password?).await })
    }
}

fn password(worker: &Worker) -> Option<String> {
    worker.known().credentials.as_ref().map(|credentials| credentials.rewind.clone())
}
