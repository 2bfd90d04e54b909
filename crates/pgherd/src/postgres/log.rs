//! What the server wrote to its log, read from the end.

use std::fs;
use std::io::{Read, Seek, SeekFrom};

use super::files;
use super::server::Server;

/// The end of a run takes some dozen lines.
const READ_BYTES_MAX: u64 = 16 * 1024;

impl Server {
    /// The end of what was logged after `begin`.
    pub(super) fn log_since(&self, begin: u64) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = fs::File::open(self.layout.server_log())?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(begin.max(end.saturating_sub(READ_BYTES_MAX))))?;
            let mut bytes = Vec::new();
            file.take(READ_BYTES_MAX).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_default()
    }

    /// The line that says best why the server's last run ended; `None` when it said nothing, as after SIGKILL.
    pub async fn last_words(&self) -> Option<String> {
        let path = self.layout.server_log();
        let read = files::blocking(move || {
            let mut file = fs::File::open(&path).map_err(super::Error::at("read", &path))?;
            let end = file.metadata().map_or(0, |metadata| metadata.len());
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(end.saturating_sub(READ_BYTES_MAX)))
                .and_then(|_| file.take(READ_BYTES_MAX).read_to_end(&mut bytes))
                .map_err(super::Error::at("read", &path))?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        });
        last_words(&read.await.ok()?)
    }
}

/// Of the last run in `text`: the last PANIC, else the process whose end brought the server down.
fn last_words(text: &str) -> Option<String> {
    let run = text.rfind("starting PostgreSQL").map_or(text, |begin| &text[begin..]);
    let panic = run.lines().rev().find_map(|line| line.find("PANIC:").map(|at| &line[at..]));
    let ended =
        |line: &str| line.contains("was terminated by signal") || line.contains("exited with exit code");
    let died =
        || run.lines().rev().find(|line| ended(line)).map(|line| line.split("LOG:  ").last().unwrap_or(line));
    panic.or_else(died).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_run_speaks() {
        let log = "2026 [1] LOG:  starting PostgreSQL 15\n2026 [7] PANIC:  could not write to file \"pg_wal/xlogtemp.7\": No space left on device\n\
                   2026 [1] LOG:  server process (PID 7) was terminated by signal 6: Aborted\n";
        let words = "PANIC:  could not write to file \"pg_wal/xlogtemp.7\": No space left on device";
        assert_eq!(last_words(log).as_deref(), Some(words));
        let killed = format!(
            "{log}2026 [2] LOG:  starting PostgreSQL 15\n2026 [9] FATAL:  sorry, too many clients already\n"
        );
        assert_eq!(last_words(&killed), None, "an earlier run's words are not this one's");
        let killed =
            format!("{killed}2026 [2] LOG:  server process (PID 9) was terminated by signal 9: Killed\n");
        assert_eq!(
            last_words(&killed).as_deref(),
            Some("server process (PID 9) was terminated by signal 9: Killed")
        );
    }
}
