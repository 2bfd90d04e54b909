//! What is decided about a text.
//!
//! What it is: plain values, with a phrase for each reason. What it is not: the decision. Invariant: what a replica
//! must never run has a reason for which `is_doubt` is false.

use std::fmt;

/// What one Query text, or the text of one Parse, is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Where it may run when it finds no open block; within a block it goes where the block is.
    pub route: Route,
    pub block: Block,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// A replica or the primary.
    Replica,
    Primary(Reason),
}

/// What the text does to the transaction block. Nothing is said of a text that was not parsed: ReadyForQuery says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Block {
    /// A block that this text does not open ends.
    pub ends: bool,
    /// A block is open after it.
    pub opens: Option<Access>,
    /// SET TRANSACTION changes the block that it finds.
    pub sets: Option<Access>,
}

/// What a block may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    ReadOnly,
    ReadWrite,
    /// As `default_transaction_read_only` says, which PostgreSQL reports to the client when it changes.
    Default,
}

/// Why a text goes to the primary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// A comment at its beginning says so.
    Hint,
    /// A replica did not run it.
    Refused,
    /// It would keep the session with its server.
    Binds,
    /// Longer than `TEXT_BYTES_MAX`.
    TooLong,
    /// PostgreSQL's lexer would take a time that grows with the square of the length.
    TooCostly,
    NotUtf8,
    /// PostgreSQL would refuse it too, or knows a newer grammar.
    Unparsable,
    /// The parser gave something that it should not.
    ParserFailed,
    /// A statement or clause that is no read, by its keyword.
    NotRead(&'static str),
    /// A part of the grammar that is not known here.
    UnknownSyntax,
    OpensBlock,
    EndsBlock,
    /// A hot standby refuses SERIALIZABLE.
    Serializable,
    VolatileFunction(Box<str>),
    LocalFunction(Box<str>),
    UnknownFunction(Box<str>),
    VolatileOperator(Box<str>),
    UnknownOperator(Box<str>),
    /// A setting that says which server this is.
    LocalSetting(Box<str>),
    Relation {
        name: Box<str>,
        hazard: Hazard,
    },
    UnknownRelation(Box<str>),
}

/// Why a relation is not read on a replica. The name is that of the function or relation behind, in a view say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hazard {
    /// It has no contents there, and PostgreSQL refuses.
    Unlogged(Box<str>),
    /// Its values there run ahead: WAL has them 32 at a time.
    Sequence(Box<str>),
    /// Another server is asked, by views and functions that may write there.
    Foreign(Box<str>),
    Volatile(Box<str>),
    Local(Box<str>),
}

impl Reason {
    /// True when the text may be a harmless read, so that the hint `replica` is believed.
    pub fn is_doubt(&self) -> bool {
        match self {
            Reason::VolatileFunction(_)
            | Reason::LocalFunction(_)
            | Reason::UnknownFunction(_)
            | Reason::VolatileOperator(_)
            | Reason::UnknownOperator(_)
            | Reason::LocalSetting(_)
            | Reason::UnknownRelation(_) => true,
            Reason::Relation { hazard, .. } => !matches!(hazard, Hazard::Unlogged(_)),
            Reason::Hint
            | Reason::Refused
            | Reason::Binds
            | Reason::TooLong
            | Reason::TooCostly
            | Reason::NotUtf8
            | Reason::Unparsable
            | Reason::ParserFailed
            | Reason::NotRead(_)
            | Reason::UnknownSyntax
            | Reason::OpensBlock
            | Reason::EndsBlock
            | Reason::Serializable => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Hint => f.write_str("a hint asks for the primary"),
            Reason::Refused => f.write_str("a replica refused it"),
            Reason::Binds => f.write_str("it keeps the session with its server"),
            Reason::TooLong => f.write_str("the text is too long to be parsed"),
            Reason::TooCostly => f.write_str("the text is too costly to be parsed"),
            Reason::NotUtf8 => f.write_str("the text is not UTF-8"),
            Reason::Unparsable => f.write_str("the text cannot be parsed"),
            Reason::ParserFailed => f.write_str("the parser failed"),
            Reason::NotRead(keyword) => write!(f, "{keyword} is not a read"),
            Reason::UnknownSyntax => f.write_str("a syntax that pgherd does not know"),
            Reason::OpensBlock => f.write_str("it opens a transaction that may write"),
            Reason::EndsBlock => f.write_str("it ends a transaction"),
            Reason::Serializable => f.write_str("a replica has no SERIALIZABLE"),
            Reason::VolatileFunction(name) => write!(f, "function {name} is volatile"),
            Reason::LocalFunction(name) => write!(f, "function {name} tells of the server it runs on"),
            Reason::UnknownFunction(name) => write!(f, "function {name} is not known"),
            Reason::VolatileOperator(name) => write!(f, "operator {name} is volatile"),
            Reason::UnknownOperator(name) => write!(f, "operator {name} is not known"),
            Reason::LocalSetting(name) => write!(f, "setting {name} tells of the server"),
            Reason::Relation { name, hazard } => write!(f, "relation {name} {hazard}"),
            Reason::UnknownRelation(name) => write!(f, "relation {name} is not known"),
        }
    }
}

impl fmt::Display for Hazard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hazard::Unlogged(name) => write!(f, "reads unlogged {name}"),
            Hazard::Sequence(name) => write!(f, "reads sequence {name}"),
            Hazard::Foreign(name) => write!(f, "reads foreign {name}"),
            Hazard::Volatile(name) => write!(f, "calls volatile {name}"),
            Hazard::Local(name) => write!(f, "calls {name}, which tells of the server it runs on"),
        }
    }
}

impl Verdict {
    /// Neither opens nor ends anything.
    pub(crate) fn plain(route: Route) -> Verdict {
        Verdict { route, block: Block::default() }
    }

    pub fn is_replica(&self) -> bool {
        self.route == Route::Replica
    }

    /// As `is_replica`, for a client that vouches for its texts as the hint `replica` does for one.
    pub fn is_replica_on_trust(&self) -> bool {
        match &self.route {
            Route::Replica => true,
            Route::Primary(reason) => reason.is_doubt(),
        }
    }
}
