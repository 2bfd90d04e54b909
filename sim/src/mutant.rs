//! One deliberate fault, wherever it sits: in the brain's rules or in an executor. And what is known to catch it.

use brain::mutation::Mutation;

use crate::sabotage::Sabotage;

/// A fault that a run is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mutant {
    Brain(Mutation),
    Executor(Sabotage),
}

impl Mutant {
    pub fn all() -> impl Iterator<Item = Mutant> {
        let brain = Mutation::ALL.iter().map(|mutation| Mutant::Brain(*mutation));
        brain.chain(Sabotage::ALL.iter().map(|sabotage| Mutant::Executor(*sabotage)))
    }

    pub fn named(name: &str) -> Option<Mutant> {
        Mutant::all().find(|mutant| mutant.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Mutant::Brain(mutation) => mutation.name(),
            Mutant::Executor(sabotage) => sabotage.name(),
        }
    }

    /// What is broken, in one sentence.
    pub fn what(self) -> &'static str {
        match self {
            Mutant::Brain(mutation) => mutation.what(),
            Mutant::Executor(sabotage) => sabotage.what(),
        }
    }

    /// Where it sits, in one word.
    pub fn place(self) -> &'static str {
        match self {
            Mutant::Brain(_) => "brain",
            Mutant::Executor(_) => "executor",
        }
    }

    pub(crate) fn in_brain(self) -> Option<Mutation> {
        match self {
            Mutant::Brain(mutation) => Some(mutation),
            Mutant::Executor(_) => None,
        }
    }

    pub(crate) fn in_executor(self) -> Option<Sabotage> {
        match self {
            Mutant::Brain(_) => None,
            Mutant::Executor(sabotage) => Some(sabotage),
        }
    }
}
