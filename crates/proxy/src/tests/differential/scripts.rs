//! Scripts that are the same each time: each kind of message, and a pipeline in which each place fails in each way.

use super::Script;
use wire::message::put_frame;

/// What both databases have.
pub const TABLES: &str = "CREATE TABLE t (id int PRIMARY KEY, note text); INSERT INTO t SELECT n, 'note ' || n FROM generate_series(1, 20) n; \
     CREATE FUNCTION tells(a int) RETURNS int LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE 'told %', a; RETURN a; END$$; \
     CREATE FUNCTION fails(a int) RETURNS int LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'failed %', a USING HINT = 'hint'; END$$";

/// The settings of the session that soils with this number.
pub fn soil(number: usize) -> String {
    let styles = ["German", "ISO, DMY", "SQL", "Postgres", "ISO, YMD"];
    let style = styles[number % styles.len()];
    format!("SET DateStyle = '{style}'; SET extra_float_digits = {}; SET bytea_output = 'escape'", number % 3)
}

/// What it leaves on a server: statements under the names that the scripts use, and in the place of the unnamed one.
pub fn soiling() -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    for name in ["s1", "s2"] {
        messages.push(close(b'S', name));
        messages.push(parse(name, "SELECT 'soiled'"));
    }
    messages.extend([parse("", "SELECT 'soiled', $1::int"), bind("", "s1", &[]), execute("", 0), sync()]);
    messages
}

pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, tag, body);
    out
}

pub fn query(text: &str) -> Vec<u8> {
    message(b'Q', format!("{text}\0").as_bytes())
}

pub fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

pub fn bind(portal: &str, name: &str, values: &[&str]) -> Vec<u8> {
    let mut body = format!("{portal}\0{name}\0\0\0").into_bytes();
    body.extend_from_slice(&(values.len() as u16).to_be_bytes());
    for value in values {
        body.extend_from_slice(&(value.len() as u32).to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    body.extend_from_slice(&[0, 0]);
    message(b'B', &body)
}

/// `S` of a statement, `P` of a portal.
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    message(b'D', &[&[kind], name.as_bytes(), b"\0"].concat())
}

pub fn close(kind: u8, name: &str) -> Vec<u8> {
    message(b'C', &[&[kind], name.as_bytes(), b"\0"].concat())
}

pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat())
}

pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}

pub fn flush() -> Vec<u8> {
    message(b'H', b"")
}

pub fn data(text: &str) -> Vec<u8> {
    message(b'd', text.as_bytes())
}

pub fn done() -> Vec<u8> {
    message(b'c', b"")
}

pub fn fail() -> Vec<u8> {
    message(b'f', b"enough\0")
}

/// The function with this number, of integers in binary.
pub fn call(function: u32, arguments: &[u32]) -> Vec<u8> {
    let mut body = [&function.to_be_bytes()[..], &[0, 1, 0, 1]].concat();
    body.extend_from_slice(&(arguments.len() as u16).to_be_bytes());
    for argument in arguments {
        body.extend_from_slice(&[0, 0, 0, 4]);
        body.extend_from_slice(&argument.to_be_bytes());
    }
    body.extend_from_slice(&[0, 1]);
    message(b'F', &body)
}

/// A whole request of one statement.
pub fn run(name: &str, text: &str, values: &[&str]) -> Vec<Vec<u8>> {
    vec![parse(name, text), bind("", name, values), describe(b'P', ""), execute("", 0), sync()]
}

fn script(name: &str, steps: Vec<Vec<Vec<u8>>>) -> Script {
    Script { name: name.to_owned(), steps, is_by_chance: false }
}

fn queries(name: &str, texts: &[&str]) -> Script {
    script(name, texts.iter().map(|text| vec![query(text)]).collect())
}

/// int4pl
const ADD: u32 = 177;
/// int4div
const DIVIDE: u32 = 154;

pub fn fixed() -> Vec<Script> {
    let long = "x".repeat(20_000);
    let rows = "SELECT n, n::text FROM generate_series(1, 7) n";
    vec![
        queries(
            "simple",
            &[
                "SELECT 1",
                "",
                ";",
                "SELECT 1; SELECT 'two'; SELECT",
                "SELECT 1; SELECT 1/0; SELECT 2",
                "nonsense",
                "SELECT tells(1)",
            ],
        ),
        queries(
            "transactions",
            &[
                "BEGIN",
                "SELECT 1",
                "SELECT 1/0",
                "SELECT 2",
                "ROLLBACK",
                "BEGIN; SELECT 1",
                "COMMIT",
                "COMMIT",
                "ROLLBACK",
                "BEGIN; SAVEPOINT a; SELECT 1/0",
                "ROLLBACK TO a; SELECT 3",
                "COMMIT AND CHAIN",
                "END",
            ],
        ),
        queries(
            "settings",
            &[
                "SHOW DateStyle",
                "SET DateStyle = 'SQL, DMY'",
                "SELECT date '2020-02-01'",
                "SET LOCAL work_mem = '1MB'",
                "BEGIN; SET LOCAL TimeZone = 'UTC'",
                "SHOW TimeZone",
                "ROLLBACK",
                "SHOW TimeZone",
                "SET nonsense = 1",
                "SET a.b = 'c'",
                "SHOW a.b",
                "RESET ALL",
                "SHOW DateStyle",
                "SHOW a.b",
                "SET client_encoding = 'LATIN1'",
                "SELECT 'é'",
                "DISCARD ALL",
                "SHOW client_encoding",
                "SELECT 1.1::float8, '\\xab'::bytea",
                "SET application_name = 'me'",
                "SHOW application_name",
            ],
        ),
        queries(
            "large",
            &[
                &format!("SELECT '{long}'"),
                "SELECT repeat('y', 300000)",
                "SELECT repeat('z', 9000) FROM generate_series(1, 60)",
            ],
        ),
        queries("listen", &["LISTEN a", "NOTIFY a, 'word'", "UNLISTEN *", "SELECT 1"]),
        queries(
            "prepare in SQL",
            &[
                "PREPARE s1 AS SELECT 1",
                "EXECUTE s1",
                "DEALLOCATE s1",
                "EXECUTE s1",
                "DEALLOCATE ALL",
                "SELECT 1",
            ],
        ),
        queries(
            "a cursor",
            &[
                "BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 5)",
                "FETCH 2 FROM c",
                "FETCH ALL FROM c",
                "CLOSE c",
                "FETCH c",
                "COMMIT",
            ],
        ),
        script(
            "extended",
            vec![
                run("", "SELECT $1::int + 1", &["41"]),
                run("s1", "SELECT $1::text, id FROM t WHERE id < 4", &["a"]),
                vec![bind("", "s1", &["b"]), execute("", 0), sync()],
                vec![describe(b'S', "s1"), sync()],
                vec![describe(b'S', ""), sync()],
                run("s1", "SELECT 'again'", &[]),
                vec![close(b'S', "s1"), sync()],
                run("s1", "SELECT 'again'", &[]),
                vec![bind("", "s1", &[]), execute("", 0), sync()],
                vec![close(b'S', "s1"), close(b'S', "s1"), close(b'P', "none"), sync()],
                vec![bind("", "s1", &[]), sync()],
                vec![sync()],
                vec![sync(), sync()],
                run("", "", &[]),
                run("", "INSERT INTO t VALUES ($1, 'n') RETURNING id", &["100"]),
                run("", "INSERT INTO t VALUES ($1, 'n') RETURNING id", &["100"]),
                run("", "DELETE FROM t WHERE id = $1", &["100"]),
                run("", "SELECT tells($1)", &["5"]),
                run("", "SELECT fails($1)", &["5"]),
            ],
        ),
        script(
            "the unnamed statement",
            vec![
                vec![parse("", "SELECT 'mine'"), sync()],
                vec![bind("", "", &[]), execute("", 0), sync()],
                vec![describe(b'S', ""), sync()],
                vec![close(b'S', ""), sync()],
                vec![bind("", "", &[]), execute("", 0), sync()],
                vec![parse("", "SELECT 'mine'"), sync()],
                vec![query("SELECT 1")],
                vec![bind("", "", &[]), execute("", 0), sync()],
                vec![parse("", "SELECT 'mine'"), sync()],
                vec![parse("", "nonsense"), sync()],
                vec![bind("", "", &[]), execute("", 0), sync()],
                vec![parse("", "BEGIN"), sync()],
                vec![bind("", "", &[]), execute("", 0), sync()],
                vec![bind("", "", &[]), execute("", 0), sync()],
                vec![query("COMMIT")],
            ],
        ),
        script(
            "a call beside the unnamed statement",
            vec![
                vec![parse("", "SELECT 'mine'"), sync()],
                vec![call(DIVIDE, &[6, 3])],
                vec![bind("", "", &[]), execute("", 0), sync()],
            ],
        ),
        script(
            "portals",
            vec![
                vec![
                    parse("s1", rows),
                    bind("p1", "s1", &[]),
                    execute("p1", 2),
                    execute("p1", 2),
                    execute("p1", 0),
                    execute("p1", 0),
                    sync(),
                ],
                vec![execute("p1", 0), sync()],
                vec![query("BEGIN")],
                vec![bind("p1", "s1", &[]), execute("p1", 3), sync()],
                vec![execute("p1", 3), sync()],
                vec![bind("p1", "s1", &[]), sync()],
                vec![query("ROLLBACK")],
                vec![
                    query("BEGIN"),
                    bind("p1", "s1", &[]),
                    execute("p1", 3),
                    flush(),
                    close(b'P', "p1"),
                    execute("p1", 1),
                    sync(),
                    query("COMMIT"),
                ],
                vec![parse("", "SELECT 1"), bind("", "", &[]), execute("", 1), execute("", 1), sync()],
            ],
        ),
        script(
            "flush",
            vec![
                vec![parse("s1", "SELECT 1"), flush()],
                vec![bind("", "s1", &[]), flush()],
                vec![execute("", 0), flush()],
                vec![parse("s1", "SELECT 1"), flush()],
                vec![parse("s2", "SELECT 2"), flush()],
                vec![sync()],
                vec![bind("", "s1", &[]), execute("", 0), sync()],
                vec![flush()],
                vec![bind("", "s2", &[]), execute("", 0), sync()],
            ],
        ),
        script(
            "copy",
            vec![
                vec![query("COPY t TO STDOUT")],
                vec![query("COPY t FROM STDIN"), data("201\ta\n20"), data("2\tb\n"), done()],
                vec![query("SELECT count(*) FROM t")],
                vec![query("COPY t FROM STDIN"), data("203\ta\n"), fail()],
                vec![query("COPY t FROM STDIN"), data("x\ta\n"), done()],
                vec![query("COPY t FROM STDIN; SELECT 1; COPY t TO STDOUT"), data("204\ta\n"), done()],
                vec![query("COPY t FROM STDIN")],
                vec![data("205\t"), flush(), sync()],
                vec![data("a\n")],
                vec![done()],
                vec![
                    parse("", "COPY t FROM STDIN"),
                    bind("", "", &[]),
                    execute("", 0),
                    sync(),
                    data("206\ta\n"),
                    done(),
                    sync(),
                ],
                vec![
                    parse("", "COPY t FROM STDIN"),
                    bind("", "", &[]),
                    execute("", 0),
                    data("207\ta\n"),
                    done(),
                    sync(),
                ],
                vec![
                    parse("", "COPY t FROM STDIN"),
                    bind("", "", &[]),
                    execute("", 0),
                    sync(),
                    data("208\ta\n"),
                    fail(),
                    sync(),
                ],
                vec![
                    parse("", "COPY t FROM STDIN"),
                    bind("", "", &[]),
                    execute("", 0),
                    data("208\ta\n"),
                    done(),
                    parse("", "SELECT 1"),
                    sync(),
                ],
                vec![
                    parse("", "COPY t FROM STDIN"),
                    bind("", "", &[]),
                    execute("", 0),
                    sync(),
                    data("bad\n"),
                    done(),
                    sync(),
                ],
                vec![parse("", "COPY t TO STDOUT"), bind("", "", &[]), execute("", 0), sync()],
                vec![query("COPY nothing FROM STDIN"), data("1\n"), done()],
                vec![data("1\n"), done(), fail()],
                vec![query("BEGIN; COPY t FROM STDIN"), data("209\ta\n"), done()],
                vec![query("ROLLBACK")],
                vec![query("COPY t FROM STDIN"), query("SELECT 1")],
                vec![query("SELECT 2")],
                vec![query("DELETE FROM t WHERE id > 200")],
            ],
        ),
        script(
            "function call",
            vec![
                vec![call(ADD, &[40, 2])],
                vec![call(DIVIDE, &[1, 0])],
                vec![call(1, &[])],
                vec![query("BEGIN")],
                vec![call(ADD, &[1, 2])],
                vec![call(DIVIDE, &[1, 0])],
                vec![call(ADD, &[1, 2])],
                vec![query("ROLLBACK")],
                vec![query("SELECT 1")],
            ],
        ),
        script(
            "settings by the extended protocol",
            vec![
                run("", "SET DateStyle = 'SQL, DMY'", &[]),
                run("", "SELECT date '2020-02-01'", &[]),
                run("s1", "SELECT date '01/02/2020'::text", &[]),
                vec![bind("", "s1", &[]), execute("", 0), sync()],
                run("s2", "SET a.b = 'c'", &[]),
                vec![bind("", "s2", &[]), execute("", 0), sync()],
                vec![query("SHOW a.b")],
                run("", "DISCARD ALL", &[]),
                vec![bind("", "s1", &[]), execute("", 0), sync()],
            ],
        ),
        script(
            "deallocate",
            vec![
                vec![parse("s1", "SELECT 1"), parse("s2", "SELECT 2"), sync()],
                vec![query("DEALLOCATE s1")],
                vec![bind("", "s1", &[]), execute("", 0), sync()],
                vec![bind("", "s2", &[]), execute("", 0), sync()],
                vec![query("DEALLOCATE PREPARE s1")],
                vec![query("BEGIN")],
                vec![query("DEALLOCATE s2")],
                vec![query("ROLLBACK")],
                vec![bind("", "s2", &[]), execute("", 0), sync()],
                vec![parse("", "DEALLOCATE ALL"), bind("", "", &[]), execute("", 0), sync()],
                vec![bind("", "s2", &[]), execute("", 0), sync()],
            ],
        ),
        script("unknown messages", vec![vec![message(b'?', b"what"), sync()], vec![query("SELECT 1")]]),
        script("a query without an end", vec![vec![message(b'Q', b"SELECT 1")], vec![query("SELECT 1")]]),
        script("an empty query message", vec![vec![message(b'Q', b"")], vec![query("SELECT 1")]]),
        script(
            "a bind that is cut",
            vec![vec![message(b'B', b"\0s1\0\0\0\0\x05"), sync()], vec![query("SELECT 1")]],
        ),
        script(
            "a parse that is cut",
            vec![vec![message(b'P', b"s1\0SELECT 1"), sync()], vec![query("SELECT 1")]],
        ),
        script(
            "a parse that goes on",
            vec![vec![message(b'P', b"s1\0SELECT 1\0\0\0more"), sync()], run("s1", "SELECT 2", &[])],
        ),
        script(
            "a close of nothing",
            vec![
                vec![message(b'C', b"xs1\0"), sync()],
                vec![message(b'D', b"xs1\0"), sync()],
                vec![query("SELECT 1")],
            ],
        ),
        script("an execute that is cut", vec![vec![message(b'E', b"\0\0"), sync()], vec![query("SELECT 1")]]),
        script("a sync with a body", vec![vec![message(b'S', b"x")], vec![query("SELECT 1")]]),
    ]
}

/// What can go wrong, in one message or a few.
fn faults() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![
        ("a bad parse", vec![parse("s3", "nonsense")]),
        ("a bad parse without a name", vec![parse("", "SELECT * FROM nothing")]),
        ("a parse of a name that is there", vec![parse("s1", "SELECT 1")]),
        ("a bind with too many values", vec![bind("", "s1", &["1", "2", "3"])]),
        ("a bind of what is unknown", vec![bind("", "unknown", &[])]),
        ("a bind of a bad value", vec![parse("s3", "SELECT $1::int"), bind("", "s3", &["x"])]),
        ("a bind that is cut", vec![message(b'B', b"\0s1\0\0\0\0\x05")]),
        ("an execute of an unknown portal", vec![execute("unknown", 0)]),
        ("an execute that fails", vec![parse("s3", "SELECT 1/0"), bind("", "s3", &[]), execute("", 0)]),
        ("a describe of an unknown statement", vec![describe(b'S', "unknown")]),
        ("a describe of an unknown portal", vec![describe(b'P', "unknown")]),
        ("a close of what it uses", vec![close(b'S', "s1")]),
        (
            "a copy that fails",
            vec![parse("", "COPY t FROM STDIN"), bind("", "", &[]), execute("", 0), data("x\n"), done()],
        ),
        (
            "a copy that is given up",
            vec![parse("", "COPY t FROM STDIN"), bind("", "", &[]), execute("", 0), data("301\ta\n"), fail()],
        ),
        ("data for nobody", vec![data("x"), done(), fail()]),
        ("a call that fails", vec![call(DIVIDE, &[1, 0])]),
        ("a simple query that fails", vec![query("SELECT 1/0")]),
        ("a sync", vec![sync()]),
        ("a flush", vec![flush()]),
        ("a rollback", vec![parse("", "ROLLBACK"), bind("", "", &[]), execute("", 0)]),
        (
            "a setting that is refused",
            vec![parse("", "SET work_mem = 'x'"), bind("", "", &[]), execute("", 0)],
        ),
        (
            "a deallocate of what is there",
            vec![parse("", "DEALLOCATE s1"), bind("", "", &[]), execute("", 0)],
        ),
        (
            "a deallocate of what is unknown",
            vec![parse("", "DEALLOCATE unknown"), bind("", "", &[]), execute("", 0)],
        ),
        ("all discarded", vec![parse("", "DISCARD ALL"), bind("", "", &[]), execute("", 0)]),
    ]
}

/// Where the last group of the pipeline below begins.
const LAST_GROUP: usize = 14;

/// From which place on a fault is answered as without a pooler, and at which it is not; why it is not, is said in the head of
/// `differential`.
const KNOWN: [(&str, usize, Option<usize>); 4] = [
    ("a copy that fails", LAST_GROUP, None),
    ("a copy that is given up", LAST_GROUP, None),
    ("all discarded", LAST_GROUP, None),
    ("a deallocate of what is there", 0, Some(7)),
];

/// Three groups in one pipeline, a fault before each message in turn, alone and in a transaction; then what is left is looked at.
pub fn failing() -> Vec<Script> {
    let pipeline = [
        parse("s1", "SELECT $1::text, 'one'"),
        describe(b'S', "s1"),
        bind("p1", "s1", &["a"]),
        describe(b'P', "p1"),
        execute("p1", 0),
        close(b'P', "p1"),
        parse("", "SELECT 'unnamed'"),
        bind("", "", &[]),
        execute("", 0),
        sync(),
        parse("s2", "SELECT $1::text, 'two'"),
        bind("", "s2", &["b"]),
        execute("", 0),
        sync(),
        bind("", "s1", &["c"]),
        execute("", 0),
        close(b'S', "s1"),
        parse("s1", "SELECT 'new'"),
        bind("", "s1", &[]),
        execute("", 0),
        sync(),
    ];
    let mut scripts = Vec::new();
    for (name, fault) in faults() {
        let (first, left_out) =
            KNOWN.iter().find(|known| known.0 == name).map_or((0, None), |known| (known.1, known.2));
        for place in (first..=pipeline.len()).filter(|place| left_out != Some(*place)) {
            // By turns, and the other way round for the next fault.
            for in_block in [(place + name.len()).is_multiple_of(2)] {
                let mut first = pipeline[..place].to_vec();
                first.extend(fault.iter().cloned());
                first.extend(pipeline[place..].iter().cloned());
                if place == pipeline.len() {
                    first.push(sync());
                }
                let mut steps = vec![first];
                if in_block {
                    steps.insert(0, vec![query("BEGIN")]);
                    steps.push(vec![query("ROLLBACK")]);
                }
                for left in ["s1", "s2", "s3"] {
                    steps.push(vec![describe(b'S', left), sync()]);
                }
                steps.push(vec![parse("s1", "SELECT 'other'"), sync()]);
                steps.push(vec![bind("", "s2", &["d"]), execute("", 0), sync(), query("SELECT 'end'")]);
                let block = if in_block { ", in a block" } else { "" };
                scripts.push(script(&format!("{name} before message {}{block}", place + 1), steps));
            }
        }
    }
    scripts
}
