//! A real PostgreSQL for the tests of the proxy.

use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use rustix::process::{Pid, Signal, getuid, kill_process};
use tokio_postgres::{Client, Config, NoTls};

use super::*;

/// A server in a folder of its own; ended, with all its processes, when dropped.
pub struct Postgres {
    child: Child,
    pub address: String,
    pub folder: tempfile::TempDir,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT: the postmaster takes its children with it.
        if let Some(pid) = Pid::from_raw(self.child.id() as i32) {
            let _ = kill_process(pid, Signal::QUIT);
        }
        let _ = self.child.wait();
    }
}

/// What `PGHERD_TEST_BIN` names, as in the tests of one server; else the newest that is installed.
fn binaries() -> PathBuf {
    if let Some(named) = std::env::var_os("PGHERD_TEST_BIN").filter(|named| !named.is_empty()) {
        return PathBuf::from(named);
    }
    let majors = (15..=18).rev().map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
    majors
        .into_iter()
        .find(|folder| folder.join("initdb").exists())
        .expect("PostgreSQL 15 to 18 is installed")
}

/// A port of 127.0.0.1 that is free and, among tests that run at the same time, nobody else's: who has the abstract socket
/// of that name has the port.
fn free_port() -> u16 {
    static CLAIMS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let start = std::process::id() as u16;
    let claim = |port: &u16| {
        let name = SocketAddr::from_abstract_name(format!("pgherd-test-port-{port}")).unwrap();
        let claim = UnixListener::bind_addr(&name).ok()?;
        let free = std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
        free.then(|| CLAIMS.lock().unwrap().push(claim))
    };
    let ports = (0..6000).map(|step| 10_000 + start.wrapping_mul(37).wrapping_add(step) % 6000);
    ports.into_iter().find(|port| claim(port).is_some()).expect("a port from 10000 to 15999 is free")
}

/// As the user who runs the tests or, since PostgreSQL refuses root, as `postgres`.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(binaries().join(program));
    command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
    if let Some((uid, gid)) = postgres_user() {
        command.uid(uid).gid(gid);
    }
    command
}

fn postgres_user() -> Option<(u32, u32)> {
    if !getuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let fields: Vec<&str> =
        users.lines().find(|line| line.starts_with("postgres:")).unwrap().split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

pub fn give(path: &Path) {
    if let Some((uid, gid)) = postgres_user() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid)).unwrap();
    }
}

impl Postgres {
    /// Starts and does not wait. `auth` is a method of pg_hba.conf, `options` are lines of postgresql.conf.
    pub fn start(auth: &str, options: &[&str]) -> Postgres {
        let folder = Postgres::folder();
        let password = folder.path().join("password");
        std::fs::File::create(&password).unwrap().write_all(b"secret").unwrap();
        give(&password);
        let initdb = command("initdb")
            .args(["--username=postgres", "--no-sync", "--no-locale"])
            .arg(format!("--auth={auth}"))
            .arg(format!("--pwfile={}", password.display()))
            .arg("-D")
            .arg(folder.path().join("data"))
            .status()
            .unwrap();
        assert!(initdb.success());
        Postgres::run(folder, options)
    }

    /// A standby of this server, which must be running.
    pub fn standby(&self) -> Postgres {
        let folder = Postgres::folder();
        let (host, port) = self.address.rsplit_once(':').unwrap();
        let copied = command("pg_basebackup")
            .args(["-h", host, "-p", port, "-U", "postgres", "-X", "stream", "-c", "fast", "--no-sync", "-D"])
            .arg(folder.path().join("data"))
            .status()
            .unwrap();
        assert!(copied.success());
        // Written here: what pg_basebackup would write, a server may refuse that finds another libpq than it was made with.
        let signal = folder.path().join("data/standby.signal");
        std::fs::write(&signal, "").unwrap();
        give(&signal);
        let conninfo = format!("primary_conninfo = 'host={host} port={port} user=postgres'");
        Postgres::run(folder, &[&conninfo])
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::Builder::new().prefix("pgherd-proxy-").tempdir_in("/tmp").unwrap();
        give(folder.path());
        folder
    }

    fn run(folder: tempfile::TempDir, options: &[&str]) -> Postgres {
        let port = free_port();
        let text: String = options.iter().map(|option| format!("{option}\n")).collect();
        std::fs::OpenOptions::new()
            .append(true)
            .open(folder.path().join("data/postgresql.conf"))
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .unwrap();
        let child = command("postgres")
            .arg("-D")
            .arg(folder.path().join("data"))
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-F", "-c", "shared_buffers=8MB"])
            .args(["-k", &folder.path().display().to_string()])
            .spawn()
            .unwrap();
        Postgres { child, address: format!("127.0.0.1:{port}"), folder }
    }

    pub fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    pub fn socket(&self) -> std::path::PathBuf {
        let (_, port) = self.address.rsplit_once(':').unwrap();
        self.folder.path().join(format!(".s.PGSQL.{port}"))
    }

    /// From now on commits wait for nobody.
    pub fn need_no_standby(&self) {
        std::fs::OpenOptions::new()
            .append(true)
            .open(self.folder.path().join("data/postgresql.conf"))
            .and_then(|mut file| file.write_all(b"synchronous_standby_names = ''\n"))
            .unwrap();
        kill_process(Pid::from_raw(self.child.id() as i32).unwrap(), Signal::HUP).unwrap();
    }

    /// A fast shutdown.
    pub fn stop(&mut self) {
        kill_process(Pid::from_raw(self.child.id() as i32).unwrap(), Signal::INT).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    pub fn promote(&self) {
        let data = self.folder.path().join("data");
        assert!(command("pg_ctl").arg("promote").arg("-w").arg("-D").arg(data).status().unwrap().success());
    }

    /// Straight to the server, waiting for no standby.
    pub async fn admin(&self) -> Client {
        let mut config = Config::new();
        let port = self.address.rsplit_once(':').unwrap().1.parse().unwrap();
        config
            .host("127.0.0.1")
            .port(port)
            .user("postgres")
            .password("secret")
            .options("-c synchronous_commit=local");
        soon(async {
            loop {
                if let Ok(client) = connect(config.clone()).await {
                    return client;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }
}

/// A configuration for a session through a proxy.
pub fn client(address: std::net::SocketAddr, password: &str) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(address.port()).user("postgres").password(password);
    config
}

pub async fn connect(config: Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = soon(config.connect(NoTls)).await?;
    tokio::spawn(connection);
    Ok(client)
}
