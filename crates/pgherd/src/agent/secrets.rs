//! The proxy's question for what the catalog knows of a role, asked of the local server.

use std::pin::Pin;
use std::sync::Arc;

use proxy::Secrets;
use proxy::auth::roles::Role;

use super::work::Worker;

pub struct ServerSecrets(pub Arc<Worker>);

impl Secrets for ServerSecrets {
    fn role<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = Option<Role>> + Send + 'a>> {
        Box::pin(async move { self.0.server.role(name).await.ok().flatten() })
    }
}
