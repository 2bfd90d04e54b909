//! A client's first request, before any of it is passed on: may a replica run it?
//!
//! What it is: a look through whole messages up to the one that asks for an answer. What it is not: a change of anything.
//! Invariants: a request is a read only if every text in it is known and is one; what goes on after it is not looked at.

use wire::message::{Frame, Framer, Piece, frontend, split_text};

/// What the session knows already.
pub struct Known<'a, S> {
    /// The text of a named statement.
    pub text: S,
    /// The Parse message of the unnamed statement; empty when there is none.
    pub unnamed: &'a [u8],
    /// Names that it may give to statements and share them still.
    pub room: usize,
}

/// A request, as far as it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// It may be a read; its end has not come.
    Unfinished,
    /// For the primary.
    Write,
    Read,
}

/// Longer messages are for the primary: their texts are not read to the end everywhere.
const MESSAGE_MAX: usize = 16 * 1024;
/// Statements that one request prepares by name and uses.
const NAMES_MAX: usize = 64;

impl<'k, S: Fn(&[u8]) -> Option<&'k [u8]>> Known<'k, S> {
    /// Looks at the messages in `bytes`; `is_read` is asked for each text.
    pub fn first(&self, bytes: &[u8], mut is_read: impl FnMut(&[u8]) -> bool) -> Request {
        let mut framer = Framer::new(|_| MESSAGE_MAX);
        let (mut at, mut asks) = (0, false);
        let mut names: Vec<&[u8]> = Vec::new();
        let mut unnamed = false;
        loop {
            let frame = match framer.next(&bytes[at..]) {
                Ok(Some(Piece::Frame(frame))) if frame.is_whole() => frame,
                Ok(None) => return Request::Unfinished,
                // Garbage, or too long.
                _ => return Request::Write,
            };
            at += frame.bytes.len();
            let fine = match frame.tag {
                frontend::QUERY => {
                    let read = split_text(frame.head).is_some_and(|(text, _)| is_read(text));
                    return if read { Request::Read } else { Request::Write };
                }
                frontend::SYNC => return if asks { Request::Read } else { Request::Write },
                frontend::PARSE => match parsed(frame.head) {
                    Some((b"", text)) => {
                        unnamed = is_read(text);
                        unnamed
                    }
                    Some((name, text)) if names.len() < self.room.min(NAMES_MAX) => {
                        names.push(name);
                        is_read(text)
                    }
                    _ => false,
                },
                frontend::BIND | frontend::DESCRIBE => match statement(&frame) {
                    Used::None => true,
                    Used::Garbage => false,
                    Used::Statement(b"") => unnamed || text_of(self.unnamed).is_some_and(&mut is_read),
                    Used::Statement(name) => {
                        names.contains(&name) || (self.text)(name).is_some_and(&mut is_read)
                    }
                },
                frontend::EXECUTE | frontend::CLOSE => true,
                // Flush too: what comes behind it is of the same request, and cannot be known.
                _ => false,
            };
            if !fine {
                return Request::Write;
            }
            asks = true;
        }
    }
}

/// What each Parse in `bytes`, whole messages all of them, names: `None` for the unnamed statement.
pub fn names(bytes: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut framer = Framer::new(|_| MESSAGE_MAX);
    let (mut at, mut names) = (0, Vec::new());
    while let Ok(Some(Piece::Frame(frame))) = framer.next(&bytes[at..]) {
        at += frame.bytes.len();
        if frame.tag == frontend::PARSE {
            let name = parsed(frame.head).map(|(name, _)| name.to_vec());
            names.push(name.filter(|name| !name.is_empty()));
        }
    }
    names
}

enum Used<'a> {
    /// A portal, of a statement that was looked at when it was bound.
    None,
    Statement(&'a [u8]),
    Garbage,
}

fn statement<'a>(frame: &Frame<'a>) -> Used<'a> {
    let name = match (frame.tag, frame.head) {
        (frontend::BIND, head) => split_text(head).and_then(|(_, rest)| split_text(rest)),
        (_, [b'S', rest @ ..]) => split_text(rest),
        _ => return Used::None,
    };
    name.map_or(Used::Garbage, |(name, _)| Used::Statement(name))
}

/// Name and text in the body of a Parse.
fn parsed(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name, rest) = split_text(body)?;
    Some((name, split_text(rest)?.0))
}

fn text_of(message: &[u8]) -> Option<&[u8]> {
    parsed(message.get(5..)?).map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use wire::message::put_frame;

    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_frame(&mut out, tag, body);
        out
    }

    fn parse(name: &str, text: &str) -> Vec<u8> {
        message(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
    }

    fn bind(name: &str) -> Vec<u8> {
        message(b'B', format!("\0{name}\0\0\0\0\0\0\0").as_bytes())
    }

    fn run(unnamed: &[u8], messages: &[Vec<u8>]) -> Request {
        let text = |name: &[u8]| match name {
            b"r" => Some(&b"read"[..]),
            b"w" => Some(&b"write"[..]),
            _ => None,
        };
        let known = Known { text, unnamed, room: 10 };
        let bytes = messages.concat();
        let request = known.first(&bytes, |text| text.starts_with(b"read"));
        // A part of it is never taken for something else than the whole, or than what is still to come.
        for end in 0..bytes.len() {
            let part = known.first(&bytes[..end], |text| text.starts_with(b"read"));
            assert!(part == request || part == Request::Unfinished, "{part:?} {request:?} {end}");
        }
        request
    }

    #[test]
    fn every_text_of_the_request_counts_and_none_behind_it() {
        let (execute, sync) = (message(b'E', b"\0\0\0\0\0"), message(b'S', b""));
        let query = |text: &str| message(b'Q', format!("{text}\0").as_bytes());
        let (describe, flush) = (message(b'D', b"Sr\0"), message(b'H', b""));
        let portal = message(b'D', b"P\0");
        let cases: [(&[Vec<u8>], Request); 15] = [
            (&[query("read")], Request::Read),
            (&[query("write")], Request::Write),
            (&[query("read"), query("write")], Request::Read),
            (&[parse("", "read"), bind(""), portal.clone(), execute.clone(), sync.clone()], Request::Read),
            (&[parse("", "read"), bind(""), execute.clone()], Request::Unfinished),
            (&[parse("", "write"), bind(""), execute.clone(), sync.clone()], Request::Write),
            (
                &[parse("", "read"), bind(""), execute.clone(), bind("w"), execute.clone(), sync.clone()],
                Request::Write,
            ),
            (&[bind("r"), execute.clone(), sync.clone()], Request::Read),
            (&[describe, sync.clone()], Request::Read),
            (&[bind("w"), execute.clone(), sync.clone()], Request::Write),
            (&[bind("unknown"), execute.clone(), sync.clone()], Request::Write),
            (&[parse("new", "read"), bind("new"), execute.clone(), sync.clone()], Request::Read),
            (&[bind(""), execute.clone(), sync.clone()], Request::Write),
            (&[parse("", "read"), flush], Request::Write),
            (&[sync], Request::Write),
        ];
        for (messages, expected) in cases {
            assert_eq!(run(b"", messages), expected, "{messages:?}");
        }
        let unnamed = parse("", "read");
        assert_eq!(run(&unnamed, &[bind(""), message(b'S', b"")]), Request::Read);
    }

    #[test]
    fn a_statement_that_cannot_be_shared_is_for_the_primary() {
        let known = |room| Known { text: |_: &[u8]| None::<&[u8]>, unnamed: b"", room };
        let bytes = [parse("new", "read"), message(b'S', b"")].concat();
        assert_eq!([0, 1].map(|room| known(room).first(&bytes, |_| true)), [Request::Write, Request::Read]);
    }

    #[test]
    fn names_are_those_that_are_given() {
        let bytes = [parse("a", "x"), parse("", "y"), bind("b"), parse("c", "z")].concat();
        assert_eq!(names(&bytes), [Some(b"a".to_vec()), None, Some(b"c".to_vec())]);
    }

    #[test]
    fn what_is_too_long_or_no_message_is_for_the_primary() {
        let long = message(b'Q', &vec![b'r'; MESSAGE_MAX + 1]);
        for bytes in [&long[..], b"Q\0\0\0\0", b"Q\xff\xff\xff\xff"] {
            let known = Known { text: |_: &[u8]| None::<&[u8]>, unnamed: b"", room: 10 };
            assert_eq!(known.first(bytes, |_| true), Request::Write);
        }
    }
}
