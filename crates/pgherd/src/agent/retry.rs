//! When a piece of work may be done again: failures back off, successes do not spin.

use std::time::Duration;

use tokio::time::Instant;

/// A failed piece of work is not tried again at once, and after each further failure twice as late.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// No later than this: the cause may be gone, and somebody waits.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// What succeeded is not done again at once either: by then it has been seen.
const REPEAT_AFTER: Duration = Duration::from_millis(20);

/// When a kind of work may be done again.
pub(super) struct Retry {
    /// In a row.
    pub(super) failures: u32,
    pub(super) at: Instant,
}

impl Retry {
    pub(super) fn after(failures: u32) -> Retry {
        let pause = match failures {
            0 => REPEAT_AFTER,
            _ => RETRY_AFTER.saturating_mul(1 << (failures.min(10) - 1)).min(RETRY_AFTER_MAX),
        };
        Retry { failures, at: Instant::now() + pause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_back_off_to_a_bound() {
        let pause = |failures| Retry::after(failures).at.duration_since(Instant::now());
        assert!(pause(0) <= REPEAT_AFTER && pause(1) <= RETRY_AFTER);
        assert!(pause(3) > RETRY_AFTER * 3);
        assert!(pause(u32::MAX) <= RETRY_AFTER_MAX);
    }
}
