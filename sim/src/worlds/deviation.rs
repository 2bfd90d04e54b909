//! Deviations: one rule broken at a time, in the brain or in what carries its decisions out. Each must be found, or the
//! model is worth nothing.

use brain::mutation::Mutation;

use super::World;
use super::bundle::SMALL;

macro_rules! executors {
    ($($name:ident $text:literal $what:literal;)*) => {
        /// An executor, or a PostgreSQL, that does not do what the brain relies on.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Executor { $(#[doc = $what] $name),* }

        impl Executor {
            pub const ALL: &[Executor] = &[$(Executor::$name),*];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Executor::$name => $text),* }
            }

            /// What is broken, in one sentence.
            pub fn what(self) -> &'static str {
                match self { $(Executor::$name => $what),* }
            }
        }
    };
}

executors! {
    Signalled "signalled" "A set counts as in force once the walsenders have been signalled.";
    MeasureEarly "measure-early" "The LSN is measured before the change is in force.";
    PositionEarly "position-early" "A standby answers before startup has read all of its WAL.";
    NoSlot "no-slot" "Two walsenders of one member count twice: no slot forbids the second.";
    CloneKeepsMember "clone-keeps-member" "A clone is made from a replica and goes on under the old member id.";
    NamesByHost "names-by-host" "A standby's name says nothing of the term: its receiver follows a host.";
    ReceiverKept "receiver-kept" "Detach reports success while the receiver still runs.";
    PromiseVolatile "promise-volatile" "A promise is answered before it is on disk.";
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Break {
    Brain(Mutation),
    Executor(Executor),
}

impl Break {
    pub fn parse(name: &str) -> Option<Break> {
        let executor = Executor::ALL.iter().find(|executor| executor.name() == name);
        executor
            .map(|executor| Break::Executor(*executor))
            .or_else(|| Mutation::parse(name).map(Break::Brain))
    }

    pub fn name(self) -> &'static str {
        match self {
            Break::Brain(mutation) => mutation.name(),
            Break::Executor(executor) => executor.name(),
        }
    }

    pub fn what(self) -> &'static str {
        match self {
            Break::Brain(mutation) => mutation.what(),
            Break::Executor(executor) => executor.what(),
        }
    }
}

/// A deviation, and a world that is large enough to find it.
pub struct Deviation {
    pub breaks: Break,
    pub world: World,
}

/// Every deviation that a small world finds. `NamesByHost` can be asked for and is not among them: it needs three
/// takeovers and old readings of the store at once, and that world has not been walked to its end.
pub fn deviations() -> Vec<Deviation> {
    use Executor::*;
    use Mutation::*;
    let brain = |mutation, world| Deviation { breaks: Break::Brain(mutation), world };
    let executor = |executor, world| Deviation { breaks: Break::Executor(executor), world };
    let one_member = World { members: 1, changes: 1, ..SMALL };
    let k2 = World { k: 2, ..SMALL };
    let any_k = World { any_k: true, changes: 1, ..SMALL };
    let removal = World { changes: 1, cuts: 1, ..SMALL };
    let heard = World { thorough: true, ..SMALL };
    vec![
        brain(AnswerFewer, SMALL),
        brain(AnswerFewer, World { nodes: 4, members: 3, ..k2 }),
        brain(ChangeUnflushed, removal),
        brain(RemoveStoreFirst, removal),
        brain(AddPostgresFirst, one_member),
        brain(RaiseStoreFirst, any_k),
        brain(LowerPostgresFirst, World { k: 2, ..any_k }),
        brain(SettleDropped, World { changes: 2, late: 1, cuts: 1, ..SMALL }),
        brain(SyncAtPromotion, World { takeovers: 2, ..SMALL }),
        brain(RecordSyncStale, World { late: 1, ..one_member }),
        brain(AdmitUnopened, World { takeovers: 2, ..SMALL }),
        brain(OpenUnflushed, World { takeovers: 2, slow: true, ..SMALL }),
        brain(StrangerBehind, World { members: 1, tags: true, ..SMALL }),
        brain(RevokeDropped, heard),
        brain(PromiseUnasked, World { crashes: 1, late: 1, ..heard }),
        brain(ReceiverCounts, heard),
        brain(PositionUnread, World { crashes: 1, ..SMALL }),
        brain(TimelineReused, World { commits: 2, takeovers: 3, ..SMALL }),
        executor(Signalled, removal),
        executor(MeasureEarly, any_k),
        executor(PositionEarly, World { crashes: 1, ..SMALL }),
        executor(NoSlot, World { cuts: 1, ghosts: true, ..k2 }),
        executor(CloneKeepsMember, World { nodes: 4, members: 3, disks: 1, ..k2 }),
        executor(ReceiverKept, SMALL),
        executor(PromiseVolatile, World { crashes: 1, late: 1, ..SMALL }),
    ]
}
