//! A comment at the beginning of a text that says where it shall run.
//!
//! What it is: `/* pgherd: primary */` and `/* pgherd: replica */`, and what other proxies' users have in their code
//! already: Pgpool-II's `/*NO LOAD BALANCE*/`, PgDog's `/* pgdog_role: replica */`, and `/*FORCE_MASTER*/` and
//! `/*FORCE_SLAVE*/` of the Chinese clouds. What it is not: a search: only the first comment counts, before anything
//! but white space, and the hint is all it says. Invariant: `/*+ … */` is another's.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hint {
    Primary,
    /// Believed against a doubt, never against a write.
    Replica,
}

const HINTS: [(&str, Hint); 7] = [
    ("pgherd:primary", Hint::Primary),
    ("pgherd:replica", Hint::Replica),
    ("pgdog_role:primary", Hint::Primary),
    ("pgdog_role:replica", Hint::Replica),
    ("NOLOADBALANCE", Hint::Primary),
    ("FORCE_MASTER", Hint::Primary),
    ("FORCE_SLAVE", Hint::Replica),
];
/// Longer comments are not looked at.
const COMMENT_BYTES_MAX: usize = 64;

pub fn read(text: &[u8]) -> Option<Hint> {
    let comment = text.trim_ascii_start().strip_prefix(b"/*")?;
    let head = &comment[..comment.len().min(COMMENT_BYTES_MAX)];
    let end = head.windows(2).position(|window| window == b"*/")?;
    let words = head[..end].iter().filter(|byte| !byte.is_ascii_whitespace());
    HINTS.into_iter().find_map(|(says, hint)| {
        let same = words.clone().map(u8::to_ascii_lowercase).eq(says.bytes().map(|b| b.to_ascii_lowercase()));
        same.then_some(hint)
    })
}
