//! Is the server fine? Asked by a new connection, and by a write.
//!
//! A hung postmaster answers old connections and accepts no new one; a hung disk accepts connections and commits
//! nothing. Each probe has a connection of its own, so that one that hangs blocks nothing else.

use std::time::Duration;

use wire::Lsn;

use super::error::{Result, TOO_MANY_CONNECTIONS, within};
use super::server::Server;
use super::session::{Seat, Session};
use super::sync::write_mark;

/// What a new connection was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answered {
    In,
    /// The server is there and says that every slot is taken.
    NoSlot,
    /// The server is there and lets nobody in now, such as one that is starting.
    Refused,
}

impl Server {
    /// Connects as a client would. An answer with an SQLSTATE is an answer; an error is silence.
    pub async fn probe_connection(&self, deadline: Duration) -> Result<Answered> {
        let work = async {
            let mut session =
                Session::open_as(Seat::Ordinary, &self.layout, self.config.port, deadline).await?;
            session.value("probe", "SELECT 1", deadline).await.map(drop)
        };
        match within("the answer to a new connection", deadline, work).await {
            Ok(()) => Ok(Answered::In),
            Err(error) => match error.sqlstate() {
                Some(TOO_MANY_CONNECTIONS) => Ok(Answered::NoSlot),
                Some(_) => Ok(Answered::Refused),
                None => Err(error),
            },
        }
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
