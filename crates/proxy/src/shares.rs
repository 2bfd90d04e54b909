//! Prepared statements that the sessions of a pool share: one on each server for all who prepared the same text, by a name or, where
//! that is wanted and the text comes again and again, without one.
//!
//! What it is: the names that a session's client knows, the statements that a server has, and the change of each message that
//! names one. A statement that a server lacks is prepared there just before it is used. What it is not: a cache of results or of
//! plans, which are PostgreSQL's. Invariants: two statements are one only when text, types of parameters and everything that
//! was set when they were prepared are the same (`Ties::reads`), none is prepared while something else is set, and no definition was
//! changed between, as far as commands of clients tell; the client gets one answer to each of its messages, in its place; a server's
//! name is never used for anything else, so in doubt about what is there new names are taken.

mod registry;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use wire::message::{Frame, Status, backend, frontend, put_frame, split_text};
use wire::{Effects, ErrorFields, OnSession};

use super::ties::Reads;
pub use registry::Registry;
use registry::Statement;

/// Statements of one session. Drivers keep some hundred; who has more keeps its server.
const NAMES_MAX: usize = 2_000;
/// Statements of one server; that which was used longest ago makes room.
const PREPARED_MAX: usize = if cfg!(test) { 3 } else { 1_000 };
/// Uses of one pipeline that are remembered, for the case that it fails.
const USED_MAX: usize = 256;
/// Before a message's body: its type byte and its length.
const HEADER: usize = 5;
/// With this the names begin that statements have on a server.
const OURS: &[u8] = b"_pgherd_";
/// Nobody has a statement of this name: to close it does nothing.
const NONE: &[u8] = b"S_pgherd\0";

/// A command with this tag may change what texts mean: the types of parameters and columns are those of their Parse for good.
fn redefines(tag: &[u8]) -> bool {
    let words: [&[u8]; 5] = [b"ALTER ", b"CREATE ", b"DROP ", b"DO\0", b"COMMIT PREPARED"];
    words.iter().any(|word| tag.starts_with(word))
}

type Names = BTreeMap<Vec<u8>, Arc<Statement>>;

/// What a server has.
#[derive(Default, Debug)]
pub struct Prepared {
    /// Part of each name; another one after something may have removed what was there.
    epoch: u32,
    /// By number: when it was used last. What was asked for is taken to be there.
    ids: HashMap<u64, u64>,
    /// What is there by the server's own answers.
    answered: BTreeSet<u64>,
    uses: u64,
}

impl Prepared {
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    fn name(&self, id: u64) -> Vec<u8> {
        format!("_pgherd_{id:x}_{:x}", self.epoch).into_bytes()
    }

    fn has(&mut self, id: u64) -> bool {
        self.uses += 1;
        let uses = self.uses;
        self.ids.get_mut(&id).map(|used| *used = uses).is_some()
    }

    /// A name that nothing has had.
    fn decoy(&mut self) -> Vec<u8> {
        self.uses += 1;
        format!("_pgherd_decoy_{:x}_{:x}", self.uses, self.epoch).into_bytes()
    }

    fn add(&mut self, id: u64) {
        self.uses += 1;
        self.ids.insert(id, self.uses);
    }

    fn answer(&mut self, id: u64, counts: bool) {
        if counts {
            self.answered.insert(id);
        }
    }

    /// Nobody knows what is still there.
    fn forget(&mut self) {
        *self = Prepared { epoch: self.epoch.wrapping_add(1), uses: self.uses, ..Prepared::default() };
    }

    fn oldest(&self) -> Option<u64> {
        let full = self.ids.len() >= PREPARED_MAX;
        self.ids.iter().filter(|_| full).min_by_key(|(_, used)| **used).map(|(id, _)| *id)
    }
}

/// What the next ParseComplete or CloseComplete of the server answers.
#[derive(Debug)]
enum Expected {
    /// A message that the client sent as it is.
    Own,
    /// The same, a Parse of the unnamed statement.
    OwnUnnamed,
    /// Our Parse of a statement that the server lacked.
    Ours { id: u64 },
    /// Our Close of one that made room.
    Room { id: u64 },
    /// Our Close of one that may be there.
    Doubted { id: u64 },
    /// Our Parse of what a DEALLOCATE takes away again.
    Decoy,
    /// What puts this session's unnamed statement in the place of another's.
    Unnamed,
    /// The client's Parse; `sent`, or in its place a Close of nothing.
    Parse { name: Vec<u8>, statement: Arc<Statement>, sent: bool },
    /// The client's Close.
    Close { name: Vec<u8>, statement: Arc<Statement> },
}

impl Expected {
    /// It is the answer to a Parse of the client under this name.
    fn names(&self, of: &[u8]) -> bool {
        matches!(self, Expected::Parse { name, .. } if name == of)
    }

    fn closes(&self, of: &[u8], id: u64) -> bool {
        matches!(self, Expected::Close { name, statement } if name == of && statement.id == id)
    }

    /// It is the answer to what puts this statement on the server, or takes it away.
    fn concerns(&self, of: u64) -> bool {
        self.puts(of) || matches!(self, Expected::Room { id } | Expected::Doubted { id } if *id == of)
    }

    /// It is the answer to what puts this statement on the server.
    fn puts(&self, id: u64) -> bool {
        match self {
            Expected::Ours { id: put } => *put == id,
            Expected::Parse { statement, sent, .. } => *sent && statement.id == id,
            _ => false,
        }
    }
}

/// What a message finds.
pub struct State<'a> {
    /// Which request of the session it is of.
    pub request: u64,
    /// How the server reads texts now; wanted where `Shares::is_read` says so.
    pub reads: Reads,
    /// The transaction has failed, or may have when its turn comes: PostgreSQL takes nothing but its end then.
    pub may_have_failed: bool,
    /// The Parse of its unnamed statement; empty when there is none.
    pub unnamed: &'a [u8],
    /// It keeps its server, and its statements their names.
    pub keeps_server: bool,
}

/// What becomes of a message of the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Keep,
    Drop,
    /// It is told as a message of this type.
    Becomes(u8),
}

/// The statements of one session.
#[derive(Debug)]
pub struct Shares {
    registry: Arc<Registry>,
    names: Names,
    /// What a text without a name was last that is shared, and when that was.
    unnamed: Option<(u64, Arc<Statement>)>,
    /// With the request that each is of.
    awaited: VecDeque<(u64, Expected)>,
    /// What a DEALLOCATE or DISCARD ends, if it succeeds.
    ends: Vec<(u64, Names)>,
    failed: bool,
    /// So many of the first awaited are of names that are not used any more.
    outdated: usize,
    /// Of the server that the session has.
    pub prepared: Prepared,
    /// The unnamed statement there, if any, is this session's.
    pub unnamed_is_own: bool,
    /// The same, by what has been answered.
    unnamed_was_own: bool,
    /// The client's own name has just gone to the server.
    pub names_on_server: bool,
    /// Statements that were bound or described, by number, with the request that each is of.
    used: Vec<(u64, u64)>,
    /// Those of which the Parse was on the way, or was read anew, with the names that they had then.
    trusted: Vec<(u64, Vec<u8>, u64)>,
    /// The transaction has changed definitions, which nobody else sees yet, and which it may take back.
    redefined: bool,
}

impl Shares {
    pub fn new(registry: &Arc<Registry>) -> Shares {
        Shares {
            registry: Arc::clone(registry),
            names: BTreeMap::new(),
            unnamed: None,
            awaited: VecDeque::new(),
            ends: Vec::new(),
            failed: false,
            outdated: 0,
            prepared: Prepared::default(),
            unnamed_is_own: true,
            unnamed_was_own: true,
            names_on_server: false,
            used: Vec::new(),
            trusted: Vec::new(),
            redefined: false,
        }
    }

    pub fn has_names(&self) -> bool {
        !self.names.is_empty()
    }

    /// A text is to be read for this message, now or by the way.
    pub fn is_read(&self, frame: &Frame<'_>) -> bool {
        let name = match frame.tag {
            frontend::PARSE => {
                let by_name = split_text(frame.head).is_some_and(|(name, _)| !name.is_empty());
                return by_name || self.registry.shares_unnamed();
            }
            frontend::BIND => split_text(frame.head).and_then(|(_, rest)| split_text(rest)),
            frontend::DESCRIBE if frame.head.first() == Some(&b'S') => split_text(&frame.head[1..]),
            _ => None,
        };
        let statement = name.and_then(|(name, _)| self.names.get(name));
        // What is in doubt is put there once more.
        statement.is_some_and(|statement| {
            !self.awaited.is_empty() || !self.prepared.ids.contains_key(&statement.id)
        })
    }

    /// True when one more name can be kept.
    fn has_room(&self) -> bool {
        self.room() > 0
    }

    /// So many more names can be kept.
    pub fn room(&self) -> usize {
        NAMES_MAX.saturating_sub(self.names.len())
    }

    /// The text of the statement of this name.
    pub fn text(&self, name: &[u8]) -> Option<&[u8]> {
        split_text(&self.names.get(name)?.body).map(|(text, _)| text)
    }

    /// The Parse that has given it is asked once more, and that answer counts.
    pub fn forget_name(&mut self, name: &[u8]) {
        self.names.remove(name);
    }

    /// The session has a server whose unnamed statement is its own, or somebody else's.
    pub fn find_unnamed(&mut self, is_own: bool) {
        (self.unnamed_is_own, self.unnamed_was_own) = (is_own, is_own);
    }

    /// Nobody knows which statements the server has, and what is to be answered yet tells nothing of it.
    pub fn forget(&mut self) {
        self.prepared.forget();
        self.outdated = self.awaited.len();
    }

    /// A server is gone, and what was asked of it.
    pub fn lose_server(&mut self) {
        self.settle(u64::MAX);
        self.end_transaction();
        self.ends.clear();
        self.used.clear();
        self.trusted.clear();
        (self.failed, self.prepared) = (false, Prepared::default());
    }

    /// A message of the client: what the server is sent instead of the bytes that are there, `None` for the same.
    pub fn client_sent(
        &mut self,
        frame: &Frame<'_>,
        effects: Option<&Effects>,
        session: &State<'_>,
    ) -> Option<Vec<u8>> {
        let (on_session, request) = (effects.map(|effects| &effects.on_session), session.request);
        match frame.tag {
            frontend::QUERY => {
                self.forget_unnamed();
                self.unnamed_is_own = true;
                self.run(frame, 0, on_session, request)
            }
            frontend::PARSE => {
                let Some((name, _)) = split_text(frame.head) else {
                    self.names_on_server = true;
                    self.awaited.push_back((request, Expected::Own));
                    return None;
                };
                let whole = frame.is_whole() && !frame.is_cut();
                let shared = on_session == Some(&OnSession::Nothing) && whole && !session.keeps_server;
                if name.is_empty() {
                    self.forget_unnamed();
                    if shared && self.is_frequent(session.reads, &frame.head[1..]) {
                        // What else the server has without a name is of before.
                        self.unnamed_is_own = false;
                        return Some(self.parse(name, &frame.head[1..], session));
                    }
                    self.unnamed_is_own = true;
                    let changed = self.run(frame, 1, on_session, request);
                    self.awaited.push_back((request, Expected::OwnUnnamed));
                    return changed;
                }
                // A name that is there is refused, under whichever name the statement is on the server.
                let is_known = whole && self.names.contains_key(name);
                if is_known || shared && self.has_room() {
                    let body = &frame.head[name.len() + 1..];
                    return Some(self.parse(name, body, session));
                }
                self.names_on_server = true;
                self.awaited.push_back((request, Expected::Own));
                None
            }
            frontend::BIND => {
                let (portal, rest) = split_text(frame.head)?;
                let name = split_text(rest)?.0;
                self.renamed(frame, portal.len() + 1, name, session)
            }
            frontend::DESCRIBE if frame.head.first() == Some(&b'S') => {
                let name = split_text(&frame.head[1..])?.0;
                self.renamed(frame, 1, name, session)
            }
            frontend::CLOSE => {
                // The server has none of the client's names: to close one there is to be told that it is done.
                let closed = match frame.head {
                    [b'S', name @ .., 0] => self.names.remove_entry(name),
                    _ => None,
                };
                let close = |(name, statement)| Expected::Close { name, statement };
                self.awaited.push_back((request, closed.map_or(Expected::Own, close)));
                None
            }
            _ => None,
        }
    }

    fn trust(&mut self, request: u64, name: &[u8], id: u64) {
        if self.trusted.len() < USED_MAX {
            self.trusted.push((request, name.to_vec(), id));
        }
    }

    /// The unnamed statement is no shared one.
    fn forget_unnamed(&mut self) {
        if !self.names.is_empty() {
            self.names.remove(&b""[..]);
        }
    }

    /// True when a text without a name is one of those that are shared, which `unnamed` then is.
    fn is_frequent(&mut self, reads: Reads, body: &[u8]) -> bool {
        if !self.registry.shares_unnamed() {
            return false;
        }
        let generation = self.registry.generation();
        let is_last = |(of, statement): &(u64, Arc<Statement>)| {
            *of == generation && *statement.body == *body && statement.reads == reads
        };
        if !self.unnamed.as_ref().is_some_and(is_last) {
            self.unnamed = self.registry.frequent(reads, body).map(|statement| (generation, statement));
        }
        self.unnamed.is_some()
    }

    fn note_use(&mut self, id: u64, request: u64) {
        if self.used.last() != Some(&(request, id)) && self.used.len() < USED_MAX {
            self.used.push((request, id));
        }
    }

    fn parse(&mut self, name: &[u8], body: &[u8], session: &State<'_>) -> Vec<u8> {
        let (mut out, request) = (Vec::new(), session.request);
        if let Some(known) = self.provide(name, session, &mut out) {
            // It exists, as the server will say.
            put_frame(&mut out, frontend::PARSE, &[&self.prepared.name(known.id)[..], b"\0", body].concat());
            self.awaited.push_back((request, Expected::Own));
            return out;
        }
        let statement = match (name, &self.unnamed) {
            (b"", Some((_, statement))) => Arc::clone(statement),
            _ => self.registry.statement(session.reads, body),
        };
        let sent = !self.is_there(statement.id, request);
        if sent {
            self.prepare(&statement, request, &mut out);
        } else if session.may_have_failed {
            // Whether it may be parsed at all is PostgreSQL's to say.
            let decoy = self.prepared.decoy();
            put_frame(&mut out, frontend::PARSE, &[&decoy[..], b"\0", body].concat());
            put_frame(&mut out, frontend::CLOSE, &[b"S", &decoy[..], b"\0"].concat());
        } else {
            put_frame(&mut out, frontend::CLOSE, NONE);
        }
        // What comes behind it in the pipeline may use it already.
        self.names.insert(name.to_vec(), Arc::clone(&statement));
        self.awaited.push_back((request, Expected::Parse { name: name.to_vec(), statement, sent }));
        if session.may_have_failed && !sent {
            self.awaited.push_back((request, Expected::Decoy));
        }
        out
    }

    /// The statement of this name, prepared where the server lacks it. One that was read in another way is read for this use
    /// as PostgreSQL would that had to look at its text again: as it is now.
    fn provide(&mut self, name: &[u8], session: &State<'_>, out: &mut Vec<u8>) -> Option<Arc<Statement>> {
        let known = Arc::clone(self.names.get(name)?);
        if self.is_there(known.id, session.request) {
            return Some(known);
        }
        let statement = match known.reads == session.reads {
            true => known,
            false => {
                let read_anew = self.registry.statement(session.reads, &known.body);
                self.trust(session.request, name, read_anew.id);
                read_anew
            }
        };
        if !self.is_there(statement.id, session.request) {
            self.prepare(&statement, session.request, out);
            self.awaited.push_back((session.request, Expected::Ours { id: statement.id }));
        }
        Some(statement)
    }

    /// The server has it when it comes to `request`, whatever becomes of the requests before.
    fn is_there(&mut self, id: u64, request: u64) -> bool {
        let in_doubt = self.awaited.iter().any(|(of, expected)| *of < request && expected.puts(id));
        self.prepared.has(id) && !in_doubt
    }

    /// The Parse that puts it there; whoever has it sent awaits the answer.
    fn prepare(&mut self, statement: &Statement, request: u64, out: &mut Vec<u8>) {
        if self.prepared.has(statement.id) || self.prepared.answered.contains(&statement.id) {
            // Perhaps: an earlier request, not answered yet, was to put it there, or to take it away.
            let name = self.prepared.name(statement.id);
            put_frame(out, frontend::CLOSE, &[b"S", &name[..], b"\0"].concat());
            self.awaited.push_back((request, Expected::Doubted { id: statement.id }));
        }
        self.make_room(request, out);
        self.prepared.add(statement.id);
        let body = [&self.prepared.name(statement.id)[..], b"\0", &statement.body].concat();
        put_frame(out, frontend::PARSE, &body);
    }

    fn make_room(&mut self, request: u64, out: &mut Vec<u8>) {
        if let Some(id) = self.prepared.oldest() {
            put_frame(out, frontend::CLOSE, &[b"S", &self.prepared.name(id)[..], b"\0"].concat());
            self.prepared.ids.remove(&id);
            self.awaited.push_back((request, Expected::Room { id }));
        }
    }

    /// The message with the server's name in place of the client's, which begins at `start` of its body; before it what is to be
    /// there.
    fn renamed(
        &mut self,
        frame: &Frame<'_>,
        start: usize,
        name: &[u8],
        session: &State<'_>,
    ) -> Option<Vec<u8>> {
        if name.is_empty() && !self.names.contains_key(name) {
            return self.unnamed(frame, session);
        }
        let mut out = Vec::new();
        let known = Arc::clone(self.names.get(name)?);
        // Only its own Parse is on the way: where that fails, this fails as it would without the proxy.
        let mut on_the_way = self.awaited.iter().filter(|(_, expected)| expected.concerns(known.id));
        let statement = match (on_the_way.next(), on_the_way.next()) {
            (Some((_, expected)), None) if expected.names(name) => {
                self.trust(session.request, name, known.id);
                known
            }
            _ => {
                let statement = self.provide(name, session, &mut out)?;
                self.note_use(statement.id, session.request);
                statement
            }
        };
        put_changed(&mut out, frame, start..start + name.len(), &self.prepared.name(statement.id));
        Some(out)
    }

    /// A message that uses the unnamed statement: not one that somebody else has left there.
    fn unnamed(&mut self, frame: &Frame<'_>, session: &State<'_>) -> Option<Vec<u8>> {
        if self.unnamed_is_own {
            return None;
        }
        let mut out = session.unnamed.to_vec();
        if out.is_empty() {
            put_frame(&mut out, frontend::CLOSE, b"S\0");
        }
        self.unnamed_is_own = true;
        self.awaited.push_back((session.request, Expected::Unnamed));
        out.extend_from_slice(frame.bytes);
        Some(out)
    }

    /// A text that is run or prepared without a name; it begins at `start` of the body.
    fn run(
        &mut self,
        frame: &Frame<'_>,
        start: usize,
        on_session: Option<&OnSession>,
        request: u64,
    ) -> Option<Vec<u8>> {
        match on_session? {
            OnSession::DiscardsAll | OnSession::DeallocatesAll => {
                self.forget();
                // What comes behind it in the pipeline begins anew.
                self.ends.push((request, std::mem::take(&mut self.names)));
                None
            }
            // What it does to statements is not known.
            OnSession::Binds(_) => {
                self.forget();
                None
            }
            OnSession::Deallocates(name) => {
                let (name, statement) = self.names.remove_entry(name)?;
                self.ends.push((request, BTreeMap::from([(name, statement)])));
                // Something else is deallocated, made just for that and of nothing that could fail: the shared one is others'.
                let decoy = self.prepared.decoy();
                let mut out = Vec::new();
                put_frame(&mut out, frontend::PARSE, &[&decoy[..], b"\0\0\0\0"].concat());
                self.awaited.push_back((request, Expected::Decoy));
                let text = [&b"DEALLOCATE "[..], &decoy].concat();
                let sql = split_text(&frame.head[start..])?.0;
                put_changed(&mut out, frame, start..start + sql.len(), &text);
                Some(out)
            }
            OnSession::Nothing | OnSession::Sets { .. } => None,
        }
    }

    /// A message of the server that answers request `request`, before anybody else looks at it.
    pub fn server_sent(&mut self, frame: &Frame<'_>, request: u64) -> Fate {
        match frame.tag {
            backend::PARSE_COMPLETE | backend::CLOSE_COMPLETE => {
                let expected = self.awaited.pop_front().map(|(_, expected)| expected);
                let counts = self.outdated == 0;
                self.outdated = self.outdated.saturating_sub(1);
                if matches!(expected, Some(Expected::OwnUnnamed | Expected::Unnamed)) {
                    self.find_unnamed(true);
                }
                match expected {
                    Some(Expected::Ours { id }) => {
                        self.prepared.answer(id, counts);
                        return Fate::Drop;
                    }
                    Some(Expected::Room { id } | Expected::Doubted { id }) => {
                        self.prepared.answered.remove(&id);
                        return Fate::Drop;
                    }
                    Some(Expected::Parse { name, statement, sent }) => {
                        // What else the server has without a name is of before.
                        self.unnamed_was_own &= !name.is_empty();
                        if !sent {
                            return Fate::Becomes(backend::PARSE_COMPLETE);
                        }
                        self.prepared.answer(statement.id, counts);
                    }
                    Some(Expected::Decoy | Expected::Unnamed) => {
                        return Fate::Drop;
                    }
                    Some(Expected::Own | Expected::OwnUnnamed | Expected::Close { .. }) | None => {}
                }
            }
            backend::ERROR_RESPONSE => {
                self.failed = true;
                let ours = matches!(
                    self.awaited.front(),
                    Some((_, Expected::Ours { .. } | Expected::Parse { sent: true, .. }))
                );
                match ErrorFields::new(frame.head).sqlstate() {
                    // Something has our name there, whatever it is.
                    Some(b"42P05") if ours => self.forget(),
                    // Somebody has removed it by SQL that was not seen.
                    Some(b"26000") if self.used.iter().any(|(of, _)| *of == request) => self.forget(),
                    // The tables have changed since: who prepares it anew gets another one.
                    Some(b"0A000") => {
                        self.registry.outdate(self.used.iter().filter(|(of, _)| *of == request))
                    }
                    _ => {}
                }
            }
            backend::COMMAND_COMPLETE => {
                // Done, whatever fails behind it.
                if (frame.head.starts_with(b"DEALLOCATE") || frame.head == b"DISCARD ALL\0")
                    && let Some(at) = self.ends.iter().position(|(of, _)| *of == request)
                {
                    self.ends.remove(at);
                }
                let took_back = self.redefined && frame.head.starts_with(b"ROLLBACK");
                if redefines(frame.head) || took_back {
                    self.redefined = true;
                    self.registry.outdate_all();
                }
            }
            backend::READY_FOR_QUERY => {
                self.settle(request);
                if Status::parse(frame.head) == Some(Status::Idle) {
                    self.end_transaction();
                }
            }
            _ => {}
        }
        Fate::Keep
    }

    /// An error that names a statement as the server knows it, in the client's words. Of two names of one statement it tells either.
    pub fn in_own_words(&self, frame: &Frame<'_>) -> Option<Vec<u8>> {
        let start = frame.head.windows(OURS.len()).position(|part| part == OURS)?;
        let quoted = frame.head[start..].iter().position(|byte| *byte == b'"')?;
        let named = &frame.head[start..start + quoted];
        let is_meant = |statement: &Statement| self.prepared.name(statement.id) == named;
        let awaited = self.awaited.iter().find_map(|(_, expected)| match expected {
            Expected::Parse { name, statement, .. } | Expected::Close { name, statement }
                if is_meant(statement) =>
            {
                Some(name)
            }
            _ => None,
        });
        let known = self.names.iter().find(|(_, statement)| is_meant(statement)).map(|(name, _)| name);
        let mut trusted = self.trusted.iter().filter(|(.., id)| self.prepared.name(*id) == named);
        let mut out = Vec::new();
        let own = known.or(awaited).or_else(|| trusted.next().map(|(_, name, _)| name))?;
        put_changed(&mut out, frame, start..start + quoted, own);
        Some(out)
    }

    /// What was parsed meanwhile was read as it had been, or, by this session, as it perhaps did not stay.
    fn end_transaction(&mut self) {
        if std::mem::take(&mut self.redefined) {
            self.registry.outdate_all();
        }
    }

    /// What was to put it on the server was not done; a later request may have asked for it again.
    fn is_not_there(&mut self, id: u64) {
        // What was to be taken away first, in doubt, may still be there.
        let is_there = self.prepared.answered.contains(&id);
        if !is_there && !self.awaited.iter().any(|(_, expected)| expected.puts(id)) {
            self.prepared.ids.remove(&id);
        }
    }

    /// All of `request` is answered: what has no answer of its own was not done, and is undone, the last first.
    fn settle(&mut self, request: u64) {
        let failed = std::mem::take(&mut self.failed);
        self.used.retain(|(of, _)| *of > request);
        self.trusted.retain(|(of, ..)| *of > request);
        let undone = self.awaited.iter().take_while(|(of, _)| *of <= request).count();
        let outdated = self.outdated.min(undone);
        self.outdated -= outdated;
        let undone: Vec<Expected> = self.awaited.drain(..undone).map(|(_, expected)| expected).collect();
        for (at, expected) in undone.into_iter().enumerate().rev() {
            let counts = at >= outdated;
            match expected {
                Expected::Own
                | Expected::OwnUnnamed
                | Expected::Doubted { .. }
                | Expected::Decoy
                | Expected::Unnamed => {}
                Expected::Ours { id } if counts => self.is_not_there(id),
                Expected::Room { id } if counts => self.prepared.add(id),
                Expected::Ours { .. } | Expected::Room { .. } => {}
                Expected::Parse { name, statement, sent } => {
                    // A later request may have taken the name already.
                    if !self.awaited.iter().any(|(_, later)| later.names(&name)) {
                        self.names.remove(&name);
                    }
                    // Nor is it there again when a later Close of it is not done.
                    for (_, later) in &mut self.awaited {
                        if later.closes(&name, statement.id) {
                            *later = Expected::Own;
                        }
                    }
                    if sent && counts {
                        self.is_not_there(statement.id);
                    }
                }
                // In the place of the unnamed one something else may be meanwhile; that is prepared anew when it is used.
                Expected::Close { name, .. } if name.is_empty() => {}
                Expected::Close { name, statement } => drop(self.names.insert(name, statement)),
            }
        }
        let due = |(of, _): &mut (u64, Names)| *of <= request;
        for (_, ended) in self.ends.extract_if(.., due).filter(|_| failed).collect::<Vec<_>>() {
            // They are still there; what came behind may have taken a name.
            for (name, statement) in ended {
                self.names.entry(name).or_insert(statement);
            }
        }
        // What was skipped had no say in what the unnamed statement is now.
        self.unnamed_is_own &= !failed || self.unnamed_was_own;
    }
}

/// The bytes of `frame` that are there, with `new` in place of `old` of its body; the length fits.
fn put_changed(out: &mut Vec<u8>, frame: &Frame<'_>, old: std::ops::Range<usize>, new: &[u8]) {
    let length = frame.length as usize + 4 - old.len() + new.len();
    out.push(frame.tag);
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.extend_from_slice(&frame.bytes[HEADER..HEADER + old.start]);
    out.extend_from_slice(new);
    out.extend_from_slice(&frame.bytes[HEADER + old.end..]);
}

#[cfg(test)]
mod tests;
