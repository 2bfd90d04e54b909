//! What a new server is given, so that the session finds there what it had.

use wire::message::{backend, frontend, put_frame};

use super::Ties;

/// What makes a new server like the old one.
#[derive(PartialEq, Eq, Debug)]
pub struct Replay {
    pub bytes: Vec<u8>,
    /// ReadyForQuery messages that answer it.
    pub answers: usize,
    /// Of these, the last may come with an error: the unnamed statement need not be wanted any more.
    pub last_may_fail: bool,
}

impl Ties {
    /// What to send to a new server, once it is ready.
    pub fn replay(&self) -> Replay {
        let mut bytes = Vec::new();
        for (_, text) in &self.settings {
            put_frame(&mut bytes, frontend::QUERY, &[text, &b"\0"[..]].concat());
        }
        let mut answers = self.settings.len();
        if !self.statements.is_empty() {
            self.statements.values().for_each(|message| bytes.extend_from_slice(message));
            put_frame(&mut bytes, frontend::SYNC, &[]);
            answers += 1;
        }
        let last_may_fail = !self.unnamed.is_empty();
        if last_may_fail {
            bytes.extend_from_slice(&self.unnamed);
            put_frame(&mut bytes, frontend::SYNC, &[]);
            answers += 1;
        }
        Replay { bytes, answers, last_may_fail }
    }

    /// The new server reports these; the messages that tell the client what is different.
    pub fn adopt_parameters(&mut self, reported: Vec<(Vec<u8>, Vec<u8>)>) -> Vec<u8> {
        let mut news = Vec::new();
        for (name, value) in reported {
            if !self.parameters.contains(&(name.clone(), value.clone())) {
                let body = [&name[..], b"\0", &value, b"\0"].concat();
                put_frame(&mut news, backend::PARAMETER_STATUS, &body);
                self.parameters.retain(|(known, _)| *known != name);
                self.parameters.push((name, value));
            }
        }
        news
    }
}
