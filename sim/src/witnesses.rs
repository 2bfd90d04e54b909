//! What is known to catch each deliberate fault, and which faults no run catches, with the reason.
//!
//! `cargo xtask sim --mutations` keeps the first list true; a fault may stand in one of the two only.

use crate::proof::Row;
use crate::proof::Witness::{Behind, CrashSteps, Met, Scenario, Seed};

macro_rules! rows {
    ($($fault:literal $witness:expr, $invariant:literal;)*) => {
        &[$(Row { fault: $fault, witness: $witness, invariant: $invariant }),*]
    };
}

pub const WITNESSES: &[Row] = rows! {
    "answer-fewer" Seed(38), "I2";
    "revoke-dropped" Seed(88), "I2";
    "receiver-counts" Scenario("receives-answers-not", 1), "I2";
    "position-unread" Seed(38), "I4";
    "busy-answers" Scenario("pointed-answers-not", 15), "I2";
    "stranger-counts" Seed(38), "I2";
    "stranger-behind" Scenario("stranger-fetches-first", 0), "I2";
    "unexplained-wins" Scenario("promoted-by-hand-wins-nothing", 2), "I2";
    "whole-unlived" Scenario("returned-is-not-whole", 0), "I2";
    "record-sync-stale" Scenario("record-counts-set", 4), "I2";
    "sync-at-promotion" Seed(2), "I4";
    "timeline-reused" Seed(238), "I2";
    "gone-back-promoted" Scenario("gone-back-is-not-promoted", 0), "I2";
    "admit-unopened" Seed(110), "I8";
    "admit-unsettled" Scenario("bared-is-not-read", 0), "I3";
    "open-unflushed" Seed(121), "I2";
    "promised-serves" Seed(1344), "I4";
    "deposed-serves" Seed(4), "I5";
    "remove-store-first" Scenario("removal-in-force-first", 0), "I2";
    "change-unflushed" Scenario("removal-waits", 0), "I2";
    "lower-postgres-first" Seed(176), "I8";
    "raise-store-first" Seed(25), "I8";
    "lease-from-answer" Scenario("old-answer-no-lease", 0), "I1";
    "lease-marginless" Seed(371), "I1";
    "lease-owed-ignored" Seed(29), "I1";
    "restart-forgets-lease" Scenario("restarted-agent-owes", 0), "I1";
    "grant-after-promise" Scenario("promised-grants-nothing", 0), "I1";
    "vouchers-ignored" Scenario("cut-link-costs-nothing", 0), "I4";
    "drain-skipped" Scenario("switchover-is-calm", 1), "I4";
    "handover-unread" Scenario("switchover-is-calm", 53), "I5";
    "successor-unawaited" Scenario("successor-is-awaited", 1), "I5";
    "renew-dropped" Seed(34), "I5";
    "promote-unlooked" Behind(1), "I1";
    "left-followed" Behind(261), "I2";
    "namesake-followed" Behind(261), "I2";
    "follow-unpromised" Seed(2), "I2";
    "copied-counted" CrashSteps("reinit", 0), "I5";
    "stay-dropped" CrashSteps("remove node, from two to one", 0), "I5";
    "lease-write-unseen" Met(2000002343), "I1";
    "old-look-settles" Met(3000911950), "I3";
    "old-probe-judged" Met(4001316550), "I5";
    "late-word-taken" Scenario("last-words-are-late", 3), "I8";
    "detach-dropped" Seed(2), "I4";
    "promoted-unasked" Scenario("standby-cluster-waits", 0), "I1";
    "follow-diverged" Seed(15), "I4";
    "cascade-stale" Scenario("cascade-keeps-to-its-term", 0), "I2";
    "cascade-uncompared" Scenario("ends-are-compared", 0), "I2";
    "promise-volatile" Scenario("promise-outlives-agent", 1), "I2";
    "receiver-kept" Seed(672), "I2";
    "measure-early" Scenario("measured-in-force", 17), "I2";
    "force-requested" Seed(437), "I8";
    "flag-unawaited" Seed(125), "I8";
    "reload-lost" Seed(2), "I4";
    "one-flush-fewer" Seed(0), "I8";
    "clone-keeps-member" Scenario("copy-is-new", 0), "I7";
    "local-timeline" Seed(12), "I5";
    "diverged-dropped" Seed(4), "I7";
    "aside-deleted" Scenario("copy-is-new", 0), "I7";
    "start-writable" Seed(4), "I5";
    "name-without-term" Seed(441), "I5";
    "rewind-unmarked" CrashSteps("rejoin by rewind", 0), "I7";
    "namesake-rewound" Met(4000495599), "I2";
    "store-lease-returned" Met(3000504715), "I1";
    "copy-unmarked" CrashSteps("rejoin by clone", 0), "I7";
    "obeyed-forgotten" CrashSteps("restart, rolling", 0), "I5";
    "fencer-absent" Scenario("hung-agent-serves-no-reads", 0), "I6";
    "cancel-forwarded" Seed(29), "I3";
    "cancel-acknowledged" Seed(5), "I8";
};

/// Faults that no run has caught, and what stands behind each, as far as it is understood: reasons, not proofs.
pub const UNCAUGHT: &[(&str, &str)] = &[
    (
        "promise-unasked",
        "a member that has promised nothing takes WAL or is at work, and then is no answer either",
    ),
    (
        "timeline-ignored",
        "an open set streams from one primary, so among its members the longer log is the later",
    ),
    (
        "record-primary-stale",
        "a lost lease ends the old primary's clients before its late write could matter",
    ),
    (
        "add-postgres-first",
        "the store's write follows within milliseconds; an earlier model met the moment at seed 180",
    ),
    (
        "gate-forgotten",
        "a session ends within milliseconds of the order, and a probe must lie between its last commit and that",
    ),
    ("settle-dropped", "it takes a write of /sync that arrives after the next change"),
    (
        "origin-kept",
        "the origin must lose WAL in the moment of the comparison; an earlier model met it at seed 4000197715",
    ),
    ("lease-ignored", "the fencer cuts the clients at the lease's end all the same"),
    ("renew-in-campaign", "the store refuses one of the two; it costs time"),
    ("expendable-always", "a rewind's source holds all that was acknowledged; it costs redundancy"),
    ("stale-action", "work under way is no answer, and the next decision undoes what it did"),
];
