//! What a fresh Debian machine lacks: PostgreSQL's server, the tools that cut networks for the chaos tests, a browser.
//!
//! A C compiler is no question here: without its linker this task could not have been built.
//! Invariant: a machine that has a server is left as it is, without sudo and without the network.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::apt::Apt;
use crate::shell;

const BINARIES: &str = "/usr/lib/postgresql";
/// pgherd's range of major versions.
const MAJORS: std::ops::RangeInclusive<u32> = 15..=18;

/// Whatever a build of pgherd and a cluster on this machine need.
pub fn all() -> Result<()> {
    parser()?;
    postgres()
}

/// Installs Debian's PostgreSQL when no server of a major that we run is there.
pub fn postgres() -> Result<()> {
    if installed_major().is_some() {
        return Ok(());
    }
    if !shell::has_program("apt-get") {
        bail!(
            "no PostgreSQL 15 to 18 in {BINARIES}, and there is no apt-get to install it with; \
             install a PostgreSQL server package, then run this task again"
        );
    }
    println!("There is no PostgreSQL server here: installing Debian's.");
    keep_port_5432_free()?;
    install("postgresql")?;
    installed_major()
        .with_context(|| format!("the package postgresql brought no major 15 to 18 to {BINARIES}"))?;
    Ok(())
}

/// Debian's package would start a cluster of its own on port 5432; nobody asked for that one.
fn keep_port_5432_free() -> Result<()> {
    let path = Path::new("/etc/postgresql-common/createcluster.conf");
    if path.exists() {
        return Ok(());
    }
    shell::run(shell::as_root("mkdir")?.args(["-p", "/etc/postgresql-common"]))?;
    let mut tee = shell::as_root("tee")?;
    let mut child = tee.arg(path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().context("start tee")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(b"# Written before the package was installed: pgherd makes its own clusters.\ncreate_main_cluster = false\n")?;
    }
    if !child.wait()?.success() {
        bail!("{} cannot be written", path.display());
    }
    Ok(())
}

/// PostgreSQL's parser is C, and bindgen reads its headers with libclang: Debian's packages of the library and of its own headers.
const FOR_PARSER: [&str; 2] = ["libclang1-14", "libclang-common-14-dev"];

/// Installs what the build of the SQL parser needs when there is no libclang.
pub fn parser() -> Result<()> {
    let is_there = |dir: &Path| {
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        files.into_iter().any(|file| file.file_name().to_string_lossy().starts_with("libclang"))
    };
    let llvm = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut llvm = llvm.filter(|path| path.to_string_lossy().contains("/llvm-"));
    if std::env::var_os("LIBCLANG_PATH").is_some() || llvm.any(|llvm| is_there(&llvm.join("lib"))) {
        return Ok(());
    }
    if !shell::has_program("apt-get") {
        bail!(
            "there is no libclang below /usr/lib/llvm-*; install it, or name its directory in LIBCLANG_PATH"
        );
    }
    println!("Installing libclang, with which the SQL parser is built.");
    FOR_PARSER.into_iter().try_for_each(install)
}

/// What namespaces and cuts need, with the program that shows that a package is there.
const FOR_NAMESPACES: [(&str, &str); 3] =
    [("nsenter", "util-linux"), ("tc", "iproute2"), ("nft", "nftables")];

/// Installs what tests make and cut networks with. Without it chaos runs on loopback, other tests are skipped, and both say so: only a machine that could
/// have had it, and failed to install it, is an error.
pub fn namespaces() -> Result<()> {
    missing(&FOR_NAMESPACES, "tests make network namespaces with")
}

/// Installs the packages whose programs are not there; a machine without apt-get is left as it is, and the test says what it lacks.
fn missing(programs: &[(&str, &str)], what_for: &str) -> Result<()> {
    let missing = programs.iter().filter(|(program, _)| !has_system_program(program));
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if packages.is_empty() || !shell::has_program("apt-get") {
        return Ok(());
    }
    println!("Installing what {what_for}: {}", packages.join(", "));
    packages.into_iter().try_for_each(install)
}

/// What only tests need: strace, valgrind, Chromium, HAProxy, programs for network namespaces, and what makes and boots a package.
pub fn tools() -> Result<()> {
    strace()?;
    valgrind()?;
    browser()?;
    namespaces()?;
    haproxy()?;
    missing(&FOR_PACKAGE, "the Debian package is made and tested with")
}

/// The package is made by dpkg's own tools, and installed on a machine in namespaces that systemd boots; nothing of it is started here.
const FOR_PACKAGE: [(&str, &str); 5] = [
    ("systemctl", "systemd"),
    ("dpkg-shlibdeps", "dpkg-dev"),
    ("adduser", "adduser"),
    ("nsenter", "util-linux"),
    ("ip", "iproute2"),
];

/// Debian's own, with the libraries that a machine without it lacks.
pub const HAPROXY: [&str; 4] = ["haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"];

/// Unpacks HAProxy below target/haproxy, for the test that a load balancer set up for Patroni goes on. It is not installed, so
/// nothing of it starts by itself.
fn haproxy() -> Result<()> {
    let folder = shell::target_dir().join("haproxy");
    if has_system_program("haproxy") || folder.join("root/usr/sbin/haproxy").is_file() {
        return Ok(());
    }
    if !shell::has_program("apt-get") {
        bail!(
            "there is no haproxy, which a test puts in front of a cluster, and no apt-get to fetch it with; install it"
        );
    }
    println!("Fetching HAProxy, which a test puts in front of a cluster.");
    let apt = Apt::new(&folder)?;
    apt.download(&HAPROXY)?;
    apt.unpack(&HAPROXY).map(drop)
}

/// Installs strace, with which system calls are counted.
pub fn strace() -> Result<()> {
    if has_system_program("strace") {
        return Ok(());
    }
    println!("Installing strace, with which the proxy's system calls are counted.");
    install("strace")
}

/// Installs valgrind, with which instructions are counted.
fn valgrind() -> Result<()> {
    if has_system_program("valgrind") {
        return Ok(());
    }
    println!("Installing valgrind, with which the proxy's instructions are counted.");
    install("valgrind")
}

/// Installs Chromium, in which the dashboard is tested.
fn browser() -> Result<()> {
    if has_system_program("chromium") {
        return Ok(());
    }
    println!("Installing Chromium, in which the dashboard is tested.");
    install("chromium")
}

/// Debian keeps these where only root's PATH looks.
fn has_system_program(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|dir| Path::new(dir).join(program).is_file())
}

fn install(package: &str) -> Result<()> {
    shell::run(shell::as_root("apt-get")?.args(["update", "--quiet"]))?;
    let mut apt = shell::as_root("env")?;
    // The package's conffile is the one written above: keep it without a question.
    apt.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--quiet"]);
    apt.args(["--no-install-recommends", "-o", "Dpkg::Options::=--force-confold", package]);
    shell::run(&mut apt)
}

fn installed_major() -> Option<u32> {
    MAJORS.rev().find(|&major| installed_bin(major).is_some())
}

/// The directory of this major's programs when the machine has all of them that pgherd needs.
pub fn installed_bin(major: u32) -> Option<PathBuf> {
    let bin = Path::new(BINARIES).join(major.to_string()).join("bin");
    let needed = ["postgres", "initdb", "pg_basebackup", "pg_rewind"];
    needed.iter().all(|program| bin.join(program).is_file()).then_some(bin)
}
