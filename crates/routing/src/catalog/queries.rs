//! The queries behind a `Catalog`, and their rows.
//!
//! What it is: SQL that gives the same columns on PostgreSQL 15 to 18, for any role, as texts. What it is not: a
//! connection; the caller runs them in one database, on any of its servers, and hands each row in. Invariant: none of
//! them depends on `search_path`, takes a lock that disturbs anyone or runs a function of a user.

use std::fmt;

/// One question to the catalog.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Query {
    Functions,
    Operators,
    Relations,
    Dependencies,
}

/// Functions and aggregates that a query can call. An aggregate is as volatile as what it calls. `takes_row` says
/// that `t.name` may mean `name(t)`.
const FUNCTIONS: &str = "\
SELECT p.oid, n.nspname, p.proname,
       p.provolatile = 'v' OR p.prokind = 'p' OR p.oid IN (
           SELECT a.aggfnoid FROM pg_catalog.pg_aggregate a,
                  pg_catalog.unnest(ARRAY[a.aggtransfn::oid, a.aggfinalfn, a.aggcombinefn, a.aggserialfn,
                                          a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn]) f(oid)
                  JOIN pg_catalog.pg_proc c ON c.oid = f.oid
            WHERE c.provolatile = 'v'),
       p.pronargs >= 1 AND p.pronargs - p.pronargdefaults <= 1
           AND (t.typtype IN ('c', 'd') OR t.typname IN ('record', 'any', 'anyelement', 'anynonarray',
                                                         'anycompatible', 'anycompatiblenonarray'))
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  LEFT JOIN pg_catalog.pg_type t ON t.oid = p.proargtypes[0]
 WHERE p.prorettype NOT IN ('pg_catalog.trigger'::pg_catalog.regtype, 'pg_catalog.event_trigger'::pg_catalog.regtype)
   AND n.nspname !~ '^pg_(toast_)?temp_'";

const OPERATORS: &str = "\
SELECT n.nspname, o.oprname, o.oprcode::oid
  FROM pg_catalog.pg_operator o
  JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
 WHERE n.nspname !~ '^pg_(toast_)?temp_'";

/// Whatever FROM can name.
const RELATIONS: &str = "\
SELECT c.oid, n.nspname, c.relname, c.relkind, c.relpersistence
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'";

/// What reading a relation calls and reads in turn: views by their rule, tables by their policies and their partitions
/// or children. `pg_depend` has no entries for PostgreSQL's own functions, so the stored expressions are searched:
/// their fields are named in `src/include/nodes/primnodes.h` and `parsenodes.h`. A text that looks like such a field
/// is not possible in them, since spaces in names are escaped and values are bytes.
const DEPENDENCIES: &str = r"
WITH expression (relation, tree) AS (
    SELECT r.ev_class, r.ev_action::text FROM pg_catalog.pg_rewrite r
      JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
     WHERE c.relkind = 'v' AND r.ev_type = '1'
    UNION ALL
    SELECT polrelid, polqual::text FROM pg_catalog.pg_policy WHERE polcmd IN ('*', 'r') AND polqual IS NOT NULL)
SELECT e.relation, 'f', m[1]
  FROM expression e, pg_catalog.regexp_matches(e.tree, ':(?:funcid|opfuncid|aggfnoid|winfnoid) ([1-9]\d*)', 'g') m
UNION
SELECT e.relation, 'r', m[1] FROM expression e, pg_catalog.regexp_matches(e.tree, ':relid ([1-9]\d*)', 'g') m
UNION
SELECT i.inhparent, 'r', i.inhrelid::text FROM pg_catalog.pg_inherits i
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relkind IN ('r', 'p', 'f')";

/// One number that changes when a function, an operator, a relation, a rule or a policy is made, changed or dropped.
/// Costs 3 ms where the four queries cost 100. VACUUM and ANALYZE do not change it: they write in place.
const FINGERPRINT: &str = "\
SELECT pg_catalog.sum(f) FROM (
    SELECT pg_catalog.sum(xmin::text::pg_catalog.int8) FROM pg_catalog.pg_proc
    UNION ALL SELECT pg_catalog.sum(xmin::text::pg_catalog.int8) FROM pg_catalog.pg_operator
    UNION ALL SELECT pg_catalog.sum(xmin::text::pg_catalog.int8) FROM pg_catalog.pg_class
    UNION ALL SELECT pg_catalog.sum(xmin::text::pg_catalog.int8) FROM pg_catalog.pg_namespace
    UNION ALL SELECT pg_catalog.sum(xmin::text::pg_catalog.int8) FROM pg_catalog.pg_aggregate
    UNION ALL SELECT pg_catalog.sum(xmin::text::pg_catalog.int8) FROM pg_catalog.pg_inherits
    UNION ALL SELECT pg_catalog.sum(xmin::text::pg_catalog.int8) FROM pg_catalog.pg_rewrite
    UNION ALL SELECT pg_catalog.sum(xmin::text::pg_catalog.int8) FROM pg_catalog.pg_policy) x (f)";

impl Query {
    pub const ALL: [Query; 4] = [Query::Functions, Query::Operators, Query::Relations, Query::Dependencies];
    /// See there: whether it is worth while to ask the others again.
    pub const FINGERPRINT: &'static str = FINGERPRINT;

    /// To be run as it is, for all its rows. All four belong into one REPEATABLE READ transaction.
    pub fn sql(self) -> &'static str {
        match self {
            Query::Functions => FUNCTIONS,
            Query::Operators => OPERATORS,
            Query::Relations => RELATIONS,
            Query::Dependencies => DEPENDENCIES,
        }
    }
}

#[derive(Debug)]
pub(super) struct Function {
    pub oid: u32,
    pub schema: Box<str>,
    pub name: Box<str>,
    pub is_volatile: bool,
    pub takes_row: bool,
}

#[derive(Debug)]
pub(super) struct Operator {
    pub schema: Box<str>,
    pub name: Box<str>,
    /// The oid of its function.
    pub function: u32,
}

#[derive(Debug)]
pub(super) struct Relation {
    pub oid: u32,
    pub schema: Box<str>,
    pub name: Box<str>,
    /// `relkind`.
    pub kind: char,
    /// `relpersistence`.
    pub persistence: char,
}

impl Relation {
    pub fn is_temporary(&self) -> bool {
        self.persistence == 't'
    }
}

/// What reading a relation leads to, by oid.
#[derive(Clone, Copy, Debug)]
pub(super) enum Behind {
    Function(u32),
    Relation(u32),
}

/// Rows of all four queries.
#[derive(Debug, Default)]
pub struct Rows {
    pub(super) functions: Vec<Function>,
    pub(super) operators: Vec<Operator>,
    pub(super) relations: Vec<Relation>,
    /// The reader's oid first.
    pub(super) dependencies: Vec<(u32, Behind)>,
}

/// A row that is none of its query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadRow(pub Query);

impl fmt::Display for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an unexpected row of the catalog query {:?}", self.0)
    }
}

impl std::error::Error for BadRow {}

impl Rows {
    /// One row of `query`: its columns in text format, none of them null.
    pub fn take(&mut self, query: Query, columns: &[&str]) -> Result<(), BadRow> {
        let number = |text: &str| text.parse::<u32>().map_err(|_| BadRow(query));
        match (query, columns) {
            (Query::Functions, [oid, schema, name, is_volatile, takes_row]) => {
                self.functions.push(Function {
                    oid: number(oid)?,
                    schema: (*schema).into(),
                    name: (*name).into(),
                    is_volatile: *is_volatile != "f",
                    takes_row: *takes_row == "t",
                })
            }
            (Query::Operators, [schema, name, function]) => self.operators.push(Operator {
                schema: (*schema).into(),
                name: (*name).into(),
                function: number(function)?,
            }),
            (Query::Relations, [oid, schema, name, kind, persistence]) => self.relations.push(Relation {
                oid: number(oid)?,
                schema: (*schema).into(),
                name: (*name).into(),
                kind: kind.chars().next().ok_or(BadRow(query))?,
                persistence: persistence.chars().next().ok_or(BadRow(query))?,
            }),
            (Query::Dependencies, [relation, "f", oid]) => {
                self.dependencies.push((number(relation)?, Behind::Function(number(oid)?)));
            }
            (Query::Dependencies, [relation, "r", oid]) => {
                self.dependencies.push((number(relation)?, Behind::Relation(number(oid)?)));
            }
            _ => return Err(BadRow(query)),
        }
        Ok(())
    }
}
