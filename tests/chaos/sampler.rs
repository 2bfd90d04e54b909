//! Asks every server directly, past every proxy: do you take writes, and do you acknowledge them?
//!
//! Two servers that do, one after the other on an older timeline, are two writers. It also tells the nemesis who the
//! primary is, by what is true and not by what somebody reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::history::{Event, Recorder, Sample};
use crate::session::{Problem, Session};

/// Some ten looks within a `failure_timeout` of 2 s.
const PACE: Duration = Duration::from_millis(200);

/// A server's own port.
#[derive(Clone, Debug)]
pub struct Server {
    pub node: String,
    pub host: String,
    pub port: u16,
}

/// Who acknowledged last, by index.
#[derive(Clone, Default)]
pub struct LastWriter(Arc<AtomicUsize>);

impl LastWriter {
    pub fn index(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

pub struct Sampler {
    pub last_writer: LastWriter,
    stop: watch::Sender<bool>,
    thread: std::thread::JoinHandle<()>,
}

impl Sampler {
    pub fn start(servers: Vec<Server>, recorder: Recorder) -> Sampler {
        let (stop, stopped) = watch::channel(false);
        let last_writer = LastWriter::default();
        let next = Arc::new(AtomicI64::new(1));
        let writer = last_writer.clone();
        let thread = std::thread::spawn(move || {
            crate::session::runtime().block_on(async {
                let looks = servers.into_iter().enumerate().map(|(index, server)| {
                    let look = Look {
                        server,
                        index,
                        next: next.clone(),
                        last_writer: writer.clone(),
                        recorder: recorder.clone(),
                    };
                    tokio::spawn(look.run(stopped.clone()))
                });
                for look in looks.collect::<Vec<_>>() {
                    look.await.expect("a look does not panic");
                }
            });
        });
        Sampler { last_writer, stop, thread }
    }

    pub fn finish(self) {
        self.stop.send_replace(true);
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

struct Look {
    server: Server,
    index: usize,
    next: Arc<AtomicI64>,
    last_writer: LastWriter,
    recorder: Recorder,
}

impl Look {
    async fn run(self, stopped: watch::Receiver<bool>) {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !*stopped.borrow() {
            pace.tick().await;
            let Ok(session) = Session::open(&self.server.host, self.server.port).await else { continue };
            while !*stopped.borrow() {
                pace.tick().await;
                match self.write(&session).await {
                    Err(problem) if !problem.keeps_session() => break,
                    _ => {}
                }
            }
        }
    }

    async fn write(&self, session: &Session) -> Result<(), Problem> {
        // Asking a standby would only fill its log with errors.
        if session.ask("SELECT pg_is_in_recovery()").await?.as_deref() != Some("f") {
            return Ok(());
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let node = &self.server.node;
        let invoked = self.recorder.now();
        // The timeline is read before the commit, on the same server: its own can only grow.
        let sql = format!(
            "INSERT INTO samples VALUES ({id}, '{node}') RETURNING left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"
        );
        let timeline = session.ask(&sql).await?;
        let ended = self.recorder.now();
        let timeline = timeline.and_then(|text| u32::from_str_radix(&text, 16).ok());
        let timeline = timeline.expect("a WAL file's name begins with its timeline");
        self.last_writer.0.store(self.index, Ordering::Relaxed);
        let node = node.clone();
        self.recorder.note(Event::Sample(Sample { node, id, timeline, invoked, ended }));
        Ok(())
    }
}
