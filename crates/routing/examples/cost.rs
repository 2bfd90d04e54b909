//! What a verdict costs: `cargo run -p routing --release --example cost`.
//!
//! What it is: a clock around texts that an application sends and texts that mean harm. What it is not: a test.

// It measures; the crate does not.
#![allow(clippy::disallowed_methods)]

use std::hint::black_box;
use std::time::Instant;

use routing::{Catalog, Limits, Overrides, Query, Rows, TEXT_BYTES_MAX, Verdicts, classify};

/// Best of this many rounds.
const ROUNDS: usize = 7;

fn main() {
    let catalog = catalog();
    let join = "SELECT a.id, b.name, count(*) FROM users a JOIN users b ON b.id = a.id AND b.name LIKE 'x%' ";
    let long = format!(
        "{}WHERE a.id = $1",
        join.to_owned() + &"JOIN users c ON c.id = a.id AND c.name = 'y' ".repeat(50)
    );
    let list = format!("SELECT * FROM users WHERE id IN (1{})", ", 1234567".repeat(1000));
    let texts = [
        ("short select", "SELECT abalance FROM accounts WHERE aid = $1"),
        ("insert", "INSERT INTO users (id, name) VALUES ($1, $2) RETURNING id"),
        ("begin", "BEGIN"),
        ("52 joins", &long),
        ("1,000 in a list", &list),
    ];
    println!("{:<18}{:>8}{:>14}{:>14}", "text", "bytes", "miss, us", "hit, ns");
    for (name, text) in texts {
        let mut verdicts = Verdicts::new(Limits::default(), 7);
        let miss = nanoseconds(2_000, || drop(black_box(classify(black_box(text.as_bytes()), &catalog))));
        let hit = nanoseconds(200_000, || {
            black_box(verdicts.of(black_box(text.as_bytes()), &catalog));
        });
        println!("{name:<18}{:>8}{:>14.2}{hit:>14.0}", text.len(), miss / 1000.0);
    }
    hostile(&catalog);
}

/// The dearest texts of the longest length that is parsed.
fn hostile(catalog: &Catalog) {
    let mut costs: Vec<(f64, &str)> = Vec::new();
    for line in include_str!("../src/classify/hostile.txt").lines().filter(|line| !line.starts_with('#')) {
        let unescaped = line.replace("\\n", "\n");
        let parts: Vec<&str> = unescaped.split('¦').collect();
        let [before, open, inner, close, after] = parts[..] else { continue };
        let n = (TEXT_BYTES_MAX - before.len() - inner.len() - after.len()) / (open.len() + close.len());
        let text = format!("{before}{}{inner}{}{after}", open.repeat(n), close.repeat(n));
        costs.push((nanoseconds(1, || drop(black_box(classify(text.as_bytes(), catalog)))), line));
    }
    costs.sort_by(|left, right| right.0.total_cmp(&left.0));
    println!("\ndearest of {} texts of {TEXT_BYTES_MAX} bytes, us:", costs.len());
    costs.iter().take(6).for_each(|(cost, line)| println!("{:>10.0}  {line}", cost / 1000.0));
}

fn nanoseconds(count: usize, mut run: impl FnMut()) -> f64 {
    let round = |_| {
        let start = Instant::now();
        (0..count).for_each(|_| run());
        start.elapsed().as_nanos() as f64 / count as f64
    };
    (0..ROUNDS).map(round).reduce(f64::min).unwrap_or_default()
}

/// As many names as a server without extensions has.
fn catalog() -> Catalog {
    let mut rows = Rows::default();
    let mut take = |query, columns: &[&str]| rows.take(query, columns).expect("rows of the right shape");
    for oid in 0..3000 {
        take(Query::Functions, &[&oid.to_string(), "pg_catalog", &format!("function_{oid}"), "f", "f"]);
    }
    take(Query::Functions, &["3000", "pg_catalog", "count", "f", "f"]);
    take(Query::Functions, &["3001", "pg_catalog", "lower", "f", "f"]);
    for name in ["+", "-", "*", "=", "<>", "<", ">", "<=", ">=", "||", "~", "~~"] {
        take(Query::Operators, &["pg_catalog", name, "1"]);
    }
    for oid in 4000..5000 {
        take(Query::Relations, &[&oid.to_string(), "public", &format!("relation_{oid}"), "r", "p"]);
    }
    take(Query::Relations, &["5000", "public", "users", "r", "p"]);
    take(Query::Relations, &["5001", "public", "accounts", "r", "p"]);
    Catalog::new(1, &rows, &Overrides::default())
}
