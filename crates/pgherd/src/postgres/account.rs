//! The operating-system user that PostgreSQL and its tools run as, and the running of tools.
//!
//! PostgreSQL refuses root. When the agent is root, servers and tools run as another user (`postgres` unless told
//! otherwise), set by uid and gid; supplementary groups are dropped (the standard library does so), so a TLS key must
//! be readable by that user itself, not only through a group such as Debian's `ssl-cert`.
//! Invariant: a tool sees a clean environment, no secret on its command line, and does not outlive its deadline.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;

use super::error::{Error, Result, within};

/// What error messages quote of a tool's output.
const TAIL_LINES_MAX: usize = 20;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// True when the agent is root and has to become this user for every tool.
    pub switch: bool,
}

impl Account {
    /// The user PostgreSQL shall run as: `wanted`, else `postgres` for root, else whoever we are.
    pub async fn resolve(wanted: Option<&str>) -> Result<Account> {
        let own_uid = rustix::process::getuid().as_raw();
        let name = match wanted {
            Some(name) => name.to_owned(),
            None if own_uid == 0 => "postgres".to_owned(),
            None => id(&["-un"]).await?,
        };
        let uid = id(&["-u", &name]).await?.parse().unwrap_or(0);
        let gid = id(&["-g", &name]).await?.parse().unwrap_or(0);
        if uid == 0 {
            return Err(Error::Parameter {
                name: "os_user".into(),
                reason: "PostgreSQL refuses to run as root; name another user, for example \"postgres\" \
                         (apt-get install postgresql creates it)"
                    .into(),
            });
        }
        if own_uid != 0 && own_uid != uid {
            return Err(Error::Parameter {
                name: "os_user".into(),
                reason: format!(
                    "only root can run PostgreSQL as another user (\"{name}\"); start pgherd as root or as {name}"
                ),
            });
        }
        Ok(Account { name, uid, gid, switch: own_uid == 0 })
    }

    /// Operating-system users that may enter by the private socket as the superuser `postgres`.
    pub(super) fn internal_names(&self) -> Vec<&str> {
        if self.switch { vec!["root", &self.name] } else { vec![&self.name] }
    }

    /// A command of this user with nothing inherited but what finding libraries and programs needs, and PostgreSQL's own words about
    /// the OOM killer: the postmaster keeps what it was started with, its children take what these say.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").env("HOME", "/nonexistent").current_dir("/");
        for kept in ["PATH", "LD_LIBRARY_PATH", "TZ", "PG_OOM_ADJUST_FILE", "PG_OOM_ADJUST_VALUE"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        if self.switch {
            command.uid(self.uid).gid(self.gid);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a tool to its end; an exit code other than 0 is an error with the tail of what it said.
    pub(super) async fn run<S: AsRef<OsStr>>(
        &self,
        program: &Path,
        arguments: &[S],
        environment: &[(&str, OsString)],
        deadline: Duration,
    ) -> Result<Said> {
        let mut command = self.command(program);
        command.args(arguments).envs(environment.iter().map(|(k, v)| (k, v))).kill_on_drop(true);
        watch(command, program, deadline, |_| ()).await
    }
}

/// What a tool wrote.
pub(super) struct Said {
    pub stdout: String,
    pub stderr: String,
}

/// Runs `command`, showing each line of its stderr to `on_line`.
pub(super) async fn watch(
    mut command: Command,
    program: &Path,
    deadline: Duration,
    mut on_line: impl FnMut(&str),
) -> Result<Said> {
    let tool = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let mut child = command.spawn().map_err(Error::at("run", program))?;
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let work = async {
        let mut ignore = |_: &str| ();
        let (stdout, stderr) = tokio::join!(lines(stdout, &mut ignore), lines(stderr, &mut on_line));
        let status = child.wait().await.map_err(Error::io(format!("wait for {tool}")))?;
        Ok((status, stdout, stderr))
    };
    let (status, stdout, stderr): (ExitStatus, String, String) = within(&tool, deadline, work).await?;
    if status.success() {
        return Ok(Said { stdout, stderr });
    }
    let said = if stderr.trim().is_empty() { &stdout } else { &stderr };
    Err(Error::Tool { tool, status: status.to_string(), tail: tail(said) })
}

async fn lines(stream: Option<impl AsyncRead + Unpin>, on_line: &mut impl FnMut(&str)) -> String {
    /// Enough for any tool's report; a runaway one must not fill our memory.
    const KEPT_BYTES_MAX: usize = 256 * 1024;
    let mut kept = String::new();
    let Some(stream) = stream else { return kept };
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while matches!(reader.read_until(b'\n', &mut line).await, Ok(n) if n > 0) {
        let text = String::from_utf8_lossy(&line);
        on_line(text.trim_end());
        if kept.len() < KEPT_BYTES_MAX {
            kept.push_str(&text);
        }
        line.clear();
    }
    kept
}

/// The last lines of `text`, on one line of our own.
pub(super) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES_MAX)..].join(" | ")
}

async fn id(arguments: &[&str]) -> Result<String> {
    const DEADLINE: Duration = Duration::from_secs(10); // a name service may be remote
    let output =
        tokio::time::timeout(DEADLINE, Command::new("id").args(arguments).kill_on_drop(true).output())
            .await
            .map_err(|_| Error::Deadline { what: "id".into(), deadline: DEADLINE })?
            .map_err(Error::io("run id"))?;
    if !output.status.success() {
        return Err(Error::Parameter {
            name: "os_user".into(),
            reason: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
