//! This node's place in the cluster, by the agent's own view: fencing, the sync set, the store, the configuration.

use brain::{FencerState, OnLastStandbyLost, Postgres, View};

use super::Subject;
use super::finding::Finding;
use crate::agent::Reload;
use crate::config::Watchdog;
use crate::store::Standing;

pub(super) fn fencer(subject: &Subject) -> Vec<Finding> {
    let Some(view) = subject.view().filter(|view| view.is_full()) else { return Vec::new() };
    let open = view.serving().is_some_and(|(_, primary)| !primary.quarantined);
    let serves = view.settings.full.len() > 1 && open;
    vec![judge_fencer(view.fencer.state, view.fencer.obstacle.as_deref(), serves)]
}

/// `serves`: clients are admitted here as at a primary that somebody else could take over from.
fn judge_fencer(state: FencerState, obstacle: Option<&str>, serves: bool) -> Finding {
    let why = "if this agent froze, its primary would go on answering reads after another has taken over";
    match state {
        _ if obstacle.is_some() => Finding::error(
            format!("this node may not serve as primary: {}", obstacle.unwrap_or_default()),
            "a takeover to it would not open",
            "docs/concepts/fencing.md",
        ),
        FencerState::Missing => Finding::error(
            "no fencer runs",
            why,
            "pgherd events, then this node's log; the agent starts another",
        ),
        FencerState::Fencing => Finding::error(
            "the fencer takes PostgreSQL out of service",
            "the primary's lease has run out while clients were connected",
            "pgherd events",
        ),
        FencerState::Armed => Finding::ok("the fencer runs and is armed"),
        FencerState::Idle if serves => {
            Finding::error("the fencer runs and is not armed", why, "pgherd events, then this node's log")
        }
        FencerState::Idle => Finding::ok("the fencer runs and has nothing to fence"),
        FencerState::Unknown => Finding::unknown("whether the fencer runs"),
    }
}

pub(super) fn watchdog(subject: &Subject) -> Vec<Finding> {
    if subject.worker.is_none() {
        return Vec::new();
    }
    let fencing = &subject.config.fencing;
    let usable = rustix::fs::access(fencing.device.as_str(), rustix::fs::Access::WRITE_OK);
    let usable = usable.map_err(|error| error.to_string());
    vec![judge_watchdog(fencing.watchdog, &fencing.device, usable).unless_shared(subject.shared)]
}

fn judge_watchdog(wanted: Watchdog, device: &str, usable: Result<(), String>) -> Finding {
    let next =
        "load its driver (modprobe softdog has one for every machine) and let pgherd's user write to it";
    match (wanted, usable) {
        (Watchdog::Off, _) => Finding::ok("no watchdog is asked for ([fencing] watchdog is off)"),
        (_, Ok(())) => Finding::ok(format!("the watchdog {device} can be used")),
        (Watchdog::Automatic, Err(error)) => Finding::warning(
            format!("the watchdog {device} cannot be used: {error}"),
            "nothing resets a machine whose agent and fencer hang together",
            next,
        ),
        (Watchdog::Required, Err(error)) => Finding::error(
            format!("the watchdog {device} is required and cannot be used: {error}"),
            "pgherd's next start fails, and this node admits no clients as primary",
            next,
        ),
    }
}

pub(super) fn sync_set(subject: &Subject) -> Vec<Finding> {
    let Some(view) = subject.view() else { return Vec::new() };
    // The primary knows best whom it hears; everybody else would only say the same again.
    let record = view.record().filter(|record| record.node == view.me && !record.head);
    if record.is_none() || !matches!(view.postgres, Postgres::Primary(_)) {
        return Vec::new();
    }
    let heard: Vec<_> = view.fresh_peers().map(|status| &status.node).collect();
    let (members, k) = view.sync().map_or((Vec::new(), 0), |sync| {
        (sync.set.members.iter().map(|member| member.node()).collect(), sync.set.k)
    });
    let seen = SyncSeen {
        k,
        wanted: view.k_wanted(),
        members: members.len(),
        reachable: members.iter().filter(|member| heard.contains(member)).count(),
        blocks: view.settings.on_last_standby_lost == OnLastStandbyLost::Block,
        full: view.settings.full.len(),
        voters: view.settings.voters.len(),
    };
    judge_sync_set(&seen)
}

struct SyncSeen {
    /// How many members must flush a commit now, and how many should.
    k: usize,
    wanted: usize,
    members: usize,
    /// Members that the primary hears.
    reachable: usize,
    /// Commits wait rather than go unconfirmed.
    blocks: bool,
    full: usize,
    voters: usize,
}

fn judge_sync_set(seen: &SyncSeen) -> Vec<Finding> {
    let SyncSeen { k, wanted, members, reachable, blocks, full, voters } = *seen;
    let mut findings = Vec::new();
    if full == 1 {
        let why = "nobody can take over when it fails";
        return vec![Finding::warning("this is the cluster's only server", why, "pgherd member add")];
    }
    if voters == 2 {
        findings.push(Finding::warning(
            "two nodes vote, and no third",
            "when either is lost the other has no majority: nobody takes over, and writes stop",
            "add a witness on a third machine: pgherd member add",
        ));
    }
    let what = format!("{reachable} of {members} members of the sync set are heard, {k} must flush a commit");
    findings.push(if wanted == 0 {
        Finding::ok("replication is asynchronous, as configured (sync.standbys is 0)")
    } else if k < wanted {
        Finding::error(
            format!("commits are acknowledged with {k} standbys, {wanted} are asked for"),
            "a commit that only the primary has is lost with its disk",
            "bring a standby back: pgherd status says what each is doing",
        )
    } else if reachable < k {
        Finding::error(
            what,
            "commits wait for members that are not heard",
            "pgherd status says what each is doing",
        )
    } else if reachable == k && blocks {
        Finding::warning(
            what,
            "the restart or loss of one of them makes commits wait until it is back",
            "add a standby (pgherd member add), or accept it: sync.on_last_standby_lost = \"degrade\"",
        )
    } else {
        Finding::ok(what)
    });
    findings
}

pub(super) fn store(subject: &Subject) -> Vec<Finding> {
    vec![judge_store(subject.seats.standing, subject.seats.trouble.as_deref())]
}

fn judge_store(standing: Standing, trouble: Option<&str>) -> Finding {
    let why = "one vote less: the loss of another node may leave no majority, and then nobody takes over";
    match (trouble, standing) {
        (Some(trouble), _) => Finding::error(
            format!("the store of this node takes no part: {trouble}"),
            why,
            "docs/concepts/membership.md",
        ),
        (None, Standing::Voter) => Finding::ok("the store of this node votes"),
        (None, Standing::Removed) => Finding::error(
            "this node was removed from the cluster",
            "it takes no part any more",
            "stop its pgherd, or add it again: pgherd member add",
        ),
        (None, Standing::Newcomer | Standing::Learner) => Finding::warning(
            "the store of this node does not vote yet",
            why,
            "pgherd member list; it joins by itself once it has caught up",
        ),
    }
}

pub(super) fn configuration(subject: &Subject) -> Vec<Finding> {
    let newest = match subject.applier.record() {
        Ok(record) => record.newest.config.number,
        Err(error) => return vec![Finding::unknown(format!("the cluster's configuration: {error:#}"))],
    };
    let mut findings = vec![judge_applied(newest, subject.applier.applied())];
    let pending = subject.view().map(|view| view.condition.pending.as_slice()).unwrap_or_default();
    findings.extend(pending.iter().map(|setting| {
        let note = setting.note.as_ref().map(|note| format!("; {note}")).unwrap_or_default();
        Finding::warning(
            format!("{} is {} and becomes {} with a restart{note}", setting.name, setting.old, setting.new),
            "what was configured is not in force",
            format!("pgherd restart {}", subject.config.node.name),
        )
    }));
    findings
}

fn judge_applied(newest: u64, applied: u64) -> Finding {
    if applied >= newest {
        return Finding::ok(match newest {
            0 => "nothing is set for all nodes".to_owned(),
            _ => format!("the cluster's configuration {newest} is applied"),
        });
    }
    Finding::warning(
        format!("the cluster's configuration {newest} is not applied here; {applied} is"),
        "this node is configured otherwise than the others",
        "pgherd config diff; pgherd requests says why it was not applied",
    )
}

pub(super) fn burdens(subject: &Subject) -> Vec<Finding> {
    subject.view().map(judge_burdens).unwrap_or_default()
}

fn judge_burdens(view: &View) -> Vec<Finding> {
    let condition = &view.condition;
    let mut findings = Vec::new();
    if condition.disk_full {
        findings.push(Finding::error(
            "a disk is full",
            "this node does not take over, and its server may have ended",
            "make room; it goes on by itself",
        ));
    }
    if condition.crowded {
        findings.push(Finding::error(
            "clients hold every connection of PostgreSQL",
            "nobody else gets in",
            "end some sessions, lower [proxy] pool_size, or raise max_connections",
        ));
    }
    if condition.hung {
        findings.push(Finding::error(
            "PostgreSQL answers no new connection",
            "it hangs",
            "pgherd events; see its disks",
        ));
    }
    findings.extend(condition.stuck.iter().map(|stuck| {
        Finding::error(
            stuck.clone(),
            "this node has given up coming back by itself",
            "pgherd status; pgherd reinit NODE",
        )
    }));
    findings.extend(condition.lost.iter().map(|lost| {
        Finding::warning(
            format!("{} transactions left history at {} ({})", lost.transactions, lost.fork, lost.at),
            "they were committed on an old primary and are in nobody's data now",
            format!("read {}, then move its folder away", lost.listed),
        )
    }));
    if condition.outgrown {
        findings.push(Finding::warning(
            "replay has stopped: the primary's settings are larger",
            "this node falls behind until it is restarted",
            "it is restarted by itself; else: pgherd restart NODE",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("nothing burdens the node"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Mark;
    use super::*;

    #[test]
    fn a_primary_that_serves_has_an_armed_fencer() {
        for (state, serves, mark) in [
            (FencerState::Armed, true, Mark::Ok),
            (FencerState::Idle, false, Mark::Ok),
            (FencerState::Idle, true, Mark::Error),
            (FencerState::Missing, false, Mark::Error),
            (FencerState::Fencing, true, Mark::Error),
            (FencerState::Unknown, false, Mark::Unknown),
        ] {
            assert_eq!(judge_fencer(state, None, serves).mark, mark, "{state:?} {serves}");
        }
        assert_eq!(judge_fencer(FencerState::Armed, Some("no device"), true).mark, Mark::Error);
    }

    #[test]
    fn a_watchdog_matters_where_it_was_asked_for() {
        let refused = || Err("no such device".to_owned());
        assert_eq!(judge_watchdog(Watchdog::Off, "/w", refused()).mark, Mark::Ok);
        assert_eq!(judge_watchdog(Watchdog::Automatic, "/w", refused()).mark, Mark::Warning);
        assert_eq!(judge_watchdog(Watchdog::Required, "/w", refused()).mark, Mark::Error);
        assert_eq!(judge_watchdog(Watchdog::Required, "/w", Ok(())).mark, Mark::Ok);
    }

    #[test]
    fn the_sync_set_has_one_to_spare() {
        let sound =
            || SyncSeen { k: 1, wanted: 1, members: 2, reachable: 2, blocks: true, full: 3, voters: 3 };
        let marks = |seen: SyncSeen| -> Vec<Mark> {
            judge_sync_set(&seen).iter().map(|finding| finding.mark).collect()
        };
        assert_eq!(marks(sound()), [Mark::Ok]);
        assert_eq!(marks(SyncSeen { reachable: 1, ..sound() }), [Mark::Warning]);
        assert_eq!(marks(SyncSeen { reachable: 1, blocks: false, ..sound() }), [Mark::Ok]);
        assert_eq!(marks(SyncSeen { reachable: 0, ..sound() }), [Mark::Error]);
        assert_eq!(marks(SyncSeen { k: 0, ..sound() }), [Mark::Error]);
        assert_eq!(marks(SyncSeen { k: 0, wanted: 0, ..sound() }), [Mark::Ok]);
        let pair = SyncSeen { members: 1, reachable: 1, full: 2, voters: 2, ..sound() };
        assert_eq!(marks(pair), [Mark::Warning, Mark::Warning]);
        assert_eq!(marks(SyncSeen { full: 1, voters: 1, ..sound() }), [Mark::Warning]);
    }

    #[test]
    fn votes_and_configurations() {
        assert_eq!(judge_store(Standing::Voter, None).mark, Mark::Ok);
        assert_eq!(judge_store(Standing::Voter, Some("its disk")).mark, Mark::Error);
        assert_eq!(judge_store(Standing::Learner, None).mark, Mark::Warning);
        assert_eq!(judge_store(Standing::Removed, None).mark, Mark::Error);
        assert_eq!(judge_applied(3, 3).mark, Mark::Ok);
        assert_eq!(judge_applied(0, 0).mark, Mark::Ok);
        assert_eq!(judge_applied(3, 2).mark, Mark::Warning);
    }
}
