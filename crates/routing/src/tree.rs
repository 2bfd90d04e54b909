//! A look at each node of a query.
//!
//! What it is: functions, operators, relations and clauses that write, wherever they stand. What it is not: recursive:
//! `a || b || c …` nests as deep as it is long, so what is still to be seen waits in a list, and the C walker is asked
//! for the children of one node at a time. Invariant: a kind of node that is not named here is an unknown syntax; the
//! C walker raises an error for those that it does not know, and must not meet them.

use pg_raw_parse::Node;
use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{A_Expr, FuncCall, RangeVar};
use pg_raw_parse::raw::A_Expr_Kind as Kind;
use pg_raw_parse::walk::{Recurse, walk_manual};

use crate::catalog::{Catalog, Danger, Known, is_local_setting};
use crate::statement::{Found, keyword, text};
use crate::verdict::Reason;

/// Whether the query runs, or is only planned, for EXPLAIN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Runs {
    Yes,
    No,
}

/// Notes in `found` what `root` has that forbids a replica.
pub fn look<'n>(root: Node<'n>, runs: Runs, catalog: &Catalog, found: &mut Found) {
    let mut look = Look { runs, catalog, found, relations: Vec::new(), queries: Vec::new() };
    let mut waiting = vec![root];
    while let Some(node) = waiting.pop() {
        if look.found.is_settled() {
            return;
        }
        if look.at(node) {
            walk_manual::<()>(node, |child| {
                waiting.push(child);
                Recurse::no()
            });
        }
    }
    look.judge_relations();
}

struct Look<'l, 'n> {
    runs: Runs,
    catalog: &'l Catalog,
    found: &'l mut Found,
    relations: Vec<&'n RangeVar>,
    /// Names that WITH gives.
    queries: Vec<&'n str>,
}

impl<'n> Look<'_, 'n> {
    /// True when the children of `node` are to be seen too.
    fn at(&mut self, node: Node<'n>) -> bool {
        match node {
            Node::FuncCall(call) => self.function(call),
            Node::A_Expr(expression) => self.expression(expression),
            Node::SubLink(link) => self.operator(link.oper_name()),
            Node::SortBy(sort) => self.operator(sort.use_op()),
            Node::ColumnRef(column) => {
                self.columns(column.fields(), 1);
                return false;
            }
            Node::A_Indirection(indirection) => self.columns(indirection.indirection(), 0),
            Node::RangeVar(relation) => {
                self.relations.push(relation);
                return false;
            }
            Node::CommonTableExpr(query) => self.queries.extend(query.ctename()),
            Node::InsertStmt(_) | Node::UpdateStmt(_) | Node::DeleteStmt(_) | Node::MergeStmt(_) => {
                if self.runs == Runs::Yes {
                    self.found.note(Reason::NotRead(keyword(node)));
                }
            }
            Node::LockingClause(_) => {
                if self.runs == Runs::Yes {
                    self.found.note(Reason::NotRead("FOR UPDATE or SHARE"));
                }
                return false;
            }
            Node::IntoClause(_) => {
                self.found.note(Reason::NotRead("SELECT INTO"));
                return false;
            }
            _ => return self.plain(node),
        }
        true
    }

    /// Nodes that only have others in them, and those that have none, as `raw_expression_tree_walker` in
    /// `src/backend/nodes/nodeFuncs.c` of PostgreSQL 18 knows them.
    fn plain(&mut self, node: Node<'n>) -> bool {
        match node {
            Node::NodeList(_)
            | Node::SelectStmt(_)
            | Node::ResTarget(_)
            | Node::BoolExpr(_)
            | Node::NullTest(_)
            | Node::BooleanTest(_)
            | Node::CaseExpr(_)
            | Node::CoalesceExpr(_)
            | Node::MinMaxExpr(_)
            | Node::RowExpr(_)
            | Node::A_ArrayExpr(_)
            | Node::A_Indices(_)
            | Node::TypeCast(_)
            | Node::TypeName(_)
            | Node::CollateClause(_)
            | Node::NamedArgExpr(_)
            | Node::GroupingFunc(_)
            | Node::GroupingSet(_)
            | Node::WindowDef(_)
            | Node::JoinExpr(_)
            | Node::RangeSubselect(_)
            | Node::RangeFunction(_)
            | Node::RangeTableSample(_)
            | Node::RangeTableFunc(_)
            | Node::RangeTableFuncCol(_)
            | Node::ColumnDef(_)
            | Node::WithClause(_)
            | Node::XmlExpr(_)
            | Node::XmlSerialize(_)
            | Node::MultiAssignRef(_)
            | Node::InferClause(_)
            | Node::IndexElem(_)
            | Node::OnConflictClause(_)
            | Node::MergeWhenClause(_)
            | Node::ReturningClause(_) => true,
            Node::Integer(_)
            | Node::Float(_)
            | Node::Boolean(_)
            | Node::String(_)
            | Node::BitString(_)
            | Node::A_Const(_)
            | Node::A_Star(_)
            | Node::ParamRef(_)
            | Node::Alias(_)
            | Node::SQLValueFunction(_)
            | Node::SetToDefault(_)
            | Node::CurrentOfExpr(_)
            | Node::MergeSupportFunc(_)
            | Node::ReturningOption(_) => false,
            _ => self.json(node),
        }
    }

    fn json(&mut self, node: Node<'n>) -> bool {
        match node {
            Node::JsonReturning(_)
            | Node::JsonValueExpr(_)
            | Node::JsonParseExpr(_)
            | Node::JsonScalarExpr(_)
            | Node::JsonSerializeExpr(_)
            | Node::JsonConstructorExpr(_)
            | Node::JsonIsPredicate(_)
            | Node::JsonArgument(_)
            | Node::JsonFuncExpr(_)
            | Node::JsonBehavior(_)
            | Node::JsonTable(_)
            | Node::JsonTableColumn(_)
            | Node::JsonTablePathSpec(_)
            | Node::JsonOutput(_)
            | Node::JsonKeyValue(_)
            | Node::JsonObjectConstructor(_)
            | Node::JsonArrayConstructor(_)
            | Node::JsonArrayQueryConstructor(_)
            | Node::JsonAggConstructor(_)
            | Node::JsonObjectAgg(_)
            | Node::JsonArrayAgg(_) => true,
            Node::JsonFormat(_) => false,
            _ => {
                self.found.note(Reason::UnknownSyntax);
                false
            }
        }
    }

    /// The planner runs none but IMMUTABLE functions.
    fn function(&mut self, call: &FuncCall) {
        if self.runs == Runs::No {
            return;
        }
        let (schema, name) = qualified(call.funcname());
        let reason = match self.catalog.function(schema, name) {
            Known::Harmless => setting(name, call),
            Known::Not => Some(Reason::UnknownFunction(name.into())),
            Known::Dangerous(Danger::Volatile) => Some(Reason::VolatileFunction(name.into())),
            Known::Dangerous(Danger::Local) => Some(Reason::LocalFunction(name.into())),
        };
        if let Some(reason) = reason {
            self.found.note(reason);
        }
    }

    /// BETWEEN stands for `>=` and `<=`, LIKE for `~~`; the parser has put that in for all but the first.
    fn expression(&mut self, expression: &A_Expr) {
        match expression.kind {
            Kind::AEXPR_BETWEEN
            | Kind::AEXPR_NOT_BETWEEN
            | Kind::AEXPR_BETWEEN_SYM
            | Kind::AEXPR_NOT_BETWEEN_SYM => {
                self.operator_named(None, ">=");
                self.operator_named(None, "<=");
            }
            _ => self.operator(expression.name()),
        }
    }

    fn operator(&mut self, name: &NodeList) {
        if !name.is_empty() {
            let (schema, name) = qualified(name);
            self.operator_named(schema, name);
        }
    }

    fn operator_named(&mut self, schema: Option<&str>, name: &str) {
        if self.runs == Runs::No {
            return;
        }
        match self.catalog.operator(schema, name) {
            Known::Harmless => {}
            Known::Not => self.found.note(Reason::UnknownOperator(name.into())),
            Known::Dangerous(_) => self.found.note(Reason::VolatileOperator(name.into())),
        }
    }

    /// `t.name` calls the function `name(t)` when there is no such column.
    fn columns(&mut self, fields: &NodeList, skipped: usize) {
        for name in fields.iter().skip(skipped).filter_map(Node::as_str) {
            match self.catalog.column(name) {
                Some(Danger::Volatile) if self.runs == Runs::Yes => {
                    self.found.note(Reason::VolatileFunction(name.into()));
                }
                Some(Danger::Local) if self.runs == Runs::Yes => {
                    self.found.note(Reason::LocalFunction(name.into()));
                }
                _ => {}
            }
        }
    }

    /// A name that WITH gives may hide a relation, or not, where both have it: the relation counts then.
    fn judge_relations(&mut self) {
        self.queries.sort_unstable();
        for relation in std::mem::take(&mut self.relations) {
            let Some(name) = relation.relname() else { continue };
            match self.catalog.relation(relation.schemaname(), name) {
                Known::Harmless => {}
                Known::Not
                    if relation.schemaname().is_none() && self.queries.binary_search(&name).is_ok() => {}
                Known::Not => self.found.note(Reason::UnknownRelation(name.into())),
                Known::Dangerous(hazard) => {
                    self.found.note(Reason::Relation { name: name.into(), hazard: hazard.clone() });
                }
            }
        }
    }
}

/// Schema and name of a function or operator; a database before them says nothing new.
fn qualified(names: &NodeList) -> (Option<&str>, &str) {
    let name =
        |back: usize| names.len().checked_sub(back).and_then(|at| names.get(at)).and_then(Node::as_str);
    (name(2), name(1).unwrap_or_default())
}

/// `current_setting` of what tells of the server, or of what is known only when it runs.
fn setting(name: &str, call: &FuncCall) -> Option<Reason> {
    if name != "current_setting" {
        return None;
    }
    match call.args().get(0).and_then(text) {
        Some(setting) if !is_local_setting(setting) => None,
        Some(setting) => Some(Reason::LocalSetting(setting.into())),
        None => Some(Reason::LocalFunction(name.into())),
    }
}
