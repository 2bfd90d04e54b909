//! Which transaction commands a query text holds.
//!
//! What it is: a look at the first words of each statement, so that a relay knows whether a lost answer may hide a
//! commit. What it is not: a parser; routing uses PostgreSQL's grammar. Invariant: where the text is cut or unclear
//! the answer is "may commit".

use crate::plain::is_plain;
use crate::token::{Token, Tokens};

/// What the statements of one text do to the transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Commands {
    /// The first statement opens a transaction block.
    pub opens: bool,
    /// Some statement does.
    pub opens_anywhere: bool,
    /// Some statement is COMMIT, END, PREPARE TRANSACTION, COMMIT PREPARED or ROLLBACK PREPARED.
    pub commits: bool,
    /// Some statement is ROLLBACK or ABORT of the whole transaction.
    pub rolls_back: bool,
    /// Statements seen.
    pub count: u32,
}

impl Commands {
    /// Reads `sql`; `is_cut` says that more text followed, which counts as a commit when it may be a further statement.
    pub fn read(sql: &[u8], is_cut: bool) -> Commands {
        if is_plain(sql) {
            return Commands { count: 1, ..Commands::default() };
        }
        Commands::read_fully(sql, is_cut)
    }

    pub(crate) fn read_fully(sql: &[u8], is_cut: bool) -> Commands {
        let mut found = Commands::default();
        let mut tokens = Tokens::new(sql);
        while let Some((first, second)) = statement(&mut tokens) {
            let is = |word: Option<Token<'_>>, text: &str| word.is_some_and(|word| word.is(text));
            let prepared = is(second, "PREPARED");
            let opens = is(first, "BEGIN") || is(first, "START");
            let ends = is(first, "ROLLBACK") || is(first, "ABORT");
            found.opens |= found.count == 0 && opens;
            found.opens_anywhere |= opens;
            found.commits |= is(first, "COMMIT")
                || is(first, "END")
                || (is(first, "PREPARE") && is(second, "TRANSACTION"))
                || (ends && prepared);
            // `ROLLBACK WORK TO x` is rare enough to be taken for a whole ROLLBACK, which is the careful side.
            found.rolls_back |= ends && !prepared && !is(second, "TO");
            found.count = found.count.saturating_add(1);
        }
        found.commits |= is_cut && found.count > 1;
        found
    }

    /// True when losing the answer leaves it open whether something was committed.
    pub fn may_commit(&self, in_transaction: bool, is_cut: bool) -> bool {
        let goes_on_after_rollback = self.rolls_back && self.count > 1;
        let stands_alone = !in_transaction && !self.opens && self.count > 0;
        self.commits || is_cut || goes_on_after_rollback || stands_alone
    }
}

/// The first two tokens of the next statement; what follows them is skipped with its semicolon.
fn statement<'a>(tokens: &mut Tokens<'a>) -> Option<(Option<Token<'a>>, Option<Token<'a>>)> {
    let first = tokens.find(|token| !token.is_byte(b';'))?;
    let mut second = None;
    for token in tokens {
        if token.is_byte(b';') {
            break;
        }
        second = second.or(Some(token));
    }
    Some((Some(first), second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sql: &str) -> Commands {
        Commands::read(sql.as_bytes(), false)
    }

    #[test]
    fn commits_are_found_wherever_they_stand() {
        for sql in [
            "COMMIT",
            " commit;",
            "-- x\n /* a /* b */ c */ End",
            "BEGIN; INSERT INTO t VALUES ('a;b', E'\\';', $x$ ; $x$, \";\"); COMMIT",
            "PREPARE TRANSACTION 'x'",
            "commit prepared 'x'",
            "ROLLBACK PREPARED 'x'",
            "select 1;;commit and chain",
        ] {
            assert!(read(sql).commits, "{sql}");
        }
    }

    #[test]
    fn words_inside_other_things_are_no_commits() {
        for sql in [
            "",
            "SELECT 'x; COMMIT'",
            "SELECT $$; COMMIT $$",
            "SELECT E'\\'; COMMIT'",
            "/* ; COMMIT */ SELECT 1 -- ; COMMIT",
            "PREPARE s AS SELECT 1",
            "ROLLBACK",
            "INSERT INTO \"; COMMIT\" VALUES ('it''s; COMMIT')",
            "SELECT $1; SELECT $2",
            "commits",
            "SELECT a$b, c$b FROM t -- ; COMMIT",
        ] {
            assert!(!read(sql).commits, "{sql}");
        }
    }

    #[test]
    fn a_lost_answer_is_judged_with_care() {
        let may = |sql: &str, in_transaction| read(sql).may_commit(in_transaction, false);
        assert!(may("INSERT INTO t VALUES (1)", false));
        assert!(!may("INSERT INTO t VALUES (1)", true));
        assert!(!may("BEGIN", false));
        assert!(!may("START TRANSACTION; INSERT INTO t VALUES (1)", false));
        assert!(may("INSERT INTO t VALUES (1); BEGIN", false));
        assert!(!may("ROLLBACK", true));
        assert!(!may("ROLLBACK TO s; INSERT INTO t VALUES (1)", true));
        assert!(may("ROLLBACK; INSERT INTO t VALUES (1)", true));
        assert!(!may("  ", false));
        assert!(Commands::read(b"SELECT", true).may_commit(true, true), "the rest is not known");
        assert!(!Commands::read(b"SELECT", true).commits, "a long statement stays cancellable");
        assert!(Commands::read(b"BEGIN; SEL", true).commits);
    }
}
