//! The proxy's question for the stored secret of a role, asked of the local server.

use std::pin::Pin;
use std::sync::Arc;

use proxy::Secrets;

use super::work::Worker;

pub struct ServerSecrets(pub Arc<Worker>);

impl Secrets for ServerSecrets {
    fn secret<'a>(&'a self, role: &'a str) -> Pin<Box<dyn Future<Output = Option<String>> + Send + 'a>> {
        Box::pin(async move { self.0.server.role_secret(role).await.ok().flatten() })
    }
}
