//! The kernel and the limits that it sets for us. Each check says where its reason comes from.

use std::fs;

use rustix::process::{Resource, getrlimit};

use super::Subject;
use super::finding::{Finding, size};

/// Of our listeners: tokio's and the proxy's own. The kernel cuts them to `net.core.somaxconn` (listen(2)).
const BACKLOG: u64 = 1024;

/// Files that are no sessions: the store, logs, ports, pools' idle servers, PostgreSQL's pidfd and sockets.
const FILES_BESIDE_SESSIONS: u64 = 256;

/// An agent is some 30 MB; what is swapped out of it in passing is less than this.
const SWAPPED_BYTES_MAX: u64 = 8 << 20;

fn text(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

pub(super) fn memory(subject: &Subject) -> Vec<Finding> {
    let overcommit = text("/proc/sys/vm/overcommit_memory").and_then(|text| text.parse().ok());
    let pid = fs::read_to_string(subject.config.data_dir().join("postmaster.pid")).ok();
    let pid = pid.and_then(|text| text.lines().next()?.trim().parse::<i32>().ok());
    let score = pid.and_then(|pid| text(&format!("/proc/{pid}/oom_score_adj"))?.parse().ok());
    vec![judge_memory(overcommit, score).unless_shared(subject.shared)]
}

/// PostgreSQL's manual, "Linux Memory Overcommit": the OOM killer that takes the postmaster ends the server, which strict
/// overcommit or a negative score prevents. `score` is the postmaster's `oom_score_adj`, -1000 to 1000.
fn judge_memory(overcommit: Option<u8>, score: Option<i32>) -> Finding {
    match (overcommit, score) {
        (Some(2), _) => Finding::ok("memory is not overcommitted (vm.overcommit_memory is 2)"),
        (_, Some(score)) if score < 0 => {
            Finding::ok(format!("the OOM killer spares the postmaster (oom_score_adj {score})"))
        }
        (Some(mode), Some(score)) => Finding::warning(
            format!(
                "the OOM killer may end PostgreSQL (vm.overcommit_memory is {mode}, the postmaster's oom_score_adj {score})"
            ),
            "a primary that is killed for memory costs a takeover, and every session on it",
            "sysctl -w vm.overcommit_memory=2, or run pgherd by the package's unit, which protects the postmaster",
        ),
        _ => Finding::unknown("whether the OOM killer may end PostgreSQL"),
    }
}

pub(super) fn huge_pages(subject: &Subject) -> Vec<Finding> {
    let mode = text("/sys/kernel/mm/transparent_hugepage/enabled");
    vec![judge_huge_pages(mode.as_deref()).unless_shared(subject.shared)]
}

/// PostgreSQL's manual on `huge_pages`: transparent ones have degraded performance for some, "so its use is currently
/// discouraged". `mode` as the kernel writes it: `always [madvise] never`.
fn judge_huge_pages(mode: Option<&str>) -> Finding {
    let chosen = mode.and_then(|mode| mode.split_once('[')?.1.split_once(']')).map(|(chosen, _)| chosen);
    match chosen {
        Some("always") => Finding::warning(
            "transparent huge pages are used for everything (always)",
            "PostgreSQL's manual discourages them: the kernel may stall sessions while it makes them",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        Some(chosen) => Finding::ok(format!("transparent huge pages: {chosen}")),
        None => Finding::unknown("whether transparent huge pages are used"),
    }
}

pub(super) fn swap(_: &Subject) -> Vec<Finding> {
    let status = text("/proc/self/status");
    let swapped = status.as_deref().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("VmSwap:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    vec![judge_swap(swapped.map(|kilobytes| kilobytes << 10))]
}

/// A heartbeat that waits for a page from disk comes late, and late heartbeats end a lease.
fn judge_swap(swapped: Option<u64>) -> Finding {
    match swapped {
        Some(bytes) if bytes > SWAPPED_BYTES_MAX => Finding::warning(
            format!("{} of pgherd itself are swapped out", size(bytes)),
            "heartbeats that wait for the swap disk come late, and a late primary loses its lease",
            "make room in memory (free -m), then: pgherd relaunch",
        ),
        Some(bytes) => Finding::ok(format!("{} of pgherd itself are swapped out", size(bytes))),
        None => Finding::unknown("whether pgherd is swapped out"),
    }
}

pub(super) fn backlog(_: &Subject) -> Vec<Finding> {
    vec![judge_backlog(text("/proc/sys/net/core/somaxconn").and_then(|text| text.parse().ok()))]
}

/// listen(2): a backlog beyond `net.core.somaxconn` is cut to it in silence.
fn judge_backlog(somaxconn: Option<u64>) -> Finding {
    match somaxconn {
        Some(limit) if limit < BACKLOG => Finding::warning(
            format!("net.core.somaxconn is {limit}, pgherd's ports want {BACKLOG}"),
            "when all clients come back after a takeover, those beyond it wait a second or more for another try",
            "sysctl -w net.core.somaxconn=4096, then: pgherd relaunch",
        ),
        Some(limit) => Finding::ok(format!("net.core.somaxconn is {limit}")),
        None => Finding::unknown("net.core.somaxconn"),
    }
}

pub(super) fn files(subject: &Subject) -> Vec<Finding> {
    let sessions = u64::from(subject.config.proxy.sessions_max);
    vec![judge_files(getrlimit(Resource::Nofile).current, sessions).unless_shared(subject.shared)]
}

/// A session has a socket to its client and at most one to a server. `limit` of `None` is no limit.
fn judge_files(limit: Option<u64>, sessions_max: u64) -> Finding {
    let needed = 2 * sessions_max + FILES_BESIDE_SESSIONS;
    match limit {
        Some(limit) if limit < needed => Finding::warning(
            format!("pgherd may open {limit} files, {sessions_max} sessions need {needed}"),
            "sessions beyond it are refused although [proxy] sessions_max admits them, and the node's own connections fail with them",
            format!(
                "raise the limit (LimitNOFILE={needed} in the unit, ulimit -n), or lower [proxy] sessions_max"
            ),
        ),
        Some(limit) => Finding::ok(format!("pgherd may open {limit} files ({needed} are needed)")),
        None => Finding::ok("pgherd may open any number of files"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mark;
    use super::*;

    #[test]
    fn either_protection_from_the_oom_killer_will_do() {
        for (overcommit, score, mark) in [
            (Some(2), Some(0), Mark::Ok),
            (Some(0), Some(-900), Mark::Ok),
            (Some(0), Some(0), Mark::Warning),
            (Some(1), Some(200), Mark::Warning),
            (None, Some(0), Mark::Unknown),
            (Some(0), None, Mark::Unknown),
        ] {
            assert_eq!(judge_memory(overcommit, score).mark, mark, "{overcommit:?} {score:?}");
        }
        assert_eq!(judge_memory(Some(0), Some(0)).unless_shared(true).mark, Mark::Ok);
    }

    #[test]
    fn limits_are_held_against_what_is_needed() {
        assert_eq!(judge_files(Some(10_256), 5_000).mark, Mark::Ok);
        let few = judge_files(Some(10_255), 5_000);
        assert_eq!(few.mark, Mark::Warning);
        assert!(few.next.unwrap().contains("LimitNOFILE=10256"));
        assert_eq!(judge_files(None, 5_000).mark, Mark::Ok);
        assert_eq!(judge_backlog(Some(128)).mark, Mark::Warning);
        assert_eq!(judge_backlog(Some(4096)).mark, Mark::Ok);
        assert_eq!(judge_swap(Some(64 << 20)).mark, Mark::Warning);
        assert_eq!(judge_swap(Some(0)).mark, Mark::Ok);
        assert_eq!(judge_huge_pages(Some("[always] madvise never")).mark, Mark::Warning);
        assert_eq!(judge_huge_pages(Some("always [madvise] never")).mark, Mark::Ok);
        assert_eq!(judge_huge_pages(None).mark, Mark::Unknown);
    }
}
