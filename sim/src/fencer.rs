//! The fencer beside each agent: a process of its own that knows a deadline and nothing else.
//!
//! What it does: at the end of the lease it cuts the clients; when the agent stays away for a grace longer, it stops the
//! server. What it is not: woken by anybody; it has a clock and a timer. Invariant: it never stops a server before
//! clients were cut for the whole grace, so a dead agent that comes back soon finds its server running.

use crate::event::Event;
use crate::sabotage::Sabotage;
use crate::server::Process;
use crate::trace::Detail;
use crate::world::World;

/// From the cut to the stop, in `failure_timeout`s: a takeover is over after three, a restarted agent back by then.
const GRACE_TIMEOUTS: u64 = 5;
/// After the cut it looks for the agent's word this often.
const LOOK_US: u64 = 100_000;

impl World {
    /// The agent has given its fencer a new word; the timer is set when none runs.
    pub fn arm(&mut self, node: usize) {
        let Some(until) = self.nodes[node].fenced_until.filter(|_| !self.nodes[node].fence_set) else {
            return;
        };
        self.nodes[node].fence_set = true;
        let at_us = self.moment(node, until.0);
        self.at(at_us, Event::Fence { node });
    }

    /// When the node's clock shows so many milliseconds, at the earliest.
    fn moment(&self, node: usize, clock_ms: u64) -> u64 {
        let clock = &self.nodes[node].clock;
        let ticks = clock_ms.saturating_sub(clock.offset_ms) * 10_000_000;
        ticks.div_ceil(10_000 + clock.rate) + clock.lost_us + 1_000
    }

    pub fn fence(&mut self, node: usize) {
        self.nodes[node].fence_set = false;
        let grace_ms = GRACE_TIMEOUTS * self.plan.settings.failure_timeout_ms;
        let now = self.clock(node);
        let host = &mut self.nodes[node];
        if host.paused_us.is_some() || host.unfenced || self.sabotage == Some(Sabotage::FencerAbsent) {
            return;
        }
        let Some(until) = host.fenced_until else { return };
        if host.server.process == Process::Down || !host.server.primary {
            return;
        }
        if now < until {
            return self.arm(node);
        }
        let stops = now.since(until) >= grace_ms;
        if !host.server.files.quarantined || host.server.files.unread.is_some() {
            host.server.files.close();
            host.server.end_sessions();
            self.note(Detail::Decisions, node, format_args!("the fencer cuts the clients"));
            self.check_fencer(node, false);
        }
        if stops {
            self.note(Detail::Decisions, node, format_args!("the fencer stops the server"));
            self.check_fencer(node, true);
            return self.nodes[node].server.crash();
        }
        self.nodes[node].fence_set = true;
        // An agent that is back extends the deadline; then the next look finds it in the future.
        let at_us = self.moment(node, until.0 + grace_ms).min(self.now_us + LOOK_US);
        self.at(at_us, Event::Fence { node });
    }
}
