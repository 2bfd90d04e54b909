//! What the server is doing now, in one look.
//!
//! Invariant: a [`Position`] is never more than what this disk holds, and never on a timeline that the server has not
//! entered; what cannot be told yet is `None`, never a guess.

use std::sync::LazyLock;
use std::time::Duration;

use serde::Deserialize;
use wire::{History, Lsn, Timeline};

use super::about::{self, About};
use super::control;
use super::error::Result;
use super::hba::{Admission, NOT_THE_AGENT};
use super::identity::Identity;
use super::process;
use super::receiver::conninfo_value;
use super::server::Server;
use super::session::{CONNECT_DEADLINE, QUERY_DEADLINE, Row, Seat, Session};
use super::wal;

#[derive(Clone, PartialEq, Debug)]
pub enum Observation {
    /// No postmaster runs.
    Down,
    /// It does not accept connections yet; `progress` is what recovery is reading.
    Starting {
        progress: String,
    },
    Stopping,
    /// The process lives but gave no answer in time.
    Unresponsive {
        reason: String,
    },
    Standby(Box<Standby>),
    Primary(Box<Primary>),
}

/// The end of valid WAL on a disk, and the timeline on which its last record lies.
///
/// While replay lags behind what was received, `lsn` may lie inside a record whose rest has not come (yet); once replay
/// has caught up it is the end of the last whole record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    pub timeline: Timeline,
    pub lsn: Lsn,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Standby {
    pub system_id: u64,
    pub receive_lsn: Option<Lsn>,
    pub replay_lsn: Option<Lsn>,
    /// A receiver process exists, connected or not.
    pub receiver_present: bool,
    /// The process id of a receiver that says that it streams: from its log-in on, whether or not anything comes.
    pub streaming: Option<i32>,
    /// Startup has read all of pg_wal since its last start; before that `position` is no answer.
    pub complete: bool,
    /// `None`: cannot be told yet.
    pub position: Option<Position>,
    /// The way to the timeline that the server is on.
    pub history: Option<History>,
    /// The application name (member and term) it is set to follow as; `None` while it follows nobody.
    pub following: Option<String>,
    pub synchronous_standby_names: String,
    pub admission: Option<Admission>,
    /// Receivers of other standbys or base backups at this one.
    pub walsenders: Vec<Walsender>,
    pub slots: Vec<Slot>,
    pub about: About,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Primary {
    pub system_id: u64,
    pub timeline: Timeline,
    pub flush_lsn: Lsn,
    /// `None` only when its history file has been taken away.
    pub history: Option<History>,
    /// As a connection of ours sees it; what each walsender applies is the business of `apply_sync`.
    pub synchronous_standby_names: String,
    pub admission: Option<Admission>,
    pub walsenders: Vec<Walsender>,
    pub slots: Vec<Slot>,
    pub activity: Activity,
    pub about: About,
}

/// What a planned stop has to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct Activity {
    /// Sessions of clients that run a statement or have a transaction open.
    pub busy_sessions: u32,
    /// Age of their oldest transaction; negative when the wall clock was set back meanwhile.
    pub oldest_transaction_ms: i64,
    /// `None`: nothing is archived from here.
    pub archive: Option<Archive>,
}

/// What the archiver has before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
pub struct Archive {
    /// WAL files that it has not taken yet.
    pub waiting: u32,
    /// For how long the oldest of them has waited, to the second; negative when the wall clock was set back.
    pub waits_ms: i64,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Walsender {
    pub pid: i32,
    pub application_name: String,
    /// `startup`, `catchup`, `streaming`, `backup` or `stopping`.
    pub state: Option<String>,
    pub sent_lsn: Option<Lsn>,
    pub flush_lsn: Option<Lsn>,
    pub replay_lsn: Option<Lsn>,
    pub sync_priority: Option<i32>,
    pub sync_state: Option<String>,
    pub usename: Option<String>,
    /// `None`: it comes by the Unix socket.
    pub client_addr: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Slot {
    pub slot_name: String,
    /// `physical` or `logical`.
    pub slot_type: String,
    pub active: bool,
    pub restart_lsn: Option<Lsn>,
    /// `lost` once the WAL it needs is gone.
    pub wal_status: Option<String>,
}

/// The connection kept for observing, and what has been learned of this run of the server.
#[derive(Default)]
pub(super) struct Observer {
    session: Option<Session>,
    /// Start time of the postmaster that has been seen to have read all of pg_wal.
    exhausted: Option<String>,
}

/// The first statement stands before the second on purpose: the wait event vouches for LSNs read after it.
static SQL: LazyLock<String> = LazyLock::new(|| {
    format!(
        "
SELECT wait_event, pg_postmaster_start_time()::text FROM pg_stat_activity WHERE backend_type = 'startup';
SELECT json_build_object(
    'in_recovery', pg_is_in_recovery(),
    'receive_lsn', pg_last_wal_receive_lsn(),
    'replay_lsn', pg_last_wal_replay_lsn(),
    'receiver_present', EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'walreceiver'),
    'streaming', (SELECT pid FROM pg_stat_wal_receiver WHERE status = 'streaming'),
    'received_tli', (SELECT received_tli FROM pg_stat_wal_receiver),
    'conninfo', current_setting('primary_conninfo'),
    'synchronous_standby_names', current_setting('synchronous_standby_names'),
    'admission', current_setting('pgherd.admission', true),
    'walsenders', (SELECT coalesce(json_agg(json_build_object(
        'pid', pid, 'application_name', application_name, 'state', state, 'sent_lsn', sent_lsn,
        'flush_lsn', flush_lsn, 'replay_lsn', replay_lsn, 'sync_priority', sync_priority,
        'sync_state', sync_state, 'usename', usename, 'client_addr', client_addr)), '[]') FROM pg_stat_replication WHERE application_name <> 'pgherd agent'),
    'slots', (SELECT coalesce(json_agg(json_build_object(
        'slot_name', slot_name, 'slot_type', slot_type, 'active', active, 'restart_lsn', restart_lsn,
        'wal_status', wal_status)), '[]') FROM pg_replication_slots),
    'activity', (SELECT json_build_object(
        'busy_sessions', count(*),
        'oldest_transaction_ms', coalesce(max((extract(epoch FROM clock_timestamp() - xact_start) * 1000)::bigint), 0),
        'archive', CASE WHEN current_setting('archive_mode') <> 'off' AND NOT pg_is_in_recovery() THEN (
            SELECT json_build_object('waiting', count(*), 'waits_ms',
                coalesce(max((extract(epoch FROM clock_timestamp() - modification) * 1000)::bigint), 0))
            FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready') END)
        FROM pg_stat_activity WHERE backend_type = 'client backend' AND state <> 'idle'
            AND {NOT_THE_AGENT}),
    'about', {about})",
        about = about::SQL
    )
});

/// What [`SQL`] answers.
#[derive(Deserialize)]
struct Seen {
    in_recovery: bool,
    receive_lsn: Option<Lsn>,
    replay_lsn: Option<Lsn>,
    receiver_present: bool,
    streaming: Option<i32>,
    received_tli: Option<Timeline>,
    conninfo: String,
    synchronous_standby_names: String,
    admission: Option<String>,
    walsenders: Vec<Walsender>,
    slots: Vec<Slot>,
    activity: Activity,
    about: About,
}

/// Wait events of a startup process that has read pg_wal to its end: it waits for the receiver, or for the next round
/// of looking everywhere (`WaitForWALToBecomeAvailable`, entered only when everything read before has been replayed).
const EXHAUSTED: [&str; 2] = ["RecoveryWalStream", "RecoveryRetrieveRetryInterval"];

/// Two round trips by shared memory; the rest of the time is for a busy machine.
const OBSERVE_DEADLINE: Duration = Duration::from_secs(2);

impl Server {
    /// Looks at the server; answers within [`OBSERVE_DEADLINE`] and a moment.
    pub async fn observe(&self) -> Result<Observation> {
        let Some(postmaster) = process::find(&self.layout.data)? else {
            *self.observer.lock().await = Observer::default();
            return Ok(Observation::Down);
        };
        if process::postmaster_status(&self.layout.data).as_deref() == Some("starting") {
            return Ok(Observation::Starting { progress: startup_title(postmaster.pid) });
        }
        let look = tokio::time::timeout(OBSERVE_DEADLINE, self.look()).await;
        let reason = match look {
            Ok(Ok(observation)) => return Ok(observation),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {OBSERVE_DEADLINE:?}"),
        };
        if postmaster.has_exited() {
            return Ok(Observation::Down);
        }
        Ok(match process::postmaster_status(&self.layout.data).as_deref() {
            Some("stopping") => Observation::Stopping,
            Some("ready") => Observation::Unresponsive { reason },
            _ => Observation::Starting { progress: startup_title(postmaster.pid) },
        })
    }

    async fn look(&self) -> Result<Observation> {
        let mut observer = self.observer.lock().await;
        let Observer { session, exhausted } = &mut *observer;
        if !session.as_mut().is_some_and(Session::usable) {
            // In a walsender and nowhere else: an ordinary session does not answer IDENTIFY_SYSTEM.
            let port = self.config.port;
            *session = Some(Session::open_as(Seat::Walsender, &self.layout, port, CONNECT_DEADLINE).await?);
        }
        let Some(session) = session else { return Ok(Observation::Down) };
        let rows = session.rows("observe", &SQL, QUERY_DEADLINE).await?;
        let answer = rows.last().and_then(|row| row.get(0)).unwrap_or_default();
        let seen: Seen = serde_json::from_str(answer).map_err(|error| super::Error::Io {
            what: "read the observation".into(),
            source: error.into(),
        })?;
        // After the statement: the timeline it names is then the statement's or a later one on the same way.
        let identity = Identity::of(session, QUERY_DEADLINE).await?;
        if let Ok(mut admin) = self.admin.try_lock() {
            // Kept open for changes; whether it could be opened shows when it is needed.
            let _ = admin.session(&self.layout, self.config.port).await;
        }
        if !seen.in_recovery {
            return Ok(Observation::Primary(Box::new(self.primary(seen, identity)?)));
        }
        let (event, started) = startup_process(&rows);
        if event.is_some_and(|event| EXHAUSTED.contains(&event)) {
            *exhausted = started.map(str::to_owned);
        }
        // A receiver is requested only when pg_wal has nothing more, and that is when the LSN is first set.
        let complete = seen.receive_lsn.is_some() || (started.is_some() && exhausted.as_deref() == started);
        Ok(Observation::Standby(Box::new(self.standby(seen, identity, complete)?)))
    }

    fn primary(&self, seen: Seen, identity: Identity) -> Result<Primary> {
        Ok(Primary {
            system_id: identity.system_id,
            timeline: identity.timeline,
            flush_lsn: identity.lsn,
            history: self.history(identity.timeline)?,
            synchronous_standby_names: seen.synchronous_standby_names,
            admission: self.admission(seen.admission.as_deref()),
            walsenders: seen.walsenders,
            slots: seen.slots,
            activity: seen.activity,
            about: seen.about,
        })
    }

    fn standby(&self, seen: Seen, identity: Identity, complete: bool) -> Result<Standby> {
        let (history, position) = match self.position(&seen, identity)? {
            Some((history, position)) => (Some(history), Some(position)),
            None => (None, None),
        };
        Ok(Standby {
            system_id: identity.system_id,
            receive_lsn: seen.receive_lsn,
            replay_lsn: seen.replay_lsn,
            receiver_present: seen.receiver_present,
            streaming: seen.streaming,
            complete,
            position,
            history,
            following: self.following(&seen.conninfo),
            synchronous_standby_names: seen.synchronous_standby_names,
            admission: self.admission(seen.admission.as_deref()),
            walsenders: seen.walsenders,
            slots: seen.slots,
            about: seen.about,
        })
    }

    /// Whom the server follows or will follow at its next reload: a file that names an upstream may be read any moment.
    fn following(&self, conninfo: &str) -> Option<String> {
        let name = |conninfo: &str| conninfo_value(conninfo, "application_name");
        name(conninfo).or_else(|| name(&self.dynamic().primary_conninfo))
    }

    /// Where the WAL on this disk ends.
    ///
    /// `identity.lsn` is the receive LSN where the receiver is on replay's timeline, else the replay LSN. So once it has
    /// reached what we saw, that lies on the way to replay's timeline. Otherwise the receiver has gone ahead to a later
    /// timeline (replay stands still at the switch), which it names while it lives; afterwards it is the one later
    /// timeline in pg_wal that the replayed WAL is a beginning of.
    fn position(&self, seen: &Seen, identity: Identity) -> Result<Option<(History, Position)>> {
        let Some(lsn) = seen.receive_lsn.max(seen.replay_lsn) else { return Ok(None) };
        let answer = |history: History| {
            let timeline = history.timeline_at(lsn);
            (history, Position { timeline, lsn })
        };
        if identity.lsn >= lsn {
            let whole = self.without_piece(identity.timeline, seen.replay_lsn, lsn);
            return Ok(self.history(identity.timeline)?.map(|history| {
                let timeline = history.timeline_at(whole);
                (history, Position { timeline, lsn: whole })
            }));
        }
        let leads_on = |history: &History| history.contains(identity.timeline, identity.lsn, lsn);
        if let Some(received) = seen.received_tli.filter(|received| *received > identity.timeline) {
            return Ok(self.history(received)?.filter(leads_on).map(answer));
        }
        let mut candidates = Vec::new();
        for (timeline, empty) in self.history_files()? {
            if timeline > identity.timeline && !empty {
                candidates.extend(self.history(timeline)?.filter(leads_on));
            }
        }
        match candidates.pop() {
            Some(only) if candidates.is_empty() => Ok(Some(answer(only))),
            _ => Ok(None),
        }
    }
}

impl Server {
    /// As the server says, unless the fencer has closed it without a word to the configuration.
    fn admission(&self, word: Option<&str>) -> Option<Admission> {
        if self.is_fenced() {
            return Some(Admission::Quarantined);
        }
        [Admission::Open, Admission::Quarantined].into_iter().find(|admission| Some(admission.word()) == word)
    }

    /// `end`, or the replay LSN when what was received beyond it is only the beginning of a record.
    fn without_piece(&self, timeline: Timeline, replay: Option<Lsn>, end: Lsn) -> Lsn {
        let Some(replay) = replay.filter(|replay| *replay < end) else { return end };
        let Ok(control) = control::read(&self.layout.data) else { return end };
        let segment = u64::from(control.wal_segment_bytes);
        match wal::is_only_a_piece(&self.layout.wal(), timeline, replay, end, segment) {
            true => replay,
            false => end,
        }
    }
}

/// What the startup process waits for, and the postmaster's start time. Neither when there is none: on a standby whose
/// replay has just failed, sessions that are open go on answering for a moment.
fn startup_process(rows: &[Row]) -> (Option<&str>, Option<&str>) {
    match rows {
        [startup, _observation] => (startup.get(0), startup.get(1)),
        _ => (None, None),
    }
}

/// `startup recovering 000000010000000000000003`, as the process calls itself.
fn startup_title(postmaster: i32) -> String {
    let titles = process::children(postmaster).into_iter().map(|(_, title)| title);
    let startup = titles.filter_map(|title| title.find("startup").map(|at| title[at..].to_owned())).next();
    startup.unwrap_or_else(|| "starting".into())
}
