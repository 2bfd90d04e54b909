//! The two clocks of a node: one that leases may be counted on, one for people.
//!
//! Leases and ages are counted on CLOCK_BOOTTIME, which goes on while the machine is suspended: with
//! CLOCK_MONOTONIC (`std::time::Instant`) a laptop or a paused virtual machine would wake up believing that its
//! lease has hardly aged. Values are comparable on one machine between two boots and nowhere else, so no message
//! to another node may carry one as if it were a time.
//!
//! Wall time is for events and logs, and for what people ask for by the clock (a switchover at a time, the end of a
//! pause); nothing that keeps data safe may be decided by it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since this machine booted, suspension included. Never goes back.
pub fn boottime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    // The kernel gives non-negative seconds and nanoseconds below 10⁹ for this clock.
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// [`boottime`] in whole milliseconds, the unit of the brain's View.
pub fn boot_millis() -> u64 {
    // 2⁶⁴ milliseconds are 584 million years.
    boottime().as_millis() as u64
}

/// The wall clock, for what people read.
pub fn wall() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// The wall clock in whole seconds since 1970.
pub fn wall_seconds() -> u64 {
    // A clock before 1970 is set wrong; 0 then fires nothing early.
    wall().as_second().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boottime_never_goes_back_and_agrees_with_the_kernel() {
        let mut last = boottime();
        for _ in 0..1000 {
            let now = boottime();
            assert!(now >= last);
            last = now;
        }
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        assert!((boottime().as_secs_f64() - seconds).abs() < 60.0);
    }
}
