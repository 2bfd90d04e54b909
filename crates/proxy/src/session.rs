//! One client from its first byte to a server of its own.
//!
//! What it is: the order of things (hello, admission, log-in, adoption by a worker) and the clocks on them. What it is not: any of
//! these. Invariant: whoever does not become a session is told why, or was never one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use wire::startup::{CancelKey, Opening, parse_opening};

use super::admission::{Admitted, NotAdmitted, admit};
use super::auth::scram::Keys;
use super::backend::Choice;
use super::books::Books;
use super::cancel::Cancelled;
use super::hello::{Hello, HelloError, read_hello};
use super::login::{Entered, Login, enter};
use super::passage::{NotPassed, pass_on};
use super::policy::{self, LoweredCommit};
use super::refusal::{CutCause, Refusal};
use super::servers::{Opened, Seat};
use super::tls::Stream;
use super::worker::{Adopted, FAREWELL_TIMEOUT};
use super::{Counters, Port, Shared, Stage};

/// PostgreSQL's `authentication_timeout`, for a client to prove its password: it may ask a person.
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves one connection; without a `permit` only cancel requests and a refusal.
pub async fn serve(shared: Arc<Shared>, port: Port, client: TcpStream, permit: Option<OwnedSemaphorePermit>) {
    let mut client = Stream::from(client);
    let mut stage = shared.stage.subscribe();
    let hello = tokio::select! {
        hello = timeout(shared.config.login_timeout, read_hello(&mut client, &shared.tls)) => hello,
        () = Stage::Draining.reached(&mut stage) => return,
    };
    let (startup, replication) = match hello {
        Ok(Ok(Hello::Session { startup, replication })) => (startup, replication),
        Ok(Ok(Hello::Cancel { pid, secret })) => {
            return cancel(&shared, CancelKey { pid, secret: &secret }).await;
        }
        Ok(Err(error)) => {
            if let HelloError::Tls(error) = &error {
                let address =
                    client.socket().peer_addr().map(|address| address.to_string()).unwrap_or_default();
                tracing::info!(%error, address, "could not accept SSL connection");
            }
            if let Some(refusal) = error.refusal() {
                farewell(&mut client, &refusal).await;
            }
            return;
        }
        Err(_) => return,
    };
    if let Some(common_name) = client.common_name() {
        tracing::debug!(common_name, "a client has shown a certificate that was verified");
    }
    let Some(permit) = permit else {
        Counters::add(&shared.counters.refused);
        let sessions_max = shared.config.sessions_max;
        return farewell(&mut client, &Refusal::TooManySessions { sessions_max }).await;
    };
    let mut books = Books::new(replication, startup.hides_warnings, shared.config.lowered_commit);
    if startup.lowers_commit {
        match shared.config.lowered_commit {
            LoweredCommit::Allow => {}
            LoweredCommit::Warn => {
                Counters::add(&shared.counters.lowered_commits);
                if !startup.hides_warnings {
                    books.news = policy::warning().encode();
                }
            }
            LoweredCommit::Forbid => {
                Counters::add(&shared.counters.refused);
                return farewell(&mut client, &Refusal::LoweredCommit).await;
            }
        }
    }
    let newcomer =
        Newcomer { client, startup: startup.packet, replication, books, early: Vec::new(), permit };
    newcomer.enter(&shared, port).await;
}

async fn cancel(shared: &Shared, key: CancelKey<'_>) {
    match shared.cancels.forward(key, shared.questions.sync_waits.as_deref(), &shared.tls).await {
        Cancelled::Sent => Counters::add(&shared.counters.cancels),
        Cancelled::Withheld => Counters::add(&shared.counters.withheld_cancels),
        Cancelled::Lost => {}
    }
}

/// A client that wants a session.
struct Newcomer {
    client: Stream,
    startup: Vec<u8>,
    replication: bool,
    books: Books,
    /// What it has said that its server has not seen.
    early: Vec<u8>,
    permit: OwnedSemaphorePermit,
}

/// The server was taken away while its client was logging in.
enum Parted {
    Unasked,
    Asked(Refusal),
}

impl Newcomer {
    /// Waits for a server, logs in there, and goes on as a session of a worker.
    async fn enter(mut self, shared: &Shared, port: Port) {
        let mut user = self.user();
        let refusal = loop {
            let admitted = match admit(shared, port, &self.startup, &mut self.client, &mut self.early).await {
                Ok(admitted) => admitted,
                Err(NotAdmitted::ClientLeft) => return,
                Err(NotAdmitted::Refused(refusal)) => break refusal,
            };
            let Admitted { choice, seat, opened, .. } = admitted;
            let entered = match &user {
                Some(user) => self.log_in(shared, user, &choice, opened).await,
                None => Ok(Entered::Through(opened)),
            };
            let (opened, keys) = match entered {
                Ok(Entered::Through(opened)) => match self.pass_on(opened).await {
                    Ok(opened) => (opened, None),
                    Err(NotPassed::Left) => return,
                    Err(NotPassed::Refused(refusal)) => break refusal,
                },
                Ok(Entered::Proven { opened, keys }) => (opened, Some(keys)),
                // Once more, and the server's question goes to the client as it is.
                Ok(Entered::Stale) => {
                    user = None;
                    continue;
                }
                Ok(Entered::Denied(denial)) => {
                    tracing::info!(reason = denial.reason, "a log-in failed");
                    break Refusal::Denied(denial);
                }
                Ok(Entered::Broken(why)) => {
                    let node = choice.backend.node;
                    break Refusal::cut(CutCause::LoginBroken { node, why });
                }
                Ok(Entered::Left) => return,
                Err(Parted::Unasked) => continue,
                Err(Parted::Asked(refusal)) => break refusal,
            };
            if let Err(error) = self.adopt(shared, port, choice, seat, opened, keys) {
                tracing::warn!(%error, "a session ends: its sockets cannot be handed on");
            }
            return;
        };
        Counters::add(&shared.counters.refused);
        farewell(&mut self.client, &refusal).await;
    }

    /// The client's answer to the server's own question, where TLS stands between the two.
    async fn pass_on(&mut self, opened: Opened) -> Result<Opened, NotPassed> {
        let passing = pass_on(&mut self.client, &mut self.early, opened);
        timeout(AUTHENTICATION_TIMEOUT, passing).await.unwrap_or(Err(NotPassed::Left))
    }

    /// In whose name the proxy may log in. A replication session goes with its server, so it logs in by itself, unless it binds
    /// its log-in to the TLS connection with the proxy.
    fn user(&self) -> Option<String> {
        match parse_opening(&self.startup[4..]) {
            Ok(Opening::Startup(packet)) if !self.replication || self.client.is_encrypted() => {
                packet.get("user").and_then(|user| std::str::from_utf8(user).ok()).map(str::to_owned)
            }
            _ => None,
        }
    }

    async fn log_in(
        &mut self,
        shared: &Shared,
        user: &str,
        choice: &Choice,
        opened: Opened,
    ) -> Result<Entered, Parted> {
        let (mut stage, mut topology) = (shared.stage.subscribe(), shared.topology.clone());
        let asked = AtomicBool::new(false);
        let entering = enter(&shared.questions, user, &mut self.client, &mut self.early, &asked, opened);
        let cause = tokio::select! {
            biased;
            cause = choice.until_cut(&mut topology) => cause,
            () = Stage::Draining.reached(&mut stage) => CutCause::Shutdown,
            entered = timeout(AUTHENTICATION_TIMEOUT, entering) => return Ok(entered.unwrap_or(Entered::Left)),
        };
        // A client that has been asked nothing may be asked by another server.
        match asked.into_inner() {
            true => Err(Parted::Asked(Refusal::cut(cause))),
            false => Err(Parted::Unasked),
        }
    }

    fn adopt(
        self,
        shared: &Shared,
        port: Port,
        choice: Choice,
        seat: Seat,
        opened: Opened,
        keys: Option<Keys>,
    ) -> io::Result<()> {
        shared.workers.adopt(Adopted {
            client: self.client.into_parts()?,
            server: opened.stream.into_parts()?,
            early: self.early,
            answer: opened.answer,
            port,
            login: Arc::new(Login { startup: self.startup, keys }),
            books: self.books,
            choice,
            seat,
            permit: self.permit,
        });
        Ok(())
    }
}

async fn farewell<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C, refusal: &Refusal) {
    let _ = timeout(FAREWELL_TIMEOUT, say(client, &refusal.response().encode())).await;
}

/// Sends the error and reads until the client closes: closing with unread bytes would reset the connection, and a
/// reset takes back what the client has not read yet.
async fn say<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C, message: &[u8]) -> std::io::Result<()> {
    client.write_all(message).await?;
    client.shutdown().await?;
    discard(client).await
}

async fn discard<C: AsyncRead + Unpin>(from: &mut C) -> std::io::Result<()> {
    let mut chunk = [0; 512];
    while from.read(&mut chunk).await? > 0 {}
    Ok(())
}
