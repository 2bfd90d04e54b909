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

/// Longer texts are not parsed. The dearest that is shorter costs some milliseconds of a thread that serves others
/// too (`cargo run -p routing --release --example cost`). Depth is bounded otherwise: the grammar is a table-driven automaton
/// whose own stack is on the heap and ends at 10,000 states (`YYMAXDEPTH` in `gram.c`), and `tree` does not recurse.
pub const TEXT_BYTES_MAX: usize = 32 * 1024;

/// The lexer takes `+++…` and `/*/*…` one token at a time and reads the rest of the run again for each (`operator` and
/// `xcstart` in `src/backend/parser/scan.l`): 64 kB of `+` took 3.9 s. Runs this long stand in no operator, whose name
/// has 63 bytes at most, but in banners.
const OPERATOR_RUN_MAX: usize = 128;
/// libpg_query skips a comment by calling its lexer anew from within (`base_yylex` in its `parser.c`): 100,000 comments
/// without a word between them overflowed two megabytes of stack. These take a few hundred bytes each.
const COMMENTS_MAX: usize = 500;
const OPERATOR_BYTES: &[u8] = b"~!@#^&|`?+-*/%<>=";

/// What `text` is, by `catalog`: the text of a Query or Parse message without its zero byte.
pub fn classify(text: &[u8], catalog: &Catalog) -> Verdict {
    if text.len() > TEXT_BYTES_MAX {
        return Verdict::plain(Route::Primary(Reason::TooLong));
    }
    classify_any_length(text, catalog)
}

pub(crate) fn classify_any_length(text: &[u8], catalog: &Catalog) -> Verdict {
    if longest_operator_run(text) > OPERATOR_RUN_MAX || comments_at_most(text) > COMMENTS_MAX {
        return Verdict::plain(Route::Primary(Reason::TooCostly));
    }
    let Ok(sql) = std::str::from_utf8(text) else { return Verdict::plain(Route::Primary(Reason::NotUtf8)) };
    // The parser's crate asserts what it believes of its C half; nothing here depends on what a panic leaves behind.
    let verdict = catch_unwind(AssertUnwindSafe(|| parsed(sql, catalog)));
    verdict.unwrap_or_else(|_| Verdict::plain(Route::Primary(Reason::ParserFailed)))
}

fn longest_operator_run(text: &[u8]) -> usize {
    let mut run = 0;
    let runs = text.iter().map(|byte| {
        run = if OPERATOR_BYTES.contains(byte) { run + 1 } else { 0 };
        run
    });
    runs.max().unwrap_or_default()
}

/// Counts beginnings of comments, those within literals too.
fn comments_at_most(text: &[u8]) -> usize {
    text.windows(2).filter(|pair| matches!(*pair, [b'-', b'-'] | [b'/', b'*'])).count()
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
pub(crate) mod tests;
