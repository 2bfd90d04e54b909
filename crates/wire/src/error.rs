//! ErrorResponse, read and written.
//!
//! What it is: the fields of PostgreSQL's error message. What it is not: a choice of SQLSTATEs; who refuses says why.

use crate::message::{backend, put_frame, split_text};

/// How grave an error is for the session that gets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// Said beside the answer; the statement goes on. Sent as NoticeResponse.
    Warning,
    /// The statement failed; the session goes on.
    Error,
    /// The session ends.
    Fatal,
}

impl Severity {
    fn text(self) -> &'static str {
        match self {
            Severity::Warning => "WARNING",
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        }
    }
}

/// An error to send; empty `detail` and `hint` are left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ErrorResponse {
    pub severity: Severity,
    pub sqlstate: &'static str,
    pub message: String,
    pub detail: String,
    pub hint: String,
}

impl ErrorResponse {
    /// The whole message, type byte included. A NUL inside a text would end it early and is left out.
    pub fn encode(&self) -> Vec<u8> {
        let severity = self.severity.text();
        let fields = [
            (b'S', severity),
            (b'V', severity),
            (b'C', self.sqlstate),
            (b'M', &self.message),
            (b'D', &self.detail),
            (b'H', &self.hint),
        ];
        let mut body = Vec::new();
        for (tag, text) in fields.into_iter().filter(|(_, text)| !text.is_empty()) {
            body.push(tag);
            body.extend(text.bytes().filter(|byte| *byte != 0));
            body.push(0);
        }
        body.push(0);
        let mut frame = Vec::with_capacity(body.len() + 5);
        let tag = match self.severity {
            Severity::Warning => backend::NOTICE_RESPONSE,
            Severity::Error | Severity::Fatal => backend::ERROR_RESPONSE,
        };
        put_frame(&mut frame, tag, &body);
        frame
    }
}

/// The fields of a received ErrorResponse or NoticeResponse; a body that was cut gives those that are whole.
#[derive(Clone, Copy, Debug)]
pub struct ErrorFields<'a> {
    body: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    pub fn new(body: &'a [u8]) -> ErrorFields<'a> {
        ErrorFields { body }
    }

    /// The field with this tag, as `PG_DIAG_*` names them.
    pub fn get(&self, tag: u8) -> Option<&'a [u8]> {
        let mut rest = self.body;
        while let Some((found, after)) = rest.split_first().filter(|(found, _)| **found != 0) {
            let (text, next) = split_text(after)?;
            if *found == tag {
                return Some(text);
            }
            rest = next;
        }
        None
    }

    pub fn sqlstate(&self) -> Option<&'a [u8]> {
        self.get(b'C')
    }

    pub fn message(&self) -> Option<&'a [u8]> {
        self.get(b'M')
    }

    /// True when the sender ends the session after it. The field V is never translated.
    pub fn is_fatal(&self) -> bool {
        matches!(self.get(b'V'), Some(b"FATAL" | b"PANIC"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    #[test]
    fn what_is_written_is_read() {
        let error = ErrorResponse {
            severity: Severity::Fatal,
            sqlstate: "57P03",
            message: "no\0 primary".to_owned(),
            detail: String::new(),
            hint: "look".to_owned(),
        };
        let frame = error.encode();
        assert_eq!(frame[0], b'E');
        assert_eq!(u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize, frame.len() - 1);
        let fields = ErrorFields::new(&frame[5..]);
        assert!(fields.is_fatal());
        assert_eq!(fields.sqlstate(), Some(&b"57P03"[..]));
        assert_eq!(fields.message(), Some(&b"no primary"[..]));
        assert_eq!(fields.get(b'D'), None);
        assert_eq!(fields.get(b'H'), Some(&b"look"[..]));
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut chance = Chance::new(5);
        for _ in 0..20_000 {
            let bytes = chance.bytes(60);
            let fields = ErrorFields::new(&bytes);
            let _ = (fields.is_fatal(), fields.sqlstate(), fields.message());
        }
    }
}
