//! The server as the brain's [`Postgres`]: what it says, joined with what this process knows of it.

use std::time::{Duration, Instant};

use brain::{MemberId, Position, Postgres, Primary, Standby, Term, Upstream, Walsender};
use wire::{History, Lsn, Timeline};

use super::work::{Known, Worker, is_ours};
use crate::postgres::{self, Admission, DataState, Observation};

/// A write probe a second would do for a `failure_timeout` of two; twice that shows trouble sooner.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// A probe that takes longer has failed: as long as the shortest `failure_timeout` allows.
const PROBE_DEADLINE: Duration = Duration::from_millis(500);

/// For so long a server that gave no answer is taken to be as it was: the shortest `failure_timeout`.
const SILENCE_MAX: Duration = Duration::from_millis(500);

/// Every so many write probes, a new connection: a hung postmaster answers old ones.
const CONNECTION_EVERY: u32 = 2;

/// Probes whose flush by the set has not been seen yet; at two a second, half a minute of them.
const UNCONFIRMED_MAX: usize = 64;

impl Worker {
    pub async fn observe(&self) -> Postgres {
        let reason = match self.server.observe().await {
            Ok(Observation::Down) => return self.stopped(),
            Ok(Observation::Starting { .. } | Observation::Stopping) => return Postgres::Starting,
            Ok(Observation::Unresponsive { reason }) => reason,
            Ok(Observation::Standby(standby)) => return self.answered(Self::standby, *standby),
            Ok(Observation::Primary(primary)) => return self.answered(Self::primary, *primary),
            Err(error) => error.to_string(),
        };
        tracing::warn!(reason, "PostgreSQL gave no answer");
        self.silent()
    }

    fn answered<T>(&self, read: impl Fn(&Self, T) -> Postgres, seen: T) -> Postgres {
        let postgres = read(self, seen);
        self.known().answer = Some((Instant::now(), postgres.clone()));
        postgres
    }

    /// One missed look proves nothing: the last answer stands for a moment, its probes' ages growing.
    fn silent(&self) -> Postgres {
        let known = self.known();
        match &known.answer {
            Some((at, Postgres::Primary(primary))) if at.elapsed() < SILENCE_MAX => {
                let mut primary = primary.clone();
                primary.write_age_ms = known.write.map(|(at, _)| age_ms(at));
                primary.probe_age_ms = known.confirmed.map(age_ms);
                Postgres::Primary(primary)
            }
            Some((at, postgres)) if at.elapsed() < SILENCE_MAX => postgres.clone(),
            _ => Postgres::Unknown,
        }
    }

    fn stopped(&self) -> Postgres {
        let known = self.known();
        match self.server.data_state() {
            DataState::Absent | DataState::Empty => Postgres::Empty,
            // The words say that it is being rewound: it is not started, and copied anew once rewinding fails.
            DataState::RewindUnfinished => Postgres::Stopped,
            DataState::Unusable { reason } => Postgres::Unusable(reason),
            DataState::Ours(control) => {
                let data = self.server.layout.data.display();
                if known.member.is_none() {
                    return Postgres::Unusable(format!(
                        "{data} holds a PostgreSQL that pgherd did not make; give this node an empty directory, or move it away"
                    ));
                }
                match known.system_id {
                    Some(cluster) if cluster != control.system_id => Postgres::Unusable(format!(
                        "{data} has system identifier {}, the cluster {cluster}: it is another cluster's; move it away",
                        control.system_id
                    )),
                    _ => Postgres::Stopped,
                }
            }
        }
    }

    fn standby(&self, seen: postgres::Standby) -> Postgres {
        let mut known = self.known();
        let upstream = seen.following.as_deref().map(|name| pointed_at(name, known.upstream.as_ref()));
        if seen.streaming || upstream.is_none() {
            known.stalled_since = None;
        } else {
            known.stalled_since.get_or_insert_with(Instant::now);
        }
        let stalled_ms = known.stalled_since.map_or(0, |since| since.elapsed().as_millis() as u64);
        let position = seen.position.map(|p| Position { timeline: p.timeline, lsn: p.lsn });
        Postgres::Standby(Standby {
            system_id: seen.system_id,
            upstream,
            receiver: seen.receiver_present,
            streaming: seen.streaming,
            // A position that cannot be told is no answer; nothing else reads it then.
            complete: seen.complete && position.is_some(),
            position: position.unwrap_or(Position { timeline: Timeline::FIRST, lsn: Lsn::ZERO }),
            replay: seen.replay_lsn.unwrap_or_default(),
            quarantined: seen.admission != Some(Admission::Open),
            stalled_ms,
        })
    }

    fn primary(&self, seen: postgres::Primary) -> Postgres {
        let mut known = self.known();
        let walsenders: Vec<Walsender> = seen.walsenders.iter().filter_map(walsender).collect();
        let end_of_recovery = *known.end_of_recovery.get_or_insert(seen.flush_lsn);
        let mut primary = Primary {
            system_id: seen.system_id,
            history: seen.history.unwrap_or_else(|| History::root(seen.timeline)),
            flush: seen.flush_lsn,
            quarantined: seen.admission != Some(Admission::Open),
            prepared: known.prepared,
            end_of_recovery,
            applied: known.applied.clone(),
            walsenders,
            slots: seen
                .slots
                .into_iter()
                .filter(|s| s.slot_type == "physical")
                .map(|s| s.slot_name)
                .collect(),
            activity: brain::Activity {
                busy_sessions: seen.activity.busy_sessions,
                oldest_transaction_ms: seen.activity.oldest_transaction_ms.unsigned_abs(),
                unarchived: seen.activity.unarchived,
            },
            write_age_ms: None,
            probe_age_ms: None,
        };
        primary.slots.retain(|slot| is_ours(slot));
        confirm_probes(&mut known, &primary);
        primary.write_age_ms = known.write.map(|(at, _)| age_ms(at));
        primary.probe_age_ms = known.confirmed.map(age_ms);
        Postgres::Primary(primary)
    }

    /// Probes the server while it is a primary, on connections of their own: a hang there shows in the ages only.
    pub async fn probe_forever(&self) {
        let mut round = 0u32;
        loop {
            tokio::time::sleep(PROBE_INTERVAL).await;
            if !matches!(self.known().answer, Some((_, Postgres::Primary(_)))) {
                continue;
            }
            round = round.wrapping_add(1);
            let begun = Instant::now();
            if round.is_multiple_of(CONNECTION_EVERY)
                && let Err(error) = self.server.probe_connection(PROBE_DEADLINE).await
                && error.sqlstate().is_none()
            {
                // An answer with an SQLSTATE, such as "too many clients", is an answer.
                tracing::warn!(%error, "PostgreSQL gave a new connection no answer");
                continue;
            }
            match self.server.probe_write(PROBE_DEADLINE).await {
                Ok(lsn) => {
                    let mut known = self.known();
                    known.write = Some((begun, lsn));
                    if known.unconfirmed.len() == UNCONFIRMED_MAX {
                        known.unconfirmed.remove(0);
                    }
                    known.unconfirmed.push((begun, lsn));
                }
                Err(error) => tracing::warn!(%error, "a write probe failed"),
            }
        }
    }

    /// Resolves when the postmaster ends; while none runs, after a moment.
    pub async fn exited(&self) {
        if let Err(error) = self.server.exit_watch().await {
            tracing::warn!(%error, "the postmaster cannot be watched");
        }
    }
}

fn age_ms(at: Instant) -> u64 {
    at.elapsed().as_millis() as u64
}

/// Moves the probes that k of the set have flushed from waiting to confirmed.
fn confirm_probes(known: &mut Known, primary: &Primary) {
    let Some(applied) = known.applied.clone() else { return };
    let flushed = |lsn: Lsn| primary.flushed(&applied.set, applied.term, lsn) >= applied.set.k;
    let newest = known.unconfirmed.iter().rposition(|(_, lsn)| flushed(*lsn));
    if let Some(index) = newest {
        known.confirmed = Some(known.unconfirmed[index].0);
        known.unconfirmed.drain(..=index);
    }
}

fn walsender(seen: &postgres::Walsender) -> Option<Walsender> {
    let (member, term) = MemberId::parse_standby_name(&seen.application_name)?;
    Some(Walsender {
        member,
        term,
        streaming: seen.state.as_deref() == Some("streaming"),
        flush: seen.flush_lsn?,
        replay: seen.replay_lsn.unwrap_or_default(),
    })
}

/// Whom a standby with this application name follows: its files carry the term, the words the node.
fn pointed_at(name: &str, words: Option<&Upstream>) -> Upstream {
    let term = MemberId::parse_standby_name(name).map_or(Term(0), |(_, term)| term);
    match words {
        Some(upstream) if upstream.term == term => upstream.clone(),
        _ => Upstream { node: "".into(), term },
    }
}
