//! A connection as its worker has it: never waited for, and known to be ready or not.
//!
//! With TLS a read may be served by what was received before, and what is told as taken may not have left yet (`encrypted`).
//!
//! What it is: the edges that epoll reports, remembered until a call says that they are used up. What it is not: a buffer.
//! Invariant: a socket that is not marked readable has nothing to read, or an event for it is on its way.

mod encrypted;

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::BorrowedFd;

use crate::lane::Receiver;
use crate::tls::{Channel, Parts};

/// What is asked of epoll for each socket, once and for all.
const INTEREST: EventFlags = EventFlags::OUT.union(READING);
/// A Unix socket reports room whenever its peer has read, whether somebody waits for that or not: it is asked for when it is wanted.
const READING: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);
/// The other side sends no more, or there was an error: the next read says which.
const ENDED: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);

/// What was read and forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Discarded {
    /// More may be there.
    Some,
    /// There is nothing at present.
    Nothing,
    /// Nothing more will come.
    End,
}

#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// `None`: in clear.
    channel: Option<Box<Channel>>,
    readable: bool,
    writable: bool,
    /// What is there is the last.
    ended: bool,
    /// Room is reported.
    reports_room: bool,
    /// Nothing more will be written than what the channel still has.
    closes: bool,
}

impl Socket {
    /// Takes over a connection, which must not block, and asks `epoll` for its events under `data`.
    pub fn register(parts: Parts, epoll: BorrowedFd<'_>, data: u64) -> io::Result<Socket> {
        let Parts { socket: stream, channel, nearby } = parts;
        let interest = if nearby { READING } else { INTEREST };
        epoll::add(epoll, &stream, EventData::new_u64(data), interest)?;
        // The first event says whether there is something to read; to write there nearly always is.
        let reports_room = !nearby;
        Ok(Socket {
            stream,
            channel,
            readable: false,
            writable: true,
            ended: false,
            reports_room,
            closes: false,
        })
    }

    /// Has room reported from now on, under the same `data`, if somebody waits for it and would not hear of it.
    pub fn mind_room(&mut self, epoll: BorrowedFd<'_>, data: u64) -> io::Result<()> {
        if self.writable || self.reports_room {
            return Ok(());
        }
        self.reports_room = true;
        Ok(epoll::modify(epoll, &self.stream, EventData::new_u64(data), INTEREST)?)
    }

    /// Of the other end, and of this one.
    pub fn addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        (self.stream.peer_addr().ok(), self.stream.local_addr().ok())
    }

    /// By which TLS, as `Channel::describe`; empty in clear.
    pub fn tls(&self) -> String {
        self.channel.as_ref().map(|channel| channel.describe()).unwrap_or_default()
    }

    pub fn note(&mut self, flags: EventFlags) {
        self.ended |= flags.intersects(ENDED);
        self.readable |= self.ended || flags.contains(EventFlags::IN);
        self.writable |= self.ended || flags.contains(EventFlags::OUT);
        if self.channel.is_some() {
            // Why it fails is said by the next call.
            let _ = self.send();
        }
    }

    /// Bytes read into `buffer`; 0 at the end, `None` when there is nothing at present.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if self.channel.is_some() {
            return self.read_records(buffer);
        }
        while self.readable {
            match self.stream.read(buffer) {
                Ok(read) => {
                    // Less than there was room for is all there was; what comes later comes with an event.
                    self.readable = read == buffer.len() || self.ended;
                    return Ok(Some(read));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Reads once and forgets it.
    pub fn discard(&mut self, buffer: &mut [u8]) -> Discarded {
        match self.read(buffer) {
            Ok(Some(0)) | Err(_) => Discarded::End,
            Ok(Some(_)) => Discarded::Some,
            Ok(None) => Discarded::Nothing,
        }
    }

    /// True unless there is surely nothing to read.
    pub fn may_read(&self) -> bool {
        self.readable || self.has_unread()
    }

    /// True when the other side has sent anything, its end included, that nobody has asked for.
    pub fn has_ended(&mut self) -> bool {
        self.ended
            || self.may_read()
            || !matches!(self.stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Says that nothing more will be written.
    pub fn close_writing(&mut self) {
        self.closes = true;
        if let Some(channel) = &mut self.channel {
            channel.close();
            let _ = self.send();
            return;
        }
        // Who has gone already is noticed by reading.
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

impl Receiver for Socket {
    fn take(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.channel.is_some() {
            return self.take_records(parts);
        }
        while self.writable {
            let written = match parts {
                [part] => self.stream.write(part),
                parts => self.stream.write_vectored(parts),
            };
            match written {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => return Ok(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(0)
    }
}
