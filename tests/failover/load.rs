//! pgbench beside the measuring client, and what its clients were told.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use tests::bench;

use crate::client::Door;

const CLIENTS: &str = "8";
/// The event comes after the first of these seconds.
const SECONDS: &str = "10";
const FIRST_PROGRESS_TIMEOUT: Duration = Duration::from_secs(30);
/// Lines that are kept of what it says: eight clients can each die once.
const LINES_MAX: usize = 1_000;

const ARGUMENTS: [&str; 10] = ["-n", "-c", CLIENTS, "-j", "2", "-T", SECONDS, "-P", "1", "postgres"];

pub fn command_line((host, port): &Door) -> String {
    format!("pgbench -h {host} -p {port} -U postgres {}", ARGUMENTS.join(" "))
}

pub struct Load {
    child: Child,
    listener: Option<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Returns when its clients have worked for a second.
    pub fn start((host, port): &Door) -> Result<Load> {
        let mut child = bench::pgbench(host, *port)
            .args(ARGUMENTS)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start pgbench")?;
        let errors = child.stderr.take().context("its standard error")?;
        let (tell, works) = sync_channel(1);
        let listener = std::thread::spawn(move || {
            let mut kept = Vec::new();
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                if line.starts_with("progress:") {
                    // Only the first is waited for.
                    let _ = tell.try_send(());
                } else if kept.len() < LINES_MAX {
                    kept.push(line);
                }
            }
            kept
        });
        let load = Load { child, listener: Some(listener) };
        wait(&works)?;
        Ok(load)
    }

    /// Waits for its end: how many errors its clients met, and in which words.
    pub fn finish(mut self) -> Result<(usize, Vec<String>)> {
        let mut report = String::new();
        if let Some(mut out) = self.child.stdout.take() {
            out.read_to_string(&mut report)?;
        }
        let status = self.child.wait()?;
        let lines = self.listener.take().map(|listener| listener.join().unwrap_or_default());
        let errors: Vec<String> =
            lines.unwrap_or_default().into_iter().filter(|line| line.contains("error:")).collect();
        let failed = report
            .lines()
            .find_map(|line| line.strip_prefix("number of failed transactions: "))
            .and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
        // Without the figure, or with a bad end, no error would be a lie.
        let unsaid = usize::from(failed.is_none() || (!status.success() && errors.is_empty()));
        Ok((failed.unwrap_or(0) + errors.len() + unsaid, errors))
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait(works: &Receiver<()>) -> Result<()> {
    works.recv_timeout(FIRST_PROGRESS_TIMEOUT).context("pgbench did not begin to work")
}
