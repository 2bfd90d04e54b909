//! Scenarios that aim: a calm cluster, and one interleaving, driven to the moment that a fault is made for.
//!
//! What they are: a list; each runs over a few seeds. With true code every seed passes and some get where the scenario leads.
//! What they are not: a substitute for seeds; each is here because seeds alone come to its moment too seldom.

mod cascades;
mod disks;
mod handover;
mod leases;
mod promises;
mod sets;
pub(crate) mod stage;
mod standby;

use crate::mutant::Mutant;
use crate::sabotage::Sabotage;
use crate::trace::Detail;
use crate::world::Violation;
use stage::{Shape, Stage};

/// What one try of a scenario is played with.
struct Cast {
    seed: u64,
    detail: Detail,
    sabotage: Option<Sabotage>,
}

impl Cast {
    fn stage(&self, shape: Shape) -> Option<Stage> {
        Stage::set(self.seed, shape, self.detail, self.sabotage)
    }
}

pub struct Scenario {
    pub name: &'static str,
    /// Enough for some to lead where the scenario leads.
    pub seeds: u64,
    /// Drives the stage there; `None` when the die did not bring it about.
    drive: fn(&Cast) -> Option<Stage>,
}

/// What broke, if anything, and the trace.
pub type End = (Option<Violation>, String);

impl Scenario {
    /// `None` when this seed does not lead there.
    pub fn run(&self, seed: u64, detail: Detail, mutant: Option<Mutant>) -> Option<End> {
        let cast = Cast { seed, detail, sabotage: mutant.and_then(Mutant::in_executor) };
        brain::mutation::with(mutant.and_then(Mutant::in_brain), || (self.drive)(&cast).map(Stage::outcome))
    }

    pub fn named(name: &str) -> Option<&'static Scenario> {
        SCENARIOS.iter().find(|scenario| scenario.name == name)
    }
}

macro_rules! scenarios {
    ($($name:literal $seeds:literal $drive:path;)*) => {
        &[$(Scenario { name: $name, seeds: $seeds, drive: $drive }),*]
    };
}

pub const SCENARIOS: &[Scenario] = scenarios! {
    "promise-outlives-agent" 60 promises::a_promise_outlives_its_agent;
    "record-counts-set" 60 promises::a_takeover_is_recorded_against_the_set_it_counted;
    "pointed-answers-not" 400 promises::who_is_being_pointed_does_not_answer;
    "old-answer-no-lease" 120 promises::an_old_answer_is_no_lease;
    "receives-answers-not" 200 promises::who_still_receives_answers_not;
    "unpromised-answers-not" 200 promises::who_has_not_promised_answers_not;
    "deposed-changes-no-set" 100 promises::a_deposed_primary_changes_no_set;
    "measured-in-force" 400 sets::a_set_is_measured_when_it_is_in_force;
    "removal-waits" 100 sets::a_removal_waits_for_the_others;
    "removal-in-force-first" 100 sets::a_removal_is_in_force_before_it_is_recorded;
    "last-words-are-late" 60 sets::the_last_words_of_a_removed_node_are_late;
    "restarted-agent-owes" 60 leases::a_restarted_agent_owes;
    "promised-grants-nothing" 60 leases::who_has_promised_grants_nothing;
    "bared-is-not-read" 60 leases::what_a_fence_bares_is_not_read;
    "cancelled-is-not-read" 60 leases::what_is_cancelled_is_not_read;
    "hung-agent-serves-no-reads" 20 leases::a_hung_agent_serves_no_reads;
    "cut-link-costs-nothing" 20 leases::a_cut_link_costs_nothing;
    "standby-cluster-waits" 40 standby::a_standby_cluster_waits;
    "returned-is-not-whole" 60 disks::a_returned_primary_is_not_whole;
    "gone-back-is-not-promoted" 60 disks::a_winner_that_went_back_is_not_promoted;
    "promoted-by-hand-wins-nothing" 60 disks::a_promotion_by_hand_wins_nothing;
    "cascade-keeps-to-its-term" 40 cascades::who_streams_from_a_replica_keeps_to_the_term;
    "ends-are-compared" 40 cascades::two_ends_are_compared_before_a_turn;
    "switchover-is-calm" 200 handover::a_calm_switchover_costs_nothing;
    "successor-is-awaited" 60 handover::a_successor_that_promises_late_wins;
    "stranger-fetches-first" 60 handover::a_stranger_fetches_before_it_wins;
    "copy-is-new" 20 disks::a_copy_is_new_and_the_old_stands_aside;
};
