//! What a query text leaves behind in the session that runs it, and the two settings that a relay must watch.
//!
//! What it is: a look at the words of each statement. What it is not: a parser, and blind to what a function does
//! inside. Invariant: a statement that is not known to leave nothing behind is said to bind the session.

use std::ops::Range;

use crate::plain::is_plain;
use crate::token::{Kind, Token, Tokens};

/// Words of one statement that decide what it is: `CREATE OR REPLACE LOCAL TEMP VIEW` needs five.
const WORDS: usize = 6;

/// Statements that leave nothing in a session, whatever follows their first word.
const HARMLESS: [&str; 44] = [
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "WITH",
    "VALUES",
    "TABLE",
    "MERGE",
    "BEGIN",
    "START",
    "COMMIT",
    "END",
    "ROLLBACK",
    "ABORT",
    "SAVEPOINT",
    "RELEASE",
    "EXECUTE",
    "SHOW",
    "EXPLAIN",
    "TRUNCATE",
    "VACUUM",
    "ANALYZE",
    "ANALYSE",
    "ALTER",
    "DROP",
    "GRANT",
    "REVOKE",
    "COMMENT",
    "COPY",
    "LOCK",
    "CHECKPOINT",
    "REINDEX",
    "CLUSTER",
    "REFRESH",
    "CALL",
    "NOTIFY",
    "UNLISTEN",
    "FETCH",
    "MOVE",
    "CLOSE",
    "IMPORT",
    "SECURITY",
    "REASSIGN",
    "CREATE",
];

const TEMPORARY: &str = "a temporary table";

/// What SET and RESET call by several words, or without `=` and TO, and its key.
const SPELLED: [(&[&str], &str); 5] = [
    (&["XML", "OPTION"], "xmloption"),
    (&["TIME", "ZONE"], "timezone"),
    (&["SESSION", "AUTHORIZATION"], "session_authorization"),
    (&["NAMES"], "client_encoding"),
    (&["ROLE"], "role"),
];

/// Beginnings of settings that change neither how PostgreSQL reads a text when it prepares it, nor what a role may do:
/// limits, costs, the output, the log.
const BY_THE_WAY: [&str; 29] = [
    "statement_timeout",
    "lock_timeout",
    "idle_",
    "transaction_timeout",
    "deadlock_timeout",
    "work_mem",
    "maintenance_work_mem",
    "hash_mem_multiplier",
    "temp_",
    "application_name",
    "client_min_messages",
    "synchronous_commit",
    "extra_float_digits",
    "log_",
    "track_",
    "enable_",
    "jit",
    "random_page_cost",
    "seq_page_cost",
    "cpu_",
    "parallel_",
    "effective_",
    "max_parallel_",
    "geqo",
    "plan_cache_mode",
    "from_collapse_limit",
    "join_collapse_limit",
    "tcp_",
    "vacuum_",
];

/// Texts may be read otherwise, or roles have other rights, once the setting of this key has another value. A name with a dot
/// is an extension's or an application's own.
pub fn changes_reading(key: &[u8]) -> bool {
    !key.contains(&b'.') && !BY_THE_WAY.iter().any(|beginning| key.starts_with(beginning.as_bytes()))
}

/// A text as a whole.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effects {
    pub on_session: OnSession,
    /// Something by which texts are read, or rights are checked, is set for the transaction only.
    pub sets_locally: bool,
    /// Values given to a watched setting, in order.
    pub assignments: Vec<Assignment>,
}

/// What must be on a new server as well, so that the session finds there what it had.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum OnSession {
    #[default]
    Nothing,
    /// Nothing but SET and RESET for the session: the same text does the same again. One of a key, the name of what is set in
    /// small letters, replaces the one before; without a key it does not. RESET ALL has the key `all`.
    Sets {
        key: Option<Vec<u8>>,
    },
    /// DISCARD ALL.
    DiscardsAll,
    DeallocatesAll,
    /// DEALLOCATE of one prepared statement.
    Deallocates(Vec<u8>),
    /// Something that cannot be carried over, in words.
    Binds(&'static str),
}

/// A setting that a relay watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watched {
    ClientMinMessages,
    SynchronousCommit,
}

impl Watched {
    pub fn name(self) -> &'static str {
        match self {
            Watched::ClientMinMessages => "client_min_messages",
            Watched::SynchronousCommit => "synchronous_commit",
        }
    }

    /// True for a value of `client_min_messages` that hides warnings, or of `synchronous_commit` that waits for less
    /// than a standby's flush; also for what is no value at all.
    pub fn is_too_low(self, value: &[u8]) -> bool {
        let value = value.to_ascii_lowercase();
        let fine: &[&str] = match self {
            Watched::ClientMinMessages => &[
                "debug5", "debug4", "debug3", "debug2", "debug1", "debug", "log", "notice", "info", "warning",
            ],
            Watched::SynchronousCommit => &["on", "true", "yes", "1", "remote_apply"],
        };
        !fine.iter().any(|fine| fine.as_bytes() == value)
    }
}

/// A watched setting gets a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assignment {
    pub setting: Watched,
    /// Where the value stands in the text.
    pub place: Range<usize>,
    /// The value without quotes; `None` when it is known only when the statement runs, as `$1`.
    pub value: Option<Vec<u8>>,
    /// SET LOCAL, or set_config with `true`: for the transaction only.
    pub is_local: bool,
    /// For this session: not ALTER ROLE, DATABASE or SYSTEM.
    pub is_own: bool,
}

impl Assignment {
    pub fn is_too_low(&self) -> bool {
        self.value.as_ref().is_none_or(|value| self.setting.is_too_low(value))
    }
}

impl Effects {
    /// Reads `sql`; `is_cut` says that more text followed, which may do anything.
    pub fn read(sql: &[u8], is_cut: bool) -> Effects {
        if !is_cut && is_plain(sql) { Effects::default() } else { Effects::read_fully(sql, is_cut) }
    }

    pub(crate) fn read_fully(sql: &[u8], is_cut: bool) -> Effects {
        let mut found = Effects::default();
        let mut statement = Statement::default();
        let mut count = 0u32;
        for token in Tokens::new(sql) {
            if token.is_byte(b';') {
                found.add(&mut statement, &mut count);
            } else {
                statement.take(token, &mut found.assignments);
            }
        }
        found.add(&mut statement, &mut count);
        if is_cut {
            found.on_session = OnSession::Binds("a query text too long to be looked at");
        }
        found
    }

    fn add(&mut self, statement: &mut Statement<'_>, count: &mut u32) {
        let statement = std::mem::take(statement);
        self.sets_locally |= statement.sets_locally();
        let Some(next) = statement.on_session() else { return };
        let before = std::mem::take(&mut self.on_session);
        self.on_session = match (before, next) {
            (_, next) if *count == 0 => next,
            (before @ OnSession::Binds(_), _) => before,
            (_, next @ OnSession::Binds(_)) => next,
            (OnSession::Nothing, OnSession::Nothing) => OnSession::Nothing,
            (OnSession::Sets { .. }, OnSession::Sets { .. }) => OnSession::Sets { key: None },
            _ => OnSession::Binds("a SET, DISCARD or DEALLOCATE among other statements"),
        };
        *count += 1;
    }
}

/// One statement while its tokens come.
#[derive(Default)]
struct Statement<'a> {
    words: [Option<Token<'a>>; WORDS],
    count: usize,
    /// The last tokens, the newest last.
    last: [Option<Token<'a>>; 4],
    binds: Option<&'static str>,
    /// The name of what SET or RESET changes: tokens up to `=` or TO.
    key: Vec<u8>,
    key_is_whole: bool,
}

impl<'a> Statement<'a> {
    fn take(&mut self, token: Token<'a>, assignments: &mut Vec<Assignment>) {
        if self.count < WORDS {
            self.words[self.count] = Some(token);
        }
        self.count += 1;
        if self.is(0, "SET") || self.is(0, "RESET") {
            self.take_key(token);
        }
        self.note_assignment(token, assignments);
        let previous = |back: usize, word: &str| self.last[4 - back].is_some_and(|token| token.is(word));
        let temporary = token.is("TEMP") || token.is("TEMPORARY");
        let into =
            previous(1, "INTO") || ((previous(1, "LOCAL") || previous(1, "GLOBAL")) && previous(2, "INTO"));
        let creates = previous(1, "CREATE")
            || ((previous(1, "LOCAL") || previous(1, "GLOBAL")) && previous(2, "CREATE"));
        let hidden =
            self.is(0, "SET") && token.kind == Kind::Text && binding_name(token.plain()) == Some(TEMPORARY);
        if temporary && (into || creates) || hidden {
            self.binds = Some(TEMPORARY);
        } else if token.is("HOLD") && previous(1, "WITH") && self.is(0, "DECLARE") {
            self.binds = Some("a cursor WITH HOLD");
        } else if matches!(token.kind, Kind::Word | Kind::Quoted) {
            self.binds = self.binds.or_else(|| binding_name(token.plain()));
        }
        self.last.rotate_left(1);
        self.last[3] = Some(token);
    }

    fn is(&self, at: usize, word: &str) -> bool {
        self.words[at].is_some_and(|token| token.is(word))
    }

    fn take_key(&mut self, token: Token<'_>) {
        let skipped = self.count == 1 || (self.count == 2 && (token.is("SESSION") || token.is("LOCAL")));
        // `SET TIME ZONE 'UTC'`, `SET ROLE joe`: the name has a form of its own.
        let spelled = SPELLED.iter().find(|(words, _)| {
            let at = words.len() + 1;
            let from_first = words.iter().enumerate().all(|(n, word)| self.is(n + 1, word));
            let from_second =
                self.is(1, "SESSION") && words.iter().enumerate().all(|(n, word)| self.is(n + 2, word));
            self.count >= at && (from_first || from_second)
        });
        if let Some((_, key)) = spelled.filter(|_| !self.key_is_whole) {
            (self.key, self.key_is_whole) = (key.as_bytes().to_vec(), true);
        } else if token.is_byte(b'=') || token.is("TO") {
            self.key_is_whole = true;
        } else if !skipped && !self.key_is_whole {
            let joins = token.is_byte(b'.') || self.key.ends_with(b".");
            if !self.key.is_empty() && !joins {
                self.key.push(b' ');
            }
            self.key.extend(token.plain().iter().map(u8::to_ascii_lowercase));
        }
    }

    fn sets_locally(&self) -> bool {
        self.is(0, "SET") && self.is(1, "LOCAL") && changes_reading(&self.key)
    }

    /// `name = value`, `name TO value`, and `set_config('name', 'value', …)`.
    fn note_assignment(&mut self, token: Token<'_>, assignments: &mut Vec<Assignment>) {
        let [first, second, third, fourth] = self.last;
        let sets = self.is(0, "SET");
        let alters =
            self.is(0, "ALTER") && ["ROLE", "USER", "DATABASE", "SYSTEM"].iter().any(|what| self.is(1, what));
        let assigned = fourth.is_some_and(|token| token.is_byte(b'=') || token.is("TO"));
        let (name, is_local, is_own) = if assigned && (sets || alters) {
            (third.map(|name| (name, false)), self.is(1, "LOCAL"), sets)
        } else {
            let called = first.is_some_and(|token| token.names("set_config"))
                && second.is_some_and(|token| token.is_byte(b'('))
                && fourth.is_some_and(|token| token.is_byte(b','));
            // The third argument comes later; whether it says `true` matters little.
            (third.filter(|_| called).map(|name| (name, true)), false, true)
        };
        let Some((name, in_text)) = name else { return };
        let names = |setting: &Watched| match in_text {
            true => name.kind == Kind::Text && name.plain().eq_ignore_ascii_case(setting.name().as_bytes()),
            false => name.names(setting.name()),
        };
        let settings = [Watched::ClientMinMessages, Watched::SynchronousCommit];
        let Some(setting) = settings.into_iter().find(names) else { return };
        // What RESET would give is the server's or the role's, and looked at where those are set.
        if !in_text && token.is("DEFAULT") {
            return;
        }
        let known = match token.kind {
            Kind::Text => true,
            Kind::Word | Kind::Quoted => !in_text,
            Kind::Byte(_) => false,
        };
        assignments.push(Assignment {
            setting,
            place: token.range(),
            value: known.then(|| token.plain().to_vec()),
            is_local,
            is_own,
        });
    }

    /// `None` for no statement at all.
    fn on_session(self) -> Option<OnSession> {
        let first = self.words[0]?;
        let is = |at: usize, word: &str| self.is(at, word);
        let temporary = || (1..5).any(|at| is(at, "TEMP") || is(at, "TEMPORARY"));
        let sets = |key: Vec<u8>| match &key[..] {
            // The next random numbers are what it sets.
            b"seed" => OnSession::Binds("setseed"),
            _ => OnSession::Sets { key: Some(key) },
        };
        Some(match self.binds {
            Some(binds) => OnSession::Binds(binds),
            None if is(0, "SET") => match self.words[1] {
                Some(word) if ["LOCAL", "TRANSACTION", "CONSTRAINTS"].iter().any(|local| word.is(local)) => {
                    OnSession::Nothing
                }
                _ => sets(self.key),
            },
            None if is(0, "RESET") => sets(self.key),
            None if is(0, "DISCARD") && is(1, "ALL") => OnSession::DiscardsAll,
            None if is(0, "DISCARD") => OnSession::Nothing,
            None if is(0, "DEALLOCATE") => self.deallocates(),
            None if is(0, "CREATE") && temporary() => OnSession::Binds(TEMPORARY),
            None if is(0, "PREPARE") && is(1, "TRANSACTION") => OnSession::Nothing,
            None if is(0, "PREPARE") => OnSession::Binds("PREPARE in SQL"),
            None if is(0, "LISTEN") => OnSession::Binds("LISTEN"),
            None if is(0, "LOAD") => OnSession::Binds("LOAD"),
            None if is(0, "DO") => OnSession::Binds("a DO block"),
            // Without HOLD a cursor ends with its transaction.
            None if is(0, "DECLARE") => OnSession::Nothing,
            None if first.is_byte(b'(') => OnSession::Nothing,
            None if HARMLESS.iter().any(|word| first.is(word)) => OnSession::Nothing,
            None => OnSession::Binds("a statement that pgherd does not know"),
        })
    }

    fn deallocates(&self) -> OnSession {
        let at = if self.is(1, "PREPARE") { 2 } else { 1 };
        match self.words[at] {
            Some(token) if token.is("ALL") => OnSession::DeallocatesAll,
            Some(token) if token.kind == Kind::Word => OnSession::Deallocates(token.raw.to_ascii_lowercase()),
            Some(token) => OnSession::Deallocates(token.plain().to_vec()),
            None => OnSession::Nothing,
        }
    }
}

/// Functions and schemas whose use leaves something in the session.
fn binding_name(name: &[u8]) -> Option<&'static str> {
    // Most names end here: the first letters of those below.
    if name.len() < 7 || !matches!(name[0] | 0x20, b'p' | b's' | b'c' | b'l' | b'd') {
        return None;
    }
    let name = name.to_ascii_lowercase();
    let starts = |prefix: &str| name.starts_with(prefix.as_bytes());
    let holds = |part: &str| name.windows(part.len()).any(|window| window == part.as_bytes());
    match &name[..] {
        b"set_config" | b"pg_settings" => Some("set_config"),
        b"setseed" => Some("setseed"),
        b"currval" | b"lastval" => Some("currval or lastval"),
        _ if (starts("pg_advisory_") || starts("pg_try_advisory_")) && !holds("_xact_") => {
            Some("an advisory lock of the session")
        }
        _ if starts("pg_temp") => Some(TEMPORARY),
        _ if starts("dblink_connect") => Some("a connection of dblink"),
        _ if starts("pg_replication_origin_session") => Some("a replication origin"),
        _ if starts("pg_create_") && holds("_slot") => Some("a replication slot made by SQL"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
