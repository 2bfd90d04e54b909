//! The proxy's question whether a server process waits for standbys, asked with the cluster's own password.

use std::pin::Pin;
use std::sync::Arc;

use super::work::Worker;
use crate::postgres::SyncRepQuestion;
use proxy::SyncWaits;

pub struct ServerWaits {
    worker: Arc<Worker>,
    question: SyncRepQuestion,
}

impl ServerWaits {
    pub fn new(worker: Arc<Worker>) -> ServerWaits {
        ServerWaits { worker, question: SyncRepQuestion::default() }
    }
}

impl SyncWaits for ServerWaits {
    fn waits<'a>(
        &'a self,
        address: &'a str,
        pid: u32,
    ) -> Pin<Box<dyn Future<Output = Option<bool>> + Send + 'a>> {
        let password = self.worker.known().credentials.as_ref().map(|credentials| credentials.rewind.clone());
        Box::pin(async move { self.question.ask(address, pid, &password?).await })
    }
}
