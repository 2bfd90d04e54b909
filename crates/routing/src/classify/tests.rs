//! Statements and what is decided of them; texts that mean harm.

use super::*;
use crate::verdict::{Access, Block};
use crate::{Overrides, Query, Rows};

/// A small database. Functions: oid, schema, name, volatile, takes a row.
const FUNCTIONS: [(u32, &str, &str, bool, bool); 31] = [
    (1, "pg_catalog", "count", false, false),
    (2, "pg_catalog", "lower", false, false),
    (3, "pg_catalog", "now", false, false),
    (4, "pg_catalog", "extract", false, false),
    (5, "pg_catalog", "timezone", false, false),
    (6, "pg_catalog", "sum", false, false),
    (7, "pg_catalog", "generate_series", false, false),
    (8, "pg_catalog", "current_setting", false, false),
    (9, "pg_catalog", "nextval", true, false),
    (10, "pg_catalog", "set_config", true, false),
    (11, "pg_catalog", "pg_is_in_recovery", true, false),
    (12, "pg_catalog", "pg_advisory_lock", true, false),
    (13, "pg_catalog", "pg_backend_pid", false, false),
    (14, "pg_catalog", "txid_current", false, false),
    (15, "pg_catalog", "pg_stat_get_activity", false, false),
    (16, "pg_catalog", "random", true, false),
    (17, "app", "random", true, false),
    (18, "app", "random_of_mine", false, false),
    (19, "app", "writes", true, false),
    (20, "app", "mixed", false, false),
    (21, "app", "mixed", true, false),
    (22, "app", "stamp", true, true),
    (23, "app", "total_of_volatile", true, false),
    (24, "app", "quiet", true, false),
    (25, "app", "distrusted", false, false),
    (26, "pg_catalog", "int4pl", false, false),
    (27, "pg_catalog", "json_object", false, false),
    (28, "pg_catalog", "xml_is_well_formed", false, false),
    (29, "app", "volatile_operator", true, false),
    (30, "pg_catalog", "pg_sleep", true, false),
    (31, "pg_catalog", "int4eq", false, false),
];
const OPERATORS: [&str; 13] = ["+", "-", "*", "=", "<>", "<", ">", "<=", ">=", "||", "~", "~~", "!~~*"];
/// Oid, schema, name, relkind, relpersistence.
const RELATIONS: [(u32, &str, &str, char, char); 18] = [
    (101, "public", "users", 'r', 'p'),
    (102, "public", "orders", 'p', 'p'),
    (103, "public", "events", 'r', 'u'),
    (104, "app", "events_view", 'v', 'p'),
    (105, "public", "parted", 'p', 'p'),
    (106, "public", "events_part", 'r', 'u'),
    (107, "public", "s", 'S', 'p'),
    (108, "public", "far", 'f', 'p'),
    (109, "public", "counting", 'v', 'p'),
    (110, "public", "nested_counting", 'v', 'p'),
    (111, "public", "guarded", 'r', 'p'),
    (112, "pg_catalog", "pg_stat_activity", 'v', 'p'),
    (113, "pg_catalog", "pg_class", 'r', 'p'),
    (114, "public", "safe_view", 'v', 'p'),
    (115, "public", "report", 'm', 'p'),
    (116, "pg_temp_3", "users", 'r', 't'),
    (117, "public", "self_view", 'v', 'p'),
    (118, "public", "orders_2026", 'r', 'p'),
];
const DEPENDENCIES: [(u32, &str, u32); 11] = [
    (104, "r", 103),
    (105, "r", 106),
    (109, "f", 9),
    (110, "r", 109),
    (110, "r", 110),
    (111, "f", 19),
    (112, "f", 15),
    (114, "f", 1),
    (114, "f", 16),
    (114, "r", 101),
    (102, "r", 118),
];

fn flag(is: bool) -> &'static str {
    if is { "t" } else { "f" }
}

pub fn catalog(generation: u64) -> Catalog {
    let mut rows = Rows::default();
    for (oid, schema, name, is_volatile, takes_row) in FUNCTIONS {
        let columns = [&oid.to_string(), schema, name, flag(is_volatile), flag(takes_row)];
        rows.take(Query::Functions, &columns).unwrap();
    }
    for name in OPERATORS {
        rows.take(Query::Operators, &["pg_catalog", name, "31"]).unwrap();
    }
    rows.take(Query::Operators, &["pg_catalog", "!~~", "31"]).unwrap();
    rows.take(Query::Operators, &["app", "<-!->", "29"]).unwrap();
    for (oid, schema, name, kind, persistence) in RELATIONS {
        let columns = [&oid.to_string(), schema, name, &kind.to_string(), &persistence.to_string()];
        rows.take(Query::Relations, &columns).unwrap();
    }
    for (relation, what, oid) in DEPENDENCIES {
        rows.take(Query::Dependencies, &[&relation.to_string(), what, &oid.to_string()]).unwrap();
    }
    let mut overrides = Overrides::default();
    overrides.always_replica.push("quiet".into());
    overrides.always_primary.push("app.distrusted".into());
    Catalog::new(generation, &rows, &overrides)
}

#[test]
fn statements_are_what_the_table_says() {
    let catalog = catalog(1);
    let mut expected = "";
    let (mut wrong, mut count) = (Vec::new(), 0);
    for line in include_str!("cases.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(heading) = line.strip_prefix("== ") {
            expected = heading;
            continue;
        }
        count += 1;
        let found = match classify(line.as_bytes(), &catalog).route {
            Route::Replica => "replica".to_owned(),
            Route::Primary(reason) => reason.to_string(),
        };
        if !found.starts_with(expected) {
            wrong.push(format!("{line}\n    expected: {expected}\n    found:    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 300, "{count}");
}

#[test]
fn blocks_are_told() {
    let block = |ends, opens, sets| Block { ends, opens, sets };
    let (ro, rw, default) = (Some(Access::ReadOnly), Some(Access::ReadWrite), Some(Access::Default));
    let cases = [
        ("SELECT 1", block(false, None, None)),
        ("BEGIN", block(false, default, None)),
        ("START TRANSACTION READ WRITE", block(false, rw, None)),
        ("BEGIN READ ONLY", block(false, ro, None)),
        ("BEGIN READ ONLY, READ WRITE", block(false, rw, None)),
        ("BEGIN; SET TRANSACTION READ ONLY", block(false, ro, None)),
        ("BEGIN; BEGIN READ ONLY", block(false, ro, None)),
        ("BEGIN READ ONLY; BEGIN", block(false, ro, None)),
        ("SET TRANSACTION READ ONLY", block(false, None, ro)),
        ("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", block(false, None, default)),
        ("COMMIT", block(true, None, None)),
        ("END", block(true, None, None)),
        ("ROLLBACK", block(true, None, None)),
        ("ROLLBACK TO a", block(false, None, None)),
        ("COMMIT AND CHAIN", block(true, default, None)),
        ("COMMIT; BEGIN READ ONLY", block(true, ro, None)),
        ("BEGIN; SELECT 1; COMMIT", block(false, None, None)),
        ("BEGIN; COMMIT; COMMIT", block(true, None, None)),
        ("/* pgherd: primary */ BEGIN READ ONLY", block(false, ro, None)),
    ];
    for (text, expected) in cases {
        assert_eq!(classify(text.as_bytes(), &Catalog::empty()).block, expected, "{text}");
    }
}

#[test]
fn nothing_known_leaves_only_what_names_nothing() {
    let route = |text: &str| classify(text.as_bytes(), &Catalog::empty()).route;
    assert_eq!(route("SELECT 1"), Route::Replica);
    assert_eq!(route(""), Route::Replica);
    assert_eq!(route("-- nothing"), Route::Replica);
    assert_eq!(route("SELECT count(*)"), Route::Primary(Reason::UnknownFunction("count".into())));
    assert_eq!(route("SELECT 1 + 1"), Route::Primary(Reason::UnknownOperator("+".into())));
    assert_eq!(route("TABLE t"), Route::Primary(Reason::UnknownRelation("t".into())));
}

#[test]
fn bytes_that_are_no_text_and_texts_too_long_go_to_the_primary() {
    let route = |text: &[u8]| classify(text, &Catalog::empty()).route;
    assert_eq!(route(b"SELECT '\xe9'"), Route::Primary(Reason::NotUtf8));
    assert_eq!(route(b"SELECT 1\0"), Route::Primary(Reason::Unparsable));
    let longest = format!("SELECT {}1", " ".repeat(TEXT_BYTES_MAX - 8));
    assert_eq!(route(longest.as_bytes()), Route::Replica);
    assert_eq!(route(format!("{longest} ").as_bytes()), Route::Primary(Reason::TooLong));
}

/// Far beyond the limit of the length, on a quarter of the stack that a thread has: a route comes out.
#[test]
fn depth_and_length_do_no_harm() {
    let thread = std::thread::Builder::new().stack_size(512 * 1024).spawn(classify_hostile_texts);
    thread.unwrap().join().unwrap();
}

fn classify_hostile_texts() {
    let catalog = catalog(1);
    for line in include_str!("hostile.txt").lines().filter(|line| !line.starts_with('#')) {
        let unescaped = line.replace("\\n", "\n");
        let parts: Vec<&str> = unescaped.split('¦').collect();
        let [before, open, inner, close, after] = parts[..] else { panic!("{line}") };
        for n in [100, 450, 1_000, 10_000, 100_000] {
            let text = format!("{before}{}{inner}{}{after}", open.repeat(n), close.repeat(n));
            let verdict = classify_any_length(text.as_bytes(), &catalog);
            assert_ne!(verdict.route, Route::Primary(Reason::ParserFailed), "{line}");
        }
    }
}

/// Every beginning and every single changed byte of a rich text.
#[test]
fn broken_texts_have_a_verdict() {
    let catalog = catalog(1);
    let text = "WITH q AS (SELECT $1::int, E'a\\n', \"x\", $$y$$ /* c */ FROM users u) TABLE q; COMMIT -- é";
    for end in 0..text.len() {
        classify(&text.as_bytes()[..end], &catalog);
    }
    for at in 0..text.len() {
        for byte in [0, b'\'', b'"', b'(', b')', b'$', b'/', b'*', b'\\', 0x80, 0xff] {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] = byte;
            let verdict = classify(&bytes, &catalog);
            assert_ne!(verdict.route, Route::Primary(Reason::ParserFailed));
        }
    }
}
