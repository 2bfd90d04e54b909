//! What a session has asked and not yet been answered.
//!
//! What it is: a pure account of the frames that passed in both directions, of fixed size, so that a session that is
//! cut can be told the truth: nothing was open, the transaction is gone, or nobody knows. What it is not: a filter;
//! it changes no byte. Invariant: it errs to one side only; it may say "unknown" where nothing was committed, and
//! never "nothing was committed" where something may have been.

use std::collections::BTreeMap;

use wire::message::{Frame, Status, backend, frontend, split_text};
use wire::{Commands, ErrorFields};

/// Query texts are read this far. Transaction commands are short; a longer text counts as "may commit".
const QUERY_HEAD_MAX: usize = 1024;
/// PostgreSQL cuts severity, SQLSTATE and friends far below this.
const ERROR_HEAD_MAX: usize = 256;
/// Transaction commands that one session keeps prepared by name: BEGIN, COMMIT and ROLLBACK in a few spellings.
/// A session with more is taken to commit with each Execute.
const NAMED_MAX: usize = 32;

/// Bytes of a client's message body that the ledger reads.
pub fn frontend_wanted(tag: u8) -> usize {
    match tag {
        frontend::QUERY | frontend::PARSE | frontend::BIND | frontend::EXECUTE => QUERY_HEAD_MAX,
        _ => 0,
    }
}

/// Bytes of a server's message body that the ledger and the cancel map read.
pub fn backend_wanted(tag: u8) -> usize {
    match tag {
        backend::READY_FOR_QUERY => 1,
        backend::KEY_DATA => 4 + wire::startup::CANCEL_KEY_MAX,
        backend::ERROR_RESPONSE => ERROR_HEAD_MAX,
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
    /// The last simple query.
    query_at: u64,
    copying_in: bool,
    said_good_bye: bool,
    server_was_fatal: bool,
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
            query_at: 0,
            copying_in: false,
            said_good_bye: false,
            server_was_fatal: false,
            unnamed: Kind::Other,
            unnamed_portal: Kind::Other,
            named: BTreeMap::new(),
            blind: false,
        }
    }

    pub fn logged_in(&self) -> bool {
        self.logged_in
    }

    /// Logged in, no transaction, nothing asked: the one state in which a session may change its server.
    pub fn idle(&self) -> bool {
        self.logged_in && !self.outstanding() && self.status == Status::Idle
    }

    /// An explicit commit is under way.
    pub fn committing(&self) -> bool {
        self.commit_at > self.done
    }

    /// The client's connection ends by its own will, or the server has told why it ends.
    pub fn end_is_explained(&self) -> bool {
        self.said_good_bye || self.server_was_fatal
    }

    pub fn loss(&self) -> Loss {
        if !self.logged_in || self.replication || self.said_good_bye {
            Loss::Nothing
        } else if self.may_commit_at > self.done {
            Loss::Unknown
        } else if self.status != Status::Idle || self.outstanding() {
            Loss::OpenTransaction
        } else {
            Loss::Nothing
        }
    }

    fn outstanding(&self) -> bool {
        self.sent > self.done || self.group_open
    }

    /// Known for sure to be inside a transaction block before the next request runs.
    fn in_transaction(&self) -> bool {
        !self.outstanding() && self.status != Status::Idle
    }

    /// A whole message of the client, before it is passed on.
    pub fn from_client(&mut self, frame: &Frame<'_>) {
        if !self.logged_in {
            return;
        }
        match frame.tag {
            frontend::QUERY => self.query(frame),
            frontend::FUNCTION_CALL => {
                let stands_alone = !self.in_transaction();
                self.request();
                if stands_alone {
                    self.may_commit_at = self.sent;
                }
            }
            frontend::PARSE => self.parse(frame),
            frontend::BIND => self.bind(frame),
            frontend::EXECUTE => self.execute(frame),
            frontend::DESCRIBE | frontend::CLOSE => self.enter_group(),
            frontend::SYNC if !self.copying_in => self.request(),
            frontend::COPY_DONE | frontend::COPY_FAIL => self.copying_in = false,
            frontend::TERMINATE => self.said_good_bye = !self.outstanding(),
            _ => {}
        }
    }

    /// A whole message of the server, before it is passed on.
    pub fn from_server(&mut self, frame: &Frame<'_>) {
        match frame.tag {
            backend::READY_FOR_QUERY => {
                self.done = if self.logged_in { (self.done + 1).min(self.sent) } else { self.sent };
                self.logged_in = true;
                self.copying_in = false;
                self.status = Status::parse(frame.head).unwrap_or(Status::Failed);
            }
            backend::ERROR_RESPONSE => {
                self.copying_in = false;
                self.server_was_fatal = ErrorFields::new(frame.head).is_fatal();
            }
            backend::COPY_IN_RESPONSE => self.copy_in(),
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

    /// The server swallows each Sync that reaches it while it copies in, so those already sent get no answer.
    fn copy_in(&mut self) {
        self.copying_in = true;
        let running = self.done + 1;
        if self.query_at != running && self.sent >= running {
            self.sent = self.done;
            self.group_open = true;
            self.commit_at = self.commit_at.min(running);
            self.may_commit_at = self.may_commit_at.min(running);
        }
    }
}

#[cfg(test)]
mod tests {
    use wire::message::{Framer, put_frame};

    use super::*;

    /// `> Q text` etc. from the client, `< Z I` from the server, checked after each step.
    struct Script {
        ledger: Ledger,
    }

    impl Script {
        fn new() -> Script {
            let mut script = Script { ledger: Ledger::new(false) };
            script.server(b'Z', b"I");
            script
        }

        fn client(&mut self, tag: u8, body: &[u8]) -> &mut Script {
            let mut bytes = Vec::new();
            put_frame(&mut bytes, tag, body);
            let mut framer = Framer::new(frontend_wanted);
            let frame = framer.next(&mut &bytes[..]).unwrap().unwrap();
            self.ledger.from_client(&frame);
            self
        }

        fn server(&mut self, tag: u8, body: &[u8]) -> &mut Script {
            let mut bytes = Vec::new();
            put_frame(&mut bytes, tag, body);
            let mut framer = Framer::new(backend_wanted);
            let frame = framer.next(&mut &bytes[..]).unwrap().unwrap();
            self.ledger.from_server(&frame);
            self
        }

        /// Parse, Bind and Execute without a name, and no Sync.
        fn extended(&mut self, sql: &str) -> &mut Script {
            self.client(b'P', format!("\0{sql}\0\0\0").as_bytes());
            self.client(b'B', b"\0\0\0\0\0\0\0\0").client(b'E', b"\0\0\0\0\0")
        }

        fn loses(&mut self, loss: Loss) -> &mut Script {
            assert_eq!(self.ledger.loss(), loss);
            self
        }
    }

    #[test]
    fn a_login_and_an_idle_session_lose_nothing() {
        assert_eq!(Ledger::new(false).loss(), Loss::Nothing);
        let mut script = Script::new();
        script.loses(Loss::Nothing);
        assert!(script.ledger.idle());
    }

    #[test]
    fn a_transaction_is_open_until_its_commit_is_sent() {
        let mut script = Script::new();
        script.client(b'Q', b"BEGIN\0").loses(Loss::OpenTransaction);
        script.server(b'Z', b"T").loses(Loss::OpenTransaction);
        script.client(b'Q', b"INSERT INTO t VALUES (1)\0").loses(Loss::OpenTransaction);
        script.server(b'Z', b"T");
        assert!(!script.ledger.committing());
        script.client(b'Q', b"COMMIT\0").loses(Loss::Unknown);
        assert!(script.ledger.committing());
        script.server(b'Z', b"I").loses(Loss::Nothing);
        assert!(!script.ledger.committing());
    }

    #[test]
    fn a_statement_outside_a_transaction_is_in_doubt_until_answered() {
        let mut script = Script::new();
        script.client(b'Q', b"INSERT INTO t VALUES (1)\0").loses(Loss::Unknown);
        assert!(!script.ledger.committing(), "it can be cancelled");
        script.server(b'C', b"INSERT 0 1\0").loses(Loss::Unknown);
        script.server(b'Z', b"I").loses(Loss::Nothing);
    }

    #[test]
    fn the_extended_protocol_is_judged_alike() {
        let mut script = Script::new();
        script.extended("BEGIN").extended("INSERT INTO t VALUES ($1)").loses(Loss::OpenTransaction);
        script.client(b'S', b"").loses(Loss::OpenTransaction);
        script.server(b'Z', b"T").extended("COMMIT").loses(Loss::Unknown);
        script.client(b'S', b"").server(b'Z', b"I").loses(Loss::Nothing);
        script.extended("INSERT INTO t VALUES ($1)").client(b'S', b"").loses(Loss::Unknown);
        script.server(b'Z', b"I").loses(Loss::Nothing);
    }

    #[test]
    fn a_prepared_commit_is_known_by_its_name() {
        let mut script = Script::new();
        script.client(b'P', b"c1\0COMMIT\0\0\0").client(b'S', b"").server(b'Z', b"I");
        script.client(b'Q', b"BEGIN\0").server(b'Z', b"T");
        script.client(b'B', b"\0c1\0\0\0\0\0\0\0").client(b'E', b"\0\0\0\0\0").loses(Loss::Unknown);
        assert!(script.ledger.committing());
        for name in 0..=NAMED_MAX {
            script.client(b'P', format!("n{name}\0COMMIT\0\0\0").as_bytes());
        }
        assert!(script.ledger.blind, "too many names to know");
        assert_eq!(script.ledger.named.len(), NAMED_MAX);
    }

    #[test]
    fn pipelined_requests_are_answered_one_by_one() {
        let mut script = Script::new();
        script.client(b'Q', b"SELECT 1\0").client(b'Q', b"BEGIN\0").client(b'Q', b"SELECT 2\0");
        script.server(b'Z', b"I").server(b'Z', b"T").loses(Loss::Unknown);
        script.server(b'Z', b"T").loses(Loss::OpenTransaction);
        script.server(b'Z', b"T").loses(Loss::OpenTransaction);
        assert_eq!(script.ledger.done, script.ledger.sent, "an answer to nothing is not counted");
    }

    #[test]
    fn syncs_swallowed_by_a_copy_leave_no_debt() {
        let mut script = Script::new();
        script.extended("COPY t FROM STDIN").client(b'S', b"");
        script.server(b'G', b"\0\0\0").client(b'd', b"1\n").client(b'S', b"").loses(Loss::Unknown);
        script.client(b'c', b"").client(b'S', b"").server(b'C', b"COPY 1\0").server(b'Z', b"I");
        script.loses(Loss::Nothing);
        assert!(script.ledger.idle());
        script.client(b'Q', b"COPY t FROM STDIN\0").server(b'G', b"\0\0\0").client(b'S', b"");
        script.client(b'c', b"").server(b'Z', b"I").loses(Loss::Nothing);
        assert!(script.ledger.idle());
    }

    #[test]
    fn long_texts_count_as_commits_but_can_be_cancelled() {
        let mut script = Script::new();
        script.client(b'Q', b"BEGIN\0").server(b'Z', b"T");
        let long = format!("INSERT INTO t VALUES ('{}')\0", "x".repeat(QUERY_HEAD_MAX));
        script.client(b'Q', long.as_bytes()).loses(Loss::Unknown);
        assert!(!script.ledger.committing());
        script.client(b'X', b"");
        assert!(!script.ledger.end_is_explained(), "an answer is still awaited");
    }
}
