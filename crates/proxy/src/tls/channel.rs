//! One TLS connection without its socket: records in, bytes out, and the other way round.
//!
//! What it is: rustls' unbuffered connection with the bytes that cannot be passed on at present. What it is not: a reader or
//! a writer of sockets. Invariants: an idle channel holds no buffer; what is told as taken is encrypted, and in order; at most
//! `INCOMING_MAX` bytes of records are held, and at most `CHUNK` bytes of a sender's wait encrypted.

use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, ServerConfig};

/// Room for one read: a record of the greatest size (RFC 8446, 5.2) and the beginning of another.
const READ_MAX: usize = 5 + 16_384 + 256 + 2_048;
/// Records that are not whole: a message of a handshake has 64 KiB at most here, as in rustls' own buffers.
const INCOMING_MAX: usize = 64 * 1024 + READ_MAX;
/// Of a sender's bytes so many are encrypted at once.
const CHUNK: usize = 16 * 1024;
/// A record's header, type, nonce and tag, at most.
const RECORD_OVERHEAD: usize = 5 + 1 + 8 + 16;
/// A record's plaintext, as PostgreSQL's own buffer for what it sends. Some clients that wait for events of the socket read
/// no more than that at once, and do not ask their TLS what it still has.
pub const RECORD_MAX: usize = 8 * 1024;

enum Connection {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// What is to be sent once there is nothing else to do.
#[derive(Clone, Copy)]
enum Say<'a> {
    Nothing,
    Bytes(&'a [u8]),
    Close,
}

/// How far a turn of rustls has come.
enum Next {
    /// It has more to do.
    Again,
    /// Nothing, until more is read or said.
    Rest,
    /// What was to be said is encrypted.
    Said,
}

pub struct Channel {
    connection: Connection,
    /// Records as they were read; those before `done` are done with.
    incoming: Vec<u8>,
    done: usize,
    /// Decrypted, and not read yet; behind `read`.
    plain: Vec<u8>,
    read: usize,
    /// Encrypted, and not sent yet; behind `sent`.
    outgoing: Vec<u8>,
    sent: usize,
    /// `incoming` may hold whole records.
    untried: bool,
    /// What was read is no TLS, or not of this connection. It is told when all before it was read.
    failure: Option<io::Error>,
    /// The other side has said that it sends no more.
    closed: bool,
    /// We have said so.
    said_closed: bool,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Channel(..)")
    }
}

impl Channel {
    /// The side that a client connects to. `seen`: what the client has said already.
    pub fn server(config: Arc<ServerConfig>, seen: &[u8]) -> io::Result<Channel> {
        let connection = UnbufferedServerConnection::new(config).map_err(broken)?;
        Ok(Channel::new(Connection::Server(connection), seen))
    }

    /// The side that connects.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Channel> {
        let connection = UnbufferedClientConnection::new(config, name).map_err(broken)?;
        Ok(Channel::new(Connection::Client(connection), &[]))
    }

    fn new(connection: Connection, seen: &[u8]) -> Channel {
        Channel {
            connection,
            incoming: seen.to_vec(),
            done: 0,
            plain: Vec::new(),
            read: 0,
            outgoing: Vec::new(),
            sent: 0,
            untried: true,
            failure: None,
            closed: false,
            said_closed: false,
        }
    }

    fn state(&self) -> &CommonState {
        match &self.connection {
            Connection::Server(connection) => connection,
            Connection::Client(connection) => connection,
        }
    }

    pub fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    /// Version and cipher suite, such as `TLSv1.3/TLS13_AES_256_GCM_SHA384`; empty before the handshake.
    pub fn describe(&self) -> String {
        let state = self.state();
        let version = match state.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => return String::new(),
        };
        let suite = state.negotiated_cipher_suite().map(|suite| format!("/{:?}", suite.suite()));
        format!("{version}{}", suite.unwrap_or_default())
    }

    /// The protocol that both sides have named.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.state().alpn_protocol()
    }

    /// What the other side has shown, its own first.
    pub fn certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.state().peer_certificates()
    }

    /// Something can be read without the socket.
    pub fn has_unread(&self) -> bool {
        !self.plain.is_empty() || self.untried || self.closed || self.failure.is_some()
    }

    /// No more will come, as the other side has said itself.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Where records are to be read to, with room for a read. The error: one more could not end what is there.
    pub fn incoming(&mut self) -> io::Result<&mut Vec<u8>> {
        self.incoming.drain(..std::mem::take(&mut self.done));
        if self.incoming.len() > INCOMING_MAX {
            return Err(io::Error::new(ErrorKind::InvalidData, "a TLS message is too long"));
        }
        self.incoming.reserve_exact(READ_MAX);
        Ok(&mut self.incoming)
    }

    /// So much was read to `incoming`. After nothing the room that was for it goes.
    pub fn was_read(&mut self, read: usize) {
        self.untried |= read > 0;
        if read == 0 {
            self.incoming.shrink_to_fit();
        }
    }

    /// Goes on with the handshake as far as the records at hand allow; what is to be sent is in `outgoing`.
    pub fn shake(&mut self) -> io::Result<()> {
        self.decrypt(&mut []).map(drop)
    }

    /// Bytes put into `out`; 0 when there are none without more records.
    pub fn decrypt(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut filled = self.take_kept(out);
        // A handshake has no room for bytes; its own last words come as long as there are turns.
        while self.untried && self.plain.is_empty() && (filled < out.len() || out.is_empty()) {
            match self.turn(Say::Nothing, Sink { out, filled: &mut filled }) {
                Ok(Next::Again) => {}
                Ok(_) => self.untried = false,
                Err(error) => {
                    (self.untried, self.failure) = (false, Some(error));
                    self.alert();
                }
            }
        }
        match self.failure.take_if(|_| filled == 0) {
            Some(error) => Err(error),
            None => Ok(filled),
        }
    }

    /// Encrypts the beginning of `parts` and says how many bytes of them. Nothing may be left to be sent.
    pub fn encrypt(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let joined: Vec<u8>;
        let whole = match parts {
            [part] => &part[..],
            parts => {
                joined = parts.iter().flat_map(|part| part.iter().copied()).take(CHUNK).collect();
                &joined
            }
        };
        let chunk = &whole[..whole.len().min(CHUNK)];
        self.say(Say::Bytes(chunk)).map(|()| chunk.len())
    }

    /// Says that nothing more will be sent.
    pub fn close(&mut self) {
        if !std::mem::replace(&mut self.said_closed, true) {
            // Who cannot be told notices the end of the connection.
            let _ = self.say(Say::Close);
        }
    }

    fn say(&mut self, say: Say<'_>) -> io::Result<()> {
        loop {
            match self.turn(say, Sink { out: &mut [], filled: &mut 0 })? {
                Next::Again => {}
                Next::Said => return Ok(()),
                Next::Rest => return Err(ErrorKind::BrokenPipe.into()),
            }
        }
    }

    /// After an error: what the other side is to be told of it.
    fn alert(&mut self) {
        (self.incoming, self.done) = (Vec::new(), 0);
        while let Ok(Next::Again) = self.turn(Say::Nothing, Sink { out: &mut [], filled: &mut 0 }) {}
    }

    fn turn(&mut self, say: Say<'_>, sink: Sink<'_>) -> io::Result<Next> {
        let Channel { connection, incoming, done, plain, outgoing, closed, .. } = self;
        let outs = Outs { sink, plain, outgoing, closed };
        let records = &mut incoming[*done..];
        let (newly, next) = match connection {
            Connection::Server(connection) => outs.step(connection.process_tls_records(records), say),
            Connection::Client(connection) => outs.step(connection.process_tls_records(records), say),
        };
        *done += newly;
        if *done == incoming.len() {
            (*incoming, *done) = (Vec::new(), 0);
        }
        next
    }

    /// Of what was decrypted before.
    fn take_kept(&mut self, out: &mut [u8]) -> usize {
        let kept = &self.plain[self.read..];
        let count = kept.len().min(out.len());
        out[..count].copy_from_slice(&kept[..count]);
        self.read += count;
        if self.read == self.plain.len() {
            (self.plain, self.read) = (Vec::new(), 0);
        }
        count
    }

    /// What is to be sent.
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// So much of `outgoing` was sent.
    pub fn was_sent(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.outgoing.len() {
            (self.outgoing, self.sent) = (Vec::new(), 0);
        }
    }
}

/// Where decrypted bytes are wanted.
struct Sink<'a> {
    out: &'a mut [u8],
    filled: &'a mut usize,
}

/// Where the bytes of a turn go.
struct Outs<'a> {
    sink: Sink<'a>,
    plain: &'a mut Vec<u8>,
    outgoing: &'a mut Vec<u8>,
    closed: &'a mut bool,
}

impl Outs<'_> {
    /// Does what rustls has come to: how many bytes of records are done with, and what is next.
    fn step<D>(mut self, status: UnbufferedStatus<'_, '_, D>, say: Say<'_>) -> (usize, io::Result<Next>) {
        let UnbufferedStatus { mut discard, state } = status;
        let next = match (state, say) {
            (Err(error), _) => Err(broken(error)),
            (Ok(ConnectionState::ReadTraffic(mut traffic)), _) => {
                while let Some(Ok(record)) = traffic.next_record() {
                    discard += record.discard;
                    self.put(record.payload);
                }
                Ok(Next::Again)
            }
            (Ok(ConnectionState::EncodeTlsData(mut data)), _) => {
                self.append(0, |out| match data.encode(out) {
                    Ok(written) => Ok(written),
                    Err(EncodeError::InsufficientSize(needed)) => Err(Some(needed.required_size)),
                    Err(_) => Err(None),
                })
            }
            (Ok(ConnectionState::TransmitTlsData(data)), _) => {
                data.done();
                Ok(Next::Again)
            }
            (Ok(ConnectionState::PeerClosed), _) => {
                *self.closed = true;
                Ok(Next::Again)
            }
            (Ok(ConnectionState::WriteTraffic(mut traffic)), Say::Bytes(bytes)) => {
                let room = bytes.len() + (bytes.len() / RECORD_MAX + 1) * RECORD_OVERHEAD;
                self.append(room, |out| needed(traffic.encrypt(bytes, out))).map(|_| Next::Said)
            }
            (Ok(ConnectionState::WriteTraffic(mut traffic)), Say::Close) => self
                .append(RECORD_OVERHEAD + 2, |out| needed(traffic.queue_close_notify(out)))
                .map(|_| Next::Said),
            (Ok(ConnectionState::ReadEarlyData(_)), _) => Err(ErrorKind::InvalidData.into()),
            (Ok(_), _) => Ok(Next::Rest),
        };
        (discard, next)
    }

    /// Keeps what has no room.
    fn put(&mut self, bytes: &[u8]) {
        let room = &mut self.sink.out[*self.sink.filled..];
        let count = if self.plain.is_empty() { room.len().min(bytes.len()) } else { 0 };
        room[..count].copy_from_slice(&bytes[..count]);
        *self.sink.filled += count;
        self.plain.extend_from_slice(&bytes[count..]);
    }

    /// Appends what `write` makes, which is given `room` at first and says, when that is too little, how much it needs.
    fn append(
        &mut self,
        room: usize,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
    ) -> io::Result<Next> {
        let start = self.outgoing.len();
        let mut room = room;
        for _ in 0..2 {
            self.outgoing.resize(start + room, 0);
            match write(&mut self.outgoing[start..]) {
                Ok(written) => {
                    self.outgoing.truncate(start + written);
                    return Ok(Next::Again);
                }
                Err(Some(needed)) => room = needed,
                Err(None) => break,
            }
        }
        self.outgoing.truncate(start);
        Err(io::Error::other("TLS can encrypt no more on this connection"))
    }
}

fn needed(written: Result<usize, EncryptError>) -> Result<usize, Option<usize>> {
    written.map_err(|error| match error {
        EncryptError::InsufficientSize(needed) => Some(needed.required_size),
        EncryptError::EncryptExhausted => None,
    })
}

/// As the error of a connection.
pub fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
