//! The catalog queries against a real server, and PostgreSQL's own regression SQL against what they say.
//!
//! What it is: a PostgreSQL for the test's time, on a Unix socket, its programs from PGHERD_TEST_PGBIN or the newest
//! below /usr/lib/postgresql. What it is not: needed; without one it says so and passes.

// A test reaches for programs and files; the crate does not.
#![allow(clippy::disallowed_methods)]

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use routing::{Catalog, Overrides, Query, Route, Rows, classify};

/// Ends with the test.
struct Server {
    bin: PathBuf,
    folder: tempfile::TempDir,
}

const PORT: &str = "29817";
const SCHEMA: &str = "
CREATE SCHEMA app;
CREATE TABLE app.users (id int, name text);
CREATE UNLOGGED TABLE app.events (id int);
CREATE VIEW app.plain AS SELECT id, lower(name) AS name, now() AS at, random() AS dice FROM app.users;
CREATE VIEW app.on_events AS SELECT 1 FROM app.users WHERE EXISTS (SELECT 1 FROM app.events);
CREATE VIEW app.nested AS SELECT * FROM app.on_events;
CREATE SEQUENCE app.numbers;
CREATE VIEW app.counting AS SELECT CASE WHEN id > 0 THEN nextval('app.numbers') END FROM app.users;
CREATE MATERIALIZED VIEW app.report AS SELECT nextval('app.numbers');
CREATE TABLE app.parted (id int) PARTITION BY RANGE (id);
CREATE UNLOGGED TABLE app.parted_1 PARTITION OF app.parted FOR VALUES FROM (0) TO (10);
CREATE FUNCTION app.writes(int) RETURNS bool LANGUAGE sql AS 'SELECT nextval(''app.numbers'') > 0';
CREATE FUNCTION app.reads(int) RETURNS bool STABLE LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION app.stamp(app.users) RETURNS bigint LANGUAGE sql AS 'SELECT nextval(''app.numbers'')';
CREATE FUNCTION app.adds(int, int) RETURNS int VOLATILE LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE app.total(int) (SFUNC = app.adds, STYPE = int);
CREATE OPERATOR app.<-!-> (LEFTARG = int, RIGHTARG = int, FUNCTION = app.adds);
CREATE VIEW app.by_operator AS SELECT id OPERATOR(app.<-!->) 1 FROM app.users;
CREATE VIEW app.by_aggregate AS SELECT app.total(id) FROM app.users;
CREATE VIEW app.by_window AS SELECT app.total(id) OVER () FROM app.users;
CREATE TABLE app.guarded (id int);
ALTER TABLE app.guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON app.guarded FOR SELECT USING (app.writes(id));
CREATE TABLE app.trusted (id int);
CREATE POLICY p ON app.trusted USING (app.reads(id) AND current_setting('app.tenant', true) IS NOT NULL);
CREATE VIEW app.on_guarded AS SELECT * FROM app.guarded;
CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE app.far (id int) SERVER s;
";

fn server() -> Option<Server> {
    let of_debian = (15..=18).rev().map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
    let bin = std::env::var("PGHERD_TEST_PGBIN")
        .map(PathBuf::from)
        .ok()
        .or_else(|| of_debian.into_iter().find(|bin| bin.join("initdb").exists()))?;
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let server = Server { bin, folder };
    server.give_to_postgres();
    let data = server.folder.path().join("data").display().to_string();
    expect(server.program("initdb").args([
        "-D",
        &data,
        "-A",
        "trust",
        "-N",
        "-U",
        "postgres",
        "--no-locale",
        "-E",
        "UTF8",
    ]));
    let options =
        format!("-c listen_addresses= -c fsync=off -k {} -p {PORT}", server.folder.path().display());
    let log = server.folder.path().join("log").display().to_string();
    expect(server.program("pg_ctl").args(["-D", &data, "-l", &log, "-o", &options, "-w", "start"]));
    Some(server)
}

fn expect(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

impl Server {
    fn give_to_postgres(&self) {
        let ids = Command::new("id").args(["-u", "postgres"]).output().ok();
        if let Some(id) = ids.and_then(|output| String::from_utf8_lossy(&output.stdout).trim().parse().ok()) {
            // Who is not root runs the server as himself.
            chown(self.folder.path(), Some(id), None).ok();
        }
    }

    /// As the user postgres, when we are root.
    fn program(&self, name: &str) -> Command {
        let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
        let mut command = Command::new(if is_root { "setpriv".into() } else { self.bin.join(name) });
        if is_root {
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(self.bin.join(name));
        }
        command.current_dir("/");
        command
    }

    fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        let mut psql = Command::new("psql");
        psql.args([
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-F",
            "\x1f",
            "-R",
            "\x1e",
            "-U",
            "postgres",
            "-p",
            PORT,
            "-h",
        ]);
        let output = expect(psql.arg(self.folder.path()).args(["-d", "postgres", "-c", sql]));
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.trim_end_matches('\n').split('\x1e').filter(|line| !line.is_empty());
        lines.map(|line| line.split('\x1f').map(str::to_owned).collect()).collect()
    }

    fn catalog(&self, overrides: &Overrides) -> Catalog {
        let mut rows = Rows::default();
        for query in Query::ALL {
            for row in self.rows(query.sql()) {
                let columns: Vec<&str> = row.iter().map(String::as_str).collect();
                rows.take(query, &columns).unwrap_or_else(|bad| panic!("{bad}: {columns:?}"));
            }
        }
        Catalog::new(1, &rows, overrides)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.folder.path().join("data");
        self.program("pg_ctl").arg("-D").arg(data).args(["-m", "immediate", "-w", "stop"]).output().ok();
    }
}

/// Each text with the phrase of its reason, empty for a replica.
const CASES: &str = "
SELECT * FROM app.users|
SELECT name, dice FROM app.plain|
SELECT app.reads(id), count(*), sum(id), string_agg(name, ',' ORDER BY id) FROM users GROUP BY 1|
SELECT * FROM app.trusted|
SELECT * FROM report|
SELECT * FROM app.parted|relation parted reads unlogged app.parted_1
SELECT * FROM app.events|relation events reads unlogged
SELECT * FROM app.nested|relation nested reads unlogged app.events
SELECT * FROM counting|relation counting calls volatile nextval
SELECT * FROM by_operator|relation by_operator calls volatile adds
SELECT * FROM by_aggregate|relation by_aggregate calls volatile total
SELECT * FROM by_window|relation by_window calls volatile total
SELECT * FROM app.guarded|relation guarded calls volatile writes
SELECT * FROM app.on_guarded|relation on_guarded calls volatile writes
SELECT * FROM app.far|relation far reads foreign
SELECT last_value FROM numbers|relation numbers reads sequence
SELECT app.writes(1)|function writes is volatile
SELECT app.total(id) FROM users|function total is volatile
SELECT u.stamp FROM users u|function stamp is volatile
SELECT 1 <-!-> 2|operator <-!-> is volatile
SELECT nextval('app.numbers')|function nextval is volatile
SELECT random(), clock_timestamp(), gen_random_uuid()|
SELECT * FROM information_schema.tables|
SELECT * FROM information_schema.columns WHERE table_name = 'users'|
SELECT * FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid|
SELECT * FROM pg_tables, pg_views, pg_indexes, pg_stats, pg_roles, pg_policies|
SELECT pg_catalog.format_type(1, 2), pg_table_is_visible(1), pg_get_expr('x', 1), obj_description(1, 'pg_class')|
SELECT to_char(now(), 'YYYY'), jsonb_agg(name), array_agg(id) FROM users WHERE name ~* 'x' AND id = ANY('{1}')|
SELECT '{}'::jsonb @> '{}' AND 'a' <@ ARRAY['a'] AND to_tsvector('a') @@ to_tsquery('a')|
SELECT version(), current_database(), current_user, current_schemas(true)|
SELECT * FROM generate_series(1, 3), unnest(ARRAY[1]), json_each('{}'), regexp_matches('a', 'b')|
SELECT * FROM pg_stat_activity|relation pg_stat_activity
SELECT * FROM pg_stat_replication|relation pg_stat_replication
SELECT * FROM pg_stat_user_tables|relation pg_stat_user_tables
SELECT * FROM pg_statio_user_tables|relation pg_statio_user_tables
SELECT * FROM pg_stat_database|relation pg_stat_database
SELECT * FROM pg_stat_wal|relation pg_stat_wal
SELECT * FROM pg_locks|relation pg_locks
SELECT * FROM pg_settings|relation pg_settings
SELECT * FROM pg_replication_slots|relation pg_replication_slots
SELECT * FROM pg_cursors|relation pg_cursors
SELECT * FROM pg_prepared_statements|relation pg_prepared_statements
SELECT * FROM pg_prepared_xacts|relation pg_prepared_xacts
SELECT * FROM pg_sequences|relation pg_sequences
SELECT * FROM pg_hba_file_rules|relation pg_hba_file_rules
SELECT pg_is_in_recovery()|function pg_is_in_recovery is volatile
SELECT pg_current_wal_lsn()|function pg_current_wal_lsn is volatile
SELECT pg_last_wal_replay_lsn()|function pg_last_wal_replay_lsn is volatile
SELECT pg_database_size('postgres')|function pg_database_size is volatile
SELECT pg_advisory_lock(1)|function pg_advisory_lock is volatile
SELECT pg_notify('a', 'b')|function pg_notify is volatile
SELECT set_config('a.b', 'c', false)|function set_config is volatile
SELECT lo_create(0)|function lo_create is volatile
SELECT query_to_xml('DELETE FROM users', true, true, '')|function query_to_xml is volatile
SELECT table_to_xml('users', true, true, '')|function table_to_xml tells
SELECT currval('app.numbers'), lastval()|function
SELECT pg_postmaster_start_time()|function pg_postmaster_start_time tells
";

/// Words that no read has but as a name. MERGE and LOCK are names of columns in the corpus.
const WRITES: [&str; 14] = [
    "INSERT", "UPDATE", "DELETE", "TRUNCATE", "CREATE", "DROP", "ALTER", "GRANT", "REVOKE", "VACUUM",
    "nextval", "setval", "INTO", "CALL",
];

#[test]
fn a_real_catalog_is_read_and_obeyed() {
    let Some(server) = server() else { return eprintln!("no PostgreSQL here: not tested") };
    let before = server.rows(Query::FINGERPRINT);
    server.rows(SCHEMA);
    assert_ne!(server.rows(Query::FINGERPRINT), before);
    let catalog = server.catalog(&Overrides::default());
    let mut wrong = Vec::new();
    for line in CASES.lines().filter(|line| !line.is_empty()) {
        let (text, expected) = line.rsplit_once('|').unwrap();
        let found = match classify(text.as_bytes(), &catalog).route {
            Route::Replica => String::new(),
            Route::Primary(reason) => reason.to_string(),
        };
        if !found.starts_with(expected) || found.is_empty() != expected.is_empty() {
            wrong.push(format!("{text}\n    expected: {expected}\n    found:    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let strict = Overrides { always_replica: Vec::new(), always_primary: vec!["reads".into()] };
    let catalog = server.catalog(&strict);
    for text in ["SELECT random()", "SELECT app.reads(1)", "TABLE app.plain", "TABLE app.trusted"] {
        assert!(!classify(text.as_bytes(), &catalog).is_replica(), "{text}");
    }
    obey_on_the_corpus(&server.catalog(&Overrides::default()));
}

/// No statement of PostgreSQL's regression tests that has a word of a write goes to a replica, and none makes a panic.
fn obey_on_the_corpus(catalog: &Catalog) {
    let Some(folder) = corpus() else {
        return eprintln!("the parser's sources are not here: corpus not tested");
    };
    let (mut count, mut replica, mut wrong) = (0, 0, Vec::new());
    for file in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read(file.unwrap().path()).unwrap();
        for statement in statements(&text) {
            count += 1;
            let verdict = classify(statement, catalog);
            assert_ne!(verdict.route, Route::Primary(routing::Reason::ParserFailed));
            if verdict.is_replica() {
                replica += 1;
                wrong.extend(
                    write_in(statement).map(|word| (word, String::from_utf8_lossy(statement).into_owned())),
                );
            }
        }
    }
    println!("{count} statements of the corpus, {replica} of them for a replica");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(count > 40_000 && replica > 5_000, "{count} {replica}");
}

/// A word of a write, where the statement is not one that EXPLAIN only plans.
fn write_in(statement: &[u8]) -> Option<&'static str> {
    let mut words = wire::token::Tokens::new(statement).filter(|token| token.kind == wire::token::Kind::Word);
    if words.clone().next().is_some_and(|first| first.is("EXPLAIN")) {
        return None;
    }
    words.find_map(|word| WRITES.into_iter().find(|write| word.is(write)))
}

fn statements(text: &[u8]) -> Vec<&[u8]> {
    let mut ends: Vec<usize> = wire::token::Tokens::new(text)
        .filter(|token| token.is_byte(b';'))
        .map(|token| token.range().end)
        .collect();
    ends.push(text.len());
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts.zip(&ends).map(|(start, end)| &text[start..*end]).collect()
}

fn corpus() -> Option<PathBuf> {
    let home =
        std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| home + "/.cargo")).ok()?;
    let sources = std::fs::read_dir(Path::new(&home).join("registry/src")).ok()?;
    let inside = "pg_raw_parse-0.1.0/libpg_query/test/sql/postgres_regress";
    sources.filter_map(|index| Some(index.ok()?.path().join(inside))).find(|folder| folder.exists())
}
