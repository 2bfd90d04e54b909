//! This node's clocks: is the wall clock kept by somebody, and does the clock of leases keep its bound? How far the nodes'
//! wall clocks are apart is asked from outside (`between`).

use std::time::Duration;

use futures_util::future::BoxFuture;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::sync::Arc;
use tokio::process::Command;
use tokio::time::sleep;

use super::Subject;
use super::finding::Finding;

/// Two clocks are read some hundred nanoseconds apart: over this time an error of a millionth.
const RATE_INTERVAL: Duration = Duration::from_millis(200);

/// `timedatectl` asks a service that may have to be started.
const ASK_DEADLINE: Duration = Duration::from_secs(3);

pub(super) fn synchronized(subject: Arc<Subject>) -> BoxFuture<'static, Vec<Finding>> {
    Box::pin(async move {
        let mut command = Command::new("timedatectl");
        let asked =
            command.args(["show", "--property=NTPSynchronized", "--value"]).kill_on_drop(true).output();
        let answer = match tokio::time::timeout(ASK_DEADLINE, asked).await {
            Ok(Ok(output)) if output.status.success() => {
                Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
            }
            _ => None,
        };
        vec![judge_synchronized(answer.as_deref()).unless_shared(subject.shared)]
    })
}

/// `answer` is what timedatectl(1) prints of the kernel's own flag (adjtimex(2), STA_UNSYNC), `None` where it cannot be asked.
fn judge_synchronized(answer: Option<&str>) -> Finding {
    match answer {
        Some("yes") => Finding::ok("the wall clock is synchronized"),
        Some("no") => Finding::warning(
            "the wall clock is not synchronized with a time server",
            "times of events, planned switchovers and now() differ from node to node; leases and commits do not rest on it",
            "install and start chrony or systemd-timesyncd, then: timedatectl",
        ),
        _ => Finding::unknown("whether the wall clock is synchronized (timedatectl does not tell)"),
    }
}

pub(super) fn rate(subject: Arc<Subject>) -> BoxFuture<'static, Vec<Finding>> {
    Box::pin(async move {
        let read = || (clock_gettime(ClockId::Boottime), clock_gettime(ClockId::MonotonicRaw));
        let (boot, raw) = read();
        sleep(RATE_INTERVAL).await;
        let (boot_after, raw_after) = read();
        let percent = percent_off(nanoseconds(boot, boot_after), nanoseconds(raw, raw_after));
        vec![judge_rate(percent, subject.config.failover.drift_percent)]
    })
}

fn nanoseconds(from: Timespec, until: Timespec) -> i64 {
    (until.tv_sec - from.tv_sec) * 1_000_000_000 + (until.tv_nsec - from.tv_nsec)
}

/// How much faster a clock is that counted `corrected` while the machine's own counted `raw`, in percent.
fn percent_off(corrected: i64, raw: i64) -> f64 {
    (corrected - raw) as f64 * 100.0 / raw.max(1) as f64
}

/// Leases are counted on CLOCK_BOOTTIME, whose rate a time server's client may change (adjtimex(2): up to 10 %); they are safe
/// as long as two nodes' rates differ by less than `failover.drift_percent`.
fn judge_rate(percent: f64, bound: u32) -> Finding {
    let bound = f64::from(bound);
    let what = format!("the clock of leases runs {percent:+.4} % beside the machine's own");
    let next = "let the time server's client correct more slowly (chrony: maxslewrate), or raise failover.drift_percent";
    match percent.abs() {
        off if off > bound => Finding::error(
            format!("{what}; failover.drift_percent is {bound}"),
            "a primary could believe in its lease after others have taken over, and answer stale reads",
            next,
        ),
        off if off > bound / 2.0 => Finding::warning(
            format!("{what}; failover.drift_percent is {bound}"),
            "two nodes that are corrected in opposite directions would be beyond the bound together",
            next,
        ),
        _ => Finding::ok(what),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mark;
    use super::*;

    #[test]
    fn a_rate_is_held_against_the_bound_of_drift() {
        assert_eq!(percent_off(1_010_000_000, 1_000_000_000), 1.0);
        for (percent, mark) in
            [(0.05, Mark::Ok), (-0.6, Mark::Warning), (0.9, Mark::Warning), (-1.1, Mark::Error)]
        {
            assert_eq!(judge_rate(percent, 1).mark, mark, "{percent}");
        }
    }

    #[test]
    fn nobody_guesses_whether_a_clock_is_kept() {
        assert_eq!(judge_synchronized(Some("yes")).mark, Mark::Ok);
        assert_eq!(judge_synchronized(Some("no")).mark, Mark::Warning);
        assert_eq!(judge_synchronized(None).mark, Mark::Unknown);
    }
}
