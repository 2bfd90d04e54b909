//! Random sessions over shared servers, beside each with a server of its own: what the clients see is the same.

use std::collections::BTreeMap;

use wire::message::{Framer, Piece};

use super::*;

/// What PostgreSQL knows of named statements, and how it answers.
#[derive(Default)]
struct Model {
    statements: BTreeMap<Vec<u8>, Vec<u8>>,
    skips: bool,
}

/// A frame, and the texts in it.
type Message = (u8, Vec<u8>);

impl Model {
    /// The answers to one message; what a client can see of a name is the text behind it.
    fn hear(&mut self, (tag, body): &Message, out: &mut Vec<Message>) {
        let error = |model: &mut Model, out: &mut Vec<Message>, what: &str| {
            model.skips = *tag != b'Q';
            out.push((b'E', what.as_bytes().to_vec()));
        };
        match tag {
            b'S' => {
                self.skips = false;
                out.push((b'Z', b"I".to_vec()));
            }
            _ if self.skips => {}
            b'P' => {
                let (name, rest) = split_text(body).unwrap();
                let text = split_text(rest).unwrap().0.to_vec();
                if text == b"bad" {
                    error(self, out, "syntax");
                } else if !name.is_empty() && self.statements.contains_key(name) {
                    error(self, out, "duplicate");
                } else {
                    self.statements.insert(name.to_vec(), text);
                    out.push((b'1', Vec::new()));
                }
            }
            b'B' => {
                let name = split_text(split_text(body).unwrap().1).unwrap().0;
                match self.statements.get(name).cloned() {
                    Some(text) => out.push((b'2', text)),
                    None => error(self, out, "unknown"),
                }
            }
            b'D' => match self.statements.get(split_text(&body[1..]).unwrap().0).cloned() {
                Some(text) => out.push((b'T', text)),
                None => error(self, out, "unknown"),
            },
            b'C' => {
                self.statements.remove(split_text(&body[1..]).unwrap().0);
                out.push((b'3', Vec::new()));
            }
            _ => {
                let text = String::from_utf8(split_text(body).unwrap().0.to_vec()).unwrap();
                let name = text.strip_prefix("DEALLOCATE ").unwrap_or_default().as_bytes().to_vec();
                self.statements.remove(&b""[..]);
                if text == "DISCARD ALL" || name == b"ALL" {
                    self.statements.clear();
                    out.push((b'C', b"ALL".to_vec()));
                } else if self.statements.remove(&name).is_some() {
                    out.push((b'C', b"DEALLOCATE".to_vec()));
                } else {
                    error(self, out, "unknown");
                }
                out.push((b'Z', b"I".to_vec()));
            }
        }
    }
}

fn frames(bytes: &[u8]) -> Vec<Message> {
    let (mut framer, mut at, mut found) = (Framer::new(|_| 1024), 0, Vec::new());
    while let Ok(Some(Piece::Frame(frame))) = framer.next(&bytes[at..]) {
        assert!(frame.is_whole());
        found.push((frame.tag, frame.head.to_vec()));
        at += frame.bytes.len();
    }
    assert_eq!(at, bytes.len());
    found
}

/// A session with a server that is lent to it for each of its requests.
struct Session {
    shares: Shares,
    /// Of the requests, how many were sent and answered.
    sent: u64,
    done: u64,
}

impl Session {
    /// All of `pipeline` goes to `server` before any answer comes back.
    fn run(&mut self, pipeline: &[Message], server: &mut (Model, Prepared)) -> Vec<Message> {
        std::mem::swap(&mut self.shares.prepared, &mut server.1);
        let mut answers = Vec::new();
        for (tag, body) in pipeline {
            let mut bytes = Vec::new();
            put_frame(&mut bytes, *tag, body);
            let mut framer = Framer::new(|_| 1024);
            let Ok(Some(Piece::Frame(frame))) = framer.next(&bytes) else { panic!("no frame") };
            let start = if *tag == b'P' { split_text(body).unwrap().0.len() + 1 } else { 0 };
            let effects = matches!(tag, b'P' | b'Q')
                .then(|| Effects::read(split_text(&body[start..]).unwrap().0, false));
            let request = self.sent + 1;
            let state = State {
                request,
                reads: Reads::default(),
                may_have_failed: false,
                unnamed: &[],
                keeps_server: false,
            };
            let changed = self.shares.client_sent(&frame, effects.as_ref(), &state);
            self.sent += u64::from(matches!(tag, b'S' | b'Q'));
            for message in frames(changed.as_deref().unwrap_or(&bytes)) {
                server.0.hear(&message, &mut answers);
            }
        }
        let mut told = Vec::new();
        for (tag, body) in answers {
            let mut bytes = Vec::new();
            put_frame(&mut bytes, tag, &body);
            let mut framer = Framer::new(|_| 1024);
            let Ok(Some(Piece::Frame(frame))) = framer.next(&bytes) else { panic!("no frame") };
            match self.shares.server_sent(&frame, self.done + 1) {
                Fate::Keep => told.push((tag, body)),
                Fate::Becomes(tag) => told.push((tag, Vec::new())),
                Fate::Drop => {}
            }
            self.done += u64::from(tag == b'Z');
        }
        assert!(self.shares.awaited.is_empty() && self.shares.ends.is_empty());
        std::mem::swap(&mut self.shares.prepared, &mut server.1);
        told
    }
}

#[test]
fn nobody_can_tell_a_shared_server_from_ones_own() {
    const SESSIONS: usize = 3;
    let mut injected = 0;
    for seed in 0..2_000_u64 {
        let mut dice = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut roll = move |sides: usize| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            (dice >> 11) as usize % sides
        };
        let registry = Arc::default();
        let mut own: Vec<Model> = (0..SESSIONS).map(|_| Model::default()).collect();
        let mut sessions: Vec<Session> =
            (0..SESSIONS).map(|_| Session { shares: Shares::new(&registry), sent: 0, done: 0 }).collect();
        let mut servers = [(Model::default(), Prepared::default()), (Model::default(), Prepared::default())];
        for _ in 0..30 {
            let who = roll(SESSIONS);
            let mut pipeline: Vec<Message> = Vec::new();
            let name = |roll: &mut dyn FnMut(usize) -> usize| format!("n{}", roll(4));
            // A name is parsed once in a pipeline, as any driver does: see the module's note on failed groups.
            for _ in 0..1 + roll(4) {
                let name = name(&mut roll);
                let text = ["SELECT 1", "SELECT 2", "SELECT 3", "SELECT 4", "SELECT 5", "bad"][roll(6)];
                pipeline.push(match roll(12) {
                    0..4 => (b'P', format!("{name}\0{text}\0\0\0").into_bytes()),
                    4..8 => (b'B', [b"\0", name.as_bytes(), &[0; 7]].concat()),
                    8 => (b'D', format!("S{name}\0").into_bytes()),
                    9 => (b'C', format!("S{name}\0").into_bytes()),
                    10 => (b'S', Vec::new()),
                    _ => (b'S', Vec::new()),
                });
            }
            pipeline.push((b'S', Vec::new()));
            if roll(6) == 0 {
                let text = [
                    format!("DEALLOCATE {}", name(&mut roll)),
                    "DEALLOCATE ALL".to_owned(),
                    "DISCARD ALL".to_owned(),
                ];
                pipeline = vec![(b'Q', format!("{}\0", text[roll(3)]).into_bytes())];
            }
            // One request at a time: what a failed one leaves to those behind it in the pipeline may differ.
            for request in pipeline.split_inclusive(|(tag, _)| matches!(tag, b'S' | b'Q')) {
                let mut expected = Vec::new();
                request.iter().for_each(|message| own[who].hear(message, &mut expected));
                let server = &mut servers[roll(2)];
                let told = sessions[who].run(request, server);
                assert_eq!(told, expected, "seed {seed}: {request:?}");
                injected += usize::from(server.1.ids.len() == PREPARED_MAX);
            }
        }
    }
    assert!(injected > 1_000, "servers were full: {injected}");
}
