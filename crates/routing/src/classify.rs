//! From a text to its verdict.
//!
//! What it is: the limits, the parser, the hint, and the sum over the statements of one text. What it is not: the
//! meaning of a statement (`statement`) or of an expression (`tree`). Invariant: a text is a read only if each of its
//! statements is, and every text has a verdict.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::catalog::Catalog;
use crate::hint::{self, Hint};
use crate::statement::Statements;
use crate::verdict::{Reason, Route, Verdict};

/// Longer texts are not parsed. At 10 ns a byte (`cargo run -p routing --example cost --release`) this is less than a
/// millisecond of a thread that serves others too. The stack is no concern: the grammar is a table-driven automaton
/// whose own stack is on the heap and ends at 10,000 states (`YYMAXDEPTH` in `gram.c`), and `tree` does not recurse.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;

/// What `text` is, by `catalog`: the text of a Query or Parse message without its zero byte.
pub fn classify(text: &[u8], catalog: &Catalog) -> Verdict {
    if text.len() > TEXT_BYTES_MAX {
        return Verdict::plain(Route::Primary(Reason::TooLong));
    }
    classify_any_length(text, catalog)
}

pub(crate) fn classify_any_length(text: &[u8], catalog: &Catalog) -> Verdict {
    let Ok(sql) = std::str::from_utf8(text) else { return Verdict::plain(Route::Primary(Reason::NotUtf8)) };
    // The parser's crate asserts what it believes of its C half; nothing here depends on what a panic leaves behind.
    let verdict = catch_unwind(AssertUnwindSafe(|| parsed(sql, catalog)));
    verdict.unwrap_or_else(|_| Verdict::plain(Route::Primary(Reason::ParserFailed)))
}

fn parsed(sql: &str, catalog: &Catalog) -> Verdict {
    let Ok(tree) = pg_raw_parse::parse(sql) else {
        return Verdict::plain(Route::Primary(Reason::Unparsable));
    };
    let mut statements = Statements::new(catalog);
    tree.stmts().for_each(|statement| statements.take(statement));
    let (reason, block) = statements.end();
    let route = match (hint::read(sql.as_bytes()), reason) {
        (Some(Hint::Primary), _) => Route::Primary(Reason::Hint),
        (Some(Hint::Replica), Some(reason)) if reason.is_doubt() => Route::Replica,
        (_, Some(reason)) => Route::Primary(reason),
        (_, None) => Route::Replica,
    };
    Verdict { route, block }
}

#[cfg(test)]
mod tests;
