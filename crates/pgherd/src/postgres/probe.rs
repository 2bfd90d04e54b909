//! Is the server fine? Asked by a new connection, and by a write.
//!
//! A hung postmaster answers old connections and accepts no new one; a hung disk accepts connections and commits
//! nothing. Each probe has a connection of its own, so that one that hangs blocks nothing else.

use std::time::Duration;

use tokio::time::Instant;
use wire::Lsn;

use super::error::{Result, within};
use super::server::Server;
use super::session::Session;
use super::sync::write_mark;

/// Both probes of a primary.
#[derive(Debug)]
pub struct ProbeOutcome {
    /// How long a new connection took.
    pub connection: Result<Duration>,
    /// The end of a WAL record that is flushed here; k of the sync set flushing it proves the rest.
    pub write: Result<Lsn>,
}

impl Server {
    pub async fn probe(&self, deadline: Duration) -> ProbeOutcome {
        let (connection, write) = tokio::join!(self.probe_connection(deadline), self.probe_write(deadline));
        ProbeOutcome { connection, write }
    }

    /// A new connection that answers.
    pub async fn probe_connection(&self, deadline: Duration) -> Result<Duration> {
        let begun = Instant::now();
        let work = async {
            let mut session = Session::open(&self.layout, self.config.port, deadline).await?;
            session.value("probe", "SELECT 1", deadline).await.map(drop)
        };
        within("the answer to a new connection", deadline, work).await?;
        Ok(begun.elapsed())
    }

    /// A WAL record flushed by this server alone; waits for no standby.
    pub async fn probe_write(&self, deadline: Duration) -> Result<Lsn> {
        let work = async {
            let mut prober = self.prober.lock().await;
            let session = prober.session(&self.layout, self.config.port).await?;
            write_mark(session, deadline).await
        };
        within("the write probe", deadline, work).await
    }
}
