//! The same messages straight to PostgreSQL and through the proxy in transaction mode: what comes back is the same, byte for byte.
//!
//! What it is: fixed scripts (`scripts`), scripts by chance (`chance`), and how they are run: a session on each way, step by step. Between
//! the steps other sessions take the servers and leave them with other settings and other statements under the same names, so that each
//! step meets another server than the one before, unless something keeps the session with its own. The databases of the two ways
//! are copies of each other, numbers of objects included.
//!
//! Not compared: process numbers and cancel keys (of BackendKeyData and NotificationResponse), and the order of the parameters that are
//! reported at the start. Nor, in scripts that are left out (`scripts`, `chance`):
//!
//! - COPY FROM STDIN in a pipeline with further groups behind it: the proxy's count of what is answered goes wrong (libpq refuses to do that).
//! - DEALLOCATE of a statement of the protocol beside other statements in one text, or by a prepared statement that is run again: the
//!   server knows it by another name.
//! - DISCARD ALL with requests behind it in one pipeline: these are changed before anybody knows that it fails.
//! - The unnamed statement, used in a later request than that of its Parse, when that Parse was skipped because of an error before it: it is
//!   taken to be there on the next server.
//! - A statement that is prepared, then run on another server after the session has changed how texts are read (DateStyle): it is read anew.
//! - An application's own setting that is not set: `current_setting` says nothing, or an empty text on a server where somebody has had it.
//! - A message with an impossible length: the proxy says why it closes, PostgreSQL writes that to its log only.
//! - Execute of the unnamed portal that a failed Query has left in an aborted transaction: PostgreSQL 15.18 itself crashes.
//!
//! Not answered as by PostgreSQL yet, met by longer runs: in a pipeline, a Bind of a name that an earlier request, which failed, was to close;
//! in an aborted transaction, a Bind with the wrong number of values of a statement that this server lacks (25P02 instead of 08P01).
//!
//! `PGHERD_DIFFERENTIAL_SECONDS` makes scripts by chance for so long, instead of the first hundred; `PGHERD_DIFFERENTIAL_SEED` (1) is the first.

mod chance;
mod scripts;

use std::fmt;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wire::ErrorFields;
use wire::startup::startup_packet;

use super::server::Postgres;
use super::*;

/// A message of PostgreSQL's, and after the last one what the end of the connection is.
type Heard = (u8, Vec<u8>);

/// For a server that has nothing more to say, though it was asked for more answers: it swallows a Sync within COPY.
const QUIET: Duration = Duration::from_millis(150);
/// For the proxy to say what PostgreSQL said.
const SLOW: Duration = Duration::from_secs(3);
/// For the search for a smaller script that differs.
const SHRINKING: Duration = Duration::from_secs(20);
/// By chance, where no time is asked for: the same each time.
const SCRIPTS: u64 = 100;
/// Sessions that leave something on servers, in turn.
const SOILERS: usize = 5;

/// Messages as they are sent, in steps: of each step the answers are awaited before the next.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub name: String,
    pub steps: Vec<Vec<Vec<u8>>>,
    /// And could be a smaller one.
    pub is_by_chance: bool,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "script {}", self.name)?;
        for step in &self.steps {
            for message in step {
                writeln!(f, "  > {}", shown(&message[..1], &message[5..]))?;
            }
            writeln!(f, "  --")?;
        }
        Ok(())
    }
}

fn shown(tag: &[u8], body: &[u8]) -> String {
    let body = body.escape_ascii().to_string();
    let (short, rest) = body.split_at(body.len().min(400));
    format!("{} {short}{}", tag.escape_ascii(), if rest.is_empty() { "" } else { "…" })
}

/// How the bytes of a step are sent through the proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pieces {
    Whole,
    Messages,
    /// Each header in two, at all places by turns.
    Headers(usize),
    Bytes,
}

struct Talk {
    stream: TcpStream,
}

impl Talk {
    async fn open(address: &str, database: &str) -> (Talk, Vec<Heard>) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let packet = startup_packet(0, &[("user", "postgres"), ("database", database)]);
        stream.write_all(&packet).await.unwrap();
        let mut talk = Talk { stream };
        let heard = soon(talk.hear(1, None)).await;
        assert_eq!(heard.last().map(|(tag, _)| *tag), Some(b'Z'), "{heard:?}");
        (talk, heard)
    }

    async fn say(&mut self, step: &[Vec<u8>], pieces: Pieces) {
        let bytes = step.concat();
        let mut cuts: Vec<usize> = Vec::new();
        let mut at = 0;
        for message in step {
            match pieces {
                Pieces::Whole => {}
                Pieces::Messages => cuts.push(at),
                Pieces::Headers(place) => cuts.push(at + 1 + place % 5),
                Pieces::Bytes => cuts.extend(at..at + message.len()),
            }
            at += message.len();
        }
        let mut from = 0;
        for end in cuts.into_iter().chain([bytes.len()]) {
            // A session that has ended takes no more, on either way.
            if self.stream.write_all(&bytes[from..end.min(bytes.len())]).await.is_err() {
                return;
            }
            from = end.min(bytes.len());
            tokio::task::yield_now().await;
        }
    }

    /// The next message; at the end of the connection one with the tag 0.
    async fn next(&mut self) -> Heard {
        let read = async {
            let tag = self.stream.read_u8().await?;
            let mut body = vec![0; self.stream.read_u32().await? as usize - 4];
            self.stream.read_exact(&mut body).await?;
            Ok::<_, std::io::Error>((tag, body))
        };
        read.await.unwrap_or((0, Vec::new()))
    }

    /// Up to so many ReadyForQuery, or for so long without a word.
    async fn hear(&mut self, readies: usize, quiet: Option<Duration>) -> Vec<Heard> {
        let mut heard = Vec::new();
        let mut due = readies;
        while due > 0 || readies == 0 {
            let Ok(message) = timeout(quiet.unwrap_or(PATIENCE), self.next()).await else { break };
            due -= usize::from(message.0 == b'Z').min(due);
            heard.push(message);
            if heard.last().is_some_and(|(tag, _)| *tag == 0) {
                break;
            }
        }
        heard
    }

    async fn ask(&mut self, step: &[Vec<u8>]) -> Vec<Heard> {
        self.say(step, Pieces::Whole).await;
        soon(self.hear(readies(step), None)).await
    }
}

/// Answers that end in ReadyForQuery, COPY aside.
fn readies(step: &[Vec<u8>]) -> usize {
    step.iter().filter(|message| matches!(message[0], b'Q' | b'S' | b'F')).count()
}

/// What differs though it is the same.
fn compared(heard: &[Heard]) -> Vec<Heard> {
    let plain = heard.iter().filter(|(tag, _)| *tag != b'K').map(|(tag, body)| match tag {
        b'A' => (*tag, body[4..].to_vec()),
        // In an aborted transaction it may be the proxy's own Parse that is refused, of a statement that this server lacks: the same
        // words from another line of PostgreSQL's source.
        b'E' if ErrorFields::new(body).sqlstate() == Some(b"25P02") => (*tag, without_source(body)),
        _ => (*tag, body.clone()),
    });
    plain.collect()
}

fn without_source(body: &[u8]) -> Vec<u8> {
    let fields = body.split(|byte| *byte == 0);
    fields.filter(|field| !matches!(field.first(), Some(b'F' | b'L' | b'R'))).collect::<Vec<_>>().join(&0)
}

/// Where the scripts are run.
struct Ground {
    postgres: Postgres,
    stand: Stand,
    soilers: Vec<Talk>,
    turn: usize,
    scripts: usize,
    steps: usize,
}

/// A script, the step of it, and what was heard on each way.
struct Difference {
    step: usize,
    direct: Vec<Heard>,
    proxied: Vec<Heard>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "step {}", self.step + 1)?;
        for (way, heard) in [("PostgreSQL", &self.direct), ("proxy", &self.proxied)] {
            writeln!(f, "  {way}:")?;
            for (tag, body) in heard {
                writeln!(f, "    {}", shown(&[*tag], body))?;
            }
        }
        Ok(())
    }
}

impl Ground {
    async fn new(share_unnamed: bool) -> Ground {
        let postgres = tokio::task::spawn_blocking(|| Postgres::start("trust", &[])).await.unwrap();
        let admin = postgres.admin().await;
        admin.batch_execute("CREATE DATABASE one").await.unwrap();
        let (mut first, _) = Talk::open(&postgres.address, "one").await;
        let heard = first.ask(&[scripts::query(scripts::TABLES)]).await;
        assert!(heard.iter().all(|(tag, _)| *tag != b'E'), "{heard:?}");
        drop(first);
        soon(async {
            while admin.batch_execute("CREATE DATABASE two TEMPLATE one").await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        // The session's own, and two of those that soil.
        let config = ProxyConfig {
            pool_mode: PoolMode::Transaction,
            pool_size: 3,
            threads: 1,
            share_unnamed,
            ..config()
        };
        let stand = Stand::new(config, topology(1, Some(&postgres.address), &[])).await;
        let mut soilers = Vec::new();
        for number in 0..SOILERS {
            let (mut soiler, _) = Talk::open(&stand.read_write().to_string(), "two").await;
            soiler.ask(&[scripts::query(&scripts::soil(number))]).await;
            soilers.push(soiler);
        }
        soilers[0].ask(&[scripts::query("BEGIN")]).await;
        Ground { postgres, stand, soilers, turn: 0, scripts: 0, steps: 0 }
    }

    /// The next soiler takes the server that was used last, then the one before gives its own back.
    async fn soil(&mut self) {
        let before = self.turn;
        self.turn = (self.turn + 1) % SOILERS;
        let mut takes = vec![scripts::query("BEGIN")];
        takes.extend(scripts::soiling());
        let heard = self.soilers[self.turn].ask(&takes).await;
        assert!(heard.iter().all(|(tag, _)| *tag != b'E'), "{heard:?}");
        self.soilers[before].ask(&[scripts::query("COMMIT")]).await;
    }

    /// Both sessions, ended.
    async fn run(&mut self, script: &Script, pieces: Pieces) -> Result<(), Difference> {
        self.scripts += 1;
        let (mut direct, welcome) = Talk::open(&self.postgres.address.clone(), "one").await;
        let (mut proxied, told) = Talk::open(&self.stand.read_write().to_string(), "two").await;
        let [mut welcome, mut told] = [compared(&welcome), compared(&told)];
        welcome.sort();
        told.sort();
        // The proxy keeps the server's level where it sees warnings; that is not reported.
        if welcome != told {
            return Err(Difference { step: 0, direct: welcome, proxied: told });
        }
        for (number, step) in script.steps.iter().enumerate() {
            self.steps += 1;
            self.soil().await;
            direct.say(step, Pieces::Whole).await;
            let heard = direct.hear(readies(step), Some(QUIET)).await;
            proxied.say(step, pieces).await;
            let mut answer = Vec::new();
            while answer.len() < heard.len() && answer.last().is_none_or(|(tag, _)| *tag != 0) {
                match timeout(SLOW, proxied.next()).await {
                    // Of the beginning, when its server reports other parameters: none does here.
                    Ok(message) => answer.push(message),
                    Err(_) => break,
                }
            }
            let (direct, proxied) = (compared(&heard), compared(&answer));
            if direct != proxied {
                return Err(Difference { step: number, direct, proxied });
            }
            if heard.last().is_some_and(|(tag, _)| *tag == 0) {
                return Ok(());
            }
        }
        // Nothing comes behind it.
        let mut rests = Vec::new();
        for talk in [&mut direct, &mut proxied] {
            talk.say(&[scripts::message(b'X', b"")], Pieces::Whole).await;
            rests.push(compared(&soon(talk.hear(usize::MAX, None)).await));
        }
        let [direct, proxied] = rests.try_into().unwrap_or_default();
        match direct == proxied {
            true => Ok(()),
            false => Err(Difference { step: script.steps.len(), direct, proxied }),
        }
    }

    /// The smallest script that still differs, found by leaving out.
    async fn shrunk(&mut self, script: &Script, pieces: Pieces) -> Script {
        let mut small = script.clone();
        let (began, mut step) = (Instant::now(), 0);
        while step < small.steps.len() {
            let mut at = 0;
            while at < small.steps[step].len() && began.elapsed() < SHRINKING {
                let mut less = small.clone();
                let left_out = less.steps[step].remove(at);
                // Without its end a group would be the next step's, and waited for in vain.
                if left_out[0] == b'S' && !less.steps[step].is_empty() {
                    at += 1;
                    continue;
                }
                match self.run(&less, pieces).await {
                    Err(_) => small = less,
                    Ok(()) => at += 1,
                }
            }
            step += 1;
        }
        small.steps.retain(|step| !step.is_empty());
        small
    }

    async fn check(&mut self, script: &Script, pieces: Pieces) -> Option<String> {
        let difference = self.run(script, pieces).await.err()?;
        let small = if script.is_by_chance { self.shrunk(script, pieces).await } else { script.clone() };
        let told = match self.run(&small, pieces).await {
            Err(difference) => format!("{small}{difference}"),
            Ok(()) => format!("{script}{difference}"),
        };
        let told = format!("{pieces:?} {told}");
        println!("{told}");
        Some(told)
    }
}

fn report(found: &[String], ground: &Ground) {
    println!("{} scripts of {} steps", ground.scripts, ground.steps);
    assert!(found.is_empty(), "{} differences\n\n{}", found.len(), found.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fixed_scripts_are_answered_as_by_postgresql() {
    for share_unnamed in [false, true] {
        let mut ground = Ground::new(share_unnamed).await;
        let mut found = Vec::new();
        for script in scripts::fixed() {
            let place = ground.scripts;
            for pieces in [Pieces::Whole, Pieces::Headers(place), Pieces::Bytes] {
                found.extend(ground.check(&script, pieces).await);
            }
        }
        report(&found, &ground);
    }
}

async fn pipelines_that_fail(share_unnamed: bool) {
    let mut ground = Ground::new(share_unnamed).await;
    let mut found = Vec::new();
    for script in scripts::failing() {
        found.extend(ground.check(&script, Pieces::Whole).await);
        if found.len() >= 10 {
            break;
        }
    }
    report(&found, &ground);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_that_fails_anywhere_is_answered_as_by_postgresql() {
    pipelines_that_fail(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_is_where_the_unnamed_statement_is_shared() {
    pipelines_that_fail(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_by_chance_are_answered_as_by_postgresql() {
    let asked =
        |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let seconds = asked("PGHERD_DIFFERENTIAL_SECONDS", 0);
    let mut seed = asked("PGHERD_DIFFERENTIAL_SEED", 1);
    let last = if seconds == 0 { seed + SCRIPTS } else { u64::MAX };
    let mut grounds = [Ground::new(false).await, Ground::new(true).await];
    let (began, mut found) = (Instant::now(), Vec::new());
    while seed < last && (seconds == 0 || began.elapsed() < Duration::from_secs(seconds)) && found.len() < 5 {
        let (script, pieces) = chance::script(seed);
        for ground in &mut grounds {
            found.extend(ground.check(&script, pieces).await);
        }
        seed += 1;
    }
    report(&found, &grounds[0]);
}
