//! What nobody changes arrives as it was sent, however it is cut into pieces on the way.

use std::io::IoSlice;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wire::message::put_frame;

use super::super::policy::LoweredCommit;
use super::*;

/// Takes a few bytes at a time, or none.
struct Moody {
    chance: StdRng,
    got: Vec<u8>,
}

impl Receiver for Moody {
    fn take(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let all: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
        let taken = self.chance.random_range(0..5_000).min(all.len());
        self.got.extend_from_slice(&all[..taken]);
        Ok(taken)
    }
}

fn frames(chance: &mut StdRng, bodies: &[(u8, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..chance.random_range(0..60) {
        let (tag, body) = bodies[chance.random_range(0..bodies.len())];
        // Some are longer than any head, most are short.
        let length = if chance.random_ratio(1, 10) { 40_000 } else { 40 };
        let filling = "x".repeat(chance.random_range(0..length));
        put_frame(&mut out, tag, body.replace('*', &filling).as_bytes());
    }
    out
}

#[test]
fn bytes_pass_unchanged_however_they_are_cut() {
    let asks = [
        (b'Q', "SELECT '*'\0"),
        (b'Q', "COMMIT -- *\0"),
        (b'P', "s*\0INSERT INTO t VALUES ($1) -- *\0\0\0"),
        (b'B', "*\0s\0\0\0"),
        (b'E', "\0*"),
        (b'C', "Ss\0"),
        (b'd', "*"),
        (b'S', ""),
    ];
    let answers = [
        (b'D', "*"),
        (b'T', "*"),
        (b'C', "INSERT 0 1\0"),
        (b'N', "SNOTICE\0VNOTICE\0C00000\0M*\0\0"),
        (b'E', "SERROR\0VERROR\0C42P01\0M*\0\0"),
        (b'S', "application_name\0*\0"),
        (b'A', "*"),
        (b'1', ""),
        (b'Z', "I"),
    ];
    for seed in 0..60 {
        let mut chance = StdRng::seed_from_u64(seed);
        let mut down = Vec::new();
        put_frame(&mut down, b'R', &[0; 4]);
        put_frame(&mut down, b'Z', b"I");
        down.extend(frames(&mut chance, &answers));
        let up = frames(&mut chance, &asks);
        let around = Surroundings {
            cancels: Arc::default(),
            counters: Arc::default(),
            statements: None,
            leaks: Leaks::Pin,
            blocks: true,
        };
        let books = Books::new(false, false, LoweredCommit::Forbid);
        let mut relay = Relay::new(books, around, "n1:5432".into());
        let mut moody = || Moody { chance: StdRng::seed_from_u64(chance.random()), got: Vec::new() };
        let (mut client, mut server) = (moody(), moody());
        let (mut from_client, mut from_server) = (&up[..], &down[..]);
        while client.got.len() < down.len() || server.got.len() < up.len() {
            if relay.down.write_out(&mut client).unwrap() {
                let part;
                (part, from_server) =
                    from_server.split_at(chance.random_range(0..=from_server.len().min(5_000)));
                relay.hear_server(part, &mut client).unwrap();
            }
            if relay.write_up(&mut server, Waker::noop()).unwrap() {
                let part;
                (part, from_client) =
                    from_client.split_at(chance.random_range(0..=from_client.len().min(5_000)));
                relay.hear_client(part, &mut server).unwrap();
            }
        }
        assert!(client.got == down && server.got == up, "seed {seed}");
        assert!(relay.client_at_boundary() && relay.up.frames.at_boundary(), "seed {seed}");
    }
}
