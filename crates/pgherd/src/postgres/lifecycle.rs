//! The life of the server process: initdb, start, stop, and noticing its end.
//!
//! Invariant: a start leaves nothing of the last life in force: no upstream, no credential, no sync set, no clients,
//! no process of a killed postmaster, no trigger file.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use super::account::{tail, watch};
use super::error::{Error, Result};
use super::files;
use super::process::{self, Postmaster};
use super::receiver::Upstream;
use super::server::{DataState, Server};
use super::session::{CONNECT_DEADLINE, Session};
use super::settings::{self, Dynamic};

/// initdb takes two seconds; ten times that on a busy machine, and some.
const INITDB_DEADLINE: Duration = Duration::from_secs(120);
/// The kernel frees a killed server's memory first; large shared memory takes seconds.
const LEFTOVER_DEADLINE: Duration = Duration::from_secs(20);
const TOOLS_DEADLINE: Duration = Duration::from_secs(10);

/// How our line in the user's postgresql.conf ends.
pub(super) const OUR_LINE: &str = "# pgherd: keep this the last line";

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StopMode {
    /// Ends sessions, writes a shutdown checkpoint, sends the standbys all of it.
    Fast,
    /// Ends at once; the next start recovers.
    Immediate,
}

/// How a server came to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It was not running.
    Already,
    Fast,
    Immediate,
    Killed,
}

impl Server {
    /// Makes a new database cluster. It appears under its name only when it is whole.
    pub async fn initdb(&self) -> Result<()> {
        if !matches!(self.data_state(), DataState::Absent | DataState::Empty) {
            return Err(Error::Unusable {
                data: self.layout.data.clone(),
                reason: "it is not empty, and initdb never overwrites".into(),
            });
        }
        self.layout.prepare(&self.account)?;
        let fresh = self.layout.dir.join("data.init");
        process::end_tools_at(&fresh, TOOLS_DEADLINE).await?;
        remove_tree(&fresh)?;
        files::private_dir(&fresh, &self.account)?;
        let path = fresh.to_string_lossy();
        let arguments = [
            "-D",
            &path,
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--data-checksums",
            "--auth-local=peer",
            "--auth-host=scram-sha-256",
        ];
        self.account.run(&self.installation.tool("initdb"), &arguments, &[], INITDB_DEADLINE).await?;
        if self.layout.data.exists() {
            fs::remove_dir(&self.layout.data).map_err(Error::at("replace", &self.layout.data))?;
        }
        files::rename(&fresh, &self.layout.data)
    }

    /// Starts PostgreSQL as a standby that follows nobody, acknowledges nothing and admits nobody.
    ///
    /// Resolves when it accepts our connection. Recovery of a crashed server may take long: `observe` shows its
    /// progress meanwhile. On [`Error::Deadline`] the server goes on starting.
    pub async fn start_detached(&self, deadline: Duration) -> Result<Postmaster> {
        self.start(None, deadline).await
    }

    /// Starts PostgreSQL as a standby of `upstream`; the caller has made its promise durable before.
    ///
    /// For a server that has just been rewound: it is consistent, and accepts connections, only once it has what the
    /// source wrote during the rewind. Everything else starts detached.
    pub async fn start_following(&self, upstream: &Upstream, deadline: Duration) -> Result<Postmaster> {
        self.start(Some(upstream), deadline).await
    }

    async fn start(&self, upstream: Option<&Upstream>, deadline: Duration) -> Result<Postmaster> {
        self.prepare_start(|_| ()).await?;
        if let Some(upstream) = upstream {
            self.point_at(upstream).await?;
        }
        files::write(&self.layout.data.join("standby.signal"), b"", &self.account)?;
        let mut options = self.fixed_settings();
        options.extend(self.raised().await?);
        self.spawn(options, deadline).await
    }

    /// Closed, but for what `edit` says. Which of the two signal files lies there is the caller's to say.
    pub(super) async fn prepare_start(&self, edit: impl FnOnce(&mut Dynamic)) -> Result<()> {
        self.refuse_running()?;
        self.usable_control()?;
        self.close_sessions().await;
        self.layout.prepare(&self.account)?;
        process::end_tools_at(&self.layout.data, TOOLS_DEADLINE).await?;
        process::await_leftovers(&self.layout.data, LEFTOVER_DEADLINE).await?;
        self.remove_credentials()?;
        self.write_settings(|dynamic| {
            *dynamic = Dynamic::closed(dynamic.generation);
            edit(dynamic);
        })
        .await?;
        self.include_settings()?;
        self.take_out_overrides()?;
        self.drop_orphaned_timelines()?;
        for left_over in ["postmaster.pid", "recovery.signal", "promote"] {
            files::remove(&self.layout.data.join(left_over))?;
        }
        // PostgreSQL takes any process under the old pid for a live postmaster: a zombie that no init reaps, or whoever
        // got the number after a container's restart. No process of this data directory is left (just awaited).
        let socket = format!(".s.PGSQL.{}", self.config.port);
        for left_over in [format!("{socket}.lock"), socket] {
            files::remove(&self.layout.run.join(left_over))?;
        }
        Ok(())
    }

    /// `pg_ctl` forks, so the postmaster becomes a child of init and leader of its own session.
    pub(super) async fn spawn(
        &self,
        options: Vec<(&'static str, String)>,
        deadline: Duration,
    ) -> Result<Postmaster> {
        const POLL: Duration = Duration::from_millis(20);
        let log_begin = self.log_end();
        let pg_ctl = self.installation.tool("pg_ctl");
        let mut command = self.account.command(&pg_ctl);
        // pg_ctl hands the options to a shell; no value of ours holds a quote (`Server::new`), this is for the rest.
        let shell = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let option = |(name, value): (&str, String)| format!("-c {}", shell(&format!("{name}={value}")));
        let options: Vec<String> = options.into_iter().map(option).collect();
        let seconds = deadline.as_secs().max(1).to_string();
        command.args(["start", "--wait", "--silent", "--timeout", &seconds, "--options", &options.join(" ")]);
        command.arg("--pgdata").arg(&self.layout.data).arg("--log").arg(self.layout.server_log());
        let patience = deadline + Duration::from_secs(5);
        let mut starter =
            Some(tokio::spawn(async move { watch(command, &pg_ctl, patience, |_| ()).await.map(drop) }));
        let begun = Instant::now();
        loop {
            if let Some(running) = starter.take_if(|starter| starter.is_finished()) {
                let ended = running.await.unwrap_or(Ok(()));
                let alive = process::find(&self.layout.data)?.is_some();
                if let (Err(error), false) = (ended, alive) {
                    return Err(self.start_failed(log_begin, &error));
                }
            }
            // Its own word comes first: each attempt before that would be a FATAL line in the log.
            let ready = process::postmaster_status(&self.layout.data).as_deref() == Some("ready");
            if let Some(postmaster) = process::find(&self.layout.data)?
                && ready
                && Session::open(&self.layout, self.config.port, CONNECT_DEADLINE).await.is_ok()
            {
                return Ok(postmaster);
            }
            if begun.elapsed() > deadline {
                return Err(Error::Deadline { what: "the start of PostgreSQL".into(), deadline });
            }
            if starter.is_none() && process::find(&self.layout.data)?.is_none() {
                let error = Error::NotRunning { data: self.layout.data.clone() };
                return Err(self.start_failed(log_begin, &error));
            }
            sleep(POLL).await;
        }
    }

    fn start_failed(&self, log_begin: u64, error: &Error) -> Error {
        let said = tail(&self.log_since(log_begin));
        let tail = if said.is_empty() { error.to_string() } else { said };
        Error::StartFailed { data: self.layout.data.clone(), tail }
    }

    /// Stops PostgreSQL: `mode` first, at its deadline the next harder one, at last SIGKILL for every process.
    pub async fn stop(&self, mode: StopMode, deadline: Duration) -> Result<Ended> {
        /// An immediate stop writes nothing; the postmaster itself kills children after 5 s.
        const IMMEDIATE_DEADLINE: Duration = Duration::from_secs(7);
        let Some(postmaster) = process::find(&self.layout.data)? else {
            process::await_leftovers(&self.layout.data, LEFTOVER_DEADLINE).await?;
            return Ok(Ended::Already);
        };
        let steps = match mode {
            StopMode::Fast => {
                vec![
                    (Ended::Fast, Signal::INT, deadline),
                    (Ended::Immediate, Signal::QUIT, IMMEDIATE_DEADLINE),
                ]
            }
            StopMode::Immediate => vec![(Ended::Immediate, Signal::QUIT, deadline)],
        };
        for (ended, signal, patience) in steps {
            if process::is_stopped(postmaster.pid) {
                // A frozen postmaster hears nothing, while sessions that it began may go on.
                break;
            }
            postmaster.signal(signal)?;
            if tokio::time::timeout(patience, postmaster.exited()).await.is_ok() {
                self.close_sessions().await;
                process::await_leftovers(&self.layout.data, LEFTOVER_DEADLINE).await?;
                return Ok(ended);
            }
        }
        for pid in process::all_of(&self.layout.data) {
            process::signal(&self.layout.data, pid, Signal::KILL);
        }
        process::await_leftovers(&self.layout.data, LEFTOVER_DEADLINE).await?;
        self.close_sessions().await;
        Ok(Ended::Killed)
    }

    /// The running server, also one that another agent started; hold it to learn of its end at once.
    pub fn adopt(&self) -> Result<Option<Postmaster>> {
        process::find(&self.layout.data)
    }

    /// Resolves when the postmaster ends; at once when none runs.
    pub async fn exit_watch(&self) -> Result<()> {
        match self.adopt()? {
            Some(postmaster) => postmaster.exited().await,
            None => Ok(()),
        }
    }

    /// Makes our file the last one that the user's postgresql.conf reads.
    ///
    /// A base backup or a rewind brings a postgresql.conf that includes another node's file: that line goes.
    fn include_settings(&self) -> Result<()> {
        let path = self.layout.data.join("postgresql.conf");
        let text = fs::read_to_string(&path).map_err(Error::at("read", &path))?;
        let line =
            format!("include {} {OUR_LINE}", settings::quote(&self.layout.pgherd_conf().to_string_lossy()));
        let mut kept: Vec<&str> = text.lines().filter(|line| !line.trim_end().ends_with(OUR_LINE)).collect();
        kept.push(&line);
        files::write_if_changed(&path, format!("{}\n", kept.join("\n")).as_bytes(), &self.account)
    }

    /// Takes lines that only pgherd may write out of postgresql.auto.conf: what `ALTER SYSTEM RESET` would do.
    ///
    /// They would point the server at an upstream behind the promise's back. The file as it was is kept.
    fn take_out_overrides(&self) -> Result<()> {
        let path = self.layout.data.join("postgresql.auto.conf");
        let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
        let name = |line: &str| line.split(['=', ' ', '\t']).next().unwrap_or_default().to_ascii_lowercase();
        let (ours, theirs): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| settings::owned(&name(line.trim_start())));
        if ours.is_empty() {
            return Ok(());
        }
        let kept = self.layout.kept.join(files::moment());
        files::private_dir(&kept, &self.account)?;
        files::write(&kept.join("postgresql.auto.conf"), text.as_bytes(), &self.account)?;
        let names: Vec<String> = ours.iter().map(|line| name(line)).collect();
        tracing::warn!(?names, kept = %kept.display(), "took settings that pgherd owns out of postgresql.auto.conf");
        files::write(&path, format!("{}\n", theirs.join("\n")).as_bytes(), &self.account)
    }
}

/// Removes a directory that never was a whole data directory.
pub(super) fn remove_tree(path: &std::path::Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::at("remove", path)(error)),
        _ => Ok(()),
    }
}
