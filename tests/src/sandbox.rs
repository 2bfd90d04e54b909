//! A corner of the machine for one test: namespaces of its own for processes, shared memory, mounts and the network.
//!
//! The test starts itself anew in there. Its end, also by SIGKILL, ends every process inside, and with the last one
//! the kernel takes all mounts, interfaces and names away: nothing has to be cleaned up, and nothing can be forgotten.
//! What it is not: a container; users and files are the machine's.

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Set inside, for the program that was started anew.
const MARK: &str = "PGHERD_TEST_SANDBOX";
/// Inside, process 1 is a shell: it adopts orphans and buries them as an init must. A postmaster that stayed a zombie
/// would seem alive to the next one.
const INIT: &str = "\"$@\"; exit $?";
/// Everything that a run will want, once: a container may allow some of it.
const TRIAL: &str = "mount -t tmpfs tmpfs /tmp && ip link add hub type bridge && ip link add trial-0 type veth peer name trial-1 \
     && nft add table ip cuts && nft add chain ip cuts arriving '{ type filter hook input priority 0 ; }' \
     && nft add rule ip cuts arriving numgen random mod 100 '<' 20 drop \
     && tc qdisc add dev trial-0 root tbf rate 512kbit burst 4000 latency 800ms";
/// With Debian's packages.
const NEEDED: [(&str, &str); 6] = [
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("nft", "nftables"),
];

pub fn inside() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Why there can be no sandbox here, in words for the user; `None` when there can.
pub fn missing() -> Option<String> {
    if !crate::machine::is_root() {
        return Some("namespaces need root".to_owned());
    }
    let gone: Vec<String> = NEEDED
        .iter()
        .filter(|(program, _)| !in_path(program))
        .map(|(program, package)| format!("{program} (package {package})"))
        .collect();
    if !gone.is_empty() {
        return Some(format!("missing: {}", gone.join(", ")));
    }
    let trial = unshare().args(["sh", "-c", TRIAL]).stdin(Stdio::null()).output();
    match trial {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// Puts the sandbox with this program, started anew with these arguments, in the place of this process: whoever ends
/// this process ends the sandbox. Returns only when that failed.
pub fn enter(arguments: &[String]) -> Result<Infallible> {
    let own = std::env::current_exe().context("the path of this program")?;
    let mut command = unshare();
    command.args(["sh", "-c", INIT, "sh"]).arg(own).args(arguments).env(MARK, "1");
    Err(command.exec()).context("start unshare")
}

/// For a test of the test program: true inside, settled. Outside the test is run inside, as the only one, and its failure is this
/// one's; where there can be no sandbox it is reported as skipped.
#[track_caller]
pub fn is_inside_for(test: &str) -> bool {
    if inside() {
        settle().expect("a settled sandbox");
        return true;
    }
    if let Some(why) = missing() {
        crate::machine::skipped(why);
        return false;
    }
    let mut command = unshare();
    let own = std::env::current_exe().expect("the path of this program");
    command.args(["sh", "-c", INIT, "sh"]).arg(own).args(["--exact", test, "--nocapture"]);
    let output = command.env(MARK, "1").stdin(Stdio::null()).output().expect("unshare starts");
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success() && said.contains("1 passed"), "inside the sandbox:\n{said}");
    false
}

/// To be called first inside: names of network namespaces and all temporary files go to file systems of our own.
pub fn settle() -> Result<()> {
    mount(&["-t", "tmpfs", "-o", "mode=1777", "tmpfs"], "/tmp")?;
    settle_network()
}

/// The same with temporary files in `folder`, where a measurement wants a real disk. The kernel does not take these away.
pub fn settle_in(folder: &Path) -> Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o1777))
        .with_context(|| format!("the mode of {}", folder.display()))?;
    mount(&["--bind", &folder.to_string_lossy()], "/tmp")?;
    settle_network()
}

fn mount(what: &[&str], place: &str) -> Result<()> {
    fs::create_dir_all(place).with_context(|| format!("make {place}"))?;
    let mounted = Command::new("mount").args(what).arg(place).status()?;
    ensure!(mounted.success(), "a file system for {place} cannot be mounted");
    Ok(())
}

fn settle_network() -> Result<()> {
    mount(&["-t", "tmpfs", "-o", "mode=1777", "tmpfs"], "/dev/shm")?;
    mount(&["-t", "tmpfs", "-o", "mode=1777", "tmpfs"], "/run/netns")?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    ensure!(up.success(), "the loopback interface cannot be brought up");
    Ok(())
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}
