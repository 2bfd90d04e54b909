//! What a server is given, so that the session finds there what it had.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use wire::changes_reading;
use wire::message::{backend, frontend, put_frame};

use super::{HOT_STANDBY, Parameters, Reads, Ties};

/// What makes a new server like the old one.
#[derive(PartialEq, Eq, Debug, Default)]
pub struct Replay {
    pub bytes: Vec<u8>,
    /// ReadyForQuery messages that answer it.
    pub answers: usize,
    /// Of these, the last may come with an error: the unnamed statement need not be wanted any more.
    pub last_may_fail: bool,
}

/// Settings and named statements that lie on a server, as the messages that have put them there. Empty: it is as its log-in
/// left it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Laid(Arc<Put>);

#[derive(PartialEq, Eq, Debug, Default)]
struct Put {
    bytes: Vec<u8>,
    answers: usize,
    /// Of those settings by which texts are read.
    reads: Reads,
}

impl Laid {
    pub fn reads(&self) -> Reads {
        self.0.reads
    }

    pub fn is_empty(&self) -> bool {
        self.0.bytes.is_empty()
    }

    /// True when a server with the one is as good as one with the other.
    pub fn is_same(&self, other: &Laid) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self == other
    }
}

/// What a server of a pool is sent before its next session's own messages.
#[derive(PartialEq, Eq, Debug)]
pub struct Prelude {
    /// Its answers have not come yet.
    pub answers_due: usize,
    /// Answers that come before that to the first setting of the session.
    pub before_settings: usize,
    pub answered: usize,
    /// Settings that the server did not take, by place.
    pub refused: Vec<usize>,
    /// As the server reports them, the answers included so far.
    pub parameters: Arc<Parameters>,
}

impl Ties {
    /// What to send to a new server, once it is ready.
    pub fn replay(&mut self) -> Replay {
        let laid = self.laid();
        let mut replay =
            Replay { bytes: laid.0.bytes.clone(), answers: laid.0.answers, last_may_fail: false };
        if !self.unnamed.is_empty() {
            replay.bytes.extend_from_slice(&self.unnamed);
            put_frame(&mut replay.bytes, frontend::SYNC, &[]);
            replay.answers += 1;
            replay.last_may_fail = true;
        }
        replay
    }

    /// What the session has laid on its server, the unnamed statement aside.
    pub fn laid(&mut self) -> Laid {
        let Ties { settings, statements, laid, .. } = self;
        let laid = laid.get_or_insert_with(|| {
            let mut bytes = Vec::new();
            let mut reads = Reads::default();
            for (key, text) in settings.iter() {
                if key.as_deref().is_none_or(changes_reading) {
                    reads = Sha256::new().chain_update(reads).chain_update(text).finalize().into();
                }
                put_frame(&mut bytes, frontend::QUERY, &[text, &b"\0"[..]].concat());
            }
            let mut answers = settings.len();
            if !statements.is_empty() {
                statements.values().for_each(|message| bytes.extend_from_slice(message));
                put_frame(&mut bytes, frontend::SYNC, &[]);
                answers += 1;
            }
            Laid(Arc::new(Put { bytes, answers, reads }))
        });
        laid.clone()
    }

    /// What turns a server with `found` on it into this session's; empty when it is that already.
    pub fn transition(&mut self, found: &Laid) -> Replay {
        let own = self.laid();
        let mut replay = Replay { bytes: Vec::new(), answers: 0, last_may_fail: false };
        if own.is_same(found) {
            return replay;
        }
        if !found.is_empty() {
            // All that may lie there besides statements, which are nobody's in particular.
            put_frame(
                &mut replay.bytes,
                frontend::QUERY,
                b"SET SESSION AUTHORIZATION DEFAULT; RESET ALL; RESET ROLE\0",
            );
            replay.answers += 1;
        }
        replay.bytes.extend_from_slice(&own.0.bytes);
        replay.answers += own.0.answers;
        replay
    }

    /// The Parse of the unnamed statement; empty when there is none, or it is too long to be kept.
    pub fn unnamed(&self) -> &[u8] {
        &self.unnamed
    }

    /// What the client was told; another copy of the same may be put in its place.
    pub fn parameters(&mut self) -> &mut Arc<Parameters> {
        &mut self.parameters
    }

    /// The session's server reports these; the messages that tell the client what is different.
    pub fn adopt_parameters(&mut self, reported: Arc<Parameters>) -> Vec<u8> {
        let mut news = Vec::new();
        if Arc::ptr_eq(&self.parameters, &reported) {
            return news;
        }
        let is_told = |name: &[u8]| !self.hides_standby || name != HOT_STANDBY;
        let told = reported.iter().filter(|(name, _)| is_told(name));
        for pair in told.filter(|pair| !self.parameters.contains(pair)) {
            let body = [&pair.0[..], b"\0", &pair.1, b"\0"].concat();
            put_frame(&mut news, backend::PARAMETER_STATUS, &body);
        }
        self.parameters = reported;
        news
    }
}
