//! The stored secret of a role, for the proxy of this node.

use super::error::Result;
use super::server::Server;
use super::session::{QUERY_DEADLINE, literal};

impl Server {
    /// `rolpassword` of `role` as this server has it, be it primary or standby; `None` without such a role or without a
    /// password.
    pub async fn role_secret(&self, role: &str) -> Result<Option<String>> {
        let sql = format!("SELECT rolpassword FROM pg_authid WHERE rolname = {}", literal(role));
        let mut secrets = self.secrets.lock().await;
        let session = secrets.session(&self.layout, self.config.port).await?;
        session.value("read the secret of a role", &sql, QUERY_DEADLINE).await
    }
}
