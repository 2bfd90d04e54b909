//! The bytes on the peer link, below them TLS.
//!
//! ```text
//! frame  = length: u32 big-endian, of what follows; kind: u8; payload
//! hello  = kind 0; "pgherd", version: u16, length: u8, cluster, length: u8, name
//! ```
//! The dialler says hello first, the other answers with its own, then frames of kinds 1 to 4 flow both ways. A
//! frame of an unknown kind ends the connection: what may be said is fixed by the version.

use std::io;

use anyhow::{Context, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::Channel;

/// Spoken by both or not at all; a later version will have to speak the one before it too.
pub(super) const VERSION: u16 = 1;
/// Largest payload of a frame. A Raft snapshot is the largest thing sent, and the store keeps it far below this.
pub const PAYLOAD_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Before a peer has said who it is: magic, version and two names of at most 255 bytes.
pub(super) const HELLO_BYTES_MAX: usize = 6 + 2 + 2 * 256;

const MAGIC: &[u8; 6] = b"pgherd";
const KIND_HELLO: u8 = 0;

impl Channel {
    fn kind(self) -> u8 {
        match self {
            Channel::Agent => 1,
            Channel::Raft => 2,
            Channel::Cancel => 3,
            Channel::News => 4,
        }
    }

    pub(super) fn of_kind(kind: u8) -> Option<Channel> {
        match kind {
            1 => Some(Channel::Agent),
            2 => Some(Channel::Raft),
            3 => Some(Channel::Cancel),
            4 => Some(Channel::News),
            _ => None,
        }
    }
}

/// Appends one message as a frame. `payload` is at most [`PAYLOAD_BYTES_MAX`] long, which `Link::send` sees to.
pub(super) fn put(buffer: &mut BytesMut, channel: Channel, payload: &[u8]) {
    put_kind(buffer, channel.kind(), payload);
}

fn put_kind(buffer: &mut BytesMut, kind: u8, payload: &[u8]) {
    buffer.reserve(5 + payload.len());
    buffer.put_u32(1 + payload.len() as u32);
    buffer.put_u8(kind);
    buffer.put_slice(payload);
}

/// Reads one frame of at most `payload_max` bytes of payload; nothing is allocated for a longer one.
pub(super) async fn read(
    reader: &mut (impl AsyncRead + Unpin),
    payload_max: usize,
) -> io::Result<(u8, Bytes)> {
    let length = reader.read_u32().await? as usize;
    if length == 0 || length > payload_max + 1 {
        let text = format!("a frame of {length} bytes, allowed are 1 to {}", payload_max + 1);
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let kind = reader.read_u8().await?;
    let mut payload = vec![0; length - 1];
    reader.read_exact(&mut payload).await?;
    Ok((kind, payload.into()))
}

/// What each side says of itself before anything else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Hello {
    pub version: u16,
    pub cluster: String,
    pub name: String,
}

impl Hello {
    pub fn encode(&self) -> BytesMut {
        let mut payload = BytesMut::with_capacity(HELLO_BYTES_MAX);
        payload.put_slice(MAGIC);
        payload.put_u16(self.version);
        for text in [&self.cluster, &self.name] {
            // Configuration allows 40 bytes; a longer text is cut and then simply does not match.
            let text = &text.as_bytes()[..text.len().min(255)];
            payload.put_u8(text.len() as u8);
            payload.put_slice(text);
        }
        let mut frame = BytesMut::new();
        put_kind(&mut frame, KIND_HELLO, &payload);
        frame
    }

    pub fn decode(kind: u8, payload: &[u8]) -> anyhow::Result<Hello> {
        ensure!(kind == KIND_HELLO, "it sent a frame of kind {kind} before its hello");
        let rest = payload.strip_prefix(MAGIC).context("its hello is not pgherd's")?;
        let (version, mut rest) = rest.split_first_chunk().context("its hello is cut short")?;
        let mut text = || -> anyhow::Result<String> {
            let (length, tail) = rest.split_first().context("its hello is cut short")?;
            let (text, tail) = tail.split_at_checked(*length as usize).context("its hello is cut short")?;
            rest = tail;
            Ok(std::str::from_utf8(text).context("its hello is not UTF-8")?.to_owned())
        };
        let hello = Hello { version: u16::from_be_bytes(*version), cluster: text()?, name: text()? };
        if hello.version == VERSION && !rest.is_empty() {
            bail!("its hello has {} bytes too many", rest.len());
        }
        Ok(hello)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello { version: VERSION, cluster: "demo".into(), name: "n1".into() }
    }

    #[tokio::test]
    async fn frames_come_back_as_they_went() {
        let mut buffer = BytesMut::new();
        put(&mut buffer, Channel::Agent, b"one");
        put(&mut buffer, Channel::Raft, b"");
        assert_eq!(&buffer[..8], b"\0\0\0\x04\x01one");
        let mut reader = &buffer[..];
        for (channel, payload) in [(Channel::Agent, &b"one"[..]), (Channel::Raft, b"")] {
            let (kind, read) = read(&mut reader, PAYLOAD_BYTES_MAX).await.unwrap();
            assert_eq!((Channel::of_kind(kind), &read[..]), (Some(channel), payload));
        }
        assert!(read(&mut reader, PAYLOAD_BYTES_MAX).await.is_err());
    }

    #[tokio::test]
    async fn lengths_out_of_range_are_refused_before_anything_is_allocated() {
        for bytes in [&b"\0\0\0\0"[..], b"\xff\xff\xff\xff\x01", b"\0\0\0\x09\x01"] {
            let error = read(&mut &bytes[..], 7).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
    }

    #[test]
    fn hello_comes_back_and_every_cut_is_refused() {
        let frame = hello().encode();
        let payload = &frame[5..];
        assert_eq!(Hello::decode(frame[4], payload).unwrap(), hello());
        for end in 0..payload.len() {
            assert!(Hello::decode(0, &payload[..end]).is_err(), "{end}");
        }
        assert!(Hello::decode(1, payload).is_err());
        assert!(Hello::decode(0, &[payload, b"x"].concat()).is_err());
        assert!(Hello::decode(0, b"GET / HTTP/1.1\r\n").is_err());
    }
}
