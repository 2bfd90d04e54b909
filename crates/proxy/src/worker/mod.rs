//! Threads that own sessions: from the moment a session has a server until its end all of it happens on one of them.
//!
//! ```text
//! session::serve (tokio) ── adopt ─► mailbox ─► engine ─► session ─► relay (books, lanes)
//! topology, stage ───────── look ──►          │        └► pools (whose server, who waits for one)
//! relocation (tokio) ────── found ─►          └► socket (epoll)
//! ```
//!
//! What it is: a loop over epoll's events for each thread. A session costs no task, timer, channel or lock while its bytes
//! pass. What it is not: a place to wait; whatever waits (a login, a new server) is a task of tokio, which answers by mail.
//! Invariant: a session never changes its thread, so nothing of it is shared.

mod engine;
mod guide;
mod pools;
mod report;
mod session;
mod socket;

pub use report::{Activity, Report, ServerReport, SessionReport};
pub use session::FAREWELL_TIMEOUT;

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::backend::Choice;
use super::books::Books;
use super::ceilings::{Crowd, Place};
use super::login::Login;
use super::refusal::Refusal;
use super::relocation::Relocated;
use super::servers::Seat;
use super::ties::Parameters;
use super::tls::Parts;
use super::{Port, Shared};

/// Which session of a worker: its place, and how many have had that place before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionId {
    place: u32,
    generation: u32,
}

impl SessionId {
    /// One number for both; places beyond 2^32 there are none.
    pub fn number(self) -> u64 {
        u64::from(self.generation & 0xffff) << 32 | u64::from(self.place)
    }
}

/// What people may do to sessions and servers of a database, or of all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Who waits looks again whether it still has to.
    Resume,
    /// Servers are closed once nobody uses them.
    Reconnect(Option<String>),
    /// Somebody of this crowd needs a server more than those who have idle ones.
    MakeRoom(Crowd),
    /// Sessions are ended.
    Kill(Option<String>),
    /// By `SessionReport::id`.
    KillSession(u64),
}

/// A session on its way to a worker.
#[derive(Debug)]
pub struct Adopted {
    pub client: Parts,
    /// What the client has said that no server has seen.
    pub early: Vec<u8>,
    pub port: Port,
    pub login: Arc<Login>,
    pub books: Books,
    pub start: Start,
    pub permit: OwnedSemaphorePermit,
    pub place: Place,
}

/// What a session begins with.
#[derive(Debug)]
pub enum Start {
    /// A server that lets it in, and what that has said and the client has not seen.
    Served { stream: Parts, answer: Vec<u8>, choice: Choice, seat: Seat },
    /// It is let in; it gets a server when it wants one. This is what servers report to its like.
    Known(Arc<Parameters>),
}

/// What a worker is told.
enum Mail {
    Adopt(Box<Adopted>),
    /// The topology or the proxy's stage is another.
    Look,
    /// It was looked how far replicas are.
    LookAtReplicas,
    /// What a session waited for has come.
    Wake(SessionId),
    Relocated(SessionId, Box<Result<Relocated, Refusal>>),
    Report(oneshot::Sender<Report>),
    Order(Order),
    Quit,
}

/// Mails of one worker. They are as many as its sessions at most: each waits for one thing at a time.
struct Mailbox {
    mails: Mutex<Vec<Mail>>,
    bell: OwnedFd,
    /// Sessions on this worker, those on their way included.
    sessions: AtomicUsize,
}

impl Mailbox {
    fn post(&self, mail: Mail) {
        let mut mails = self.mails.lock().unwrap_or_else(PoisonError::into_inner);
        mails.push(mail);
        // One ring is heard for all that lies there.
        if mails.len() == 1 {
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }

    fn empty(&self) -> Vec<Mail> {
        let mut mails = self.mails.lock().unwrap_or_else(PoisonError::into_inner);
        // Emptied together with the bell, so that the next mail rings again.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        std::mem::take(&mut *mails)
    }
}

/// Wakes one session; given to whom it waits for.
struct Call {
    mailbox: Arc<Mailbox>,
    session: SessionId,
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.mailbox.post(Mail::Wake(self.session));
    }
}

impl Call {
    fn waker(mailbox: &Arc<Mailbox>, session: SessionId) -> Waker {
        Arc::new(Call { mailbox: Arc::clone(mailbox), session }).into()
    }
}

/// The way to the workers.
pub struct Workers {
    mailboxes: Vec<Arc<Mailbox>>,
    /// Sessions on all of them.
    sessions: watch::Sender<usize>,
    /// Who has the next order that is for one only.
    turn: AtomicUsize,
}

impl Workers {
    pub fn new(count: usize) -> io::Result<Workers> {
        let mailbox = |_| {
            let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            Ok(Arc::new(Mailbox { mails: Mutex::default(), bell, sessions: AtomicUsize::new(0) }))
        };
        let mailboxes = (0..count.max(1)).map(mailbox).collect::<io::Result<_>>()?;
        Ok(Workers { mailboxes, sessions: watch::Sender::new(0), turn: AtomicUsize::new(0) })
    }

    /// Starts the threads, all or none; they end by `quit`. To be called within a runtime of tokio.
    pub fn start(&self, shared: &Arc<Shared>) -> io::Result<()> {
        for (number, mailbox) in self.mailboxes.iter().enumerate() {
            let started =
                engine::Engine::new(number, Arc::clone(shared), Arc::clone(mailbox), Handle::current())
                    .and_then(|engine| {
                        std::thread::Builder::new()
                            .name(format!("proxy-{number}"))
                            .spawn(move || engine.run())
                    });
            if let Err(error) = started {
                self.quit();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Gives a session to the worker that has the fewest.
    pub fn adopt(&self, session: Adopted) {
        let load = |mailbox: &&Arc<Mailbox>| mailbox.sessions.load(Ordering::Relaxed);
        if let Some(mailbox) = self.mailboxes.iter().min_by_key(load) {
            mailbox.sessions.fetch_add(1, Ordering::Relaxed);
            self.sessions.send_modify(|sessions| *sessions += 1);
            mailbox.post(Mail::Adopt(Box::new(session)));
        }
    }

    /// Has all of them look at the topology and the stage.
    pub fn look(&self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.post(Mail::Look));
    }

    /// Has them see how far replicas are.
    pub fn look_at_replicas(&self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.post(Mail::LookAtReplicas));
    }

    /// What all of them have now.
    pub async fn report(&self) -> Report {
        let mut whole = Report::default();
        let mut answers = Vec::new();
        for mailbox in &self.mailboxes {
            let (sender, answer) = oneshot::channel();
            mailbox.post(Mail::Report(sender));
            answers.push(answer);
        }
        for (number, answer) in answers.into_iter().enumerate() {
            // One that quits has nothing any more.
            if let Ok(report) = answer.await {
                whole.add(number, report);
            }
        }
        whole
    }

    pub fn order(&self, order: &Order) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.post(Mail::Order(order.clone())));
    }

    /// For one of them, in turn.
    pub fn order_one(&self, order: &Order) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.mailboxes.len();
        self.mailboxes[turn].post(Mail::Order(order.clone()));
    }

    pub fn quit(&self) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.post(Mail::Quit));
    }

    /// Waits until no worker has a session.
    pub async fn idle(&self) {
        // The sender lives as long as `self`.
        drop(self.sessions.subscribe().wait_for(|sessions| *sessions == 0).await);
    }

    fn ended(&self, mailbox: &Mailbox) {
        mailbox.sessions.fetch_sub(1, Ordering::Relaxed);
        self.sessions.send_modify(|sessions| *sessions -= 1);
    }
}
