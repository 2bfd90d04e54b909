//! The processes of this machine, as /proc shows them: who is alive, who belongs to a directory, end them.
//!
//! Invariant: a number in a pid file is never trusted alone. A process counts as ours only when its command line or
//! its working directory says so, because numbers are used again after a restart of the machine.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How often a wait looks again; a process that ends is seen within this.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One process; `command` is its argument vector, `directory` where it works.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub name: String,
    pub command: Vec<String>,
    pub directory: Option<PathBuf>,
}

/// The process `pid` when it is alive; one that has ended and only waits for its parent is not.
pub fn process(pid: i32) -> Option<Process> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let stat = std::fs::read_to_string(proc.join("stat")).ok()?;
    // `pid (name) state …`: the name may hold anything, also parentheses.
    let (head, tail) = stat.rsplit_once(") ")?;
    let mut fields = tail.split(' ');
    if matches!(fields.next(), Some("Z" | "X") | None) {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let name = head.split_once('(')?.1.to_owned();
    let command = std::fs::read(proc.join("cmdline")).ok()?;
    let command = command
        .split(|&byte| byte == 0)
        .filter(|argument| !argument.is_empty())
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect();
    Some(Process { pid, parent, name, command, directory: std::fs::read_link(proc.join("cwd")).ok() })
}

/// Every living process whose /proc entry we may read.
pub fn all() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(process)
        .collect()
}

/// The number in a pid file's first line.
pub fn read_pid(file: &Path) -> Option<i32> {
    std::fs::read_to_string(file).ok()?.lines().next()?.trim().parse().ok().filter(|&pid| pid > 1)
}

/// The daemon of the node in `node_dir`, when it is alive.
pub fn daemon(node_dir: &Path) -> Option<Process> {
    let config = node_dir.join("pgherd.toml");
    let ours = |process: &Process| process.command.iter().any(|word| Path::new(word) == config);
    process(read_pid(&node_dir.join("pgherd.pid"))?).filter(ours)
}

/// The postmaster of the data directory, when it is alive.
pub fn postmaster(data: &Path) -> Option<Process> {
    process(read_pid(&data.join("postmaster.pid"))?).filter(|process| belongs_to(process, data))
}

/// Everything that runs for the nodes in `dir`: daemons and their companions by the configuration file that they
/// name, PostgreSQL and its tools by where they work or what they were told to work on. In a container root may not
/// see where another user's process works; a postmaster still names its directory, and its children name it.
pub fn belonging_to(dir: &Path) -> Vec<Process> {
    let own = std::process::id() as i32;
    let (mut ours, others): (Vec<Process>, Vec<Process>) =
        all().into_iter().filter(|process| process.pid != own).partition(|process| belongs_to(process, dir));
    let postmasters: Vec<i32> =
        ours.iter().filter(|process| is_postgres(process)).map(|process| process.pid).collect();
    ours.extend(others.into_iter().filter(|process| postmasters.contains(&process.parent)));
    ours
}

pub fn is_postgres(process: &Process) -> bool {
    program(process) == Some("postgres")
}

/// The file name of what runs; `postgres: checkpointer` is `postgres`.
fn program(process: &Process) -> Option<&str> {
    let word = process.command.first()?;
    word.split([' ', ':']).next()?.rsplit('/').next()
}

fn belongs_to(process: &Process, dir: &Path) -> bool {
    // An editor or a pager open on a file of the demo is the user's, not ours.
    const PROGRAMS: [&str; 6] = ["pgherd", "postgres", "pg_basebackup", "pg_rewind", "pg_ctl", "initdb"];
    let own = std::env::current_exe().ok();
    let own = own.as_ref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
    if !program(process).is_some_and(|program| PROGRAMS.contains(&program) || own == Some(program)) {
        return false;
    }
    // `pgherd status --dir DIR` names the directory itself; a node's processes name something inside.
    let names_inside = process.command.iter().skip(1).any(|word| {
        let path = word.split_once('=').map_or(word.as_str(), |(_, value)| value);
        Path::new(path).starts_with(dir) && (Path::new(path) != dir || is_postgres(process))
    });
    let asks =
        process.command.get(1).is_some_and(|word| matches!(word.as_str(), "status" | "events" | "explain"));
    let works_inside = is_postgres(process) && works_in(process, dir);
    (names_inside && !asks) || works_inside
}

fn works_in(process: &Process, dir: &Path) -> bool {
    process.directory.as_ref().is_some_and(|directory| directory.starts_with(dir))
}

/// Sends `signal`; a process that has gone in the meantime is no error.
pub fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Waits until none of `pids` is alive; false when the patience ends first.
pub fn wait_for_end(pids: &[i32], patience: Duration) -> bool {
    wait_until(patience, || pids.iter().all(|&pid| process(pid).is_none()))
}

/// Waits until `condition` holds; false when the patience ends first.
pub fn wait_until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn of(command: &[&str], directory: &str) -> Process {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        Process { pid: 99, parent: 1, name: "x".into(), command, directory: Some(directory.into()) }
    }

    #[test]
    fn what_belongs_to_a_demo() {
        let dir = Path::new("/tmp/d");
        for (command, directory) in [
            (["/usr/bin/pgherd", "run", "--config", "/tmp/d/n1/pgherd.toml"].as_slice(), "/"),
            (&["/usr/bin/pgherd", "run", "--config=/tmp/d/n1/pgherd.toml"], "/"),
            (&["/usr/lib/postgresql/15/bin/postgres", "-D", "/tmp/d/n1/data"], "/tmp/d/n1/data"),
            (&["postgres: walreceiver streaming 0/1"], "/tmp/d/n1/data"),
            (&["pg_basebackup", "-D", "/tmp/d/n1/data.new"], "/"),
        ] {
            assert!(belongs_to(&of(command, directory), dir), "{command:?}");
        }
        for (command, directory) in [
            (["less", "/tmp/d/n1/pgherd.log"].as_slice(), "/tmp/d/n1"),
            (&["pgherd", "demo", "--dir", "/tmp/d"], "/tmp"),
            (&["pgherd", "status", "--config", "/tmp/d/n1/pgherd.toml"], "/tmp"),
            (&["pgherd", "run", "--config", "/tmp/dd/n1/pgherd.toml"], "/"),
            (&["postgres: checkpointer"], "/tmp/other"),
        ] {
            assert!(!belongs_to(&of(command, directory), dir), "{command:?}");
        }
    }

    #[test]
    fn a_child_is_seen_until_it_ends() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = child.id() as i32;
        assert_eq!(process(pid).unwrap().name, "sleep");
        signal(pid, Signal::KILL);
        // It is a zombie until we ask for its end, and counts as gone already.
        assert!(wait_for_end(&[pid], Duration::from_secs(10)));
        child.wait().unwrap();
    }

    #[test]
    fn a_pid_file_of_somebody_else_is_no_daemon() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pgherd.pid"), std::process::id().to_string()).unwrap();
        assert!(daemon(dir.path()).is_none(), "this test is no pgherd");
        for text in ["", "x", "0", "1", "-5"] {
            std::fs::write(dir.path().join("pgherd.pid"), text).unwrap();
            assert!(read_pid(&dir.path().join("pgherd.pid")).is_none(), "{text:?}");
        }
    }
}
