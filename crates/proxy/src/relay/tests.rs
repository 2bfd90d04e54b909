//! What nobody changes arrives as it was sent, however it is cut into pieces on the way.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use wire::message::put_frame;

use super::super::policy::LoweredCommit;
use super::*;

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

#[tokio::test]
async fn bytes_pass_unchanged_however_they_are_cut() {
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
        let (mut client, at_client) = duplex(chance.random_range(1..5_000));
        let (mut server, at_server) = duplex(chance.random_range(1..5_000));
        let around = Surroundings { cancels: Arc::default(), counters: Arc::default() };
        let books = Books::new(false, false, LoweredCommit::Forbid);
        let mut relay = Relay::new(at_client, at_server, books, around, "n1:5432".into());
        let (mut got_down, mut got_up) = (vec![0; down.len()], vec![0; up.len()]);
        let ends = async {
            let (mut from_client, mut to_client) = tokio::io::split(&mut client);
            let (mut from_server, mut to_server) = tokio::io::split(&mut server);
            let (a, b, c, d) = tokio::join!(
                to_client.write_all(&up),
                to_server.write_all(&down),
                from_client.read_exact(&mut got_down),
                from_server.read_exact(&mut got_up),
            );
            a.and(b).unwrap();
            c.and(d).unwrap();
        };
        tokio::select! {
            end = relay.run() => panic!("seed {seed}: {end:?}"),
            () = ends => {}
        }
        assert!(got_down == down && got_up == up, "seed {seed}");
        assert!(relay.client_at_boundary() && relay.up.frames.at_boundary(), "seed {seed}");
    }
}
