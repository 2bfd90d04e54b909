//! The server as the brain's [`Postgres`]: what it says, joined with what this process knows of it.

use std::time::{Duration, Instant};

use brain::{Complaint, MemberId, Position, Postgres, Primary, Standby, Term, Upstream, Walsender};
use wire::{History, Lsn, Timeline};

use super::known::{Known, ReceiverHeard};
use super::stream::Stream;
use super::work::{Worker, is_ours};
use crate::fencer::Identity;
use crate::postgres::{self, Admission, DataState, Method, Observation, ReceiverSays};

/// For so long a server that gave no answer is taken to be as it was: the shortest `failure_timeout`.
const SILENCE_MAX: Duration = Duration::from_millis(500);

/// A receiver that is not let in tries again every 100 ms, and every few seconds when hosts give no answer.
const HEARD_EVERY: Duration = Duration::from_secs(1);

/// What was said longer ago says nothing of now. An attempt takes up to some 7 s for each host that gives no answer, and
/// what `restore_command` takes comes in between.
const HEARD_MAX: Duration = Duration::from_secs(120);

impl Worker {
    pub async fn observe(&self) -> Postgres {
        let reason = match self.server.observe().await {
            Ok(Observation::Down) => {
                self.note_facts(None);
                let ran = self.known().answer.take().is_some();
                if ran {
                    self.hear_last_words().await;
                }
                return self.stopped();
            }
            Ok(Observation::Starting { progress }) => {
                self.note_facts(None);
                self.note_recovery(&progress);
                return Postgres::Starting;
            }
            Ok(Observation::Stopping) => return Postgres::Starting,
            Ok(Observation::Unresponsive { reason }) => reason,
            Ok(Observation::Standby(standby)) => {
                self.note_facts(Some((&*standby).into()));
                self.note_stream(&standby);
                self.hear_receiver(&standby).await;
                return self.answered(Self::standby, *standby);
            }
            Ok(Observation::Primary(primary)) => {
                self.note_facts(Some((&*primary).into()));
                // Known before anybody hears of a primary: the fencer is told of this process and no other.
                let postmaster = self.server.adopt().ok().flatten();
                self.known().postmaster = postmaster.and_then(|found| Identity::of(found.pid));
                return self.answered(Self::primary, *primary);
            }
            Err(error) => error.to_string(),
        };
        tracing::warn!(reason, "PostgreSQL gave no answer");
        self.silent()
    }

    fn answered<T>(&self, read: impl Fn(&Self, T) -> Postgres, seen: T) -> Postgres {
        let postgres = read(self, seen);
        let mut known = self.known();
        known.answer = Some((Instant::now(), postgres.clone()));
        known.burden.recovered();
        drop(known);
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
        let mut known = self.known();
        // There is nothing to probe.
        known.answer = None;
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

    fn note_stream(&self, seen: &postgres::Standby) {
        let mut known = self.known();
        let lsn = seen.position.map(|position| position.lsn);
        known.stream =
            seen.streaming.map(|receiver| Stream::note(known.stream, receiver, lsn, Instant::now()));
    }

    /// Why nothing is received: asked of the log while that is so.
    async fn hear_receiver(&self, seen: &postgres::Standby) {
        if self.known().streams() || seen.following.is_none() {
            self.known().receiver = ReceiverHeard::default();
            return;
        }
        let looked = self.known().receiver.looked;
        if looked.is_some_and(|(at, _)| at.elapsed() < HEARD_EVERY) {
            return;
        }
        // What was said before the first look may have been said of another upstream.
        let (said, end) = self.server.receiver_says(looked.map(|(_, end)| end)).await;
        let now = Instant::now();
        let heard = &mut self.known().receiver;
        heard.looked = Some((now, end));
        match said {
            Some(ReceiverSays::Ended { words, copy_helps }) => {
                heard.complaint = Some((now, Complaint { words, copy_helps }));
            }
            Some(ReceiverSays::Streams) => heard.complaint = None,
            None => heard.complaint = heard.complaint.take().filter(|(at, _)| at.elapsed() < HEARD_MAX),
        }
    }

    fn standby(&self, seen: postgres::Standby) -> Postgres {
        let mut known = self.known();
        let upstream = seen.following.as_deref().map(|name| pointed_at(name, known.upstream.as_ref()));
        if known.streams() || upstream.is_none() {
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
            streaming: known.streams(),
            // A position that cannot be told is no answer; nothing else reads it then.
            complete: seen.complete && position.is_some(),
            position: position.unwrap_or(Position { timeline: Timeline::FIRST, lsn: Lsn::ZERO }),
            replay: seen.replay_lsn.unwrap_or_default(),
            quarantined: seen.admission != Some(Admission::Open),
            stalled_ms,
            complaint: known.receiver.complaint.as_ref().map(|(_, complaint)| complaint.clone()),
            history: seen.history,
            slots: physical(&seen.slots).map(|slot| (slot.slot_name.clone(), slot.active)).collect(),
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
            slots: physical(&seen.slots).map(|slot| slot.slot_name.clone()).collect(),
            activity: brain::Activity {
                busy_sessions: seen.activity.busy_sessions,
                oldest_transaction_ms: seen.activity.oldest_transaction_ms.unsigned_abs(),
                unarchived: seen.activity.archive.map_or(0, |archive| archive.waiting),
                archive_waits_ms: seen.activity.archive.map(|archive| archive.waits_ms.unsigned_abs()),
            },
            write_age_ms: None,
            probe_age_ms: None,
        };
        confirm_probes(&mut known, &primary);
        primary.write_age_ms = known.write.map(|(at, _)| age_ms(at));
        primary.probe_age_ms = known.confirmed.map(age_ms);
        Postgres::Primary(primary)
    }

    /// Resolves when the postmaster ends; while none runs, after a moment.
    pub async fn exited(&self) {
        if let Err(error) = self.server.exit_watch().await {
            tracing::warn!(%error, "the postmaster cannot be watched");
        }
    }
}

/// The cluster's own slots that can be streamed from.
fn physical(slots: &[postgres::Slot]) -> impl Iterator<Item = &postgres::Slot> {
    slots.iter().filter(|slot| {
        slot.slot_type == "physical" && slot.wal_status.as_deref() != Some("lost") && is_ours(&slot.slot_name)
    })
}

fn age_ms(at: Instant) -> u64 {
    at.elapsed().as_millis() as u64
}

/// Moves the probes that k of the set have flushed from waiting to confirmed.
fn confirm_probes(known: &mut Known, primary: &Primary) {
    let Some(applied) = known.applied.clone() else { return };
    let (order, method) = (known.order.clone(), known.method);
    let flushed = |lsn: Lsn| match method {
        Method::Quorum => primary.flushed(&applied.set, applied.term, lsn) >= applied.set.k,
        Method::Priority => first_flushed(primary, &order, applied.term, applied.set.k, lsn),
    };
    let newest = known.unconfirmed.iter().rposition(|(_, lsn)| flushed(*lsn));
    if let Some(index) = newest {
        known.confirmed = Some(known.unconfirmed[index].0);
        known.unconfirmed.drain(..=index);
    }
}

/// The first k of those that stream have all flushed `lsn`: a later one that has does not count.
fn first_flushed(primary: &Primary, order: &[MemberId], term: Term, k: usize, lsn: Lsn) -> bool {
    let sender = |member: &MemberId| {
        primary.walsenders.iter().find(|w| w.member == *member && w.term == term && w.streaming)
    };
    let first: Vec<&Walsender> = order.iter().filter_map(sender).take(k).collect();
    first.len() == k && first.iter().all(|sender| sender.flush >= lsn)
}

fn walsender(seen: &postgres::Walsender) -> Option<Walsender> {
    // Behind an @ stands another cluster, whose members are not ours whatever it is called.
    let (member, term) = MemberId::parse_standby_name(&seen.application_name)
        .filter(|_| !seen.application_name.contains('@'))?;
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
    // Behind an @ stands the cluster, in a name that another cluster sees.
    let own = name.split('@').next().unwrap_or_default();
    let term = MemberId::parse_standby_name(own).map_or(Term(0), |(_, term)| term);
    match words {
        Some(upstream) if upstream.term == term => upstream.clone(),
        _ => Upstream { node: "".into(), term },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_another_cluster_sees_is_no_member_there_and_told_here() {
        let name = format!("{}@west", MemberId("n1_7f3a".into()).standby_name(Term(3)));
        assert_eq!(MemberId::parse_standby_name(&name), None, "the other cluster must not count it");
        let words = Upstream { node: brain::NodeName::origin(), term: Term(3) };
        assert_eq!(pointed_at(&name, Some(&words)), words);
        assert_eq!(pointed_at(&name, None).term, Term(3));
    }
}
