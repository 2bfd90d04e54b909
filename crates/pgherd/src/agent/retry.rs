//! When a piece of work may be done again: failures back off, successes do not spin.

use std::time::Duration;

use brain::Operation;
use tokio::time::Instant;

/// A failed piece of work is not tried again at once, and after each further failure twice as late.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// No later than this: the cause may be gone, and somebody waits.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// Copies and rewinds move gigabytes and load their source: the pause grows to minutes.
const COPY_AFTER: Duration = Duration::from_secs(1);
const COPY_AFTER_MAX: Duration = Duration::from_secs(300);

/// Copies or rewinds in a row that fail before it is left to people: with the pauses above, some 20 minutes of them.
pub(super) const COPIES_MAX: u32 = 12;

/// What succeeded is not done again at once either: by then it has been seen.
const REPEAT_AFTER: Duration = Duration::from_millis(20);

/// When a kind of work may be done again.
pub(super) struct Retry {
    /// In a row.
    pub(super) failures: u32,
    pub(super) at: Instant,
}

impl Retry {
    pub(super) fn after(operation: Operation, failures: u32) -> Retry {
        let (first, most) = match operation {
            Operation::Clone | Operation::Rewind => (COPY_AFTER, COPY_AFTER_MAX),
            _ => (RETRY_AFTER, RETRY_AFTER_MAX),
        };
        let pause = match failures {
            0 => REPEAT_AFTER,
            _ => first.saturating_mul(1 << (failures.min(10) - 1)).min(most),
        };
        Retry { failures, at: Instant::now() + pause }
    }

    /// A failure that is told: the first ones, then ever fewer, so that hours of them leave room for other events.
    pub(super) fn is_told(&self) -> bool {
        self.failures <= 3 || self.failures.is_power_of_two()
    }

    /// It has failed so often that trying again is not worth its load.
    pub(super) fn given_up(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Clone | Operation::Rewind) && self.failures >= COPIES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_back_off_to_a_bound() {
        let pause = |failures| Retry::after(Operation::Start, failures).at.duration_since(Instant::now());
        assert!(pause(0) <= REPEAT_AFTER && pause(1) <= RETRY_AFTER);
        assert!(pause(3) > RETRY_AFTER * 3);
        assert!(pause(u32::MAX) <= RETRY_AFTER_MAX);
    }

    #[test]
    fn copies_are_given_up_and_starts_never() {
        let pauses: Duration = (1..COPIES_MAX)
            .map(|failures| Retry::after(Operation::Clone, failures).at.duration_since(Instant::now()))
            .sum();
        assert!(pauses < Duration::from_secs(30 * 60) && pauses > Duration::from_secs(15 * 60), "{pauses:?}");
        assert!(!Retry::after(Operation::Clone, COPIES_MAX - 1).given_up(Operation::Clone));
        assert!(Retry::after(Operation::Clone, COPIES_MAX).given_up(Operation::Clone));
        assert!(!Retry::after(Operation::Start, u32::MAX).given_up(Operation::Start));
    }

    #[test]
    fn a_thousand_failures_are_a_dozen_events() {
        let told = (1..1000).filter(|failures| Retry::after(Operation::Start, *failures).is_told()).count();
        assert!(told <= 12, "{told}");
    }
}
