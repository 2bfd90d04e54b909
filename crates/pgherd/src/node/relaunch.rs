//! `pgherd relaunch`: a new process of this node takes over from this one, and no session ends by it.
//!
//! ```text
//! old: SIGUSR2 ─ start the program ──────┐                ┌─ let go of everything ─ give the ports ─┐           ┌─ serve to the end
//! new:                                   └─ read, ready ──┘                                         └─ start ───┴─ runs
//! ```
//!
//! The two speak over a pair of sockets, of which the new process finds its end as its standard input. Until the new one is ready
//! the old one has stopped nothing; when the new one fails later the old program is started again in its place. Clients that
//! connect meanwhile wait in the ports, which are never closed.
//!
//! Sessions stay where they are: what TLS and a running query keep cannot be moved to another process. The new process tells the old
//! one what it knows of the cluster, so its sessions are held, moved and cut as everybody's, and passes cancels on.
//!
//! Invariants: two agents never run at once: the old one has ended, and let go of `pgherd.pid`, before the new one begins. A process
//! that nobody tells of the cluster any more ends its sessions.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use proxy::Proxy;
use proxy::topology::{Hold, Topology};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::Stops;
use super::cancels::{Cancels, Key};
use super::pid_file::PidFile;
use crate::systemd;

/// The argument by which a process knows that it is to take over, with the ports that the one before it has open.
const FLAG: &str = "--take-over=";
/// To read a configuration and certificates.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// To open the store and the ports; the store may read some hundred megabytes.
const RUNS_TIMEOUT: Duration = Duration::from_secs(60);
/// Sessions that are told nothing of the cluster any more have so long to end their transaction.
const FORSAKEN_DRAIN: Duration = Duration::from_secs(1);
/// An agent that has just begun knows of no primary. What the old process knows is believed until the new one knows of some, for so
/// long at most: as long as sessions wait for one.
const IGNORANT_MAX: Duration = Duration::from_secs(15);
/// The proxy has three ports.
const PORTS_MAX: usize = 8;
/// Cancels on their way to the process before.
const CANCELS_MAX: usize = 64;
/// For the process before to end its sessions.
const STOP_TIMEOUT: Duration = Duration::from_secs(6);
const OUTCOME_FILE: &str = "relaunch.json";

/// What the two processes say, as lines of JSON.
#[derive(Serialize, Deserialize)]
enum Word {
    /// New: the configuration is good; everything may be let go.
    Ready,
    /// New: it does not come to that.
    Failed { why: String },
    /// Old, with the ports: all is free.
    Begin,
    /// New.
    Runs,
    /// New: the cluster, and the hold by its id and what is left of it in milliseconds.
    Cluster { topology: Topology, hold: Option<(u64, u64)> },
    /// New: a cancel request whose key it does not know.
    Cancel { key: Vec<u8> },
    /// New: it stops, and so should the old one.
    Stop,
}

/// What `pgherd relaunch` reads when it is over.
#[derive(Serialize, Deserialize, Debug)]
pub enum Outcome {
    /// The new process, and the sessions that stay with the old one.
    Runs {
        pid: u32,
        sessions: usize,
    },
    Failed {
        why: String,
    },
}

impl Outcome {
    pub fn file(dir: &Path) -> PathBuf {
        dir.join(OUTCOME_FILE)
    }

    /// Leaves it for the command that waits; without a command nobody reads it.
    pub(super) fn leave(&self, dir: &Path) {
        let (file, part) = (Outcome::file(dir), dir.join(format!("{OUTCOME_FILE}.new")));
        let written = serde_json::to_vec(self).map_err(std::io::Error::from);
        let written =
            written.and_then(|text| std::fs::write(&part, text)).and_then(|()| std::fs::rename(&part, &file));
        if let Err(error) = written {
            tracing::warn!(%error, "the outcome of the relaunch could not be written to {}", file.display());
        }
    }
}

/// Asked for by the proxy's console.
pub(super) struct Wishes(pub mpsc::Sender<Wish>);

impl proxy::Relaunch for Wishes {
    fn relaunch(&self) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async {
            let (reply, answer) = oneshot::channel();
            let sent = self.0.send(Wish(Some(reply))).await.is_ok();
            let answer = if sent { answer.await.ok() } else { None };
            answer.unwrap_or_else(|| {
                Err("another process has taken over from the one that you are connected to; connect anew"
                    .to_owned())
            })
        })
    }
}

/// Somebody wants this process to be relaunched: by the console, which waits for an answer, or by a signal.
pub(super) struct Wish(Option<oneshot::Sender<Result<(), String>>>);

impl Wish {
    pub fn granted(self) {
        if let Some(reply) = self.0 {
            // Whoever has left need not know.
            let _ = reply.send(Ok(()));
        }
    }

    pub fn failed(self, why: String, dir: &Path) {
        match self.0 {
            Some(reply) => drop(reply.send(Err(why))),
            None => Outcome::Failed { why }.leave(dir),
        }
    }
}

/// Waits for the next one.
pub(super) async fn wish(asked: &mut Signal, wishes: &mut mpsc::Receiver<Wish>) -> Wish {
    tokio::select! {
        _ = asked.recv() => Wish(None),
        Some(wish) = wishes.recv() => wish,
    }
}

struct Line {
    reader: BufReader<OwnedReadHalf>,
    /// What has come of the next word.
    part: Vec<u8>,
    writer: OwnedWriteHalf,
}

impl Line {
    fn new(stream: UnixStream) -> Line {
        let (reader, writer) = stream.into_split();
        Line { reader: BufReader::new(reader), part: Vec::new(), writer }
    }

    async fn say(&mut self, word: &Word) -> Result<()> {
        Ok(self.writer.write_all(&encode(word)?).await?)
    }

    /// `None`: the other process has closed its end. Who stops waiting loses nothing.
    async fn hear(&mut self) -> Option<Word> {
        loop {
            self.reader.read_until(b'\n', &mut self.part).await.ok()?;
            let text = std::mem::take(&mut self.part);
            if !text.ends_with(b"\n") {
                return None;
            }
            match serde_json::from_slice(&text) {
                Ok(word) => return Some(word),
                Err(error) => {
                    tracing::warn!(%error, "the other process has said what this one does not understand")
                }
            }
        }
    }
}

fn encode(word: &Word) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec(word).context("write a word")?;
    text.push(b'\n');
    Ok(text)
}

/// The program as it is installed now, at the place from which this process was started.
pub(super) fn program() -> Result<PathBuf> {
    let file = std::fs::read_link("/proc/self/exe").context("find the program of this process")?;
    // What the kernel writes behind the name of a file that was replaced.
    let name = file.to_string_lossy();
    Ok(name.strip_suffix(" (deleted)").map_or_else(|| file.clone(), PathBuf::from))
}

/// The program that this process runs, though another may have taken its place.
fn own_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

/// The new process, as the old one sees it.
pub(super) struct Successor {
    child: Child,
    line: Line,
}

impl Successor {
    /// Starts `program` as this process was started, and waits until it is ready. On an error nothing of it is left.
    pub async fn start(program: &Path, open: &[SocketAddr]) -> Result<Successor> {
        let (ours, theirs) = StdStream::pair().context("make a pair of sockets")?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(program);
        let own =
            std::env::args_os().skip(1).filter(|argument| !argument.as_bytes().starts_with(FLAG.as_bytes()));
        let open: Vec<String> = open.iter().map(SocketAddr::to_string).collect();
        command.args(own).arg(format!("{FLAG}{}", open.join(",")));
        let child = command.stdin(OwnedFd::from(theirs)).spawn();
        let child = child.with_context(|| format!("start {}", program.display()))?;
        // The command keeps a copy of the other end as long as it lives.
        drop(command);
        let mut successor = Successor { child, line: Line::new(UnixStream::from_std(ours)?) };
        match successor.expect(READY_TIMEOUT, |word| matches!(word, Word::Ready)).await {
            Ok(()) => Ok(successor),
            Err(error) => {
                // It may have ended already.
                let _ = successor.child.kill().await;
                Err(error)
            }
        }
    }

    async fn expect(&mut self, patience: Duration, wanted: impl Fn(&Word) -> bool) -> Result<()> {
        match timeout(patience, self.line.hear()).await {
            Ok(Some(word)) if wanted(&word) => Ok(()),
            Ok(Some(Word::Failed { why })) => bail!("{why}"),
            Ok(Some(_)) => bail!("it speaks another language: is it another version?"),
            Ok(None) => bail!("it has ended without a word; its log says why"),
            Err(_) => bail!("it has said nothing for {patience:?}"),
        }
    }

    /// Lets it begin, with the ports, and waits until it runs. On an error it is ended.
    pub async fn begin(&mut self, ports: &[OwnedFd]) -> Result<()> {
        let begun = match self.give(ports).await {
            Ok(()) => self.expect(RUNS_TIMEOUT, |word| matches!(word, Word::Runs)).await,
            Err(error) => Err(error),
        };
        if begun.is_err() {
            let _ = self.child.kill().await;
        }
        begun
    }

    async fn give(&mut self, ports: &[OwnedFd]) -> Result<()> {
        let text = encode(&Word::Begin)?;
        let ports: Vec<_> = ports.iter().map(AsFd::as_fd).collect();
        let stream: &UnixStream = self.line.writer.as_ref();
        let sent = stream.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PORTS_MAX))];
            let mut rights = SendAncillaryBuffer::new(&mut space);
            rights.push(SendAncillaryMessage::ScmRights(&ports));
            Ok(sendmsg(stream, &[IoSlice::new(&text)], &mut rights, SendFlags::empty())?)
        });
        sent.await.context("give it the ports").map(drop)
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// What it says next; `None` when it has ended.
    pub async fn hear(&mut self) -> Option<News> {
        loop {
            return Some(match self.line.hear().await? {
                Word::Cluster { mut topology, hold } => {
                    topology.hold = hold
                        .map(|(id, left)| Hold { id, until: Instant::now() + Duration::from_millis(left) });
                    News::Cluster(topology)
                }
                Word::Cancel { key } => News::Cancel(key),
                Word::Stop => News::Stop,
                Word::Ready | Word::Failed { .. } | Word::Begin | Word::Runs => continue,
            });
        }
    }
}

/// What is left of a node whose agent has ended: a proxy.
pub(super) struct Old {
    pub proxy: Proxy,
    pub topology: Arc<watch::Sender<Topology>>,
    pub cancels: Arc<Cancels>,
    pub predecessor: Option<Predecessor>,
    /// For the sessions that are here.
    pub timeout: Duration,
}

impl Old {
    /// Lets the successor begin, and serves the sessions that are here to their end.
    pub async fn hand_over(
        mut self,
        successor: Successor,
        dir: &Path,
        open: &[SocketAddr],
        stops: &mut Stops,
    ) -> Result<()> {
        let ports = self.proxy.hand_over();
        let mut successor = match self.begin(successor, &ports, open).await {
            Ok(successor) => successor,
            Err(error) => {
                Outcome::Failed { why: format!("{error:#}") }.leave(dir);
                drop(ports);
                self.proxy.shutdown(FORSAKEN_DRAIN).await;
                return Err(error.context(
                    "no other process could take over from this one, which had let go of everything",
                ));
            }
        };
        drop(ports);
        let sessions = self.proxy.counts().sessions;
        tracing::info!(
            pid = successor.pid(),
            sessions,
            "another process has taken over; this one ends with its sessions"
        );
        systemd::succeeded_by(successor.pid(), sessions);
        Outcome::Runs { pid: successor.pid(), sessions }.leave(dir);
        if let Served::Forsaken = self.serve(&mut successor, stops).await {
            // Not when yet another agent runs by now, to which only the process between has lost the way.
            match PidFile::take(dir).await {
                Ok(_free) => systemd::ends_for_its_successor(),
                Err(error) => tracing::info!(error = format!("{error:#}"), "the node runs on"),
            }
        }
        Ok(())
    }

    async fn begin(
        &self,
        mut successor: Successor,
        ports: &[OwnedFd],
        open: &[SocketAddr],
    ) -> Result<Successor> {
        let Err(error) = successor.begin(ports).await else { return Ok(successor) };
        tracing::error!(
            error = format!("{error:#}"),
            "the new process does not run; the old program is started again"
        );
        let again = async {
            let mut successor = Successor::start(&own_program(), open).await?;
            successor.begin(ports).await?;
            anyhow::Ok(successor)
        };
        again
            .await
            .with_context(|| format!("the old program does not run either, after the new one: {error:#}"))
    }

    async fn serve(self, successor: &mut Successor, stops: &mut Stops) -> Served {
        let Old { mut proxy, topology, cancels, mut predecessor, timeout } = self;
        let canceller = proxy.canceller();
        let served = {
            // A process before this one hears of the cluster through this one.
            let all_ended = async {
                proxy.ended().await;
                if let Some(predecessor) = &mut predecessor {
                    predecessor.ended().await;
                }
            };
            let timeout = tokio::time::sleep(timeout);
            tokio::pin!(all_ended, timeout);
            loop {
                tokio::select! {
                    () = &mut all_ended => break Served::ToTheEnd,
                    () = &mut timeout => break Served::ToTheEnd,
                    () = stops.next() => break Served::ToTheEnd,
                    news = successor.hear() => match news {
                        Some(News::Cluster(seen)) => drop(topology.send_replace(seen)),
                        Some(News::Cancel(key)) => cancels.deal_with(&canceller, key.into()),
                        Some(News::Stop) => break Served::ToTheEnd,
                        None => break Served::Forsaken,
                    },
                }
            }
        };
        let before = async {
            if let Some(predecessor) = &mut predecessor {
                predecessor.stop().await;
            }
        };
        tokio::join!(before, proxy.shutdown(FORSAKEN_DRAIN));
        served
    }
}

/// How the sessions that stayed here came to their end.
enum Served {
    ToTheEnd,
    /// The process that had taken over has ended without a word.
    Forsaken,
}

/// What the new process tells the old one.
pub(super) enum News {
    Cluster(Topology),
    Cancel(Vec<u8>),
    Stop,
}

/// The way to the old process, in the new one, before that has begun.
pub struct Inheritance {
    stream: UnixStream,
    pub(super) ports: Vec<OwnedFd>,
}

impl Inheritance {
    /// Says that this process is ready, and waits until the old one has let go of everything.
    pub async fn receive() -> Result<Inheritance> {
        let stream = standard_input()?;
        // Whatever is started from here is not to have it.
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        stream.writable().await?;
        stream.try_write(&encode(&Word::Ready)?)?;
        let mut text = [0; 64];
        let mut ports = Vec::new();
        let received = stream.async_io(Interest::READABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PORTS_MAX))];
            let mut rights = RecvAncillaryBuffer::new(&mut space);
            let received =
                recvmsg(&stream, &mut [IoSliceMut::new(&mut text)], &mut rights, RecvFlags::CMSG_CLOEXEC)?;
            for message in rights.drain() {
                if let RecvAncillaryMessage::ScmRights(given) = message {
                    ports.extend(given);
                }
            }
            Ok(received.bytes)
        });
        let received = received.await.context("wait for the process before this one")?;
        match serde_json::from_slice(&text[..received]) {
            Ok(Word::Begin) => Ok(Inheritance { stream, ports }),
            _ => bail!("the process before this one has changed its mind"),
        }
    }

    /// Says why this process does not come to run.
    pub(super) async fn fail(self, why: &anyhow::Error) {
        // Whoever does not hear it sees this process end.
        let _ = Line::new(self.stream).say(&Word::Failed { why: format!("{why:#}") }).await;
    }

    /// Says that this process runs, and serves the old one until that ends.
    pub(super) fn take_charge(self, topology: watch::Receiver<Topology>) -> Predecessor {
        let (cancels, asked) = mpsc::channel(CANCELS_MAX);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(serve(Line::new(self.stream), topology, asked, stopped));
        Predecessor { cancels, stop, task }
    }
}

/// The old process, as the new one sees it.
pub(super) struct Predecessor {
    pub cancels: mpsc::Sender<Key>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Predecessor {
    /// Has it end its sessions, and waits until it has.
    pub async fn stop(&mut self) {
        self.stop.send_replace(true);
        // One that hangs is not waited for.
        let _ = timeout(STOP_TIMEOUT, self.ended()).await;
    }

    async fn ended(&mut self) {
        if !self.task.is_finished() {
            // A task that panicked serves nobody any more either.
            let _ = (&mut self.task).await;
        }
    }
}

async fn serve(
    mut line: Line,
    mut topology: watch::Receiver<Topology>,
    mut cancels: mpsc::Receiver<Key>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut said = line.say(&Word::Runs).await;
    let ignorant_until = Instant::now() + IGNORANT_MAX;
    let mut knows = false;
    topology.mark_changed();
    while said.is_ok() {
        tokio::select! {
            () = changed_or_late(&mut topology, ignorant_until, knows) => {
                let seen = topology.borrow_and_update().clone();
                knows |= seen.primary.is_some() || seen.is_standby || Instant::now() >= ignorant_until;
                if !knows {
                    continue;
                }
                let left = |hold: Hold| {
                    (hold.id, hold.until.saturating_duration_since(Instant::now()).as_millis() as u64)
                };
                said = line.say(&Word::Cluster { hold: seen.hold.map(left), topology: seen }).await;
            }
            Some(key) = cancels.recv() => said = line.say(&Word::Cancel { key: key.to_vec() }).await,
            Ok(()) = stopped.changed() => said = line.say(&Word::Stop).await,
            // It says nothing more: its end is what is heard.
            _ = line.hear() => break,
        }
    }
    tracing::info!("the process before this one has ended");
}

/// Until there is something to tell: news, or that there still is no primary.
async fn changed_or_late(topology: &mut watch::Receiver<Topology>, late: Instant, knows: bool) {
    tokio::select! {
        changed = topology.changed() => {
            if changed.is_err() {
                // Nobody publishes any more: this process ends, which the other one sees.
                std::future::pending().await
            }
        }
        () = tokio::time::sleep_until(late), if !knows => {}
    }
}

/// Tells the process that waits for this one why this one does not come to run.
pub fn tell_failure(why: &str) {
    // Whoever does not hear it sees this process end.
    let told = || -> Result<()> {
        Ok(standard_input()?.write_all(&encode(&Word::Failed { why: why.to_owned() })?)?)
    };
    let _ = told();
}

fn standard_input() -> Result<StdStream> {
    Ok(StdStream::from(std::io::stdin().as_fd().try_clone_to_owned()?))
}
