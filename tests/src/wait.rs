//! The one way to wait in a test.

use std::time::{Duration, Instant};

/// How often a condition is looked at: a test ends this much later than it could.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Waits until `condition` gives a value and returns it; panics with `what` when `deadline` passes first.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, condition: impl FnMut() -> Option<T>) -> T {
    let found = wait_at_most(deadline, condition);
    found.unwrap_or_else(|| panic!("waited {} s for {what}", deadline.as_secs_f32()))
}

/// The same for a moment that passes: looked at as often as the machine lets us.
#[track_caller]
pub fn wait_closely<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < deadline, "waited {} s for {what}", deadline.as_secs_f32());
        std::thread::yield_now();
    }
}

/// The same without the panic: `None` when the deadline passes first.
pub fn wait_at_most<T>(deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if started.elapsed() >= deadline {
            return None;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
