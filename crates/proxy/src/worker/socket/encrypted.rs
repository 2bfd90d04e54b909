//! A connection with TLS as its worker has it.
//!
//! Invariants: what a peer has sent is read from the channel before more is read from the socket, and the mark of the socket is
//! about records alone; more of a sender is taken only when all that was taken before has left, so a slow receiver is felt as
//! one without TLS; what has been taken leaves without being asked for, by the next event that there is room.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::Shutdown;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use super::Socket;

impl Socket {
    /// The channel has something that no event will tell of.
    pub(super) fn has_unread(&self) -> bool {
        self.channel.as_ref().is_some_and(|channel| channel.has_unread())
    }

    /// As [`Socket::read`].
    pub(super) fn read_records(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            let Some(channel) = &mut self.channel else { return Ok(None) };
            match channel.decrypt(buffer) {
                Ok(0) if channel.is_closed() => return Ok(Some(0)),
                Ok(0) => {}
                Ok(filled) => return Ok(Some(filled)),
                Err(error) => {
                    // The alert that says why.
                    let _ = self.send();
                    return Err(error);
                }
            }
            if !self.readable {
                return Ok(None);
            }
            let records = channel.incoming()?;
            let room = records.capacity() - records.len();
            let received = rustix::io::read(&self.stream, spare_capacity(records));
            channel.was_read(*received.as_ref().unwrap_or(&0));
            match received {
                // An end without a word of TLS: PostgreSQL's messages say whether it was in the middle of one.
                Ok(0) => return Ok(Some(0)),
                // Less than there was room for is all there was; what comes later comes with an event.
                Ok(read) => self.readable = read == room || self.ended,
                Err(Errno::AGAIN) => self.readable = false,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// As [`super::Receiver::take`].
    pub(super) fn take_records(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut copies = [IoSlice::new(&[]); 2];
        let parts = &parts[..parts.len().min(copies.len())];
        copies[..parts.len()].copy_from_slice(parts);
        let (mut rest, mut taken) = (&mut copies[..parts.len()], 0);
        while rest.iter().any(|part| !part.is_empty()) && self.send()? {
            let Some(channel) = &mut self.channel else { break };
            let count = channel.encrypt(rest)?;
            IoSlice::advance_slices(&mut rest, count);
            taken += count;
        }
        self.send()?;
        Ok(taken)
    }

    /// Sends what the channel has for the other side; true when nothing is left.
    pub(super) fn send(&mut self) -> io::Result<bool> {
        let Some(channel) = &mut self.channel else { return Ok(true) };
        while !channel.outgoing().is_empty() {
            if !self.writable {
                return Ok(false);
            }
            match self.stream.write(channel.outgoing()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(sent) => channel.was_sent(sent),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.closes {
            // Who has gone already is noticed by reading.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        Ok(true)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Without it the other side could not tell the end from one that somebody in the middle has made.
        if let Some(channel) = &mut self.channel {
            channel.close();
            let _ = self.send();
        }
    }
}
