//! A machine that has booted: systemd as process 1 in namespaces of its own, over the files of this machine.
//!
//! What is installed, started and written in it is in memory and ends with it; users, packages and processes of this machine stay as
//! they are. What it is not: another distribution or another kernel.
//! Invariant: however a test ends, nothing of it runs on: process 1 takes all others with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::wait::{wait_at_most, wait_for};

const SCRIPT: &str = include_str!("booted.sh");
const BOOT_TIMEOUT: Duration = Duration::from_secs(60);
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// With Debian's packages; the last two are what pgherd's own package is made and installed with.
const NEEDED: [(&str, &str); 7] = [
    ("/lib/systemd/systemd", "systemd"),
    ("/usr/bin/unshare", "util-linux"),
    ("/usr/bin/nsenter", "util-linux"),
    ("/usr/bin/setpriv", "util-linux"),
    ("/bin/ip", "iproute2"),
    ("/usr/bin/dpkg-shlibdeps", "dpkg-dev"),
    ("/usr/sbin/adduser", "adduser"),
];

pub struct Booted {
    /// Made the namespaces, and clears up behind them.
    maker: Child,
    /// Process 1, as this machine counts.
    init: i32,
    folder: tempfile::TempDir,
}

impl Booted {
    /// Boots it, or says why that cannot be here.
    pub fn boot() -> Result<Booted, String> {
        if !crate::machine::is_root() {
            return Err("namespaces need root".to_owned());
        }
        let missing = NEEDED.iter().filter(|(program, _)| !Path::new(program).exists());
        let missing: Vec<String> =
            missing.map(|(program, package)| format!("{program} (package {package})")).collect();
        if !missing.is_empty() {
            return Err(format!("missing: {}", missing.join(", ")));
        }
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (script, place, log) =
            (folder.path().join("boot"), folder.path().join("place"), folder.path().join("log"));
        let written = fs::write(&script, SCRIPT).and_then(|()| fs::create_dir(&place));
        let errors = written.and_then(|()| fs::File::create(&log)).map_err(|error| error.to_string())?;
        let mut maker = Command::new("setpriv");
        maker.args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private", "sh"]);
        maker.arg(&script).arg(&place).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
        let maker = maker.spawn().map_err(|error| error.to_string())?;
        let mut booted = Booted { maker, init: 0, folder };
        let up = wait_at_most(BOOT_TIMEOUT, || match booted.maker.try_wait() {
            Ok(None) => {
                booted.init = init_of(booted.maker.id() as i32)?;
                let state = booted.run("systemctl is-system-running");
                let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
                // Degraded: something of this machine's own would not run, which is none of ours.
                matches!(state.as_str(), "running" | "degraded").then_some(true)
            }
            Ok(Some(_)) | Err(_) => Some(false),
        });
        match up {
            Some(true) => Ok(booted),
            _ => {
                Err(format!("systemd does not boot: {}", fs::read_to_string(log).unwrap_or_default().trim()))
            }
        }
    }

    /// A shell's command on that machine, as root there.
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args([
            "--target",
            &self.init.to_string(),
            "--mount",
            "--pid",
            "--net",
            "--ipc",
            "--uts",
            "--cgroup",
        ]);
        command.args(["--", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]);
        let script = format!("cd / && {script}");
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "sh", "-c", &script])
            .stdin(Stdio::null())
            .current_dir("/");
        command
    }

    pub fn run(&self, script: &str) -> Output {
        self.command(script).output().expect("nsenter starts")
    }

    /// What a command that must succeed says, its errors included.
    #[track_caller]
    pub fn said(&self, script: &str) -> String {
        let output = self.run(&format!("exec 2>&1 && {script}"));
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{script}: {}\n{said}\n{}", output.status, self.journal());
        said
    }

    /// Waits until a command says this.
    #[track_caller]
    pub fn wait_until(&self, what: &str, script: &str, wanted: &str) {
        let seen = wait_at_most(Duration::from_secs(60), || {
            (String::from_utf8_lossy(&self.run(script).stdout).trim() == wanted).then_some(())
        });
        assert!(seen.is_some(), "waited for {what}: {script} is not {wanted}\n{}", self.journal());
    }

    /// Brings a file there.
    pub fn bring(&self, file: &Path, to: &str) {
        let mut command = self.command(&format!("cat > '{to}'"));
        command.stdin(fs::File::open(file).expect("a file to bring"));
        assert!(command.status().expect("nsenter starts").success(), "{} cannot be brought", file.display());
    }

    /// What the node's units have said.
    pub fn journal(&self) -> String {
        let output = self.run("journalctl --no-pager -n 120 -o cat -u pgherd -u pgherd-postgresql");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// For whoever wants to keep something until the end.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        if let Some(init) = init_of(self.maker.id() as i32).and_then(rustix::process::Pid::from_raw) {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(init, rustix::process::Signal::KILL);
        }
        if wait_at_most(END_TIMEOUT, || self.maker.try_wait().ok().flatten()).is_none() {
            // Also before it has come to process 1.
            let _ = self.maker.kill();
            let _ = self.maker.wait();
        }
    }
}

/// The maker's child is unshare, and unshare's is process 1.
fn init_of(maker: i32) -> Option<i32> {
    only_child(only_child(maker)?)
}

fn only_child(pid: i32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// A session of psql on that machine, which stays open between its questions.
pub struct Psql {
    child: Child,
    answers: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Psql {
    /// `how` are psql's arguments.
    pub fn open(on: &Booted, how: &str) -> Psql {
        use std::io::BufRead;
        let mut command = on.command(&format!("exec psql -XqAt -v ON_ERROR_STOP=1 {how}"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("nsenter starts");
        let answers = std::io::BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Psql { child, answers }
    }

    /// The one line that `sql` answers.
    #[track_caller]
    pub fn ask(&mut self, sql: &str) -> String {
        use std::io::Write;
        let input = self.child.stdin.as_mut().expect("a pipe");
        writeln!(input, "{sql};").expect("psql reads");
        input.flush().expect("psql reads");
        self.answers.next().expect("the session lives").expect("text")
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        self.child.stdin.take();
        wait_for("psql to end", END_TIMEOUT, || self.child.try_wait().expect("a child"));
    }
}
