//! One client from its first byte to a server of its own.
//!
//! What it is: the order of things (hello, admission, log-in, adoption by a worker) and the clocks on them. What it is not: any of
//! these. Invariant: whoever does not become a session is told why, or was never one.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use wire::message::backend;
use wire::startup::{CancelKey, Opening, parse_opening, with_parameter};

use super::admission::{Admitted, NotAdmitted, admit};
use super::auth::denial::Denial;
use super::auth::messages::ANSWER_BYTES_MAX;
use super::auth::roles::Secret;
use super::auth::scram::Keys;
use super::backend::Choice;
use super::books::Books;
use super::cancel::Cancelled;
use super::ceilings::Place;
use super::clients::{Comer, Demand};
use super::console::{self, Console};
use super::doors::{self, Door};
use super::hello::{Hello, HelloError, read_hello};
use super::login::{self, Entered, Incoming, Login, Passed, enter, pass};
use super::passage::{NotPassed, pass_on};
use super::policy::{self, LoweredCommit};
use super::refusal::{CutCause, Refusal};
use super::servers::Opened;
use super::tally::Owner;
use super::tls::Stream;
use super::worker::{Adopted, FAREWELL_TIMEOUT, Start};
use super::{Counters, Port, Shared, Stage};

/// For a server that lets somebody in without a question.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// PostgreSQL's `authentication_timeout`, for a client to prove its password: it may ask a person.
const AUTHENTICATION_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves one connection; without a `permit` only cancel requests and a refusal.
pub async fn serve(
    shared: Arc<Shared>,
    port: Port,
    mut client: Stream,
    permit: Option<OwnedSemaphorePermit>,
) {
    let mut stage = shared.stage.subscribe();
    let hello = tokio::select! {
        hello = timeout(shared.config.login_timeout, read_hello(&mut client, &shared.tls)) => hello,
        () = Stage::Draining.reached(&mut stage) => return,
    };
    let (startup, replication) = match hello {
        Ok(Ok(Hello::Session { startup, replication })) => (startup, replication),
        Ok(Ok(Hello::Cancel { pid, secret })) => {
            let key = CancelKey { pid, secret: &secret };
            if cancel(&shared, key).await == Cancelled::Unknown
                && let Some(elsewhere) = &shared.questions.elsewhere
            {
                elsewhere.cancel(key);
            }
            return;
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

/// Passes on a request for a session of this proxy.
pub async fn cancel(shared: &Shared, key: CancelKey<'_>) -> Cancelled {
    let cancelled = shared.cancels.forward(key, shared.questions.sync_waits.as_deref(), &shared.tls).await;
    match cancelled {
        Cancelled::Sent => Counters::add(&shared.counters.cancels),
        Cancelled::Withheld => Counters::add(&shared.counters.withheld_cancels),
        Cancelled::Lost | Cancelled::Unknown => {}
    }
    cancelled
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

/// A client has not shown that it knows its password.
enum NotProven {
    Denied(Denial),
    NotPassed(NotPassed),
}

impl Newcomer {
    /// Waits for a server, logs in there, and goes on as a session of a worker.
    async fn enter(mut self, shared: &Shared, port: Port) {
        let demand = match self.demand(shared).await {
            Ok(demand) => demand,
            Err(denial) => return self.deny(shared, denial).await,
        };
        let mut user = self.user();
        if Owner::of(&self.startup).database == console::DATABASE {
            return self.enter_console(shared, port, demand).await;
        }
        if let Some((user, door)) = user.as_deref().zip(self.door(shared, port)) {
            match self.pass(shared, user, &door, demand).await {
                Passed::Unsure => {}
                Passed::In { said, keys } => {
                    let place = match self.place(shared) {
                        Ok(place) => place,
                        Err(refusal) => {
                            Counters::add(&shared.counters.refused);
                            return farewell(&mut self.client, &refusal).await;
                        }
                    };
                    if self.client.write_all(&said).await.is_ok() {
                        self.adopt(shared, port, Start::Known(door.parameters), keys, place);
                    }
                    return;
                }
                Passed::Denied(denial) => {
                    tracing::info!(reason = denial.reason, "a log-in failed");
                    Counters::add(&shared.counters.refused);
                    return farewell(&mut self.client, &Refusal::Denied(denial)).await;
                }
                Passed::Left => return,
            }
        }
        let refusal = loop {
            let admitted =
                match admit(shared, port, &self.startup, &mut self.client, &mut self.early, true).await {
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
                // The server's own words on a wrong password.
                Ok(Entered::Refused(opened)) => (opened, None),
                Ok(Entered::Through(opened)) if demand == Demand::Password => {
                    match self.prove(shared, opened).await {
                        Ok(opened) => (opened, None),
                        Err(NotProven::Denied(denial)) => return self.deny(shared, denial).await,
                        Err(NotProven::NotPassed(NotPassed::Refused(refusal))) => break refusal,
                        Err(NotProven::NotPassed(NotPassed::Left)) => return,
                    }
                }
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
            let place = match self.place(shared) {
                Ok(place) => place,
                Err(refusal) => break refusal,
            };
            match opened.stream.into_parts() {
                Ok(stream) => {
                    let start = Start::Served { stream, answer: opened.answer, choice, seat };
                    self.adopt(shared, port, start, keys, place);
                }
                Err(error) => tracing::warn!(%error, "a session ends: its server cannot be handed on"),
            }
            return;
        };
        Counters::add(&shared.counters.refused);
        farewell(&mut self.client, &refusal).await;
    }

    /// By the rules for clients.
    async fn demand(&self, shared: &Shared) -> Result<Demand, Denial> {
        let os_user = match shared.client_rules.ask_for_peers() {
            true => self.client.os_user().await,
            false => None,
        };
        match parse_opening(&self.startup[4..]) {
            Ok(Opening::Startup(packet)) => {
                let comer = || Comer::of(&self.client, &packet, self.replication).run_by(os_user);
                shared.client_rules.demand(comer)
            }
            _ => Ok(Demand::Nothing),
        }
    }

    async fn deny(mut self, shared: &Shared, denial: Denial) {
        tracing::info!(reason = denial.reason, "a log-in failed");
        Counters::add(&shared.counters.refused);
        farewell(&mut self.client, &Refusal::Denied(denial)).await;
    }

    /// The client proves its password to whoever asks: the server, or where that has let it in unasked, the proxy.
    async fn prove(&mut self, shared: &Shared, mut opened: Opened) -> Result<Opened, NotProven> {
        let user = Owner::of(&self.startup).user;
        let asked = timeout(QUESTION_TIMEOUT, login::hear_question(&mut opened)).await;
        match asked.unwrap_or_default() {
            Some(false) => return self.pass_on(opened).await.map_err(NotProven::NotPassed),
            Some(true) => {}
            // A server that does not say so lets nobody in by this rule.
            None => return Err(NotProven::Denied(Denial::unproven(&user))),
        }
        let role = login::role(&shared.questions, &user).await;
        let Some(role) = role.filter(|role| matches!(role.secret, Secret::Scram(_))) else {
            return Err(NotProven::Denied(Denial::unproven(&user)));
        };
        let asking = login::ask(&user, &role, &mut self.client, &mut self.early);
        match timeout(AUTHENTICATION_TIMEOUT, asking).await.unwrap_or(Err(Entered::Left)) {
            Ok((_, said)) if self.client.write_all(&said).await.is_ok() => Ok(opened),
            Err(Entered::Denied(denial)) => Err(NotProven::Denied(denial)),
            _ => Err(NotProven::NotPassed(NotPassed::Left)),
        }
    }

    /// Lets the client into the console by the secret that the catalog has for it, or where PostgreSQL asks it for none.
    async fn enter_console(mut self, shared: &Shared, port: Port, demand: Demand) {
        let user = self.user().unwrap_or_default();
        let role = login::role(&shared.questions, &user).await;
        if let Err(refusal) = console::admits(&user, role.as_ref()) {
            Counters::add(&shared.counters.refused);
            return farewell_with(&mut self.client, &refusal.encode()).await;
        }
        let Some(role) = role else { return };
        if self.replication {
            let refusal = Refusal::Protocol("the console is no place for replication".to_owned());
            return farewell(&mut self.client, &refusal).await;
        }
        if !matches!(role.secret, Secret::Scram(_)) {
            if demand == Demand::Password {
                return self.deny(shared, Denial::unproven(&user)).await;
            }
            if let Err(refusal) = self.is_let_in_unasked(shared, port).await {
                Counters::add(&shared.counters.refused);
                return farewell(&mut self.client, &refusal).await;
            }
        } else {
            let asking = login::ask(&user, &role, &mut self.client, &mut self.early);
            match timeout(AUTHENTICATION_TIMEOUT, asking).await.unwrap_or(Err(Entered::Left)) {
                Ok((_, said)) if self.client.write_all(&said).await.is_ok() => {}
                Err(Entered::Denied(denial)) => {
                    tracing::info!(reason = denial.reason, "a log-in to the console failed");
                    Counters::add(&shared.counters.refused);
                    return farewell(&mut self.client, &Refusal::Denied(denial)).await;
                }
                _ => return,
            }
        }
        let incoming = Incoming { bytes: self.early };
        Console { shared, client: self.client, incoming, superuser: role.superuser }.serve().await;
    }

    /// PostgreSQL lets the user into the database `postgres` without a question.
    async fn is_let_in_unasked(&mut self, shared: &Shared, port: Port) -> Result<(), Refusal> {
        let startup = with_parameter(&self.startup, "database", b"postgres").unwrap_or_default();
        match admit(shared, port, &startup, &mut self.client, &mut self.early, false).await {
            Ok(Admitted { opened, .. }) => match timeout(QUESTION_TIMEOUT, is_let_in(opened)).await {
                Ok(true) => Ok(()),
                _ => Err(Refusal::Denied(Denial::console())),
            },
            Err(NotAdmitted::Refused(refusal)) => Err(refusal),
            Err(NotAdmitted::ClientLeft) => Err(Refusal::cut(CutCause::Shutdown)),
        }
    }

    /// The way in without a server. Where there is none that this port leads to, the client waits for one before it is let in:
    /// it may know of another host.
    fn door(&self, shared: &Shared, port: Port) -> Option<Door> {
        let topology = shared.topology.borrow();
        let leads_somewhere = Choice::candidates(port, &topology).iter().any(|class| !class.is_empty());
        drop(topology);
        let lends = shared.config.pool_mode.lends() && !self.replication;
        (lends && leads_somewhere && self.asks_for_nothing_new())
            .then(|| shared.doors.find(&doors::key(port, &self.startup), Instant::now()))
            .flatten()
    }

    /// Protocol 3.0 without options, which a server would have to answer.
    fn asks_for_nothing_new(&self) -> bool {
        let Ok(Opening::Startup(packet)) = parse_opening(&self.startup[4..]) else { return false };
        packet.minor == 0 && packet.parameters().all(|(name, _)| !name.starts_with(b"_pq_."))
    }

    async fn pass(&mut self, shared: &Shared, user: &str, door: &Door, demand: Demand) -> Passed {
        let mut stage = shared.stage.subscribe();
        let passing = pass(door, &shared.questions, user, &mut self.client, &mut self.early, demand);
        tokio::select! {
            biased;
            () = Stage::Draining.reached(&mut stage) => Passed::Left,
            passed = timeout(AUTHENTICATION_TIMEOUT, passing) => passed.unwrap_or(Passed::Left),
        }
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

    /// Among the sessions of its user and of its database.
    fn place(&self, shared: &Shared) -> Result<Place, Refusal> {
        let place = shared.session_ceilings.try_place(|| Owner::of(&self.startup));
        place.map_err(|crowd| {
            let limit = shared.session_ceilings.limit(&crowd);
            Refusal::Crowded { what: "sessions", crowd, limit }
        })
    }

    fn adopt(self, shared: &Shared, port: Port, start: Start, keys: Option<Keys>, place: Place) {
        match self.client.into_parts() {
            Ok(client) => shared.workers.adopt(Adopted {
                client,
                early: self.early,
                port,
                login: Arc::new(Login { startup: self.startup, keys }),
                books: self.books,
                start,
                permit: self.permit,
                place,
            }),
            Err(error) => tracing::warn!(%error, "a session ends: its client cannot be handed on"),
        }
    }
}

/// The server asks nothing and is ready for a query: rights to the database and limits are looked at after AuthenticationOk.
async fn is_let_in(opened: Opened) -> bool {
    let Opened { mut stream, answer } = opened;
    let mut incoming = Incoming { bytes: answer };
    let mut is_first = true;
    while let Some((tag, body)) = incoming.next(&mut stream, ANSWER_BYTES_MAX).await {
        match tag {
            backend::AUTHENTICATION if is_first && body[..] == [0; 4] => is_first = false,
            backend::READY_FOR_QUERY => return !is_first,
            backend::AUTHENTICATION | backend::ERROR_RESPONSE => return false,
            _ => {}
        }
    }
    false
}

async fn farewell<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C, refusal: &Refusal) {
    farewell_with(client, &refusal.response().encode()).await;
}

async fn farewell_with<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C, last: &[u8]) {
    let _ = timeout(FAREWELL_TIMEOUT, say(client, last)).await;
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
