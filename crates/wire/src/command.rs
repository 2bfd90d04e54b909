//! Which transaction commands a query text holds.
//!
//! What it is: a look at the first words of each statement, so that a relay knows whether a lost answer may hide a
//! commit. What it is not: a parser; routing uses PostgreSQL's grammar. Invariant: where the text is cut or unclear
//! the answer is "may commit".

/// What the statements of one text do to the transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Commands {
    /// The first statement opens a transaction block.
    pub opens: bool,
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
        let mut found = Commands::default();
        let mut lexer = Lexer { rest: sql };
        while let Some((first, second)) = lexer.statement() {
            let is = |word: &[u8], text: &str| word.eq_ignore_ascii_case(text.as_bytes());
            let prepared = is(second, "PREPARED");
            let opens = is(first, "BEGIN") || is(first, "START");
            let ends = is(first, "ROLLBACK") || is(first, "ABORT");
            found.opens |= found.count == 0 && opens;
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

struct Lexer<'a> {
    rest: &'a [u8],
}

impl<'a> Lexer<'a> {
    /// The first two words of the next statement; the lexer then stands behind its semicolon.
    fn statement(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        self.skip_blanks_and(|byte| byte == b';');
        if self.rest.is_empty() {
            return None;
        }
        let first = self.word();
        self.skip_blanks_and(|_| false);
        let body = self.rest;
        let second = self.word();
        self.rest = body;
        while let Some(byte) = self.rest.first().copied() {
            match byte {
                b';' => break,
                b'\'' => self.skip_quoted(b'\'', false),
                b'"' => self.skip_quoted(b'"', false),
                b'$' => self.skip_dollar_quoted(),
                b'-' | b'/' => self.skip_comment_or_byte(),
                _ if is_word(byte) => {
                    let word = self.word();
                    let escapes = word.eq_ignore_ascii_case(b"e") && self.rest.first() == Some(&b'\'');
                    if escapes {
                        self.skip_quoted(b'\'', true);
                    }
                    // `$` inside a word (`a$b$c`) opens no quote.
                    while self.rest.first() == Some(&b'$') {
                        self.skip(1);
                        self.word();
                    }
                }
                _ => self.skip(1),
            }
        }
        Some((first, second))
    }

    fn skip(&mut self, count: usize) {
        self.rest = self.rest.get(count..).unwrap_or_default();
    }

    fn word(&mut self) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| !is_word(*byte)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn skip_blanks_and(&mut self, also: fn(u8) -> bool) {
        loop {
            match self.rest.first().copied() {
                Some(byte) if byte.is_ascii_whitespace() || byte == 0x0b || also(byte) => self.skip(1),
                Some(b'-') if self.rest.starts_with(b"--") => self.skip_comment_or_byte(),
                Some(b'/') if self.rest.starts_with(b"/*") => self.skip_comment_or_byte(),
                _ => return,
            }
        }
    }

    fn skip_comment_or_byte(&mut self) {
        if self.rest.starts_with(b"--") {
            let end = self.rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            self.skip(end.unwrap_or(self.rest.len()));
        } else if self.rest.starts_with(b"/*") {
            let mut depth = 0u32;
            while !self.rest.is_empty() {
                if self.rest.starts_with(b"/*") {
                    depth += 1;
                    self.skip(2);
                } else if self.rest.starts_with(b"*/") {
                    depth -= 1;
                    self.skip(2);
                    if depth == 0 {
                        return;
                    }
                } else {
                    self.skip(1);
                }
            }
        } else {
            self.skip(1);
        }
    }

    /// A doubled quote inside is two quoted texts in a row for this purpose.
    fn skip_quoted(&mut self, quote: u8, with_escapes: bool) {
        self.skip(1);
        while let Some(byte) = self.rest.first().copied() {
            self.skip(if with_escapes && byte == b'\\' { 2 } else { 1 });
            if byte == quote {
                let goes_on = with_escapes && self.rest.first() == Some(&quote);
                if !goes_on {
                    return;
                }
                self.skip(1);
            }
        }
    }

    fn skip_dollar_quoted(&mut self) {
        let tag_end = self.rest[1..].iter().position(|byte| *byte == b'$' || !is_word(*byte));
        let tag = match tag_end {
            Some(at) if self.rest[1 + at] == b'$' && !self.rest[1].is_ascii_digit() => &self.rest[..at + 2],
            _ => return self.skip(1),
        };
        self.skip(tag.len());
        let end = self.rest.windows(tag.len()).position(|window| window == tag);
        self.skip(end.map_or(self.rest.len(), |at| at + tag.len()));
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

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

    #[test]
    fn random_bytes_never_panic() {
        let alphabet = b"abE'\"$-/*;\\ \n1_commit\xff\0";
        let mut chance = Chance::new(11);
        for _ in 0..50_000 {
            let length = chance.below(40);
            let sql: Vec<u8> =
                (0..length).map(|_| alphabet[chance.below(alphabet.len() as u64) as usize]).collect();
            let _ = Commands::read(&sql, false);
        }
    }
}
