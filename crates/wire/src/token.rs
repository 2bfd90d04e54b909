//! A query text as tokens, as far as PostgreSQL's lexer must be followed to see where words are words.
//!
//! What it is: comments are skipped, texts in any quotes are one token, the rest is words and single bytes. What it is
//! not: the grammar. It reads as with `standard_conforming_strings = on` and in an encoding whose bytes below 0x80 are
//! always ASCII; who cannot rule out the others must not trust it. Invariant: every input ends, none panics.

use std::ops::Range;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A keyword, a name or a number.
    Word,
    /// A name in double quotes.
    Quoted,
    /// A text in single quotes or between dollars.
    Text,
    /// Any other byte.
    Byte(u8),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token<'a> {
    pub kind: Kind,
    /// As written, quotes included.
    pub raw: &'a [u8],
    /// Where `raw` begins in the text.
    pub start: usize,
}

impl<'a> Token<'a> {
    /// True for this keyword in any case, without quotes.
    pub fn is(&self, keyword: &str) -> bool {
        self.kind == Kind::Word && self.raw.eq_ignore_ascii_case(keyword.as_bytes())
    }

    pub fn is_byte(&self, byte: u8) -> bool {
        self.kind == Kind::Byte(byte)
    }

    /// True when this is `name` as PostgreSQL resolves names: folded without quotes, as it is within.
    pub fn names(&self, name: &str) -> bool {
        match self.kind {
            Kind::Word => self.raw.eq_ignore_ascii_case(name.as_bytes()),
            Kind::Quoted => self.plain() == name.as_bytes(),
            Kind::Text | Kind::Byte(_) => false,
        }
    }

    /// Without its quotes. Doubled quotes and escapes inside stay as they are, so such a text equals no known word.
    pub fn plain(&self) -> &'a [u8] {
        match (self.kind, self.raw) {
            (Kind::Quoted, [b'"', inner @ .., b'"']) | (Kind::Text, [b'\'', inner @ .., b'\'']) => inner,
            _ => self.raw,
        }
    }

    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.raw.len()
    }
}

/// The tokens of a text, one after the other.
#[derive(Clone, Debug)]
pub struct Tokens<'a> {
    sql: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub fn new(sql: &'a [u8]) -> Tokens<'a> {
        Tokens { sql, at: 0 }
    }

    fn rest(&self) -> &'a [u8] {
        self.sql.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self, count: usize) {
        self.at = (self.at + count).min(self.sql.len());
    }

    fn skip_blanks(&mut self) {
        loop {
            match self.rest() {
                [byte, ..] if byte.is_ascii_whitespace() || *byte == 0x0b => self.skip(1),
                [b'-', b'-', ..] => {
                    let end = self.rest().iter().position(|byte| matches!(byte, b'\n' | b'\r'));
                    self.skip(end.unwrap_or(usize::MAX / 2));
                }
                [b'/', b'*', ..] => self.skip_block_comment(),
                _ => return,
            }
        }
    }

    fn skip_block_comment(&mut self) {
        let mut depth = 0u32;
        loop {
            match self.rest() {
                [b'/', b'*', ..] => {
                    depth += 1;
                    self.skip(2);
                }
                [b'*', b'/', ..] => {
                    depth -= 1;
                    self.skip(2);
                    if depth == 0 {
                        return;
                    }
                }
                [] => return,
                _ => self.skip(1),
            }
        }
    }

    fn skip_quoted(&mut self, quote: u8, with_escapes: bool) {
        self.skip(1);
        while let Some(byte) = self.rest().first().copied() {
            if with_escapes && byte == b'\\' {
                self.skip(2);
                continue;
            }
            self.skip(1);
            if byte == quote {
                if self.rest().first() != Some(&quote) {
                    return;
                }
                self.skip(1);
            }
        }
    }

    /// A text between dollars, or else the dollar alone.
    fn dollar(&mut self) -> Kind {
        let rest = self.rest();
        let tag_end = rest[1..].iter().position(|byte| *byte == b'$' || !is_word(*byte));
        let tag = match tag_end {
            Some(at) if rest[1 + at] == b'$' && !rest[1].is_ascii_digit() => &rest[..at + 2],
            _ => {
                self.skip(1);
                return Kind::Byte(b'$');
            }
        };
        self.skip(tag.len());
        let end = self.rest().windows(tag.len()).position(|window| window == tag);
        self.skip(end.map_or(usize::MAX / 2, |at| at + tag.len()));
        Kind::Text
    }

    fn word(&mut self) -> Kind {
        let rest = self.rest();
        // `$` inside a word (`a$b$c`) opens no quote.
        let end = rest.iter().position(|byte| !is_word(*byte) && *byte != b'$').unwrap_or(rest.len());
        self.skip(end);
        if rest[..end].eq_ignore_ascii_case(b"e") && self.rest().first() == Some(&b'\'') {
            self.skip_quoted(b'\'', true);
            return Kind::Text;
        }
        Kind::Word
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.skip_blanks();
        let start = self.at;
        let kind = match *self.rest().first()? {
            b'\'' => {
                self.skip_quoted(b'\'', false);
                Kind::Text
            }
            b'"' => {
                self.skip_quoted(b'"', false);
                Kind::Quoted
            }
            b'$' => self.dollar(),
            byte if is_word(byte) => self.word(),
            byte => {
                self.skip(1);
                Kind::Byte(byte)
            }
        };
        Some(Token { kind, raw: &self.sql[start..self.at], start })
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    fn raw(sql: &str) -> Vec<String> {
        Tokens::new(sql.as_bytes()).map(|token| String::from_utf8_lossy(token.raw).into_owned()).collect()
    }

    #[test]
    fn texts_and_comments_are_not_split() {
        assert_eq!(raw("a -- b\n/* c /* d */ */ 'it''s; x' $$ ; $$"), ["a", "'it''s; x'", "$$ ; $$"]);
        assert_eq!(raw(r"E'\'; x' 'a\' b"), [r"E'\'; x'", r"'a\'", "b"]);
        assert_eq!(raw("a$b$c, $1; $x$ $$ $x$"), ["a$b$c", ",", "$", "1", ";", "$x$ $$ $x$"]);
        assert_eq!(raw("\"a\"\"b\".c='d"), ["\"a\"\"b\"", ".", "c", "=", "'d"]);
        assert_eq!(raw("/* open"), [""; 0]);
    }

    #[test]
    fn names_are_folded_as_postgresql_folds_them() {
        let names = |sql: &str, name| Tokens::new(sql.as_bytes()).next().unwrap().names(name);
        assert!(names("Work_Mem", "work_mem") && names("\"work_mem\"", "work_mem"));
        assert!(!names("\"Work_Mem\"", "work_mem") && !names("'work_mem'", "work_mem"));
    }

    #[test]
    fn tokens_cover_the_text_in_order_whatever_it_is() {
        let alphabet = b"abE'\"$-/*;\\ \n1_=\xff\0";
        let mut chance = Chance::new(11);
        for _ in 0..50_000 {
            let length = chance.below(40);
            let sql: Vec<u8> =
                (0..length).map(|_| alphabet[chance.below(alphabet.len() as u64) as usize]).collect();
            let mut end = 0;
            for token in Tokens::new(&sql) {
                assert!(token.start >= end && !token.raw.is_empty());
                assert_eq!(&sql[token.range()], token.raw);
                end = token.range().end;
            }
        }
    }
}
