//! A PostgreSQL server and a client in a few lines, each speaking just enough of the protocol.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use wire::message::put_frame;
use wire::startup::{CancelKey, startup_packet};
use wire::{ErrorFields, ErrorResponse, Severity};

use super::soon;
use crate::hello::{Hello, read_hello};
use crate::tls::{Stream, Tls, TlsConfig};

/// How the server answers a start-up packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    Trusting,
    /// Asks for a password and takes any.
    Asking,
    /// Trusting, but its key is the old one of 4 bytes.
    ShortKey,
    Refusing(&'static str),
    /// Closes without a word.
    Mute,
    /// Takes the start-up packet and says nothing.
    Hung,
    /// Offers SCRAM, and goes no further.
    Offering,
}

#[derive(Default, Debug)]
pub struct Seen {
    /// Texts of simple queries, and of Parse messages after `name: `.
    pub queries: Vec<String>,
    pub cancels: Vec<(u32, Vec<u8>)>,
    /// Messages of sessions of which at least the header has come.
    pub begun: u32,
    pub logins: u32,
    pub open: u32,
}

/// A server. A query that holds `hang` is answered when `answers` says so, one that holds `half` gets half a message, one
/// that holds `die` ends the connection, before one that holds `lie` is answered its wait for standbys is cancelled, and one
/// that holds `COPY` wants data.
pub struct Server {
    pub address: String,
    pub manner: watch::Sender<Manner>,
    /// Ends all sessions with this SQLSTATE.
    pub ends: watch::Sender<Option<&'static str>>,
    /// From then on nothing hangs.
    pub answers: watch::Sender<bool>,
    pub seen: Arc<watch::Sender<Seen>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn new(manner: Manner) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let manner = watch::Sender::new(manner);
        let seen = Arc::new(watch::Sender::new(Seen::default()));
        let ends = watch::Sender::new(None);
        let answers = watch::Sender::new(false);
        let secret = listener.local_addr().unwrap().port() as u8;
        let (manners, log) = (manner.clone(), Arc::clone(&seen));
        let orders = Orders { ends: ends.subscribe(), answers: answers.subscribe() };
        let task = tokio::spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (manner, log) = (*manners.borrow(), Arc::clone(&log));
                let orders = orders.clone();
                sessions.spawn(async move {
                    log.send_modify(|seen| seen.open += 1);
                    let _ = serve(stream, manner, secret, &log, orders).await;
                    log.send_modify(|seen| seen.open -= 1);
                });
            }
        });
        Server { address, manner, ends, answers, seen, task }
    }

    pub async fn until(&self, condition: impl Fn(&Seen) -> bool) {
        soon(self.seen.subscribe().wait_for(condition)).await.unwrap();
    }

    pub fn logins(&self) -> u32 {
        self.seen.borrow().logins
    }
}

/// What all sessions of a server are told.
#[derive(Clone)]
struct Orders {
    ends: watch::Receiver<Option<&'static str>>,
    answers: watch::Receiver<bool>,
}

fn fatal(sqlstate: &'static str) -> Vec<u8> {
    let error = ErrorResponse {
        severity: Severity::Fatal,
        sqlstate,
        message: "the server says no".to_owned(),
        detail: String::new(),
        hint: String::new(),
    };
    error.encode()
}

async fn serve(
    stream: TcpStream,
    manner: Manner,
    secret: u8,
    log: &watch::Sender<Seen>,
    mut orders: Orders,
) -> std::io::Result<()> {
    let mut stream = Stream::from(stream);
    let tls = Tls::start(&TlsConfig::default()).unwrap();
    match read_hello(&mut stream, &tls).await {
        Ok(Hello::Cancel { pid, secret }) => {
            log.send_modify(|seen| seen.cancels.push((pid, secret)));
            return Ok(());
        }
        Ok(Hello::Session { .. }) => log.send_modify(|seen| seen.logins += 1),
        Err(_) => return Ok(()),
    }
    let key = match manner {
        Manner::Mute => return Ok(()),
        Manner::Hung => return stream.read_u8().await.map(drop),
        Manner::Offering => {
            let mut out = Vec::new();
            put_frame(&mut out, b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0");
            stream.write_all(&out).await?;
            read_noted(&mut stream, log).await?;
            return stream.read_u8().await.map(drop);
        }
        Manner::Refusing(sqlstate) => return stream.write_all(&fatal(sqlstate)).await,
        Manner::Asking => {
            let mut out = Vec::new();
            put_frame(&mut out, b'R', &[0, 0, 0, 3]);
            stream.write_all(&out).await?;
            read_frame(&mut stream).await?;
            vec![0, 0, 0, 9, 1, 2, 3, 4]
        }
        Manner::Trusting => vec![0, 0, 0, 9].into_iter().chain([secret; 32]).collect::<Vec<u8>>(),
        Manner::ShortKey => vec![0, 0, 0, 9, 1, 2, 3, 4],
    };
    let mut out = Vec::new();
    put_frame(&mut out, b'R', &[0; 4]);
    put_frame(&mut out, b'K', &key);
    put_frame(&mut out, b'Z', b"I");
    stream.write_all(&out).await?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (mut status, mut hangs) = (b'I', false);
    loop {
        let mut frame = std::pin::pin!(read_noted(&mut reader, log));
        let (tag, body) = loop {
            tokio::select! {
                frame = &mut frame => break frame?,
                Ok(sqlstate) = async { orders.ends.wait_for(Option::is_some).await.map(|ends| ends.unwrap_or_default()) } => {
                    return writer.write_all(&fatal(sqlstate)).await;
                }
                Ok(()) = async { orders.answers.wait_for(|answers| *answers).await.map(drop) }, if hangs => {
                    hangs = false;
                    writer.write_all(&completed(status)).await?;
                }
            }
        };
        let mut out = Vec::new();
        match tag {
            b'Q' => {
                let sql = String::from_utf8_lossy(&body[..body.len() - 1]).into_owned();
                log.send_modify(|seen| seen.queries.push(sql.clone()));
                if sql.starts_with("BEGIN") {
                    status = b'T';
                } else if sql.starts_with("COMMIT") {
                    status = b'I';
                }
                if sql.contains("die") {
                    return Ok(());
                }
                if sql.contains("half") {
                    out.extend_from_slice(&[b'D', 0, 0, 0, 100, 1, 2, 3]);
                } else if sql.contains("hang") {
                    hangs = true;
                } else if sql.contains("COPY") {
                    put_frame(&mut out, b'G', &[0, 0, 0]);
                } else {
                    if sql.contains("big") {
                        put_frame(&mut out, b'D', &[7; BIG]);
                    }
                    if sql.contains("lie") {
                        put_frame(&mut out, b'N', b"SWARNING\0VWARNING\0C01000\0Mx\0RSyncRepWaitForLSN\0\0");
                    }
                    out.extend(completed(status));
                }
            }
            b'P' => {
                let texts: Vec<String> = body
                    .split(|byte| *byte == 0)
                    .map(|text| String::from_utf8_lossy(text).into_owned())
                    .collect();
                log.send_modify(|seen| seen.queries.push(format!("{}: {}", texts[0], texts[1])));
                put_frame(&mut out, b'1', b"");
            }
            b'B' => put_frame(&mut out, b'2', b""),
            b'E' => put_frame(&mut out, b'C', b"OK\0"),
            b'S' => put_frame(&mut out, b'Z', &[status]),
            b'd' => {}
            b'c' => out = completed(status),
            _ => return Ok(()),
        }
        writer.write_all(&out).await?;
    }
}

/// The end of a query.
fn completed(status: u8) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, b'C', b"OK\0");
    put_frame(&mut out, b'Z', &[status]);
    out
}

async fn read_noted<S: AsyncRead + Unpin>(
    stream: &mut S,
    log: &watch::Sender<Seen>,
) -> std::io::Result<(u8, Vec<u8>)> {
    let tag = stream.read_u8().await?;
    let mut body = vec![0; stream.read_u32().await? as usize - 4];
    log.send_modify(|seen| seen.begun += 1);
    stream.read_exact(&mut body).await?;
    Ok((tag, body))
}

pub async fn read_frame<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<(u8, Vec<u8>)> {
    let tag = stream.read_u8().await?;
    let mut body = vec![0; stream.read_u32().await? as usize - 4];
    stream.read_exact(&mut body).await?;
    Ok((tag, body))
}

/// Bytes of the row that answers a query with `big` in it.
pub const BIG: usize = 20_000;

/// What an error said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    pub sqlstate: String,
    /// Message, detail and hint, one per line.
    pub text: String,
}

pub struct Client {
    pub stream: TcpStream,
    pub key: Mutex<Vec<u8>>,
    /// SQLSTATEs of notices.
    pub notices: Vec<String>,
}

impl Client {
    /// Connects and sends a start-up packet, no more.
    pub async fn knock(address: SocketAddr) -> Client {
        Client::knock_with(address, &[("user", "ann")]).await
    }

    pub async fn knock_with(address: SocketAddr, parameters: &[(&str, &str)]) -> Client {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&startup_packet(2, parameters)).await.unwrap();
        Client { stream, key: Mutex::default(), notices: Vec::new() }
    }

    pub async fn login(address: SocketAddr) -> Client {
        let mut client = Client::knock(address).await;
        client.ready().await.expect("the login succeeds");
        client
    }

    pub async fn send(&mut self, sql: &str) {
        let mut out = Vec::new();
        put_frame(&mut out, b'Q', format!("{sql}\0").as_bytes());
        self.stream.write_all(&out).await.unwrap();
    }

    /// Parses a statement and waits.
    pub async fn prepare(&mut self, name: &str, sql: &str) -> Result<(), Told> {
        let mut out = Vec::new();
        put_frame(&mut out, b'P', format!("{name}\0{sql}\0\0\0").as_bytes());
        put_frame(&mut out, b'S', b"");
        self.stream.write_all(&out).await.unwrap();
        self.ready().await
    }

    pub async fn query(&mut self, sql: &str) -> Result<(), Told> {
        self.send(sql).await;
        self.ready().await
    }

    /// Reads up to ReadyForQuery or an error; an empty SQLSTATE means that the connection ended without one.
    pub async fn ready(&mut self) -> Result<(), Told> {
        soon(async {
            loop {
                match read_frame(&mut self.stream).await {
                    Ok((b'Z', _)) => return Ok(()),
                    Ok((b'K', key)) => *self.key.lock().unwrap() = key,
                    Ok((b'N', body)) => self.notices.push(told(&body).sqlstate),
                    Ok((b'E', body)) => return Err(told(&body)),
                    Ok(_) => {}
                    Err(_) => return Err(Told { sqlstate: String::new(), text: String::new() }),
                }
            }
        })
        .await
    }

    /// The type bytes of what comes, up to ReadyForQuery.
    pub async fn tags_until_ready(&mut self) -> String {
        soon(async {
            let mut tags = String::new();
            while !tags.ends_with('Z') {
                tags.push(char::from(read_frame(&mut self.stream).await.unwrap().0));
            }
            tags
        })
        .await
    }

    /// The parameters that are reported up to ReadyForQuery.
    pub async fn parameters_until_ready(&mut self) -> std::collections::BTreeMap<String, String> {
        let mut told = std::collections::BTreeMap::new();
        soon(async {
            loop {
                let (tag, body) = read_frame(&mut self.stream).await.unwrap();
                let mut texts =
                    body.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
                match tag {
                    b'Z' => break,
                    b'S' => drop(told.insert(texts.next().unwrap(), texts.next().unwrap())),
                    _ => {}
                }
            }
        })
        .await;
        told
    }

    /// The error that comes without being asked for, after which the connection ends.
    pub async fn last_words(&mut self) -> Told {
        let told = self.ready().await.unwrap_err();
        assert_eq!(
            soon(self.stream.read(&mut [0; 64])).await.unwrap_or(0),
            0,
            "nothing follows a FATAL error"
        );
        told
    }

    /// Sends a cancel request for this session and waits until it is dealt with.
    pub async fn cancel(&self, address: SocketAddr) {
        let key = self.key.lock().unwrap().clone();
        let packet = CancelKey::parse(&key).expect("the server gave a key").request();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&packet).await.unwrap();
        soon(stream.read(&mut [0])).await.unwrap();
    }
}

fn told(body: &[u8]) -> Told {
    let fields = ErrorFields::new(body);
    let text = |tag| String::from_utf8_lossy(fields.get(tag).unwrap_or_default()).into_owned();
    Told { sqlstate: text(b'C'), text: [text(b'M'), text(b'D'), text(b'H')].join("\n") }
}
