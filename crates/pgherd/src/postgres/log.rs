//! What the server wrote to its log, read from the end.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::files;
use super::server::Server;

/// The end of a run takes some dozen lines.
const READ_BYTES_MAX: u64 = 16 * 1024;

/// What the WAL receiver wrote last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReceiverSays {
    Streams,
    /// Its last words, without the prefixes of the log. A new copy does not help a receiver that could not even log in
    /// upstream, nor one whose slot is not there or another's.
    Ended {
        words: String,
        copy_helps: bool,
    },
}

/// The end of what lies after `begin` in the file, and where the file ends.
fn read_since(path: &Path, begin: u64) -> std::io::Result<(String, u64)> {
    let mut file = fs::File::open(path)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(begin.max(end.saturating_sub(READ_BYTES_MAX))))?;
    let mut bytes = Vec::new();
    file.take(READ_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), end))
}

impl Server {
    /// The end of what was logged after `begin`.
    pub(super) fn log_since(&self, begin: u64) -> String {
        read_since(&self.layout.server_log(), begin).map(|(text, _)| text).unwrap_or_default()
    }

    /// Where the log ends; 0 when there is none.
    pub fn log_end(&self) -> u64 {
        fs::metadata(self.layout.server_log()).map_or(0, |metadata| metadata.len())
    }

    /// What the WAL receiver has written since `begin`, a place in the log; and where the log ends now. A log that cannot
    /// be read says nothing.
    pub async fn receiver_says(&self, begin: u64) -> (Option<ReceiverSays>, u64) {
        let path = self.layout.server_log();
        let read = files::blocking(move || read_since(&path, begin).map_err(super::Error::at("read", &path)));
        read.await.map_or((None, begin), |(text, end)| (receiver_says(&text), end))
    }

    /// The line that says best why the server's last run ended; `None` when it said nothing, as after SIGKILL.
    pub async fn last_words(&self) -> Option<String> {
        let path = self.layout.server_log();
        let read = files::blocking(move || read_since(&path, 0).map_err(super::Error::at("read", &path)));
        last_words(&read.await.ok()?.0)
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

/// How a receiver's end begins, on 15 to 18. A client cannot write a line like this: its FATALs have other words, and
/// further lines of a message begin with a tab.
const ENDED: [&str; 6] = [
    "could not connect to the primary server",
    "streaming replication receiver",
    "could not receive data from WAL stream",
    "could not start WAL streaming",
    "terminating walreceiver",
    "highest timeline",
];

fn receiver_says(text: &str) -> Option<ReceiverSays> {
    text.lines().rev().filter(|line| !line.starts_with('\t')).find_map(|line| {
        if line.contains("LOG:  started streaming WAL from primary at") {
            return Some(ReceiverSays::Streams);
        }
        let (_, fatal) = line.split_once("FATAL:  ")?;
        ENDED.iter().any(|words| fatal.starts_with(words)).then_some(())?;
        let refused = fatal.split_once("could not connect to the primary server: ");
        let words = refused.map_or(fatal, |(_, words)| words).to_owned();
        let slot = fatal.contains("replication slot \"")
            && (fatal.ends_with("does not exist") || fatal.contains("is active for PID"));
        Some(ReceiverSays::Ended { words, copy_helps: refused.is_none() && !slot })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receiver_s_last_words_are_told_from_those_of_others() {
        let refused = "2026 [7] FATAL:  could not connect to the primary server: connection to server at \"h\", port 1 failed: Connection refused\n\
                       \t\tIs the server running on that host and accepting TCP/IP connections?\n";
        let words = "connection to server at \"h\", port 1 failed: Connection refused".to_owned();
        let said = Some(ReceiverSays::Ended { words, copy_helps: false });
        assert_eq!(receiver_says(refused), said);
        // From 17 on the receiver names itself.
        let named = refused.replace("could not", "streaming replication receiver \"n2\" could not");
        assert_eq!(receiver_says(&named), said);
        let clients = format!(
            "{refused}2026 [8] FATAL:  sorry, too many clients already\n2026 [9] ERROR:  syntax error\n\
             2026 [9] STATEMENT:  SELECT\n\tFATAL:  could not receive data from WAL stream: x\n"
        );
        assert_eq!(receiver_says(&clients), said);
        let streams = format!(
            "{refused}2026 [7] LOG:  started streaming WAL from primary at 0/3000000 on timeline 1\n"
        );
        assert_eq!(receiver_says(&streams), Some(ReceiverSays::Streams));
        let gone = "could not receive data from WAL stream: ERROR:  requested WAL segment 000000010000000000000003 has already been removed";
        let gone_log = format!("{streams}2026 [7] FATAL:  {gone}\n");
        assert_eq!(
            receiver_says(&gone_log),
            Some(ReceiverSays::Ended { words: gone.to_owned(), copy_helps: true })
        );
        let slot = "could not start WAL streaming: ERROR:  replication slot \"west\" does not exist";
        let said = receiver_says(&format!("{streams}2026 [7] FATAL:  {slot}\n"));
        assert_eq!(said, Some(ReceiverSays::Ended { words: slot.to_owned(), copy_helps: false }));
        assert_eq!(receiver_says("2026 [1] LOG:  starting PostgreSQL 15\n"), None);
    }

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
