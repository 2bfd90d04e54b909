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
    SkipWalsenders "skip-walsenders" "ApplySync waits for no walsender.";
    ReloadLost "reload-lost" "ApplySync reports a change that no process has read.";
    OneFlushFewer "one-flush-fewer" "k - 1 flushes acknowledge a commit.";
    CloneKeepsMember "clone-keeps-member" "A clone goes on under the old member id.";
    LocalTimeline "local-timeline" "A promotion takes the next timeline it knows of, not the recorded one.";
}
