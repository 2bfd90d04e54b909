//! What the catalog knows of a role, for the proxy of this node.

use proxy::auth::roles::{Role, Secret};

use super::error::Result;
use super::server::Server;
use super::session::{QUERY_DEADLINE, literal};

impl Server {
    /// The role `name` as this server has it, be it primary or standby; of its memberships that in `pg_monitor` alone. `None` when
    /// there is no such role.
    pub async fn role(&self, name: &str) -> Result<Option<Role>> {
        // Microseconds since 1970; 'infinity' is for ever, as no end is.
        let sql = format!(
            "SELECT rolpassword, rolcanlogin, rolsuper, \
             CASE WHEN isfinite(rolvaliduntil) THEN (extract(epoch FROM rolvaliduntil) * 1000000)::bigint END, \
             pg_has_role(oid, 'pg_monitor', 'MEMBER') \
             FROM pg_authid WHERE rolname = {}",
            literal(name)
        );
        let mut secrets = self.secrets.lock().await;
        let session = secrets.session(&self.layout, self.config.port).await?;
        let rows = session.rows("read a role", &sql, QUERY_DEADLINE).await?;
        Ok(rows.first().map(|row| Role {
            can_login: row.get(1) == Some("t"),
            superuser: row.get(2) == Some("t"),
            secret: Secret::parse(row.get(0)),
            valid_until: row.get(3).and_then(|until| until.parse().ok()),
            member_of: (row.get(4) == Some("t")).then(|| "pg_monitor".to_owned()).into_iter().collect(),
        }))
    }
}
