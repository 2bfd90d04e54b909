//! The quick look at a query text: is it one statement of those that leave nothing behind, and has it no word that could?
//!
//! Most texts are, and reading them token by token is half of what a relay computes. What it is: a pass over the bytes that knows
//! nothing of quotes and comments, so that what stands in them counts too. What it is not: the judge of the other texts; those
//! are read. Invariant: of a text that is plain the full reading says that it leaves nothing (`Effects`) and is one statement that
//! does nothing to its transaction (`Commands`).

/// First words of plain statements.
const FIRST: [&[u8]; 7] = [b"select", b"insert", b"update", b"delete", b"with", b"values", b"table"];

/// Beginnings of words that the full reading must see: those of `binding_name`, and of TEMPORARY.
const SUSPECTS: [&[u8]; 12] = [
    b"temp",
    b"pg_temp",
    b"set_config",
    b"setseed",
    b"currval",
    b"lastval",
    b"dblink_connect",
    b"pg_settings",
    b"pg_advisory_",
    b"pg_try_advisory_",
    b"pg_replication_origin_session",
    b"pg_create_",
];

/// What a byte is to the quick look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Other,
    Word,
    /// A letter that a suspect begins with.
    Suspect,
    Semicolon,
}

const CLASSES: [Class; 256] = {
    let mut classes = [Class::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        let letter = byte as u8;
        if letter.is_ascii_alphanumeric() || letter == b'_' || byte >= 0x80 {
            classes[byte] = Class::Word;
        }
        byte += 1;
    }
    let mut n = 0;
    while n < SUSPECTS.len() {
        classes[SUSPECTS[n][0] as usize] = Class::Suspect;
        classes[SUSPECTS[n][0].to_ascii_uppercase() as usize] = Class::Suspect;
        n += 1;
    }
    classes[b';' as usize] = Class::Semicolon;
    classes
};

/// True for most texts of which it holds; false says nothing.
pub(crate) fn is_plain(sql: &[u8]) -> bool {
    let begin = sql.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(sql.len());
    let sql = &sql[begin..];
    let is_first = |word: &&&[u8]| {
        starts_with(sql, word)
            && sql
                .get(word.len())
                .is_some_and(|byte| CLASSES[usize::from(*byte)] == Class::Other && *byte != b'$')
    };
    let Some(first) = FIRST.iter().find(is_first) else { return false };
    let mut in_word = false;
    for (at, byte) in sql.iter().enumerate().skip(first.len()) {
        match CLASSES[usize::from(*byte)] {
            Class::Word => in_word = true,
            Class::Other => in_word = false,
            Class::Suspect => {
                let rest = &sql[at..];
                if !in_word && SUSPECTS.iter().any(|suspect| starts_with(rest, suspect)) {
                    return false;
                }
                in_word = true;
            }
            // At the very end it ends the one statement.
            Class::Semicolon => return sql[at + 1..].iter().all(u8::is_ascii_whitespace),
        }
    }
    true
}

/// `word` is in small letters.
fn starts_with(text: &[u8], word: &[u8]) -> bool {
    text.get(..word.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;
    use crate::{Commands, Effects};

    #[test]
    fn most_texts_are_plain() {
        for sql in [
            "SELECT abalance FROM pgbench_accounts WHERE aid = 4711;",
            "  select 1",
            "UPDATE t SET a = a + 1 WHERE b = $1 RETURNING c ; \n",
            "WITH x AS (SELECT 1) SELECT * FROM x",
            "INSERT INTO contemporaries VALUES ('it''s', E'\\n', $$x$$)",
            "values(1)",
        ] {
            assert!(is_plain(sql.as_bytes()), "{sql}");
        }
    }

    #[test]
    fn whatever_could_leave_something_is_not() {
        for sql in [
            "",
            ";",
            "select",
            "selects 1",
            "SET x = 1",
            "BEGIN",
            "SELECT 1; COMMIT",
            "SELECT ';'",
            "SELECT 1;;",
            "/* x */ SELECT 1",
            "SELECT * INTO TEMP x FROM y",
            "SELECT set_config('a', 'b', false)",
            "SELECT \"Set_Config\"('a', 'b', false)",
            "SELECT pg_advisory_lock(1)",
            "SELECT * FROM pg_temp_3.x",
            "UPDATE pg_settings SET setting = 'x'",
            "SELECT$1",
        ] {
            assert!(!is_plain(sql.as_bytes()), "{sql}");
        }
    }

    #[test]
    fn of_a_plain_text_the_full_reading_says_so() {
        let parts = [
            "select",
            "WITH",
            "insert",
            "TABLE",
            "values",
            "delete",
            "update",
            "set",
            "reset",
            "begin",
            "commit",
            "into",
            "temp",
            "TEMPORARY",
            "local",
            "global",
            "create",
            "declare",
            "with hold",
            "discard all",
            "deallocate",
            "listen",
            "to",
            "set_config",
            "SETSEED",
            "currval",
            "lastval",
            "pg_advisory_lock",
            "pg_try_advisory_lock_shared",
            "pg_temp_1",
            "dblink_connect",
            "dblink_connect_u",
            "pg_replication_origin_session_setup",
            "pg_create_logical_replication_slot",
            "pg_settings",
            "pg_advisory_xact_lock",
            "client_min_messages",
            "synchronous_commit",
            "'",
            "\"",
            "$$",
            "$a$",
            "E'",
            "\\",
            "--",
            "/*",
            "*/",
            "\n",
            ";",
            "(",
            ")",
            ",",
            "=",
            ".",
            "1",
            "$1",
            "$",
            "x",
            "\u{e9}",
            "_",
            " ",
            " ",
            " ",
        ];
        let mut chance = Chance::new(5);
        let mut plain = 0;
        for _ in 0..300_000 {
            let mut sql = String::new();
            if chance.below(4) > 0 {
                sql.push_str(parts[chance.below(7) as usize]);
            }
            for _ in 0..chance.below(9) {
                if chance.below(3) > 0 {
                    sql.push(' ');
                }
                sql.push_str(parts[chance.below(parts.len() as u64) as usize]);
            }
            if !is_plain(sql.as_bytes()) {
                continue;
            }
            plain += 1;
            assert_eq!(Effects::read_fully(sql.as_bytes(), false), Effects::default(), "{sql:?}");
            let one = Commands { count: 1, ..Commands::default() };
            assert_eq!(Commands::read_fully(sql.as_bytes(), false), one, "{sql:?}");
        }
        assert!(plain > 10_000, "{plain} were plain");
    }
}
