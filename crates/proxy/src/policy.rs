//! What is changed in a client's message before the server sees it.
//!
//! What it is: `client_min_messages` kept low enough for warnings (I8), and the policy for users who lower
//! `synchronous_commit`. What it is not: a wall; a function may call `set_config` by itself, and the texts are looked
//! at, not parsed. Invariant: a message is replaced by one of the same kind, so the protocol goes on as without us.

use wire::message::{Frame, frontend, put_frame, split_text};
use wire::startup::{Startup, with_parameter};
use wire::{Assignment, Effects, ErrorResponse, Severity, Watched};

/// For users who lower `synchronous_commit` below `on`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LoweredCommit {
    #[default]
    Allow,
    Warn,
    Forbid,
}

impl LoweredCommit {
    pub fn as_str(self) -> &'static str {
        match self {
            LoweredCommit::Allow => "allow",
            LoweredCommit::Warn => "warn",
            LoweredCommit::Forbid => "forbid",
        }
    }

    /// Of one of the words above, which the table of settings has checked.
    pub fn of(text: &str) -> LoweredCommit {
        match text {
            "warn" => LoweredCommit::Warn,
            "forbid" => LoweredCommit::Forbid,
            _ => LoweredCommit::Allow,
        }
    }
}

/// For statements that leave in a session what cannot be carried to another server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Leaks {
    /// The session keeps its server.
    #[default]
    Pin,
    Refuse,
    /// Whoever has the server next finds it there.
    Allow,
}

impl Leaks {
    pub fn as_str(self) -> &'static str {
        match self {
            Leaks::Pin => "pin",
            Leaks::Refuse => "refuse",
            Leaks::Allow => "allow",
        }
    }

    /// Of one of the words above, which the table of settings has checked.
    pub fn of(text: &str) -> Leaks {
        match text {
            "refuse" => Leaks::Refuse,
            "allow" => Leaks::Allow,
            _ => Leaks::Pin,
        }
    }
}

/// The level that the server keeps when the client wants less.
const LOWEST: &str = "warning";
/// Before a message's body: its type byte and its length.
const HEADER: usize = 5;
/// PostgreSQL's default.
const DEFAULT_LEVEL: &str = "notice";

const MESSAGE: &str = "synchronous_commit below \"on\" is not allowed in this cluster";
const DETAIL: &str = "A commit would be acknowledged before a standby has it, and a takeover could lose it (setting [sync] lowered_commit).";
const HINT: &str = "Leave synchronous_commit at on or remote_apply, or ask the cluster''s operator to set lowered_commit to warn or allow.";

/// A start-up packet as the server shall get it.
#[derive(Debug)]
pub struct Opening {
    pub packet: Vec<u8>,
    /// The client asked for errors only.
    pub hides_warnings: bool,
    /// It asked for a `synchronous_commit` below `on`.
    pub lowers_commit: bool,
}

/// `None` when the packet becomes too long.
pub fn opening(packet: &[u8], startup: &Startup<'_>) -> Option<Opening> {
    let level = startup.setting(Watched::ClientMinMessages.name());
    let hides_warnings = level.as_ref().is_some_and(|level| Watched::ClientMinMessages.is_too_low(level));
    let commit = startup.setting(Watched::SynchronousCommit.name());
    let lowers_commit = commit.is_some_and(|commit| Watched::SynchronousCommit.is_too_low(&commit));
    let kept = match &level {
        _ if hides_warnings => LOWEST.as_bytes(),
        Some(level) => level,
        // What a role or a database sets is overridden: it could hide warnings, and nobody here can see it.
        None => DEFAULT_LEVEL.as_bytes(),
    };
    let packet = with_parameter(packet, Watched::ClientMinMessages.name(), kept)?;
    Some(Opening { packet, hides_warnings, lowers_commit })
}

/// The SQL text of a Query or Parse, where it begins in the body, and whether the head holds all of it.
pub fn sql<'a>(frame: &Frame<'a>) -> Option<(usize, &'a [u8], bool)> {
    let start = match frame.tag {
        frontend::QUERY => 0,
        frontend::PARSE => split_text(frame.head)?.0.len() + 1,
        _ => return None,
    };
    let rest = frame.head.get(start..)?;
    Some(match split_text(rest) {
        Some((sql, _)) => (start, sql, true),
        None => (start, rest, false),
    })
}

/// What becomes of a message of the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    None,
    /// These bytes instead of those of the frame that are there; its rest follows.
    Edited(Vec<u8>),
    /// These bytes instead of the whole frame.
    Refused(Vec<u8>),
}

/// Looks at the text of `frame`, which begins at `start` of its body. True beside it: the client is to be warned.
pub fn change(policy: LoweredCommit, frame: &Frame<'_>, start: usize, effects: &Effects) -> (Change, bool) {
    let too_low = |setting| {
        effects
            .assignments
            .iter()
            .filter(move |assignment: &&Assignment| assignment.setting == setting && assignment.is_too_low())
    };
    let lowers = too_low(Watched::SynchronousCommit).next().is_some();
    if lowers && policy == LoweredCommit::Forbid {
        return (Change::Refused(refusal(frame, start)), false);
    }
    let mut edited: Option<Vec<u8>> = None;
    // From the back, so that the places before stay where they are.
    let hiding: Vec<&Assignment> = too_low(Watched::ClientMinMessages)
        .filter(|assignment| assignment.is_own && assignment.value.is_some())
        .collect();
    for assignment in hiding.into_iter().rev() {
        let bytes = edited.get_or_insert_with(|| frame.bytes.to_vec());
        let text = HEADER + start;
        let place = text + assignment.place.start..text + assignment.place.end;
        bytes.splice(place, format!("'{LOWEST}'").into_bytes());
    }
    let Some(mut bytes) = edited else { return (Change::None, lowers && policy == LoweredCommit::Warn) };
    let length = frame.length as usize + 4 + bytes.len() - frame.bytes.len();
    bytes[1..5].copy_from_slice(&(length as u32).to_be_bytes());
    (Change::Edited(bytes), lowers && policy == LoweredCommit::Warn)
}

fn refusal(frame: &Frame<'_>, start: usize) -> Vec<u8> {
    failing(frame, start, "42501", MESSAGE, DETAIL, HINT)
}

/// In the place of a statement that would keep the session with a replica, for the reason `why`.
pub fn refused_by_replica(frame: &Frame<'_>, start: usize, why: &str) -> Vec<u8> {
    let detail = format!(
        "It would need this server for longer than its READ ONLY block: {}.",
        why.replace('\'', "''")
    );
    failing(
        frame,
        start,
        "25006",
        "this statement cannot be run in a READ ONLY block of the auto port",
        &detail,
        "Begin the block without READ ONLY, or connect to the read-write or the read-only port.",
    )
}

/// In the place of a statement that would leave what it names, `why`, on a server that is lent.
pub fn refused_as_leak(frame: &Frame<'_>, start: usize, why: &str) -> Vec<u8> {
    failing(
        frame,
        start,
        "0A000",
        "this statement needs a server of its own, and this proxy lends servers for a transaction",
        &format!(
            "It would leave something on the server: {} (setting [proxy] leaks).",
            why.replace('\'', "''")
        ),
        "Connect to PostgreSQL itself, or ask the cluster''s operator to set leaks to pin.",
    )
}

/// In the place of a text that opens a transaction block where a server is lent for a statement.
pub fn refused_as_block(frame: &Frame<'_>, start: usize) -> Vec<u8> {
    failing(
        frame,
        start,
        "0A000",
        "transaction blocks are not allowed with pool_mode \"statement\"",
        "This proxy lends a server for one statement (setting [proxy] pool_mode).",
        "Let each statement commit by itself, or ask the cluster''s operator to set pool_mode to transaction.",
    )
}

/// A statement in place of the client's that fails with the reason: so the transaction, the pipeline and the client
/// go on as after any other error. Quotes in the texts are doubled.
fn failing(
    frame: &Frame<'_>,
    start: usize,
    sqlstate: &str,
    message: &str,
    detail: &str,
    hint: &str,
) -> Vec<u8> {
    let sql = format!(
        "DO $pgherd$ BEGIN RAISE EXCEPTION USING ERRCODE = '{sqlstate}', MESSAGE = '{message}', DETAIL = '{detail}', \
         HINT = '{hint}'; END $pgherd$"
    );
    let mut body = frame.head.get(..start).unwrap_or_default().to_vec();
    body.extend_from_slice(sql.as_bytes());
    body.push(0);
    if frame.tag == frontend::PARSE {
        // No types of parameters.
        body.extend_from_slice(&[0, 0]);
    }
    let mut bytes = Vec::new();
    put_frame(&mut bytes, frame.tag, &body);
    bytes
}

/// Ends a session that asked for it in its start-up packet.
pub fn forbidden() -> ErrorResponse {
    let hint = HINT.replace("''", "'");
    ErrorResponse {
        severity: Severity::Fatal,
        sqlstate: "42501",
        message: MESSAGE.to_owned(),
        detail: DETAIL.to_owned(),
        hint,
    }
}

/// As PostgreSQL says it.
pub fn cancelled() -> ErrorResponse {
    ErrorResponse {
        severity: Severity::Error,
        sqlstate: "57014",
        message: "canceling statement due to user request".to_owned(),
        detail: "It was waiting for a server of the proxy's pool.".to_owned(),
        hint: String::new(),
    }
}

pub fn warning() -> ErrorResponse {
    ErrorResponse {
        severity: Severity::Warning,
        sqlstate: "01000",
        message: "synchronous_commit is below \"on\"".to_owned(),
        detail: "Commits are acknowledged before a standby has them; a takeover can lose them.".to_owned(),
        hint: "Set synchronous_commit to on or remote_apply to be safe.".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use wire::message::{Framer, Piece};
    use wire::startup::{Opening as First, parse_opening, startup_packet};

    use super::*;

    fn changed(policy: LoweredCommit, tag: u8, body: &str) -> (Change, bool) {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, tag, body.as_bytes());
        let Ok(Some(Piece::Frame(frame))) = Framer::new(|_| 1024).next(&bytes) else { panic!("no frame") };
        let (start, sql, _) = sql(&frame).unwrap();
        change(policy, &frame, start, &Effects::read(sql, false))
    }

    fn query(sql: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_frame(&mut bytes, b'Q', format!("{sql}\0").as_bytes());
        bytes
    }

    #[test]
    fn a_level_that_hides_warnings_never_reaches_the_server() {
        let (change, warns) =
            changed(LoweredCommit::Allow, b'Q', "SET client_min_messages = error; SELECT 1\0");
        assert_eq!(change, Change::Edited(query("SET client_min_messages = 'warning'; SELECT 1")));
        assert!(!warns);
        let twice = "SET client_min_messages = panic; SET client_min_messages TO 'fatal'\0";
        let kept = "SET client_min_messages = 'warning'; SET client_min_messages TO 'warning'";
        assert_eq!(changed(LoweredCommit::Allow, b'Q', twice).0, Change::Edited(query(kept)));
        let mut parse = Vec::new();
        put_frame(&mut parse, b'P', b"s\0SET client_min_messages = 'warning'\0\0\0");
        let edited = changed(LoweredCommit::Allow, b'P', "s\0SET client_min_messages = error\0\0\0").0;
        assert_eq!(edited, Change::Edited(parse));
        assert_eq!(changed(LoweredCommit::Allow, b'Q', "SET client_min_messages = debug1\0").0, Change::None);
    }

    #[test]
    fn a_lowered_commit_is_allowed_warned_of_or_forbidden() {
        let sql = "SET LOCAL synchronous_commit = off\0";
        assert_eq!(changed(LoweredCommit::Allow, b'Q', sql), (Change::None, false));
        assert_eq!(changed(LoweredCommit::Warn, b'Q', sql), (Change::None, true));
        let (Change::Refused(bytes), false) = changed(LoweredCommit::Forbid, b'Q', sql) else {
            panic!("let through")
        };
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.contains("42501") && text.ends_with('\0'), "{text}");
        let sql = "SET synchronous_commit = remote_apply\0";
        assert_eq!(changed(LoweredCommit::Forbid, b'Q', sql), (Change::None, false));
    }

    #[test]
    fn a_session_begins_with_a_level_that_shows_warnings() {
        let level = |parameters: &[(&str, &str)]| {
            let packet = startup_packet(0, parameters);
            let Ok(First::Startup(startup)) = parse_opening(&packet[4..]) else { panic!("no startup") };
            let opening = opening(&packet, &startup).unwrap();
            let Ok(First::Startup(startup)) = parse_opening(&opening.packet[4..]) else {
                panic!("no startup")
            };
            let level = String::from_utf8(startup.get("client_min_messages").unwrap().to_vec()).unwrap();
            (level, opening.hides_warnings, opening.lowers_commit)
        };
        assert_eq!(level(&[("user", "a")]), ("notice".to_owned(), false, false));
        assert_eq!(level(&[("client_min_messages", "error")]), ("warning".to_owned(), true, false));
        let options = [("options", "-c client_min_messages=debug1 -c synchronous_commit=off")];
        assert_eq!(level(&options), ("debug1".to_owned(), false, true));
    }
}
