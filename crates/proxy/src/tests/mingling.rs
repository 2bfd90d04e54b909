//! No byte of one client's result ever reaches another: many clients at once with requests of every kind, by chance, while
//! statements are cancelled, clients vanish, server processes are ended and replicas come and go. Each row bears who asked for
//! it, and each answer has the rows of its own request and no others, in their order.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::AsyncWriteExt;
use wire::message::put_frame;

use super::fake::{Client, read_frame};
use super::pools::value;
use super::routing::Herd;
use super::server::{client, connect};
use super::*;

const CLIENTS: u64 = 16;
const ROUNDS: u32 = 300;
/// Fewer than the clients, on each of two threads.
const SERVERS: usize = 6;

/// One request up to its ReadyForQuery: what is sent, and the rows that may come, in this order. An error may cut them short.
#[derive(Default)]
struct Asked {
    bytes: Vec<u8>,
    rows: Vec<String>,
    fails: bool,
}

struct Chance(StdRng);

impl Chance {
    fn new(seed: u64) -> Chance {
        Chance(StdRng::seed_from_u64(seed))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0.random_range(0..limit)
    }
}

struct Talker {
    name: String,
    chance: Chance,
    count: u32,
    /// Named statements that it has prepared in this session.
    prepared: u32,
}

impl Talker {
    fn token(&mut self) -> String {
        self.count += 1;
        format!("{}/{}", self.name, self.count)
    }

    /// A simple query of one to three statements, one of which may fail.
    fn simple(&mut self) -> Asked {
        let mut asked = Asked::default();
        let mut texts = Vec::new();
        for _ in 0..=self.chance.below(3) {
            if self.chance.below(6) == 0 {
                texts.push("SELECT 1/0".to_owned());
                asked.fails = true;
                break;
            }
            let token = self.token();
            texts.push(match self.chance.below(4) {
                0 => format!("SELECT '{token}' FROM t WHERE false UNION ALL SELECT '{token}'"),
                1 => format!("INSERT INTO t VALUES (1) RETURNING '{token}'"),
                2 => format!("SELECT '{token}' FROM pg_sleep(0.003)"),
                _ => format!("SELECT '{token}'"),
            });
            asked.rows.push(token);
        }
        put_frame(&mut asked.bytes, b'Q', format!("{}\0", texts.join("; ")).as_bytes());
        asked
    }

    /// Messages up to a Sync: each runs a statement with a parameter; behind an error nothing runs.
    fn extended(&mut self) -> Asked {
        let mut asked = Asked::default();
        for _ in 0..=self.chance.below(3) {
            let token = self.token();
            let fails = self.chance.below(6) == 0;
            let text = match (fails, self.chance.below(3)) {
                (true, _) => "SELECT 1/length($1)",
                (_, 0) => "INSERT INTO t VALUES (2) RETURNING $1::text",
                _ => "SELECT $1::text",
            };
            let name = match self.chance.below(3) {
                0 => String::new(),
                1 => {
                    self.prepared += 1;
                    format!("s{}", self.prepared)
                }
                _ => format!("again{}", text.len()),
            };
            if name.starts_with("again") {
                // One that may be there already.
                put_frame(&mut asked.bytes, b'C', format!("S{name}\0").as_bytes());
            }
            put_frame(&mut asked.bytes, b'P', format!("{name}\0{text}\0\0\0").as_bytes());
            let value = if fails { "" } else { &token };
            let mut bind = format!("\0{name}\0").into_bytes();
            bind.extend_from_slice(&[0, 0, 0, 1]);
            bind.extend_from_slice(&(value.len() as u32).to_be_bytes());
            bind.extend_from_slice(value.as_bytes());
            bind.extend_from_slice(&[0, 0]);
            put_frame(&mut asked.bytes, b'B', &bind);
            if self.chance.below(2) == 0 {
                put_frame(&mut asked.bytes, b'D', b"P\0");
            }
            put_frame(&mut asked.bytes, b'E', b"\0\0\0\0\0");
            if fails {
                asked.fails = true;
            } else if !asked.fails {
                asked.rows.push(token);
            }
        }
        put_frame(&mut asked.bytes, b'S', b"");
        asked
    }

    fn single(&mut self, text: String, rows: Vec<String>) -> Asked {
        let mut asked = Asked { rows, ..Asked::default() };
        put_frame(&mut asked.bytes, b'Q', format!("{text}\0").as_bytes());
        asked
    }

    /// A setting of its own, which is there later too.
    fn setting(&mut self) -> Vec<Asked> {
        let token = self.token();
        let show = "SELECT current_setting('my.own')";
        let mut asked = vec![self.single(format!("SET my.own = '{token}'"), Vec::new())];
        asked.push(self.single(show.to_owned(), vec![token.clone()]));
        asked.push(self.simple());
        asked.push(self.single(show.to_owned(), vec![token]));
        asked
    }

    fn transaction(&mut self) -> Vec<Asked> {
        let read_only = self.chance.below(2) == 0;
        let begin = if read_only { "BEGIN READ ONLY" } else { "BEGIN" };
        let mut asked = vec![self.single(begin.to_owned(), Vec::new())];
        for _ in 0..self.chance.below(3) {
            let token = self.token();
            asked.push(self.single(format!("SELECT '{token}'"), vec![token]));
        }
        let end = if self.chance.below(2) == 0 { "COMMIT" } else { "ROLLBACK" };
        asked.push(self.single(end.to_owned(), Vec::new()));
        asked
    }

    fn asks(&mut self) -> Vec<Asked> {
        match self.chance.below(8) {
            0 => self.setting(),
            1 => self.transaction(),
            // A pipeline.
            2 => (0..=self.chance.below(4)).map(|_| self.extended()).collect(),
            3 => (0..=self.chance.below(4)).map(|_| self.simple()).collect(),
            4 | 5 => vec![self.extended()],
            _ => vec![self.simple()],
        }
    }

    /// Talks until the session ends or the rounds are over; `true` when they are.
    async fn session(&mut self, stand: &Stand, rounds: &mut u32) -> bool {
        let auto = stand.proxy.addresses().auto.unwrap();
        let port = if self.chance.below(4) == 0 { stand.read_write() } else { auto };
        let mut client = Client::knock_with(port, &[("user", "postgres"), ("database", "postgres")]).await;
        self.prepared = 0;
        if client.ready().await.is_err() {
            return false;
        }
        while *rounds > 0 {
            *rounds -= 1;
            let asked = self.asks();
            let bytes: Vec<u8> = asked.iter().flat_map(|asked| asked.bytes.clone()).collect();
            if client.stream.write_all(&bytes).await.is_err() {
                return false;
            }
            match self.chance.below(20) {
                // It vanishes.
                0 => return false,
                1 => client.cancel(port).await,
                _ => {}
            }
            let mut went_wrong = false;
            for asked in &asked {
                match answer(&mut client, asked, &mut went_wrong).await {
                    Some(()) => {}
                    None => return false,
                }
            }
        }
        true
    }
}

/// Reads one answer; `None` when the session has ended. `went_wrong`: an earlier request of the round has failed otherwise than it was
/// to, cancelled for instance, so that what builds on it may fail as well.
async fn answer(client: &mut Client, asked: &Asked, went_wrong: &mut bool) -> Option<()> {
    let (mut rows, mut failed) = (Vec::new(), false);
    loop {
        let (tag, body) = soon(read_frame(&mut client.stream)).await.ok()?;
        match tag {
            b'D' => {
                let length = u32::from_be_bytes(body[2..6].try_into().unwrap()) as usize;
                rows.push(String::from_utf8(body[6..6 + length].to_vec()).unwrap());
            }
            b'E' => failed = true,
            b'Z' => break,
            _ => {}
        }
    }
    let expected = asked.rows.get(..rows.len());
    // Behind a SET that was cancelled its session reads what it has set before, or nothing.
    let whose = |row: &String| row.split('/').next().map(str::to_owned);
    let of_before = *went_wrong
        && rows.len() <= asked.rows.len()
        && rows.iter().zip(&asked.rows).all(|(row, own)| row.is_empty() || whose(row) == whose(own));
    assert!(
        Some(&rows[..]) == expected || of_before,
        "{rows:?} in place of {expected:?}: of somebody else, or out of their order"
    );
    let cut_short = rows.len() < asked.rows.len() || failed != asked.fails;
    assert!(!cut_short || failed, "{rows:?} of {:?}, and no error", asked.rows);
    *went_wrong |= cut_short;
    Some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_what_is_somebody_elses() {
    let config = ProxyConfig { pool_mode: PoolMode::Transaction, pool_size: SERVERS, threads: 2, ..config() };
    let herd = Arc::new(Herd::new(config, 1).await);
    let present =
        "SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE backend_type = 'client backend'";
    let spared = value(&herd.admin, present).await;
    let talkers: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let herd = Arc::clone(&herd);
            tokio::spawn(async move {
                let mut talker = Talker {
                    name: format!("c{number}"),
                    chance: Chance::new(number + 1),
                    count: 0,
                    prepared: 0,
                };
                let mut rounds = ROUNDS;
                while rounds > 0 && !talker.session(&herd.stand, &mut rounds).await {}
            })
        })
        .collect();
    let mut chance = Chance::new(7);
    let replica = herd.replicas[0].address.clone();
    let mut listed = true;
    while !talkers.iter().all(tokio::task::JoinHandle::is_finished) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if chance.below(3) == 0 {
            listed = !listed;
            let replicas: &[&str] = if listed { &[&replica] } else { &[] };
            herd.stand.topology.send_replace(topology(1, Some(&herd.primary.address), replicas));
        } else {
            let one = format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' \
                 AND pid NOT IN ({spared}) ORDER BY random() LIMIT 1"
            );
            herd.admin.simple_query(&one).await.unwrap();
        }
    }
    for talker in talkers {
        talker.await.unwrap();
    }
    let counts = herd.stand.proxy.counts();
    assert!(counts.reads_by_replicas > 0 && counts.cancels > 0, "{counts:?}");
    // Nobody finds what others have set.
    let session = connect(client(herd.stand.read_write(), "secret")).await.unwrap();
    assert_eq!(value(&session, "SELECT count(*) FROM pg_settings WHERE name = 'my.own'").await, "0");
}
