//! Scripts by chance, from a seed.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::scripts::{bind, call, close, data, describe, done, execute, fail, flush, parse, query, sync};
use super::{Pieces, Script};

const NAMES: [&str; 4] = ["", "s1", "s2", "s3"];
const PORTALS: [&str; 3] = ["", "", "p1"];
const TEXTS: [&str; 30] = [
    "SELECT 1",
    "SELECT 'two'",
    "SELECT $1::text",
    "SELECT $1::int + $2::int",
    "SELECT id FROM t WHERE id < 5",
    "SELECT 1/0",
    "nonsense",
    "",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "RELEASE a",
    "SET DateStyle = 'SQL, DMY'",
    "SET DateStyle = 'ISO'",
    "SET LOCAL DateStyle = 'German'",
    "RESET ALL",
    "SET TimeZone = 'UTC'",
    "RESET DateStyle",
    "SHOW DateStyle",
    "SELECT tells(3)",
    "SELECT fails(3)",
    "INSERT INTO t VALUES (1, 'there')",
    "SELECT n FROM generate_series(1, 9) n",
    "SET a.b = 'c'",
    "SELECT nullif(current_setting('a.b', true), '')",
    "SELECT repeat('x', 30000)",
    "BEGIN READ ONLY",
    "UPDATE t SET note = note WHERE id = 3 RETURNING id",
];

/// What stands alone in its request: see the head of `differential`.
const ALONE: [&str; 4] = ["DISCARD ALL", "DEALLOCATE s1", "DEALLOCATE ALL", "SELECT date '01/02/2020'"];

struct Chance(StdRng);

impl Chance {
    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of.choose(&mut self.0).copied().unwrap_or_default()
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0.random_range(0..limit)
    }

    fn extended(&mut self) -> Vec<Vec<u8>> {
        let (name, portal) = (self.one(&NAMES), self.one(&PORTALS));
        // The unnamed statement is used where it is parsed: see the head of `differential`.
        let known = if name.is_empty() { "s1" } else { name };
        // PostgreSQL 15.18 itself crashes when the portal of a failed Query is executed in the aborted transaction.
        let named = if portal.is_empty() { "p1" } else { portal };
        let values = [&[][..], &["7"], &["7", "8"]][self.below(3)];
        let kind = b"SP"[self.below(2)];
        match self.below(12) {
            0..3 => vec![parse(name, self.one(&TEXTS))],
            3 => vec![bind(portal, known, values)],
            4 => vec![describe(kind, if kind == b'S' { known } else { named })],
            5 => vec![execute(named, self.below(4) as u32)],
            6 => vec![close(kind, if kind == b'S' { name } else { named })],
            7 => vec![flush()],
            8 => vec![sync()],
            9 => vec![bind(portal, known, values), execute(portal, 0)],
            _ => {
                let text = self.one(&TEXTS);
                let values =
                    &["7", "8"][..usize::from(text.contains("$1")) + usize::from(text.contains("$2"))];
                vec![
                    parse(name, text),
                    bind(portal, name, values),
                    describe(b'P', portal),
                    execute(portal, 0),
                ]
            }
        }
    }

    fn step(&mut self) -> Vec<Vec<u8>> {
        match self.below(14) {
            0 => vec![query(self.one(&ALONE))],
            1..4 => {
                let texts: Vec<&str> = (0..=self.below(3))
                    .map(|_| self.one(&TEXTS))
                    .filter(|text| !text.contains('$'))
                    .collect();
                vec![query(&texts.join("; "))]
            }
            4 => {
                let end = if self.below(2) == 0 { done() } else { fail() };
                vec![query("COPY t FROM STDIN"), data("1\tthere"), data(" already\n"), end]
            }
            5 => {
                let mut step = vec![parse("", "COPY t FROM STDIN"), bind("", "", &[]), execute("", 0)];
                if self.below(2) == 0 {
                    step.push(sync());
                }
                step.extend([data("1\tthere\n"), if self.below(2) == 0 { done() } else { fail() }, sync()]);
                step
            }
            6 => vec![call([177, 154, 1][self.below(3)], &[5, 0])],
            7 => vec![query("COPY (SELECT id FROM t WHERE id < 4) TO STDOUT")],
            _ => {
                let mut step: Vec<Vec<u8>> = (0..=self.below(6)).flat_map(|_| self.extended()).collect();
                step.push(sync());
                step
            }
        }
    }
}

pub fn script(seed: u64) -> (Script, Pieces) {
    let mut chance = Chance(StdRng::seed_from_u64(seed));
    let steps = (0..=chance.below(8)).map(|_| chance.step()).collect();
    let pieces = match chance.below(4) {
        0 => Pieces::Messages,
        1 => Pieces::Headers(chance.below(5)),
        2 if chance.below(4) == 0 => Pieces::Bytes,
        _ => Pieces::Whole,
    };
    (
        Script { name: format!("by chance, PGHERD_DIFFERENTIAL_SEED={seed}"), steps, is_by_chance: true },
        pieces,
    )
}
