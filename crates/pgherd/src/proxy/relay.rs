//! Moves the bytes of one session between its client and its server.
//!
//! What it is: two lanes in one task, each read into a buffer on the stack, looked at frame by frame, and passed on
//! unchanged; a lane owns memory only while its receiver is slower than its sender. What it is not: a judge; it ends
//! and says why, the session decides what the client hears. Invariants: a byte is in the ledger before it is passed
//! on, so the ledger never knows less than the other side; no more is read while something waits to be written.
//!
//! Written over `AsyncRead + AsyncWrite`, so that a TLS stream fits in either place.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wire::message::{FrameError, Framer, backend};
use wire::startup::CancelKey;

use super::cancel::{CancelMap, Gate, Registered};
use super::ledger::{Ledger, backend_wanted, frontend_wanted};

/// One read. Linux hands out loopback data in pieces of up to 64 KiB, but four reads cost little beside the copying,
/// and the stack of a worker thread stays small.
const READ_MAX: usize = 16 * 1024;

/// Why the relay has ended.
#[derive(Debug)]
pub enum End {
    ClientLeft,
    ServerLeft,
    /// The client's bytes are no messages.
    ClientGarbled(FrameError),
    ServerGarbled(FrameError),
    /// The session is to end when idle, and is idle.
    Drained,
}

/// Bytes on their way in one direction.
#[derive(Debug)]
struct Lane {
    frames: Framer,
    /// Read and accounted for, but not yet taken by the receiver.
    waiting: Vec<u8>,
    written: usize,
    unflushed: bool,
    /// The receiver takes no more. The other lane finds out why.
    broken: bool,
}

impl Lane {
    fn new(wanted: fn(u8) -> usize) -> Lane {
        Lane { frames: Framer::new(wanted), waiting: Vec::new(), written: 0, unflushed: false, broken: false }
    }

    /// Writes what waits, then flushes.
    fn poll_write_out<W>(&mut self, receiver: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<()>>
    where
        W: AsyncWrite + Unpin,
    {
        while self.written < self.waiting.len() {
            let wrote = ready!(Pin::new(&mut *receiver).poll_write(cx, &self.waiting[self.written..]))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += wrote;
            self.unflushed = true;
        }
        if self.written > 0 {
            (self.waiting, self.written) = (Vec::new(), 0);
        }
        if self.unflushed {
            ready!(Pin::new(receiver).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Offers `bytes` to the receiver and keeps what it does not take at once.
    fn pass<W>(&mut self, mut bytes: &[u8], receiver: &mut W, cx: &mut Context<'_>)
    where
        W: AsyncWrite + Unpin,
    {
        self.unflushed = true;
        while !bytes.is_empty() {
            match Pin::new(&mut *receiver).poll_write(cx, bytes) {
                Poll::Ready(Ok(wrote @ 1..)) => bytes = &bytes[wrote..],
                // An error comes again when the rest is written.
                Poll::Ready(_) | Poll::Pending => break,
            }
        }
        self.waiting.extend_from_slice(bytes);
    }
}

/// One session between its client and its server.
#[derive(Debug)]
pub struct Relay<C, S> {
    pub client: C,
    pub server: S,
    pub ledger: Ledger,
    up: Lane,
    down: Lane,
    gate: Arc<Gate>,
    /// What the gate was told last.
    committing: bool,
    cancels: Arc<CancelMap>,
    address: Arc<str>,
    key: Option<Registered>,
    /// End as soon as the session is idle.
    pub draining: bool,
}

impl<C, S> Relay<C, S>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub fn new(client: C, server: S, ledger: Ledger, cancels: Arc<CancelMap>, address: Arc<str>) -> Self {
        Relay {
            client,
            server,
            ledger,
            up: Lane::new(frontend_wanted),
            down: Lane::new(backend_wanted),
            gate: Arc::new(Gate::default()),
            committing: false,
            cancels,
            address,
            key: None,
            draining: false,
        }
    }

    /// Takes over bytes that were read before the relay began.
    pub fn preload(&mut self, from_client: &[u8], from_server: &[u8]) -> Result<(), End> {
        self.account_server(from_server)?;
        self.account_client(from_client)?;
        self.down.waiting.extend_from_slice(from_server);
        self.up.waiting.extend_from_slice(from_client);
        Ok(())
    }

    /// Moves bytes until a side ends. May be dropped and called again at any time.
    pub async fn run(&mut self) -> End {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// Writes what the client has not taken yet. To be called only when `client_at_boundary`.
    pub async fn flush_client(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.down.poll_write_out(&mut self.client, cx)).await
    }

    /// Takes the server away, with its cancel key, so that the caller can close it first.
    pub fn without_server(self) -> (Relay<C, tokio::io::Empty>, S) {
        let Relay { client, server, ledger, up, down, gate, committing, cancels, address, draining, key: _ } =
            self;
        let rest = Relay {
            client,
            server: tokio::io::empty(),
            ledger,
            up,
            down,
            gate,
            committing,
            cancels,
            address,
            key: None,
            draining,
        };
        (rest, server)
    }

    /// True when a message may follow what the client was sent, and what still waits for it.
    pub fn client_at_boundary(&self) -> bool {
        self.down.frames.at_boundary()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        // The server's side first: what it has said may end what the client has asked.
        if let Poll::Ready(end) = self.poll_down(cx) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(end) = self.poll_up(cx) {
            return Poll::Ready(end);
        }
        let nothing_waits = self.up.waiting.is_empty() && self.down.waiting.is_empty();
        if self.draining && nothing_waits && self.ledger.idle() && self.up.frames.at_boundary() {
            return Poll::Ready(End::Drained);
        }
        Poll::Pending
    }

    // Both loops end by tokio's budget: after some reads it answers "pending" and wakes the task again, so one busy
    // session does not starve the others.

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut stack = [const { MaybeUninit::uninit() }; READ_MAX];
        loop {
            if ready!(self.down.poll_write_out(&mut self.client, cx)).is_err() {
                return Poll::Ready(End::ClientLeft);
            }
            let mut buffer = ReadBuf::uninit(&mut stack);
            let read = ready!(Pin::new(&mut self.server).poll_read(cx, &mut buffer));
            let bytes = buffer.filled();
            if read.is_err() || bytes.is_empty() {
                return Poll::Ready(End::ServerLeft);
            }
            if let Err(end) = self.account_server(bytes) {
                return Poll::Ready(end);
            }
            self.down.pass(bytes, &mut self.client, cx);
        }
    }

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut stack = [const { MaybeUninit::uninit() }; READ_MAX];
        loop {
            if self.up.broken {
                return Poll::Pending;
            }
            if self.committing && !self.up.waiting.is_empty() {
                ready!(self.gate.poll_quiet(cx));
            }
            if ready!(self.up.poll_write_out(&mut self.server, cx)).is_err() {
                // Its last words may still be on their way down.
                self.up.broken = true;
                return Poll::Pending;
            }
            let mut buffer = ReadBuf::uninit(&mut stack);
            let read = ready!(Pin::new(&mut self.client).poll_read(cx, &mut buffer));
            let bytes = buffer.filled();
            if read.is_err() || bytes.is_empty() {
                return Poll::Ready(End::ClientLeft);
            }
            if let Err(end) = self.account_client(bytes) {
                return Poll::Ready(end);
            }
            if self.committing {
                self.up.waiting.extend_from_slice(bytes);
            } else {
                self.up.pass(bytes, &mut self.server, cx);
            }
        }
    }

    fn account_client(&mut self, mut bytes: &[u8]) -> Result<(), End> {
        while let Some(frame) = self.up.frames.next(&mut bytes) {
            self.ledger.client_sent(&frame.map_err(End::ClientGarbled)?);
        }
        self.tell_gate();
        Ok(())
    }

    fn account_server(&mut self, mut bytes: &[u8]) -> Result<(), End> {
        while let Some(frame) = self.down.frames.next(&mut bytes) {
            let frame = frame.map_err(End::ServerGarbled)?;
            if frame.tag == backend::KEY_DATA
                && let Some(key) = CancelKey::parse(frame.head)
            {
                self.key = Some(self.cancels.register(key, &self.address, &self.gate));
            }
            self.ledger.server_sent(&frame);
        }
        self.tell_gate();
        Ok(())
    }

    fn tell_gate(&mut self) {
        if self.committing != self.ledger.committing() {
            self.committing = self.ledger.committing();
            self.gate.set_committing(self.committing);
        }
    }
}
