//! The client: pgbench's select-only script, as libpq sends it.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use wire::message::{backend, frontend, put_frame};
use wire::startup::startup_packet;

const STATEMENT: &[u8] = b"P0_1";
/// Accounts have numbers of so many digits here, so that all transactions are of one length.
const ACCOUNTS: std::ops::Range<u32> = 10_000..100_000;

/// Of a machine on which everything else is tested meanwhile, under valgrind.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How pgbench asks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Simple,
    Extended,
    Prepared,
}

impl Mode {
    pub fn named(name: &str) -> Option<Mode> {
        match name {
            "simple" => Some(Mode::Simple),
            "extended" => Some(Mode::Extended),
            "prepared" => Some(Mode::Prepared),
            _ => None,
        }
    }
}

pub struct Client {
    stream: TcpStream,
    mode: Mode,
    /// Transactions.
    pub asked: u32,
    out: Vec<u8>,
    /// What has come since the last request.
    heard: Vec<u8>,
    buffer: Box<[u8; 8192]>,
}

impl Client {
    pub fn log_in(address: SocketAddr, mode: Mode) -> Result<Client> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(&startup_packet(0, &[("user", "app"), ("database", "app")]))?;
        let buffer = Box::new([0; 8192]);
        let mut client = Client { stream, mode, asked: 0, out: Vec::new(), heard: Vec::new(), buffer };
        client.ready()?;
        if mode == Mode::Prepared {
            let body = [STATEMENT, b"\0", parameterised().as_bytes(), b"\0\0\0"].concat();
            put_frame(&mut client.out, frontend::PARSE, &body);
            put_frame(&mut client.out, frontend::SYNC, b"");
            client.ask()?;
        }
        Ok(client)
    }

    /// Asks for an account, and gives the answer's value.
    pub fn transaction(&mut self) -> Result<&[u8]> {
        let account = (ACCOUNTS.start + self.asked % ACCOUNTS.len() as u32).to_string();
        self.asked += 1;
        match self.mode {
            Mode::Simple => {
                let text = format!("SELECT abalance FROM pgbench_accounts WHERE aid = {account};\0");
                put_frame(&mut self.out, frontend::QUERY, text.as_bytes());
            }
            Mode::Extended => {
                let body = [b"\0", parameterised().as_bytes(), b"\0\0\0"].concat();
                put_frame(&mut self.out, frontend::PARSE, &body);
                self.bind(b"", &account);
            }
            Mode::Prepared => self.bind(STATEMENT, &account),
        }
        self.ask()?;
        let value = self.value().ok_or_else(|| garbled("no row"))?;
        Ok(&self.heard[value])
    }

    /// Bind, Describe, Execute and Sync, with one parameter as text.
    fn bind(&mut self, statement: &[u8], value: &str) {
        let length = (value.len() as u32).to_be_bytes();
        let parts = [b"\0", statement, b"\0\0\0\0\x01", &length, value.as_bytes(), b"\0\x01\0\0"];
        put_frame(&mut self.out, frontend::BIND, &parts.concat());
        put_frame(&mut self.out, frontend::DESCRIBE, b"P\0");
        put_frame(&mut self.out, frontend::EXECUTE, b"\0\0\0\0\0");
        put_frame(&mut self.out, frontend::SYNC, b"");
    }

    fn ask(&mut self) -> Result<()> {
        self.stream.write_all(&self.out)?;
        self.out.clear();
        self.ready()
    }

    /// Reads up to ReadyForQuery, the last message of an answer.
    fn ready(&mut self) -> Result<()> {
        self.heard.clear();
        loop {
            let read = self.stream.read(&mut self.buffer[..])?;
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.heard.extend_from_slice(&self.buffer[..read]);
            let mut last = 0;
            for (tag, body) in frames(&self.heard) {
                if tag == backend::ERROR_RESPONSE {
                    return Err(garbled(&String::from_utf8_lossy(&self.heard[body])));
                }
                last = if body.end == self.heard.len() { tag } else { 0 };
            }
            if last == backend::READY_FOR_QUERY {
                return Ok(());
            }
        }
    }

    /// Of the first column of the first row.
    fn value(&self) -> Option<std::ops::Range<usize>> {
        let (_, body) = frames(&self.heard).find(|(tag, _)| *tag == backend::DATA_ROW)?;
        Some(body.start + 6..body.end)
    }
}

fn parameterised() -> &'static str {
    "SELECT abalance FROM pgbench_accounts WHERE aid = $1;"
}

fn garbled(why: &str) -> Error {
    Error::new(ErrorKind::InvalidData, why.replace('\0', " "))
}

/// The whole messages in `bytes`: their types, and where their bodies are.
pub fn frames(bytes: &[u8]) -> impl Iterator<Item = (u8, std::ops::Range<usize>)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (tag, length) = bytes[at..].split_first()?;
        let length = u32::from_be_bytes(*length.first_chunk()?) as usize;
        let body = at + 5..at + 1 + length;
        at = body.end;
        (body.end <= bytes.len()).then_some((*tag, body))
    })
}
