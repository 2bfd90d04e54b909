//! Making the running server take a new configuration, and seeing that it did.
//!
//! A reload is asynchronous in every process. A *new* connection that shows the file's generation was forked by a postmaster
//! that had read pgherd.conf and, in the same signal handler, pg_hba.conf. What each walsender has applied is
//! another question: see `sync.rs`.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::error::{Error, Result, TOO_MANY_CONNECTIONS};
use super::server::Server;
use super::session::{CONNECT_DEADLINE, QUERY_DEADLINE, Session, literal};
use super::settings::{Dynamic, GENERATION};

/// The postmaster reloads within milliseconds unless it hangs; then the caller must know soon.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(5);

impl Server {
    pub(super) fn reload(&self) -> Result<()> {
        self.running()?.signal(Signal::HUP)
    }

    /// Reloads and returns once a new connection sees all of `dynamic`.
    pub(super) async fn reload_and_confirm(&self, dynamic: &Dynamic) -> Result<()> {
        self.reload()?;
        let begun = Instant::now();
        loop {
            match self.new_connection_sees(dynamic).await {
                Ok(true) => return Ok(()),
                // Every slot is taken, the reserved ones too. A kept session is signalled by a postmaster that has read
                // the file, so what is forked from now on has it as well; only pg_hba.conf may be a moment behind.
                Err(error) if error.sqlstate() == Some(TOO_MANY_CONNECTIONS) => {
                    let mut admin = self.admin.lock().await;
                    let session = admin.session(&self.layout, self.config.port).await?;
                    if self.sees(session, dynamic).await? {
                        return Ok(());
                    }
                }
                Ok(false) | Err(Error::Deadline { .. }) => {}
                Err(error) => return Err(error),
            }
            if begun.elapsed() > CONFIRM_DEADLINE {
                return Err(self.why_unseen().await);
            }
            sleep(POLL).await;
        }
    }

    async fn new_connection_sees(&self, dynamic: &Dynamic) -> Result<bool> {
        let mut session = Session::open(&self.layout, self.config.port, CONNECT_DEADLINE).await?;
        self.sees(&mut session, dynamic).await
    }

    async fn sees(&self, session: &mut Session, dynamic: &Dynamic) -> Result<bool> {
        let pairs = dynamic.pairs();
        let columns: Vec<String> =
            pairs.iter().map(|(name, _)| format!("current_setting({}, true)", literal(name))).collect();
        let sql = format!("SELECT {}", columns.join(", "));
        let rows = session.rows("read the settings", &sql, QUERY_DEADLINE).await?;
        let found = |index: usize| rows.first().and_then(|row| row.get(index)).unwrap_or_default();
        let generation = found(0).parse::<u64>().unwrap_or(0);
        if pairs[0].0 != GENERATION || generation < dynamic.generation {
            return Ok(false);
        }
        for (index, (name, wanted)) in pairs.iter().enumerate().skip(1) {
            if found(index) != wanted {
                let origin = origin_of(session, name).await?;
                let (setting, found) = ((*name).to_owned(), found(index).to_owned());
                return Err(Error::Overridden { setting, wanted: wanted.clone(), found, origin });
            }
        }
        Ok(true)
    }

    /// The server did not take the file in time: a line in it that it cannot read, or it hangs.
    async fn why_unseen(&self) -> Error {
        let hung =
            Error::Deadline { what: "the reload of the configuration".into(), deadline: CONFIRM_DEADLINE };
        let Ok(mut session) = Session::open(&self.layout, self.config.port, CONNECT_DEADLINE).await else {
            return hung;
        };
        const SQL: &str = "SELECT format('%s line %s: %s', sourcefile, sourceline, error) FROM pg_file_settings \
             WHERE error IS NOT NULL AND NOT applied ORDER BY seqno LIMIT 1";
        match session.value("read pg_file_settings", SQL, QUERY_DEADLINE).await {
            Ok(Some(reason)) => Error::Configuration { reason },
            _ => hung,
        }
    }
}

/// The line that PostgreSQL takes for `name`: the last one it reads.
async fn origin_of(session: &mut Session, name: &str) -> Result<String> {
    let sql = format!(
        "SELECT format('line %s of %s', sourceline, sourcefile) FROM pg_file_settings WHERE name = {} \
         ORDER BY seqno DESC LIMIT 1",
        literal(name)
    );
    let origin = session.value("read pg_file_settings", &sql, QUERY_DEADLINE).await?;
    Ok(origin.unwrap_or_else(|| "a role, a database or the command line".into()))
}
