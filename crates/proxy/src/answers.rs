//! No acknowledgement that is a lie (I8): what a client may be told of each answer of its server.
//!
//! PostgreSQL ends the wait for synchronous replication early when the statement is cancelled, and then reports
//! success after a WARNING (`SyncRepWaitForLSN` in syncrep.c). The warning comes before the answer is finished, in the
//! simple protocol before CommandComplete and in the extended one at the latest before ReadyForQuery. So the error
//! takes the warning's place, and whatever follows up to ReadyForQuery is left out, as after any error.
//!
//! What it is: that exchange, and the client's wish for fewer messages, kept here because the server must not be told:
//! it has to go on sending warnings. What it is not: a way to undo a commit. Invariant: after the warning no
//! CommandComplete of that request reaches the client.

use wire::message::{Frame, Status, backend};
use wire::{Effects, ErrorFields, ErrorResponse, OnSession, Severity, Watched};

/// Fields before the routine are short but for the context, which tells a line per level of PL/pgSQL.
pub const NOTICE_HEAD_MAX: usize = 4096;

/// The function in syncrep.c that gives both warnings; the field is never translated.
const ROUTINE: &[u8] = b"SyncRepWaitForLSN";
/// Its texts, the same in 15 to 18, should a long context hide the routine.
const CANCELED: &[u8] = b"canceling wait for synchronous replication due to user request";
const TERMINATED: &[u8] =
    b"canceling the wait for synchronous replication and terminating connection due to administrator command";

/// What to do with a message of the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Pass,
    Drop,
    /// The wait was cancelled: this error instead, and nothing more until ReadyForQuery.
    Unacknowledged(Vec<u8>),
    /// The wait was ended with the connection; what closes it tells the client.
    Terminated,
    /// The server wants data that the client, which has been told an error, will not send.
    Stuck,
}

#[derive(Debug, Default)]
pub struct Answers {
    /// Until ReadyForQuery the client hears nothing.
    silent: bool,
    failed: bool,
    rolled_back: bool,
    levels: Levels,
}

/// Whether the client wants no warnings.
#[derive(Debug, Default)]
struct Levels {
    at_start: bool,
    session: bool,
    /// Asked for in the transaction under way.
    block: Option<bool>,
    local: Option<bool>,
}

impl Answers {
    pub fn new(hides_warnings: bool) -> Answers {
        let levels = Levels { at_start: hides_warnings, session: hides_warnings, ..Levels::default() };
        Answers { levels, ..Answers::default() }
    }

    /// True when the client asked for errors only.
    pub fn hides_warnings(&self) -> bool {
        self.levels.local.or(self.levels.block).unwrap_or(self.levels.session)
    }

    /// A text of the client, before it is passed on.
    pub fn client_asks(&mut self, effects: &Effects) {
        let mut named = false;
        for assignment in effects.assignments.iter().filter(|a| a.setting == Watched::ClientMinMessages) {
            named = true;
            match (assignment.is_local, assignment.is_own) {
                (_, false) => {}
                (true, true) => self.levels.local = Some(assignment.is_too_low()),
                (false, true) => self.levels.block = Some(assignment.is_too_low()),
            }
        }
        let resets = match &effects.on_session {
            OnSession::DiscardsAll => true,
            OnSession::Sets { key: None } => !named,
            OnSession::Sets { key: Some(key) } => {
                !named && (key == b"all" || key == Watched::ClientMinMessages.name().as_bytes())
            }
            _ => false,
        };
        if resets {
            self.levels.block = Some(self.levels.at_start);
        }
    }

    /// A message of the server, before it is passed on.
    pub fn server_sent(&mut self, frame: &Frame<'_>) -> Verdict {
        match frame.tag {
            backend::READY_FOR_QUERY => {
                self.silent = false;
                self.transaction_at(Status::parse(frame.head));
                Verdict::Pass
            }
            backend::NOTICE_RESPONSE => self.notice(&ErrorFields::new(frame.head)),
            backend::ERROR_RESPONSE => {
                self.failed = true;
                let fatal = ErrorFields::new(frame.head).is_fatal();
                if self.silent && !fatal { Verdict::Drop } else { Verdict::Pass }
            }
            backend::PARAMETER_STATUS | backend::NOTIFICATION => Verdict::Pass,
            backend::COPY_IN_RESPONSE | backend::COPY_BOTH_RESPONSE if self.silent => Verdict::Stuck,
            tag => {
                self.rolled_back |= tag == backend::COMMAND_COMPLETE && frame.head.starts_with(b"ROLLBACK\0");
                if self.silent { Verdict::Drop } else { Verdict::Pass }
            }
        }
    }

    fn notice(&mut self, fields: &ErrorFields<'_>) -> Verdict {
        let message = fields.message().unwrap_or_default();
        let ours = fields.get(b'R') == Some(ROUTINE) || message == CANCELED || message == TERMINATED;
        let warning = fields.get(b'V') == Some(b"WARNING");
        if ours && warning && self.silent {
            return Verdict::Drop;
        }
        if ours && warning {
            // ERRCODE_ADMIN_SHUTDOWN, as the connection ends.
            if fields.sqlstate() == Some(b"57P01") {
                return Verdict::Terminated;
            }
            self.silent = true;
            return Verdict::Unacknowledged(unacknowledged().encode());
        }
        if warning && self.hides_warnings() { Verdict::Drop } else { Verdict::Pass }
    }

    fn transaction_at(&mut self, status: Option<Status>) {
        if status == Some(Status::Idle) {
            let undone = self.failed || self.rolled_back;
            self.levels.local = None;
            match self.levels.block.take() {
                Some(hides) if !undone => self.levels.session = hides,
                _ => {}
            }
        }
        // An error inside a block is remembered by its ROLLBACK.
        (self.failed, self.rolled_back) = (false, false);
    }
}

fn unacknowledged() -> ErrorResponse {
    ErrorResponse {
        severity: Severity::Error,
        sqlstate: "08007",
        message: "transaction outcome unknown: its wait for synchronous replication was cancelled".to_owned(),
        detail: "It is committed on the primary, but too few standbys have confirmed it: a takeover now would lose \
                 it. Statements sent together with it may have taken effect as well."
            .to_owned(),
        hint: "Look whether it took effect before you repeat it. Do not cancel statements that wait for \
               replication; run \"pgherd status\" to see why standbys do not confirm."
            .to_owned(),
    }
}

#[cfg(test)]
mod tests;
