//! What binds a session to its server, and what can be laid into a new one in its place.
//!
//! What it is: an account of the state that the session's statements have left behind: settings and prepared
//! statements, kept as the client sent them, within limits; anything else that is or may be left makes the session
//! unfit to be moved. What it is not: complete; state that a function makes inside, unseen in the text that calls it,
//! is not known. Invariant: in doubt the session is bound.

mod replay;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rand::random;
use sha2::{Digest, Sha256};
use wire::message::{Frame, Status, backend, frontend, split_text};
use wire::{Effects, OnSession, changes_reading};

use super::ledger::Ledger;
use super::policy;
pub use replay::{Laid, Prelude, Replay};

/// What a server reports of its settings: names and values.
pub type Parameters = Vec<(Vec<u8>, Vec<u8>)>;

/// How a server reads texts: a digest of all that was set.
pub type Reads = [u8; 32];

/// Bytes of settings and prepared statements that one session may have us keep. A driver's cache of 256 statements
/// of 250 bytes fits; at 5,000 sessions that all use it up, 320 MB.
const KEPT_BYTES_MAX: usize = 64 * 1024;
/// Messages whose answers are awaited, in one pipeline.
const PENDING_MAX: usize = 512;
/// PostgreSQL reports 15 parameters; extensions may add some.
const PARAMETERS_MAX: usize = 64;
/// Encodings in which a byte below 0x80 may be a part of a character, a quote for instance.
const UNSAFE_ENCODINGS: [&[u8]; 7] =
    [b"SJIS", b"SHIFT_JIS_2004", b"BIG5", b"GBK", b"UHC", b"GB18030", b"JOHAB"];

/// Settings by which PostgreSQL reads the literals of a text when it is prepared. That of `search_path` is not one of them: when it
/// has changed, PostgreSQL itself reads prepared texts again.
const READING: [&[u8]; 9] = [
    b"datestyle",
    b"intervalstyle",
    b"timezone",
    b"client_encoding",
    b"xmloption",
    b"array_nulls",
    b"timezone_abbreviations",
    b"lc_monetary",
    b"transform_null_equals",
];

/// What PostgreSQL 14 and later reports of the kind of server.
const HOT_STANDBY: &[u8] = b"in_hot_standby";

/// Keys of settings that are kept by rules of their own.
const ALL: &[u8] = b"all";
const ROLE: &[u8] = b"role";
const AUTHORIZATION: &[u8] = b"session_authorization";
const DATE_STYLE: &[u8] = b"datestyle";
const ENCODING: &[u8] = b"client_encoding";

#[derive(Debug, Default)]
pub struct Ties {
    /// The server let the client in without asking for a secret.
    logs_in_alone: bool,
    asked: bool,
    bound: Option<&'static str>,
    /// Why it was bound since a DISCARD ALL was sent that is not answered yet.
    bound_since: Option<&'static str>,
    /// The request whose Parse made the unnamed statement one that sets, discards or deallocates.
    unnamed_sets: Option<u64>,
    /// The last Bind was of the unnamed statement.
    binds_unnamed: bool,
    replication: bool,
    /// Which kind of server it has now is not for the client to know.
    hides_standby: bool,
    /// Named statements are somebody else's to keep (`shares`).
    leaves_statements: bool,
    /// Texts of SET and RESET by what they set, in the order in which they are to be run.
    settings: Vec<(Option<Vec<u8>>, Vec<u8>)>,
    /// Parse messages by name.
    statements: BTreeMap<Vec<u8>, Vec<u8>>,
    kept_bytes: usize,
    /// The last Parse without a name; empty when there is none.
    unnamed: Vec<u8>,
    unnamed_too_long: bool,
    pending: VecDeque<Pending>,
    /// Settings of the transaction under way.
    in_block: Vec<(Option<Vec<u8>>, Vec<u8>)>,
    /// A setting by which texts are read has changed, and nobody has asked yet.
    read_anew: bool,
    in_block_bytes: usize,
    /// Everything that has changed how texts are read in the transaction under way, in its order.
    in_transaction: Option<Reads>,
    failed: bool,
    committed: bool,
    rolled_back: bool,
    /// Parse and Close messages of the group that the client is sending.
    sent: Counts,
    /// Their answers, so far.
    answered: Counts,
    /// As the client has been told. Shared with servers that report the same.
    parameters: Arc<Parameters>,
    /// Settings and named statements as a server is given them, until they change.
    laid: Option<Laid>,
}

#[derive(Debug, Default)]
struct Counts {
    parses: u32,
    closes: u32,
}

/// An effect that its answer decides.
#[derive(Debug)]
struct Pending {
    request: u64,
    effect: Effect,
}

#[derive(Debug)]
enum Effect {
    /// The `n`th Parse of its request.
    Prepares {
        n: u32,
        name: Vec<u8>,
        message: Vec<u8>,
    },
    /// The `n`th Close of its request.
    Closes {
        n: u32,
        name: Vec<u8>,
    },
    Sets {
        key: Option<Vec<u8>>,
        text: Vec<u8>,
        executed: bool,
    },
    /// A text that sets something for the transaction only.
    SetsLocally {
        text: Vec<u8>,
    },
    Discards {
        executed: bool,
    },
    DeallocatesAll {
        executed: bool,
    },
    Deallocates {
        name: Vec<u8>,
        executed: bool,
    },
}

impl Ties {
    pub fn new(replication: bool) -> Ties {
        Ties { replication, ..Ties::default() }
    }

    pub fn leave_statements(&mut self) {
        self.leaves_statements = true;
    }

    /// Its servers are primaries and standbys, by turns.
    pub fn hide_standby(&mut self) {
        self.hides_standby = true;
    }

    /// The text of the SET by which the session has given a value to the setting `key`, in small letters.
    pub fn setting(&self, key: &[u8]) -> Option<&[u8]> {
        self.settings.iter().find(|(known, _)| known.as_deref() == Some(key)).map(|(_, text)| &text[..])
    }

    /// True while there is a use in keeping what could be replayed.
    fn keeps(&self) -> bool {
        self.bound().is_none()
    }

    /// Why the session cannot be moved; `None` when it can, at a boundary.
    pub fn bound(&self) -> Option<&'static str> {
        if !self.logs_in_alone {
            Some("a login with a secret that only the client has")
        } else if self.replication {
            Some("a replication connection")
        } else if self.unnamed_too_long {
            Some("a statement too long to be kept")
        } else {
            self.bound
        }
    }

    fn bind(&mut self, why: &'static str) {
        self.bound.get_or_insert(why);
        if self.pending.iter().any(|pending| matches!(pending.effect, Effect::Discards { .. })) {
            self.bound_since.get_or_insert(why);
        }
        self.laid = None;
        // It stays so for good, or until DISCARD ALL: nothing need be kept.
        self.settings = Vec::new();
        self.statements = BTreeMap::new();
        self.kept_bytes = 0;
        (self.in_block, self.in_block_bytes) = (Vec::new(), 0);
        self.pending.retain(|pending| matches!(pending.effect, Effect::Discards { .. }));
    }

    /// A message of the client as the server gets it, before the ledger knows of it. `effects` are those of its text.
    pub fn client_sent(&mut self, frame: &Frame<'_>, effects: Option<&Effects>, ledger: &Ledger) {
        if !ledger.logged_in() {
            return;
        }
        match frame.tag {
            frontend::QUERY => {
                self.sent = Counts::default();
                self.forget_unnamed();
                self.text(frame, effects, ledger, true);
            }
            frontend::PARSE => self.parse(frame, effects, ledger),
            frontend::BIND => self.binds(frame, ledger.next()),
            frontend::EXECUTE => self.executes(ledger.next()),
            frontend::CLOSE => self.close(frame, ledger),
            frontend::SYNC => self.sent = Counts::default(),
            frontend::FUNCTION_CALL => {
                self.sent = Counts::default();
                self.bind("a function called without SQL");
            }
            _ => {}
        }
    }

    /// A statement that sets something and is run once more is not looked at again.
    fn binds(&mut self, frame: &Frame<'_>, request: u64) {
        let names = split_text(frame.head).and_then(|(_, rest)| split_text(rest));
        self.binds_unnamed = names.is_some_and(|(statement, _)| statement.is_empty());
        if self.binds_unnamed && self.unnamed_sets.is_some_and(|parsed| parsed != request) {
            self.bind("a SET, DISCARD or DEALLOCATE that is run again");
        }
    }

    /// A prepared statement goes to the server under the client's own name.
    pub fn bind_by_name(&mut self) {
        self.bind("a prepared statement that cannot be shared");
    }

    /// Statements that are prepared were read in another way than they would be on another server.
    pub fn bind_by_reading(&mut self) {
        self.bind("prepared statements from before a SET that changes how texts are read");
    }

    pub fn take_read_anew(&mut self) -> bool {
        std::mem::take(&mut self.read_anew)
    }

    /// Settings that a server did not take, by place, in ascending order: the session has them no more.
    pub fn forget_settings(&mut self, places: &[usize]) {
        for place in places.iter().rev() {
            if *place < self.settings.len() {
                let (key, text) = self.settings.remove(*place);
                self.kept_bytes -= key.as_ref().map_or(0, Vec::len) + text.len();
            }
        }
        self.laid = None;
    }

    fn forget_unnamed(&mut self) {
        self.unnamed_sets = None;
        self.unnamed.clear();
        self.unnamed_too_long = false;
    }

    fn text(&mut self, frame: &Frame<'_>, effects: Option<&Effects>, ledger: &Ledger, executed: bool) {
        let Some((_, sql, _)) = policy::sql(frame) else { return self.bind("an unreadable message") };
        if effects.is_some_and(|effects| effects.sets_locally) {
            self.push(ledger.next(), Effect::SetsLocally { text: sql.to_owned() });
        }
        let effect = match effects.map(|effects| &effects.on_session) {
            None => return self.bind("an unreadable message"),
            Some(OnSession::Nothing) => return,
            Some(OnSession::Binds(why)) => return self.bind(why),
            Some(OnSession::Sets { key }) => {
                Effect::Sets { key: key.clone(), text: sql.to_owned(), executed }
            }
            Some(OnSession::DiscardsAll) => Effect::Discards { executed },
            Some(OnSession::DeallocatesAll) => Effect::DeallocatesAll { executed },
            Some(OnSession::Deallocates(name)) => Effect::Deallocates { name: name.clone(), executed },
        };
        self.push(ledger.next(), effect);
    }

    fn push(&mut self, request: u64, effect: Effect) {
        if self.pending.len() >= PENDING_MAX {
            self.pending.clear();
            return self.bind("a pipeline too long to be followed");
        }
        if self.keeps() || matches!(effect, Effect::Discards { .. }) {
            self.pending.push_back(Pending { request, effect });
        }
    }

    fn parse(&mut self, frame: &Frame<'_>, effects: Option<&Effects>, ledger: &Ledger) {
        self.sent.parses += 1;
        let Some((name, _)) = split_text(frame.head) else { return self.bind("an unreadable message") };
        if name.is_empty() {
            self.forget_unnamed();
            if self.keeps() && !frame.is_cut() {
                self.unnamed.extend_from_slice(frame.bytes);
            }
            self.unnamed_too_long = frame.is_cut();
            let sets = effects
                .is_some_and(|effects| effects.on_session != OnSession::Nothing || effects.sets_locally);
            self.unnamed_sets = sets.then(|| ledger.next());
            self.text(frame, effects, ledger, false);
            if !self.keeps() {
                // The server has this one itself, if any does.
                self.unnamed = Vec::new();
            }
            return;
        }
        if effects.is_some_and(|effects| effects.sets_locally) {
            return self.bind("a prepared SET LOCAL");
        }
        match effects.map(|effects| &effects.on_session) {
            Some(OnSession::Nothing) if !frame.is_cut() => {
                if self.keeps() && !self.leaves_statements {
                    let (name, message) = (name.to_owned(), frame.bytes.to_owned());
                    self.push(ledger.next(), Effect::Prepares { n: self.sent.parses, name, message });
                }
            }
            Some(OnSession::Binds(why)) => self.bind(why),
            Some(OnSession::Nothing) => self.bind("a statement too long to be kept"),
            _ => self.bind("a prepared SET, DISCARD or DEALLOCATE"),
        }
    }

    fn executes(&mut self, request: u64) {
        if !self.binds_unnamed {
            return;
        }
        for pending in self.pending.iter_mut().rev().take_while(|pending| pending.request == request) {
            match &mut pending.effect {
                Effect::Sets { executed, .. }
                | Effect::Discards { executed }
                | Effect::DeallocatesAll { executed }
                | Effect::Deallocates { executed, .. } => *executed = true,
                Effect::SetsLocally { .. } | Effect::Prepares { .. } | Effect::Closes { .. } => {}
            }
        }
    }

    fn close(&mut self, frame: &Frame<'_>, ledger: &Ledger) {
        self.sent.closes += 1;
        match frame.head {
            [b'S', name @ .., 0] if !name.is_empty() && !self.leaves_statements => {
                let effect = Effect::Closes { n: self.sent.closes, name: name.to_owned() };
                self.push(ledger.next(), effect);
            }
            [b'S', 0] => self.forget_unnamed(),
            _ => {}
        }
    }

    /// A message of the server, after the ledger knows of it. `request` is the one that it answers.
    pub fn server_sent(&mut self, frame: &Frame<'_>, request: u64) {
        match frame.tag {
            backend::AUTHENTICATION if !self.asked => {
                self.asked = true;
                self.logs_in_alone = frame.head == [0; 4];
            }
            backend::PARAMETER_STATUS => self.parameter(frame),
            backend::PARSE_COMPLETE => {
                self.answered.parses += 1;
                self.answer(request);
            }
            backend::CLOSE_COMPLETE => {
                self.answered.closes += 1;
                self.answer(request);
            }
            backend::ERROR_RESPONSE => self.failed = true,
            backend::COMMAND_COMPLETE => {
                self.committed |= frame.head.starts_with(b"COMMIT\0");
                self.rolled_back |= frame.head.starts_with(b"ROLLBACK\0");
            }
            backend::READY_FOR_QUERY => self.ready(request, Status::parse(frame.head)),
            _ => {}
        }
    }

    fn parameter(&mut self, frame: &Frame<'_>) {
        let Some((name, value)) = reported(frame.head) else {
            return self.bind("a parameter too long to be kept");
        };
        if let Some(why) = unsafe_parameter(name, value) {
            self.bind(why);
        }
        if !note_parameter(&mut self.parameters, name, value) {
            self.bind("more parameters than are kept");
        }
    }

    /// A Parse or Close has succeeded: the one with that number, if it has a name.
    fn answer(&mut self, request: u64) {
        let done = match self.pending.front() {
            Some(Pending { request: of, effect: Effect::Prepares { n, .. } }) => {
                *of == request && *n == self.answered.parses
            }
            Some(Pending { request: of, effect: Effect::Closes { n, .. } }) => {
                *of == request && *n == self.answered.closes
            }
            _ => false,
        };
        if !done {
            return;
        }
        match self.pending.pop_front().map(|pending| pending.effect) {
            Some(Effect::Prepares { name, message, .. }) => self.keep_statement(name, message),
            Some(Effect::Closes { name, .. }) => self.drop_statement(&name),
            _ => {}
        }
    }

    fn keep_statement(&mut self, name: Vec<u8>, message: Vec<u8>) {
        self.drop_statement(&name);
        self.laid = None;
        self.kept_bytes += name.len() + message.len();
        self.statements.insert(name, message);
        self.check_limit();
    }

    fn drop_statement(&mut self, name: &[u8]) {
        if let Some(message) = self.statements.remove(name) {
            self.laid = None;
            self.kept_bytes -= name.len() + message.len();
        }
    }

    fn check_limit(&mut self) {
        if self.kept_bytes > KEPT_BYTES_MAX {
            self.bind("more prepared statements and settings than are kept");
        }
    }

    /// `request` is answered.
    fn ready(&mut self, request: u64, status: Option<Status>) {
        let failed = std::mem::take(&mut self.failed);
        let committed = std::mem::take(&mut self.committed);
        let rolled_back = std::mem::take(&mut self.rolled_back);
        self.answered = Counts::default();
        // Part of what failed may have been committed before.
        let mut unsure = failed && committed && !self.in_block.is_empty();
        let (ends, before) = (status == Some(Status::Idle), (self.in_block.len(), self.in_transaction));
        while self.pending.front().is_some_and(|pending| pending.request <= request) {
            match self.pending.pop_front().map(|pending| pending.effect) {
                Some(effect) if !failed => self.done(effect),
                // Perhaps it was done, and a savepoint behind it keeps it.
                Some(effect @ (Effect::Sets { executed: true, .. } | Effect::SetsLocally { .. }))
                    if !ends =>
                {
                    unsure |= committed;
                    self.done(effect);
                }
                Some(Effect::Sets { executed: true, .. }) => unsure |= committed,
                // It commits by itself; what failed may have come behind it.
                Some(Effect::Discards { executed: true }) => unsure = true,
                _ => {}
            }
        }
        // What was set behind a ROLLBACK is not rolled back.
        let set_now = before != (self.in_block.len(), self.in_transaction);
        if unsure || rolled_back && (committed && !self.in_block.is_empty() || set_now) {
            self.bind("a SET or DISCARD in a request that was committed in part");
        }
        if status == Some(Status::Idle) {
            self.in_transaction = None;
            self.in_block_bytes = 0;
            let settings = std::mem::take(&mut self.in_block);
            if !failed && !rolled_back {
                settings.into_iter().for_each(|(key, text)| self.keep_setting(key, text));
            }
        } else if committed || rolled_back {
            if !self.in_block.is_empty() {
                self.bind("a SET in a transaction with savepoints or AND CHAIN");
            }
            if self.in_transaction.is_some() {
                // What of it is left is nobody's to know: nobody else reads texts so.
                self.note_reading(&random::<[u8; 16]>());
            }
        }
    }

    /// Its request has succeeded. Parse and Close have answers of their own, which did not come.
    fn done(&mut self, effect: Effect) {
        match effect {
            Effect::Sets { key, text, executed: true } => {
                if key.as_deref().is_none_or(changes_reading) {
                    self.note_reading(&text);
                }
                self.in_block_bytes += text.len();
                self.in_block.push((key, text));
                if self.in_block_bytes > KEPT_BYTES_MAX {
                    self.bind("more settings in a transaction than are kept");
                }
            }
            Effect::SetsLocally { text } => self.note_reading(&text),
            Effect::Discards { executed: true } => {
                let parameters = std::mem::take(&mut self.parameters);
                let pending = std::mem::take(&mut self.pending);
                let fresh = Ties {
                    logs_in_alone: self.logs_in_alone,
                    asked: true,
                    parameters,
                    pending,
                    replication: self.replication,
                    leaves_statements: self.leaves_statements,
                    hides_standby: self.hides_standby,
                    bound_since: self.bound_since,
                    unnamed: std::mem::take(&mut self.unnamed),
                    unnamed_too_long: self.unnamed_too_long,
                    unnamed_sets: self.unnamed_sets,
                    binds_unnamed: self.binds_unnamed,
                    sent: std::mem::take(&mut self.sent),
                    ..Ties::default()
                };
                *self = fresh;
                let mut parameters = self.parameters.iter();
                let unsafe_now = parameters.find_map(|(name, value)| unsafe_parameter(name, value));
                self.bound = unsafe_now.or(self.bound_since);
                if !self.pending.iter().any(|pending| matches!(pending.effect, Effect::Discards { .. })) {
                    self.bound_since = None;
                }
            }
            Effect::DeallocatesAll { executed: true } => {
                let bytes: usize =
                    self.statements.iter().map(|(name, message)| name.len() + message.len()).sum();
                self.kept_bytes -= bytes;
                self.statements.clear();
                self.laid = None;
            }
            Effect::Deallocates { name, executed: true } => self.drop_statement(&name),
            Effect::Sets { .. }
            | Effect::Discards { .. }
            | Effect::DeallocatesAll { .. }
            | Effect::Deallocates { .. } => self.bind("a SET, DISCARD or DEALLOCATE parsed apart"),
            Effect::Prepares { .. } | Effect::Closes { .. } => {}
        }
    }

    fn keep_setting(&mut self, key: Option<Vec<u8>>, text: Vec<u8>) {
        self.laid = None;
        match key.as_deref() {
            Some(ALL) => {
                self.read_anew = true;
                // These two are not settings to RESET ALL.
                return self.drop_settings(|key, _| !matches!(key, Some(ROLE | AUTHORIZATION)));
            }
            // Whoever becomes somebody else has that one's role at first.
            Some(AUTHORIZATION) => self.drop_settings(|key, _| matches!(key, Some(ROLE | AUTHORIZATION))),
            Some(name) => self.drop_settings(|key, _| key == Some(name)),
            None => self.drop_settings(|key, known| key.is_none() && known == text),
        }
        // Of its two parts a SET may name one; the server reports both.
        let text = match key.as_deref().filter(|key| *key == DATE_STYLE).and_then(|_| self.date_style()) {
            Some(both) => both,
            None => text,
        };
        self.kept_bytes += key.as_ref().map_or(0, Vec::len) + text.len();
        self.settings.push((key, text));
        let by = self.settings.last().and_then(|(key, _)| key.as_deref());
        self.read_anew |= by.is_none_or(|key| READING.contains(&key));
        let has = |name: &[u8]| self.settings.iter().any(|(key, _)| key.as_deref() == Some(name));
        if has(ENCODING) && self.settings.iter().any(|(_, text)| !text.is_ascii()) {
            return self.bind("a SET with characters beyond ASCII, and another client_encoding");
        }
        self.check_limit();
    }

    fn date_style(&self) -> Option<Vec<u8>> {
        let (_, value) = self.parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(DATE_STYLE))?;
        Some([b"SET DateStyle = '", &value[..], b"'"].concat())
    }

    /// Drops those settings of which key and text are so.
    fn drop_settings(&mut self, is_meant: impl Fn(Option<&[u8]>, &[u8]) -> bool) {
        let mut dropped = 0;
        self.settings.retain(|(key, text)| {
            let goes = is_meant(key.as_deref(), text);
            dropped += if goes { key.as_ref().map_or(0, Vec::len) + text.len() } else { 0 };
            !goes
        });
        self.kept_bytes -= dropped;
    }

    /// Who the session is on its server is not who has logged in.
    pub fn is_somebody_else(&self) -> bool {
        self.settings.iter().any(|(key, _)| matches!(key.as_deref(), Some(ROLE | AUTHORIZATION)))
    }

    fn note_reading(&mut self, text: &[u8]) {
        let before = self.in_transaction.unwrap_or_default();
        self.in_transaction = Some(Sha256::new().chain_update(before).chain_update(text).finalize().into());
    }

    /// How the server reads texts now: by settings, and by what the transaction under way has added. Two sessions with the
    /// same read the same.
    pub fn reads(&mut self) -> Reads {
        let reads = self.laid().reads();
        let is_asked = |pending: &Pending| {
            matches!(
                pending.effect,
                Effect::Sets { .. } | Effect::SetsLocally { .. } | Effect::Discards { .. }
            )
        };
        // Whether what was asked succeeds is not known yet.
        let doubt = self.pending.iter().any(is_asked).then(random::<[u8; 16]>);
        if self.in_transaction.is_none() && doubt.is_none() {
            return reads;
        }
        let digest = Sha256::new().chain_update(reads).chain_update(self.in_transaction.unwrap_or_default());
        digest.chain_update(doubt.unwrap_or_default()).finalize().into()
    }
}

/// The name and the value in the body of ParameterStatus.
pub fn reported(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = split_text(body)?;
    Some((name, split_text(rest)?.0))
}

/// Notes what a server reports; `false` when that is more than is kept.
pub fn note_parameter(parameters: &mut Arc<Parameters>, name: &[u8], value: &[u8]) -> bool {
    let known = parameters.iter().position(|(known, _)| known == name);
    match known {
        Some(at) if parameters[at].1 == value => {}
        Some(at) => Arc::make_mut(parameters)[at].1 = value.to_owned(),
        None if parameters.len() < PARAMETERS_MAX => {
            Arc::make_mut(parameters).push((name.to_owned(), value.to_owned()));
        }
        None => return false,
    }
    true
}

/// Why texts of such a session cannot be looked at safely.
fn unsafe_parameter(name: &[u8], value: &[u8]) -> Option<&'static str> {
    match name {
        b"standard_conforming_strings" if value != b"on" => Some("standard_conforming_strings being off"),
        b"client_encoding" if UNSAFE_ENCODINGS.contains(&value) => Some("its client_encoding"),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
