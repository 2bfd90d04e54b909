//! What the API shows: a copy of the view after each decision, and the events.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use brain::{Decision, Explanation, NodeName, View, explain};

use super::events::{Event, EventLog};
use super::facts::Facts;

/// The view at the last decision.
pub struct Seen {
    pub view: View,
    pub decision: Decision,
    /// `None` while the server gives no answer, or there is none.
    pub facts: Option<Arc<Facts>>,
    /// Wall-clock second at which the store was last known to have a leader; `None` before the first.
    pub store_seen: Option<u64>,
}

/// Shared with the API; the agent writes, everybody reads.
pub struct Panel {
    seen: ArcSwapOption<Seen>,
    events: Arc<EventLog>,
}

impl Panel {
    pub fn new(events: Arc<EventLog>) -> Panel {
        Panel { seen: ArcSwapOption::empty(), events }
    }

    pub(super) fn show(&self, seen: Seen) {
        self.seen.store(Some(Arc::new(seen)));
    }

    /// `None` before the agent's first decision.
    pub fn seen(&self) -> Option<Arc<Seen>> {
        self.seen.load_full()
    }

    pub fn events(&self, after: u64, limit: usize) -> Vec<Event> {
        self.events.after(after, limit)
    }

    pub fn latest(&self) -> u64 {
        self.events.latest()
    }

    /// For `node`, or for each full node.
    pub fn explain(&self, node: Option<&str>) -> Vec<Explanation> {
        let Some(seen) = self.seen() else { return Vec::new() };
        let named = node.map(NodeName::from);
        let nodes =
            named.map_or_else(|| seen.view.settings.full.iter().cloned().collect(), |node| vec![node]);
        nodes.iter().map(|node| explain(&seen.view, node)).collect()
    }
}
