//! A modelled server in the brain's words, as an agent's queries would show it.

use brain::Millis;

use crate::agent::Agent;
use crate::server::Server;
use crate::wal::lsn;

pub fn look_primary(server: &Server, agent: &Agent, now: Millis, now_us: u64) -> brain::Primary {
    let history = server.wal.as_ref().map(crate::wal::Wal::history);
    let walsenders = server.senders.iter().map(|sender| brain::Walsender {
        member: sender.member.clone(),
        term: sender.term,
        streaming: sender.streaming,
        flush: lsn(sender.flush.unwrap_or(0)),
        replay: lsn(sender.flush.unwrap_or(0)),
    });
    brain::Primary {
        system_id: crate::world::SYSTEM_ID,
        history: history.unwrap_or_else(|| wire::History::root(wire::Timeline::FIRST)),
        flush: lsn(server.flushed()),
        quarantined: server.files.quarantined,
        prepared: server.roles,
        end_of_recovery: lsn(server.end_of_recovery),
        applied: agent.applied.clone(),
        walsenders: walsenders.collect(),
        slots: server.slots.iter().map(brain::MemberId::slot_name).collect(),
        activity: server.activity(now_us),
        write_age_ms: agent.write_ms.map(|at| now.since(at)),
        probe_age_ms: agent.probe_ms.map(|at| now.since(at)),
    }
}

/// With its history where somebody compares it: in a world with an origin.
pub fn look_standby(server: &Server, now_us: u64, compared: bool) -> brain::Standby {
    let receiver = server.receiver.as_ref().filter(|_| !server.receiver_hidden);
    let streaming = receiver.is_some_and(|receiver| receiver.connected && !receiver.dying);
    let known = if server.complete { server.length() } else { server.replayed };
    let wal = server.wal.as_ref();
    let stalled = server.files.upstream.is_some() && !streaming;
    brain::Standby {
        system_id: crate::world::SYSTEM_ID,
        upstream: server.files.upstream.clone(),
        receiver: receiver.is_some(),
        streaming,
        position: wal
            .map(|wal| wal.position(known))
            .unwrap_or(brain::Position { timeline: wire::Timeline::FIRST, lsn: wire::Lsn::ZERO }),
        replay: lsn(known),
        quarantined: server.files.quarantined,
        complete: server.complete,
        stalled_ms: if stalled { now_us.saturating_sub(server.pointed_us) / 1000 } else { 0 },
        complaint: server.complaint.clone().filter(|_| stalled),
        history: wal.filter(|_| compared).map(|wal| wal.history_of(known)),
        slots: server
            .slots
            .iter()
            .map(|member| (member.slot_name(), server.senders.iter().any(|sender| sender.member == *member)))
            .collect(),
    }
}
