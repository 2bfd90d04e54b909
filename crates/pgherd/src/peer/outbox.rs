//! What waits to be written to one connection.
//!
//! Bounded by construction, and pushing never waits: status messages push out the oldest of their kind, because
//! only the newest tells how things stand; Raft messages keep their order and the newest is refused when the queue
//! is full, because Raft repeats what got lost. Status goes first: a heartbeat must not stand behind a snapshot.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::{Channel, frame};

/// A heartbeat, its answer and what a takeover asks and answers fit in at once; older ones are news of yesterday.
pub(super) const AGENT_FRAMES_MAX: usize = 8;
pub(super) const RAFT_FRAMES_MAX: usize = 1024;
/// 1024 frames of the largest size would be 4 GiB. Eight of the largest, or 32 KiB for each of the 1024.
pub(super) const RAFT_BYTES_MAX: usize = 8 * frame::PAYLOAD_BYTES_MAX;
/// Each is some 40 bytes; who asks for more than these at once has to ask again.
pub(super) const CANCEL_FRAMES_MAX: usize = 64;
/// Written at once when this much has come together; small enough that a fresh heartbeat soon gets its turn.
const BATCH_BYTES: usize = 256 * 1024;

pub(super) struct Outbox {
    queues: Mutex<Queues>,
    news: Notify,
}

struct Queues {
    agent: VecDeque<Bytes>,
    raft: VecDeque<Bytes>,
    /// Sum of the lengths in `raft`.
    raft_bytes: usize,
    cancels: VecDeque<Bytes>,
    /// The latest alone.
    news: Option<Bytes>,
    state: State,
}

#[derive(PartialEq)]
enum State {
    Open,
    /// What is here is still written, nothing is added.
    Draining,
    /// Nothing is written any more.
    Closed,
}

impl Outbox {
    pub fn new() -> Outbox {
        Outbox {
            queues: Mutex::new(Queues {
                agent: VecDeque::new(),
                raft: VecDeque::new(),
                raft_bytes: 0,
                cancels: VecDeque::new(),
                news: None,
                state: State::Open,
            }),
            news: Notify::new(),
        }
    }

    /// Adds a message; false when it was not taken.
    pub fn push(&self, channel: Channel, payload: Bytes) -> bool {
        let mut queues = self.lock();
        if queues.state != State::Open {
            return false;
        }
        match channel {
            Channel::Agent => {
                if queues.agent.len() == AGENT_FRAMES_MAX {
                    queues.agent.pop_front();
                }
                queues.agent.push_back(payload);
            }
            Channel::Raft => {
                let bytes = queues.raft_bytes + payload.len();
                if queues.raft.len() == RAFT_FRAMES_MAX || bytes > RAFT_BYTES_MAX {
                    return false;
                }
                queues.raft_bytes = bytes;
                queues.raft.push_back(payload);
            }
            Channel::Cancel => {
                if queues.cancels.len() == CANCEL_FRAMES_MAX {
                    return false;
                }
                queues.cancels.push_back(payload);
            }
            Channel::News => queues.news = Some(payload),
        }
        drop(queues);
        self.news.notify_one();
        true
    }

    /// Waits for messages and appends them to `buffer` as frames. False when there will be no more. For one caller.
    pub async fn fill(&self, buffer: &mut BytesMut) -> bool {
        loop {
            {
                let mut queues = self.lock();
                if queues.state == State::Closed {
                    return false;
                }
                while buffer.len() < BATCH_BYTES {
                    let Some((channel, payload)) = queues.pop() else { break };
                    frame::put(buffer, channel, &payload);
                }
                if !buffer.is_empty() {
                    return true;
                }
                if queues.state == State::Draining {
                    return false;
                }
            }
            self.news.notified().await;
        }
    }

    pub fn drain(&self) {
        let mut queues = self.lock();
        if queues.state == State::Open {
            queues.state = State::Draining;
        }
        drop(queues);
        self.news.notify_one();
    }

    pub fn close(&self) {
        self.lock().state = State::Closed;
        self.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        // No code under this lock can panic half-way through a change.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    fn pop(&mut self) -> Option<(Channel, Bytes)> {
        if let Some(payload) = self.agent.pop_front() {
            return Some((Channel::Agent, payload));
        }
        if let Some(payload) = self.cancels.pop_front() {
            return Some((Channel::Cancel, payload));
        }
        if let Some(payload) = self.raft.pop_front() {
            self.raft_bytes -= payload.len();
            return Some((Channel::Raft, payload));
        }
        Some((Channel::News, self.news.take()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn drained(outbox: &Outbox) -> Vec<(Channel, Bytes)> {
        outbox.drain();
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        while outbox.fill(&mut buffer).await {
            let mut reader = &buffer[..];
            while !reader.is_empty() {
                let (kind, payload) = frame::read(&mut reader, frame::PAYLOAD_BYTES_MAX).await.unwrap();
                found.push((Channel::of_kind(kind).unwrap(), payload));
            }
            buffer.clear();
        }
        found
    }

    fn number(n: usize) -> Bytes {
        n.to_string().into()
    }

    #[tokio::test]
    async fn status_keeps_the_newest_and_goes_first() {
        let outbox = Outbox::new();
        assert!(outbox.push(Channel::Raft, number(7)));
        for n in 0..20 {
            assert!(outbox.push(Channel::Agent, number(n)));
        }
        let found = drained(&outbox).await;
        let expected: Vec<_> = (20 - AGENT_FRAMES_MAX..20)
            .map(|n| (Channel::Agent, number(n)))
            .chain([(Channel::Raft, number(7))])
            .collect();
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn raft_keeps_the_oldest_in_order_within_both_limits() {
        let outbox = Outbox::new();
        for n in 0..RAFT_FRAMES_MAX + 5 {
            assert_eq!(outbox.push(Channel::Raft, number(n)), n < RAFT_FRAMES_MAX);
        }
        let found = drained(&outbox).await;
        assert_eq!(found, (0..RAFT_FRAMES_MAX).map(|n| (Channel::Raft, number(n))).collect::<Vec<_>>());

        let outbox = Outbox::new();
        let large = Bytes::from(vec![0; frame::PAYLOAD_BYTES_MAX]);
        let taken = (0..20).filter(|_| outbox.push(Channel::Raft, large.clone())).count();
        assert_eq!(taken, RAFT_BYTES_MAX / frame::PAYLOAD_BYTES_MAX);
        assert!(outbox.push(Channel::Agent, number(1)));
    }

    #[tokio::test]
    async fn nothing_enters_or_leaves_a_closed_one() {
        let outbox = Outbox::new();
        assert!(outbox.push(Channel::Agent, number(1)));
        outbox.close();
        assert!(!outbox.push(Channel::Agent, number(2)));
        assert_eq!(drained(&outbox).await, []);
    }
}
