//! The moments of a failover, and the phases between them.

use std::collections::BTreeMap;

use brain::Millis;
use serde::{Deserialize, Serialize};

/// A moment that ends a phase, in the order in which they come. A takeover has no request, a hand-over no last good word.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Moment {
    /// The old primary was last known to be well.
    Fine,
    /// Somebody asked for the hand-over, and its time has come.
    Asked,
    /// The checkpoint ahead begins.
    Checkpointing,
    /// Proxies hold new transactions.
    Holding,
    /// The running transactions have ended, and the stop is recorded.
    Drained,
    /// The old primary is suspect; in a hand-over it has stopped.
    Suspected,
    /// The first promise is asked for.
    Campaign,
    /// Enough members have answered.
    Answered,
    /// The new term is recorded.
    Recorded,
    /// The promotion begins.
    Promoting,
    /// PostgreSQL has left recovery, on the new timeline.
    Promoted,
    /// k members have flushed the end of recovery.
    Flushed,
    /// Clients are admitted.
    Opened,
    /// No proxy holds any more.
    Released,
}

/// Who saw the end of a phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Witness {
    /// The new primary itself.
    Own,
    /// Another node, which told it: the time is that of the hearing, later by the message's way.
    Heard,
    /// The store, whose record the new primary read.
    Store,
}

/// A part of a failover, from the end of the one before to its own end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Phase {
    /// Stable: `detection`, `checks`, `checkpoint`, `drain`, `stop`, `turn`, `promises`, `record`, `preparation`, `promotion`,
    /// `synchronization`, `opening`, `release`.
    pub name: String,
    /// Milliseconds from the report's beginning to the phase's.
    pub start_ms: u64,
    /// Its length in milliseconds.
    pub ms: u64,
    /// Who saw its end.
    pub seen: Witness,
}

/// When each moment was, on the new primary's clock.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Moments(BTreeMap<Moment, Millis>);

impl Moments {
    /// The first time counts.
    pub fn note(&mut self, moment: Moment, at: Millis) {
        self.0.entry(moment).or_insert(at);
    }

    pub fn get(&self, moment: Moment) -> Option<Millis> {
        self.0.get(&moment).copied()
    }

    pub fn forget(&mut self, forgotten: impl Fn(Moment) -> bool) {
        self.0.retain(|moment, _| !forgotten(*moment));
    }

    /// In order. What was seen late was no later than what follows from it: another node may have asked for promises before this one
    /// suspected anything.
    pub fn in_order(&self) -> Vec<(Moment, Millis)> {
        let mut moments: Vec<(Moment, Millis)> = self.0.iter().map(|(moment, at)| (*moment, *at)).collect();
        let mut next = None;
        for (_, at) in moments.iter_mut().rev() {
            *at = (*at).min(next.unwrap_or(*at));
            next = Some(*at);
        }
        moments
    }

    /// What lies between. A moment that was not seen ends no phase: its time is the next one's.
    pub fn phases(&self, is_hand_over: bool) -> Vec<Phase> {
        let moments = self.in_order();
        let Some((_, first)) = moments.first().copied() else { return Vec::new() };
        let pairs = moments.iter().zip(moments.iter().skip(1));
        let phase = |((_, from), (moment, to)): (&(Moment, Millis), &(Moment, Millis))| Phase {
            name: moment.phase(is_hand_over).to_owned(),
            start_ms: from.since(first),
            ms: to.since(*from),
            seen: moment.witness(),
        };
        pairs.map(phase).collect()
    }
}

impl Moment {
    /// What is known before a takeover is due.
    pub fn is_of_request(self) -> bool {
        matches!(self, Moment::Asked | Moment::Checkpointing | Moment::Holding | Moment::Drained)
    }

    /// The name of the phase that it ends.
    fn phase(self, is_hand_over: bool) -> &'static str {
        match self {
            // Both begin a report.
            Moment::Fine | Moment::Asked => "start",
            Moment::Checkpointing => "checks",
            Moment::Holding => "checkpoint",
            Moment::Drained => "drain",
            Moment::Suspected if is_hand_over => "stop",
            Moment::Suspected => "detection",
            Moment::Campaign => "turn",
            Moment::Answered => "promises",
            Moment::Recorded => "record",
            Moment::Promoting => "preparation",
            Moment::Promoted => "promotion",
            Moment::Flushed => "synchronization",
            Moment::Opened => "opening",
            Moment::Released => "release",
        }
    }

    fn witness(self) -> Witness {
        match self {
            Moment::Fine | Moment::Campaign | Moment::Answered | Moment::Released => Witness::Heard,
            Moment::Asked | Moment::Checkpointing | Moment::Holding => Witness::Store,
            Moment::Drained | Moment::Recorded => Witness::Store,
            Moment::Suspected | Moment::Promoting | Moment::Promoted => Witness::Own,
            Moment::Flushed | Moment::Opened => Witness::Own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(list: &[(Moment, u64)]) -> Moments {
        let mut moments = Moments::default();
        list.iter().for_each(|(moment, at)| moments.note(*moment, Millis(*at)));
        moments
    }

    #[test]
    fn phases_follow_upon_each_other_and_their_sum_is_the_whole() {
        // n3 asked before this node suspected anything, and nobody saw enough answers.
        let moments = moments(&[
            (Moment::Fine, 1_000),
            (Moment::Suspected, 3_100),
            (Moment::Campaign, 3_050),
            (Moment::Recorded, 3_300),
            (Moment::Opened, 3_900),
        ]);
        let phases = moments.phases(false);
        let told: Vec<(&str, u64, u64)> =
            phases.iter().map(|phase| (phase.name.as_str(), phase.start_ms, phase.ms)).collect();
        assert_eq!(
            told,
            [("detection", 0, 2_050), ("turn", 2_050, 0), ("record", 2_050, 250), ("opening", 2_300, 600)]
        );
    }

    #[test]
    fn a_moment_is_noted_once_and_a_single_one_makes_no_phase() {
        let mut moments = moments(&[(Moment::Fine, 5), (Moment::Fine, 9)]);
        assert_eq!(moments.get(Moment::Fine), Some(Millis(5)));
        assert!(moments.phases(false).is_empty());
        moments.forget(|moment| moment == Moment::Fine);
        assert!(moments.phases(false).is_empty());
    }
}
