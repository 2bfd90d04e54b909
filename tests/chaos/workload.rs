//! Clients that append to lists and read them, through the proxies, as an application with several hosts would.
//!
//! A client talks to one port until something fails, then to the next one. What it did goes to the [`Recorder`] with an
//! outcome that errs to one side: `fail` only where PostgreSQL or the proxy said so, or where no COMMIT was sent.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_postgres::error::SqlState;

use crate::history::{Event, Key, Level, Op, Origin, Outcome, Port, Recorder};
use crate::session::{Problem, Session};

/// Writers of each level through each node, and readers of replicas.
const WRITERS: usize = 1;
/// Lists of a level that are written at the same time: few, so that transactions meet.
const KEYS: usize = 5;
/// Then another list takes its place, so that reads stay short.
const APPENDS_MAX: usize = 80;
/// Operations of a transaction.
const OPS_MAX: usize = 4;
/// Between two transactions of a client: with nine clients some 300 a second, which leaves the machine room for faults.
const PACE: Duration = Duration::from_millis(25);

/// One way in.
#[derive(Clone, Debug)]
pub struct Door {
    pub node: String,
    pub host: String,
    pub read_write: u16,
    pub read_only: Option<u16>,
}

/// The running clients.
pub struct Workload {
    stop: watch::Sender<bool>,
    thread: std::thread::JoinHandle<()>,
}

impl Workload {
    /// Makes the tables and starts the clients.
    pub fn start(doors: Vec<Door>, recorder: Recorder, seed: u64) -> Result<Workload> {
        let runtime = crate::session::runtime();
        runtime.block_on(make_tables(&doors[0]))?;
        let (stop, stopped) = watch::channel(false);
        let keys = Arc::new(Keys::new());
        let mut clients = Vec::new();
        let mut dice = fastrand::Rng::with_seed(seed);
        for home in 0..doors.len() {
            for level in Level::ALL {
                let readers = usize::from(doors[home].read_only.is_some() && level == Level::Serializable);
                let ports = std::iter::repeat_n(Port::ReadWrite, WRITERS)
                    .chain(std::iter::repeat_n(Port::ReadOnly, readers));
                clients.extend(ports.map(|port| Client {
                    doors: doors.clone(),
                    next_door: home,
                    level,
                    port,
                    keys: keys.clone(),
                    recorder: recorder.clone(),
                    dice: dice.fork(),
                }));
            }
        }
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                let running: Vec<_> =
                    clients.into_iter().map(|client| tokio::spawn(client.run(stopped.clone()))).collect();
                for client in running {
                    client.await.expect("a client does not panic");
                }
            });
        });
        Ok(Workload { stop, thread })
    }

    /// Lets every client end its transaction.
    pub fn finish(self) {
        self.stop.send_replace(true);
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Not the agent's own role: its servers on the same node are reached by their Unix socket.
const ROLE: &str = "chaos";

async fn make_tables(door: &Door) -> Result<()> {
    let session = Session::open(&door.host, door.read_write).await?;
    let known = session.ask(&format!("SELECT 1 FROM pg_roles WHERE rolname = '{ROLE}'")).await?;
    if known.is_none() {
        session.ask(&format!("CREATE ROLE {ROLE} SUPERUSER LOGIN")).await?;
    }
    for level in Level::ALL {
        let table = level.table();
        session
            .ask(&format!("CREATE TABLE IF NOT EXISTS {table} (k int PRIMARY KEY, v bigint[] NOT NULL)"))
            .await?;
    }
    session.ask("CREATE TABLE IF NOT EXISTS samples (id bigint PRIMARY KEY, node text NOT NULL)").await?;
    Ok(())
}

/// Which lists are in use, and the next value.
struct Keys {
    value: AtomicI64,
    live: Mutex<Live>,
}

struct Live {
    /// Key and appends so far, by level.
    keys: [Vec<(Key, usize)>; 2],
    next: Key,
}

impl Keys {
    fn new() -> Keys {
        let of = |first: Key| (first..first + KEYS as Key).map(|key| (key, 0)).collect();
        let live = Live { keys: [of(1), of(1 + KEYS as Key)], next: 1 + 2 * KEYS as Key };
        Keys { value: AtomicI64::new(1), live: Mutex::new(live) }
    }

    fn key(&self, level: Level, appends: bool, dice: &mut fastrand::Rng) -> Key {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let place = dice.usize(..KEYS);
        let next = live.next;
        let slot = &mut live.keys[level as usize][place];
        let key = slot.0;
        if appends {
            slot.1 += 1;
            if slot.1 == APPENDS_MAX {
                *slot = (next, 0);
                live.next += 1;
            }
        }
        key
    }

    fn value(&self) -> i64 {
        self.value.fetch_add(1, Ordering::Relaxed)
    }
}

struct Client {
    doors: Vec<Door>,
    next_door: usize,
    level: Level,
    port: Port,
    keys: Arc<Keys>,
    recorder: Recorder,
    dice: fastrand::Rng,
}

impl Client {
    async fn run(mut self, stopped: watch::Receiver<bool>) {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*stopped.borrow() {
            pace.tick().await;
            let door = self.doors[self.next_door % self.doors.len()].clone();
            let port = match self.port {
                Port::ReadWrite => door.read_write,
                Port::ReadOnly => door.read_only.unwrap_or(door.read_write),
            };
            self.next_door += 1;
            // Nothing was sent, so there is nothing to record: the next door.
            let Ok(session) = Session::open_as(ROLE, &door.host, port).await else { continue };
            // For statements that commit by themselves; SERIALIZABLE is a promise among transactions that all are.
            let level = match self.level {
                Level::ReadCommitted => "SET default_transaction_isolation = 'read committed'",
                Level::Serializable => "SET default_transaction_isolation = 'serializable'",
            };
            // On a standby the setting would refuse every statement; there each transaction says its level.
            if self.port == Port::ReadWrite && session.ask(level).await.is_err() {
                continue;
            }
            let number = self.dice.u64(..);
            while !*stopped.borrow() {
                pace.tick().await;
                let origin = Origin {
                    level: self.level,
                    port: self.port,
                    through: door.node.clone(),
                    session: number,
                };
                if !self.transact(&session, origin).await {
                    break;
                }
            }
        }
    }

    /// One transaction; true when the session can go on.
    async fn transact(&mut self, session: &Session, origin: Origin) -> bool {
        let mut ops = self.draw();
        let txn = self.recorder.invoke(origin, ops.clone());
        let explicit = ops.len() > 1 || self.dice.bool();
        let begin = match self.port {
            Port::ReadOnly => Some("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
            Port::ReadWrite if !explicit => None,
            Port::ReadWrite => Some(match self.level {
                Level::ReadCommitted => "BEGIN ISOLATION LEVEL READ COMMITTED",
                Level::Serializable => "BEGIN ISOLATION LEVEL SERIALIZABLE",
            }),
        };
        let mut answered_by = None;
        let asks = (self.port == Port::ReadOnly).then_some(&mut answered_by);
        let result = perform(session, begin, self.level, &mut ops, asks).await;
        let at = self.recorder.now();
        let Err((outcome, problem)) = result else {
            self.recorder.note(Event::Ok { txn, at, ops, answered_by });
            return true;
        };
        let usable = problem.keeps_session();
        let error = problem.to_string();
        self.recorder.note(match outcome {
            Outcome::Fail => Event::Fail { txn, at, ops, error },
            _ => Event::Info { txn, at, ops, error },
        });
        usable && session.ask("ROLLBACK").await.is_ok()
    }

    fn draw(&mut self) -> Vec<Op> {
        let count = self.dice.usize(1..=OPS_MAX);
        (0..count)
            .map(|_| {
                let appends = self.port == Port::ReadWrite && self.dice.bool();
                let key = self.keys.key(self.level, appends, &mut self.dice);
                if appends { Op::Append(key, self.keys.value()) } else { Op::Read(key, None) }
            })
            .collect()
    }
}

/// Does it and fills in what was read, and in `server` which node has answered. Without `begin` the only operation commits by
/// itself.
async fn perform(
    session: &Session,
    begin: Option<&str>,
    level: Level,
    ops: &mut [Op],
    server: Option<&mut Option<String>>,
) -> Result<(), (Outcome, Problem)> {
    let open = |problem| (Outcome::Fail, problem);
    if let Some(begin) = begin {
        session.ask(begin).await.map_err(open)?;
    }
    if let Some(server) = server {
        *server = session.ask("SELECT current_setting('cluster_name')").await.map_err(open)?;
    }
    for op in ops {
        let answer = session.ask(&sql(level, op)).await;
        let answer = answer.map_err(|problem| match begin {
            // Its COMMIT has not been sent and never will be.
            Some(_) => open(problem),
            None => (outcome_of_commit(&problem), problem),
        })?;
        if let Op::Read(_, values) = op {
            *values = Some(answer.map_or_else(Vec::new, |text| array(&text)));
        }
    }
    match begin {
        Some(_) => {
            session.ask("COMMIT").await.map(drop).map_err(|problem| (outcome_of_commit(&problem), problem))
        }
        None => Ok(()),
    }
}

/// After a COMMIT, or a statement that commits by itself: only what says that it was rolled back is a failure. The proxy
/// promises the same for 40001; 25006 is a server that is a standby.
fn outcome_of_commit(problem: &Problem) -> Outcome {
    let definite = [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::READ_ONLY_SQL_TRANSACTION,
    ];
    match problem.state() {
        Some(state) if definite.contains(&state) => Outcome::Fail,
        _ => Outcome::Info,
    }
}

fn sql(level: Level, op: &Op) -> String {
    let table = level.table();
    match op {
        Op::Append(key, value) => format!(
            "INSERT INTO {table} AS l VALUES ({key}, ARRAY[{value}]) ON CONFLICT (k) DO UPDATE SET v = l.v || {value}::bigint"
        ),
        Op::Read(key, _) => format!("SELECT v FROM {table} WHERE k = {key}"),
    }
}

/// `{1,2}` as PostgreSQL writes it.
pub fn array(text: &str) -> Vec<i64> {
    let inner = text.trim_start_matches('{').trim_end_matches('}');
    inner.split(',').filter(|value| !value.is_empty()).map(|value| value.parse().expect("a number")).collect()
}
