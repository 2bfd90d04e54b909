//! What each statement of a text is, one after the other.
//!
//! What it is: the statements that a hot standby runs (PostgreSQL's documentation, "Hot Standby", and
//! `PreventCommandDuringRecovery` in `src/backend/tcop/utility.c`), narrowed to those that read. What it is not: the
//! session; SET, PREPARE, LISTEN and their kind are no reads. Invariant: what is not listed is not a read.

use pg_raw_parse::Node;
use pg_raw_parse::nodes::{
    CopyStmt, DeclareCursorStmt, DefElem, ExplainStmt, TransactionStmt, VariableSetStmt,
};
use pg_raw_parse::raw::{CURSOR_OPT_HOLD, TransactionStmtKind as Kind};

use crate::catalog::{Catalog, is_local_setting};
use crate::tree::{Runs, look};
use crate::verdict::{Access, Block, Reason};

/// The reason that weighs most: one that is no doubt, else the first.
#[derive(Debug, Default)]
pub struct Found {
    reason: Option<Reason>,
}

impl Found {
    pub fn note(&mut self, reason: Reason) {
        if self.reason.as_ref().is_none_or(|known| known.is_doubt() && !reason.is_doubt()) {
            self.reason = Some(reason);
        }
    }

    /// True once nothing that follows can change the outcome.
    pub fn is_settled(&self) -> bool {
        self.reason.as_ref().is_some_and(|reason| !reason.is_doubt())
    }
}

/// The statements of one text.
pub struct Statements<'c> {
    catalog: &'c Catalog,
    found: Found,
    block: Block,
}

impl<'c> Statements<'c> {
    pub fn new(catalog: &'c Catalog) -> Statements<'c> {
        Statements { catalog, found: Found::default(), block: Block::default() }
    }

    /// A block that may write and outlasts the text belongs to the primary; one that the same text ends has but reads.
    pub fn end(mut self) -> (Option<Reason>, Block) {
        if self.block.opens == Some(Access::Default) {
            self.found.note(Reason::OpensBlock);
        }
        (self.found.reason, self.block)
    }

    pub fn take(&mut self, statement: Node<'_>) {
        match statement {
            Node::SelectStmt(_) => look(statement, Runs::Yes, self.catalog, &mut self.found),
            Node::ExplainStmt(explain) => self.explain(explain),
            Node::CopyStmt(copy) => self.copy(copy),
            Node::VariableShowStmt(show) => {
                let name = show.name().unwrap_or("all");
                if is_local_setting(name) {
                    self.found.note(Reason::LocalSetting(name.into()));
                }
            }
            Node::TransactionStmt(transaction) => self.transaction(transaction),
            Node::VariableSetStmt(set) => self.set(set),
            Node::DeclareCursorStmt(declare) => self.declare(declare),
            other => self.found.note(Reason::NotRead(keyword(other))),
        }
    }

    /// Without ANALYZE nothing runs, whatever it is, though all is planned.
    fn explain(&mut self, explain: &ExplainStmt) {
        let query = explain.query();
        let analyze =
            explain.options().iter().any(|option| option.defname() == Some("analyze") && is_on(option));
        let runs = if analyze { Runs::Yes } else { Runs::No };
        match query {
            Node::SelectStmt(_)
            | Node::InsertStmt(_)
            | Node::UpdateStmt(_)
            | Node::DeleteStmt(_)
            | Node::MergeStmt(_) => look(query, runs, self.catalog, &mut self.found),
            other => self.found.note(Reason::NotRead(keyword(other))),
        }
    }

    /// To the client only, never from it, a file or a program.
    fn copy(&mut self, copy: &CopyStmt) {
        if copy.is_from || copy.is_program || copy.filename().is_some() {
            self.found.note(Reason::NotRead("COPY FROM, or TO a file or program,"));
        } else if let Some(relation) = copy.relation() {
            look(Node::RangeVar(relation), Runs::Yes, self.catalog, &mut self.found);
        } else if let Node::SelectStmt(_) = copy.query() {
            look(copy.query(), Runs::Yes, self.catalog, &mut self.found);
        } else {
            self.found.note(Reason::NotRead(keyword(copy.query())));
        }
    }

    fn transaction(&mut self, transaction: &TransactionStmt) {
        match transaction.kind {
            Kind::TRANS_STMT_BEGIN | Kind::TRANS_STMT_START => {
                let access = self.modes(transaction.options().iter());
                if self.block.opens.is_none() || access != Access::Default {
                    self.block.opens = Some(access);
                }
            }
            Kind::TRANS_STMT_COMMIT | Kind::TRANS_STMT_ROLLBACK => self.ends(transaction.chain),
            Kind::TRANS_STMT_SAVEPOINT | Kind::TRANS_STMT_RELEASE | Kind::TRANS_STMT_ROLLBACK_TO => {
                if self.block.opens.is_none() {
                    self.found.note(Reason::NotRead("a savepoint"));
                }
            }
            _ => self.found.note(Reason::NotRead("two-phase commit")),
        }
    }

    fn ends(&mut self, chain: bool) {
        if self.block.opens.take().is_none() {
            self.block.ends = true;
            self.found.note(Reason::EndsBlock);
        }
        if chain {
            self.block.opens = Some(Access::Default);
            self.found.note(Reason::OpensBlock);
        }
    }

    /// What transaction modes make of a block. The last word counts, as in PostgreSQL; here READ WRITE is the last.
    fn modes<'n>(&mut self, modes: impl Iterator<Item = Node<'n>>) -> Access {
        let mut access = Access::Default;
        for mode in modes {
            let Node::DefElem(mode) = mode else {
                self.found.note(Reason::UnknownSyntax);
                continue;
            };
            match mode.defname() {
                Some("transaction_read_only") if is_on(mode) => {
                    if access == Access::Default {
                        access = Access::ReadOnly;
                    }
                }
                Some("transaction_read_only") => {
                    access = Access::ReadWrite;
                    self.found.note(Reason::OpensBlock);
                }
                Some("transaction_isolation") if text(mode.arg()) != Some("serializable") => {}
                Some("transaction_isolation") => self.found.note(Reason::Serializable),
                Some("transaction_deferrable") => {}
                _ => self.found.note(Reason::UnknownSyntax),
            }
        }
        access
    }

    /// SET TRANSACTION, of a block; any other SET is the session's.
    fn set(&mut self, set: &VariableSetStmt) {
        if set.name() != Some("TRANSACTION") {
            return self.found.note(Reason::NotRead("SET"));
        }
        let access = self.modes(set.args().iter());
        match &mut self.block.opens {
            Some(opens) if access != Access::Default => *opens = access,
            Some(_) => {}
            None => {
                self.block.sets = Some(access);
                self.found.note(Reason::NotRead("SET TRANSACTION"));
            }
        }
    }

    fn declare(&mut self, declare: &DeclareCursorStmt) {
        let holds = declare.options & CURSOR_OPT_HOLD as i32 != 0;
        if holds || self.block.opens.is_none() {
            return self.found.note(Reason::NotRead("DECLARE CURSOR"));
        }
        match declare.query() {
            Node::SelectStmt(_) => look(declare.query(), Runs::Yes, self.catalog, &mut self.found),
            other => self.found.note(Reason::NotRead(keyword(other))),
        }
    }
}

/// A boolean option, as `defGetBoolean` in `src/backend/commands/define.c` reads it; on when unsure.
fn is_on(option: &DefElem) -> bool {
    match option.arg() {
        Node::Integer(integer) => integer.ival != 0,
        Node::Boolean(boolean) => boolean.boolval,
        Node::A_Const(constant) => match constant.val() {
            Some(pg_raw_parse::ConstValue::Integer(value)) => value != 0,
            Some(pg_raw_parse::ConstValue::Boolean(value)) => value,
            _ => true,
        },
        Node::String(word) => {
            !word.sval().is_some_and(|word| ["false", "off"].iter().any(|off| word.eq_ignore_ascii_case(off)))
        }
        _ => true,
    }
}

/// The text of a name or a constant.
pub fn text(node: Node<'_>) -> Option<&str> {
    match node {
        Node::A_Const(constant) => match constant.val() {
            Some(pg_raw_parse::ConstValue::String(text)) => Some(text),
            _ => None,
        },
        _ => node.as_str(),
    }
}

/// What a user would call it.
pub fn keyword(statement: Node<'_>) -> &'static str {
    match statement {
        Node::InsertStmt(_) => "INSERT",
        Node::UpdateStmt(_) => "UPDATE",
        Node::DeleteStmt(_) => "DELETE",
        Node::MergeStmt(_) => "MERGE",
        Node::CallStmt(_) => "CALL",
        Node::DoStmt(_) => "DO",
        Node::PrepareStmt(_) => "PREPARE",
        Node::ExecuteStmt(_) => "EXECUTE",
        Node::DeallocateStmt(_) => "DEALLOCATE",
        Node::DiscardStmt(_) => "DISCARD",
        Node::FetchStmt(_) => "FETCH or MOVE",
        Node::ClosePortalStmt(_) => "CLOSE",
        Node::ListenStmt(_) | Node::UnlistenStmt(_) | Node::NotifyStmt(_) => "LISTEN or NOTIFY",
        Node::LockStmt(_) => "LOCK",
        Node::TruncateStmt(_) => "TRUNCATE",
        Node::VacuumStmt(_) => "VACUUM or ANALYZE",
        Node::CheckPointStmt(_) => "CHECKPOINT",
        Node::RefreshMatViewStmt(_) => "REFRESH MATERIALIZED VIEW",
        Node::CreateTableAsStmt(_) => "CREATE TABLE AS",
        _ => "this command",
    }
}
