//! What to do now: the fencer's whole judgement, without a clock or a process in it.
//!
//! Graded. Writes are safe by the data quorum, whatever happens here; what a primary past its lease could still do is
//! answer reads that are stale. So first the clients go, and PostgreSQL stays: an agent that was only slow comes back
//! and finds it running. Only when the clients cannot be made to go, or the agent stays away, the server is stopped.

/// A session ends at its next look at signals: at once when idle, within a row when it sends. What has not ended by
/// then hangs, and a server that cannot be emptied is stopped.
const CUT_MS: u64 = 1_000;

/// A fast shutdown writes a checkpoint; nobody waits for this server any more, but its next start is quicker for it.
const FAST_MS: u64 = 5_000;

/// An immediate shutdown writes nothing, and after 5 s the postmaster itself kills what is left.
const IMMEDIATE_MS: u64 = 7_000;

/// How many `failure_timeout`s the agent may stay away before its server is stopped. A takeover is over after three,
/// and an agent that is started again (an upgrade, a supervisor) is back by then; what a server without an agent
/// writes on its own meanwhile (checkpoints, autovacuum) only makes its way back longer.
pub const GRACE_TIMEOUTS: u64 = 5;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// There is nothing to fence.
    Rest,
    /// The deadline is ahead.
    Guard,
    /// Nobody new gets in, and who is in is sent away.
    Cut,
    Stop(Force),
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Force {
    Fast,
    Immediate,
    Kill,
}

/// All that counts, in boot milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub now_ms: u64,
    /// The postmaster that was named lives.
    pub alive: bool,
    /// The agent's last word: the deadline and the grace. `None`: at rest.
    pub armed: Option<(u64, u64)>,
    pub cut_begun_ms: Option<u64>,
    /// The door is closed, and nobody is inside.
    pub empty: bool,
    pub stop_begun_ms: Option<u64>,
}

pub fn step(facts: &Facts) -> Step {
    let Facts { now_ms, alive, cut_begun_ms, empty, stop_begun_ms, .. } = *facts;
    if !alive {
        return Step::Rest;
    }
    let Some((until_ms, grace_ms)) = facts.armed else {
        // An agent that is back may take a door that is closed for a house that is empty: a cut is finished.
        return if cut_begun_ms.is_some() && !empty { Step::Cut } else { Step::Rest };
    };
    if now_ms < until_ms {
        return Step::Guard;
    }
    if let Some(begun_ms) = stop_begun_ms {
        return Step::Stop(match now_ms.saturating_sub(begun_ms) {
            0..FAST_MS => Force::Fast,
            ms if ms < FAST_MS + IMMEDIATE_MS => Force::Immediate,
            _ => Force::Kill,
        });
    }
    let stubborn = !empty && cut_begun_ms.is_some_and(|begun_ms| now_ms - begun_ms.min(now_ms) >= CUT_MS);
    if stubborn || now_ms - until_ms >= grace_ms { Step::Stop(Force::Fast) } else { Step::Cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTIL: u64 = 10_000;

    fn facts(now_ms: u64) -> Facts {
        Facts {
            now_ms,
            alive: true,
            armed: Some((UNTIL, 10_000)),
            cut_begun_ms: None,
            empty: false,
            stop_begun_ms: None,
        }
    }

    #[test]
    fn nothing_happens_before_the_deadline_and_clients_are_cut_at_it() {
        assert_eq!(step(&facts(UNTIL - 1)), Step::Guard);
        assert_eq!(step(&facts(UNTIL)), Step::Cut);
        assert_eq!(step(&Facts { alive: false, ..facts(UNTIL) }), Step::Rest);
        assert_eq!(step(&Facts { armed: None, ..facts(UNTIL) }), Step::Rest);
    }

    #[test]
    fn an_empty_server_is_left_running_until_the_grace_is_over() {
        let cut = |now_ms| Facts { cut_begun_ms: Some(UNTIL), empty: true, ..facts(now_ms) };
        assert_eq!(step(&cut(UNTIL + 9_999)), Step::Cut);
        assert_eq!(step(&cut(UNTIL + 10_000)), Step::Stop(Force::Fast));
    }

    #[test]
    fn clients_that_do_not_go_cost_the_server() {
        let cut = |now_ms| Facts { cut_begun_ms: Some(UNTIL + 50), ..facts(now_ms) };
        assert_eq!(step(&cut(UNTIL + 1_049)), Step::Cut);
        assert_eq!(step(&cut(UNTIL + 1_050)), Step::Stop(Force::Fast));
    }

    #[test]
    fn without_a_data_quorum_it_is_stopped_at_once() {
        assert_eq!(step(&Facts { armed: Some((UNTIL, 0)), ..facts(UNTIL) }), Step::Stop(Force::Fast));
    }

    #[test]
    fn a_stop_grows_harder() {
        let stop = |ms: u64| step(&Facts { stop_begun_ms: Some(20_000), ..facts(20_000 + ms) });
        assert_eq!(stop(4_999), Step::Stop(Force::Fast));
        assert_eq!(stop(5_000), Step::Stop(Force::Immediate));
        assert_eq!(stop(12_000), Step::Stop(Force::Kill));
    }

    #[test]
    fn a_cut_that_has_begun_is_finished_unless_the_lease_is_back() {
        let begun = Facts { cut_begun_ms: Some(UNTIL), ..facts(UNTIL + 100) };
        assert_eq!(step(&Facts { armed: None, ..begun }), Step::Cut);
        assert_eq!(step(&Facts { armed: None, empty: true, ..begun }), Step::Rest);
        assert_eq!(step(&Facts { armed: Some((UNTIL + 2_000, 10_000)), ..begun }), Step::Guard);
    }
}
