//! What routing must know of a database, read from this node's server, be it primary or standby.

use std::time::Duration;

use proxy::{CatalogNews, CatalogQuery, CatalogRows};

use super::error::{Error, Result};
use super::server::Server;
use super::session::{CONNECT_DEADLINE, Session};

/// A catalog of 100,000 functions and relations takes a second or two.
const READ_DEADLINE: Duration = Duration::from_secs(30);

impl Server {
    /// The catalog of `database`, all of one moment; `known` is the fingerprint of what is known already. The connection is closed
    /// afterwards: nobody is to find the database in use by it.
    pub async fn catalog(&self, database: &str, known: Option<&str>) -> Result<CatalogNews> {
        const WHAT: &str = "read the catalog for routing";
        let mut session =
            Session::open_in(&self.layout, self.config.port, database, CONNECT_DEADLINE).await?;
        session.rows(WHAT, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", READ_DEADLINE).await?;
        let fingerprint =
            session.value(WHAT, CatalogQuery::FINGERPRINT, READ_DEADLINE).await?.unwrap_or_default();
        if known == Some(&*fingerprint) {
            return Ok(CatalogNews::Unchanged);
        }
        let mut rows = Box::<CatalogRows>::default();
        for query in CatalogQuery::ALL {
            for row in session.rows(WHAT, query.sql(), READ_DEADLINE).await? {
                let columns: Vec<&str> = row.columns().collect();
                rows.take(query, &columns).map_err(|error| Error::io(WHAT)(std::io::Error::other(error)))?;
            }
        }
        Ok(CatalogNews::Changed { fingerprint, rows })
    }
}
