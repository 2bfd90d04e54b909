//! The admin console: what a client gets that connects to the database `pgbouncer`.
//!
//! ```text
//! session ─► console ─► login as any other: the catalog's SCRAM secret, or the server lets the role in unasked
//!                 └───► command ─► tables (worker reports, topology, averages) │ orders to the workers
//! ```
//!
//! What it is: PgBouncer's commands and columns, so that its exporters and scripts go on. What it is not: a way to change the
//! configuration. Invariant: only superusers and members of `pg_monitor` are let in, and only superusers change anything.

mod averages;
mod command;
mod stats;
mod table;
mod tables;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use wire::message::{backend, frontend, put_frame};
use wire::{ErrorResponse, Severity};

use super::admission::until_left;
use super::auth::roles::Role;
use super::login::Incoming;
use super::tls::Stream;
use super::worker::{Activity, Order};
use super::{Shared, Stage};
pub use averages::PERIOD;
use averages::Rates;
use command::Command;
use tables::Scene;

/// The database by which the console is reached, as PgBouncer's.
pub const DATABASE: &str = "pgbouncer";
/// A command; the longest names a database.
const COMMAND_BYTES_MAX: usize = 8 * 1024;
/// Between two looks whether all servers have been given back.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The role that PostgreSQL has for those who watch.
const MONITOR: &str = "pg_monitor";

/// What people have ordered, and what was counted.
#[derive(Default, Debug)]
pub struct Desk {
    /// Something is paused: most transactions need not look further.
    pauses: AtomicBool,
    paused: Mutex<Paused>,
    rates: Mutex<Rates>,
}

#[derive(Clone, Default, Debug)]
struct Paused {
    all: bool,
    databases: BTreeSet<String>,
}

impl Desk {
    /// Nobody is to get a server for this database.
    pub fn pauses(&self, database: impl FnOnce() -> String) -> bool {
        self.pauses.load(Ordering::Relaxed) && {
            let paused = lock(&self.paused);
            paused.all || paused.databases.contains(&database())
        }
    }

    fn change(&self, change: impl FnOnce(&mut Paused)) {
        let mut paused = lock(&self.paused);
        change(&mut paused);
        self.pauses.store(paused.all || !paused.databases.is_empty(), Ordering::Relaxed);
    }

    fn pause(&self, database: Option<&str>) {
        self.change(|paused| match database {
            Some(database) => drop(paused.databases.insert(database.to_owned())),
            None => paused.all = true,
        });
    }

    fn resume(&self, database: Option<&str>) {
        self.change(|paused| match database {
            Some(database) => drop(paused.databases.remove(database)),
            None => *paused = Paused::default(),
        });
    }
}

/// Adds up what happened, for as long as the proxy lives.
pub async fn keep_averages(shared: std::sync::Arc<Shared>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let report = shared.workers.report().await;
        lock(&shared.desk.rates).turn(&report, Instant::now());
    }
}

/// What a role may do here; the error is for the client.
pub fn admits(user: &str, role: Option<&Role>) -> Result<(), ErrorResponse> {
    match role {
        Some(role) if role.can_login && may_look(role) => Ok(()),
        Some(_) => Err(refusal(
            format!(
                "permission denied for the console: \"{user}\" is neither a superuser nor a member of {MONITOR}, or may not log in"
            ),
            format!("GRANT {MONITOR} TO \"{user}\" lets it look."),
        )),
        None => Err(refusal(
            format!(
                "the console cannot tell who \"{user}\" is: PostgreSQL of this node does not answer, or has no such role"
            ),
            "Run \"pgherd status\" to see the cluster.".to_owned(),
        )),
    }
}

fn may_look(role: &Role) -> bool {
    role.superuser || role.member_of.iter().any(|group| group == MONITOR)
}

fn refusal(message: String, hint: String) -> ErrorResponse {
    ErrorResponse { severity: Severity::Fatal, sqlstate: "42501", message, detail: String::new(), hint }
}

/// One client of the console, which is let in, up to its end.
pub struct Console<'a> {
    pub shared: &'a Shared,
    pub client: Stream,
    pub incoming: Incoming,
    pub superuser: bool,
}

impl Console<'_> {
    /// Greets the client and answers until it leaves.
    pub async fn serve(mut self) {
        let mut stage = self.shared.stage.subscribe();
        tokio::select! {
            () = Stage::Draining.reached(&mut stage) => {}
            _ = self.answer_all() => {}
        }
    }

    async fn answer_all(&mut self) -> std::io::Result<()> {
        self.client.write_all(&greeting()).await?;
        while let Some((tag, body)) = self.incoming.next(&mut self.client, COMMAND_BYTES_MAX).await {
            let mut out = Vec::new();
            match tag {
                frontend::TERMINATE => break,
                frontend::QUERY => {
                    let text = String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(&body)).into_owned();
                    self.answer(&text, &mut out).await;
                    put_frame(&mut out, backend::READY_FOR_QUERY, b"I");
                }
                // The answer to a group of messages is one error, at its end.
                frontend::SYNC => {
                    error("the console takes simple queries only", "Turn prepared statements off.", &mut out);
                    put_frame(&mut out, backend::READY_FOR_QUERY, b"I");
                }
                _ => {}
            }
            self.client.write_all(&out).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, text: &str, out: &mut Vec<u8>) {
        match command::parse(text) {
            Err(why) => error(&why, "", out),
            Ok(Command::Nothing) => put_frame(out, EMPTY_QUERY, b""),
            Ok(Command::Set) => done("SET", out),
            Ok(Command::Show(show)) => self.show(show, out).await,
            Ok(Command::ShowParameter(name)) => {
                let mut table = table::Table::new(&name);
                let known = PARAMETERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(&name));
                table.row(vec![known.map(|(_, value)| (*value).to_owned())]);
                table.encode(out);
            }
            Ok(_) if !self.superuser => {
                error("permission denied: only superusers change anything here", "", out);
            }
            Ok(order) => self.order(order, out).await,
        }
    }

    async fn show(&self, show: command::Show, out: &mut Vec<u8>) {
        let shared = self.shared;
        let report = shared.workers.report().await;
        let paused = lock(&shared.desk.paused).clone();
        let (topology, counts) = (shared.topology.borrow().clone(), shared.counts());
        let rates = lock(&shared.desk.rates);
        let scene = Scene {
            report: &report,
            config: &shared.config,
            topology: &topology,
            counts,
            rates: &rates,
            paused_all: paused.all,
            paused: &paused.databases,
            now: Instant::now(),
        };
        scene.table(show).encode(out);
    }

    async fn order(&mut self, order: Command, out: &mut Vec<u8>) {
        let Shared { desk, workers, .. } = self.shared;
        match order {
            Command::Pause(database) => {
                desk.pause(database.as_deref());
                let paused = until_given_back(self.shared, database.as_deref());
                tokio::select! {
                    () = paused => done("PAUSE", out),
                    // It stays paused; nobody is there to be told.
                    () = until_left(&mut self.client, &mut self.incoming.bytes, COMMAND_BYTES_MAX) => {}
                }
            }
            Command::Resume(database) => {
                desk.resume(database.as_deref());
                workers.order(&Order::Resume);
                done("RESUME", out);
            }
            Command::Reconnect(database) => {
                workers.order(&Order::Reconnect(database));
                done("RECONNECT", out);
            }
            Command::Kill(database) => {
                desk.pause(database.as_deref());
                workers.order(&Order::Kill(database));
                done("KILL", out);
            }
            Command::Reload => reload(self.shared, out).await,
            Command::KillClient(id) => {
                match workers.report().await.sessions.iter().any(|session| session.id == id) {
                    true => {
                        workers.order(&Order::KillSession(id));
                        done("KILL_CLIENT", out);
                    }
                    false => error(&format!("there is no client {id}"), "SHOW CLIENTS lists them.", out),
                }
            }
            _ => {}
        }
    }
}

/// Has the whole configuration of the node read anew.
async fn reload(shared: &Shared, out: &mut Vec<u8>) {
    let Some(relaunch) = &shared.questions.relaunch else {
        return error("this proxy has no configuration file", "", out);
    };
    match relaunch.relaunch().await {
        Ok(()) => done("RELOAD", out),
        Err(why) => error(&format!("nothing was changed: {why}"), "Mend that, then RELOAD again.", out),
    }
}

/// Until no session has a server of this database.
async fn until_given_back(shared: &Shared, database: Option<&str>) {
    loop {
        let report = shared.workers.report().await;
        let has_one = report.sessions.iter().any(|session| {
            let meant = database.is_none_or(|database| session.owner.database == database);
            meant && session.activity == Activity::Active && session.server.is_some()
        });
        if !has_one {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

const EMPTY_QUERY: u8 = b'I';

/// What drivers want to be told when they connect.
const PARAMETERS: [(&str, &str); 8] = [
    ("server_version", "16.0/pgherd"),
    ("client_encoding", "UTF8"),
    ("server_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "UTC"),
    ("standard_conforming_strings", "on"),
    ("is_superuser", "on"),
    ("integer_datetimes", "on"),
];

fn greeting() -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, backend::AUTHENTICATION, &[0; 4]);
    for (name, value) in PARAMETERS {
        let body = [name.as_bytes(), &[0], value.as_bytes(), &[0]].concat();
        put_frame(&mut out, backend::PARAMETER_STATUS, &body);
    }
    put_frame(&mut out, backend::READY_FOR_QUERY, b"I");
    out
}

fn done(tag: &str, out: &mut Vec<u8>) {
    put_frame(out, backend::COMMAND_COMPLETE, &[tag.as_bytes(), &[0]].concat());
}

fn error(message: &str, hint: &str, out: &mut Vec<u8>) {
    let error = ErrorResponse {
        severity: Severity::Error,
        sqlstate: "42601",
        message: message.to_owned(),
        detail: String::new(),
        hint: hint.to_owned(),
    };
    out.extend(error.encode());
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
