//! Executors broken on purpose, and the part of PostgreSQL that the rules rely on; `brain::mutation` breaks the rules.
//!
//! What they are not: anything of the product. A world is made with one of them, or with none.

macro_rules! sabotages {
    ($($name:ident $text:literal $what:literal;)*) => {
        /// One lie of an executor.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Sabotage { $(#[doc = $what] $name),* }

        impl Sabotage {
            pub const ALL: &[Sabotage] = &[$(Sabotage::$name),*];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Sabotage::$name => $text),* }
            }

            /// What is broken, in one sentence.
            pub fn what(self) -> &'static str {
                match self { $(Sabotage::$name => $what),* }
            }
        }
    };
}

sabotages! {
    PromiseVolatile "promise-volatile" "A promise is answered before it is on disk.";
    ReceiverKept "receiver-kept" "Detach reports success while the WAL receiver still runs.";
    MeasureEarly "measure-early" "ApplySync measures its LSN before the change is in force.";
    ForceRequested "force-requested" "ApplySync takes a change to be in force once it is asked for, not once it is read.";
    FlagUnawaited "flag-unawaited" "Leaving k = 0 counts before the checkpointer has told the backends.";
    ReloadLost "reload-lost" "ApplySync reports a change that no process has read.";
    OneFlushFewer "one-flush-fewer" "k - 1 flushes acknowledge a commit.";
    CloneKeepsMember "clone-keeps-member" "A clone goes on under the old member id.";
    LocalTimeline "local-timeline" "A promotion takes the next timeline it knows of, not the recorded one.";
    DivergedDropped "diverged-dropped" "A rewind discards diverged WAL without keeping it.";
    AsideDeleted "aside-deleted" "A clone replaces the old data directory instead of moving it aside.";
    StaleAction "stale-action" "An action of a term below the node's promise is carried out.";
    StartWritable "start-writable" "A stopped primary is started as a primary, as it was.";
    NameWithoutTerm "name-without-term" "A standby's name carries no term: it counts for whoever is primary on its upstream.";
    RewindUnmarked "rewind-unmarked" "That a rewind has begun is not on disk: who dies in its middle forgets it.";
    NamesakeRewound "namesake-rewound" "A rewind between two timelines with one id reports that there was nothing to rewind.";
    CopyUnmarked "copy-unmarked" "That a data directory must be copied anew is not on disk: who dies in the middle forgets it.";
    ObeyedForgotten "obeyed-forgotten" "That a request has been obeyed is not on disk: a new agent obeys it again.";
    FencerAbsent "fencer-absent" "Nobody cuts the clients of a server whose agent hangs or is dead.";
    CancelForwarded "cancel-forwarded" "The proxy forwards a cancel request while a COMMIT is under way.";
    CancelAcknowledged "cancel-acknowledged" "The proxy reports a cancelled wait for replication as success.";
}
