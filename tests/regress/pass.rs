//! One pass: a new server, and the suite through one of its ports.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::wait::wait_at_most;
use tests::{Cluster, Node, machine, page_at};

use crate::options::{Options, Protocol};
use crate::suite::{PIPELINE, Suite};

const DATABASE: &str = "regression";
/// The largest group of the schedule has 20 tests, so servers are scarce enough to change hands. One thread has them all.
const CONFIGURATION: &str = "[postgres.parameters]\nmax_connections = \"100\"\nmax_prepared_transactions = \"10\"\n\
                             [proxy]\npool_size = 20\nthreads = 1\n";
/// As pg_regress has it, but the same name for every test: start-up packets that differ would share no server.
const ENVIRONMENT: [(&str, &str); 7] = [
    ("PGAPPNAME", "pg_regress"),
    ("PGTZ", "America/Los_Angeles"),
    ("PGDATESTYLE", "Postgres, MDY"),
    ("PGOPTIONS", "-c intervalstyle=postgres_verbose"),
    ("LANG", "C"),
    ("LC_MESSAGES", "C"),
    ("PG_DLSUFFIX", ".so"),
];
/// pg_regress does this to the database, so that what tests print is the same everywhere.
const LOCALE: [&str; 4] = ["lc_messages", "lc_monetary", "lc_numeric", "lc_time"];
/// Rows that a test of libpq_pipeline inserts, as in its own driver.
const PIPELINE_ROWS: &str = "700";
/// How much of what these send fits into the sockets decides what they print and send, so that is chance.
const BY_SOCKETS: [&str; 2] = ["pipelined_insert", "uniqviol"];
/// Scripts of the crowd, each second: two cores have time for the tests.
const CROWD_RATE: &str = "500";
/// What would be seen at once if it stayed on a server that a test gets next. No two of the crowd have the same settings: so
/// none finds its own server, and each takes the one that was given back last, a test's.
const CROWD_SCRIPT: &str = "\\if :fresh\n\
                            SET DateStyle = 'ISO, YMD';\nSET TimeZone = 'Asia/Tokyo';\nSET IntervalStyle = iso_8601;\n\
                            SET search_path = pg_catalog;\nSET extra_float_digits = -10;\nSET bytea_output = escape;\n\
                            SET enable_seqscan = off;\nSET enable_hashjoin = off;\n\
                            SET default_transaction_isolation = serializable;\n\
                            \\set fresh 0\n\\endif\n\
                            \\set kilobytes random(64, 1000000)\nSET work_mem = :kilobytes;\nSELECT 1;\n";
/// Told at the end: without reads by replicas a pass through the auto port says little.
const READS: &str = "pgherd_proxy_reads_";
/// What the sessions and servers were at when a test did not end.
const SCENE: &str = "SELECT pid, usename, application_name, state, wait_event, backend_xid, left(query, 200) FROM \
                     pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() ORDER BY pid";

/// Which way leads to the server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mode {
    Direct,
    Session,
    Transaction,
    /// The port that routes by statement, with a replica to which reads go.
    Auto,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Direct => "direct",
            Mode::Session => "session",
            Mode::Transaction => "transaction",
            Mode::Auto => "auto",
        }
    }

    fn nodes(self) -> u16 {
        if self == Mode::Auto { 2 } else { 1 }
    }

    fn port(self, node: &Node) -> u16 {
        match self {
            Mode::Direct => node.postgres,
            Mode::Session | Mode::Transaction => node.read_write,
            Mode::Auto => node.auto,
        }
    }

    /// The pool mode of the proxy. A direct pass has one too, and does not use it.
    pub fn pool_mode(self) -> &'static str {
        match self {
            Mode::Direct | Mode::Transaction | Mode::Auto => "transaction",
            Mode::Session => "session",
        }
    }
}

/// How a test has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Exited,
    /// It was ended after its time.
    Stuck,
}

#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub end: End,
    pub took: Duration,
}

/// The ends of all tests by name; what they printed is in `results`.
pub struct Pass {
    pub mode: Mode,
    pub results: PathBuf,
    pub outcomes: BTreeMap<String, Outcome>,
    pub took: Duration,
}

impl Pass {
    /// What a test has printed.
    pub fn out(&self, test: &str) -> PathBuf {
        self.results.join(file_name(test))
    }
}

fn file_name(test: &str) -> String {
    format!("{}.out", test.replace('/', "_"))
}

/// Runs the suite; `kept` is the folder in which the results and logs stay.
pub fn run(suite: &Suite, mode: Mode, options: &Options, kept: &Path) -> Result<Pass> {
    let started = Instant::now();
    let configuration = format!("{CONFIGURATION}pool_mode = \"{}\"\n", mode.pool_mode());
    let cluster = Cluster::start_configured(mode.nodes(), |_| configuration.clone());
    let node = cluster.node(&cluster.primary().context("no primary")?);
    let port = mode.port(node);
    // The server must be able to enter, and some tests print where they are: the same place in each pass.
    let place = Place::make(suite)?;
    let stage = Stage { suite, place: &place, port, server: node.postgres, options };
    stage.make_database()?;
    let outcomes = Mutex::new(BTreeMap::new());
    for group in &suite.groups {
        let _crowd = stage.start_crowd()?;
        stage.run_group(group, &|test, outcome: Outcome| {
            println!("{:11} {test:40} {:6.1} s{}", mode.name(), outcome.took.as_secs_f64(), outcome.words());
            outcomes.lock().expect("no panic").insert(test.to_owned(), outcome);
        })?;
    }
    let results = kept.join(mode.name());
    if results.exists() {
        fs::remove_dir_all(&results).with_context(|| format!("clear {}", results.display()))?;
    }
    fs::create_dir_all(&results)?;
    copy(&place.folder.join("results/."), &results)?;
    copy(&node.dir.join("pgherd.log"), &results)?;
    let metrics = page_at(&node.host, node.http, "/metrics").context("no metrics")?;
    metrics
        .lines()
        .filter(|line| line.starts_with(READS))
        .for_each(|line| println!("{:11} {line}", mode.name()));
    fs::write(results.join("metrics"), metrics)?;
    let outcomes = outcomes.into_inner().expect("no panic");
    Ok(Pass { mode, results, outcomes, took: started.elapsed() })
}

impl Outcome {
    fn words(&self) -> &'static str {
        match self.end {
            End::Exited => "",
            End::Stuck => "  STUCK",
        }
    }
}

/// Folders that the server reads and writes; gone when dropped.
struct Place {
    folder: PathBuf,
}

impl Place {
    /// The same path for each pass of a run, and another one for each run: two may go on at once.
    fn make(suite: &Suite) -> Result<Place> {
        let folder = std::env::temp_dir().join(format!("pgherd-regress-{}", std::process::id()));
        let place = Place { folder };
        for name in ["", "results", "lib"] {
            let path = place.folder.join(name);
            fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        }
        for name in ["sql", "data"] {
            copy(&suite.folder.join(name), &place.folder)?;
        }
        copy(&suite.folder.join("regress.so"), &place.folder.join("lib"))?;
        let libraries = machine::bin().join("../lib");
        for name in ["autoinc.so", "refint.so"] {
            copy(&libraries.join(name), &place.folder.join("lib"))?;
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Readable for everybody, whatever our umask is.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").args(["-r"]).args([from, to]).status().context("start cp")?;
    ensure!(copied.success(), "copy {} to {}", from.display(), to.display());
    let opened = Command::new("chmod").args(["-R", "a+rX"]).arg(to).status().context("start chmod")?;
    ensure!(opened.success(), "open {}", to.display());
    Ok(())
}

/// What the tests of a pass have in common.
struct Stage<'a> {
    suite: &'a Suite,
    place: &'a Place,
    port: u16,
    /// PostgreSQL's own port.
    server: u16,
    options: &'a Options,
}

/// Sessions of the pool that are no test's; ended when dropped.
struct Crowd(Option<Child>);

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Some(pgbench) = &mut self.0 {
            let _ = pgbench.kill();
            let _ = pgbench.wait();
        }
    }
}

impl Stage<'_> {
    /// Without the proxy: only the tests are to go through it.
    fn make_database(&self) -> Result<()> {
        let mut statements = vec![format!("CREATE DATABASE {DATABASE} TEMPLATE = template0")];
        let set = |name: &str, value: &str| format!("ALTER DATABASE {DATABASE} SET {name} TO '{value}'");
        statements.extend(LOCALE.map(|name| set(name, "C")));
        statements.extend([set("bytea_output", "hex"), set("timezone_abbreviations", "Default")]);
        for statement in statements {
            let output = self.psql("postgres", self.server).args(["-c", &statement]).output()?;
            ensure!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    fn psql(&self, database: &str, port: u16) -> Command {
        let mut command = Command::new(machine::bin().join("psql"));
        command.args(["-X", "-q", "-h", "127.0.0.1", "-U", "postgres", "-d", database]);
        command.args(["-p", &port.to_string()]);
        self.environment(&mut command);
        command
    }

    fn environment(&self, command: &mut Command) {
        // What the user has for psql must not reach the tests.
        for (name, _) in
            std::env::vars().filter(|(name, _)| name.starts_with("PG") || name.starts_with("LC_"))
        {
            command.env_remove(name);
        }
        command.env_remove("LANGUAGE").envs(ENVIRONMENT).stdin(Stdio::null());
        // `\c` of a test goes to the same port.
        command.env("PGHOST", "127.0.0.1").env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        let folder = &self.place.folder;
        command.env("PG_ABS_SRCDIR", folder).env("PG_ABS_BUILDDIR", folder);
        command.env("PG_LIBDIR", folder.join("lib")).current_dir(folder);
    }

    /// It shares the tests' servers, and leaves its settings there. It may end early: where all servers are bound to tests.
    fn start_crowd(&self) -> Result<Crowd> {
        if self.options.crowd == 0 {
            return Ok(Crowd(None));
        }
        let script = self.place.folder.join("crowd.sql");
        fs::write(&script, CROWD_SCRIPT)?;
        let mut pgbench = Command::new(machine::bin().join("pgbench"));
        pgbench.args([
            "-n",
            "-T",
            "600",
            "-D",
            "fresh=1",
            "-R",
            CROWD_RATE,
            "-c",
            &self.options.crowd.to_string(),
            "-f",
        ]);
        pgbench.arg(script).arg(DATABASE);
        self.environment(&mut pgbench);
        let log =
            File::options().create(true).append(true).open(self.place.folder.join("results/crowd.log"))?;
        let started = pgbench.stdout(Stdio::null()).stderr(log).spawn().context("start pgbench")?;
        Ok(Crowd(Some(started)))
    }

    /// All tests of the group, so many at once as there may be.
    fn run_group(&self, group: &[String], ended: &(dyn Fn(&str, Outcome) + Sync)) -> Result<()> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            while let Some(test) = group.get(next.fetch_add(1, Ordering::Relaxed)) {
                ended(test, self.run_test(test).with_context(|| test.clone())?);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                (0..self.options.jobs.min(group.len())).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("no panic"))
        })
    }

    fn run_test(&self, test: &str) -> Result<Outcome> {
        let out = self.place.folder.join("results").join(file_name(test));
        let (log, errors) = (File::create(&out)?, File::options().append(true).open(&out)?);
        let mut command = match test.strip_prefix(PIPELINE) {
            Some(name) => self.pipeline(name),
            None => {
                let mut psql = self.psql(DATABASE, self.port);
                psql.args(["-a", "-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on"]);
                if self.options.protocol != Protocol::Simple {
                    psql.env("LD_PRELOAD", self.suite.folder.join("protocol.so"));
                    psql.env("PGHERD_PROTOCOL", self.options.protocol.name());
                }
                psql.stdin(File::open(self.place.folder.join(format!("sql/{test}.sql")))?);
                psql
            }
        };
        // Both ends write at the end of the one file, as a shell's `> out 2>&1`.
        drop(log);
        let started = Instant::now();
        let mut child = command.stdout(errors.try_clone()?).stderr(errors).spawn()?;
        let status = wait_at_most(self.options.timeout, || child.try_wait().ok().flatten());
        let took = started.elapsed();
        match status {
            Some(status) => self.note_status(test, &out, status)?,
            None => self.end_stuck(&mut child, &out)?,
        }
        Ok(Outcome { end: if status.is_some() { End::Exited } else { End::Stuck }, took })
    }

    fn pipeline(&self, name: &str) -> Command {
        let mut command = Command::new(self.suite.folder.join("libpq_pipeline"));
        command.args(["-r", PIPELINE_ROWS, "-t"]).arg(self.trace(name)).arg(name);
        self.environment(&mut command);
        command.arg(format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port));
        command
    }

    fn trace(&self, name: &str) -> PathBuf {
        self.place.folder.join("results").join(format!("{name}.trace"))
    }

    /// How it ended, and what libpq has seen on the wire, are parts of the result.
    fn note_status(&self, test: &str, out: &Path, status: ExitStatus) -> Result<()> {
        let mut text = fs::read(out)?;
        if let Some(name) = test.strip_prefix(PIPELINE) {
            let trace = fs::read(self.trace(name)).unwrap_or_default();
            let _ = fs::remove_file(self.trace(name));
            match BY_SOCKETS.contains(&name) {
                true => text = b"what depends on sockets\n".to_vec(),
                false => text.extend(trace),
            }
        }
        text.extend_from_slice(format!("-- {status}\n").as_bytes());
        fs::write(out, text).with_context(|| format!("write {}", out.display()))
    }

    fn end_stuck(&self, child: &mut Child, out: &Path) -> Result<()> {
        let scene = self.psql("postgres", self.server).args(["-c", SCENE]).output()?;
        fs::write(out.with_extension("stuck"), scene.stdout)?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }
}
