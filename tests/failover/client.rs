//! The client that measures: one writer, a row every few milliseconds, the same for every system.
//!
//! The pause of a run is the longest time between two acknowledged commits. An id is used once: an insert that ended in
//! an error is in doubt, one that was acknowledged must be on every node at the end.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use tests::wait::wait_at_most;
use tokio_postgres::{Client as Connection, NoTls};

/// Where a client can enter: address and port.
pub type Door = (String, u16);

/// Between two rows: a part of every pause, and small beside the smallest of interest.
const BETWEEN: Duration = Duration::from_millis(2);
/// Longer than a proxy holds a session during a takeover, and an application's patience.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(8);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Between attempts while nobody takes us: the longest error of a measured pause.
const RETRY: Duration = Duration::from_millis(10);
/// Acknowledgements that prove that writes flow.
const FLOWING: usize = 20;
/// The slowest system of a comparison needs a minute.
const FLOWING_TIMEOUT: Duration = Duration::from_secs(180);

#[derive(Clone, Debug)]
pub struct Seen {
    /// The longest time between two acknowledgements since [`Client::mark`], and when it ended.
    pub pause: Duration,
    pub resumed: SystemTime,
    /// Statements that ended in an error, or connections that broke under one.
    pub errors: usize,
    /// Attempts to connect that were refused or not answered.
    pub refused: usize,
    pub error_texts: BTreeSet<String>,
}

struct Shared {
    doors: Vec<Door>,
    /// Grows when the doors change: the writer then connects anew.
    generation: u64,
    acknowledged: BTreeSet<i64>,
    last: Option<Instant>,
    seen: Seen,
}

pub struct Client {
    shared: Arc<Mutex<Shared>>,
    stop: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
}

impl Client {
    pub fn start(doors: Vec<Door>) -> Result<Client> {
        let shared =
            Shared { doors, generation: 0, acknowledged: BTreeSet::new(), last: None, seen: nothing_seen() };
        let (shared, stop) = (Arc::new(Mutex::new(shared)), Arc::new(AtomicBool::new(false)));
        let (for_writer, ended) = (shared.clone(), stop.clone());
        let writer = std::thread::spawn(move || runtime().block_on(write(&for_writer, &ended)));
        let client = Client { shared, stop, writer: Some(writer) };
        client.wait_until_flowing()?;
        Ok(client)
    }

    /// Goes on through these doors, the first that opens.
    pub fn enter(&self, doors: Vec<Door>) {
        let mut shared = self.lock();
        if shared.doors != doors {
            shared.doors = doors;
            shared.generation += 1;
        }
    }

    /// Waits for acknowledgements that came after this call.
    pub fn wait_until_flowing(&self) -> Result<()> {
        let wanted = self.lock().acknowledged.len() + FLOWING;
        let flows = || (self.lock().acknowledged.len() >= wanted).then_some(());
        let texts = || self.lock().seen.error_texts.clone();
        wait_at_most(FLOWING_TIMEOUT, flows)
            .with_context(|| format!("no writes within {} s; {:?}", FLOWING_TIMEOUT.as_secs(), texts()))
    }

    /// Begins a new measure.
    pub fn mark(&self) {
        self.lock().seen = nothing_seen();
    }

    pub fn seen(&self) -> Seen {
        self.lock().seen.clone()
    }

    /// Ends the writer: every row that it was told to be committed.
    pub fn finish(mut self) -> BTreeSet<i64> {
        self.end();
        self.lock().acknowledged.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().expect("nobody panics with the account in hand")
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has poisoned the account, which its next reader reports.
            let _ = writer.join();
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end();
    }
}

fn nothing_seen() -> Seen {
    Seen {
        pause: Duration::ZERO,
        resumed: SystemTime::now(),
        errors: 0,
        refused: 0,
        error_texts: BTreeSet::new(),
    }
}

async fn write(shared: &Mutex<Shared>, stop: &AtomicBool) {
    let mut id = 0;
    let mut door = 0;
    let lock = || shared.lock().expect("nobody panics with the account in hand");
    let mut retry = every(RETRY);
    while !stop.load(Ordering::Relaxed) {
        let (at, generation) = {
            let shared = lock();
            (shared.doors[door % shared.doors.len()].clone(), shared.generation)
        };
        match open(&at).await {
            Ok(connection) => {
                if let Err(error) = write_over(&connection, shared, stop, generation, &mut id).await {
                    let mut shared = lock();
                    shared.seen.errors += 1;
                    shared.seen.error_texts.insert(format!("{error:#}"));
                }
            }
            Err(error) => {
                let mut shared = lock();
                shared.seen.refused += 1;
                shared.seen.error_texts.insert(format!("{error:#}"));
            }
        }
        // New doors are tried from the first on.
        door = if lock().generation == generation { door + 1 } else { 0 };
        retry.tick().await;
    }
}

/// Until something fails, the doors change or the end is asked for.
async fn write_over(
    connection: &Connection,
    shared: &Mutex<Shared>,
    stop: &AtomicBool,
    generation: u64,
    id: &mut i64,
) -> Result<()> {
    let mut next = every(BETWEEN);
    while !stop.load(Ordering::Relaxed) {
        *id += 1;
        execute(connection, &format!("INSERT INTO ledger VALUES ({id})")).await?;
        let now = Instant::now();
        {
            let mut shared = shared.lock().expect("nobody panics with the account in hand");
            shared.acknowledged.insert(*id);
            let pause = shared.last.map_or(Duration::ZERO, |last| now - last);
            shared.last = Some(now);
            if pause > shared.seen.pause {
                shared.seen.pause = pause;
                shared.seen.resumed = SystemTime::now();
            }
            if shared.generation != generation {
                return Ok(());
            }
        }
        next.tick().await;
    }
    Ok(())
}

/// A beat that is late is not made up for.
fn every(period: Duration) -> tokio::time::Interval {
    let mut beat = tokio::time::interval(period);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    beat
}

async fn open((host, port): &Door) -> Result<Connection> {
    let text = format!("host={host} port={port} user=postgres dbname=postgres application_name=bench");
    let attempt = tokio::time::timeout(CONNECT_TIMEOUT, tokio_postgres::connect(&text, NoTls)).await;
    let (client, connection) = attempt.with_context(|| format!("connect to {host}:{port}"))??;
    tokio::spawn(async move {
        // The client's own calls report what went wrong with the connection.
        let _ = connection.await;
    });
    Ok(client)
}

async fn execute(connection: &Connection, sql: &str) -> Result<()> {
    match tokio::time::timeout(STATEMENT_TIMEOUT, connection.batch_execute(sql)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            // The driver's own text hides the server's words one level down.
            let words = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
            bail!("{words}")
        }
        Err(_) => bail!("no answer within {} s", STATEMENT_TIMEOUT.as_secs()),
    }
}

/// One statement at this door, in a session of its own.
pub fn once(door: &Door, sql: &str) -> Result<()> {
    runtime().block_on(async { execute(&open(door).await?, sql).await })
}

/// The rows that this server has.
pub fn rows_of(server: &Door) -> Result<BTreeSet<i64>> {
    runtime().block_on(async {
        let connection = open(server).await?;
        let rows = connection.query("SELECT id FROM ledger", &[]);
        let rows = tokio::time::timeout(STATEMENT_TIMEOUT, rows).await??;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
