//! A connection while tokio has it: plain, or with TLS from some moment on.
//!
//! What it is: the way of a `Channel`'s records through a socket of tokio, and the handshake. What it is not: what a worker has
//! (`worker::socket`), to which its parts are handed over. Invariant: no byte that came in clear is ever told as one that came
//! encrypted, since a stream reads no more than it is asked for until it has a channel.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::unistd::{Uid, User};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::certificate;
use super::channel::Channel;

/// Threads that may wait for the system's directory of users at a time, and for how long a client does.
static LOOK_UPS: Semaphore = Semaphore::const_new(4);
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// A stream that was a task's, for a thread that waits for no single one.
#[derive(Debug)]
pub struct Parts {
    pub socket: std::net::TcpStream,
    pub channel: Option<Box<Channel>>,
    /// It is a Unix socket.
    pub nearby: bool,
}

/// A connection to a client or to a server.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    channel: Option<Box<Channel>>,
    /// `tls-server-end-point` of the certificate with which the accepting side has proven who it is (RFC 5929).
    end_point: Option<Box<[u8]>>,
    nearby: bool,
}

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Stream {
        Stream { socket, channel: None, end_point: None, nearby: false }
    }
}

impl TryFrom<UnixStream> for Stream {
    type Error = io::Error;

    /// Nothing is done with a connection but what all stream sockets can, so one of another family is held by the same type.
    fn try_from(socket: UnixStream) -> io::Result<Stream> {
        let socket = std::net::TcpStream::from(OwnedFd::from(socket.into_std()?));
        Ok(Stream { nearby: true, ..Stream::from(TcpStream::from_std(socket)?) })
    }
}

impl Stream {
    pub fn is_encrypted(&self) -> bool {
        self.channel.is_some()
    }

    /// It is a Unix socket.
    pub fn is_nearby(&self) -> bool {
        self.nearby
    }

    /// To what SCRAM binds on this connection.
    pub fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }

    /// Whom the certificate names that the other side has shown, and that was verified.
    pub fn common_name(&self) -> Option<String> {
        certificate::common_name(self.channel.as_ref()?.certificates()?.first()?)
    }

    /// The operating system's user at the other end of a Unix socket; `None` when it has no name, or this is none.
    pub async fn os_user(&self) -> Option<String> {
        let uid = self
            .nearby
            .then(|| rustix::net::sockopt::socket_peercred(&self.socket))
            .and_then(Result::ok)?
            .uid;
        // The system's directory of users may be on another machine, which may hang.
        let _turn = LOOK_UPS.acquire().await.ok()?;
        let found = tokio::task::spawn_blocking(move || User::from_uid(Uid::from_raw(uid.as_raw())));
        timeout(LOOK_UP_TIMEOUT, found).await.ok()?.ok()?.ok()?.map(|user| user.name)
    }

    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// For a thread that does not wait.
    pub fn into_parts(self) -> io::Result<Parts> {
        Ok(Parts { socket: self.socket.into_std()?, channel: self.channel, nearby: self.nearby })
    }

    /// Does the handshake of `channel`, which then is this stream's. Whatever it computes, it does with a permit: the
    /// handshakes that wait for the other side have none.
    pub async fn shake(&mut self, channel: Channel, permits: &Semaphore) -> io::Result<&Channel> {
        let channel = self.channel.insert(Box::new(channel));
        loop {
            // The semaphore is never closed.
            let permit = permits.acquire().await.ok();
            let shaken = channel.shake();
            drop(permit);
            std::future::poll_fn(|cx| poll_send(&self.socket, channel, cx)).await?;
            shaken?;
            if !channel.is_handshaking() {
                return Ok(channel);
            }
            if std::future::poll_fn(|cx| poll_receive(&self.socket, channel, cx)).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    pub fn bind_to(&mut self, end_point: Option<&[u8]>) {
        self.end_point = end_point.map(Box::from);
    }
}

/// Reads records into the channel: how many bytes, 0 at the end.
fn poll_receive(socket: &TcpStream, channel: &mut Channel, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_read_ready(cx))?;
        let received = socket.try_read_buf(channel.incoming()?);
        channel.was_read(*received.as_ref().unwrap_or(&0));
        match received {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            received => return Poll::Ready(received),
        }
    }
}

/// Sends all that the channel has for the other side.
fn poll_send(socket: &TcpStream, channel: &mut Channel, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    while !channel.outgoing().is_empty() {
        ready!(socket.poll_write_ready(cx))?;
        match socket.try_write(channel.outgoing()) {
            Ok(0) => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
            Ok(sent) => channel.was_sent(sent),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
    Poll::Ready(Ok(()))
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Stream { socket, channel, .. } = self.get_mut();
        let Some(channel) = channel else { return Pin::new(socket).poll_read(cx, buf) };
        // What was said before may be what the other side waits for. Reading says why it cannot be sent.
        let _ = poll_send(socket, channel, cx);
        loop {
            let filled = channel.decrypt(buf.initialize_unfilled())?;
            buf.advance(filled);
            if filled > 0 || channel.is_closed() || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if ready!(poll_receive(socket, channel, cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Stream { socket, channel, .. } = self.get_mut();
        let Some(channel) = channel else { return Pin::new(socket).poll_write(cx, bytes) };
        ready!(poll_send(socket, channel, cx))?;
        let taken = channel.encrypt(&[IoSlice::new(bytes)])?;
        // The rest leaves when the stream is used next, or by who has its parts.
        match poll_send(socket, channel, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Stream { socket, channel, .. } = self.get_mut();
        match channel {
            Some(channel) => poll_send(socket, channel, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Stream { socket, channel, .. } = self.get_mut();
        if let Some(channel) = channel {
            channel.close();
            ready!(poll_send(socket, channel, cx))?;
        }
        Pin::new(socket).poll_shutdown(cx)
    }
}
