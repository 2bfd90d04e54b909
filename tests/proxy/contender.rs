//! Who stands between the clients and PostgreSQL.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tests::bench::Debian;
use tests::wait::wait_at_most;
use tests::{Node, machine};

use crate::load::{self, Mode};
use crate::options::Options;
use crate::storm;

const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Of the server, and of whoever judges clients itself.
pub const HBA: [&str; 3] =
    ["local all all trust", "host all storm 127.0.0.1/32 scram-sha-256", "host all all 127.0.0.1/32 trust"];
/// Below PostgreSQL's `max_connections`, for whoever opens a server for each client.
const SESSIONS_MAX: usize = 150;

pub struct Contender {
    pub name: String,
    pub description: String,
    pub port: u16,
    /// The process that is measured; `None` is a direct connection.
    pub pid: Option<i32>,
    /// So many clients it takes.
    pub clients_max: usize,
    /// What it cannot do, and why.
    pub refuses: Option<(Mode, &'static str)>,
    process: Option<(Child, TempDir)>,
}

impl Drop for Contender {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.process {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// All that were asked for, each ready.
pub fn all(node: &Node, bench: &Path, options: &Options) -> Result<Vec<Contender>> {
    let direct = Contender {
        name: "direct".to_owned(),
        description: "no proxy".to_owned(),
        port: node.postgres,
        pid: None,
        clients_max: SESSIONS_MAX,
        refuses: None,
        process: None,
    };
    let own = Contender {
        name: "pgherd".to_owned(),
        description: format!(
            "a node's read-write port, all other settings at their defaults: transaction pooling, {} servers by TCP{}; its agent's work is in the figures",
            options.pool_size,
            if options.threads > 0 { format!(", {} thread(s)", options.threads) } else { String::new() }
        ),
        port: node.read_write,
        pid: Some(node.agent_pid().context("the agent runs")?),
        clients_max: usize::MAX,
        refuses: None,
        process: None,
    };
    let mut contenders = if options.tls { vec![own] } else { vec![direct, own] };
    let debian = Debian::new(bench);
    for name in &options.versus {
        contenders.push(match name.as_str() {
            "auto" => auto(node)?,
            "pgbouncer" => pgbouncer(node, &debian, options, false)?,
            "pgbouncer-unix" => pgbouncer(node, &debian, options, true)?,
            _ if options.tls => bail!("--tls: HAProxy in TCP mode ends no TLS"),
            _ => haproxy(node, &debian)?,
        });
    }
    ensure!(!options.tls || options.also.is_empty(), "--tls: what another proxy needs for it is not known");
    for (name, line) in &options.also {
        contenders.push(other(node, name, line)?);
    }
    Ok(contenders)
}

/// The same process by its third port: each text is judged, and none may go to a replica, for there is none.
fn auto(node: &Node) -> Result<Contender> {
    Ok(Contender {
        name: "pgherd auto".to_owned(),
        description: "the same node's auto port".to_owned(),
        port: node.auto,
        pid: Some(node.agent_pid().context("the agent runs")?),
        clients_max: usize::MAX,
        refuses: None,
        process: None,
    })
}

/// Any other proxy, by its command line.
fn other(node: &Node, name: &str, line: &str) -> Result<Contender> {
    let (folder, port) = (tests::cluster::folder(), free_port()?);
    let socket = node.dir.join("run").join(format!(".s.PGSQL.{}", node.postgres));
    let filled = line
        .replace("{listen}", &port.to_string())
        .replace("{server}", &node.postgres.to_string())
        .replace("{socket}", &socket.to_string_lossy());
    let mut words = filled.split_whitespace();
    let mut command = Command::new(words.next().context("a program")?);
    command.args(words);
    start(name, format!("`{line}`"), port, SESSIONS_MAX, command, folder)
}

/// `unix`: its servers are reached by their socket.
fn pgbouncer(node: &Node, debian: &Debian, options: &Options, unix: bool) -> Result<Contender> {
    let (tls, pool_size) = (options.tls, options.pool_size);
    let folder = tests::cluster::folder();
    let port = free_port()?;
    let users = folder.path().join("users.txt");
    let known = [("postgres", ""), (load::ROLE, ""), (storm::ROLE, storm::PASSWORD)];
    let known: String = known.iter().map(|(user, password)| format!("\"{user}\" \"{password}\"\n")).collect();
    fs::write(&users, known)?;
    let rules = folder.path().join("hba");
    fs::write(&rules, HBA.join("\n") + "\n")?;
    let host = if unix { node.dir.join("run").display().to_string() } else { load::HOST.to_owned() };
    // It refuses to run as root.
    let user = if machine::is_root() { "user = postgres\n" } else { "" };
    let ini = format!(
        "[databases]\n* = host={host} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         unix_socket_dir =\nauth_type = hba\nauth_hba_file = {}\nauth_file = {}\npool_mode = transaction\ndefault_pool_size = {pool_size}\n\
         max_client_conn = 10000\nlog_connections = 0\nlog_disconnections = 0\n{user}",
        node.postgres,
        rules.display(),
        users.display()
    );
    let mut ini = ini;
    if tls {
        let kept = |name: &str| -> Result<String> {
            // The node's own; PgBouncer's user may not read them where they are.
            let (from, to) = (node.dir.join("tls").join(name), folder.path().join(name));
            fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o644))?;
            Ok(to.display().to_string())
        };
        let (key, cert) = (kept("node.key")?, kept("node.crt")?);
        ini.push_str(&format!(
            "client_tls_sslmode = allow\nclient_tls_key_file = {key}\nclient_tls_cert_file = {cert}\n"
        ));
    }
    let file = folder.path().join("pgbouncer.ini");
    fs::write(&file, ini)?;
    let way = if unix { "by the server's Unix socket" } else { "by TCP" };
    let description =
        format!("Debian's PgBouncer, transaction pooling, {pool_size} servers {way}, one thread");
    let command = from_debian(debian, "usr/sbin/pgbouncer", &[&file.to_string_lossy()])?;
    let mut contender = start(
        if unix { "PgBouncer, socket" } else { "PgBouncer" },
        description,
        port,
        10_000,
        command,
        folder,
    )?;
    let why = "Debian's PgBouncer 1.18 has no prepared statements in transaction mode";
    contender.refuses = Some((Mode::Prepared, why));
    Ok(contender)
}

fn haproxy(node: &Node, debian: &Debian) -> Result<Contender> {
    let folder = tests::cluster::folder();
    let port = free_port()?;
    let cfg = format!(
        "global\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n\
         listen postgres\n  bind 127.0.0.1:{port}\n  server n1 127.0.0.1:{}\n",
        node.postgres
    );
    let file = folder.path().join("haproxy.cfg");
    fs::write(&file, cfg)?;
    let description = "Debian's HAProxy, TCP mode: it looks at nothing; a server for each session".to_owned();
    let command = from_debian(debian, "usr/sbin/haproxy", &["-db", "-f", &file.to_string_lossy()])?;
    start("HAProxy", description, port, SESSIONS_MAX, command, folder)
}

/// A program of a package that was unpacked, with the libraries that came with it.
fn from_debian(debian: &Debian, program: &str, arguments: &[&str]) -> Result<Command> {
    let path = debian.program(program);
    ensure!(path.is_file(), "{} is not there; cargo xtask bench proxy --versus … fetches it", path.display());
    let mut command = Command::new(path);
    command.env("LD_LIBRARY_PATH", debian.libraries()).args(arguments);
    Ok(command)
}

fn start(
    name: &str,
    description: String,
    port: u16,
    clients_max: usize,
    mut command: Command,
    folder: TempDir,
) -> Result<Contender> {
    let log = folder.path().join("log");
    let (out, errors) = (fs::File::create(&log)?, fs::File::options().append(true).open(&log)?);
    let child = command.stdin(Stdio::null()).stdout(out).stderr(errors).spawn();
    let child = child.with_context(|| format!("start {name}"))?;
    let pid = i32::try_from(child.id())?;
    let contender = Contender {
        name: name.to_owned(),
        description,
        port,
        pid: Some(pid),
        clients_max,
        refuses: None,
        process: Some((child, folder)),
    };
    let up = wait_at_most(START_TIMEOUT, || tests::idle::idle_clients(port, 1).ok());
    let said = || fs::read_to_string(&log).unwrap_or_default();
    up.with_context(|| format!("{name} takes no connection; it says:\n{}", said()))?;
    Ok(contender)
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
