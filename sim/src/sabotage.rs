//! Executors broken on purpose: each must be caught by a checker, or the checker is worth nothing.

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
    SkipWalsenders "skip-walsenders" "ApplySync waits for no walsender.";
    ReloadLost "reload-lost" "ApplySync reports a change that no process has read.";
    OneFlushFewer "one-flush-fewer" "k - 1 flushes acknowledge a commit.";
    CloneKeepsMember "clone-keeps-member" "A clone goes on under the old member id.";
    LocalTimeline "local-timeline" "A promotion takes the next timeline it knows of, not the recorded one.";
    FalseWhole "false-whole" "A returned primary claims to have all that it acknowledged.";
    PositionEarly "position-early" "A standby answers before startup has read all of its WAL.";
    SyncUnchecked "sync-unchecked" "A takeover is recorded although the sync set has changed since the count.";
    BusyAnswers "busy-answers" "A heartbeat hides the work under way, so its old look counts as an answer.";
    LeaseFromAnswer "lease-from-answer" "The age of a lease counts from the answer, not from the question.";
}

impl Sabotage {
    pub fn parse(name: &str) -> Option<Sabotage> {
        Sabotage::ALL.iter().copied().find(|sabotage| sabotage.name() == name)
    }
}
