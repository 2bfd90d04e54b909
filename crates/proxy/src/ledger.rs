//! What a session has asked and not yet been answered.
//!
//! What it is: a pure account of the frames that passed in both directions, of fixed size, so that a session that is
//! cut can be told the truth: nothing was open, the transaction is gone, or nobody knows. What it is not: a filter;
//! it changes no byte. Invariant: it errs to one side only; it may say "unknown" where nothing was committed, and
//! never "nothing was committed" where something may have been.

use std::collections::BTreeMap;

use wire::message::{Frame, Status, backend, frontend, split_text};
use wire::{Commands, ErrorFields};

use super::answers::NOTICE_HEAD_MAX;
use super::cancel::Commit;

/// Query texts are read this far; a longer one counts as "may commit", and as binding its session. So much is held
/// back at most while it comes in pieces: at 5,000 sessions that all do so at once, 80 MB.
const QUERY_HEAD_MAX: usize = 16 * 1024;
/// Names of portals and statements are at most 63 bytes long in every driver that makes them.
const NAMES_HEAD_MAX: usize = 1024;
/// Severity and SQLSTATE come far before this, and the last words of a server that shuts down end before it in every language.
const ERROR_HEAD_MAX: usize = 1024;
/// COMPLETION_TAG_BUFSIZE of PostgreSQL.
const TAG_MAX: usize = 64;
/// What a read that is asked twice is answered twice: 200 columns with names of 60 bytes.
const DESCRIPTION_HEAD_MAX: usize = 16 * 1024;
/// A name and a value; the longest of PostgreSQL's own is an application_name.
const PARAMETER_HEAD_MAX: usize = 1024;
/// Transaction commands that one session keeps prepared by name: BEGIN, COMMIT and ROLLBACK in a few spellings.
/// A session with more is taken to commit with each Execute.
const NAMED_MAX: usize = 32;

/// Bytes of a client's message body that the ledger reads.
pub fn frontend_wanted(tag: u8) -> usize {
    match tag {
        frontend::QUERY | frontend::PARSE => QUERY_HEAD_MAX,
        frontend::BIND | frontend::DESCRIBE | frontend::EXECUTE | frontend::CLOSE => NAMES_HEAD_MAX,
        _ => 0,
    }
}

/// Bytes of a server's message body that somebody here reads.
pub fn backend_wanted(tag: u8) -> usize {
    match tag {
        backend::READY_FOR_QUERY => 1,
        backend::KEY_DATA => 4 + wire::startup::CANCEL_KEY_MAX,
        backend::AUTHENTICATION => 4,
        backend::ERROR_RESPONSE => ERROR_HEAD_MAX,
        backend::NOTICE_RESPONSE => NOTICE_HEAD_MAX,
        backend::COMMAND_COMPLETE => TAG_MAX,
        backend::PARAMETER_STATUS => PARAMETER_HEAD_MAX,
        backend::ROW_DESCRIPTION | backend::PARAMETER_DESCRIPTION => DESCRIPTION_HEAD_MAX,
        _ => 0,
    }
}

/// What a client loses when its server is gone now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// The login was not finished, no transaction was open, or the client had said good-bye.
    Nothing,
    /// A transaction was open and its end had not been asked for: it is rolled back.
    OpenTransaction,
    /// Something that may have committed was asked for and its answer is lost.
    Unknown,
}

/// What an Execute of a statement does to the transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Opens,
    Commits,
    RollsBack,
    Other,
}

/// How much of each has passed since the session's start, modulo 2^32.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Passed {
    /// Requests that were answered, and of these such that left no transaction open.
    pub queries: u32,
    pub transactions: u32,
    pub client_parses: u32,
    /// Those that the proxy adds and leaves out are counted as the server sees them.
    pub server_parses: u32,
    pub binds: u32,
}

/// The account of one session.
///
/// A request is a message, or a group of messages up to Sync, that ends in one ReadyForQuery. Requests are numbered
/// from 1; number n is outstanding while `n > done`. A group that has no Sync yet is number `sent + 1`.
#[derive(Debug)]
pub struct Ledger {
    /// A replication session: its statements commit nothing.
    replication: bool,
    logged_in: bool,
    status: Status,
    sent: u64,
    done: u64,
    group_open: bool,
    group_in_transaction: bool,
    /// The last request that holds an explicit commit.
    commit_at: u64,
    /// The last request that may commit, explicitly or by standing alone.
    may_commit_at: u64,
    /// The same before the client's last message.
    may_commit_before: u64,
    /// The last simple query.
    query_at: u64,
    /// The last request that holds the end of a COPY.
    copy_ends_at: u64,
    said_good_bye: bool,
    /// The same, perhaps behind requests that are not answered yet.
    terminates: bool,
    server_was_fatal: bool,
    /// The server reads rows; until it answers, the client is needed.
    copying: bool,
    passed: Passed,
    /// What runs has committed, and nobody knows where.
    in_doubt: bool,
    unnamed: Kind,
    unnamed_portal: Kind,
    named: BTreeMap<Vec<u8>, Kind>,
    /// Names were too many or too long to know them: each Execute may be a COMMIT.
    blind: bool,
}

impl Ledger {
    pub fn new(replication: bool) -> Ledger {
        Ledger {
            replication,
            logged_in: false,
            status: Status::Idle,
            sent: 0,
            done: 0,
            group_open: false,
            group_in_transaction: false,
            commit_at: 0,
            may_commit_at: 0,
            may_commit_before: 0,
            query_at: 0,
            copy_ends_at: 0,
            said_good_bye: false,
            terminates: false,
            server_was_fatal: false,
            copying: false,
            passed: Passed::default(),
            in_doubt: false,
            unnamed: Kind::Other,
            unnamed_portal: Kind::Other,
            named: BTreeMap::new(),
            blind: false,
        }
    }

    pub fn is_replication(&self) -> bool {
        self.replication
    }

    pub fn logged_in(&self) -> bool {
        self.logged_in
    }

    /// Logged in, no transaction, nothing asked: the one state in which a session may change its server.
    pub fn idle(&self) -> bool {
        self.logged_in && !self.outstanding() && self.status == Status::Idle
    }

    /// No message of the client is needed before the server has answered: the client may be kept waiting here.
    pub fn may_pause(&self) -> bool {
        let answers_due = self.sent > self.done && !self.group_open && !self.copying;
        self.logged_in && (answers_due || self.idle())
    }

    /// Which commit is under way.
    pub fn commit(&self) -> Commit {
        if self.commit_at > self.done {
            Commit::Asked
        } else if self.may_commit_at > self.done {
            Commit::Possible
        } else {
            Commit::None
        }
    }

    /// The transaction under way has failed, as far as the server has said.
    pub fn has_failed(&self) -> bool {
        self.status == Status::Failed
    }

    pub fn passed(&self) -> &Passed {
        &self.passed
    }

    /// The server has parsed a statement, whoever asked for that.
    pub fn server_parsed(&mut self) {
        self.passed.server_parses = self.passed.server_parses.wrapping_add(1);
    }

    /// The number of the request that the server answers now, and of the one that the client's next message is of.
    pub fn running(&self) -> u64 {
        self.done + 1
    }

    pub fn next(&self) -> u64 {
        self.sent + 1
    }

    /// The server has ended a wait for standbys with the connection.
    pub fn doubt(&mut self) {
        self.in_doubt = true;
    }

    /// The client's connection ends by its own will, or the server has told why it ends.
    pub fn end_is_explained(&self) -> bool {
        self.said_good_bye || self.server_was_fatal || self.terminates && !self.outstanding()
    }

    /// `is_whole`: the client's last message is. PostgreSQL runs nothing of one whose end it has not got.
    pub fn loss(&self, is_whole: bool) -> Loss {
        let may_commit_at = if is_whole { self.may_commit_at } else { self.may_commit_before };
        if !self.logged_in || self.replication || self.said_good_bye {
            Loss::Nothing
        } else if may_commit_at > self.done || self.in_doubt {
            Loss::Unknown
        } else if self.status != Status::Idle || self.outstanding() {
            Loss::OpenTransaction
        } else {
            Loss::Nothing
        }
    }

    pub fn outstanding(&self) -> bool {
        self.sent > self.done || self.group_open
    }

    /// Known for sure to be inside a transaction block before the next request runs.
    pub fn in_transaction(&self) -> bool {
        !self.outstanding() && self.status != Status::Idle
    }

    /// A message of the client of which at least the head is there, before it is passed on.
    pub fn client_sent(&mut self, frame: &Frame<'_>) {
        if !self.logged_in {
            return;
        }
        self.may_commit_before = self.may_commit_at;
        match frame.tag {
            frontend::QUERY => self.query(frame),
            frontend::FUNCTION_CALL => {
                let stands_alone = !self.in_transaction();
                self.request();
                if stands_alone {
                    self.may_commit_at = self.sent;
                }
            }
            frontend::PARSE => {
                self.passed.client_parses = self.passed.client_parses.wrapping_add(1);
                self.parse(frame);
            }
            frontend::BIND => {
                self.passed.binds = self.passed.binds.wrapping_add(1);
                self.bind(frame);
            }
            frontend::EXECUTE => self.execute(frame),
            frontend::DESCRIBE | frontend::CLOSE => self.enter_group(),
            frontend::SYNC => self.request(),
            frontend::COPY_DONE | frontend::COPY_FAIL => self.copy_ends_at = self.sent + 1,
            frontend::TERMINATE => {
                (self.said_good_bye, self.terminates) = (!self.outstanding(), true);
            }
            // Nothing comes of these by themselves.
            frontend::FLUSH | frontend::COPY_DATA | frontend::PASSWORD => {}
            // PostgreSQL ends a session that says what it does not know: that is waited for.
            _ => self.enter_group(),
        }
    }

    /// A message of the server of which at least the head is there, before it is passed on.
    pub fn server_sent(&mut self, frame: &Frame<'_>) {
        match frame.tag {
            backend::READY_FOR_QUERY => {
                self.done = if self.logged_in { (self.done + 1).min(self.sent) } else { self.sent };
                (self.copying, self.in_doubt) = (false, false);
                self.status = Status::parse(frame.head).unwrap_or(Status::Failed);
                if self.logged_in {
                    let ended = u32::from(self.status == Status::Idle);
                    self.passed.queries = self.passed.queries.wrapping_add(1);
                    self.passed.transactions = self.passed.transactions.wrapping_add(ended);
                }
                self.logged_in = true;
            }
            backend::ERROR_RESPONSE => {
                self.copying = false;
                self.server_was_fatal = ErrorFields::new(frame.head).is_fatal();
            }
            backend::COMMAND_COMPLETE => self.copying = false,
            backend::COPY_IN_RESPONSE => self.copy_in(),
            backend::COPY_BOTH_RESPONSE => self.copying = true,
            _ => {}
        }
    }

    fn request(&mut self) {
        self.sent += 1;
        self.group_open = false;
    }

    fn query(&mut self, frame: &Frame<'_>) {
        let in_transaction = self.in_transaction();
        let sql = split_text(frame.head).map_or(frame.head, |(sql, _)| sql);
        let commands = Commands::read(sql, frame.is_cut());
        self.request();
        self.query_at = self.sent;
        if commands.commits {
            self.commit_at = self.sent;
        }
        if commands.may_commit(in_transaction, frame.is_cut()) {
            self.may_commit_at = self.sent;
        }
    }

    fn enter_group(&mut self) {
        if !self.group_open {
            self.group_in_transaction = self.in_transaction();
            self.group_open = true;
        }
    }

    fn parse(&mut self, frame: &Frame<'_>) {
        self.enter_group();
        let Some((name, rest)) = split_text(frame.head) else {
            self.blind |= frame.is_cut();
            return;
        };
        let sql = split_text(rest).map_or(rest, |(sql, _)| sql);
        let commands = Commands::read(sql, false);
        let kind = match commands {
            Commands { commits: true, .. } => Kind::Commits,
            Commands { opens: true, .. } => Kind::Opens,
            Commands { rolls_back: true, .. } => Kind::RollsBack,
            _ => Kind::Other,
        };
        if name.is_empty() {
            self.unnamed = kind;
        } else if kind == Kind::Other {
            self.named.remove(name);
        } else if self.named.len() < NAMED_MAX {
            self.named.insert(name.to_owned(), kind);
        } else {
            self.blind = true;
        }
    }

    fn bind(&mut self, frame: &Frame<'_>) {
        self.enter_group();
        let names = split_text(frame.head)
            .and_then(|(portal, rest)| split_text(rest).map(|(statement, _)| (portal, statement)));
        let Some((portal, statement)) = names else {
            self.blind |= frame.is_cut();
            return;
        };
        let kind = if statement.is_empty() {
            self.unnamed
        } else {
            self.named.get(statement).copied().unwrap_or(Kind::Other)
        };
        if portal.is_empty() {
            self.unnamed_portal = kind;
        } else {
            // A named portal of a transaction command makes no sense; nobody is served by following it.
            self.blind |= kind != Kind::Other;
        }
    }

    fn execute(&mut self, frame: &Frame<'_>) {
        self.enter_group();
        let kind = match frame.head.first() {
            _ if self.blind => Kind::Commits,
            Some(0) => self.unnamed_portal,
            _ => Kind::Other,
        };
        let number = self.sent + 1;
        match kind {
            Kind::Commits => {
                self.commit_at = number;
                self.may_commit_at = number;
                self.group_in_transaction = false;
            }
            // An error here skips the rest of the group, so what follows in it runs inside the block or not at all.
            Kind::Opens => self.group_in_transaction = true,
            Kind::RollsBack => self.group_in_transaction = false,
            Kind::Other if self.group_in_transaction => {}
            Kind::Other => self.may_commit_at = number,
        }
    }

    /// The server swallows each Sync that reaches it while it copies in, so those already sent get no answer: libpq
    /// sends one with the Execute and another after the data. A Sync sent from now on is counted; before CopyDone
    /// no driver sends one, and counting too much is the careful side. Behind an end of the data that was sent ahead none is
    /// swallowed.
    fn copy_in(&mut self) {
        self.copying = true;
        let running = self.done + 1;
        if self.query_at == running || self.sent < running {
            return;
        }
        let swallowed = match self.copy_ends_at >= running {
            true => (self.copy_ends_at - running).min(self.sent - self.done),
            false => self.sent - self.done,
        };
        let last = running + swallowed;
        let counted = |at: u64| if at <= last { at.min(running) } else { at - swallowed };
        self.sent -= swallowed;
        self.group_open |= self.sent == self.done;
        self.commit_at = counted(self.commit_at);
        self.may_commit_at = counted(self.may_commit_at);
        self.may_commit_before = counted(self.may_commit_before);
        self.query_at = counted(self.query_at);
        self.copy_ends_at = 0;
    }
}

#[cfg(test)]
mod tests;
