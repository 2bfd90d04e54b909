//! Deliberate faults in the deciding code, so that the proof can be seen to catch them.
//!
//! What it is: a switch per fault, consulted at the very line that it breaks. One fault at a time, per thread, and only
//! in builds with the feature `mutations`, which no shipped crate asks for.
//! What it is not: a setting. Invariant: without the feature [`is_on`] is the constant `false`, so the code that ships
//! is the code as if no switch stood there.

macro_rules! mutations {
    ($($name:ident $text:literal $what:literal;)*) => {
        /// One fault of the deciding code.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Mutation { $(#[doc = $what] $name),* }

        impl Mutation {
            pub const ALL: &[Mutation] = &[$(Mutation::$name),*];

            /// Its name in tables and on command lines.
            pub fn name(self) -> &'static str {
                match self { $(Mutation::$name => $text),* }
            }

            /// What is broken, in one sentence.
            pub fn what(self) -> &'static str {
                match self { $(Mutation::$name => $what),* }
            }
        }
    };
}

mutations! {
    AnswerFewer "answer-fewer" "|S| - k answers suffice for a takeover.";
    RevokeDropped "revoke-dropped" "A takeover is recorded without promises: members that still stream count as answers.";
    PromiseUnasked "promise-unasked" "A detached member counts as an answer although it has promised nothing.";
    ReceiverCounts "receiver-counts" "A member answers although its WAL receiver still runs.";
    PositionUnread "position-unread" "A member answers before startup has read all of its WAL.";
    BusyAnswers "busy-answers" "A member answers by its last look while work under way moves its WAL.";
    StrangerCounts "stranger-counts" "Answers of nodes outside the sync set count towards |S| - k + 1.";
    StrangerBehind "stranger-behind" "A node outside the sync set wins without the WAL that the members have.";
    UnexplainedWins "unexplained-wins" "WAL on a timeline that no recorded term explains may win.";
    TimelineIgnored "timeline-ignored" "Answers are compared by LSN alone, without the timeline.";
    WholeUnlived "whole-unlived" "A returned primary claims to have all that it acknowledged without having lived.";
    RecordSyncStale "record-sync-stale" "A takeover is recorded although the sync set has changed since the count.";
    RecordPrimaryStale "record-primary-stale" "A primary writes the sync set although another may be recorded by now.";
    SyncAtPromotion "sync-at-promotion" "The sync set is overwritten when the winner is recorded, before anybody streams.";
    TimelineReused "timeline-reused" "A takeover records the next timeline after the winner's own, used before or not.";
    GoneBackPromoted "gone-back-promoted" "A winner whose disk has gone back behind its answer is promoted.";
    AdmitUnopened "admit-unopened" "A new primary admits clients before it has opened.";
    AdmitUnsettled "admit-unsettled" "A quarantine ends before what its end of sessions left visible is on the quorum.";
    OpenUnflushed "open-unflushed" "A new primary opens before k have flushed its end of recovery.";
    PromisedServes "promised-serves" "A primary that has promised a higher term serves on.";
    DeposedServes "deposed-serves" "A server that writes without being the recorded primary is left alone.";
    RemoveStoreFirst "remove-store-first" "A member is removed from the store before PostgreSQL.";
    ChangeUnflushed "change-unflushed" "A removal, or a higher k, is recorded without the wait for k flushes.";
    AddPostgresFirst "add-postgres-first" "A member is added to PostgreSQL before the store.";
    LowerPostgresFirst "lower-postgres-first" "k is lowered in PostgreSQL before the store.";
    RaiseStoreFirst "raise-store-first" "k is raised in the store before PostgreSQL.";
    SettleDropped "settle-dropped" "The set in force changes while an earlier write of /sync may still arrive.";
    LeaseIgnored "lease-ignored" "A primary serves without its members' lease.";
    LeaseFromAnswer "lease-from-answer" "The age of a lease counts from the answer, not from the question.";
    LeaseMarginless "lease-marginless" "A lease is used to its very end, without the drift margin.";
    LeaseOwedIgnored "lease-owed-ignored" "A member promises a higher term while it owes the primary a lease.";
    RestartForgetsLease "restart-forgets-lease" "A restarted agent believes that it owes nobody a lease.";
    GrantAfterPromise "grant-after-promise" "A member grants a lease to a primary below its promise.";
    VouchersIgnored "vouchers-ignored" "A node that alone has lost the primary takes over although others see it fine.";
    RenewInCampaign "renew-in-campaign" "A primary renews its term while a candidate is asking for promises.";
    DrainSkipped "drain-skipped" "A primary stops for a hand-over while sessions are in a transaction.";
    HandoverUnread "handover-unread" "Who has not read to whom a primary hands over stands as a candidate at once.";
    SuccessorUnawaited "successor-unawaited" "A hand-over is won by who answers first, its successor or not.";
    RenewDropped "renew-dropped" "A primary whose members promised to a candidate that gave up does not renew.";
    PromoteUnlooked "promote-unlooked" "A standby cluster is promoted without a look at its origin.";
    LeftFollowed "left-followed" "WAL that has left the origin's history is taken for a beginning of it: nobody rewinds.";
    NamesakeFollowed "namesake-followed" "A branch of the origin with the id of this cluster's own passes for it.";
    LeaseWriteUnseen "lease-write-unseen" "Who has written that the store's lease decides serves without one until it reads that.";
    OldLookSettles "old-look-settles" "The age of a probe, as a look showed it, counts from now.";
    GateForgotten "gate-forgotten" "What sessions commit while they are being ended is taken for settled by a probe from before their end.";
    OldProbeJudged "old-probe-judged" "A primary is judged by what it was found to be when it was primary before.";
    StoreLeaseReturned "store-lease-returned" "The store's lease is given back while the server that serves by it is only silent.";
    OriginKept "origin-kept" "Who was rewound to the origin streams on from it while its WAL is compared with the head's.";
    FollowUnpromised "follow-unpromised" "A standby follows a term without having promised it.";
    CopiedCounted "copied-counted" "While a node copies its data directory anew, the old one is let back into the sync set.";
    LateWordTaken "late-word-taken" "The last words of a removed node's agent count as the word of who is added again in its place.";
    StayDropped "stay-dropped" "A node that was to leave and became the primary stays marked as leaving for ever.";
    DetachDropped "detach-dropped" "A promise ends no replication from a lower term.";
    FollowDiverged "follow-diverged" "A standby whose WAL has left the primary's history follows without a rewind.";
    PromotedUnasked "promoted-unasked" "A head that takes over in a standby cluster is promoted although nobody asked.";
    CascadeStale "cascade-stale" "A node streams from a replica of an older term, or of another timeline.";
    CascadeUncompared "cascade-uncompared" "A node turns to a replica without comparing where the WAL of both ends.";
    ExpendableAlways "expendable-always" "A member's data directory is rewound or copied although /sync needs it.";
}

impl Mutation {
    pub fn parse(name: &str) -> Option<Mutation> {
        Mutation::ALL.iter().copied().find(|mutation| mutation.name() == name)
    }
}

#[cfg(feature = "mutations")]
mod switch {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static ON: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// This very fault is switched on, on this thread.
    pub fn is_on(mutation: Mutation) -> bool {
        ON.get() == Some(mutation)
    }

    /// Runs with this fault, or with none; afterwards, also after a panic, what was on before is on again.
    pub fn with<T>(mutation: Option<Mutation>, run: impl FnOnce() -> T) -> T {
        struct Restore(Option<Mutation>);
        impl Drop for Restore {
            fn drop(&mut self) {
                ON.set(self.0);
            }
        }
        let _restore = Restore(ON.replace(mutation));
        run()
    }
}

#[cfg(not(feature = "mutations"))]
mod switch {
    use super::Mutation;

    /// No fault exists in this build.
    #[inline(always)]
    pub const fn is_on(_: Mutation) -> bool {
        false
    }

    /// Runs without a fault.
    ///
    /// # Panics
    /// When a fault is asked for: this build has none, and a run without it would prove nothing.
    pub fn with<T>(mutation: Option<Mutation>, run: impl FnOnce() -> T) -> T {
        assert!(mutation.is_none(), "{mutation:?} exists only in builds with the feature `mutations`");
        run()
    }
}

pub use switch::{is_on, with};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let names: std::collections::BTreeSet<_> = Mutation::ALL.iter().map(|m| m.name()).collect();
        assert_eq!(names.len(), Mutation::ALL.len());
        assert!(Mutation::ALL.iter().all(|m| Mutation::parse(m.name()) == Some(*m)));
    }

    #[cfg(feature = "mutations")]
    #[test]
    fn one_fault_at_a_time_and_none_afterwards() {
        let (one, other) = (Mutation::AnswerFewer, Mutation::RevokeDropped);
        with(Some(one), || {
            assert!(is_on(one) && !is_on(other));
            with(Some(other), || assert!(is_on(other) && !is_on(one)));
            assert!(is_on(one));
            std::thread::scope(|scope| {
                scope.spawn(|| assert!(!is_on(one)));
            });
        });
        assert!(Mutation::ALL.iter().all(|mutation| !is_on(*mutation)));
    }
}
